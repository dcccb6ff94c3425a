"""The frames: whether the rule's packets arrive, and if not, what arrives instead. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from mcrd.addresses import endpoint, first_address
from mcrd.events import counted
from mcrd.explain.evidence import TOLD, Answer, Evidence, Finding, asks, some
from mcrd.explain.group import forgotten
from mcrd.explain.taken import grown, is_slow
from mcrd.looks import Kind, Look
from mcrd.model import BROADCAST, Input
from mcrd.words import few

TOPICS = ("own", "checksum", "fragment", "vlan", "source", "port", "protocol", "hardware", "group")


def frames(evidence: Evidence) -> Iterator[Finding]:
    """What was seen, and what it lacks.

    Never answers no while the rule is inactive: it has asked for nothing. Nor does it when the
    rule received something all the same.
    """
    look, given = evidence.look, evidence.rule.input
    if look is None or (look.ended == "interface" and not look.frames):
        why = evidence.look_error or f"{given.interface} is down"
        text = why if look is None else f"cannot look at the frames: {why}"
        yield Finding("frames", "seen", "unknown", text)
        return
    found = evidence.seen
    when = f"within {look.seconds:.1f} s"
    count = grown(evidence)
    if found.good:
        yield Finding("frames", "seen", "yes", _good(given, found.good, when))
    elif count:
        text = f"the rule received {count} packets meanwhile, but the look saw none"
        yield Finding("frames", "seen", "yes", text)
    flows = bool(found.good or count)
    miss: Answer = "unknown" if is_slow(evidence) or not asks(evidence) else "no"
    miss = "note" if flows else miss
    answered = False
    for topic in TOPICS:
        kinds = found.near.get(topic)
        # Other groups with the port, and other ports of the group, are no news when it flows.
        if kinds and not (flows and topic in ("group", "port", "own")):
            text, remedy = _near(topic, given, kinds[0])
            text = f"{text}: {_told(kinds)}"
            yield Finding("frames", topic, "note" if answered else miss, text, remedy)
            answered = True
    if not flows and (not answered or is_slow(evidence)):
        yield _nothing(evidence, look, found.near.get("several", ()), miss, when)
    yield from _limits(look)


def _good(given: Input, kinds: Sequence[Kind], when: str) -> str:
    count = sum(kind.count for kind in kinds)
    largest = max(kind.largest for kind in kinds)
    who = some([kind.source for kind in kinds], "sources ")
    ttl = min(kind.ttl_lowest for kind in kinds)
    enough = "; that was enough to end the look" if ttl == 1 else ""
    to = endpoint(given.address, given.port)
    return f"{count} frames to {to} {when}, from {who}; up to {largest} bytes, TTL {ttl}{enough}"


def _nothing(
    evidence: Evidence, look: Look, others: Sequence[Kind], miss: Answer, when: str
) -> Finding:
    given = evidence.rule.input
    text = f"nothing to {endpoint(given.address, given.port)} arrived {when}"
    if others:
        text += f"; there is {_told(others)}"
    host = "broadcast" if given.address == BROADCAST else f"host {first_address(given.address)}"
    remedy = (
        f"`tcpdump -eni {given.interface} {host}`; if that is empty:"
        " is the source on, its TTL more than 1, this the right interface; does the switch or"
        " router send it here?"
    )
    if not asks(evidence):
        return Finding("frames", "nothing", miss, f"{text}; the rule asks for nothing now")
    if evidence.rule.name not in evidence.stats().rules:
        return Finding("frames", "nothing", miss, text, remedy)
    count = evidence.counts()
    before, rate = count.received.packets, count.rate.minute.packets
    if is_slow(evidence):
        text += f", but {counted(max(1, round(rate * 60)), 'packet')} in the last minute"
        remedy = f"look longer: `--seconds {min(60, max(10, round(3 / rate)))}`"
        return Finding("frames", "nothing", "unknown", text, remedy)
    if rate:
        figure = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        text += f"; in the last minute it was {figure} in a second: it has just ended"
    elif before:
        text += f"; the rule received {before} packets before, and none in the last minute"
        if remedy_first := forgotten(evidence):
            text += ". Nobody queries: a switch that snoops may have forgotten who wants it"
            remedy = f"{remedy_first}; and {remedy}"
    else:
        text += "; the rule never received any"
    # Among what there was no room for, it may have been.
    return Finding("frames", "nothing", "unknown" if look.lost else miss, text, remedy)


def _limits(look: Look) -> Iterator[Finding]:
    """What the look did not see, and malformed frames."""
    missed = []
    if look.lost:
        missed.append(f"there was no room for {look.lost}")
    if look.of_more_kinds:
        missed.append(f"{look.of_more_kinds} were of too many kinds to tell apart")
    if look.ended == "frames":
        missed.append("more arrived than it can take")
    if look.ended == "interface":
        missed.append("the interface went down")
    if missed:
        text = f"the look did not see all: of {look.frames} frames, {', '.join(missed)}"
        yield Finding("frames", "cut", "note", text)
    if look.malformed:
        yield Finding("frames", "malformed", "note", f"{look.malformed} frames are malformed")


def _near(topic: str, given: Input, first: Kind) -> tuple[str, str]:
    """What arrives instead, and what to do; `first` is one of such kinds."""
    match topic:
        case "own":
            by = f" (rule {first.rule})" if first.rule else ""
            remedy = "one rule with all the outputs, or a source on another host"
            return f"this host sends it itself{by}, and mcrd does not relay that", remedy
        case "checksum":
            return "the UDP checksum is wrong", "repair the sender, or what rewrites packets"
        case "fragment":
            smaller = "let the source send smaller packets"
            if ":" in first.destination:
                return "only fragments arrive", f"IPv6 fragments are not relayed: {smaller}"
            remedy = f"a firewall on the path drops fragments; or {smaller}"
            return "only a part of the fragments arrives", remedy
        case "vlan":
            if given.vlan is not None:
                return f"the frames are not of VLAN {given.vlan}", "another vlan in the rule"
            remedy = f"take the VLAN's interface as the input, or vlan = {first.vlan}"
            if first.inner_vlan:
                remedy = "use an interface that removes both tags as the input"
            return "the frames are tagged, and the rule takes untagged ones", remedy
        case "source":
            host = ip_address(first.source)
            if any(host in network for network in given.exclude):
                return "the source is excluded", f"take {host} out of exclude"
            return "the source is not one of sources", f"add {host} to sources"
        case "port":
            return "the port is another one", f"port = {first.port} in the rule"
        case "protocol":
            port = f" and port = {first.port}" if first.port is not None else ", without port"
            wrong, right = first.protocol.upper(), given.protocol.upper()
            remedy = f'protocol = "{first.protocol}"{port} in the rule'
            return f"it is {wrong}, and the rule takes {right}", remedy
        case "hardware":
            remedy = "a static ARP or switch entry, or a stream that is not for this host"
            return "the frames are for another hardware address", remedy
    remedy = f'address = "{first.destination}" in the rule'
    return "the port fits, the address is another one", remedy


def _told(kinds: Sequence[Kind]) -> str:
    shown = []
    for kind in kinds:
        port = kind.port if kind.port is not None else 0
        tag = f", VLAN {kind.vlan}" if kind.vlan else ""
        inner = f" with {kind.inner_vlan} in it" if kind.inner_vlan else ""
        part = f", {kind.fragment} fragments" if kind.fragment else ""
        rule = f" (rule {kind.rule})" if kind.rule and not kind.outgoing else ""
        to = endpoint(ip_address(kind.destination), port)
        shown.append(f"{kind.count} from {kind.source} to {to}{tag}{inner}{part}{rule}")
    return few(shown, TOLD, " and {} kinds more", "; ")
