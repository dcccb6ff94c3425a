"""Messages of IGMP, MLD and ICMP, read. Pure; trusts no byte."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

from mcrd.model import Address

UDP, ESP = 17, 50
MLD = (130, 131, 132, 143)  # types of ICMPv6
ICMP_ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
RECORDS = 256  # of one report, of which more are not read
SOURCES = 64  # of one record; more are taken for any


class MalformedError(ValueError):
    """Lengths that contradict each other, or a message that is cut short."""


@dataclass(frozen=True, slots=True)
class Query:
    """Somebody asks who wants what: all groups (None), or one, or that from some sources (packed).

    `response`: seconds to answer; `interval`: seconds between two general ones. `suppress`: routers
    are to leave their timers (the S flag).
    """

    version: int
    group: Address | None
    response: float
    interval: float = 125.0
    sources: frozenset[bytes] = frozenset()
    suppress: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What a host wants of a group, `now`; or which sources it wants in addition, or no longer.

    `sources` None: any. No sources, now: it has left. They are packed, as bytes: the hashes of
    addresses are those of numbers, which whoever chooses the addresses can make equal. `kind` is
    that of the record (RFC 3376, 4.2.12), and `refused` the sources that it does not want; 0: a
    message of an older `version` of IGMP or MLD.
    """

    group: Address
    sources: frozenset[bytes] | None = None
    change: Literal["now", "allow", "block"] = "now"
    kind: int = 0
    refused: frozenset[bytes] = frozenset()
    version: int = 0


@dataclass(frozen=True, slots=True)
class Error:
    """An error of ICMP: type and code, and the packet that it is about; port 0 with ESP."""

    kind: int
    code: int
    source: Address
    destination: Address
    port: int
    protocol: Literal["udp", "esp"] = "udp"


Message = Query | tuple[Record, ...] | None


def igmp(body: bytes) -> Message:
    """A message of IGMP (RFC 1112, 2236, 3376); None for others. Raises MalformedError."""
    try:
        kind, code, _, packed = struct.unpack_from("!BBH4s", body)
    except struct.error:
        raise MalformedError("it is too short") from None
    group = IPv4Address(packed)
    match kind:
        case 0x11:
            version = 3 if len(body) >= 12 else 2 if code else 1
            tenths = (_exponential(code, 4) if version == 3 else code) or 100
            about = group if int(group) else None
            return _query(version, about, tenths / 10, body[8:] if version == 3 else b"")
        case 0x12 | 0x16:
            return (Record(group, version=1 if kind == 0x12 else 2),)
        case 0x17:
            return (Record(group, frozenset(), version=2),)
        case 0x22:
            return tuple(_records(body, 4))
    return None


def mld(body: bytes) -> Message:
    """A message of MLD (RFC 2710, 3810), with its ICMPv6 header. Raises MalformedError."""
    try:
        (kind,) = struct.unpack_from("!B", body)
        if kind == 143:
            return tuple(_records(body, 16))
        if kind not in MLD:
            return None
        code, packed = struct.unpack_from("!4xH2x16s", body)
    except struct.error:
        raise MalformedError("it is too short") from None
    group = IPv6Address(packed)
    if kind == 130:
        version = 2 if len(body) >= 28 else 1
        milliseconds = _exponential(code, 12) if version == 2 else code
        about = group if int(group) else None
        return _query(version, about, milliseconds / 1000, body[24:] if version == 2 else b"")
    return (Record(group, None if kind == 131 else frozenset(), version=1),)


def _query(version: int, group: Address | None, response: float, more: bytes) -> Query:
    """`more` is what the latest version has behind the group (RFC 3376, 4.1; RFC 3810, 5.1)."""
    if not more:
        return Query(version, group, response)
    flags, every, count = struct.unpack_from("!BBH", more)
    size = len(group.packed) if group is not None else 4
    if count and len(more) < 4 + count * size:
        raise MalformedError("it is too short")
    listed = (more[at : at + size] for at in range(4, 4 + min(count, SOURCES) * size, size))
    interval = _exponential(every, 4) or 125.0
    return Query(version, group, response, interval, frozenset(listed), bool(flags & 8))


def icmp(body: bytes, version: int) -> Error | None:
    """An error of ICMP or ICMPv6 about UDP or ESP (RFC 792, 4443); None for others.

    Raises MalformedError.
    """
    try:
        kind, code = struct.unpack_from("!BB", body)
        if kind not in ICMP_ERRORS[version]:
            return None
        if version == 4:
            words, protocol, source, destination = struct.unpack_from("!B8xB2x4s4s", body, 8)
            at = 8 + (words & 15) * 4
        else:
            protocol, source, destination = struct.unpack_from("!6xBx16s16s", body, 8)
            at = 8 + 40
        if protocol not in (UDP, ESP):
            return None
        (port,) = struct.unpack_from("!2xH", body, at) if protocol == UDP else (0,)
    except struct.error:
        raise MalformedError("it is too short") from None
    named: Literal["udp", "esp"] = "udp" if protocol == UDP else "esp"
    return Error(kind, code, ip_address(source), ip_address(destination), port, named)


def _exponential(code: int, bits: int) -> int:
    """A code that is a floating point number from its highest bit on (RFC 3376, 4.1.1)."""
    if code < 1 << (bits + 3):
        return code
    mantissa, exponent = code & ((1 << bits) - 1), code >> bits & 7
    return (mantissa | 1 << bits) << (exponent + 3)


def _records(body: bytes, size: int) -> Iterator[Record]:
    """The records of a report (RFC 3376, 4.2.12; RFC 3810, 5.2.12); addresses have `size` bytes."""
    try:
        (count,) = struct.unpack_from("!6xH", body)
        at = 8
        for _ in range(min(count, RECORDS)):
            kind, more, sources, group = struct.unpack_from(f"!BBH{size}s", body, at)
            at += 4 + size
            end = at + sources * size
            if end > len(body):
                raise MalformedError("it is too short")
            named = None
            if sources <= SOURCES:
                named = frozenset(body[each : each + size] for each in range(at, end, size))
            at = end + more * 4
            match kind:
                case 2 | 4:  # IS_EXCLUDE, TO_EXCLUDE: some others than those that it names
                    yield Record(ip_address(group), kind=kind, refused=named or frozenset())
                case 1 | 3:  # IS_INCLUDE, TO_INCLUDE
                    yield Record(ip_address(group), named, kind=kind)
                case 5:  # ALLOW
                    yield Record(ip_address(group), named, "allow", kind)
                case 6 if named is not None:  # BLOCK
                    yield Record(ip_address(group), named, "block", kind)
    except struct.error:
        raise MalformedError("it is too short") from None
