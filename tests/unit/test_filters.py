"""Filters, run by an interpreter of classic BPF (the kernel's own runs them in tests/network)."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from mcrd import filters

LINK = 14
PACKET_MULTICAST, PACKET_OUTGOING = 2, 4  # linux/if_packet.h


class RejectedError(Exception):
    """The kernel would not take the program."""


def run(
    program: Sequence[filters.Instruction],
    packet: bytes,
    *,
    protocol: int = 0x0800,
    kind: int = PACKET_MULTICAST,
) -> int:
    """What the program returns for a frame whose network header is at the front of `packet`.

    Reading beyond the end returns 0, as in the kernel; uninitialized cells are an error.
    """
    if not 0 < len(program) <= 4096:
        raise RejectedError(f"{len(program)} instructions")
    a = x = 0
    cells: dict[int, int] = {}
    at = 0

    def load(k: int, size: int) -> int | None:
        if k == filters.PROTOCOL:
            return protocol
        if k == filters.PACKET_TYPE:
            return kind
        assert k >= filters.NETWORK, hex(k)
        offset = k - filters.NETWORK
        piece = packet[offset : offset + size]
        return int.from_bytes(piece) if len(piece) == size else None

    while True:
        code, true, false, k = program[at]
        at += 1
        value: int | None = None
        if code in (filters.LOAD_WORD, filters.LOAD_HALF, filters.LOAD_BYTE):
            size = {filters.LOAD_WORD: 4, filters.LOAD_HALF: 2, filters.LOAD_BYTE: 1}[code]
            if (value := load(k, size)) is None:
                return 0
            a = value
        elif code == filters.LOAD_WORD_AT:
            if (value := load(k + x, 4)) is None:
                return 0
            a = value
        elif code == filters.LOAD_HEADER_LENGTH:
            if (value := load(k, 1)) is None:
                return 0
            x = 4 * (value & 15)
        elif code == filters.LOAD_LENGTH:
            a = len(packet)
        elif code == filters.LOAD_NUMBER:
            a = k
        elif code == filters.LOAD_CELL:
            a = cells[k]
        elif code == filters.STORE:
            cells[k] = a
        elif code == filters.TO_X:
            x = a
        elif code == filters.XOR_X:
            a ^= x
        elif code == filters.ADD:
            a = (a + k) & 0xFFFFFFFF
        elif code == filters.AND:
            a &= k
        elif code == filters.MULTIPLY:
            a = a * k & 0xFFFFFFFF
        elif code == filters.DIVIDE_REST:
            a %= k
        elif code == filters.SHIFT_RIGHT:
            a >>= k
        elif code == filters.GO:
            at += k
        elif code == filters.IF_EQUAL:
            at += true if a == k else false
        elif code == filters.IF_GREATER:
            at += true if a > k else false
        elif code == filters.IF_AT_LEAST:
            at += true if a >= k else false
        elif code == filters.RETURN:
            return k
        elif code == filters.RETURN_A:
            return a
        else:
            raise RejectedError(f"code {code:#x}")


def packet(source: str, destination: str, ports: tuple[int, int], size: int = 100) -> bytes:
    """An IP packet without checksums."""
    here, there = ip_address(source), ip_address(destination)
    udp = struct.pack("!HHHH", *ports, 8 + size, 0) + bytes(size)
    if there.version == 4:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 28 + size, 1, 0, 8, 17, 0)
    else:
        header = struct.pack("!IHBB", 0x60000000, 8 + size, 17, 8)
    return header + here.packed + there.packed + udp


def protocol(destination: str) -> int:
    return 0x0800 if ip_address(destination).version == 4 else 0x86DD


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("net", ["239.1.1.{}", "ff15::{}", "10.1.{}.2"])
def test_a_flow_has_one_worker_and_all_have_flows(workers: int, net: str) -> None:
    program = filters.share(workers, 1500)
    seen: dict[int, int] = {}
    for number in range(200):
        there = net.format(number)
        here = "10.1.0.1" if protocol(there) == 0x0800 else "fd01::1"
        members = {
            run(program, packet(here, there, (40000, 5000), size), protocol=protocol(there))
            for size in (0, 1, 100, 1400)
        }
        large = run(program, packet(here, there, (40000, 5000), 3000), protocol=protocol(there))
        (small,) = members
        assert small % 2 == 0
        assert large == small + 1
        assert small < 2 * workers
        seen[small] = seen.get(small, 0) + 1
    assert len(seen) == workers
    assert min(seen.values()) > 200 / workers / 3


def test_ports_and_sources_spread_too() -> None:
    program = filters.share(4, 1500)
    chosen = random.Random(3)
    by_port = {
        run(program, packet("10.1.0.1", "239.1.1.1", (chosen.randrange(65536), 5000)))
        for _ in range(100)
    }
    by_source = {
        run(program, packet(f"10.1.0.{number}", "239.1.1.1", (40000, 5000)))
        for number in range(100)
    }
    assert by_port == by_source == {0, 2, 4, 6}


def test_the_length_decides_exactly() -> None:
    program = filters.share(1, 1500)
    assert run(program, packet("10.1.0.1", "239.1.1.1", (1, 2), 1472)) == 0
    assert run(program, packet("10.1.0.1", "239.1.1.1", (1, 2), 1473)) == 1


def test_what_is_not_ip_has_the_first_worker() -> None:
    program = filters.share(4, 1500)
    assert {run(program, bytes([n]) * 60, protocol=0x0806) for n in range(50)} == {0}
    assert run(program, bytes(2000), protocol=0x8100) == 1
    # Too short to have ports.
    assert run(program, packet("10.1.0.1", "239.1.1.1", (1, 2))[:20]) == 0
