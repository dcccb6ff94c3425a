"""Programs that the kernel runs on every frame: classic BPF (linux/filter.h), as plain values."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence

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
TO_X, FROM_X = 0x07, 0x87
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


_FLOW_IPV4: Sequence[Instruction] = (
    (LOAD_WORD, 0, 0, NETWORK + 12),
    (MULTIPLY, 0, 0, GOLDEN),
    (TO_X, 0, 0, 0),
    (LOAD_WORD, 0, 0, NETWORK + 16),
    (XOR_X, 0, 0, 0),
    (STORE, 0, 0, 1),
    (LOAD_HEADER_LENGTH, 0, 0, NETWORK),
    (LOAD_WORD_AT, 0, 0, NETWORK),  # both ports
)
_FLOW_IPV6: Sequence[Instruction] = (
    (LOAD_WORD, 0, 0, NETWORK + 20),
    (MULTIPLY, 0, 0, GOLDEN),
    (TO_X, 0, 0, 0),
    (LOAD_WORD, 0, 0, NETWORK + 36),
    (XOR_X, 0, 0, 0),
    (STORE, 0, 0, 1),
    (LOAD_WORD, 0, 0, NETWORK + 40),
)
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

    The group has two sockets for each worker: 2n for what fits a slot, `largest` bytes without the
    link header, and 2n + 1 for all else. A flow, by addresses and ports, has one worker; what is
    not plain IPv4 or IPv6 has the first.
    """
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
        (IF_GREATER, 2, 0, largest),
        (LOAD_CELL, 0, 0, 0),
        (RETURN_A, 0, 0, 0),
        (LOAD_CELL, 0, 0, 0),
        (ADD, 0, 0, 1),
        (RETURN_A, 0, 0, 0),
    )
