"""Ethernet frames as bytes, right or wrong, for a packet socket to send."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from tests.lab import Host

STRANGER = bytes.fromhex("020000000099")  # no host has this address


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def hardware_address(group: IPv4Address | IPv6Address) -> bytes:
    """Where frames to a group go: RFC 1112, 6.4; RFC 2464, 7."""
    if group.version == 6:
        return b"\x33\x33" + group.packed[12:]
    low = int.from_bytes(group.packed[1:]) & 0x7FFFFF
    return bytes.fromhex("01005e") + low.to_bytes(3)


def udp(
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    ports: tuple[int, int],
    payload: bytes,
    *,
    length: int | None = None,
    spoil: int = 0,
) -> bytes:
    """A UDP datagram; `spoil` is added to its checksum."""
    size = 8 + len(payload)
    pseudo = source.packed + destination.packed + struct.pack("!II", size, socket.IPPROTO_UDP)
    header = struct.pack("!HHHH", *ports, size if length is None else length, 0)
    sums = checksum(pseudo + struct.pack("!HHHH", *ports, size, 0) + payload) or 0xFFFF
    return header[:6] + struct.pack("!H", (sums + spoil) & 0xFFFF) + payload


def frame(
    payload: bytes = b"",
    *,
    source: str = "10.1.0.1",
    destination: str = "239.1.1.1",
    ports: tuple[int, int] = (40000, 5000),
    to: bytes | None = None,
    tags: Sequence[int] = (),
    fragment: int = 0,
    total: int | None = None,
    udp_length: int | None = None,
    spoil: int = 0,
    spoil_header: int = 0,
) -> bytes:
    """An Ethernet frame with a UDP datagram; the rest says what is wrong with it.

    `total` is what the IP header says that the packet (IPv6: its payload) is long.
    """
    here, there = ip_address(source), ip_address(destination)
    datagram = udp(here, there, ports, payload, length=udp_length, spoil=spoil)
    if there.version == 4:
        size = 20 + len(datagram) if total is None else total
        header = struct.pack("!BBHHHBBH", 0x45, 0, size, 1, fragment, 8, socket.IPPROTO_UDP, 0)
        header += here.packed + there.packed
        sums = (checksum(header) + spoil_header) & 0xFFFF
        header = header[:10] + struct.pack("!H", sums) + header[12:]
        kind = 0x0800
    else:
        size = len(datagram) if total is None else total
        header = struct.pack("!IHBB", 0x60000000, size, socket.IPPROTO_UDP, 8)
        header += here.packed + there.packed
        kind = 0x86DD
    vlans = b"".join(struct.pack("!HH", 0x8100, tag) for tag in tags)
    link = (to or hardware_address(there)) + bytes.fromhex("020000000001") + vlans
    return link + struct.pack("!H", kind) + header + datagram


def inject(host: Host, interface: str, *frames: bytes) -> None:
    """Puts frames on a cable as they are, in this order."""
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((interface, 0))
        for one in frames:
            wire.send(one)
