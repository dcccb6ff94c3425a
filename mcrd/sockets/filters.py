"""Programs that the kernel runs on every frame: classic BPF (linux/filter.h), as plain values."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mcrd.addresses import destinations
from mcrd.config.overlap import runs
from mcrd.model import Address, Config, Network
from mcrd.planning.broadcast import input_here
from mcrd.planning.links import Link
from mcrd.planning.names import real

Instruction = tuple[int, int, int, int]
"""struct sock_filter: code, jump if true, jump if false, k."""

# Of the frame, at k; negative: what the kernel knows of it.
LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
LOAD_WORD_AT = 0x40  # at k + X
LOAD_LENGTH = 0x80
LOAD_CELL = 0x60
LOAD_HEADER_LENGTH = 0xB1  # X: four times the lower half of the byte at k
LOAD_NUMBER = 0x00
STORE = 0x02
TO_X = 0x07
XOR_X, AND, ADD, MULTIPLY, DIVIDE_REST, SHIFT_RIGHT = 0xAC, 0x54, 0x04, 0x24, 0x94, 0x74
GO = 0x05
IF_EQUAL, IF_GREATER, IF_AT_LEAST = 0x15, 0x25, 0x35
RETURN, RETURN_A = 0x06, 0x16

# Where negative offsets begin (linux/filter.h): SKF_AD_OFF and SKF_NET_OFF.
PROTOCOL = 0xFFFFF000
PACKET_TYPE = 0xFFFFF000 + 4
NETWORK = 0xFFF00000

ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
GOLDEN = 0x9E3779B1  # 2^32 over the golden ratio: spreads what differs in the low bits


def _addresses(source: int, destination: int) -> tuple[Instruction, ...]:
    """Put into cell 1 what the last words of both addresses make, which are at these offsets."""
    return (
        (LOAD_WORD, 0, 0, NETWORK + source),
        (MULTIPLY, 0, 0, GOLDEN),
        (TO_X, 0, 0, 0),
        (LOAD_WORD, 0, 0, NETWORK + destination),
        (XOR_X, 0, 0, 0),
        (STORE, 0, 0, 1),
    )


_FLOW_IPV4: Sequence[Instruction] = (
    *_addresses(12, 16),
    (LOAD_HEADER_LENGTH, 0, 0, NETWORK),
    (LOAD_WORD_AT, 0, 0, NETWORK),  # both ports
)
_FLOW_IPV6: Sequence[Instruction] = (*_addresses(20, 36), (LOAD_WORD, 0, 0, NETWORK + 40))
# Of the ports in A, and the addresses in cell 1.
_MIX: Sequence[Instruction] = (
    (STORE, 0, 0, 2),
    (LOAD_CELL, 0, 0, 1),
    (MULTIPLY, 0, 0, GOLDEN),
    (TO_X, 0, 0, 0),
    (LOAD_CELL, 0, 0, 2),
    (XOR_X, 0, 0, 0),
    (MULTIPLY, 0, 0, GOLDEN),
    (SHIFT_RIGHT, 0, 0, 16),
)


def share(workers: int, largest: int) -> Sequence[Instruction]:
    """Which socket of a fanout group takes a frame (PACKET_FANOUT_CBPF).

    The group has two sockets for each worker: 2n + 1 for what fits a slot, `largest` bytes without
    the link header, and 2n for all else. A flow, by addresses and ports, has one worker; what is
    not plain IPv4 or IPv6 has the first.
    """
    if workers == 1:  # it runs for every frame: no work that decides nothing
        return (
            (LOAD_LENGTH, 0, 0, 0),
            (IF_GREATER, 1, 0, largest),
            (RETURN, 0, 0, 1),
            (RETURN, 0, 0, 0),
        )
    choose = (*_MIX, (DIVIDE_REST, 0, 0, workers), (MULTIPLY, 0, 0, 2), (STORE, 0, 0, 0))
    return (
        (LOAD_NUMBER, 0, 0, 0),
        (STORE, 0, 0, 0),
        (LOAD_HALF, 0, 0, PROTOCOL),
        (IF_EQUAL, 2, 0, ETH_P_IP),
        (IF_EQUAL, 2 + len(_FLOW_IPV4), 0, ETH_P_IPV6),
        (GO, 0, 0, len(_FLOW_IPV4) + 1 + len(_FLOW_IPV6) + len(choose)),
        *_FLOW_IPV4,
        (GO, 0, 0, len(_FLOW_IPV6)),
        *_FLOW_IPV6,
        *choose,
        (LOAD_LENGTH, 0, 0, 0),
        (IF_GREATER, 3, 0, largest),
        (LOAD_CELL, 0, 0, 0),
        (ADD, 0, 0, 1),
        (RETURN_A, 0, 0, 0),
        (LOAD_CELL, 0, 0, 0),
        (RETURN_A, 0, 0, 0),
    )


Span = tuple[int, int]
"""The lowest and the highest of consecutive 32-bit numbers."""

PASS: Instruction = (RETURN, 0, 0, 0xFFFFFFFF)
DROP: Instruction = (RETURN, 0, 0, 0)
PACKET_OUTGOING = 4  # linux/if_packet.h
ETH_P_8021Q, ETH_P_8021AD = 0x8100, 0x88A8  # a tag that the kernel left in the frame
_MORE_OR_OFFSET = 0x3FFF  # of the IPv4 header's fragment field
# IPv6 headers that stand before a fragment, or before the last destination (RFC 8200, 4).
EXTENSIONS = (0, 43, 44, 51, 60)
SPANS = 800
"""How many spans fit BPF_MAXINSNS, 4096 instructions (linux/bpf_common.h)."""


def networks(config: Config, links: Mapping[str, Link]) -> dict[str, frozenset[Network]]:
    """What the rules of each input interface take, by destination and the interface's own name."""
    found: dict[str, set[Network]] = {}
    for rule in config.rules.values():
        if rule.enabled:
            name = real(rule.input.interface, links)
            here = input_here(rule.input, links.get(name))
            found.setdefault(name, set()).update(map(_network, destinations(here)))
    return {interface: frozenset(taken) for interface, taken in found.items()}


