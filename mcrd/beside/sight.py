"""What else on this host may relay: rings of another mcrd, routes of the kernel.

Anybody may read it (sock_diag(7), rtnetlink(7), proc(5)); only the owner of a socket takes
privilege.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

from mcrd.errors import words
from mcrd.model import Address
from mcrd.sockets import netlink
from mcrd.sockets.rtnetlink import hops

# linux/sock_diag.h, linux/packet_diag.h
SOCK_DIAG_BY_FAMILY = 20
PACKET_SHOW_INFO, PACKET_SHOW_FANOUT = 0x1, 0x8
PACKET_DIAG_INFO, PACKET_DIAG_FANOUT, PACKET_DIAG_UID = 0, 4, 5
PDI_VNETHDR = 0x8
# linux/if_packet.h
TPACKET_V2 = 1
PACKET_FANOUT_CBPF = 6
# linux/rtnetlink.h
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
ROUTING_FAMILIES = (128, 129)  # RTNL_FAMILY_IPMR, RTNL_FAMILY_IP6MR
RTA_DST, RTA_SRC, RTA_IIF, RTA_MULTIPATH = 1, 2, 3, 9

TABLES = Path("/proc/thread-self/net")
CONNECTED = "01"
NO_ROUTING = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)


@dataclass(frozen=True, slots=True)
class Ring:
    """A packet socket as mcrd opens them, by the index of its interface and its inode."""

    index: int
    inode: int
    uid: int


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the kernel's multicast routing; `came` and `leaves` are indices of interfaces.

    `source` None: any.
    """

    group: Address
    source: Address | None
    came: int
    leaves: frozenset[int]


class Sender(NamedTuple):
    """A connected socket: its inode, and the address that it sends from."""

    inode: int
    source: Address


@dataclass(frozen=True, slots=True)
class Sight:
    """What is there, except one's own. `sent` has sockets by what they are connected to.

    `unseen` says what could not be looked at, and why.
    """

    rings: tuple[Ring, ...] = ()
    routes: tuple[Route, ...] = ()
    sent: Mapping[tuple[Address, int], tuple[Sender, ...]] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()


def look() -> Sight:
    """Look once, as somebody who has no such sockets."""
    seen = rings_and_routes()
    return replace(seen, sent=connected(()) if seen.rings else {})


def rings_and_routes() -> Sight:
    """All of them, one's own too, without what is sent."""
    unseen = []
    rings: tuple[Ring, ...] = ()
    routes: tuple[Route, ...] = ()
    try:
        rings = tuple(_rings())
    except OSError as error:
        missing = error.errno == errno.ENOENT
        why = "the kernel has no module packet_diag" if missing else words(error)
        unseen.append(f"packet sockets: {why}")
    try:
        routes = tuple(_routes())
    except OSError as error:
        unseen.append(f"multicast routes: {words(error)}")
    return Sight(rings, routes, unseen=tuple(unseen))


def _rings() -> Iterator[Ring]:
    """The packet sockets that look like mcrd's; those of tcpdump or dhclient do not."""
    show = PACKET_SHOW_INFO | PACKET_SHOW_FANOUT
    body = struct.pack("=BBHIIII", socket.AF_PACKET, 0, 0, 0, show, 0, 0)
    for _, message in netlink.ask(netlink.SOCK_DIAG, SOCK_DIAG_BY_FAMILY, netlink.NLM_F_DUMP, body):
        (inode,) = struct.unpack_from("=4xI", message)
        about = dict(netlink.attributes(message[16:]))
        if PACKET_DIAG_INFO not in about or PACKET_DIAG_FANOUT not in about:
            continue
        index, version, flags = struct.unpack_from("=II12xI", about[PACKET_DIAG_INFO])
        (fanout,) = struct.unpack_from("=I", about[PACKET_DIAG_FANOUT])
        if (version, fanout >> 16 & 0xFF) == (TPACKET_V2, PACKET_FANOUT_CBPF) and (
            flags & PDI_VNETHDR
        ):
            (uid,) = struct.unpack_from("=I", about.get(PACKET_DIAG_UID, bytes(4)))
            yield Ring(index, inode, uid)


def _routes() -> Iterator[Route]:
    """The routes of all tables, without those that wait for a program to say where they lead."""
    for family in ROUTING_FAMILIES:
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        try:
            for kind, message in netlink.ask(netlink.ROUTE, RTM_GETROUTE, netlink.NLM_F_DUMP, body):
                if kind == RTM_NEWROUTE and (route := _route(message)) is not None:
                    yield route
        except OSError as error:
            if error.errno not in NO_ROUTING:
                raise


def _route(message: bytes) -> Route | None:
    about = dict(netlink.attributes(message[12:]))
    needed = {RTA_DST, RTA_IIF, RTA_MULTIPATH}
    if message[0] not in ROUTING_FAMILIES or not needed <= about.keys():
        return None
    source = ip_address(about[RTA_SRC]) if RTA_SRC in about else None
    return Route(
        group=ip_address(about[RTA_DST]),
        source=None if source is None or source.is_unspecified else source,
        came=struct.unpack("=I", about[RTA_IIF])[0],
        leaves=frozenset(index for index, _ in hops(about[RTA_MULTIPATH])),
    )


def connected(own: Container[int]) -> dict[tuple[Address, int], tuple[Sender, ...]]:
    """Sockets of UDP and of raw IP, as an output is one, by where they send to; port 0: raw."""
    found: dict[tuple[Address, int], list[Sender]] = {}
    for name in ("udp", "udp6", "raw", "raw6"):
        with contextlib.suppress(OSError), (TABLES / name).open(encoding="ascii") as table:
            for line in table:
                words = line.split()
                if len(words) < 10 or words[3] != CONNECTED or int(words[9]) in own:
                    continue
                text, _, port = words[2].partition(":")
                where = (address_of(text), 0 if name.startswith("raw") else int(port, 16))
                sender = Sender(int(words[9]), address_of(words[1].partition(":")[0]))
                found.setdefault(where, []).append(sender)
    return {where: tuple(senders) for where, senders in found.items()}


class Bound(NamedTuple):
    """A UDP socket that has a port."""

    address: Address
    port: int
    uid: int
    inode: int
    connected: bool


def bound(lines: Iterable[str]) -> Iterator[Bound]:
    """The sockets in a table such as /proc/net/udp, without its head."""
    for line in lines:
        fields = line.split()
        try:
            address, _, port = fields[1].partition(":")
            uid, inode = int(fields[7]), int(fields[9])
            where = address_of(address), int(port, 16)
            yield Bound(*where, uid, inode, fields[3] == CONNECTED)
        except (IndexError, ValueError):
            continue


def address_of(text: str) -> Address:
    """An address, of which the kernel writes each word in its own byte order (proc(5))."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(packed) == 4:
        return IPv4Address(packed)
    address = IPv6Address(packed)
    return address.ipv4_mapped or address
