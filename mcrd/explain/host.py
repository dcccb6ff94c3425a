"""What this host knows: interfaces, routes, neighbours, groups (rtnetlink(7), proc(5))."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import rt_type
from pyroute2.netlink.rtnl.ndmsg import NUD_VALUES

from mcrd.addresses import covers, first_address
from mcrd.explain.evidence import Host, Way
from mcrd.host.bridges import Bridge, bridge_of
from mcrd.host.links import links_of
from mcrd.host.netlink import asking
from mcrd.host.procfs import NET
from mcrd.host.procfs import Host as ThisHost
from mcrd.host.protocols import forced, igmp_spoken
from mcrd.model import BROADCAST, LIMITED_BROADCAST, Address, HostName, Network, Output, Rule
from mcrd.planning.links import Link, source_of
from mcrd.planning.names import aliases, by_name, names_of, rule_here
from mcrd.planning.receptions import JOINED_AT_MOST
from mcrd.sockets.reports import LATEST

RTM_F_FIB_MATCH = 0x2000  # linux/rtnetlink.h
NEIGHBOUR_STATES = {bit: name.removeprefix("NUD_") for bit, name in NUD_VALUES.items() if bit}
THIS = ThisHost()
SOURCES = 8  # whose route back is asked for

Groups = Sequence[Address]
Joined = Mapping[int, frozenset[tuple[str, Address]] | None]
"""By version of IP."""


def gather(rule: Rule, sources: Iterable[str] = ()) -> Host:
    """Gather what the stages need to know about this host; `sources` are those that were seen.

    Raises OSError.
    """
    with asking() as ask:
        messages = {message.get("ifname"): message for message in ask.get_links()}
        links = by_name(links_of(messages.values(), ask.get_addr()))
        called = {own: name for name, own in aliases(names_of(rule), links).items()}
        rule = rule_here(rule, links)
        given = rule.input
        ways = {
            index: _way(ask, output, links)
            for index, output in enumerate(rule.outputs)
            if (output.interface is None or output.interface in links)
            and not output.address.is_multicast
            and output.address not in (BROADCAST, LIMITED_BROADCAST)
            and not isinstance(output.address, HostName)
        }
        back = {source: _back(ask, source, links) for source in list(sources)[:SOURCES]}
    group = first_address(given.address)
    to_groups = {i: output for i, output in enumerate(rule.outputs) if output.address.is_multicast}
    # A rule may have a thousand outputs on a few interfaces.
    ends = {(output.interface or "", output.address.version) for output in to_groups.values()}
    ends.add((given.interface, group.version))
    bridges = {end: _bridge(end[0], messages, end[1]) for end in ends}
    joined: Joined = {version: _joined(version) for version in {version for _, version in ends}}
    return Host(
        links=links,
        bridge=bridges[given.interface, group.version],
        not_joined=_not_joined(given.interface, given.address, joined)
        if given.interface in links and group.is_multicast
        else None,
        joined=_number_joined(given.interface, given.address, joined),
        fallback=_fallback(given.interface) if group.version == 4 else None,
        ways=ways,
        bridges={
            index: found
            for index, output in to_groups.items()
            if (found := bridges[output.interface or "", output.address.version]) is not None
        },
        joined_here=frozenset(
            index
            for index, output in to_groups.items()
            if output.interface in links
            and _not_joined(output.interface or "", output.address, joined) == []
        ),
        reverse_filter=_reverse_filter(given.interface) if group.version == 4 else None,
        back=back,
        called=called,
    )


def _way(ask: IPRoute, output: Output, links: Mapping[str, Link]) -> Way:
    """The kernel's way: from a socket that is bound to the interface, if there is one."""
    address, link = first_address(output.address), links.get(output.interface or "")
    wanted: dict[str, object] = {"dst": str(address)}
    flags = 0
    if link is not None:
        wanted["oif"], flags = link.index, RTM_F_FIB_MATCH
    source = source_of(output, link) if link is not None else output.source
    own = {own.ip for each in links.values() for own in each.addresses}
    if source in own and (link is None or address.version == 4):
        wanted["src"] = str(source)  # which rules of `ip rule` go by
    try:
        (found,) = ask.route("get", **wanted, flags=flags)
    except NetlinkError as error:
        return _no_way(ask, error, address, link, links)
    if address in own or found.get("type") == rt_type["local"]:
        return Way(local=True, interface=output.interface or "lo")
    if link is None:
        link = _over(found, links)
        if link is None:
            return Way(error="ENETUNREACH")
    gateway = found.get("gateway") or (found.get("via") or {}).get("addr")
    return Way(
        interface=link.name,
        source=ip_address(found.get("prefsrc")) if found.get("prefsrc") else None,
        gateway=gateway,
        neighbour=_neighbour(ask, ip_address(gateway or str(address)), link),
        mtu=(found.get("metrics") or {}).get("mtu"),
    )


