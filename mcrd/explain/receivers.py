"""The last stage of an output to a group: whether somebody on its network wants that group. Pure.

No answer here is no proof: switches that snoop keep members' reports from all but queriers, and a
router takes groups that it did not ask for. And to ask would be to become a querier.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network

from mcrd.addresses import NOT_ASKED_FOR, covers, first_address, is_asked_for
from mcrd.explain.evidence import TOLD, Evidence, Finding, Say, ago, heard_on, some
from mcrd.looks import Heard, Member
from mcrd.model import Address, Network, Output
from mcrd.planning.links import source_of

# What almost all have joined.
COMMON = (
    *NOT_ASKED_FOR,
    *map(ip_network, ("ff02::/16", "239.255.255.250/32", "239.255.255.253/32")),
)
REPORTED = {4: 3, 6: 2}  # versions from which answers go to a group that this host hears
TOPIC = "receiver"


def receivers(evidence: Evidence, say: Say, index: int, output: Output) -> Iterator[Finding]:
    """Findings about who has asked for the group."""
    if not output.address.is_multicast or not is_asked_for(first_address(output.address)):
        return
    if output.loop and index in evidence.host.joined_here:
        text = f"this host itself has joined {output.address}, for one of its programs"
        yield say(TOPIC, "yes", text)
        return
    bridge = evidence.host.bridges.get(index)
    asks = f"`querier = true` under [interfaces.{output.interface}] asks who wants it"
    if bridge is not None and bridge.name == output.interface and bridge.withholds(output.address):
        text = f"{bridge.name} snoops, and nobody behind its ports has joined"
        remedy = f"`bridge mdb show dev {bridge.name}` lists the groups that are wanted"
        if bridge.heard is None or not int(ip_address(bridge.heard)):
            remedy += f"; {asks}, of those that joined before too"
        yield say("snooping", "no", f"{text} {output.address}: it goes nowhere", remedy)
        return
    heard = heard_on(evidence, output.interface or "", output.address.version)
    if heard is not None:
        yield _heard(evidence, say, output, heard, asks)


def _heard(evidence: Evidence, say: Say, output: Output, heard: Heard, asks: str) -> Finding:
    wanted, name = output.address, output.interface
    asked = [entry for entry in heard.members if covers(wanted, ip_address(entry.group))]
    own = _sources(evidence, output)
    fitting = [e for e in asked if e.sources is None or not own or own & {*e.sources}]
    if fitting:
        text = f"{_hosts(fitting)} asked for {wanted}, {ago(fitting[0].ago_s)} ago"
        return say(TOPIC, "yes", text)
    if asked:
        only = ", ".join((asked[0].sources or ())[:TOLD])
        text = f"{_hosts(asked)} asked for {wanted} from {only} only"
        if output.source == "keep":
            return say(TOPIC, "unknown", f"{text}, from which nothing was seen")
        remedy = '`source` of the output (`"keep"`: that of each packet), or in the receiver'
        return say(TOPIC, "no", f"{text}, and it is sent from {', '.join(sorted(own))}", remedy)
    if heard.forgot:
        text = f"more groups were joined on {name} than are remembered: {wanted} may be one of them"
        return say(TOPIC, "unknown", text)
    query = heard.query
    version = query.version if query is not None else 0
    nobody = f"nobody on {name} was heard asking for {wanted}"
    unknown = (entry for entry in heard.members if not entry.rule)
    others = [entry for entry in unknown if not _among(ip_address(entry.group), COMMON)]
    also = f", but {_hosts(others[:1])} did for {others[0].group}" if others else ""
    remedy = "`address` of the output, or the group of the receiver, if they are to be the same"
    if heard.routers:
        text = f"{nobody}{also}; router {heard.routers[0]} may take it all the same"
        return say(TOPIC, "unknown", text, remedy if others else "")
    answers = [] if query is None else [e for e in others if e.ago_s <= query.ago_s]
    if query is not None and answers and query.answered and version >= REPORTED[wanted.version]:
        groups = some([entry.group for entry in answers])
        answered = f"{_hosts(answers)} answered the last query, with {groups}"
        text = f"nobody on {name} wants {wanted}: {answered}"
        return say(TOPIC, "no", text, remedy)
    if query is None or query.gone:
        why = "nobody queries there, so receivers that joined earlier are silent"
        return say(TOPIC, "unknown", f"{nobody}{also}; {why}", asks)
    if version < REPORTED[wanted.version]:
        why = f"answers to {query.address}, which queries in version {version}, are not heard"
    else:
        why = "a switch that snoops shows reports to queriers only"
    return say(TOPIC, "unknown", f"{nobody}{also}; {why}", remedy if others else "")


def _sources(evidence: Evidence, output: Output) -> set[str]:
    """The sources that a receiver sees; empty when they are unknown."""
    if output.source == "keep":
        return {kind.source for kind in evidence.seen.good}
    source = source_of(output, evidence.host.links[output.interface or ""])
    return {str(source)} if source is not None else set()


def _hosts(entries: Sequence[Member]) -> str:
    return some([entry.host for entry in entries])


def _among(group: Address, networks: Sequence[Network]) -> bool:
    return any(group in network for network in networks)
