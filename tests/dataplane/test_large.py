"""What no slot holds: super-frames, jumbo frames, fragments that the kernel puts together."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import random
import socket
import struct
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from mcrd.sums import Traffic
from tests.dataplane.bench import Bench, drive, listening, sending, until
from tests.dataplane.frames import checksum, hardware_address, inject, udp
from tests.dataplane.test_egress import backlog, mixture
from tests.dataplane.test_relay import IN, OUT, arriving, killed, sent, settled

if TYPE_CHECKING:
    from tests.lab import Host, Lab, Triangle

SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h


def fragments(payload: bytes, *cuts: int, identifier: int = 7, spoil: int = 0) -> list[bytes]:
    """An IPv4 datagram to IN as Ethernet frames, cut at these bytes of the UDP datagram."""
    here, there = ip_address("10.1.0.1"), ip_address(IN[0])
    datagram = udp(here, there, (40000, IN[1]), payload, spoil=spoil)
    made = []
    for begin, end in zip((0, *cuts), (*cuts, len(datagram)), strict=True):
        field = begin // 8 | (0x2000 if end < len(datagram) else 0)
        header = struct.pack(
            *("!BBHHHBBH", 0x45, 0, 20 + end - begin, identifier, field, 8),
            *(socket.IPPROTO_UDP, 0),
        )
        header += here.packed + there.packed
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        link = hardware_address(there) + bytes.fromhex("020000000001") + b"\x08\x00"
        made.append(link + header + datagram[begin:end])
    return made


def test_a_super_frame_that_is_larger_than_a_slot_is_relayed(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        payload = os.urandom(56_123)
        parts = [payload[at : at + 1400] for at in range(0, len(payload), 1400)]
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            source.setsockopt(SOL_UDP, UDP_SEGMENT, 1400)
            for _ in range(30):
                source.sendto(payload, IN)
                assert arriving(sink, len(parts)) == parts
        expected = Traffic(30 * len(parts), 30 * len(payload))
        await until(lambda: bench.sent(*OUT).sent == expected, "the output's counters")
        assert bench.received() == expected
        await settled(bench)

    drive(triangle.relay, scenario)


@pytest.mark.parametrize("size", [1473, 4000, 20_000, 65_507])
def test_a_datagram_in_fragments_is_relayed(triangle: Triangle, size: int) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        payloads = [os.urandom(size) for _ in range(5)]
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for payload in payloads:
                source.sendto(payload, IN)
            assert arriving(sink, 5) == payloads
        await sent(bench, OUT, 5)
        assert bench.received() == Traffic(5, 5 * size)
        assert bench.dropped("fragment") == 0
        await settled(bench)

    drive(triangle.relay, scenario)


def test_small_datagrams_in_fragments_out_of_order(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        payload = os.urandom(100)
        with listening(triangle.sink, "k0", *OUT[1:]) as sink:
            inject(triangle.source, "s0", *reversed(fragments(payload, 8, 64)))
            assert arriving(sink, 1) == [payload]
        await settled(bench)

    drive(triangle.relay, scenario)


def test_a_corrupt_datagram_in_fragments_is_counted(triangle: Triangle) -> None:
    """Nobody has looked at its checksum, and what leaves would have a new one."""

    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        payload = os.urandom(2900)
        with listening(triangle.sink, "k0", *OUT[1:]) as sink:
            inject(triangle.source, "s0", *fragments(payload, 1480, identifier=8, spoil=1))
            inject(triangle.source, "s0", *fragments(payload, 1480, identifier=9))
            assert arriving(sink, 1) == [payload]
        assert bench.dropped("bad_checksum") == 1
        await settled(bench)

    drive(triangle.relay, scenario)


def test_fragments_of_ipv6_are_counted(triangle: Triangle) -> None:
    """PACKET_FANOUT_FLAG_DEFRAG knows IPv4 alone."""

    async def scenario(bench: Bench) -> None:
        await bench.relay("ff15::1", 5000, OUT)
        with sending(triangle.source, "s0", socket.AF_INET6) as source:
            source.sendto(bytes(4000), ("ff15::1", 5000))
        await until(lambda: bench.dropped("fragment") == 3, "three fragments")
        assert bench.received() == Traffic()
        await settled(bench)

    drive(triangle.relay, scenario)


def test_a_set_that_stays_incomplete_holds_nobody_up(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        first, _ = fragments(bytes(100), 64, identifier=10)
        whole = fragments(b"whole", identifier=11)
        with listening(triangle.sink, "k0", *OUT[1:]) as sink:
            inject(triangle.source, "s0", first, *whole)
            assert arriving(sink, 1) == [b"whole"]
        await settled(bench)

    drive(triangle.relay, scenario)


def test_sizes_on_both_sides_of_the_slot_keep_their_order(lab: Lab) -> None:
    """Frames of one flow in two rings; the ring is made for a smaller MTU than there is."""
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(source, "s0", ["10.1.0.1/24"], relay, "r0", ["10.1.0.2/24"], mtu=9000)
    lab.link(relay, "r1", ["10.2.0.1/24"], sink, "k0", ["10.2.0.2/24"], mtu=9000)

    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        slot = bench.ring.geometry.largest - 28
        chosen = random.Random(1)
        near = [b"%06d" % n + bytes(slot + chosen.randrange(-2, 3) - 6) for n in range(50)]
        payloads = near + mixture(50, 8000)
        chosen.shuffle(payloads)
        with listening(sink, "k0", *OUT[1:]) as receiver, sending(source, "s0") as sender:
            for _ in range(3):
                with backlog(bench):
                    for payload in payloads:
                        sender.sendto(payload, IN)
                assert arriving(receiver, 100) == payloads
                for payload in payloads:
                    sender.sendto(payload, IN)
                assert arriving(receiver, 100) == payloads
        await settled(bench)
        assert bench.dropped("truncated") == 0

    drive(relay, scenario, mtu=1500)


def test_both_rings_outlive_a_worker(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for _ in range(3):
                first = [os.urandom(4000), b"small", os.urandom(5000)]
                for payload in first:
                    source.sendto(payload, IN)
                assert arriving(sink, 3) == first
                await killed(bench)
                waiting = [os.urandom(size) for size in (10, 3000, 20, 30, 4000, 5000, 40)]
                for payload in waiting:
                    source.sendto(payload, IN)
                await bench.restart()
                await bench.relay(*IN, OUT)
                source.sendto(b"last", IN)
                # The first finds no rule yet: the worker may look when it has one, and asks.
                got = arriving(sink, 1)
                while got[-1] != b"last":
                    got += arriving(sink, 1)
                assert got == [*waiting, b"last"]

    drive(triangle.relay, scenario)


def _is_up(host: Host, name: str) -> bool:
    return "state UP" in host.run("ip", "link", "show", name)


def test_both_rings_come_back_with_the_link(triangle: Triangle) -> None:
    """The kernel takes both sockets out of their group, and puts them back: in their order."""

    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        for _ in range(3):
            triangle.relay.run("ip", "link", "set", "r0", "down")
            bench.ring.take_error()
            triangle.relay.run("ip", "link", "set", "r0", "up")
            for host, name in ((triangle.relay, "r0"), (triangle.source, "s0")):
                await until(partial(_is_up, host, name), f"{name} to be up")
            payloads = [os.urandom(size) for size in (10, 4000, 1400, 20_000, 1472)]
            with (
                listening(triangle.sink, "k0", *OUT[1:]) as sink,
                sending(triangle.source, "s0") as source,
            ):
                for payload in payloads:
                    source.sendto(payload, IN)
                assert arriving(sink, len(payloads)) == payloads
        assert bench.dropped("truncated") == 0

    drive(triangle.relay, scenario)


def test_what_this_host_sends_there_is_not_relayed(triangle: Triangle) -> None:
    """PACKET_IGNORE_OUTGOING has no effect in a fanout group: the filter has to see to it."""

    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
            sending(triangle.relay, "r0") as ours,
        ):
            for size in (10, 4000):
                ours.sendto(bytes(size), IN)
            source.sendto(b"theirs", IN)
            assert arriving(sink, 1) == [b"theirs"]
        assert bench.received() == Traffic(1, 6)
        await settled(bench)

    drive(triangle.relay, scenario)
