"""The ears and the mouth of a querier: reports and queries of one protocol on one interface."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mcrd.model import Address
from mcrd.planning.links import Link
from mcrd.sockets.common import (
    adds_up,
    attach_filter,
    check_index,
    keep_some,
    or_close,
    packet_statistics,
)
from mcrd.sockets.filters import (
    DROP,
    IF_EQUAL,
    LOAD_BYTE,
    NETWORK,
    PACKET_OUTGOING,
    PACKET_TYPE,
    PASS,
)
from mcrd.sockets.rejoin import ETH_P, PRIORITY, address_of
from mcrd.sockets.reports import PROTOCOL_ICMPV6, PROTOCOL_IGMP, Report

# linux/if_packet.h
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_MR_ALLMULTI = 2
PACKET_OTHERHOST = 3
SLICE = 0.002  # seconds of reading at once; of a flood, the rest is lost to it alone
LARGEST = 9000
ROOM = 1 << 20  # bytes that may wait; the kernel takes more than a datagram has for each
HEADER_V4, HEADER_V6 = 20, 48  # bytes, at least; with Router Alert in the header of IPv6
HOPS = 1  # RFC 3376, 4; RFC 3810, 5: what has another TTL comes from further away


# Of queries, reports, and leaves. Others, such as those of PIM, are no business of a querier.
KINDS = {4: (0x11, 0x12, 0x16, 0x17, 0x22, None), 6: (130, 131, 132, 143)}


class Heard(NamedTuple):
    """The body of a message, whom it is from, and whom it is to: a group."""

    source: Address
    destination: Address
    body: bytes


class Station:
    """A packet socket: reports of older versions go to the group itself, and no raw socket hears
    of groups that this host has not joined."""

    def __init__(self, interface: str, index: int, version: int) -> None:
        """Raise OSError."""
        check_index(interface, index)
        self._interface, self._version = interface, version
        flags = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        with or_close(socket.socket(socket.AF_PACKET, flags)) as self._socket:
            keep_some(self._socket)
            protocol = (LOAD_BYTE, 0, 0, NETWORK + (9 if version == 4 else 6))
            number = PROTOCOL_IGMP if version == 4 else 0  # hop-by-hop: Router Alert (RFC 2711)
            attach_filter(
                self._socket,
                (
                    (LOAD_BYTE, 0, 0, PACKET_TYPE),
                    (IF_EQUAL, 2, 0, PACKET_OUTGOING),
                    protocol,
                    (IF_EQUAL, 1, 0, number),
                    DROP,
                    PASS,
                ),
            )
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
            self._socket.bind((interface, ETH_P[version]))
            request = struct.pack("iHH8x", index, PACKET_MR_ALLMULTI, 0)
            self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)

    def fileno(self) -> int:
        """What is readable when something has come."""
        return self._socket.fileno()

    def unread(self) -> int:
        """How many messages found no room since the last call."""
        return packet_statistics(self._socket)[1]

    def listen(self) -> Iterator[Heard | None]:
        """What has come, as far as there is time for it; None: malformed."""
        until = time.monotonic() + SLICE
        with contextlib.suppress(BlockingIOError):
            while time.monotonic() < until:
                try:
                    packet, about = self._socket.recvfrom(LARGEST)
                except BlockingIOError:
                    raise
                except OSError:
                    continue  # an error of the interface
                if about[0] != self._interface or about[2] == PACKET_OTHERHOST:
                    continue  # of a VLAN, which is another network
                if _kind(packet, self._version) in KINDS[self._version]:
                    yield _ipv4(packet) if self._version == 4 else _ipv6(packet)

    def send(self, report: Report, link: Link) -> bool:
        """Whether it could be sent."""
        try:
            self._socket.sendto(report.packet, address_of(report, link))
        except OSError:
            return False  # an interface that goes down, a queue that is full
        return True

    def close(self) -> None:
        """Hear and say no more."""
        self._socket.close()


def _kind(packet: bytes, version: int) -> int | None:
    """The type of the message; None: it is too short for one, or another protocol's."""
    if version == 4:
        at = (packet[0] & 15) * 4 if packet else 0
    elif len(packet) > HEADER_V6 and packet[40] == PROTOCOL_ICMPV6:
        at = 40 + (packet[41] + 1) * 8
    else:
        return None
    return packet[at] if len(packet) > at else None


def _ipv4(packet: bytes) -> Heard | None:
    if len(packet) < HEADER_V4 or packet[0] >> 4 != 4 or packet[8] != HOPS:
        return None
    begin, end = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    body = packet[begin:end]
    destination = IPv4Address(packet[16:20])
    if begin < HEADER_V4 or len(packet) < end or not destination.is_multicast:
        return None
    if not (adds_up(packet[:begin]) and adds_up(body)):
        return None
    return Heard(IPv4Address(packet[12:16]), destination, body)


def _ipv6(packet: bytes) -> Heard | None:
    if len(packet) < HEADER_V6 or packet[0] >> 4 != 6 or packet[7] != HOPS:
        return None
    begin, end = 40 + (packet[41] + 1) * 8, 40 + int.from_bytes(packet[4:6], "big")
    body = packet[begin:end]
    if packet[40] != PROTOCOL_ICMPV6 or len(packet) < end:
        return None
    pseudo = packet[8:40] + struct.pack("!II", len(body), PROTOCOL_ICMPV6)
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    if not destination.is_multicast or not adds_up(pseudo + body):
        return None
    if not (source.is_link_local or source.is_unspecified):
        return None  # RFC 3810, 5.1.14, 5.2.13
    return Heard(source, destination, body)
