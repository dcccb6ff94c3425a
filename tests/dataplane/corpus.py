"""Frames of real senders for the C readers: python -m tests.dataplane.corpus writes corpus.txt.

Each line is a name, what packet.c takes the frame for, and its bytes. What a kernel sends differs
from run to run in numbers alone, so it is written once, and read by the tests.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import Lab, cut

if TYPE_CHECKING:
    from tests.lab import Host

FILE = Path(__file__).parent / "corpus.txt"
LARGEST = 2000  # bytes of a frame
ETHERTYPES = b"\x08\x00", b"\x86\xdd"  # IPv4 and IPv6

RTP = struct.pack("!BBHII", 0x80, 33, 65535, 90_000, 0x1234)
RTP_MORE = struct.pack("!BBHIIIHHI", 0x91, 0xE0, 0, 93_000, 0x1234, 0x99, 0xBEDE, 1, 0x10FF0000)
PCR = struct.pack("!BHBBB", 0x47, 0x4100, 0x30, 7, 0x10) + bytes(6) + bytes(176)
TS = PCR + b"".join(struct.pack("!BHB", 0x47, 0x0100, 0x10 | n) + bytes(184) for n in range(1, 7))
MOLD = b"SESSION   " + struct.pack("!QH", 1000, 2) + 2 * (struct.pack("!H", 5) + b"hello")
HOP_BY_HOP = struct.pack("!BBBBBB", 0, 0, 5, 2, 0, 0) + bytes(2)  # a router alert, and padding
DESTINATION = struct.pack("!BBBB", 0, 0, 1, 4) + bytes(4)


def send(host: Host, to: str, payload: bytes, *options: tuple[int, int, int | bytes]) -> None:
    """One datagram to port 5000 of a group or host, by a socket with these options."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with host.socket(family, socket.SOCK_DGRAM) as sock, host.inside():
        for level, name, value in options:
            sock.setsockopt(level, name, value)
        scope = (0, socket.if_nametoindex("s0")) if family == socket.AF_INET6 else ()
        with contextlib.suppress(OSError):  # nobody is there
            sock.sendto(payload, (to, 5000, *scope))


def sent(source: Host) -> None:
    """All kinds, by the kernel's own sockets."""
    ip, v6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
    for to in ("239.1.1.1", "ff15::1234", "10.1.0.2", "fd01::2", "10.1.0.255"):
        everyone = ((socket.SOL_SOCKET, socket.SO_BROADCAST, 1),)
        for payload in (b"", b"x", RTP + bytes(100), RTP_MORE + TS, TS, MOLD, RTP + TS):
            send(source, to, payload, *everyone)
    send(source, "239.1.1.1", b"alert", (ip, socket.IP_OPTIONS, b"\x94\x04\x00\x00"))
    send(source, "239.1.1.1", b"record", (ip, socket.IP_OPTIONS, b"\x07\x27\x04" + bytes(37)))
    send(source, "239.1.1.1", b"no sum", (socket.SOL_SOCKET, 11, 1))  # SO_NO_CHECK
    send(source, "ff15::1234", b"hop", (v6, socket.IPV6_HOPOPTS, HOP_BY_HOP))
    send(source, "ff15::1234", b"to", (v6, socket.IPV6_DSTOPTS, DESTINATION))
    both = ((v6, socket.IPV6_HOPOPTS, HOP_BY_HOP), (v6, socket.IPV6_DSTOPTS, DESTINATION))
    send(source, "ff15::1234", b"both", *both)
    for to in ("239.1.1.1", "ff15::1234"):
        send(source, to, bytes(2500))  # two fragments
        send(source, to, bytes(range(120)) * 8, (socket.IPPROTO_UDP, 103, 100))  # UDP_SEGMENT
    with source.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, source.inside():
        tcp.setblocking(False)
        with contextlib.suppress(OSError):
            tcp.connect(("10.1.0.2", 80))
    source.call("ping", "-c", "1", "-W", "1", "10.1.0.2")
    with source.socket(socket.AF_INET, socket.SOCK_DGRAM) as member, source.inside():
        wanted = socket.inet_aton("239.9.9.9") + socket.inet_aton("10.1.0.1")
        member.setsockopt(ip, socket.IP_ADD_MEMBERSHIP, wanted)  # an IGMP report


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """The frame with these tags: EtherType and tag control information, outermost first."""
    return frame[:12] + b"".join(struct.pack("!HH", *tag) for tag in tags) + frame[12:]


def encrypted(source: Host, to: str) -> None:
    """An ESP packet: SPI, sequence number, and what nobody here can read."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with source.socket(family, socket.SOCK_RAW, socket.IPPROTO_ESP) as sock, source.inside():
        sock.sendto(struct.pack("!II", 1, 1) + bytes(range(64)), (to, 0))


def frames() -> list[bytes]:
    """What is on the cable while all of these are sent."""
    with Lab() as lab:
        source, peer = lab.hosts("source", "peer")
        lab.link(
            *(source, "s0", ["10.1.0.1/24", "fd01::1/64"]),
            *(peer, "r0", ["10.1.0.2/24", "fd01::2/64"]),
        )
        cut(source, "s0")
        # Else the kernel leaves checksums to a card that is not there.
        source.run("ethtool", "-K", "s0", "tx", "off")
        source.run("ip", "route", "add", "239.0.0.0/8", "dev", "s0")
        capture = source.capture("s0", direction="out", largest=LARGEST)
        sent(source)
        for to in ("10.1.0.2", "fd01::2"):
            encrypted(source, to)
        found = capture.stop()
    first = [next(frame for frame in found if frame[12:14] == kind) for kind in ETHERTYPES]
    tags = (0x8100, 5), (0x88A8, 6), (0x8100, 0xE000)
    return [
        *found,
        *(tagged(frame, tag) for frame in first for tag in tags),
        *(tagged(frame, tags[1], tags[0]) for frame in first),
        *(tagged(frame, *tags) for frame in first),
    ]


def main() -> int:
    """Write the file, of each frame once; what it is taken for is the last word's to be edited."""
    seen: set[bytes] = set()
    lines: list[str] = []
    for frame in frames():
        if frame not in seen:
            seen.add(frame)
            lines.append(f"frame{len(lines)} datagram {frame.hex()}")
    FILE.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
