"""Packet sockets: the rings of an input interface, and what its own filter lets in."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mcrd.dataplane._dataplane import ffi, lib
from mcrd.errors import words
from mcrd.events import tell
from mcrd.model import Network
from mcrd.planning.resources import Ingress
from mcrd.sockets import filters
from mcrd.sockets.common import (
    DROP_ALL,
    ETH_P_ALL,
    SOL_PACKET,
    attach_filter,
    check_index,
    or_close,
    packet_statistics,
    program_of,
)
from mcrd.sockets.lost import Estimate, Lost, Taken

# linux/if_packet.h
PACKET_RX_RING = 5
PACKET_VERSION = 10
PACKET_VNET_HDR = 15
PACKET_FANOUT = 18
PACKET_FANOUT_CBPF = 6
PACKET_FANOUT_DATA = 22
PACKET_FANOUT_FLAG_UNIQUEID = 0x2000
PACKET_FANOUT_FLAG_IGNORE_OUTGOING = 0x4000  # since Linux 6.0; before it the filter does that alone
PACKET_FANOUT_FLAG_DEFRAG = 0x8000
TPACKET_V2 = 1
SO_TIMESTAMPNS = 35  # asm-generic/socket.h
TPACKET2_HDRLEN = 52  # struct tpacket2_hdr and struct sockaddr_ll, aligned
TPACKET_ALIGNMENT = 16

BLOCK_SIZE = 1 << 20
LINK_HEADER = 16  # what the kernel reserves for it, at least
VNET_HEADER = 10  # struct virtio_net_hdr
VLAN_TAG = 4  # one that the kernel leaves in the frame
CACHE_LINE = 64
# What stands in a slot before the network header: tpacket_rcv(), net/packet/af_packet.c.
SLOT_HEADERS = (
    -(-(TPACKET2_HDRLEN + LINK_HEADER) // TPACKET_ALIGNMENT) * TPACKET_ALIGNMENT + VNET_HEADER
)
LARGEST_PACKET = 65535 + 40  # IPv6, of which only the payload has to be within 16 bits
LARGE_LEAST = 4 << 20
TALLY = struct.Struct("7Q")
"""Of both rings, frames seen, and those that there was no room for; datagrams that these were
beyond one for each; of each ring, frames seen, and of each those that it had no room for."""
_SEEN, _FULL, _MORE, _EACH_SEEN, _EACH_FULL = 0, 1, 2, 3, 5

LOOKS = 100  # at what waits, for some 10 us each

FOREVER = 2**64 - 1
"""Nanoseconds of the real-time clock."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of a packet ring; bytes, and frames by the block."""

    block_size: int
    block_count: int
    frame_size: int

    @property
    def frames(self) -> int:
        """How many frames the ring holds; a frame does not straddle blocks."""
        return self.block_size // self.frame_size * self.block_count

    @property
    def largest(self) -> int:
        """Bytes of the longest frame that a slot holds, without its link header."""
        return self.frame_size - SLOT_HEADERS