def _no_way(
    ask: IPRoute,
    error: NetlinkError,
    address: Address,
    link: Link | None,
    links: Mapping[str, Link],
) -> Way:
    """Why there is no way: with no route, IPv4 says EHOSTUNREACH, as for a route `unreachable`."""
    if link is not None:
        try:
            (found,) = ask.route("get", dst=str(address))
        except NetlinkError as other:
            error = other
        else:
            over = _over(found, links)
            return Way(error="ENETUNREACH", elsewhere=over.name if over else None)
    return Way(error=errno.errorcode.get(error.code or 0, str(error)))


def _neighbour(ask: IPRoute, address: Address, link: Link) -> str | None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    for entry in ask.get_neighbours(family, ifindex=link.index):
        if entry.get("dst") == str(address) and entry["ifindex"] == link.index:
            return NEIGHBOUR_STATES.get(entry["state"])
    return None


def _back(ask: IPRoute, source: str, links: Mapping[str, Link]) -> str | None:
    """The interface over which the route to a source leads; None: there is none."""
    try:
        (found,) = ask.route("get", dst=source)
    except (NetlinkError, ValueError):
        return None
    over = _over(found, links)
    return over.name if over else None


def _over(route: Any, links: Mapping[str, Link]) -> Link | None:
    """The interface that a route leads over."""
    return next((link for link in links.values() if link.index == route.get("oif")), None)


def _not_joined(interface: str, wanted: Address | Network, joined: Joined) -> Groups | None:
    """The groups that this host has not joined on the interface; None: unknown."""
    found = joined[wanted.version]
    if found is None:
        return None
    if isinstance(wanted, Address):
        return [] if (interface, wanted) in found else [wanted]
    if wanted.num_addresses > JOINED_AT_MOST:
        return None
    return [group for group in wanted if (interface, group) not in found]


def _number_joined(interface: str, wanted: Address | Network, joined: Joined) -> int | None:
    """How many of these groups this host has joined on the interface; None: unknown."""
    found = joined.get(wanted.version)
    if found is None:
        return None
    return sum(name == interface and covers(wanted, group) for name, group in found)


def _joined(version: int) -> frozenset[tuple[str, Address]] | None:
    """The groups that this host has joined, by interface (/proc/net/igmp, /proc/net/igmp6)."""
    found: set[tuple[str, Address]] = set()
    with contextlib.suppress(OSError, ValueError, IndexError):
        name = ""
        for line in THIS.text(f"{NET}/igmp{6 if version == 6 else ''}").splitlines():
            words = line.split()
            if version == 6:
                found.add((words[1], IPv6Address(bytes.fromhex(words[2]))))
            elif line.startswith("\t"):
                found.add((name, IPv4Address(int(words[0], 16).to_bytes(4, sys.byteorder))))
            else:
                name = words[1].rstrip(":")
        return frozenset(found)
    return None


def _fallback(interface: str) -> str | None:
    """The version of IGMP that is spoken there, when an older querier was heard.

    That an administrator or the rule file has chosen one says nothing of queriers.
    """
    spoken = igmp_spoken(interface)
    if spoken in (None, LATEST[4]) or forced(interface, 4):
        return None
    return f"IGMPv{spoken}"


def _bridge(name: str, messages: Mapping[str, Any], version: int) -> Bridge | None:
    with contextlib.suppress(OSError, struct.error):
        return bridge_of(name, messages, version)
    return None


def _reverse_filter(interface: str) -> int | None:
    """What the kernel makes of net.ipv4.conf.*.rp_filter: the greater of the two."""
    values = [THIS.sysctl(f"net/ipv4/conf/{name}/rp_filter") for name in ("all", interface)]
    return None if None in values else max(filter(None, values), default=0)
