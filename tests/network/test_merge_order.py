"""Merged streams with `delay`: they leave in the order of their numbers."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import random
import signal
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.dataplane.test_merge import mold
from tests.lab import wait_for
from tests.lab.datagrams import udp
from tests.network.test_merge import FEED, OTHER, A, B, Legs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab import Triangle

COUNT, LEG_ENDS = 1500, 1100
NAMES = ("feed@r0", "feed@q0")


@pytest.fixture
def start(triangle: Triangle) -> Iterator[Callable[[str], Legs]]:
    """Starts a stream of two ways, by these rules."""
    made: list[Legs] = []

    def begin(rules: str) -> Legs:
        made.append(Legs(triangle, rules))
        return made[-1]

    yield begin
    for legs in made:
        legs.a.close()
        legs.b.close()


def packet(number: int) -> bytes:
    """One of RTP, whose number wraps; with another number, least end first, that wraps too."""
    head = struct.pack("!BBHII", 0x80, 33, 65000 + number & 0xFFFF, number * 90, 7)
    return head + struct.pack("<I", 2**32 - 700 + number & 2**32 - 1) + os.urandom(200)


def in_order(legs: Legs) -> list[bytes]:
    """What has come to the sink, as it came."""
    return [udp(frame).payload for frame in legs.capture.frames()]


def counts(legs: Legs) -> dict[str, dict[str, Any]]:
    """Of both legs, by their rules."""
    return {name: legs.stats("rules", name) for name in NAMES}


def adds_up(found: dict[str, dict[str, Any]]) -> bool:
    """Whether each datagram that was the first is sent, held or has a name."""
    return all(
        each["merge"]["first"]
        == each["received"]["packets"] + each["dropped"]["too_late"] + each["merge"]["held"]
        and each["received"]["packets"] == each["outputs"][0]["sent"]["packets"]
        for each in found.values()
    )


@pytest.mark.parametrize("by", ["rtp", "sequence"])
def test_order_is_kept(start: Callable[[str], Legs], by: str) -> None:
    """Each way loses and is up to 50 ms late, one dies: the output lacks what both lacked."""
    inspect = 'inspect = { offset = 12, bytes = 4, order = "little" }\n'
    rules = f'{FEED}merge = {{ by = "{by}", delay = "1s" }}\n{inspect if by != "rtp" else ""}'
    legs, chance = start(rules), random.Random(by)
    sent = [packet(number) for number in range(COUNT)]
    lost = [{n for n in range(1, COUNT) if chance.random() < 0.02} for _ in "ab"]
    lost[0] |= set(range(400, 500)) | set(range(LEG_ENDS, COUNT))
    lost[1] |= set(range(490, 600))
    coming = sorted(
        (number / 1500 + (chance.random() * 0.05 if number else 0.0), number, leg)
        for leg in (0, 1)
        for number in range(COUNT)
        if number not in lost[leg]
    )
    began = time.monotonic()
    for at, number, leg in coming:
        time.sleep(max(0.0, began + at - time.monotonic()))
        (legs.a, legs.b)[leg].sendto(sent[number], (A, B)[leg])
    wanted = [sent[n] for n in range(COUNT) if n not in lost[0] & lost[1]]
    wait_for(lambda: len(in_order(legs)) >= len(wanted), "the stream")
    assert in_order(legs) == wanted
    wait_for(lambda: adds_up(counts(legs)), "all to be counted")
    found = counts(legs)
    assert [each["merge"]["received"] for each in found.values()] == [COUNT - len(x) for x in lost]
    assert sum(each["merge"]["reordered"] for each in found.values()) > 100
    assert sum(each["merge"]["first"] for each in found.values()) == len(wanted)
    assert not any(each["dropped"]["too_late"] for each in found.values())


def test_sessions_of_moldudp64_in_order(start: Callable[[str], Legs]) -> None:
    """One leg is ahead by most of a burst; heartbeats wait for nothing, nor does a new session."""
    legs = start(f'{FEED}merge = {{ by = "sequence", delay = "1s" }}\ninspect = "moldudp64"\n')
    wanted: list[bytes] = []
    heartbeats: list[bytes] = []
    for session in (b"session001", b"session002"):
        burst = [mold(1 + 3 * number, 3, session) for number in range(100)]
        heartbeat = mold(301, 0, session)
        for way, to, packets in (
            (legs.a, A, burst[:2]),
            (legs.b, B, [*burst[30:], heartbeat, heartbeat]),
            (legs.a, A, [*burst[2:40], heartbeat, heartbeat]),
        ):
            for each in packets:
                way.sendto(each, to)
        wanted += burst
        heartbeats += [heartbeat] * 2
    wait_for(lambda: len(in_order(legs)) >= len(wanted + heartbeats), "the stream")
    came = in_order(legs)
    assert [each for each in came if each not in heartbeats] == wanted
    assert [each for each in came if each in heartbeats] == heartbeats
    assert not any(each["dropped"]["too_late"] for each in counts(legs).values())


def test_what_is_held_is_not_lost(start: Callable[[str], Legs]) -> None:
    """It leaves when its rule changes or goes, or the daemon ends; what a worker held is told."""
    rules = f'{FEED}merge = {{ by = "rtp", delay = "1s" }}\n'
    legs = start(rules + OTHER)
    sent = {number: packet(number) for number in (*range(8), 29_999, 30_000, 30_002)}

    def give(*numbers: int) -> None:
        before = sum(each["merge"]["received"] for each in counts(legs).values())
        for number in numbers:
            legs.a.sendto(sent[number], A)
        wait_for(
            lambda: (
                sum(each["merge"]["received"] for each in counts(legs).values())
                == before + len(numbers)
            ),
            "what was sent",
        )

    give(0, 2)
    legs.daemon.edit(rules.replace("port = 6000", "port = 6000, ttl = 7") + OTHER)
    wait_for(lambda: in_order(legs) == [sent[0], sent[2]], "what was held for the rule before")
    give(3, 4, 1)
    wait_for(lambda: in_order(legs)[2:] == [sent[3], sent[4]], "what follows")
    assert counts(legs)["feed@r0"]["dropped"]["too_late"] == 1
    wait_for(lambda: adds_up(counts(legs)), "all to be counted")

    give(6)
    os.kill(legs.pids()["r0"], signal.SIGKILL)
    wait_for(lambda: counts(legs)["feed@r0"]["merge"]["held"] == 0, "another worker")
    wait_for(lambda: adds_up(counts(legs)), "each to be sent or named")
    late = counts(legs)["feed@r0"]["dropped"]["too_late"]
    wait_for(lambda: len(in_order(legs)) + late >= 4 + 2, "what was not lost")
    before = len(in_order(legs))

    give(5, 7)
    legs.daemon.edit(OTHER)
    wait_for(lambda: NAMES[0] not in legs.daemon.rules(), "the rule to go")
    wait_for(lambda: sent[7] in in_order(legs)[before:], "what was held for the rule that went")
    legs.daemon.edit(rules + OTHER)
    wait_for(lambda: NAMES[0] in legs.daemon.rules(), "the rule again")
    wait_for(lambda: legs.state(NAMES[0]) == "active", "it to be active")
    before = len(in_order(legs))
    give(30_000, 29_999, 30_002)  # what is before the first one was not waited for
    legs.daemon.stop()
    wanted = [sent[number] for number in (30_000, 29_999, 30_002)]
    wait_for(lambda: in_order(legs)[before:] == wanted, "what was held")
