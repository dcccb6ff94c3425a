"""Asks for a neighbour that nobody has heard of, or that is silent, without a datagram of a rule.

The kernel asks by ARP or neighbour discovery when something is to be sent; this is something.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import struct

from mcrd.addresses import socket_name
from mcrd.model import Address
from mcrd.sockets.common import DROP_ALL, attach_filter

ECHO_REQUEST, ECHO_REQUEST_6 = 8, 128  # RFC 792, RFC 4443


def probe(interface: str, index: int, hop: Address) -> None:
    """Send an empty echo request to the neighbour; its answer is not looked at. Raises OSError."""
    family = socket.AF_INET if hop.version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if hop.version == 4 else socket.IPPROTO_ICMPV6
    flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(family, flags, protocol) as sock:
        attach_filter(sock, DROP_ALL)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        how = 0
        if hop.version == 4:
            # A neighbour, whatever the main table says: a rule of ip-rule(8) may have led to it.
            how = socket.MSG_DONTROUTE
            request = struct.pack(">BBHHH", ECHO_REQUEST, 0, 0xFFFF - (ECHO_REQUEST << 8), 0, 0)
        else:  # the kernel sums it up (RFC 3542, 3.1)
            request = struct.pack(">BBHHH", ECHO_REQUEST_6, 0, 0, 0, 0)
        sock.sendto(request, how, socket_name(hop, 0, index))
