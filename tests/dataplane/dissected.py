"""What a frame is, by the dissector and the checksums of scapy, which knows nothing of packet.c."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from scapy.layers.inet import IP, UDP, IPOption_Router_Alert, in4_chksum
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    in6_chksum,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import checksum

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

UDP_NUMBER, ESP_NUMBER = 17, 50
EXTENSIONS = 15  # that are passed over


class Found(NamedTuple):
    """A datagram: where its payload is, in bytes from the start of the frame."""

    payload: int
    length: int
    family: int
    protocol: int
    source_port: int
    destination_port: int
    vlan: int


Judged = tuple[str, Found | None]


def judged(frame: bytes) -> Judged:
    """The verdict over a whole Ethernet frame, and what is in it."""
    if len(frame) < 14:
        return "malformed", None
    at, vlan, kind = 14, 0, int.from_bytes(frame[12:14])
    for tags in range(3):
        if kind not in (0x8100, 0x88A8):
            break
        if tags == 2:
            return "foreign", None
        if len(frame) < at + 4:
            return "malformed", None
        tag = Dot1Q(frame[at : at + 4])
        if not vlan & 0x0FFF:
            vlan = int.from_bytes(frame[at : at + 2])
        kind, at = tag.type, at + 4
    if kind == 0x0800:
        return _of_ipv4(frame, at, vlan)
    if kind == 0x86DD:
        return _of_ipv6(frame, at, vlan)
    return "foreign", None


def _of_ipv4(frame: bytes, at: int, vlan: int) -> Judged:
    there = len(frame) - at
    if there < 20:
        return "malformed", None
    ip = IP(frame[at : at + 20])
    header = 4 * (ip.ihl or 0)
    if ip.version != 4 or not 20 <= header <= ip.len <= there:
        return "malformed", None
    if checksum(frame[at : at + header]) != 0:
        return "bad_checksum", None
    if ip.frag or ip.flags.MF:
        return "fragment", None
    body, end = at + header, at + ip.len
    sums = partial(in4_chksum, 17, IP(src=ip.src, dst=ip.dst))
    return _of_transport(frame, body, end, ip.proto, sums, 4, vlan)


def _of_ipv6(frame: bytes, at: int, vlan: int) -> Judged:
    there = len(frame) - at
    if there < 40:
        return "malformed", None
    ip = IPv6(frame[at : at + 40])
    end = at + 40 + ip.plen
    if ip.version != 6 or end > len(frame):
        return "malformed", None
    here, following = at + 40, ip.nh
    kinds: dict[int, type[Packet]] = {
        0: IPv6ExtHdrHopByHop,
        43: IPv6ExtHdrRouting,
        44: IPv6ExtHdrFragment,
        51: AH,
        60: IPv6ExtHdrDestOpt,
    }
    for number in range(EXTENSIONS + 1):
        if following not in kinds:
            sums = partial(in6_chksum, 17, IPv6(src=ip.src, dst=ip.dst))
            return _of_transport(frame, here, end, following, sums, 6, vlan)
        if number == EXTENSIONS or (following == 0 and number > 0) or end - here < 8:
            return "malformed", None
        first = frame[here : here + 8]
        if following == 44:
            fragment = IPv6ExtHdrFragment(first)
            size, cut = 8, fragment.offset != 0 or fragment.m != 0
        else:
            cut = False
            size = 4 * (first[1] + 2) if following == 51 else 8 * (first[1] + 1)
        if size > end - here:
            return "malformed", None
        if cut:
            return "fragment", None
        if following == 43 and IPv6ExtHdrRouting(frame[here : here + size]).segleft:
            return "foreign", None
        following, here = first[0], here + size
    raise AssertionError("not reached")


def _of_transport(
    frame: bytes,
    at: int,
    end: int,
    protocol: int,
    sums: Callable[[bytes], int],
    family: int,
    vlan: int,
) -> Judged:
    body = frame[at:end]
    if protocol == ESP_NUMBER:
        if len(body) < 8:
            return "malformed", None
        return "datagram", Found(at, len(body), family, protocol, 0, 0, vlan)
    if protocol != UDP_NUMBER:
        return "foreign", None
    if len(body) < 8:
        return "malformed", None
    udp = UDP(body[:8])
    if not 8 <= udp.len <= len(body):
        return "malformed", None
    if udp.chksum == 0:
        if family == 6:
            return "bad_checksum", None
    elif sums(body[: udp.len]) != 0:
        return "bad_checksum", None
    return "datagram", Found(at + 8, udp.len - 8, family, 17, udp.sport, udp.dport, vlan)


def made(dice: random.Random) -> bytes:
    """A frame as scapy builds it: tags, options, extension headers, UDP, ESP or something else."""
    frame: Packet = Ether(src="02:00:00:00:00:01", dst="01:00:5e:01:01:01")
    for _ in range(dice.choice((0, 0, 0, 1, 1, 2, 3))):
        frame /= dice.choice((Dot1Q, Dot1AD))(vlan=dice.randrange(4096), prio=dice.randrange(8))
    if dice.random() < 0.05:
        return bytes(frame / ARP())
    frame /= _network(dice)
    payload = dice.randbytes(dice.choice((0, 1, 2, 7, 8, 37, 1328)))
    match dice.randrange(8):
        case 0:
            frame /= ESP(spi=1, seq=dice.randrange(1 << 32), data=payload)
        case 1:
            frame /= UDP(sport=5, dport=6, chksum=0) / Raw(payload)
        case 2:
            frame /= UDP(sport=5, dport=6, len=8 + len(payload) // 2) / Raw(payload)
        case _:
            ports = dice.randrange(1 << 16), dice.randrange(1 << 16)
            frame /= UDP(sport=ports[0], dport=ports[1]) / Raw(payload)
    return bytes(frame) + bytes(dice.choice((0, 0, 18)))


def _network(dice: random.Random) -> Packet:
    if dice.random() < 0.5:
        options = [IPOption_Router_Alert()] * dice.choice((0, 0, 1, 9))
        flags = dice.choice(("", "DF", "DF", "MF"))
        offset = dice.choice((0, 0, 0, 185))
        return IP(src="10.1.0.1", dst="239.1.1.1", options=options, flags=flags, frag=offset)
    network: Packet = IPv6(src="fd01::1", dst="ff15::1234")
    if dice.random() < 0.1:
        for _ in range(dice.choice((14, 15))):
            network /= IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
    for _ in range(dice.choice((0, 0, 1, 2, 3))):
        network /= dice.choice(
            (
                IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]),
                IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]),
                IPv6ExtHdrRouting(addresses=["fd01::9"], segleft=dice.choice((0, 0, 1))),
                IPv6ExtHdrFragment(offset=dice.choice((0, 0, 5)), m=dice.choice((0, 0, 1))),
                AH(icv=bytes(12)),
            )
        )
    return network


def mutated(frame: bytes, dice: random.Random) -> bytes:
    """The frame with some of its bytes wrong, mostly those of headers; or cut."""
    changed = bytearray(frame)
    for _ in range(dice.choice((0, 1, 1, 2))):
        if not changed:
            break
        at = dice.randrange(min(len(changed), dice.choice((16, 40, 70, 2000))))
        match dice.randrange(4):
            case 0:
                changed[at] ^= 1 << dice.randrange(8)
            case 1:
                changed[at] = dice.choice((0, 1, 0x45, 0x60, 0x81, 0xFF, 17, 44, 50))
            case 2:
                changed[at : at + 2] = dice.choice((0, 8, 20, len(frame), 0xFFFF)).to_bytes(2)
            case _:
                del changed[dice.randrange(len(changed)) :]
    fresh = bytes(changed)
    # Else most of them would be bad checksums of IPv4.
    if dice.random() < 0.7 and fresh[12:14] == b"\x08\x00" and len(fresh) >= 34:
        size = 4 * (fresh[14] & 15)
        header = fresh[14:24] + bytes(2) + fresh[26 : 14 + size]
        fresh = fresh[:24] + checksum(header).to_bytes(2) + fresh[26:]
    return fresh
