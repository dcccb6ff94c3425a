"""The group of the input: is it joined, does anybody query; or whose address it is. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator

from mcrd.addresses import (
    covers,
    destinations,
    first_address,
    is_asked_for,
    is_source_specific,
)
from mcrd.explain.evidence import Answer, Evidence, Finding, ago, asks, heard_on
from mcrd.looks import Heard
from mcrd.model import Address, Input
from mcrd.observe.heard import QUERIER_AGE
from mcrd.observe.kinds import queries
from mcrd.planning.broadcast import is_broadcast
from mcrd.planning.receptions import JOINED_AT_MOST, unnamed

MARGIN = 2.0  # seconds
QUERIER = "switches that snoop need a querier: docs/recipes.md"


def group(evidence: Evidence, frames: bool) -> Iterator[Finding]:
    """Whether the network knows that the group is wanted; `frames`: some arrive."""
    given = evidence.rule.input
    address = first_address(given.address)
    if not address.is_multicast:
        yield _host(evidence, frames)
        return
    if given.vlan is not None:
        text = f"no join is sent for tagged frames (VLAN {given.vlan})"
        remedy = "a VLAN interface as the input joins in its VLAN"
        yield Finding("group", "tagged", "note", text, remedy)
    else:
        yield _joined(evidence, frames)
    if is_asked_for(address):
        yield _querier(evidence, frames, address.version)


def _host(evidence: Evidence, frames: bool) -> Finding:
    """Whether anybody answers ARP or neighbour discovery for a unicast input."""
    given = evidence.rule.input
    wanted, there = given.address, evidence.host.links.get(given.interface)
    if is_broadcast(wanted, there):
        told = " and ".join(map(str, destinations(given)))
        text = f"{told}: a broadcast needs no join, and nobody answers that the port is closed"
        return Finding("group", "broadcast", "yes", text)
    for link in evidence.host.links.values():
        for own in link.addresses:
            if covers(wanted, own.ip):
                text = f"{own.ip} is an address of this host, on {link.name}: nothing to join"
                return Finding("group", "host", "yes", text)
    text = f"{wanted} is not an address of this host, so it does not answer ARP for it"
    remedy = (
        f"`address` of the input, or `ip address add {wanted} dev {evidence.rule.input.interface}`;"
        " or the senders have a static entry for it"
    )
    return Finding("group", "host", _missed(evidence, frames), text, remedy)


def _missed(evidence: Evidence, frames: bool) -> Answer:
    """The answer when something is missing: no, if the look saw that nothing arrives."""
    return "no" if not frames and evidence.look is not None and asks(evidence) else "note"


def _joined(evidence: Evidence, frames: bool) -> Finding:
    given, host = evidence.rule.input, evidence.host
    missing, wanted = host.not_joined, given.address
    many = 1 if isinstance(wanted, Address) else wanted.num_addresses
    what = str(wanted) if many == 1 else f"each of the {many} groups of {wanted}"
    if many > 1 and host.joined is not None and _is_for_members(evidence):
        text = f"{host.joined} groups of {wanted} are joined on {given.interface}, for members"
        return Finding("group", "joined", "yes" if host.joined else "note", text)
    if many > JOINED_AT_MOST:
        text = f"{wanted} has too many groups to join ({many}): no switch or router hears of them"
        remedy = "use ranges of at most 1024 groups, or let the switch send them all here"
        return Finding("group", "joined", "note", text, remedy)
    if missing is None:
        return Finding("group", "joined", "unknown", f"cannot find out whether {what} is joined")
    if not missing:
        how = f"; an older querier made it {host.fallback}" if host.fallback else ""
        text = f"{what} is joined on {given.interface}{how}"
        return Finding("group", "joined", "yes", text)
    if asks(evidence) and is_source_specific(missing[0]) and _is_for_members(evidence):
        remedy = "`sources` of the input; or receivers that name sources, by IGMPv3 or MLDv2"
        return Finding("group", "joined", _missed(evidence, frames), unnamed(missing[0]), remedy)
    if asks(evidence):
        first = missing[0] if many == 1 else f"{len(missing)} of {many} groups, as {missing[0]},"
        text = f"{first} is not joined on {given.interface}, although the rule is active"
        return Finding("group", "joined", "note", text, "the daemon's log says why")
    return Finding("group", "joined", "unknown", f"{what} is not joined: nothing runs for it")


def _is_for_members(evidence: Evidence) -> bool:
    return all(output.when is not None for output in evidence.rule.outputs)


def _querier(evidence: Evidence, frames: bool, version: int) -> Finding:
    host, given = evidence.host, evidence.rule.input
    protocol = "IGMP" if version == 4 else "MLD"
    missed = _missed(evidence, frames)
    seen = queries(evidence.look.kinds, version) if evidence.look else None
    heard = heard_on(evidence, given.interface, version)
    if seen is not None and _drops_queries(evidence, heard):
        text = f"{seen[0]} sends {protocol} queries, but the kernel drops them and does not answer"
        remedy = "a firewall: `nft list ruleset`"
        if version == 4 and host.reverse_filter:
            conf = "net/ipv4/conf"
            remedy = (
                f"rp_filter: `sysctl -w {conf}/{given.interface}/rp_filter=0"
                f" {conf}/all/rp_filter=0`, or a route to {seen[0]} over that; or {remedy}"
            )
        text += ": so it reports no group, and a switch that snoops ends the stream"
        return Finding("group", "querier", missed, text, remedy)
    if seen is not None:
        text = f"{seen[0]} sends {protocol} queries ({seen[1]})"
        return Finding("group", "querier", "yes", text)
    bridge = host.bridge
    if bridge is not None and bridge.snooping:
        if bridge.heard or bridge.own:
            who = bridge.heard or "itself"
            return Finding("group", "querier", "yes", f"{bridge.name} snoops, its querier is {who}")
        text = f"{bridge.name} snoops and has heard no {protocol} query"
        more = " for minutes: there is no querier, so switches forget who wants the group"
        remedy = f"`ip link set {bridge.name} type bridge mcast_querier 1`, or {_keys(given)}"
        return _unasked(evidence, text, missed, remedy, more)
    if heard is not None and heard.query is not None:
        who, since = heard.query.address, ago(heard.query.ago_s)
        text = f"{who} sends {protocol} queries, the last one {since} ago"
        if not heard.query.gone:
            return Finding("group", "querier", "yes", text)
        text = f"the querier, {who}, has been silent for {since}"
        more = ": switches forget who wants the group"
        return _unasked(evidence, text, missed, _querier_or_rejoin(given), more)
    if host.fallback:
        text = f"an {host.fallback} query was heard in the last minutes"
        return Finding("group", "querier", "yes", text)
    if heard is not None and heard.listened_s > QUERIER_AGE:
        since = ago(heard.listened_s)
        text = f"no {protocol} query was heard for {since}: there seems to be no querier"
    elif evidence.look is None:
        text = f"nobody listened to {protocol} queries: {evidence.look_error}"
        return Finding("group", "querier", "unknown", text)
    else:
        text = f"no {protocol} query was heard so far; they come every two minutes"
    answer: Answer = "note" if frames else "unknown"
    return _unasked(evidence, text, answer, _querier_or_rejoin(given))


def forgotten(evidence: Evidence) -> str:
    """What to do where a stream stopped and nobody asks who wants it; "" where somebody does."""
    given = evidence.rule.input
    address = first_address(given.address)
    if not address.is_multicast or given.vlan is not None or not is_asked_for(address):
        return ""
    heard = heard_on(evidence, given.interface, address.version)
    if heard is None or evidence.rejoin is not None or evidence.host.fallback:
        return ""
    unasked = heard.query is None and heard.listened_s > QUERIER_AGE
    return _querier_or_rejoin(given) if unasked else ""


def _unasked(evidence: Evidence, text: str, answer: Answer, remedy: str, more: str = "") -> Finding:
    """Where nobody asks: that is no trouble if the host says it all the same."""
    if evidence.rejoin is None:
        return Finding("group", "querier", answer, text + more, remedy)
    text = f"{text}; the group is reported unasked, every {evidence.rejoin:g} s (rejoin)"
    return Finding("group", "querier", "note", text)


def _querier_or_rejoin(given: Input) -> str:
    return f"{QUERIER}; or {_keys(given)}"


def _keys(given: Input) -> str:
    where = f"under [interfaces.{given.interface}] of the rule file"
    return f'`querier = true` or `rejoin = "60s"` {where}'


def _drops_queries(evidence: Evidence, heard: Heard | None) -> bool:
    """Whether a query that the look saw, at the interface, never came to the daemon's raw socket.

    That is behind the reverse-path check and the firewall, as is the kernel's own IGMP.
    """
    if heard is None or evidence.look is None:
        return False
    query = heard.query
    return query is None or query.ago_s > evidence.look.seconds + MARGIN
