"""Merged streams at a rate: the output lacks what all legs lacked, and nothing else."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.dataplane.test_merge import two_legs
from tests.lab import wait_for
from tests.network.test_merge import FEED, A, B, Legs, rtp, second_way
from tests.network.test_streams import hoard

if TYPE_CHECKING:
    import socket

    from tests.lab import Triangle

SOURCE = Path(__file__).parent / "c" / "paced.c"
NAMES = ("feed@r0", "feed@q0")
RINGS = "".join(f'[interfaces.{name}]\nring_size = "128 MiB"\n' for name in ("r0", "q0"))
# Of a stream at 50,000/s, 8 MiB hold what comes within DELAY. A sender that has waited longer than
# STALL for a CPU was more than DELAY behind with some of it.
DELAY, STALL = "150ms", 95  # ms
# So long is surely remembered what has passed, less the skew.
FORGETS = 450  # ms
BEHIND = 25_000_000  # ns: half of the skew, so that either leg is the first
AT_RATE = [pytest.mark.alone, pytest.mark.long]


class Paced:
    """A stream that is sent at its times: for each datagram the ns, the leg and the number."""

    def __init__(self, triangle: Triangle, arrives: list[tuple[int, int, int]]) -> None:
        file = triangle.lab.file
        program, schedule, payloads = file("paced"), file("schedule"), file("payloads")
        strict = ("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
        subprocess.run([*strict, "-o", program, SOURCE], check=True)
        schedule.write_bytes(b"".join(struct.pack("=QII", *each) for each in arrives))
        self._scheduled, self._numbers = len(arrives), max(number for *_, number in arrives) + 1
        payloads.write_bytes(b"".join(map(rtp, range(self._numbers))))
        files = (str(program), str(schedule), str(payloads), str(len(rtp(0))))
        ways = ("s0", A[0], str(A[1]), "s1", B[0], str(B[1]))
        pipe = subprocess.PIPE
        self._process = triangle.source.start(*files, *ways, stdin=pipe, stdout=pipe)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> tuple[int, tuple[int, int]]:
        """How many ms it was late at most, and what was not sent by each leg; prints its rate."""
        said, _ = self._process.communicate(timeout=600)
        took, late, *unsent = map(int, said.split())
        assert self._process.returncode == 0
        sent = self._scheduled - sum(unsent)
        rates = (1000 * each / took for each in (self._numbers, sent))
        print("{:,.0f} numbers/s, {:,.0f} datagrams/s".format(*rates))
        print(f"at most {late} ms late")
        return late, (unsent[0], unsent[1])


class Behind:
    """All that came out, in order."""

    def __init__(self, triangle: Triangle) -> None:
        self._socket: socket.socket = hoard(triangle.sink, "k0", "239.2.2.2", 6000)
        self._socket.setblocking(False)
        triangle.lab.close_at_end(self._socket)
        self.came: list[bytes] = []

    def has(self, count: int) -> bool:
        try:
            while True:
                self.came.append(self._socket.recv(2048))
        except BlockingIOError:
            return len(self.came) >= count


def merges(legs: Legs) -> list[dict[str, Any]]:
    return [legs.stats("rules", name)["merge"] for name in NAMES]


def rings_lost(legs: Legs) -> int:
    """What the rings had no room for: then the machine is too slow for the rate."""
    return sum(legs.stats("interfaces", name)["dropped"]["ring_full"] for name in ("r0", "q0"))


def check(
    legs: Legs, behind: Behind, wanted: list[bytes], stalled: int, *, is_in_order: bool
) -> None:
    """All came, once and in order, as far as the sender had a CPU to send it in time."""
    wait_for(lambda: not any(m["held"] for m in merges(legs)), "all that was held")
    too_late = sum(legs.stats("rules", name)["dropped"]["too_late"] for name in NAMES)
    relayed = sum(m["first"] for m in merges(legs)) - too_late
    wait_for(lambda: behind.has(relayed), "the stream")
    assert len(behind.came) == relayed
    came = set(behind.came)
    assert came <= set(wanted)
    assert len(wanted) - len(came) <= too_late
    assert stalled > STALL or too_late == 0
    assert stalled > FORGETS or len(came) == relayed
    if is_in_order and stalled <= STALL:
        assert behind.came == wanted


@pytest.mark.parametrize(
    ("rate", "count", "by", "delay"),
    [
        (5_000, 5_000, "rtp", "1s"),
        pytest.param(50_000, 200_000, "rtp", "0", marks=AT_RATE),
        pytest.param(50_000, 200_000, "sequence", "0", marks=AT_RATE),
        pytest.param(50_000, 200_000, "content", "0", marks=AT_RATE),
        pytest.param(50_000, 200_000, "rtp", DELAY, marks=AT_RATE),
        pytest.param(50_000, 200_000, "sequence", DELAY, marks=AT_RATE),
    ],
)
def test_loss_bursts_and_skew(
    triangle: Triangle, rate: int, count: int, by: str, delay: str
) -> None:
    """1 % lost, up to 100 ms cut and up to 50 ms late on each leg."""
    inspect = "inspect = { offset = 12, bytes = 4 }\n" if by == "sequence" else ""
    in_time = f', delay = "{delay}"' if delay != "0" else ""
    legs = Legs(triangle, f'{RINGS}{FEED}merge = {{ by = "{by}"{in_time} }}\n{inspect}')
    behind = Behind(triangle)
    arrives, lost = two_legs(len(by), count, 10**9 // rate)
    arrives = [(0, 0, 0), *(each for each in arrives if each[1:] != (0, 0))]  # what it begins with
    lost -= {0}
    paced = Paced(triangle, arrives)
    paced.go()
    stalled, unsent = paced.end()
    sent = Counter(leg for _, leg, _ in arrives)
    wait_for(lambda: [m["received"] for m in merges(legs)] == [sent[0], sent[1]], "all of it")
    assert (unsent, rings_lost(legs)) == ((0, 0), 0)
    assert lost
    wanted = [rtp(number) for number in range(count) if number not in lost]
    check(legs, behind, wanted, stalled, is_in_order=delay != "0")
    legs.a.close()
    legs.b.close()


@pytest.mark.alone
@pytest.mark.long
@pytest.mark.parametrize("delay", ["0", DELAY])
def test_a_leg_dies_and_its_interface_goes(triangle: Triangle, delay: str) -> None:
    """The other one has all: nothing is lost, though the worker is replaced meanwhile."""
    in_time = f', delay = "{delay}"' if delay != "0" else ""
    legs = Legs(triangle, f'{RINGS}{FEED}merge = {{ by = "rtp"{in_time} }}\n')
    behind, count, apart = Behind(triangle), 300_000, 20_000  # 50,000/s
    faulty, _ = two_legs(6, count, apart)
    dead = range(count // 10, count // 5)
    arrives = sorted(
        [(number * apart + BEHIND, 0, number) for number in range(count)]
        + [each for each in faulty if each[1] == 1 and each[2] not in dead]
    )
    paced = Paced(triangle, arrives)
    paced.go()
    wait_for(lambda: merges(legs)[0]["received"] > dead[-1], "a leg to be dead for a while")
    triangle.relay.run("ip", "link", "del", "q0")
    wait_for(lambda: legs.state("feed@q0") == "waiting", "the second leg to wait")
    before = merges(legs)[1]["received"]
    second_way(triangle)
    wait_for(lambda: legs.state("feed@q0") == "active", "the second leg to be there again")
    stalled, unsent = paced.end()
    assert unsent[0] == 0
    wait_for(lambda: merges(legs)[0]["received"] == count, "all of the first leg")
    assert rings_lost(legs) == 0
    assert merges(legs)[1]["received"] > before
    wanted = [rtp(number) for number in range(count)]
    check(legs, behind, wanted, stalled, is_in_order=delay != "0")
    legs.a.close()
    legs.b.close()


CALM = """
[rules.calm]
inputs = [
    { interface = "r0", address = "239.1.1.3", port = 5000 },
    { interface = "q0", address = "239.1.1.4", port = 5000 },
]
outputs = [{ interface = "r1", address = "239.2.2.2", port = 6000 }]
merge = { by = "rtp", delay = "1s" }
"""


@pytest.mark.alone
def test_a_flood_of_one_stream_holds_nothing_up_in_another(triangle: Triangle) -> None:
    """It has more gaps than there is room for what waits behind them."""
    legs = Legs(triangle, f'{RINGS}{FEED}merge = {{ by = "rtp", delay = "1s" }}\n{CALM}')
    behind = Behind(triangle)
    flood = [number for number in range(60_000) if number % 100 != 50]
    paced = Paced(triangle, [(number * 10_000, 0, number) for number in flood])
    calm = [calm_rtp(0)]
    legs.a.sendto(calm[0], ("239.1.1.3", 5000))
    paced.go()
    while not paced.is_over() and len(calm) < 30_000:
        calm += [calm_rtp(len(calm)), calm_rtp(len(calm) + 1)]
        for swapped in calm[:-3:-1]:
            legs.a.sendto(swapped, ("239.1.1.3", 5000))
        time.sleep(0.001)
    assert paced.end()[1] == (0, 0)
    wait_for(lambda: behind.has(len(flood) + len(calm)), "both")
    assert rings_lost(legs) == 0
    assert [data for data in behind.came if data[11] == 8] == calm
    assert [data for data in behind.came if data[11] == 7] == [rtp(number) for number in flood]
    # What follows the last gap of the flood was still waiting then.
    assert behind.came.index(calm[-1]) < behind.came.index(rtp(flood[-1]))
    assert merges(legs)[0]["hurried"] > 0
    found = legs.stats("rules", "calm@r0")
    assert (found["merge"]["hurried"], found["dropped"]["too_late"]) == (0, 0)
    legs.a.close()
    legs.b.close()


def calm_rtp(number: int) -> bytes:
    """Of another stream."""
    return struct.pack("!BBHII", 0x80, 33, number, number * 90, 8) + b"calm"
