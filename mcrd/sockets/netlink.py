"""Questions to the kernel over netlink(7), in bytes: what pyroute2 does not tell, or slowly."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator

# linux/netlink.h
ROUTE, SOCK_DIAG = 0, 4
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_TYPE_MASK = 0x3FFF
RTM_GETLINK, IFLA_MASTER = 18, 10  # linux/rtnetlink.h, linux/if_link.h
TIMEOUT = 1.0  # seconds


def ask(protocol: int, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """The answers to one request: types and bodies. Raises OSError."""
    header = struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | flags, 1, 0)
    family = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, family, protocol) as sock:
        sock.settimeout(TIMEOUT)
        sock.send(header + body)
        while True:
            answer = sock.recv(1 << 17)
            at = 0
            while at + 16 <= len(answer):
                length, kind = struct.unpack_from("=IH", answer, at)
                if kind == NLMSG_ERROR:
                    (number,) = struct.unpack_from("=i", answer, at + 16)
                    raise OSError(-number, os.strerror(-number))
                if kind == NLMSG_DONE or length < 16:
                    return
                yield kind, answer[at + 16 : at + length]
                at += (length + 3) & ~3
            if not flags & NLM_F_DUMP:
                return


def master_of(index: int) -> int:
    """The index of the VRF device or bridge that an interface belongs to, or 0. Raises OSError."""
    for _, body in ask(ROUTE, RTM_GETLINK, 0, struct.pack("=BxHiII", 0, 0, index, 0, 0)):
        found = dict(attributes(body[16:])).get(IFLA_MASTER)
        return int.from_bytes(found, sys.byteorder) if found else 0
    return 0


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and values, one after the other; what is cut short ends them."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3
