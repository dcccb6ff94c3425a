"""Packets through a worker process: each is relayed or counted, once and for the right reason."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from mcrd.dataplane import messages
from mcrd.sums import Traffic
from tests.dataplane.bench import Bench, destination, drive, listening, sending, until
from tests.dataplane.frames import STRANGER, frame, inject

if TYPE_CHECKING:
    from tests.lab import Fork, Triangle

# linux/udp.h
SOL_UDP = 17
UDP_SEGMENT = 103

IN = ("239.1.1.1", 5000)
OUT = ("r1", "239.2.2.2", 6000)


def arriving(sink: socket.socket, count: int) -> list[bytes]:
    """The next datagrams."""
    return [sink.recv(65535) for _ in range(count)]


async def settled(bench: Bench) -> None:
    """Waits until every frame that was taken has been counted to its end."""
    await until(bench.balances, "received to be what was relayed and dropped")


async def sent(bench: Bench, output: tuple[str, str, int], count: int) -> None:
    """Waits until so many datagrams have left by the output."""
    await until(
        lambda: bench.sent(*output).sent.packets == count, f"{count} datagrams to count as sent"
    )


async def dropped(bench: Bench, reason: str, count: int) -> None:
    """Waits until at least so many have been dropped for the reason."""
    await until(lambda: bench.dropped(reason) >= count, f"{count} datagrams to count as {reason}")


@pytest.mark.parametrize("into", ["239.1.1.1", "ff15::1:1", "10.1.0.2", "fd01::2"])
@pytest.mark.parametrize("out", ["239.2.2.2", "ff15::2:2", "10.2.0.2", "fd02::2"])
def test_a_datagram_is_relayed(triangle: Triangle, into: str, out: str) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(into, 5000, ("r1", out, 6000))
        family = socket.AF_INET6 if ":" in into else socket.AF_INET
        with (
            listening(triangle.sink, "k0", out, 6000) as sink,
            sending(triangle.source, "s0", family) as source,
        ):
            payloads = [os.urandom(size) for size in (0, 1, 2, 3, 1400, 1452, 0)]
            for payload in payloads:
                source.sendto(payload, (into, 5000))
            assert arriving(sink, len(payloads)) == payloads
        expected = Traffic(len(payloads), sum(map(len, payloads)))
        await until(lambda: bench.sent("r1", out, 6000).sent == expected, "the output's counters")
        assert bench.received() == expected
        await settled(bench)

    drive(triangle.relay, scenario)


def test_empty_datagrams_are_relayed(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for _ in range(5):
                source.sendto(b"", IN)
            assert arriving(sink, 5) == [b""] * 5
        await until(lambda: bench.sent(*OUT).sent == Traffic(5, 0), "the output's counters")
        assert bench.received() == Traffic(5, 0)

    drive(triangle.relay, scenario)


@pytest.mark.parametrize("size", [1000, 1050, 101, 200, 99])
def test_a_super_frame_is_the_datagrams_that_it_stands_for(triangle: Triangle, size: int) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        payload = os.urandom(size)
        parts = [payload[at : at + 100] for at in range(0, size, 100)]
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            source.setsockopt(SOL_UDP, UDP_SEGMENT, 100)
            source.sendto(payload, IN)
            assert arriving(sink, len(parts)) == parts
        expected = Traffic(len(parts), size)
        await until(lambda: bench.sent(*OUT).sent == expected, "the output's counters")
        assert bench.received() == expected
        await settled(bench)

    drive(triangle.relay, scenario)


GOOD = frame(b"good")

# Frames that are not relayed, by the reason that has to count them.
WRONG: dict[str, tuple[str, bytes]] = {
    "UDP checksum": ("bad_checksum", frame(b"payload", spoil=1)),
    "UDP checksum, IPv6": (
        "bad_checksum",
        frame(b"payload", source="fd01::1", destination="ff15::1", spoil=1),
    ),
    "IPv4 checksum": ("bad_checksum", frame(b"payload", spoil_header=1)),
    "UDP length too large": ("malformed", frame(b"payload", udp_length=16)),
    "UDP length too small": ("malformed", frame(b"payload", udp_length=7)),
    "IPv4 total too large": ("malformed", frame(b"payload", total=36)),
    "IPv4 total too small": ("malformed", frame(b"payload", total=19)),
    "IPv6 length too large": (
        "malformed",
        frame(b"payload", source="fd01::1", destination="ff15::1", total=16),
    ),
    "malformed before bad checksum": ("malformed", frame(b"payload", udp_length=16, spoil=1)),
    "malformed in a VLAN": ("malformed", frame(b"payload", udp_length=16, tags=[5])),
    "VLAN": ("wrong_vlan", frame(b"payload", tags=[5])),
    "VLAN with priority": ("wrong_vlan", frame(b"payload", tags=[0xE005])),
    "VLAN within a priority tag": ("wrong_vlan", frame(b"payload", tags=[0xE000, 5])),
    "VLAN within a VLAN": ("wrong_vlan", frame(b"payload", tags=[5, 6])),
    "wrong VLAN before own output": (
        "wrong_vlan",
        frame(b"payload", tags=[5], source="10.9.9.9", ports=(7777, 5000)),
    ),
    "VLAN that nobody asked for": (
        "unmatched",
        frame(b"payload", tags=[5], ports=(40000, 5001)),
    ),
    "own output": ("own_output", frame(b"payload", source="10.9.9.9", ports=(7777, 5000))),
    "own output that nobody asked for": (
        "own_output",
        frame(b"payload", source="10.9.9.9", ports=(7777, 5001)),
    ),
    "another port": ("unmatched", frame(b"payload", ports=(40000, 5001))),
    "another group": ("unmatched", frame(b"payload", destination="239.1.1.2")),
    "another host's": ("unmatched", frame(b"payload", to=STRANGER)),
}


def test_what_is_not_relayed_is_counted_by_its_reason(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        own = messages.Endpoint(socket.inet_aton("10.9.9.9"), 7777)
        await bench.ask(messages.AddOwn, [own])
        with listening(triangle.sink, "k0", *OUT[1:]) as sink:
            for number, (name, (reason, wrong)) in enumerate(WRONG.items()):
                before = bench.taken().dropped
                inject(triangle.source, "s0", wrong, GOOD)
                # What follows the wrong frame arrives: the wrong one has been dealt with.
                assert sink.recv(100) == b"good", name
                await sent(bench, OUT, number + 1)
                after = bench.taken().dropped
                changed = {key for key in after if after[key] != before[key]}
                # Neighbour discovery and the like may come at any time.
                assert changed - {"unmatched"} == {reason} - {"unmatched"}, name
                assert after[reason] - before[reason] >= 1, name
                assert reason == "unmatched" or after[reason] - before[reason] == 1, name
        assert bench.received() == Traffic(len(WRONG), 4 * len(WRONG))
        await settled(bench)

    drive(triangle.relay, scenario)


RIGHT: dict[str, bytes] = {
    "no tag": frame(b"payload"),
    "priority tag": frame(b"payload", tags=[0xE000]),
    "two priority tags": frame(b"payload", tags=[0xE000, 0]),
    "padding": frame(b"payload") + bytes(30),
    "surplus": frame(b"payload", total=40) + bytes(5),
    "do not fragment": frame(b"payload", fragment=0x4000),
}


def test_what_looks_odd_and_is_right_is_relayed(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        with listening(triangle.sink, "k0", *OUT[1:]) as sink:
            inject(triangle.source, "s0", *RIGHT.values())
            assert arriving(sink, len(RIGHT)) == [b"payload"] * len(RIGHT)
        await settled(bench)
        assert bench.received() == Traffic(len(RIGHT), 7 * len(RIGHT))

    drive(triangle.relay, scenario)


# Rules that change


def test_every_output_gets_every_datagram(fork: Fork) -> None:
    async def scenario(bench: Bench) -> None:
        second = ("r2", "239.3.3.3", 7000)
        await bench.relay(*IN, OUT, second)
        payloads = [b"%d" % number for number in range(3000)]
        with (
            listening(fork.sink, "k0", *OUT[1:]) as sink,
            listening(fork.sink2, "k1", *second[1:]) as sink2,
            sending(fork.source, "s0") as source,
        ):
            # More than a harvest, more than a batch; less than a receive buffer.
            for payload in payloads:
                source.sendto(payload, IN)
            assert arriving(sink, len(payloads)) == payloads
            assert arriving(sink2, len(payloads)) == payloads
        for output in (OUT, second):
            await sent(bench, output, len(payloads))
            assert bench.sent(*output).errors == {}
        assert bench.received().packets == len(payloads)

    drive(fork.relay, scenario)


def test_rules_are_added_replaced_and_removed_live(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):

            async def unmatched(destination: tuple[str, int]) -> None:
                before = bench.dropped("unmatched")
                source.sendto(b"to nobody", destination)
                await until(lambda: bench.dropped("unmatched") > before, "an unmatched datagram")

            await bench.begin()
            await unmatched(IN)
            await bench.relay(*IN, OUT)
            source.sendto(b"added", IN)
            assert sink.recv(100) == b"added"
            elsewhere = ("239.1.1.9", 5009)
            await bench.relay(*elsewhere, OUT, kind=messages.ReplaceRule)
            await unmatched(IN)
            source.sendto(b"replaced", elsewhere)
            assert sink.recv(100) == b"replaced"
            await bench.ask(messages.RemoveRule, bench.segment.rule_slot("rule"))
            await unmatched(elsewhere)
        await settled(bench)
        assert bench.received().packets == 2

    drive(triangle.relay, scenario)


def test_a_source_that_is_own_no_more_is_relayed(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            source.bind(("10.1.0.1", 0))
            own = messages.Endpoint(socket.inet_aton("10.1.0.1"), source.getsockname()[1])
            await bench.ask(messages.AddOwn, [own])
            source.sendto(b"own", IN)
            await until(lambda: bench.dropped("own_output") == 1, "own output")
            await bench.ask(messages.RemoveOwn, [own])
            source.sendto(b"not own", IN)
            assert sink.recv(100) == b"not own"

    drive(triangle.relay, scenario)


# Sends that fail


def test_an_empty_place_is_an_error_of_that_output_alone(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        egress = await bench.hand_over("rule", *OUT)
        outputs = [
            messages.RuleOutput(100, 100),
            messages.RuleOutput(bench.process.places[egress], 0),
        ]
        slot = bench.segment.rule_slot("rule")
        await bench.ask(messages.ReplaceRule, slot, destination(*IN), outputs)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for _ in range(3):
                source.sendto(b"x", IN)
            assert arriving(sink, 3) == [b"x"] * 3
        await until(lambda: bench.segment.output(100).errors == {"EBADF": 3}, "three errors")
        assert bench.segment.output(100).sent == Traffic()

    drive(triangle.relay, scenario)


def test_a_refusal_costs_no_datagram(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        closed = ("r1", "10.2.0.2", 6666)  # the kernel of the sink answers "port unreachable"
        await bench.relay(*IN, closed)
        capture = triangle.sink.capture("k0", "udp port 6666", direction="in")
        with sending(triangle.source, "s0") as source:
            for number in range(1, 51):
                source.sendto(b"x", IN)
                await sent(bench, closed, number)
        count = bench.sent(*closed)
        assert count.errors == {}
        assert count.refused > 0
        assert len(await asyncio.to_thread(capture.stop)) == count.sent.packets == 50

    drive(triangle.relay, scenario)


# Workers that end


async def killed(bench: Bench) -> None:
    """Waits until the worker has nothing to do, and kills it."""
    await until(lambda: bench.sent(*OUT).sent == bench.received(), "the worker to be idle")
    os.kill(bench.process.pid, signal.SIGKILL)
    await until(lambda: bench.ended, "the worker's end")
    bench.ended.clear()


def test_nothing_is_relayed_or_counted_twice_over_a_restart(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for round_ in range(1, 4):
                await bench.relay(*IN, OUT)
                relayed = [b"%d %d" % (round_, number) for number in range(100)]
                for payload in relayed:
                    source.sendto(payload, IN)
                assert arriving(sink, 100) == relayed
                await killed(bench)
                for _ in range(200):
                    source.sendto(b"waits in the ring", ("239.1.1.2", 5000))
                await bench.restart()
                await bench.begin()
                await dropped(bench, "unmatched", 200 * round_)
            await bench.relay(*IN, OUT)
            source.sendto(b"last", IN)
            assert sink.recv(100) == b"last"
        await sent(bench, OUT, 301)
        assert bench.received().packets == 301
        await settled(bench)
        assert bench.dropped("ring_full") == 0

    drive(triangle.relay, scenario)


def test_what_waits_in_the_ring_is_relayed_by_the_next_worker(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            await killed(bench)
            payloads = [b"%d" % number for number in range(200)]
            for payload in payloads:
                source.sendto(payload, IN)
            await bench.restart()
            await bench.relay(*IN, OUT)
            source.sendto(b"last", IN)
            assert arriving(sink, 1) == payloads[:1]
            assert arriving(sink, 200) == [*payloads[1:], b"last"]

    drive(triangle.relay, scenario)
