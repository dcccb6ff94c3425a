"""What this host knows: interfaces, routes, neighbours, bridges, groups (rtnetlink(7), proc(5))."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from mcrd.explain.evidence import Bridge, Host, Way
from mcrd.links import address_of, link_of
from mcrd.model import Address, Output, Rule
from mcrd.resources import Link, first_address

# linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h
NLM_F_REQUEST = 1
RTM_NEWLINK, RTM_GETLINK = 16, 18
RTM_F_FIB_MATCH = 0x2000
IFLA_LINKINFO, IFLA_INFO_DATA, IFLA_BR_MCAST_QUERIER_STATE = 18, 2, 47
QUERIER_ADDRESS = {4: 1, 6: 5}  # BRIDGE_QUERIER_IP_ADDRESS, BRIDGE_QUERIER_IPV6_ADDRESS
NLA_TYPE_MASK = 0x3FFF
NEIGHBOUR_STATES = {
    0x01: "INCOMPLETE",
    0x02: "REACHABLE",
    0x04: "STALE",
    0x08: "DELAY",
    0x10: "PROBE",
    0x20: "FAILED",
    0x40: "NOARP",
    0x80: "PERMANENT",
}
DEEP = 4  # interfaces upon interfaces
SOURCES = 8  # whose way back is asked for


def gather(rule: Rule, sources: Iterable[str] = ()) -> Host:
    """All that the stages want to know about this host; `sources` are those that were seen."""
    given = rule.input
    with IPRoute() as ask:
        addresses: dict[int, list[IPv4Interface | IPv6Interface]] = {}
        for message in ask.get_addr():
            address = address_of(message)
            if address is not None:
                addresses.setdefault(message["index"], []).append(address)
        messages = {message.get("ifname"): message for message in ask.get_links()}
        links = {
            name: link_of(message, addresses.get(message["index"], ()))
            for name, message in messages.items()
        }
        ways = {
            index: _way(ask, output, links[output.interface])
            for index, output in enumerate(rule.outputs)
            if output.interface in links and not output.address.is_multicast
        }
        back = {source: _back(ask, source, links) for source in list(sources)[:SOURCES]}
    group = first_address(given.address)
    link = links.get(given.interface)
    return Host(
        links=links,
        bridge=_bridge(given.interface, messages, group.version),
        joined=_joined(link, group) if link is not None and group.is_multicast else None,
        fallback=_fallback(given.interface) if group.version == 4 else None,
        ways=ways,
        reverse_filter=_reverse_filter(given.interface) if group.version == 4 else None,
        back=back,
    )


def _way(ask: IPRoute, output: Output, link: Link) -> Way:
    """As the kernel would go from a socket that is bound to the interface."""
    address = first_address(output.address)
    try:
        (found,) = ask.route("get", dst=str(address), oif=link.index, flags=RTM_F_FIB_MATCH)
    except NetlinkError as error:
        return Way(error=os.strerror(error.code) if error.code else str(error))
    gateway = found.get("gateway") or (found.get("via") or {}).get("addr")
    return Way(
        gateway=gateway, neighbour=_neighbour(ask, ip_address(gateway or str(address)), link)
    )


def _neighbour(ask: IPRoute, address: Address, link: Link) -> str | None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    for entry in ask.get_neighbours(family, ifindex=link.index):
        if entry.get("dst") == str(address) and entry["ifindex"] == link.index:
            return NEIGHBOUR_STATES.get(entry["state"])
    return None


def _back(ask: IPRoute, source: str, links: Mapping[str, Link]) -> str | None:
    """Over which interface the way to a source leads; None: there is none."""
    try:
        (found,) = ask.route("get", dst=source)
    except (NetlinkError, ValueError):
        return None
    return next((link.name for link in links.values() if link.index == found.get("oif")), None)


def _bridge(name: str, messages: Mapping[str, Any], version: int) -> Bridge | None:
    """The bridge that the interface is, is a port of, or is a VLAN or the like of."""
    by_index = {message["index"]: message for message in messages.values()}
    message: Any = messages.get(name)
    for _ in range(DEEP):
        if message is None:
            return None
        about: Any = message.get("linkinfo")
        if about and about.get("IFLA_INFO_KIND") == "bridge":
            data: Any = about.get("IFLA_INFO_DATA")
            return Bridge(
                name=message.get("ifname"),
                snooping=bool(data.get("IFLA_BR_MCAST_SNOOPING")),
                own=bool(data.get("IFLA_BR_MCAST_QUERIER")),
                heard=_querier(message["index"], version),
            )
        message = by_index.get(message.get("master") or message.get("link"))
    return None


def _querier(index: int, version: int) -> str | None:
    """The querier that a bridge knows, itself too: pyroute2 does not tell of it."""
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
    header = struct.pack("=IHHII", 16 + len(body), RTM_GETLINK, NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.settimeout(1.0)
        sock.send(header + body)
        answer = sock.recv(1 << 17)
    if struct.unpack_from("=4xH", answer)[0] != RTM_NEWLINK:
        return None
    found = answer[32:]
    for kind in (IFLA_LINKINFO, IFLA_INFO_DATA, IFLA_BR_MCAST_QUERIER_STATE):
        found = dict(_attributes(found)).get(kind, b"")
    address = dict(_attributes(found)).get(QUERIER_ADDRESS[version])
    return str(ip_address(address)) if address else None


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def _joined(link: Link, group: Address) -> bool | None:
    """Whether the host has the group on the interface (/proc/net/igmp, /proc/net/igmp6)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        if group.version == 6:
            lines = Path("/proc/self/net/igmp6").read_text().splitlines()
            entries = (line.split() for line in lines)
            return any(e[1] == link.name and e[2] == group.packed.hex() for e in entries)
        name = ""
        wanted = f"{int.from_bytes(group.packed, 'little'):08X}"
        for line in Path("/proc/self/net/igmp").read_text().splitlines()[1:]:
            if not line.startswith("\t"):
                name = line.split()[1].rstrip(":")
            elif name == link.name and line.split()[0] == wanted:
                return True
        return False
    return None


def _fallback(interface: str) -> str | None:
    """The version of IGMP that is spoken there, when an older querier was heard."""
    with contextlib.suppress(OSError, IndexError):
        for line in Path("/proc/self/net/igmp").read_text().splitlines()[1:]:
            words = line.split()
            if not line.startswith("\t") and words[1].rstrip(":") == interface:
                return f"IGMP{words[-1].lower()}" if words[-1] in ("V1", "V2") else None
    return None


def _reverse_filter(interface: str) -> int | None:
    """What the kernel makes of net.ipv4.conf.*.rp_filter: the greater of the two."""
    try:
        return max(
            int(Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").read_text())
            for name in ("all", interface)
        )
    except (OSError, ValueError):
        return None
