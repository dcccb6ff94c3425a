"""A look at what arrives at an interface, by a packet socket of its own, bounded in every respect.

It touches neither the rings of the interface nor what it lets in, and takes at most half of the
supervisor's time. What the socket had no room for meanwhile is counted.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time

from mcrd.looks import Look
from mcrd.model import Input
from mcrd.observe.frames import Summary
from mcrd.observe.kinds import takes
from mcrd.observe.program import about
from mcrd.sockets.common import (
    DROP_ALL,
    ETH_P_ALL,
    SOL_PACKET,
    attach_filter,
    keep_some,
    or_close,
    packet_statistics,
)
from mcrd.sockets.filters import PACKET_OUTGOING

# linux/if_packet.h
PACKET_AUXDATA = 8
PACKET_OTHERHOST = 3
TP_STATUS_CSUMNOTREADY = 1 << 3
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_CSUM_VALID = 1 << 7
AUXDATA = struct.Struct("IIIHHHH")

FRAMES = 50_000
SHORTEST, LONGEST = 0.1, 60.0  # seconds
SLICE = 0.004  # seconds, before others have their turn for as long
LARGEST = 1 << 17  # bytes of a packet, or they are cut
BUFFER = 2 << 20
AT_ONCE = 4  # interfaces


class BusyError(Exception):
    """Another look is under way."""


class Looks:
    """The looks that are under way: one at a time for an interface, and a few in all."""

    def __init__(self) -> None:
        self.under_way: set[str] = set()  # by interface

    async def look(self, given: Input, seconds: float, frames: int = FRAMES) -> Look:
        """Look at what arrives for the input at its interface. Raises BusyError, and OSError."""
        if given.interface in self.under_way:
            raise BusyError(f"another look at {given.interface} is under way; try again after it")
        if len(self.under_way) >= AT_ONCE:
            raise BusyError(f"{AT_ONCE} looks are under way; try again after them")
        self.under_way.add(given.interface)
        found = Look(given.interface)
        summary = Summary(found, lambda kind: takes(given, kind))
        try:
            with _open(given) as sock:
                began = time.monotonic()
                await _watch(sock, summary, began + seconds, frames)
                found.seconds = round(time.monotonic() - began, 3)
        finally:
            self.under_way.discard(given.interface)
        summary.end()
        return found


def _open(given: Input) -> socket.socket:
    flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with or_close(socket.socket(socket.AF_PACKET, flags, 0)) as sock:
        keep_some(sock)
        attach_filter(sock, DROP_ALL)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        try:
            sock.bind((given.interface, ETH_P_ALL))
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise OSError(errno.ENODEV, f"there is no interface {given.interface}") from None
            raise
        attach_filter(sock, about(given))
        return sock


async def _watch(sock: socket.socket, summary: Summary, until: float, frames: int) -> None:
    loop, look = asyncio.get_running_loop(), summary.look
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        while (now := time.monotonic()) < until:
            try:
                await asyncio.wait_for(readable.wait(), until - now)
            except TimeoutError:
                break
            readable.clear()
            began = time.monotonic()
            if not _read(sock, summary, min(began + SLICE, until), frames):
                look.ended = "interface"
                break
            if look.frames >= frames:
                look.ended = "frames"
                break
            await asyncio.sleep(time.monotonic() - began)  # others have as long
    finally:
        loop.remove_reader(sock)
    _, look.lost = packet_statistics(sock)


def _read(sock: socket.socket, summary: Summary, until: float, frames: int) -> bool:
    """Read what waits in the socket, for a while; False when the interface is gone or down."""
    while summary.look.frames < frames and time.monotonic() < until:
        try:
            packet, ancillary, _, name = sock.recvmsg(LARGEST, 64)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO):
                return False
            raise
        vlan, verify = _auxiliary(ancillary)
        summary.add(
            packet,
            name[1],
            vlan,
            verify,
            other_host=name[2] == PACKET_OTHERHOST,
            outgoing=name[2] == PACKET_OUTGOING,
        )
    return True


def _auxiliary(ancillary: list[tuple[int, int, bytes]]) -> tuple[int | None, bool]:
    """The VLAN, and whether the checksum is one that can be wrong (packet(7), PACKET_AUXDATA)."""
    for level, kind, data in ancillary:
        if level == SOL_PACKET and kind == PACKET_AUXDATA and len(data) >= AUXDATA.size:
            status, _, _, _, _, tag, _ = AUXDATA.unpack_from(data)
            vlan = tag & 0xFFF if status & TP_STATUS_VLAN_VALID else None
            verify = not status & (TP_STATUS_CSUMNOTREADY | TP_STATUS_CSUM_VALID)
            return vlan, verify
    return None, False