def _network(address: Address | Network) -> Network:
    """One address as a network; ip_network() would make a string of it first."""
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), 32))
    if isinstance(address, IPv6Address):
        return IPv6Network((int(address), 128))
    return address


def above(largest: int) -> Sequence[Instruction]:
    """Before other instructions: drop frames of so many bytes at most, with their link header."""
    return (LOAD_LENGTH, 0, 0, 0), (IF_GREATER, 1, 0, largest), DROP


def ingress(wanted: Iterable[Network] | None, spans: int = SPANS) -> Sequence[Instruction]:
    """Let in what is sent to these addresses, fragments, and what has a tag in the frame.

    At least that: addresses between two of the networks come too where there are more than
    `spans`, and of IPv6 the last 32 bits decide. None: all IP. Never what this host sends.
    """
    if wanted is None or spans < 2:
        ipv4: Sequence[Instruction] = (PASS,)
        ipv6: Sequence[Instruction] = (PASS,)
    else:
        known = list(wanted)
        ipv4 = (
            (LOAD_HALF, 0, 0, NETWORK + 6),
            (AND, 0, 0, _MORE_OR_OFFSET),
            (IF_EQUAL, 1, 0, 0),
            PASS,
            (LOAD_WORD, 0, 0, NETWORK + 16),
            *_search(_spans([n for n in known if n.version == 4], spans // 2)),
        )
        ipv6 = (
            (LOAD_BYTE, 0, 0, NETWORK + 6),
            *((IF_EQUAL, len(EXTENSIONS) - n, 0, header) for n, header in enumerate(EXTENSIONS)),
            (GO, 0, 0, 1),
            PASS,
            (LOAD_WORD, 0, 0, NETWORK + 36),
            *_search(_spans([n for n in known if n.version == 6], spans // 2)),
        )
    return (
        (LOAD_HALF, 0, 0, PACKET_TYPE),
        (IF_EQUAL, 0, 1, PACKET_OUTGOING),
        DROP,
        *by_version(ipv4, ipv6),
    )


def by_version(ipv4: Sequence[Instruction], ipv6: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Judge IPv4 and IPv6 by these, pass what has a tag in the frame, and drop all else."""
    return (
        (LOAD_HALF, 0, 0, PROTOCOL),
        (IF_EQUAL, 6, 0, ETH_P_IP),
        (IF_EQUAL, 4, 0, ETH_P_IPV6),
        (IF_EQUAL, 1, 0, ETH_P_8021Q),
        (IF_EQUAL, 0, 1, ETH_P_8021AD),
        PASS,
        DROP,
        (GO, 0, 0, len(ipv4)),
        *ipv4,
        *ipv6,
    )


def _spans(networks: Sequence[Network], limit: int) -> list[Span]:
    """The networks as spans of the last 32 bits, in order, apart, and not more than `limit`."""
    found = runs(map(_span, networks))
    if len(found) > limit:
        # The narrowest gaps close: that lets in the fewest addresses more.
        gaps = sorted(range(1, len(found)), key=lambda i: found[i][0] - found[i - 1][1])
        keep = sorted(gaps[len(found) - limit :])
        starts, ends = [0, *keep], [*keep, len(found)]
        found = [
            (found[start][0], found[end - 1][1]) for start, end in zip(starts, ends, strict=True)
        ]
    return found


def _span(network: Network) -> Span:
    if network.version == 6 and network.prefixlen < 96:
        return 0, 0xFFFFFFFF
    mask = 0xFFFFFFFF
    return int(network.network_address) & mask, int(network.broadcast_address) & mask


def _search(spans: Sequence[Span]) -> Sequence[Instruction]:
    """A binary search of A among the spans."""
    if not spans:
        return (DROP,)
    if len(spans) == 1:
        return within(*spans[0])
    middle = len(spans) // 2
    low, high = _search(spans[:middle]), _search(spans[middle:])
    if len(low) <= 255:
        return (IF_AT_LEAST, len(low), 0, spans[middle][0]), *low, *high
    return (IF_AT_LEAST, 0, 1, spans[middle][0]), (GO, 0, 0, len(low)), *low, *high


def within(first: int, last: int) -> Sequence[Instruction]:
    """Pass where A is one of these numbers, and drop all else."""
    if first == last:
        return (IF_EQUAL, 1, 0, first), DROP, PASS
    return (IF_AT_LEAST, 0, 1, first), (IF_GREATER, 0, 1, last), DROP, PASS
