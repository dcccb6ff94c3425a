"""Runs of datagrams in one write: what arrives is what one write for each would have brought."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from mcrd.sums import Traffic
from tests.dataplane.bench import Bench, drive, listening, sending
from tests.dataplane.test_relay import IN, OUT, arriving, sent, settled

if TYPE_CHECKING:
    from tests.lab import Fork, Host, Lab, Triangle

SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h
SO_NO_CHECK = 11  # asm-generic/socket.h


@contextmanager
def backlog(bench: Bench) -> Iterator[None]:
    """What comes meanwhile is there all at once when the worker looks again."""
    os.kill(bench.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(bench.process.pid, signal.SIGCONT)


def frames_out(host: Host, interface: str) -> int:
    """Frames that left by the interface; one that is yet to be cut is one."""
    with host.inside(), open("/proc/thread-self/net/dev") as lines:
        (line,) = (line for line in lines if line.strip().startswith(f"{interface}:"))
    return int(line.partition(":")[2].split()[9])


def segmentation(host: Host, interface: str, state: str) -> None:
    """Whether what is written with UDP_SEGMENT leaves whole."""
    host.run("ethtool", "-K", interface, "tx-udp-segmentation", state)


def mixture(count: int, largest: int = 1472) -> list[bytes]:
    """Runs, singles, empty ones, one byte more and less, in any order."""
    chosen = random.Random(count)
    lengths: list[int] = []
    while len(lengths) < count:
        length = chosen.choice([0, 1, 18, 200, 1316, 1400, largest, chosen.randrange(largest + 1)])
        lengths += [length] * chosen.choice([1, 1, 2, 3, 64, 65, 130])
    return [os.urandom(length) for length in lengths[:count]]


@pytest.mark.parametrize("out", [("r1", "239.2.2.2", 6000), ("r1", "fd02::2", 6000)])
@pytest.mark.parametrize("offload", ["on", "off"])
def test_a_mixture_arrives_exactly(
    triangle: Triangle, out: tuple[str, str, int], offload: str
) -> None:
    segmentation(triangle.relay, "r1", offload)

    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, out)
        with (
            listening(triangle.sink, "k0", *out[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for count in (300, 1000, 1500):
                payloads = mixture(count, 1452)
                with backlog(bench):
                    for payload in payloads:
                        source.sendto(payload, IN)
                assert arriving(sink, count) == payloads
        await sent(bench, out, 2800)
        assert bench.sent(*out).errors == {}
        await settled(bench)

    drive(triangle.relay, scenario)


def test_many_datagrams_leave_in_few_writes(fork: Fork) -> None:
    for interface in ("r1", "r2"):
        segmentation(fork.relay, interface, "on")

    async def scenario(bench: Bench) -> None:
        second = ("r2", "239.3.3.3", 7000)
        await bench.relay(*IN, OUT, second)
        before = frames_out(fork.relay, "r1"), frames_out(fork.relay, "r2")
        with (
            listening(fork.sink, "k0", *OUT[1:]) as sink,
            listening(fork.sink2, "k1", *second[1:]) as sink2,
            sending(fork.source, "s0") as source,
        ):
            payloads = [b"%010d" % number for number in range(1280)]
            with backlog(bench):
                for payload in payloads:
                    source.sendto(payload, IN)
            assert arriving(sink, len(payloads)) == payloads
            assert arriving(sink2, len(payloads)) == payloads
        for interface, was in zip(("r1", "r2"), before, strict=True):
            # 20 of 64 datagrams each; the rest is what neighbours say to each other.
            assert 20 <= frames_out(fork.relay, interface) - was < 40

    drive(fork.relay, scenario)


def test_super_frames_are_relayed_whole(triangle: Triangle) -> None:
    segmentation(triangle.relay, "r1", "on")

    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        payloads = [os.urandom(10) for _ in range(1000)]
        before = frames_out(triangle.relay, "r1")
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            source.setsockopt(SOL_UDP, UDP_SEGMENT, 10)
            for at in range(0, 1000, 50):
                source.sendto(b"".join(payloads[at : at + 50]), IN)
            assert arriving(sink, 1000) == payloads
        assert frames_out(triangle.relay, "r1") - before < 40
        await sent(bench, OUT, 1000)
        assert bench.received() == Traffic(1000, 10_000)

    drive(triangle.relay, scenario)


def test_what_is_larger_than_the_mtu_is_fragmented(lab: Lab) -> None:
    """A segment has to fit the MTU of the output, or the kernel refuses all of the run."""
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(source, "s0", ["10.1.0.1/24"], relay, "r0", ["10.1.0.2/24"], mtu=9000)
    lab.link(relay, "r1", ["10.2.0.1/24"], sink, "k0", ["10.2.0.2/24"])

    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        with listening(sink, "k0", *OUT[1:]) as receiver, sending(source, "s0") as sender:
            for count in (200, 100):
                payloads = mixture(count, 8000)
                with backlog(bench):
                    for payload in payloads:
                        sender.sendto(payload, IN)
                assert arriving(receiver, count) == payloads
        await sent(bench, OUT, 300)
        assert bench.sent(*OUT).errors == {}
        assert bench.sent(*OUT).refused == 0

    drive(relay, scenario, mtu=9000)


def test_refusals_of_runs_cost_no_datagram(triangle: Triangle) -> None:
    """A write that meets a report sends nothing, all 64 of it."""
    triangle.sink.sysctl("net.ipv4.icmp_ratelimit", "0")
    triangle.sink.sysctl("net.ipv4.icmp_msgs_per_sec", "1000000")

    async def scenario(bench: Bench) -> None:
        closed = ("r1", "10.2.0.2", 6666)
        await bench.relay(*IN, closed)
        capture = triangle.sink.capture("k0", "udp port 6666 and not icmp", direction="in")
        payloads = [b"%05d" % number for number in range(3000)]
        with sending(triangle.source, "s0") as source:
            for at in range(0, 3000, 300):
                with backlog(bench):
                    for payload in payloads[at : at + 300]:
                        source.sendto(payload, IN)
                await sent(bench, closed, at + 300)
        count = bench.sent(*closed)
        assert count.errors == {}
        assert count.refused > 0
        frames = capture.stop()
        assert [frame[42:47] for frame in frames] == payloads

    drive(triangle.relay, scenario)


def test_an_output_that_cannot_cut_gets_them_one_by_one(triangle: Triangle) -> None:
    """As with IPsec or without checksum offload (EIO); SO_NO_CHECK is had everywhere (EINVAL)."""

    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        (egress,) = bench.egress.values()
        egress.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        payloads = mixture(500)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for _ in range(2):
                with backlog(bench):
                    for payload in payloads:
                        source.sendto(payload, IN)
                assert arriving(sink, 500) == payloads
        await sent(bench, OUT, 1000)
        assert bench.sent(*OUT).errors == {}

    drive(triangle.relay, scenario)


def test_a_full_send_buffer_counts_every_datagram_and_holds_nobody_up(fork: Fork) -> None:
    """Behind a slow shaper with a long queue the datagrams stay in the socket's send buffer."""
    fork.relay.run(
        *("tc", "qdisc", "add", "dev", "r2", "root", "tbf"),
        *("rate", "8mbit", "burst", "100000", "limit", "10000000"),
    )

    async def scenario(bench: Bench) -> None:
        slow = ("r2", "239.3.3.3", 6000)
        await bench.relay(*IN, slow, OUT)
        payloads = [b"%04d" % number + bytes(996) for number in range(2000)]
        with (
            listening(fork.sink, "k0", *OUT[1:]) as sink,
            listening(fork.sink2, "k1", *slow[1:]) as sink2,
            sending(fork.source, "s0") as source,
        ):
            with backlog(bench):
                for payload in payloads:
                    source.sendto(payload, IN)
            assert arriving(sink, 2000) == payloads
            await sent(bench, OUT, 2000)
            count = bench.sent(*slow)
            assert count.errors == {"EAGAIN": 2000 - count.sent.packets}
            arrived = arriving(sink2, count.sent.packets)
            assert arrived == sorted(arrived)
            sink2.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sink2.recv(2000)

    drive(fork.relay, scenario)
