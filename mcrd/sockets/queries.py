"""Queries of IGMP and MLD as IP packets: who wants a group? Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct

from mcrd.model import Address
from mcrd.querying.groups import Times
from mcrd.querying.querier import Ask
from mcrd.sockets.reports import ALL_NODES, ALL_SYSTEMS, LATEST, Report, with_header

IGMP_QUERY, MLD_QUERY = 0x11, 130
ROBUSTNESS_MAX = 7  # of three bits


def query(ask: Ask, source: Address, spoken: int, times: Times) -> Report:
    """What asks, as `spoken`, a version of IGMP or MLD: before the latest, of any source alone."""
    general = ask.group is None
    four = source.version == 4
    group: Address = ask.group or type(source)(0)
    everybody: Address = ALL_SYSTEMS if four else ALL_NODES
    seconds = times.soon if ask.soon else times.response if general else times.last_member
    latest = spoken == LATEST[source.version]
    if four:
        code = 0 if spoken == 1 else tenths(seconds) if latest else min(round(seconds * 10), 255)
        body = struct.pack("!BBH", IGMP_QUERY, code, 0) + group.packed
    else:
        code = milliseconds(seconds) if latest else min(round(seconds * 1000), 0xFFFF)
        body = struct.pack("!BBHHH", MLD_QUERY, 0, 0, code, 0) + group.packed
    if latest:
        flags = ask.suppress << 3 | (times.robustness if times.robustness <= ROBUSTNESS_MAX else 0)
        body += struct.pack("!BBH", flags, _code(round(times.query), 4), len(ask.sources))
        body += b"".join(sorted(ask.sources))
    destination = everybody if general else group
    return Report(destination, with_header(source, destination, body))


def tenths(seconds: float) -> int:
    """Max Resp Code of IGMPv3 (RFC 3376, 4.1.1)."""
    return _code(round(seconds * 10), 4)


def milliseconds(seconds: float) -> int:
    """Maximum Response Code of MLDv2 (RFC 3810, 5.1.3)."""
    return _code(round(seconds * 1000), 12)


def _code(value: int, bits: int) -> int:
    """A number as a code that is a floating point number from its highest bit on, rounded down."""
    if value < 1 << (bits + 3):
        return value
    exponent = value.bit_length() - bits - 1 - 3
    if exponent > 7:
        return (1 << (bits + 4)) - 1
    return 1 << (bits + 3) | exponent << bits | (value >> (exponent + 3)) & ((1 << bits) - 1)
