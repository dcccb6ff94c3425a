"""Who asks hosts for their groups, where rules take or send some."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mcrd.addresses import is_asked_for
from mcrd.doctor.demand import Demand
from mcrd.doctor.finding import Finding
from mcrd.errors import words
from mcrd.host.bridges import Bridge, bridge_of
from mcrd.host.netlink import asking
from mcrd.host.procfs import Running
from mcrd.model import Address, Network, Output
from mcrd.words import few

CHECK = "querier"
PROTOCOLS = {4: "igmp", 6: "mld"}
OLDER = {4: "IGMPv2", 6: "MLDv1"}  # whose reports alone a Linux bridge sends to routers' ports
SHOWN, MORE = 4, ", and {} more"
FORGET = "switches that snoop forget who wants a group: the stream ends, or goes everywhere"

End = tuple[str, int]
"""An interface, and the version of IP of groups there."""


def queriers(running: Running, demand: Demand) -> list[Finding]:
    """Check where groups are taken or sent whether somebody asks who wants them.

    The rules have the interfaces' own names.
    """
    sent: dict[End, list[Output]] = {}
    for rule in demand.rules():
        for output in rule.outputs:
            if output.interface is not None and _is_asked_for(output.address):
                sent.setdefault((output.interface, output.address.version), []).append(output)
    taken = {
        (rule.input.interface, rule.input.address.version)
        for rule in demand.rules()
        if _is_asked_for(rule.input.address) and rule.input.vlan is None
    }
    try:
        bridges = _bridges({*taken, *sent})
    except OSError as error:
        return [Finding(CHECK, "unknown", f"cannot find out: {words(error)}")]
    found = [
        finding
        for end in sorted({*taken, *sent})
        for finding in _of(end, sent.get(end, ()), bridges.get(end), running, demand)
    ]
    if not found and (taken or sent) and running.status is not None:
        found = [Finding(CHECK, "ok", "nowhere was it silent for so long that there is none")]
    return found


def _of(
    end: End, outputs: Iterable[Output], bridge: Bridge | None, running: Running, demand: Demand
) -> Iterator[Finding]:
    name, version = end
    settings, outputs = demand.settings(name), list(outputs)
    by_members = any(output.when is not None for output in outputs)
    asks = f"`querier = true` under [interfaces.{name}] of the rule file"
    what = PROTOCOLS[version].upper()
    if bridge is not None and bridge.name == name and outputs:
        held = [str(o.address) for o in outputs if bridge.withholds(o.address)]
        if held:
            value = f"{name} snoops and sends nowhere: {few(held, SHOWN, MORE)}"
            why = "nobody behind its ports has joined, or joined before somebody asked"
            known = bridge.heard is not None
            remedy = f"`bridge mdb show dev {name}` has what is wanted" + ("; " + asks) * (
                not known and not settings.querier
            )
            yield Finding(CHECK, "unknown", value, why, remedy)
    if settings.querier or (settings.rejoin is not None and not outputs):
        return
    unasked = running.status.unasked if running.status is not None else {}
    if bridge is not None and bridge.snooping and not (bridge.own or bridge.heard):
        value = f"{bridge.name} snoops and knows no {what} querier"
    elif PROTOCOLS[version] in unasked.get(name, ()):
        value = f"nobody on {name} asks who wants groups ({what})"
    elif by_members:
        value = f"another one asks on {name} who wants groups ({what}), if anybody does"
        some = f"a Linux bridge those of {OLDER[version]}"
        why = f"a switch may show reports to that one alone, {some}: `when` misses them"
        yield Finding(CHECK, "unknown", value, why, f"{asks}, if there is such a switch")
        return
    else:
        return
    if by_members:
        why = 'who joined is forgotten, and outputs with `when = "members"` end'
        yield Finding(CHECK, "trouble", value, why, asks)
    else:
        yield Finding(CHECK, "unknown", value, FORGET, f"{asks}, if there is such a switch")


def _is_asked_for(address: object) -> bool:
    return isinstance(address, Address | Network) and address.is_multicast and is_asked_for(address)


def _bridges(ends: Iterable[End]) -> Mapping[End, Bridge | None]:
    with asking() as ask:
        messages = {message.get("ifname"): message for message in ask.get_links()}
    return {end: bridge_of(end[0], messages, end[1]) for end in ends}
