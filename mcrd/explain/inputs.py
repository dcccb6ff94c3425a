"""The first stages: file, interface, group, frames, and what the rule took of them. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from mcrd.explain.evidence import Answer, Daemon, Evidence, Finding, Host, ago_of, heard_on
from mcrd.explain.kinds import Kind, queries, sort
from mcrd.model import Address, Input
from mcrd.plan import JOINED_AT_MOST
from mcrd.resources import Link, endpoint, first_address

NO_DAEMON = "no daemon was asked"
QUERIER_AGE = 255.0  # seconds without a query until there is no querier (RFC 3376, 8.5)
QUERIER = "with switches that snoop, there has to be a querier: docs/recipes.md"
TOLD = 3  # kinds, or lines of a refused file, that are told of


def file(evidence: Evidence) -> Iterator[Finding]:
    """Whether the rule runs as it is written."""
    rule, daemon = evidence.rule, evidence.daemon
    place = f" in {rule.place}" if rule.place else ""
    if daemon is not None:
        yield from disk(daemon)
    if not rule.enabled:
        remedy = "set enabled = true, or remove the line, and reload"
        yield Finding("file", "disabled", "no", f"the rule is disabled{place}", remedy)
    elif daemon is None:
        yield Finding("file", "enabled", "yes", f"the rule is enabled{place}")
        yield Finding("file", "state", "unknown", NO_DAEMON)
    else:
        yield Finding("file", "enabled", "yes", f"the rule is enabled{place}")
        if daemon.pending:
            yield Finding("file", "pending", "note", "a plan is being applied just now; ask again")


def disk(daemon: Daemon) -> Iterator[Finding]:
    """Whether the file is what runs."""
    if daemon.refused:
        shown = "; ".join(daemon.refused[:TOLD])
        more = f"; and {len(daemon.refused) - TOLD} more" if len(daemon.refused) > TOLD else ""
        text = f"{daemon.config} is refused, and the rules from before still run: {shown}{more}"
        yield Finding("file", "refused", "no", text, "repair it; `mcrctl check` shows each problem")
    elif daemon.changed:
        text = f"{daemon.config} says something else by now: {'; '.join(daemon.changed[:TOLD])}"
        yield Finding("file", "not_loaded", "no", text, "`mcrctl reload` makes it so")
    else:
        yield Finding("file", "loaded", "yes", f"what runs is what {daemon.config} says")


def interface(evidence: Evidence) -> Iterator[Finding]:
    """Whether the input interface is there and up."""
    name = evidence.rule.input.interface
    yield from link("interface", name, evidence.host.links.get(name))


def link(stage: str, name: str, found: Link | None, output: int | None = None) -> Iterator[Finding]:
    """One interface."""
    if found is None:
        text, remedy = f"there is no interface {name}", "`ip -br link` lists those that there are"
        yield Finding(stage, "missing", "no", text, remedy, output)
    elif not found.up:
        remedy = f"`ip link set {name} up`"
        yield Finding(stage, "down", "no", f"{name} is down", remedy, output)
    elif not found.carrier:
        text, remedy = f"{name} has no carrier", "the cable, the switch port, or the other end"
        yield Finding(stage, "carrier", "no", text, remedy, output)
    else:
        yield Finding(stage, "link", "yes", f"{name} is up, MTU {found.mtu}", "", output)


def group(evidence: Evidence, frames: bool) -> Iterator[Finding]:
    """Whether the network knows that the group is wanted; `frames`: some come."""
    given = evidence.rule.input
    address = first_address(given.address)
    if not address.is_multicast:
        yield Finding("group", "host", "yes", f"{given.address} is a host's: nothing to join")
        return
    if given.vlan is not None:
        text = f"no join is sent for tagged frames (VLAN {given.vlan})"
        remedy = "a VLAN interface as the input joins in its VLAN"
        yield Finding("group", "tagged", "note", text, remedy)
    else:
        yield _joined(evidence)
    yield _querier(evidence, frames, address.version)


def _joined(evidence: Evidence) -> Finding:
    given, host = evidence.rule.input, evidence.host
    missing, wanted = host.not_joined, given.address
    many = 1 if isinstance(wanted, Address) else wanted.num_addresses
    what = str(wanted) if many == 1 else f"each of the {many} groups of {wanted}"
    if many > JOINED_AT_MOST:
        text = f"{wanted} has too many groups to join ({many}): no switch or router hears of them"
        remedy = "ranges of 1024 groups at most, or let the switch send them all here"
        return Finding("group", "joined", "note", text, remedy)
    if missing is None:
        return Finding("group", "joined", "unknown", f"whether {what} is joined cannot be told")
    if not missing:
        how = f"; an older querier made it {host.fallback}" if host.fallback else ""
        text = f"{what} is joined on {given.interface}{how}"
        return Finding("group", "joined", "yes", text)
    if evidence.daemon is not None and _is_active(evidence.daemon):
        first = missing[0] if many == 1 else f"{len(missing)} of {many} groups, as {missing[0]},"
        text = f"{first} is not joined on {given.interface}, although the rule is active"
        return Finding("group", "joined", "note", text, "the daemon's log says why")
    return Finding("group", "joined", "unknown", f"{what} is not joined: nothing runs for it")


def _querier(evidence: Evidence, frames: bool, version: int) -> Finding:
    host, given = evidence.host, evidence.rule.input
    protocol = "IGMP" if version == 4 else "MLD"
    missed: Answer = "note" if frames else "no"
    seen = queries(evidence.look["kinds"], version) if evidence.look else None
    if seen is not None and _drops_queries(host, given.interface, seen[0]):
        text = (
            f"{seen[0]} sends {protocol} queries, but rp_filter makes the kernel drop them, as the"
            f" way back does not lead over {given.interface}: so it reports no group, and a switch"
            " that snoops ends the stream"
        )
        conf = "net/ipv4/conf"
        remedy = (
            f"`sysctl -w {conf}/{given.interface}/rp_filter=0 {conf}/all/rp_filter=0`, or an address"
            f" of the querier's network on {given.interface}"
        )
        return Finding("group", "querier", missed, text, remedy)
    if seen is not None:
        text = f"{seen[0]} sends {protocol} queries ({seen[1]})"
        return Finding("group", "querier", "yes", text)
    bridge = host.bridge
    if bridge is not None and bridge.snooping:
        if bridge.heard or bridge.own:
            who = bridge.heard or "itself"
            return Finding("group", "querier", "yes", f"{bridge.name} snoops, its querier is {who}")
        text = (
            f"{bridge.name} snoops and has heard no {protocol} query for minutes: there is no"
            " querier, so switches forget who wants the group"
        )
        remedy = f"`ip link set {bridge.name} type bridge mcast_querier 1`, or one in a router"
        return Finding("group", "querier", missed, text, remedy)
    heard = heard_on(evidence, given.interface, version)
    if heard is not None and heard["query"] is not None:
        who, ago = heard["query"]["address"], ago_of(heard["query"])
        text = f"{who} sends {protocol} queries, the last one {ago} ago"
        if heard["query"]["ago_s"] <= QUERIER_AGE:
            return Finding("group", "querier", "yes", text)
        text = f"the querier, {who}, is silent since {ago}: switches forget who wants the group"
        return Finding("group", "querier", missed, text, QUERIER)
    if host.fallback:
        text = f"an {host.fallback} query was heard within minutes"
        return Finding("group", "querier", "yes", text)
    if heard is not None and heard["listened_s"] > QUERIER_AGE:
        since = ago_of({"ago_s": heard["listened_s"]})
        text = f"no {protocol} query was heard since {since}: there is no querier"
    else:
        text = f"no {protocol} query was heard so far; they come every two minutes"
    return Finding("group", "querier", "note" if frames else "unknown", text, QUERIER)


def _drops_queries(host: Host, interface: str, querier: str) -> bool:
    """Whether queries do not pass the reverse-path check (fib_validate_source() of the kernel)."""
    link = host.links.get(interface)
    if not host.reverse_filter or link is None or querier not in host.back:
        return False  # those of 0.0.0.0 pass
    addressed = any(address.version == 4 for address in link.addresses)
    back = host.back[querier]
    anywhere = host.reverse_filter == 2 and addressed and back is not None
    return back != interface and not anywhere


def frames(evidence: Evidence) -> Iterator[Finding]:
    """Whether what the rule takes comes to the interface, and if not, what comes in its place."""
    look, given = evidence.look, evidence.rule.input
    if look is None:
        why = evidence.look_error or NO_DAEMON
        yield Finding("frames", "seen", "unknown", f"nobody looked at {given.interface}: {why}")
        return
    found = sort(given, look["kinds"])
    wanted = endpoint(given.address, given.port)
    when = f"within {look['seconds']:.1f} s"
    if found.good:
        count = sum(kind["count"] for kind in found.good)
        largest = max(kind["largest"] for kind in found.good)
        who = ", ".join(dict.fromkeys(kind["source"] for kind in found.good[:TOLD]))
        ttl = min(kind["ttl_lowest"] for kind in found.good)
        text = (
            f"{count} frames to {wanted} {when}, from {who}; up to {largest} bytes, with TTL {ttl},"
            " which is enough here"
        )
        yield Finding("frames", "seen", "yes", text)
    answer: Finding | None = None
    for topic in (
        "checksum",
        "fragment",
        "vlan",
        "source",
        "port",
        "protocol",
        "hardware",
        "group",
    ):
        if kinds := found.near.get(topic):
            text, remedy = _near(topic, given, kinds)
            finding = Finding(
                "frames", topic, "note" if found.good or answer else "no", text, remedy
            )
            answer = answer or finding
            # Other groups with the port, and other ports of the group, are no news when it flows.
            if not found.good or topic not in ("group", "port"):
                yield finding
    if not found.good and answer is None:
        also = f"; there is {_told(found.near['several'])}" if "several" in found.near else ""
        text = f"nothing to {wanted} came {when}{also}"
        remedy = "the source, its TTL, and what is on the way: docs/troubleshooting.md, 2"
        # Among what was not looked at, it may have been.
        certain = not look["lost"] and not look["of_more_kinds"]
        yield Finding("frames", "nothing", "no" if certain else "unknown", text, remedy)
    if look["lost"] or look["of_more_kinds"] or look["ended"] != "time":
        text = (
            f"the look did not see all: {look['frames']} frames looked at, {look['lost']} not;"
            f" {look['of_more_kinds']} of more kinds than are kept"
        )
        yield Finding("frames", "cut", "note", text)
    if look["malformed"]:
        yield Finding("frames", "malformed", "note", f"{look['malformed']} frames make no sense")


def _near(topic: str, given: Input, kinds: Sequence[Kind]) -> tuple[str, str]:
    """What comes instead, and what to do."""
    told, first = _told(kinds), kinds[0]
    match topic:
        case "checksum":
            return (
                f"the UDP checksum is wrong: {told}",
                "repair the sender, or what rewrites packets",
            )
        case "fragment":
            if ":" in first["destination"]:
                remedy = "IPv6 fragments are not relayed: let the source send smaller packets"
                return f"only fragments come: {told}", remedy
            remedy = "a firewall on the way drops fragments; or let the source send smaller packets"
            return f"only a part of the fragments comes: {told}", remedy
        case "vlan":
            if given.vlan is None:
                remedy = f"take the VLAN's interface as the input, or vlan = {first['vlan']}"
                return f"the frames are tagged, and the rule takes untagged ones: {told}", remedy
            return f"the frames are not of VLAN {given.vlan}: {told}", "another vlan in the rule"
        case "source":
            remedy = f"add {first['source']} to sources, or take it out of exclude"
            return f"the source is not one that the rule allows: {told}", remedy
        case "port":
            return f"the port is another one: {told}", f"port = {first['port']} in the rule"
        case "protocol":
            remedy = f'protocol = "{first["protocol"]}" in the rule'
            wrong, right = first["protocol"].upper(), given.protocol.upper()
            return f"it is {wrong}, and the rule takes {right}: {told}", remedy
        case "hardware":
            remedy = "a static ARP or switch entry, or a stream that is not for this host"
            return f"the frames are for another hardware address: {told}", remedy
    return (
        f"the port fits, the address is another one: {told}",
        f'address = "{first["destination"]}" in the rule',
    )


def _told(kinds: Sequence[Kind]) -> str:
    shown = []
    for kind in kinds[:TOLD]:
        port = kind["port"] if kind["port"] is not None else 0
        tag = f", VLAN {kind['vlan']}" if kind["vlan"] else ""
        part = f", {kind['fragment']} fragments" if kind["fragment"] else ""
        to = endpoint(ip_address(kind["destination"]), port)
        shown.append(f"{kind['count']} from {kind['source']} to {to}{tag}{part}")
    more = f" and {len(kinds) - TOLD} kinds more" if len(kinds) > TOLD else ""
    return "; ".join(shown) + more


def _is_active(daemon: Daemon) -> bool:
    return daemon.state is not None and daemon.state["state"] == "active"
