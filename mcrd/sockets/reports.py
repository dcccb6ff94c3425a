"""Reports of memberships as IP packets, as a host sends them when a querier asks. Pure.

All are current-state: none says that something was left.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mcrd.model import Address

Wanted = Mapping[Address, frozenset[Address] | None]
"""By group, the sources that it is wanted from; None: from any."""

LATEST = {4: 3, 6: 2}  # versions of IGMP and MLD
# Where reports of the latest version go (RFC 3376, 4.2.14; RFC 3810, 5.2.14).
ROUTERS: Mapping[int, Address] = {4: IPv4Address("224.0.0.22"), 6: IPv6Address("ff02::16")}
ALL_SYSTEMS = IPv4Address("224.0.0.1")
ALL_NODES = IPv6Address("ff02::1")
INCLUDE, EXCLUDE = 1, 2  # MODE_IS_INCLUDE and MODE_IS_EXCLUDE (RFC 3376, 4.2.12)
REPORT = {(4, 1): 0x12, (4, 2): 0x16, (4, 3): 0x22, (6, 1): 131, (6, 2): 143}
LEAST_MTU = {4: 576, 6: 1280}  # bytes
LONGEST = 1500  # bytes, whatever the MTU: who reads reports may look at some records only
RECORD = {4: 8, 6: 20}  # bytes, without sources
PROTOCOL_IGMP, PROTOCOL_ICMPV6 = 2, 58
INTERNETWORK_CONTROL = 0xC0  # RFC 3376, 4: the TOS of IGMP
DONT_FRAGMENT = 0x4000
ALERT_V4 = bytes((0x94, 4, 0, 0))  # RFC 2113
# Hop-by-hop: what follows it, its length, Router Alert for MLD (RFC 2711), padding.
ALERT_V6 = bytes((PROTOCOL_ICMPV6, 0, 5, 2, 0, 0, 1, 0))


class Report(NamedTuple):
    """A packet, from the IP header on, and whom it goes to."""

    destination: Address
    packet: bytes


def is_reported(group: Address) -> bool:
    """Whether a member says so at all (RFC 3376, 6; RFC 3810, 6; RFC 4291, 2.7)."""
    if isinstance(group, IPv4Address):
        return group != ALL_SYSTEMS
    return group != ALL_NODES and group.packed[1] & 0x0F >= 2


def reports(wanted: Wanted, source: Address, spoken: int, mtu: int) -> Iterator[Report]:
    """What tells that these groups are wanted, all of one family.

    `source` is the sender's, `spoken` the version of IGMP or MLD, `mtu` in bytes. Before the
    latest version, there are no sources, and a packet for each group.
    """
    groups = {group: sources for group, sources in wanted.items() if is_reported(group)}
    version = source.version
    kind = REPORT[version, spoken]
    if spoken < LATEST[version]:
        for group in groups:
            body = struct.pack("!BxHHH", kind, 0, 0, 0) if version == 6 else bytes((kind, 0, 0, 0))
            yield Report(group, with_header(source, group, body + group.packed))
        return
    longest = min(max(mtu, LEAST_MTU[version]), LONGEST)
    room = longest - len(with_header(source, ROUTERS[version], bytes(8)))
    for records in _filled(_records(groups, room), room):
        body = struct.pack("!BxHHH", kind, 0, 0, len(records)) + b"".join(records)
        yield Report(ROUTERS[version], with_header(source, ROUTERS[version], body))


def _records(wanted: Wanted, room: int) -> Iterator[bytes]:
    for group, sources in wanted.items():
        if sources is None:
            yield _record(EXCLUDE, group, ())
            continue
        ordered = sorted(sources, key=int)
        most = (room - RECORD[group.version]) // len(group.packed)
        for at in range(0, len(ordered), most):  # RFC 3376, 4.2.16: several records
            yield _record(INCLUDE, group, ordered[at : at + most])


def _record(kind: int, group: Address, sources: Sequence[Address]) -> bytes:
    """RFC 3376, 4.2.4 to 4.2.10; RFC 3810, 5.2.4 to 5.2.10."""
    packed = b"".join(source.packed for source in sources)
    return struct.pack("!BxH", kind, len(sources)) + group.packed + packed


def _filled(records: Iterable[bytes], room: int) -> Iterator[Sequence[bytes]]:
    """In their order, as many at once as there is room for."""
    some: list[bytes] = []
    left = room
    for record in records:
        if some and len(record) > left:
            yield some
            some, left = [], room
        some.append(record)
        left -= len(record)
    if some:
        yield some


def with_header(source: Address, destination: Address, body: bytes) -> bytes:
    """Add the checksum, a TTL of 1 and Router Alert."""
    ends = source.packed + destination.packed
    if source.version == 4:
        body = _with_checksum(body, b"")
        length = 24 + len(body)
        first = struct.pack("!BBHHH", 0x46, INTERNETWORK_CONTROL, length, 0, DONT_FRAGMENT)
        header = first + struct.pack("!BBH", 1, PROTOCOL_IGMP, 0) + ends + ALERT_V4
        return _with_checksum(header, b"", at=10) + body
    body = _with_checksum(body, ends + struct.pack("!II", len(body), PROTOCOL_ICMPV6))
    header = struct.pack("!IHBB", 6 << 28, len(ALERT_V6) + len(body), 0, 1)
    return header + ends + ALERT_V6 + body


def _with_checksum(data: bytes, pseudo: bytes, at: int = 2) -> bytes:
    """RFC 1071: what it has there is 0, and all lengths are even."""
    total = sum(struct.unpack(f"!{(len(pseudo) + len(data)) // 2}H", pseudo + data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:at] + struct.pack("!H", ~total & 0xFFFF) + data[at + 2 :]
