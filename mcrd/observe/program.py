"""Which frames a look takes: the program that the kernel runs on each, from the rule's input.

It drops only what has nothing to do with the rule: other addresses and other ports, and of what
this host sends, all but the rule's addresses. Fragments,
frames with a second VLAN tag and IPv6 packets with extension headers pass, for it cannot judge
them; and so do IGMP, MLD and the errors of ICMP.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence

from mcrd.addresses import first_address, first_port, last_port
from mcrd.model import Address, Input
from mcrd.sockets.filters import (
    AND,
    DROP,
    ETH_P_IP,
    ETH_P_IPV6,
    EXTENSIONS,
    IF_AT_LEAST,
    IF_EQUAL,
    IF_GREATER,
    LOAD_BYTE,
    LOAD_HALF,
    LOAD_HEADER_LENGTH,
    LOAD_WORD,
    NETWORK,
    PACKET_OUTGOING,
    PACKET_TYPE,
    PASS,
    PROTOCOL,
    Instruction,
    by_version,
    within,
)

LOAD_HALF_AT = 0x48  # at k + X
OFFSET = 0x1FFF  # of the IPv4 header's fragment field
ICMP, IGMP, UDP, ESP, ICMPV6 = 1, 2, 17, 50, 58
NEIGHBOUR_DISCOVERY = (133, 137)  # types of ICMPv6 that say nothing about a stream


def about(given: Input) -> Sequence[Instruction]:
    """The program for one input."""
    own = _outgoing(given)
    return (
        (LOAD_BYTE, 0, 0, PACKET_TYPE),
        (IF_EQUAL, 0, len(own), PACKET_OUTGOING),
        *own,
        *by_version(_ipv4(given), _ipv6(given)),
    )


def _outgoing(given: Input) -> Sequence[Instruction]:
    """Pass what this host sends to the addresses of the input, and drop all else that it sends.

    There may be much of it that has the port.
    """
    version = first_address(given.address).version
    protocol, at = (ETH_P_IP, 16) if version == 4 else (ETH_P_IPV6, 36)
    return (
        (LOAD_HALF, 0, 0, PROTOCOL),
        (IF_EQUAL, 1, 0, protocol),
        DROP,
        *_destination(given, version, NETWORK + at),
        DROP,
    )


def _ipv4(given: Input) -> Sequence[Instruction]:
    return (
        (LOAD_HALF, 0, 0, NETWORK + 6),
        (AND, 0, 0, OFFSET),
        (IF_EQUAL, 1, 0, 0),
        PASS,
        *_destination(given, 4, NETWORK + 16),
        (LOAD_BYTE, 0, 0, NETWORK + 9),
        *_any_of((ICMP, IGMP, *_esp(given))),
        (IF_EQUAL, 1, 0, UDP),
        DROP,
        (LOAD_HEADER_LENGTH, 0, 0, NETWORK),
        (LOAD_HALF_AT, 0, 0, NETWORK + 2),
        *within(first_port(given.port), last_port(given.port)),
    )


def _ipv6(given: Input) -> Sequence[Instruction]:
    return (
        *_destination(given, 6, NETWORK + 36),
        (LOAD_BYTE, 0, 0, NETWORK + 6),
        *_any_of((*EXTENSIONS, *_esp(given))),
        (IF_EQUAL, 0, 4, ICMPV6),
        (LOAD_BYTE, 0, 0, NETWORK + 40),
        (IF_AT_LEAST, 0, 1, NEIGHBOUR_DISCOVERY[0]),
        (IF_GREATER, 0, 1, NEIGHBOUR_DISCOVERY[1]),
        PASS,
        (LOAD_BYTE, 0, 0, NETWORK + 6),
        (IF_EQUAL, 1, 0, UDP),
        DROP,
        (LOAD_HALF, 0, 0, NETWORK + 42),
        *within(first_port(given.port), last_port(given.port)),
    )


def _any_of(numbers: Sequence[int]) -> Sequence[Instruction]:
    """Pass what A is among, and go on with all else."""
    return tuple(step for number in numbers for step in ((IF_EQUAL, 0, 1, number), PASS))


def _esp(given: Input) -> Sequence[int]:
    return (ESP,) if given.protocol == "esp" else ()


def _destination(given: Input, version: int, at: int) -> Sequence[Instruction]:
    """Pass the addresses of the input, by their last 32 bits, and go on with all else."""
    first = first_address(given.address)
    if first.version != version:
        return ()
    many = 1 if isinstance(given.address, Address) else given.address.num_addresses
    mask = -many & 0xFFFFFFFF  # for it is a power of two
    return (
        (LOAD_WORD, 0, 0, at),
        (AND, 0, 0, mask),
        (IF_EQUAL, 0, 1, int(first) & mask),
        PASS,
    )
