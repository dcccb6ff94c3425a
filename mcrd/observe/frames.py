"""Frames of a look, read as far as their headers, and summed up by kind. Pure; trusts no byte."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address

from msgspec.structs import astuple

from mcrd.looks import Kind, Look
from mcrd.observe.messages import MLD, MalformedError, Query, icmp, igmp, mld
from mcrd.sockets.common import adds_up

KINDS = 256  # of which more are only counted, but for as many again that the rule takes
EXTENSIONS = 16  # headers of IPv6, before the packet is taken for nonsense

ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
TAGS = (0x8100, 0x88A8)
VERSIONS = {ETH_P_IP: 4, ETH_P_IPV6: 6}
ICMP, IGMP, UDP, ESP, ICMPV6 = 1, 2, 17, 50, 58
NAMES = {ICMP: "icmp", IGMP: "igmp", UDP: "udp", ESP: "esp", ICMPV6: "icmpv6"}
TOLD_APART = Kind.__struct_fields__.index("count")  # fields by which one kind is not another
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60


def parse(packet: bytes, protocol: int, vlan: int | None, verify: bool) -> Kind | None:
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
        if protocol not in VERSIONS:
            return None
        kind = (_ipv4 if protocol == ETH_P_IP else _ipv6)(packet[at:], outer, verify)
        kind.inner_vlan = inner
        return kind
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


def _ipv4(packet: bytes, vlan: int | None, verify: bool) -> Kind:
    first, _, total, _, where, ttl, protocol, _, source, destination = struct.unpack_from(
        "!BBHHHBBH4s4s", packet
    )
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20 or not header <= total <= len(packet):
        raise MalformedError("its lengths contradict each other")
    body = packet[header:total]
    offset, more = (where & 0x1FFF) * 8, bool(where & 0x2000)
    kind = _kind(vlan, source, destination, protocol, ttl, total + offset)
    _payload(kind, protocol, body, offset, more, verify, source + destination)
    return kind


def _ipv6(packet: bytes, vlan: int | None, verify: bool) -> Kind:
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
    kind = _kind(vlan, source, destination, protocol, hops, 40 + length + offset)
    _payload(kind, protocol, body, offset, more, verify, source + destination)
    return kind


def _kind(
    vlan: int | None, source: bytes, destination: bytes, protocol: int, ttl: int, size: int
) -> Kind:
    ends = (_name(source), _name(destination), NAMES.get(protocol, str(protocol)))
    return Kind(vlan, *ends, count=1, largest=size, ttl_lowest=ttl, ttl_highest=ttl)


def _payload(
    kind: Kind, protocol: int, body: bytes, offset: int, more: bool, verify: bool, addresses: bytes
) -> None:
    """Say of the kind what follows the header of IP."""
    if offset:
        kind.fragment = "later"
        return
    if more:
        kind.fragment = "first"
    if protocol == UDP:
        _, kind.port, length, checksum = struct.unpack_from("!HHHH", body)
        # In a super-frame, the length may be that of one datagram, and of the first fragment it is
        # that of the whole.
        if not more and length == len(body):
            missing = checksum == 0 and len(addresses) == 32
            pseudo = addresses + struct.pack("!HH", UDP, length)  # RFC 768
            wrong = verify and checksum != 0 and not adds_up(pseudo + body)
            kind.wrong_checksum = missing or wrong
        elif not more and (length < 8 or length > len(body)):
            raise MalformedError("the length of UDP is wrong")
    elif more:
        return
    elif protocol == IGMP:
        kind.detail = _group_message(body, 4)
    elif protocol == ICMPV6 and body[0] in MLD:
        kind.protocol, kind.detail = "mld", _group_message(body, 6)
    elif protocol in (ICMP, ICMPV6):
        kind.detail = _icmp(body, 4 if protocol == ICMP else 6)


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
    return str(ip_address(address))


class Summary:
    """What arrived, by kind, for a look, in memory that does not depend on what arrives.

    Kinds that are `wanted` have room of their own, which all the others cannot fill.
    """

    def __init__(self, look: Look, wanted: Callable[[Kind], bool] = lambda _: False) -> None:
        self.look = look
        self._wanted = wanted
        self._kinds: dict[tuple[object, ...], Kind] = {}

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
        self.look.frames += 1
        try:
            kind = parse(packet, protocol, vlan, verify)
        except MalformedError:
            self.look.malformed += 1
            return
        if kind is None:
            self.look.not_ip += 1
            return
        kind.other_host, kind.outgoing = other_host, outgoing
        key = astuple(kind)[:TOLD_APART]
        found = self._kinds.get(key)
        if found is not None:
            found.count += 1
            found.largest = max(found.largest, kind.largest)
            found.ttl_lowest = min(found.ttl_lowest, kind.ttl_lowest)
            found.ttl_highest = max(found.ttl_highest, kind.ttl_highest)
        elif len(self._kinds) < KINDS or (len(self._kinds) < 2 * KINDS and self._wanted(kind)):
            self._kinds[key] = kind
        else:
            self.look.of_more_kinds += 1

    def end(self) -> None:
        """Put the kinds into the look, the most frequent one first."""
        self.look.kinds = sorted(self._kinds.values(), key=lambda kind: -kind.count)
