"""The frames: whether the rule's packets arrive, and if not, what arrives instead. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from mcrd.addresses import endpoint, first_address
from mcrd.explain.evidence import TOLD, Answer, Evidence, Finding, is_active, some
from mcrd.explain.group import forgotten
from mcrd.explain.taken import grown, is_here, is_slow, minute, received
from mcrd.looks import Kind, Look
from mcrd.model import BROADCAST, Input

TOPICS = (
    "own",
    "checksum",
    "fragment",
    "vlan",
    "source",
    "port",
    "protocol",
    "hardware",
    "group",
)


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
    miss: Answer = "unknown" if is_slow(evidence) or not is_active(evidence) else "no"
    miss = "note" if flows else miss
    answered = False
    for topic in TOPICS:
        kinds = found.near.get(topic)
        # Other groups with the port, and other ports of the group, are no news when it flows.
        if kinds and not (flows and topic in ("group", "port", "own")):
            text, remedy = _near(topic, given, kinds)
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
    enough = ", which is enough: it ends here" if ttl == 1 else ""
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
    if not is_active(evidence):
        return Finding("frames", "nothing", miss, f"{text}; the rule asks for nothing now")
    if not is_here(evidence):
        return Finding("frames", "nothing", miss, text, remedy)
    before, rate = received(evidence), minute(evidence)
    if is_slow(evidence):
        count = max(1, round(rate * 60))
        text += f", but {count} packet{'s' if count != 1 else ''} in the last minute"
        remedy = f"look longer: `--seconds {min(60, max(10, round(3 / rate)))}`"
        return Finding("frames", "nothing", "unknown", text, remedy)
    if rate:
        text += f"; in the last minute it was {_figure(rate)} in a second: it has just ended"
    elif before:
        text += f"; the rule received {before} packets before, and none in the last minute"
        if remedy_first := forgotten(evidence):
            text += ". Nobody queries: a switch that snoops may have forgotten who wants it"
            remedy = f"{remedy_first}; and {remedy}"
    else:
        text += "; the rule never received any"
    # Among what there was no room for, it may have been.
    return Finding("frames", "nothing", "unknown" if look.lost else miss, text, remedy)


def _figure(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


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


def _near(topic: str, given: Input, kinds: Sequence[Kind]) -> tuple[str, str]:
    """What arrives instead, and what to do."""
    told, first = _told(kinds), kinds[0]
    match topic:
        case "own":
            by = f" (rule {first.rule})" if first.rule else ""
            return (
                f"this host sends it itself{by}, and mcrd does not relay that: {told}",
                "one rule with all the outputs, or a source on another host",
            )
        case "checksum":
            return (
                f"the UDP checksum is wrong: {told}",
                "repair the sender, or what rewrites packets",
            )
        case "fragment":
            if ":" in first.destination:
                remedy = "IPv6 fragments are not relayed: let the source send smaller packets"
                return f"only fragments arrive: {told}", remedy
            remedy = "a firewall on the way drops fragments; or let the source send smaller packets"
            return f"only a part of the fragments arrives: {told}", remedy
        case "vlan":
            if given.vlan is None:
                remedy = f"take the VLAN's interface as the input, or vlan = {first.vlan}"
                if first.inner_vlan:
                    remedy = "take an interface on which the tags are taken off"
                return f"the frames are tagged, and the rule takes untagged ones: {told}", remedy
            return f"the frames are not of VLAN {given.vlan}: {told}", "another vlan in the rule"
        case "source":
            host = ip_address(first.source)
            if any(host in network for network in given.exclude):
                return f"the source is excluded: {told}", f"take {host} out of exclude"
            return f"the source is not one of sources: {told}", f"add {host} to sources"
        case "port":
            return f"the port is another one: {told}", f"port = {first.port} in the rule"
        case "protocol":
            port = f" and port = {first.port}" if first.port is not None else ", without port"
            remedy = f'protocol = "{first.protocol}"{port} in the rule'
            wrong, right = first.protocol.upper(), given.protocol.upper()
            return f"it is {wrong}, and the rule takes {right}: {told}", remedy
        case "hardware":
            remedy = "a static ARP or switch entry, or a stream that is not for this host"
            return f"the frames are for another hardware address: {told}", remedy
    return (
        f"the port fits, the address is another one: {told}",
        f'address = "{first.destination}" in the rule',
    )


def _told(kinds: Sequence[Kind]) -> str:
    shown = []
    for kind in kinds[:TOLD]:
        port = kind.port if kind.port is not None else 0
        tag = f", VLAN {kind.vlan}" if kind.vlan else ""
        inner = f" with {kind.inner_vlan} in it" if kind.inner_vlan else ""
        part = f", {kind.fragment} fragments" if kind.fragment else ""
        rule = f" (rule {kind.rule})" if kind.rule and not kind.outgoing else ""
        to = endpoint(ip_address(kind.destination), port)
        shown.append(f"{kind.count} from {kind.source} to {to}{tag}{inner}{part}{rule}")
    more = f" and {len(kinds) - TOLD} kinds more" if len(kinds) > TOLD else ""
    return "; ".join(shown) + more
