"""Sends numbered, checkable datagrams at an even pace."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from mcrd.addresses import socket_name
from mcrd.errors import named
from mcrd.traffic import SLICE_NS, Address, Target, TrafficError, allow_descriptors, open_socket
from mcrd.traffic._traffic import ffi, lib

# Enough for the longest datagram, and few enough small ones to fit a transmit queue.
SEND_BUFFER = 512 * 1024

# <linux/in.h>, <linux/in6.h>, <linux/udp.h>: not in the socket module of every Python
IP_RECVERR = 11
IPV6_RECVERR = 25
UDP_SEGMENT = 103


@dataclass(frozen=True, slots=True)
class Pattern:
    """What to send."""

    rate: float = 1000.0  # packets per second over all flows; 0: as fast as possible
    size: int = 1400  # payload bytes
    count: int | None = None  # packets over all flows; None: until stopped
    ttl: int | None = None  # None: 1 to a group, 64 to a host
    source_port: int = 0  # 0: any free one
    burst: int = 1  # packets handed to the kernel at once


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent. `seconds` runs from the first packet to the last."""

    sent: int
    bytes: int  # payload
    seconds: float
    rate: float  # packets per second, as measured
    late: int  # how often the schedule was shifted because sending fell behind,
    late_seconds: float  # and by how much in all


def send(target: Target, pattern: Pattern, stopped: Callable[[], bool]) -> Sent:
    """Send until the count is reached or `stopped`. Raises TrafficError."""
    index = target.interface_index()
    allow_descriptors(target.flows)
    try:
        with ExitStack() as stack:
            sockets: list[socket.socket] = []
            port = pattern.source_port
            for address in target.addresses:
                sock = stack.enter_context(open_socket(target))
                _connect(sock, target, address, pattern, port, index)
                sockets.append(sock)
                port = sock.getsockname()[1]
            return _run(sockets, pattern, stopped)
    except OSError as error:
        raise TrafficError(f"cannot send to {target}: {named(error)}") from error


def _connect(
    sock: socket.socket, target: Target, address: Address, pattern: Pattern, port: int, index: int
) -> None:
    if target.flows > 1:  # they all share one source port
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if pattern.burst > 1:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, pattern.size)
    ttl = pattern.ttl if pattern.ttl is not None else 1 if target.is_group else 64
    if target.family == socket.AF_INET:
        # Without it a packet that the transmit queue refuses is lost without an error.
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        ip_mreqn = struct.pack("=4s4si", bytes(4), bytes(4), index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, ip_mreqn)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    sock.bind(("", port))
    # Connected: to a host the route is looked up once, and a wrong one is noticed here.
    sock.connect(socket_name(address, target.port, index))


def _run(sockets: list[socket.socket], pattern: Pattern, stopped: Callable[[], bool]) -> Sent:
    sender = lib.traffic_sender_new(
        [sock.fileno() for sock in sockets],
        len(sockets),
        pattern.size,
        pattern.burst,
        1e9 / pattern.rate if pattern.rate else 0.0,
        pattern.count or 0,
        secrets.randbits(16),
    )
    if sender == ffi.NULL:
        raise MemoryError
    sender = ffi.gc(sender, lib.traffic_sender_free)
    while not stopped():
        status = lib.traffic_send(sender, SLICE_NS)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        if status == 0:
            break
    result = ffi.new("struct traffic_sent *")
    lib.traffic_sender_result(sender, result)
    last = result.packets % pattern.burst or pattern.burst  # packets of the last burst
    seconds = (result.last_ns - result.first_ns) / 1e9
    return Sent(
        sent=result.packets,
        bytes=result.packets * pattern.size,
        seconds=seconds,
        rate=(result.packets - last) / seconds if seconds > 0 else 0.0,
        late=result.late,
        late_seconds=result.late_ns / 1e9,
    )