def geometry_for(mtu: int, ring_size: int) -> Geometry:
    """A ring of about `ring_size` bytes whose slots hold a frame of `mtu` bytes and its headers."""
    need = SLOT_HEADERS + VLAN_TAG + mtu
    lines = -(-need // CACHE_LINE)
    lines += 1 - lines % 2  # an odd number of cache lines avoids set conflicts
    frame_size = min(lines * CACHE_LINE, BLOCK_SIZE)
    return Geometry(BLOCK_SIZE, max(2, ring_size // BLOCK_SIZE), frame_size)


def large_size(ring_size: int, gro: bool) -> int:
    """Bytes of the ring of large frames, for one of `ring_size` bytes for the others.

    With `gro` most datagrams wait there, and it bridges about the same time: twice the size has a
    twentieth of the slots, each with 32 datagrams, which come at twice the rate.
    """
    return max(LARGE_LEAST, ring_size * 2 if gro else ring_size // 4)


class IngressSocket:
    """Two packet sockets with their rings.

    `socket` takes what fits its slots, `large` the rest: super-frames, and datagrams that the
    kernel has put together from fragments. `tally` is a descriptor of the memory that has what the
    kernel has counted: it forgets whatever is read. They outlive the process where somebody keeps
    them.
    """

    def __init__(
        self,
        geometry: Geometry,
        large_geometry: Geometry,
        sockets: tuple[socket.socket, socket.socket],
        tally: int,
    ) -> None:
        self.geometry = geometry
        self.large_geometry = large_geometry
        self.socket, self.large = sockets
        self.tally = tally
        if os.fstat(tally).st_size < TALLY.size:  # that of an older version
            os.ftruncate(tally, TALLY.size)
        self._memory = mmap.mmap(tally, TALLY.size)
        self._counts = memoryview(self._memory).cast("Q")
        self._unseen = [0, 0]  # frames of each ring that may have come before they were counted
        self._estimates = (Estimate(geometry.frames), Estimate(large_geometry.frames))
        self._estimated = [self._counts[_EACH_FULL], self._counts[_EACH_FULL + 1]]

    @classmethod
    def open(cls, ingress: Ingress, mtu: int) -> IngressSocket:
        """Open the sockets, bound, and not in a group yet: nothing arrives."""
        geometry = geometry_for(mtu, ingress.ring_size)
        large_geometry = geometry_for(LARGEST_PACKET, large_size(ingress.ring_size, ingress.gro))
        with contextlib.ExitStack() as undo:
            # In the order of join(): in that of their making, the kernel puts them back into
            # their group when the link comes up again (af_packet.c, packet_notifier()).
            large = undo.enter_context(_ring_socket(ingress, large_geometry))
            small = undo.enter_context(_ring_socket(ingress, geometry))
            tally = os.memfd_create("mcrd-tally", os.MFD_CLOEXEC)
            undo.callback(os.close, tally)
            os.ftruncate(tally, TALLY.size)
            made = cls(geometry, large_geometry, (small, large), tally)
            undo.pop_all()
        return made

    def forget_seen(self, positions: Sequence[int]) -> None:
        """Begin to count what passed the filter: whoever counted what was taken begins too.

        What waits in the rings counts as seen. It stands from those positions on, and nobody may
        take it meanwhile. What cannot be told is learned when more is taken than was seen.
        """
        counts = self._counts
        for which, geometry in enumerate((self.geometry, self.large_geometry)):
            try:
                waiting = self._count(which, geometry, positions[which])
            except (OSError, ValueError):  # there is no memory to map it, or no such position
                self._read()
                waiting = 0
            self._unseen[which] = geometry.frames - waiting
            counts[_EACH_SEEN + which] = counts[_EACH_FULL + which] + waiting
        waiting = sum(self.filled)
        counts[_SEEN] = counts[_FULL] + waiting

    def _count(self, which: int, geometry: Geometry, position: int) -> int:
        """Frames that wait in a ring, when all that the kernel has counted is read.

        What comes during the last look is not told: of many looks, one is between two frames.
        Raises OSError and ValueError.
        """
        sizes = (geometry.block_size, geometry.block_count, geometry.frame_size)
        ring, waiting = ffi.new("struct ring_geometry *", sizes), 0
        size = geometry.block_size * geometry.block_count
        with (
            mmap.mmap(self._sockets[which].fileno(), size) as memory,
            ffi.from_buffer(memory) as there,
        ):
            for _ in range(LOOKS):
                before = self.filled[which]
                waiting = lib.ring_waiting(there, ring, position, waiting)
                if waiting < 0:
                    raise ValueError(os.strerror(-waiting))
                if self.filled[which] == before:
                    break
        return waiting

    @property
    def _sockets(self) -> tuple[socket.socket, socket.socket]:
        return self.socket, self.large

    def join(self, group: int | None) -> int:
        """Join a fanout group, which shares the frames; None begins one. Returns it."""
        # One group of its own even for a single worker: only so the kernel tells large frames
        # from small ones, and puts fragments together.
        kind = PACKET_FANOUT_CBPF | PACKET_FANOUT_FLAG_DEFRAG | PACKET_FANOUT_FLAG_IGNORE_OUTGOING
        for sock in reversed(self._sockets):
            unique = PACKET_FANOUT_FLAG_UNIQUEID if group is None else 0  # not another program's
            value = struct.pack("I", (group or 0) | (kind | unique) << 16)
            sock.setsockopt(SOL_PACKET, PACKET_FANOUT, value)
            group = sock.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
        assert group is not None
        return group

    def share(self, workers: int) -> None:
        """Set which socket of the group takes a frame; one sets it for all."""
        value, _alive = program_of(filters.share(workers, self.geometry.largest))
        self.socket.setsockopt(SOL_PACKET, PACKET_FANOUT_DATA, value)

    def admit(self, networks: frozenset[Network] | None, *, only_large: bool = False) -> None:
        """Let in what is sent to these addresses, and what the filter cannot judge; None: all.

        `only_large`: of that, what has no room in the slots of the first ring.
        """
        first = filters.above(self.geometry.largest) if only_large else ()
        for sock in (self.large,) if only_large else self._sockets:
            for spans in (filters.SPANS, 200, 0):
                try:
                    attach_filter(sock, (*first, *filters.ingress(networks, spans)))
                except OSError as error:
                    # The sysctl net.core.optmem_max is what old and new program together may take.
                    if error.errno != errno.ENOMEM or spans == 0:
                        raise
                else:
                    break

    @property
    def seen(self) -> int:
        """Frames that passed the filters so far."""
        self._read()
        return self._counts[_SEEN]

    @property
    def filled(self) -> tuple[int, int]:
        """Frames that came into each ring so far."""
        self._read()
        counts = self._counts
        small, large = (counts[_EACH_SEEN + n] - counts[_EACH_FULL + n] for n in range(2))
        return small, large

    def ring_full(self, taken: Sequence[Taken]) -> Lost:
        """What the rings had no room for so far; `taken` is what workers took from each."""
        self._read()
        counts = self._counts
        for which, estimate in enumerate(self._estimates):
            full = counts[_EACH_FULL + which]
            lost, self._estimated[which] = full - self._estimated[which], full
            waiting = self._waiting(which, taken[which])
            counts[_MORE] += estimate.more(lost, waiting, taken[which])
        return Lost(counts[_FULL], counts[_FULL] + counts[_MORE])

    def end(self, taken: Sequence[Taken]) -> tuple[Lost, Lost]:
        """The last ring_full(), and what waits in the rings, which nobody takes."""
        self.ring_full(taken)
        counts, frames, packets = self._counts, 0, 0
        for which, estimate in enumerate(self._estimates):
            waiting = max(0, self._waiting(which, taken[which]))
            counts[_MORE] += estimate.end(taken[which])
            frames += waiting
            packets += round(waiting * estimate.mean(taken[which]))
        return Lost(counts[_FULL], counts[_FULL] + counts[_MORE]), Lost(frames, packets)

    def throw_away(
        self,
        taken: Sequence[Taken],
        stand: Sequence[tuple[Any, Any]],
        since: int = 0,
        until: int = FOREVER,
    ) -> Callable[[], list[Lost]]:
        """Return what gives all that waits in the rings back to the kernel.

        Any thread may call that, once: it takes 30 ms and more for a ring of 1 GiB. It returns what
        is lost of each, and raises OSError. Workers dealt with `taken`. `stand` points to where the
        next frame of each ring is, and to how many were given back. What arrived before `since` or
        from `until` on (ns of the real-time clock) is in other rings, and not lost.
        """
        self.end(taken)
        calls, means = [], []
        for which, geometry in enumerate((self.geometry, self.large_geometry)):
            sizes = (geometry.block_size, geometry.block_count, geometry.frame_size)
            position, frames = stand[which]
            in_hand = max(0, taken[which].frames - frames[0])
            share = ffi.new("struct ring_share *", (in_hand, since, until, which))
            ring, sock = ffi.new("struct ring_geometry *", sizes), self._sockets[which].fileno()
            calls.append((sock, ring, position, frames, share))
            means.append(self._estimates[which].mean(taken[which]))

        def throw() -> list[Lost]:
            found = []
            for call, mean in zip(calls, means, strict=True):
                lost = lib.ring_throw_away(*call)
                if lost < 0:
                    raise OSError(-lost, os.strerror(-lost))
                found.append(Lost(lost, round(lost * mean)))
            return found

        return throw

    def _waiting(self, which: int, taken: Taken) -> int:
        counts = self._counts
        waiting = counts[_EACH_SEEN + which] - counts[_EACH_FULL + which] - taken.frames
        if waiting < 0 and self._unseen[which]:
            came = min(-waiting, self._unseen[which])
            self._unseen[which] -= came
            counts[_EACH_SEEN + which] += came
            counts[_SEEN] += came
            waiting += came
        return waiting

    def _read(self) -> None:
        """What the kernel has counted since the last time: it forgets what it has told."""
        counts = self._counts
        for which, sock in enumerate(self._sockets):
            try:
                seen, full = packet_statistics(sock)
            except OSError as error:  # it is told the next time
                text = "the counters of a packet socket cannot be read: %s"
                tell(log, logging.WARNING, "uncounted", text, words(error))
                continue
            counts[_SEEN] += seen
            counts[_FULL] += full
            counts[_EACH_SEEN + which] += seen
            counts[_EACH_FULL + which] += full

    def deafen(self) -> None:
        """Let nothing in any more."""
        for sock in self._sockets:
            attach_filter(sock, DROP_ALL)

    def shrink(self) -> None:
        """Give the memory of the rings back; nobody may have mapped them. Counts go on.

        While the kernel does it, for some milliseconds, nothing is counted. Raises OSError.
        """
        for sock in self._sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the least there is
            sock.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("IIII", 0, 0, 0, 0))

    def take_error(self) -> None:
        """Read the error of a link that went down: until then every poll returns at once."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # it is read the next time
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        """Close all descriptors."""
        self._counts.release()
        self._memory.close()  # it has a descriptor of its own, for as long as anything names it
        with contextlib.ExitStack() as closing:  # all of them, whatever the kernel says of one
            for sock in self._sockets:
                closing.callback(sock.close)
            closing.callback(os.close, self.tally)


def _ring_socket(ingress: Ingress, ring: Geometry) -> socket.socket:
    with or_close(socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC)) as sock:
        sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        # What comes before the socket is in its group would come to its siblings too.
        attach_filter(sock, DROP_ALL)
        request = struct.pack(
            "IIII", ring.block_size, ring.block_count, ring.frame_size, ring.frames
        )
        sock.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        check_index(ingress.interface, ingress.index)
        sock.bind((ingress.interface, ETH_P_ALL))
        return sock


def open_rings(ingress: Ingress, mtu: int) -> list[IngressSocket]:
    """Open the packet sockets of each worker, to which nothing comes before let_in()."""
    rings: list[IngressSocket] = []
    with contextlib.ExitStack() as undo:
        for _ in range(ingress.workers):
            rings.append(IngressSocket.open(ingress, mtu))
            undo.callback(rings[-1].close)
        undo.pop_all()
    return rings


def let_in(
    rings: Sequence[IngressSocket], networks: frozenset[Network] | None, *, beside: bool = False
) -> None:
    """Let in what is sent to one of the networks, None: all; a flow goes to one worker, in order.

    `beside`: others are open on the interface. Fragments come to these no more as soon as the first
    socket is in its group, which gets all until the group has a program. So it takes what is put
    together, and leaves the rest to the others: it has few slots. When the group has its program,
    that may come to any of them. Raises OSError.
    """
    if beside:
        rings[0].admit(networks, only_large=True)
    group = None
    for ring in rings:
        group = ring.join(group)
        if beside and ring is not rings[0]:
            ring.admit(networks, only_large=True)
    rings[0].share(len(rings))
    for ring in rings:
        ring.admit(networks)


def open_ingress(
    ingress: Ingress, mtu: int, networks: frozenset[Network] | None = None
) -> list[IngressSocket]:
    """Open the packet sockets of each worker, and let in what is sent to one of the networks."""
    rings = open_rings(ingress, mtu)
    with contextlib.ExitStack() as undo:
        for ring in rings:
            undo.callback(ring.close)
        let_in(rings, networks)
        undo.pop_all()
    return rings


def open_stamps() -> socket.socket:
    """Open what makes the kernel stamp each frame once, for all rings, as long as it is open."""
    with or_close(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        return sock
