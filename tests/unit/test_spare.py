"""The spare process, and a worker that is made of it: real processes, real ends."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcrd.lanes import process as workers
from mcrd.lanes import spawn
from mcrd.lanes.process import WorkerProcess
from mcrd.lanes.spawn import Spare, Spawned
from mcrd.planning.resources import Ingress, Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TIMEOUT = 60.0  # seconds, of what takes a tenth of one

WAITS = "import socket; socket.socket(fileno=0).recv(1)"
"""A process that ends with its channel, as a worker does."""

LANES = ("one",)
R0 = Worker(Ingress("r0", 1))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def are_there(*pids: int) -> bool:
    """Also as zombies."""
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not found():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Spawned]:
    """Every process that was started, in its order."""
    found: list[Spawned] = []

    class Noted(Spawned):
        def __init__(self) -> None:
            super().__init__()
            found.append(self)

    monkeypatch.setattr(spawn, "PROGRAM", ("-c", WAITS))
    monkeypatch.setattr(spawn, "Spawned", Noted)
    monkeypatch.setattr(workers, "Spawned", Noted)
    return found


def run(scenario: Callable[[], Awaitable[None]], made: list[Spawned]) -> None:
    """Run it, after which everything is as before."""

    async def all_of_it() -> None:
        before = descriptors()
        await scenario()
        await until(lambda: not are_there(*(one.process.pid for one in made)))
        assert descriptors() == before

    asyncio.run(all_of_it())


def test_there_is_one_while_there_are_lanes_and_a_worker_has_settled(made: list[Spawned]) -> None:
    async def scenario() -> None:
        spare = Spare()
        spare.look(LANES, [])
        spare.look(LANES, [spawn.SETTLED / 2])
        assert made == []
        for _ in range(3):
            spare.look(LANES, [0.0, spawn.SETTLED * 2])
        (first,) = made
        assert spare.take() is first
        assert spare.take() is None
        first.end()
        spare.look(LANES, [spawn.SETTLED * 2])
        spare.look((), [])
        assert spare.take() is None
        await until(made[1].gone.is_set)
        spare.look(LANES, [spawn.SETTLED * 2])
        await spare.stop()
        assert not are_there(*(one.process.pid for one in made))
        assert len(made) == 3

    run(scenario, made)


def test_one_that_may_not_be_killed_ends_with_its_channel(
    made: list[Spawned], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a filter of system calls: nothing of it stays open, and it is let go of once."""

    def kill(_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(subprocess.Popen, "kill", kill)

    async def scenario() -> None:
        spare = Spare()
        spare.look(LANES, [spawn.SETTLED * 2])
        await spare.stop()
        spare.end()
        assert len(made) == 1

    run(scenario, made)


def test_one_that_ends_by_itself_is_said_once_and_replaced_later(
    made: list[Spawned], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    look = partial(Spare.look, lanes=LANES, ages=[spawn.SETTLED * 2])
    monkeypatch.setattr(spawn, "PROGRAM", ("-c", "import mcrd.nothing"))

    async def scenario() -> None:
        spare = Spare()
        look(spare)
        await until(lambda: not made[0].lives)
        look(spare)
        look(spare)
        assert len(made) == 1  # not again and again
        assert spare.take() is None
        monkeypatch.setattr(spawn, "AGAIN", 0.0)
        spare = Spare()
        for number in (2, 3):
            look(spare)
            await until(lambda: not made[-1].lives)
            assert len(made) == number
            assert spare.take() is None
        monkeypatch.setattr(spawn, "PROGRAM", ("-c", WAITS))
        look(spare)
        os.kill(made[-1].process.pid, signal.SIGKILL)
        await until(lambda: not made[-1].lives)
        assert spare.take() is None
        look(spare)
        assert made[-1].lives
        spare.end()

    run(scenario, made)
    why = "ended with exit status 1: ModuleNotFoundError: No module named 'mcrd.nothing'"
    assert caplog.messages == [
        f"the spare process, pid {made[0].process.pid}, {why}",
        f"the spare process, pid {made[1].process.pid}, {why}",  # of the second Spare
        f"the spare process, pid {made[3].process.pid}, killed by SIGKILL",
    ]


def test_the_loop_does_not_wait_for_one_that_does_not_end(
    made: list[Spawned], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a system call that cannot be interrupted."""

    async def scenario() -> None:
        spare = Spare()
        spare.look(LANES, [spawn.SETTLED * 2])
        os.kill(made[0].process.pid, signal.SIGSTOP)
        with monkeypatch.context() as patched:
            patched.setattr(subprocess.Popen, "kill", lambda _: None)
            began = time.monotonic()
            spare.end()
            assert time.monotonic() - began < spawn.KILL_TIMEOUT / 2
        assert not made[0].gone.is_set()
        os.kill(made[0].process.pid, signal.SIGKILL)
        await until(made[0].gone.is_set)

    run(scenario, made)


def test_a_worker_that_cannot_be_made_takes_no_spare(
    made: list[Spawned], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: int) -> set[int]:
        raise OSError(12, os.strerror(12))

    async def scenario() -> None:
        spare = Spare()
        spare.look(LANES, [spawn.SETTLED * 2])
        monkeypatch.setattr(os, "sched_getaffinity", refused)
        with pytest.raises(OSError, match="Cannot allocate"):
            WorkerProcess(R0, lambda *_: None, lambda *_: None, spare=spare.take)
        assert spare.take() is made[0]
        made[0].end()

    run(scenario, made)
