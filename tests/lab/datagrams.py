"""Single datagrams: sent from a host, and read back from a frame."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import NamedTuple

from tests.lab.network import Host


class Datagram(NamedTuple):
    """What a frame carried."""

    source: str
    source_port: int
    destination: str
    port: int
    ttl: int
    dscp: int
    payload: bytes


def udp(frame: bytes) -> Datagram:
    """The datagram of an Ethernet frame; Ethernet padding is not part of it."""
    ip = frame[14:]
    if ip[0] >> 4 == 4:
        header = (ip[0] & 15) * 4
        source, destination = ip[12:16], ip[16:20]
        ttl, dscp = ip[8], ip[1] >> 2
    else:
        header = 40
        source, destination = ip[8:24], ip[24:40]
        ttl, dscp = ip[7], (ip[0] & 15) << 2 | ip[1] >> 6
    source_port, port, length = struct.unpack("!HHH", ip[header : header + 6])
    return Datagram(
        str(ip_address(source)),
        source_port,
        str(ip_address(destination)),
        port,
        ttl,
        dscp,
        ip[header + 8 : header + length],
    )


def sender(host: Host, interface: str, version: int = 4) -> socket.socket:
    """A UDP socket that sends to groups on this interface."""
    with host.inside():
        index = socket.if_nametoindex(interface)
    if version == 4:
        sock = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        mreqn = struct.pack("4s4si", bytes(4), bytes(4), index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
    else:
        sock = host.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    return sock
