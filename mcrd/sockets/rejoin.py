"""Membership reports that nobody asked for: the kernel repeats none without a leave before it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mcrd.planning.links import Link
from mcrd.planning.resources import Rejoin
from mcrd.sockets.common import check_index, hardware_of, keep_some, or_close
from mcrd.sockets.reports import Report, Wanted, reports

AT_ONCE = 50  # reports of an interface in one look, and there are two in a second
SOON = 5.0  # seconds until the first: who knows how long ago a daemon before this one sent its last
EARLIER = 0.2  # part of the interval by which chance may shorten it: not all speak at once
PRIORITY = 6  # TC_PRIO_INTERACTIVE (tc-prio(8)); more takes CAP_NET_ADMIN
# linux/if_arp.h
ARPHRD_ETHER = 1
# linux/if_ether.h
ETH_P = {4: 0x0800, 6: 0x86DD}


class Said(NamedTuple):
    """How many reports were sent, and how many were not."""

    sent: int = 0
    failed: int = 0


class Mouth:
    """Sends reports.

    By a packet socket: a raw socket of IGMP or ICMPv6 has no source for an interface without an
    address, where it has to be 0.0.0.0 or :: (RFC 3376, 4.2.13; RFC 3810, 5.2.13).
    """

    def __init__(self) -> None:
        """Raise OSError."""
        flags = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        # Of no protocol: it hears nothing.
        with or_close(socket.socket(socket.AF_PACKET, flags)) as self._socket:
            keep_some(self._socket)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)

    def say(self, said: Sequence[Report], link: Link) -> Said:
        """Send these."""
        sent = 0
        for report in said:
            try:
                self._socket.sendto(report.packet, address_of(report, link))
            except OSError:
                continue  # an interface that goes down, a queue that is full
            sent += 1
        return Said(sent, len(said) - sent)

    def close(self) -> None:
        """Send no more."""
        self._socket.close()


class Repeater(Mouth):
    """Sends the reports of an interface again and again."""

    def __init__(self, rejoin: Rejoin, now: float) -> None:
        """Raise OSError; `now` in seconds, monotonic."""
        check_index(rejoin.interface, rejoin.index)
        self._rejoin = rejoin
        self._next = now + random.uniform(0, min(SOON, rejoin.every))
        self._left: list[Report] = []
        super().__init__()

    def is_due(self, now: float) -> bool:
        """Whether another round is to begin. One that is not over goes on first."""
        return not self._left and now >= self._next

    def begin(self, wanted: Iterable[tuple[Wanted, int]], link: Link, now: float) -> None:
        """Begin a round, of what is wanted in each family and the version that is spoken there."""
        self._next = now + self._rejoin.every * random.uniform(1 - EARLIER, 1)
        for groups, spoken in wanted:
            if groups:
                source = source_for(link, next(iter(groups)).version)
                self._left += reports(groups, source, spoken, link.mtu)
        self._left.reverse()

    def send(self, link: Link) -> Said:
        """Send some of what is left of the round."""
        some, self._left = self._left[-AT_ONCE:], self._left[:-AT_ONCE]
        return self.say(some[::-1], link)


def source_for(link: Link, version: int) -> IPv4Address | IPv6Address:
    """Whom reports of an interface are from: for MLD, its address of link scope."""
    fitting = (a.ip for a in link.addresses if a.version == version)
    if version == 4:
        return next(fitting, IPv4Address(0))
    return next((ip for ip in fitting if ip.is_link_local), IPv6Address(0))


def address_of(report: Report, link: Link) -> tuple[str, int, int, int, bytes]:
    """Where it goes, for packet(7); a frame that is not of Ethernet has no hardware address."""
    hardware = hardware_of(report.destination) if link.hardware == ARPHRD_ETHER else b""
    return (link.name, ETH_P[report.destination.version], 0, link.hardware, hardware)
