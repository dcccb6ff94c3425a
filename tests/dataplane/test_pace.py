"""A worker that has nothing to do does not run; one that has much to do still listens."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcrd.dataplane import messages
from mcrd.lanes.channel import WorkerError
from tests.dataplane.bench import Bench, drive, listening, sending, until
from tests.dataplane.test_relay import IN, OUT, arriving, settled

if TYPE_CHECKING:
    from tests.lab import Triangle

pytestmark = pytest.mark.alone

COUNT, RATE = 600_000, 300_000


def switches(bench: Bench) -> int:
    """How often the worker has been waiting so far (proc(5))."""
    lines = Path(f"/proc/{bench.process.pid}/status").read_text().splitlines()
    (count,) = (line.split()[1] for line in lines if line.startswith("voluntary_ctxt"))
    return int(count)


async def quiet(triangle: Triangle, bench: Bench) -> None:
    """Nobody says anything any more, and the worker has seen the last of it."""
    for host, interface in ((triangle.source, "s0"), (triangle.relay, "r0")):
        host.run("ip", "link", "set", interface, "arp", "off")
        host.sysctl(f"net.ipv6.conf.{interface}.disable_ipv6", "1")
    await asyncio.sleep(0.3)
    before = bench.taken().received.packets
    await asyncio.sleep(0.2)
    assert bench.taken().received.packets == before


def test_an_idle_worker_does_not_wake(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        await quiet(triangle, bench)
        before = switches(bench)
        await asyncio.sleep(1.0)
        assert switches(bench) == before

    drive(triangle.relay, scenario)


def test_a_busy_worker_calms_down(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        stream = triangle.source.start_send("s0", *IN, count=COUNT, rate=RATE, size=18)
        await asyncio.to_thread(stream.result)
        # What one of 2 CPUs is too late for has no room in the ring.
        await until(lambda: bench.received().packets > COUNT // 2, "the flood")
        await settled(bench)
        await quiet(triangle, bench)
        before = switches(bench)
        await asyncio.sleep(1.0)
        assert switches(bench) == before
        # And it still hears a single datagram.
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            source.sendto(b"single", IN)
            assert arriving(sink, 1) == [b"single"]

    drive(triangle.relay, scenario)


def test_a_busy_worker_answers_at_once(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT)
        stream = triangle.source.start_send("s0", *IN, count=COUNT, rate=RATE, size=18)
        await until(lambda: bench.received().packets > 10_000, "the flood to begin")
        slowest = 0.0
        for _ in range(100):
            began = time.monotonic()
            with pytest.raises(WorkerError, match="ENOENT"):
                await bench.ask(messages.RemoveRule, 77)
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 0.5  # both CPUs are busy: a matter of scheduling
        await asyncio.to_thread(stream.result)

    drive(triangle.relay, scenario)
