"""What sockets of all kinds share: filters, names, and descriptors that are kept free."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import socket
import struct
from collections.abc import Iterator, Sequence

from mcrd.model import Address
from mcrd.planning.links import Protocol
from mcrd.sockets.filters import Instruction

# asm-generic/socket.h, linux/in.h, linux/in6.h, linux/udp.h
SO_ATTACH_FILTER = 26
SO_LOCK_FILTER = 44
# linux/if_packet.h, linux/if_ether.h
SOL_PACKET = 263
PACKET_STATISTICS = 6
ETH_P_ALL = 3
KEPT = 64  # descriptors that no output gets

# Classic BPF (linux/filter.h). Negative offsets read what the kernel knows of a frame.
DROP_ALL: Sequence[Instruction] = ((0x06, 0, 0, 0),)


@contextlib.contextmanager
def or_close(sock: socket.socket) -> Iterator[socket.socket]:
    """A new socket, which is closed when what is to be done with it fails."""
    try:
        yield sock
    except BaseException:
        sock.close()
        raise


def kept_of(limit: int) -> int:
    """How many of so many descriptors no output gets."""
    return min(KEPT, limit // 2)


def keep_some(sock: socket.socket) -> None:
    """Raise EMFILE when only the last descriptors of the process are left.

    They are for what it cannot do without: workers, the control socket, the rule file.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and sock.fileno() >= limit - kept_of(limit):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def attach_filter(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Put a classic BPF program on the socket."""
    value, _alive = program_of(program)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, value)


def program_of(program: Sequence[Instruction]) -> tuple[bytes, ctypes.Array[ctypes.c_char]]:
    """A struct sock_fprog, and what it points to."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    return struct.pack("HP", len(program), ctypes.addressof(buffer)), buffer


_DROP_ALL = program_of(DROP_ALL)


def packet_statistics(sock: socket.socket) -> tuple[int, int]:
    """Frames that passed the filter, and those of them that found no room (packet(7)).

    Since the last call: the kernel forgets what it has told.
    """
    seen, lost = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return seen, lost


def check_index(interface: str, index: int) -> None:
    """Raise OSError if the name has gone to another interface since the plan was made."""
    try:
        now = socket.if_nametoindex(interface)
    except OSError:  # without a number
        raise OSError(errno.ENODEV, f"{interface} has gone") from None
    if now != index:
        raise OSError(errno.ENODEV, f"{interface} is another interface now")


def adds_up(data: bytes) -> bool:
    """Whether the Internet checksum (RFC 1071) that is somewhere in it is right."""
    # 2^16 is 1 modulo 2^16 - 1: so the sum of all words is the number that they make.
    return int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF == 0


def hardware_of(group: Address) -> bytes:
    """The hardware address of a group (RFC 1112, 6.4; RFC 2464, 7)."""
    packed = group.packed
    if len(packed) == 4:
        return bytes((1, 0, 0x5E, packed[1] & 0x7F, *packed[2:]))
    return b"\x33\x33" + packed[-4:]


def quiet_socket(protocol: Protocol, address: Address, interface: str | None) -> socket.socket:
    """A UDP or raw ESP socket that never receives; bound to an interface, if it is given."""
    with or_close(plain_socket(protocol, address, interface)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _DROP_ALL[0])
        sock.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the kernel makes it its least
        return sock


def plain_socket(protocol: Protocol, address: Address, interface: str | None) -> socket.socket:
    """A UDP or raw ESP socket, bound to nothing but an interface, if it is given."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    if protocol == "udp":
        kind, number = socket.SOCK_DGRAM, socket.IPPROTO_UDP
    else:
        kind, number = socket.SOCK_RAW, socket.IPPROTO_ESP
    with or_close(socket.socket(family, kind | flags, number)) as sock:
        keep_some(sock)
        if family == socket.AF_INET6 and protocol == "udp":  # a raw socket is IPv6 alone anyway
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        return sock
