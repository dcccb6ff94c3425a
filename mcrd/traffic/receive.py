"""Receives the datagrams of `send` and tells what became of each."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from mcrd.addresses import socket_name, storage
from mcrd.errors import named
from mcrd.traffic import SLICE_NS, Address, Target, TrafficError, allow_descriptors, open_socket
from mcrd.traffic._traffic import ffi, lib

RECEIVE_BUFFER = 256 * 1024 * 1024
QUIET_NS = 200_000_000  # after the last expected packet, for duplicates to show
EXPECT_SILENCE_NS = 10_000_000_000  # without a packet, when a number is expected

# <linux/in.h>, <linux/in6.h>, <asm-generic/socket.h>: not in the socket module of every Python
MCAST_JOIN_GROUP = 42
MCAST_JOIN_SOURCE_GROUP = 46
IP_MULTICAST_ALL = 49
IPV6_MULTICAST_ALL = 29
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
SO_MEMINFO = 55
SK_MEMINFO_DROPS = 8  # index into the 32-bit numbers of SO_MEMINFO


@dataclass(frozen=True, slots=True)
class Latency:
    """Microseconds; None when nothing could be measured."""

    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Received:
    """What arrived, in packets. `unique` includes `unsequenced`."""

    unique: int
    lost: int
    duplicated: int
    reordered: int
    corrupt: int
    latency_us: Latency
    bytes: int  # payload of the unique packets
    unsequenced: int  # without a number to tell a duplicate by
    sequences: int  # flows seen, each run of a sender counted anew
    kernel_dropped: int  # by the sockets of this receiver: full, or a wrong UDP checksum


@dataclass(frozen=True, slots=True)
class Ending:
    """When to stop. Without either: when told to."""

    expect: int | None = None  # unique packets, and quiet after them; or long silence
    timeout: float | None = None  # seconds in all, whatever comes


def receive(
    target: Target,
    source: Address | None,
    ending: Ending,
    ready: Callable[[int], None],
    stopped: Callable[[], bool],
) -> Received:
    """Receive until `ending` or `stopped`. Raises TrafficError.

    Calls `ready` with the bytes of the receive buffer once every group is joined. With a source,
    groups are joined for that source alone, and nothing else counts.
    """
    index = target.interface_index()
    allow_descriptors(target.flows)
    try:
        with ExitStack() as stack:
            sockets = [stack.enter_context(open_socket(target)) for _ in target.addresses]
            for sock, address in zip(sockets, target.addresses, strict=True):
                _bind(sock, target, address, source, index)
            receiver = _new(sockets, target, source)
            # The kernel doubles what it is given, for its own overhead, and tells that number.
            ready(sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2)
            _run(receiver, ending, stopped)
            return _result(receiver, ending, sum(_dropped(sock) for sock in sockets))
    except OSError as error:
        raise TrafficError(f"cannot receive on {target}: {named(error)}") from error


def _bind(
    sock: socket.socket, target: Target, address: Address, source: Address | None, index: int
) -> None:
    # One socket for each group: only by its bound address can a socket keep the other groups of
    # the port out, and net.ipv4.igmp_max_memberships never matters.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(target.is_group))
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if target.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(socket_name(address, target.port, index))
    if target.is_group:
        _join(sock, address, source, index)
    sock.setblocking(False)


def _join(sock: socket.socket, group: Address, source: Address | None, index: int) -> None:
    """Join with IGMP or MLD: any source, or one (RFC 4607); options of RFC 3678, section 5.1."""
    if group.version == 4:
        level = socket.IPPROTO_IP
        sock.setsockopt(level, IP_MULTICAST_ALL, 0)
    else:
        level = socket.IPPROTO_IPV6
        with suppress(OSError):  # Linux before 4.20; the bound address filters just as well
            sock.setsockopt(level, IPV6_MULTICAST_ALL, 0)
    # struct group_req and group_source_req: the sockaddr_storage is aligned like a long
    request = struct.pack("@I0L", index) + storage(group)
    if source is None:
        sock.setsockopt(level, MCAST_JOIN_GROUP, request)
    else:
        sock.setsockopt(level, MCAST_JOIN_SOURCE_GROUP, request + storage(source))


def _dropped(sock: socket.socket) -> int:
    numbers = struct.unpack("=9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    return int(numbers[SK_MEMINFO_DROPS])


def _new(sockets: list[socket.socket], target: Target, source: Address | None) -> Any:
    receiver = lib.traffic_receiver_new(
        [sock.fileno() for sock in sockets],
        len(sockets),
        target.family,
        ffi.NULL if source is None else source.packed.ljust(16, b"\0"),
    )
    if receiver == ffi.NULL:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    return ffi.gc(receiver, lib.traffic_receiver_free)


def _run(receiver: Any, ending: Ending, stopped: Callable[[], bool]) -> None:
    began, timeout = time.monotonic_ns(), ending.timeout
    deadline = None if timeout is None else began + int(timeout * 1e9)
    seen = ffi.new("struct traffic_received *")
    while not stopped():
        now = time.monotonic_ns()
        until = now + SLICE_NS if deadline is None else min(now + SLICE_NS, deadline)
        if ending.expect is not None:
            lib.traffic_receiver_result(receiver, seen)
            if seen.unique >= ending.expect:
                until = min(until, max(seen.last_ns, 1) + QUIET_NS)
            elif deadline is None:
                until = min(until, max(seen.last_ns, began) + EXPECT_SILENCE_NS)
        if now >= until:
            return
        _read(receiver, until - now)
    _read(receiver, SLICE_NS)  # what came before the word to stop


def _read(receiver: Any, nanoseconds: int) -> None:
    status = lib.traffic_receive(receiver, nanoseconds)
    if status < 0:
        raise OSError(-status, os.strerror(-status))


def _result(receiver: Any, ending: Ending, kernel_dropped: int) -> Received:
    seen = ffi.new("struct traffic_received *")
    lib.traffic_receiver_result(receiver, seen)
    lost = seen.missing if ending.expect is None else max(0, ending.expect - seen.unique)
    measured = seen.measured > 0
    return Received(
        unique=seen.unique,
        lost=lost,
        duplicated=seen.duplicated,
        reordered=seen.reordered,
        corrupt=seen.corrupt,
        latency_us=Latency(
            p50=seen.p50_ns / 1000 if measured else None,
            p99=seen.p99_ns / 1000 if measured else None,
        ),
        bytes=seen.bytes,
        unsequenced=seen.unsequenced,
        sequences=seen.sequences,
        kernel_dropped=kernel_dropped,
    )
