"""Filters, run by an interpreter of classic BPF (the kernel's own runs them in tests/network)."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from mcrd.model import Input, PortRange
from mcrd.observe import program as program_of_a_look
from mcrd.sockets import filters

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
        elif code in (filters.LOAD_WORD_AT, program_of_a_look.LOAD_HALF_AT):
            if (value := load(k + x, 4 if code == filters.LOAD_WORD_AT else 2)) is None:
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
        assert small % 2 == 1
        assert large == small - 1
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
    assert by_port == by_source == {1, 3, 5, 7}


def test_the_length_decides_exactly() -> None:
    program = filters.share(1, 1500)
    assert run(program, packet("10.1.0.1", "239.1.1.1", (1, 2), 1472)) == 1
    assert run(program, packet("10.1.0.1", "239.1.1.1", (1, 2), 1473)) == 0


def test_what_is_not_ip_has_the_first_worker() -> None:
    program = filters.share(4, 1500)
    assert {run(program, bytes([n]) * 60, protocol=0x0806) for n in range(50)} == {1}
    assert run(program, bytes(2000), protocol=0x8100) == 0
    # Too short to have ports.
    assert run(program, packet("10.1.0.1", "239.1.1.1", (1, 2))[:20]) == 0


def passes(program: Sequence[filters.Instruction], to: str | int, **more: int) -> bool:
    there = str(IPv4Address(to)) if isinstance(to, int) else to
    here = "10.1.0.1" if protocol(there) == 0x0800 else "fd01::1"
    made = packet(here, there, (1, 2))
    return run(program, made, **{"protocol": protocol(there), **more}) != 0


def test_ingress_without_networks_takes_all_ip() -> None:
    program = filters.ingress(None)
    assert passes(program, "239.1.1.1")
    assert passes(program, "ff15::1")
    assert not passes(program, "239.1.1.1", protocol=0x0806)
    assert not passes(program, "239.1.1.1", kind=PACKET_OUTGOING)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 100, 399, 400, 401, 3000])
def test_ingress_takes_what_is_named(count: int) -> None:
    chosen = random.Random(count)
    numbers = [int(IPv4Address("239.0.0.0")) + 3 * n for n in range(count)]
    chosen.shuffle(numbers)
    program = filters.ingress([ip_network(number) for number in numbers])
    assert len(program) <= 4096
    assert all(passes(program, number) for number in numbers[:500])
    for _ in range(200):
        number = chosen.randrange(2**32)
        if count <= 400:
            assert passes(program, number) == (number in numbers)
    assert passes(program, "239.0.0.1") is (count > 400)  # the gaps close where there are too many
    assert not passes(program, "238.255.255.255")
    assert not passes(program, "ff15::1")
    assert not passes(program, "239.0.0.0", kind=PACKET_OUTGOING)
    assert not passes(program, "239.0.0.0", protocol=0x0806)
    for tagged in (0x8100, 0x88A8):
        assert passes(program, "1.2.3.4", protocol=tagged)


def test_ingress_takes_prefixes() -> None:
    names = ("239.1.0.0/16", "10.1.0.2/32", "239.2.0.0/31", "ff15::100/120", "fd01::2/128")
    program = filters.ingress([ip_network(name) for name in names])
    inside = ("239.1.0.0", "239.1.255.255", "10.1.0.2", "239.2.0.1", "ff15::1ff", "fd01::2")
    outside = ("239.0.255.255", "239.2.0.2", "10.1.0.1", "10.1.0.3", "ff15::200", "fd01::3")
    assert all(passes(program, there) for there in inside)
    assert not any(passes(program, there) for there in outside)
    assert passes(filters.ingress([ip_network("ff15::/64")]), "ff15::1:2:3")
    assert passes(filters.ingress([ip_network("0.0.0.0/0")]), "255.255.255.255")


def test_ingress_takes_fragments_and_ipv6_extensions() -> None:
    program = filters.ingress([ip_network("239.1.1.1"), ip_network("ff15::1")])
    for field, taken in ((0x2000, True), (0x0001, True), (0x1FFF, True), (0x4000, False)):
        made = bytearray(packet("10.1.0.1", "239.9.9.9", (1, 2)))
        made[6:8] = struct.pack("!H", field)
        assert (run(program, bytes(made)) != 0) is taken
    for header, taken in ((0, True), (43, True), (44, True), (51, True), (60, True), (17, False)):
        made = bytearray(packet("fd01::1", "ff15::9", (1, 2)))
        made[6] = header
        assert (run(program, bytes(made), protocol=0x86DD) != 0) is taken


def test_the_largest_program_fits() -> None:
    many = [ip_network(int(IPv4Address("239.0.0.0")) + 1000 * n) for n in range(400)]
    more = [ip_network((int(IPv6Address("ff15::")) + 1000 * n, 127)) for n in range(400)]
    assert len(filters.ingress([*many, *more])) <= 4096
    spread = [ip_network((int(IPv4Address("10.0.0.0")) + 1000 * n, 31)) for n in range(5000)]
    program = filters.ingress([*spread, *more])
    assert len(program) <= 4096
    assert all(passes(program, str(net[1])) for net in spread[::50])


def looked_at(given: str, sent: str, port: int, *, vlan: int = 0) -> bool:
    """Whether a look for an input at `given`, ports 5000 to 5009, takes a datagram."""
    address = ip_network(given) if "/" in given else ip_address(given)
    program = program_of_a_look.about(Input("r0", address, PortRange(5000, 5009)))
    source = "10.1.0.1" if protocol(sent) == 0x0800 else "fd01::1"
    made = packet(source, sent, (1, port))
    return run(program, made, protocol=vlan or protocol(sent)) != 0


@pytest.mark.parametrize(
    ("given", "fits", "other"),
    [
        ("239.1.1.1", "239.1.1.1", "239.1.1.2"),
        ("239.1.1.0/30", "239.1.1.3", "239.1.1.4"),
        ("ff15::1", "ff15::1", "ff15::2"),
        ("ff15::/126", "ff15::3", "ff15::4"),
    ],
)
def test_a_look_takes_what_has_an_address_or_a_port_of_the_rule(
    given: str, fits: str, other: str
) -> None:
    for port in (4999, 5000, 5009, 5010):
        assert looked_at(given, fits, port)
        assert looked_at(given, other, port) == (5000 <= port <= 5009)
    assert looked_at(given, other, 1, vlan=0x8100)
    assert looked_at(given, other, 1, vlan=0x88A8)
    assert not looked_at(given, other, 1, vlan=0x0806)


def test_a_look_takes_what_it_cannot_tell_and_what_is_said_about_groups() -> None:
    four = program_of_a_look.about(Input("r0", ip_address("239.1.1.1"), 5000))
    made = bytearray(packet("10.1.0.1", "10.1.0.2", (1, 1)))
    assert not run(four, bytes(made))
    for fragment in (0x0001, 0x2001, 0x1FFF):
        made[6:8] = struct.pack("!H", fragment)
        assert run(four, bytes(made))
    made[6:8] = bytes(2)
    for number, taken in ((1, True), (2, True), (6, False), (50, False)):
        made[9] = number
        assert bool(run(four, bytes(made))) == taken
    six = program_of_a_look.about(Input("r0", ip_address("ff15::1"), 5000))
    made = bytearray(packet("fe80::1", "ff02::16", (1, 1)))
    for number, taken in ((0, True), (43, True), (44, True), (51, True), (60, True), (6, False)):
        made[6] = number
        assert bool(run(six, bytes(made), protocol=0x86DD)) == taken
    made[6] = 58
    for number, taken in (
        (1, True),
        (130, True),
        (132, True),
        (133, False),
        (137, False),
        (143, True),
    ):
        made[40] = number
        assert bool(run(six, bytes(made), protocol=0x86DD)) == taken


def test_a_look_takes_of_what_this_host_sends_only_the_addresses_of_the_rule() -> None:
    program = program_of_a_look.about(Input("r0", ip_address("239.1.1.1"), 5000))
    made = packet("10.1.0.1", "239.1.1.1", (1, 5000))
    assert run(program, made)
    assert run(program, made, kind=4)
    assert not run(program, packet("10.1.0.1", "239.1.1.2", (1, 5000)), kind=4)


def test_a_look_for_esp() -> None:
    program = program_of_a_look.about(Input("r0", ip_address("10.1.0.2"), 0, "esp"))
    made = bytearray(packet("10.1.0.1", "10.1.0.9", (1, 1)))
    assert not run(program, bytes(made))
    made[9] = 50
    assert run(program, bytes(made))
