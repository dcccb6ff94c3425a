"""Sockets on which queries, reports, hellos and errors are heard; nobody hears less for it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mcrd.errors import NEVER, words
from mcrd.events import tell
from mcrd.model import Address
from mcrd.observe.messages import ICMP_ERRORS, MLD
from mcrd.sockets.common import adds_up, or_close

# linux/in.h, linux/icmp.h, linux/icmpv6.h
IPPROTO_PIM = 103
ICMP_FILTER = 1  # of SOL_RAW
SOL_RAW = 255
SOL_ICMPV6 = 58
ICMPV6_FILTER = 1
IP_PKTINFO = 8
SLICE = 0.002  # seconds for each socket in one look; of a flood, the rest is lost to it alone
LARGEST = 9000
AGAIN = 10.0  # seconds until the next try of what could not be opened

log = logging.getLogger(__name__)


class Message(NamedTuple):
    """What came: over which interface (its index), of which protocol, from whom.

    The body is without the IPv4 header.
    """

    interface: int
    protocol: int
    source: Address
    body: bytes


class Ears:
    """Raw sockets, for IGMP, MLD, PIM and errors of ICMP: datagrams never come near them."""

    def __init__(self) -> None:
        self._sockets: list[tuple[socket.socket, int]] = []
        self._missing: list[tuple[int, int, Sequence[int]]] = [
            (socket.AF_INET, socket.IPPROTO_IGMP, ()),
            (socket.AF_INET, IPPROTO_PIM, ()),
            (socket.AF_INET, socket.IPPROTO_ICMP, ICMP_ERRORS[4]),
            (socket.AF_INET6, socket.IPPROTO_ICMPV6, MLD),
            (socket.AF_INET6, IPPROTO_PIM, ()),
            (socket.AF_INET6, socket.IPPROTO_ICMPV6, ICMP_ERRORS[6]),
        ]
        self._retry = 0.0
        self._open_missing()

    def _open_missing(self) -> None:
        """What may pass is said, and tried again from time to time."""
        self._retry = time.monotonic() + AGAIN
        missing, self._missing = self._missing, []
        why = ""
        for one in missing:
            try:
                self._sockets.append((_open(*one), one[1]))
            except OSError as error:
                if error.errno in NEVER:  # without IPv6, or without the right
                    log.debug("cannot listen to protocol %d: %s", one[1], words(error))
                    continue
                self._missing.append(one)
                why = words(error)
        if why:
            text = "cannot listen to all of IGMP, MLD, PIM and ICMP: %s; trying again in %g s"
            tell(log, logging.WARNING, "deaf", text, why, AGAIN)

    def hears(self, family: int, protocol: int) -> bool:
        """Whether messages of this protocol are heard at all."""
        return any((s.family, number) == (family, protocol) for s, number in self._sockets)

    def listen(self) -> Iterator[Message]:
        """What has come since the last look, as far as there was room and is time for it."""
        if self._missing and time.monotonic() >= self._retry:
            self._open_missing()
        for sock, protocol in self._sockets:
            until = time.monotonic() + SLICE
            with contextlib.suppress(BlockingIOError):
                while time.monotonic() < until:
                    message = _read(sock, protocol)
                    if message is not None:
                        yield message

    def close(self) -> None:
        """Hear no more."""
        self._missing.clear()
        for sock, _ in self._sockets:
            sock.close()
        self._sockets.clear()


def _open(family: int, protocol: int, types: Sequence[int]) -> socket.socket:
    flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with or_close(socket.socket(family, flags, protocol)) as sock:
        blocked = [0xFFFFFFFF] * 8
        for kind in types:
            blocked[kind >> 5] &= ~(1 << (kind & 31))
        if protocol == socket.IPPROTO_ICMP:
            sock.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", blocked[0]))
        elif protocol == socket.IPPROTO_ICMPV6:
            sock.setsockopt(SOL_ICMPV6, ICMPV6_FILTER, struct.pack("=8I", *blocked))
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        return sock


def _read(sock: socket.socket, protocol: int) -> Message | None:
    """One message; None for one that makes no sense. Raises BlockingIOError."""
    try:
        packet, ancillary, _, name = sock.recvmsg(LARGEST, 128)
    except BlockingIOError:
        raise
    except OSError:
        return None  # an error of an interface, which is none of ours
    index = 0
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            (index,) = struct.unpack_from("=i", data)
        elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            (index,) = struct.unpack_from("=16xI", data)
    if sock.family == socket.AF_INET6:
        return Message(index, protocol, IPv6Address(name[0].partition("%")[0]), packet)
    body = packet[(packet[0] & 15) * 4 :]  # the kernel has checked the header
    if not adds_up(body):  # the kernel does not check it
        return None
    return Message(index, protocol, IPv4Address(name[0]), body)
