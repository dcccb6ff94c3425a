"""Frames of a look, read as far as their headers, and summed up by kind. Pure; trusts no byte."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mcrd import looks
from mcrd.observe.messages import MLD, MalformedError, Query, icmp, igmp, mld

KINDS = 256  # of which more are only counted, but for as many again that the rule takes
EXTENSIONS = 16  # headers of IPv6, before the packet is taken for nonsense

ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
TAGS = (0x8100, 0x88A8)
VERSIONS = {ETH_P_IP: 4, ETH_P_IPV6: 6}
ICMP, IGMP, UDP, ESP, ICMPV6 = 1, 2, 17, 50, 58
NAMES = {ICMP: "icmp", IGMP: "igmp", UDP: "udp", ESP: "esp", ICMPV6: "icmpv6"}
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60


class Kind(NamedTuple):
    """What frames that are counted together have in common: the first fields of looks.Kind.

    `fragment` is "", "first" or "later": what is behind the first has no ports. `detail` says what
    a message of IGMP, MLD or ICMP is about. `other_host`: it was for another hardware address.
    `outgoing`: this host sent it. `inner_vlan`: of a second tag.
    """

    vlan: int | None
    source: str
    destination: str
    protocol: str
    port: int | None = None
    fragment: str = ""
    wrong_checksum: bool = False
    detail: str = ""
    other_host: bool = False
    outgoing: bool = False
    inner_vlan: int | None = None


class Frame(NamedTuple):
    """One frame: its kind, and what differs within a kind; `size` is that of the IP packet."""

    kind: Kind
    ttl: int
    size: int


def parse(packet: bytes, protocol: int, vlan: int | None, verify: bool) -> Frame | None:
    """What a frame is, without its link header; None: neither IPv4 nor IPv6. Raises MalformedError.

    `protocol` is the EtherType, `vlan` that of the tag that the kernel took off. `verify`: the
    checksum is one that can be wrong.
    """
    at = 0
    tags = [vlan or 0]
    try:
        if vlan is not None and _begins_with_tag(packet, protocol):
            protocol = TAGS[0]
        while protocol in TAGS and at < 8:
            tag, protocol = struct.unpack_from("!HH", packet, at)
            tags.append(tag & 0xFFF)
            at += 4
        outer, inner, *_ = (*filter(None, tags), None, None)  # 0 is a priority, and no VLAN
        match protocol:
            case 0x0800:
                frame = _ipv4(packet[at:], outer, verify)
            case 0x86DD:
                frame = _ipv6(packet[at:], outer, verify)
            case _:
                return None
        return frame._replace(kind=frame.kind._replace(inner_vlan=inner))
    except (struct.error, IndexError):
        raise MalformedError("it is too short") from None


def _begins_with_tag(packet: bytes, protocol: int) -> bool:
    """Whether a second tag comes first, although the protocol is said to be IP.

    So it is since Linux 6.10 (vlan_get_protocol_dgram() in net/packet/af_packet.c).
    """
    if protocol not in VERSIONS or len(packet) < 8:
        return False
    length, inner, payload = len(packet), *struct.unpack_from("!2xHH", packet)
    total = inner if protocol == ETH_P_IP else 40 + payload
    is_ip = packet[0] >> 4 == VERSIONS[protocol] and total <= length
    return not is_ip and (inner in TAGS or inner == protocol)


def _ipv4(packet: bytes, vlan: int | None, verify: bool) -> Frame:
    first, _, total, _, where, ttl, protocol, _, source, destination = struct.unpack_from(
        "!BBHHHBBH4s4s", packet
    )
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20 or not header <= total <= len(packet):
        raise MalformedError("its lengths contradict each other")
    body = packet[header:total]
    offset, more = (where & 0x1FFF) * 8, bool(where & 0x2000)
    kind = Kind(vlan, _name(source), _name(destination), NAMES.get(protocol, str(protocol)))
    kind = _payload(kind, protocol, body, offset, more, verify, source + destination)
    return Frame(kind, ttl, total + offset)


def _ipv6(packet: bytes, vlan: int | None, verify: bool) -> Frame:
    word, length, protocol, hops, source, destination = struct.unpack_from("!IHBB16s16s", packet)
    if word >> 28 != 6 or 40 + length > len(packet):
        raise MalformedError("its lengths contradict each other")
    body = packet[40 : 40 + length]
    offset, more = 0, False
    for _ in range(EXTENSIONS):
        if protocol in (HOP_BY_HOP, ROUTING, DESTINATION):
            size = 8 + body[1] * 8
        elif protocol == AUTHENTICATION:
            size = 8 + body[1] * 4
        elif protocol == FRAGMENT:
            (where,) = struct.unpack_from("!H", body, 2)
            offset, more, size = where & 0xFFF8, bool(where & 1), 8
        else:
            break
        if size > len(body):
            raise MalformedError("an extension header is cut short")
        protocol, body = body[0], body[size:]
        if offset:
            break  # what follows is the middle of something
    else:
        raise MalformedError("it has too many extension headers")
    kind = Kind(vlan, _name(source), _name(destination), NAMES.get(protocol, str(protocol)))
    kind = _payload(kind, protocol, body, offset, more, verify, source + destination)
    return Frame(kind, hops, 40 + length + offset)


def _payload(
    kind: Kind, protocol: int, body: bytes, offset: int, more: bool, verify: bool, addresses: bytes
) -> Kind:
    if offset:
        return kind._replace(fragment="later")
    if more:
        kind = kind._replace(fragment="first")
    if protocol == UDP:
        _, port, length, checksum = struct.unpack_from("!HHHH", body)
        wrong = False
        # In a super-frame, the length may be that of one datagram, and of the first fragment it is
        # that of the whole.
        if not more and length == len(body):
            missing = checksum == 0 and len(addresses) == 32
            wrong = missing or (verify and checksum != 0 and not _adds_up(addresses, body))
        elif not more and (length < 8 or length > len(body)):
            raise MalformedError("the length of UDP is wrong")
        return kind._replace(port=port, wrong_checksum=wrong)
    if more:
        return kind
    if protocol == IGMP:
        return kind._replace(detail=_group_message(body, 4))
    if protocol == ICMPV6 and body[0] in MLD:
        return kind._replace(protocol="mld", detail=_group_message(body, 6))
    if protocol in (ICMP, ICMPV6):
        return kind._replace(detail=_icmp(body, 4 if protocol == ICMP else 6))
    return kind


def _adds_up(addresses: bytes, body: bytes) -> bool:
    """Whether the checksum over the pseudo-header and UDP is right (RFC 768)."""
    # 2^16 is 1 modulo 2^16 - 1: so the sum of all words is the number that they make.
    words = body if len(body) % 2 == 0 else body + b"\0"
    total = int.from_bytes(addresses, "big") + int.from_bytes(words, "big") + UDP + len(body)
    return total % 0xFFFF == 0


def _group_message(body: bytes, version: int) -> str:
    """What IGMP or MLD is about."""
    message = igmp(body) if version == 4 else mld(body)
    if isinstance(message, Query):
        return f"query v{message.version}"
    if message is None:
        return f"type {body[0]}"
    if not message:
        return "report of no group"
    first = message[0]
    return f"{'leave' if first.sources == frozenset() else 'report'} of {first.group}"


def _icmp(body: bytes, version: int) -> str:
    try:
        error = icmp(body, version)
    except MalformedError:  # what it quotes is cut short
        error = None
    about = "" if error is None else f" about {error.destination} port {error.port}"
    return f"{body[0]}/{body[1]}{about}"


@lru_cache(maxsize=1024)
def _name(address: bytes) -> str:
    return str(IPv4Address(address) if len(address) == 4 else IPv6Address(address))


class Summary:
    """What arrived, by kind, in memory that does not depend on what arrives.

    Kinds that are `wanted` have room of their own, which all the others cannot fill.
    """

    def __init__(self, wanted: Callable[[Kind], bool] = lambda _: False) -> None:
        self._wanted = wanted
        self._kinds: dict[Kind, looks.Kind] = {}
        self.frames = 0
        self.malformed = 0
        self.not_ip = 0
        self.of_more_kinds = 0

    def add(
        self,
        packet: bytes,
        protocol: int,
        vlan: int | None,
        verify: bool,
        *,
        other_host: bool = False,
        outgoing: bool = False,
    ) -> None:
        """Add one more frame, as parse() returns it."""
        self.frames += 1
        try:
            frame = parse(packet, protocol, vlan, verify)
        except MalformedError:
            self.malformed += 1
            return
        if frame is None:
            self.not_ip += 1
            return
        kind, ttl, size = frame
        if other_host or outgoing:
            kind = kind._replace(other_host=other_host, outgoing=outgoing)
        found = self._kinds.get(kind)
        if found is not None:
            found.count += 1
            found.largest = max(found.largest, size)
            found.ttl_lowest = min(found.ttl_lowest, ttl)
            found.ttl_highest = max(found.ttl_highest, ttl)
        elif len(self._kinds) < KINDS or (len(self._kinds) < 2 * KINDS and self._wanted(kind)):
            self._kinds[kind] = looks.Kind(*kind, 1, size, ttl, ttl)
        else:
            self.of_more_kinds += 1

    def tell(self, look: looks.Look) -> None:
        """Add it to a look, the most frequent kind first."""
        look.frames, look.malformed = self.frames, self.malformed
        look.not_ip, look.of_more_kinds = self.not_ip, self.of_more_kinds
        look.kinds = sorted(self._kinds.values(), key=lambda kind: -kind.count)
