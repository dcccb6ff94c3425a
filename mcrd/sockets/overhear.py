"""The socket on which a host that stands by hears what another one sends in its place."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import socket

from mcrd.addresses import socket_name
from mcrd.planning.resources import Egress
from mcrd.sockets.common import attach_filter, check_index, or_close, plain_socket
from mcrd.sockets.filters import PACKET_TYPE, Instruction

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
ROOM = 8 << 20
"""Bytes of the receive buffer: a quarter of what a worker keeps, as the kernel counts them."""

PACKET_LOOPBACK = 5  # linux/if_packet.h
NOT_OWN: tuple[Instruction, ...] = (
    (0x28, 0, 0, PACKET_TYPE),  # ldh
    (0x15, 0, 1, PACKET_LOOPBACK),  # jeq
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFFFFFF),
)
"""Lets in all but what this host sends itself (`loop`)."""


def open_overhearing(egress: Egress) -> socket.socket:
    """Open a socket that receives what others send to a group and port; raise OSError.

    That the host has joined the group is a matter of its own.
    """
    sending, group = egress.sending, egress.address
    check_index(sending.interface, sending.index)
    with or_close(plain_socket("udp", group, sending.interface)) as sock:
        attach_filter(sock, NOT_OWN)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        with contextlib.suppress(PermissionError):  # then it has what net.core.rmem_max allows
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        # Each worker of the interface has one, and so has any other receiver on this host.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(socket_name(group, egress.port, sending.index))
        return sock
