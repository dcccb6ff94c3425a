"""The supervisor's end of the channel, while the kernel takes nothing more for the worker."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from mcrd.dataplane import messages
from mcrd.lanes import channel, spawn
from mcrd.lanes.channel import PAUSE, unheard
from mcrd.lanes.process import SILENT, WorkerProcess
from mcrd.planning.resources import Ingress, Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TIMEOUT = 60.0  # seconds, of what takes a tenth of one
REFUSED = 0.5  # seconds, at least, for which the kernel takes nothing

ANSWERS = """
import socket, time
import msgspec
channel = socket.socket(fileno=0)
for number in range({}):
    asked = msgspec.msgpack.decode(channel.recv(1 << 18))
    channel.send(msgspec.msgpack.encode(dict(type="Done", sequence=asked["sequence"])))
time.sleep({})
"""
"""A worker that answers so many requests, and then hangs."""


class Kernel:
    """What refuses to send, when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses = 0  # an error number
        self.asked = 0
        self._sends: Callable[..., int] = socket.send_fds
        monkeypatch.setattr(socket, "send_fds", self._send)

    def _send(self, *given: object) -> int:
        self.asked += 1
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        return self._sends(*given)


def run(
    program: str,
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[WorkerProcess, Kernel, list[str]], Awaitable[None]],
) -> None:
    monkeypatch.setattr(spawn, "PROGRAM", ("-c", program))
    kernel = Kernel(monkeypatch)

    async def all_of_it() -> None:
        ended: list[str] = []
        process = WorkerProcess(
            Worker(Ingress("r0", 1)), lambda _, how: ended.append(how), lambda *_: None
        )
        try:
            await asyncio.wait_for(process.request(messages.Ping), TIMEOUT)
            await scenario(process, kernel, ended)
        finally:
            await process.stop()

    asyncio.run(all_of_it())


@pytest.mark.parametrize("error", ["ENOMEM", "ENOBUFS", "ETOOMANYREFS"])
def test_a_worker_that_is_well_is_told_later(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes: it is not taken for hung, and the loop does not turn for it."""

    async def scenario(process: WorkerProcess, kernel: Kernel, ended: list[str]) -> None:
        kernel.refuses, kernel.asked = getattr(errno, error), 0
        waited = []
        began = time.monotonic()
        future = process.request(messages.Ping)
        hearing = asyncio.create_task(process.hear(future, 0.02, lambda: waited.append(1)))
        for _ in range(10 * SILENT):
            await asyncio.sleep(REFUSED / SILENT / 10)
            process.look(0)
        assert len(waited) > 1
        # One try for each request, which are two with the look's, and then one in each pause.
        assert kernel.asked <= 3 + (time.monotonic() - began) / PAUSE
        assert not hearing.done()
        hearing.cancel()
        kernel.refuses = 0
        await process.hear(future, TIMEOUT, lambda: None)
        assert isinstance(future.result(), messages.Done)
        assert ended == []
        assert not process.gone

    run(ANSWERS.format(1000, 0), monkeypatch, scenario)


def test_one_that_hangs_is_ended_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(process: WorkerProcess, kernel: Kernel, ended: list[str]) -> None:
        unheard(process.request(messages.Ping))  # which it never answers
        kernel.refuses = errno.ETOOMANYREFS
        later = process.request(messages.Ping)
        with pytest.raises(TimeoutError):
            await process.hear(later, 0.1, lambda: None)
        process.look(0)
        for _ in range(SILENT + 1):
            process.look(0)
        async with asyncio.timeout(TIMEOUT):
            while not ended:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)
        assert ended == ["hung: it did not answer, and took no packet"]

    run(ANSWERS.format(1, 1000), monkeypatch, scenario)


def test_what_the_kernel_goes_on_refusing_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(channel, "TOLD_AFTER", 2 * PAUSE)

    async def scenario(process: WorkerProcess, kernel: Kernel, _: list[str]) -> None:
        for _again in range(2):
            kernel.refuses, kernel.asked = errno.ENOMEM, 0
            future = process.request(messages.Ping)
            async with asyncio.timeout(TIMEOUT):
                while kernel.asked < 8:  # noqa: ASYNC110  # nobody tells
                    await asyncio.sleep(PAUSE)
            kernel.refuses = 0
            await asyncio.wait_for(future, TIMEOUT)

    run(ANSWERS.format(1000, 0), monkeypatch, scenario)
    said = "a worker cannot be told anything: Cannot allocate memory (ENOMEM)"
    found = [line.getMessage() for line in caplog.records if line.name == "mcrd.lanes.channel"]
    assert found == 2 * [f"{said}; trying again until it can be"]
