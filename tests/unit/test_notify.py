"""What the service manager is told, as a socket in its place hears it, or does not."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, TypeVar

import pytest

from mcrd.systemd import notify
from mcrd.systemd.notify import Manager, Notify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIMEOUT = 10.0  # seconds


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the manager listens."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return str(tmp_path / "notify")


T = TypeVar("T", Manager, Notify)


@pytest.fixture
def made() -> Iterator[Callable[[T], T]]:
    """Closes at the end what it is given."""
    with contextlib.ExitStack() as end:
        yield lambda what: end.enter_context(contextlib.closing(what))


def listening(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.bind(path)
    return made


@pytest.fixture
def manager(path: str) -> Iterator[socket.socket]:
    """The manager's end."""
    with listening(path) as made:
        yield made


def fill(path: str) -> int:
    """Leaves no room in the manager's socket; returns how many messages that took."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
        other.connect(path)
        count = 0
        while True:
            try:
                other.send(b"FILL=1")
            except BlockingIOError:
                return count
            count += 1


def hear(manager: socket.socket) -> list[str]:
    """What has come, but for what filled it."""
    found: list[str] = []
    while True:
        try:
            text = manager.recv(4096).decode()
        except BlockingIOError:
            return found
        if text != "FILL=1":
            found.append(text.partition("\nMONOTONIC")[0])


def test_it_hears_everything_in_its_order(
    manager: socket.socket, made: Callable[[Notify], Notify]
) -> None:
    told = made(Notify())
    told.status("1 rule")
    told.status("1 rule")
    told.ready()
    told.reloading()
    told.ready()
    told.stopping()
    states = ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
    assert hear(manager) == ["STATUS=1 rule", *states]
    assert told.lost == 0


def test_one_that_reads_nothing_holds_nobody_up(
    manager: socket.socket,
    path: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    made: Callable[[Notify], Notify],
) -> None:
    """What counts is told when it reads again: states, and the last status."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    told = made(Notify())
    fill(path)
    told.ready()
    for number in range(100):
        told.reloading()
        told.ready()
        told.status(f"{number} rules")
        told.alive()
    assert caplog.messages == ["cannot reach the service manager: it does not read"]
    assert hear(manager) == []
    told.alive()
    assert hear(manager) == ["READY=1", "RELOADING=1", "READY=1", "STATUS=99 rules", "WATCHDOG=1"]
    # 99 times the two of a reload, and a status; and each sign of life.
    assert told.lost == 99 * 3 + 100
    again = "the service manager listens again; 397 messages were lost so far"
    assert caplog.messages[1:] == [again]
    told.flush()
    assert hear(manager) == []


def test_one_that_listens_anew_is_told(
    path: str, caplog: pytest.LogCaptureFixture, made: Callable[[Notify], Notify]
) -> None:
    told = made(Notify())
    told.ready()
    assert caplog.messages == ["cannot reach the service manager: No such file or directory"]
    with listening(path) as manager:
        told.flush()
        assert hear(manager) == ["READY=1"]
    os.unlink(path)
    told.status("nobody hears this")
    with listening(path) as manager:
        told.status("but this")
        assert hear(manager) == ["STATUS=but this"]


def test_without_a_manager_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    made: Callable[[Notify], Notify],
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    told = made(Notify())
    told.ready()
    told.status("text")
    assert (told.lost, caplog.messages) == (0, [])


def test_the_barrier_is_waited_for_beside_everything_else(
    manager: socket.socket, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "BARRIER", TIMEOUT)

    async def scenario() -> None:
        before = len(os.listdir("/proc/self/fd"))
        speaking = Manager()
        fill(path)
        waiting = asyncio.ensure_future(speaking.barrier())
        for _ in range(3):  # the loop goes on
            await asyncio.sleep(0.01)
        assert not waiting.done()
        hear(manager)
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(manager, readable.set)
        await asyncio.wait_for(readable.wait(), TIMEOUT)
        loop.remove_reader(manager)
        data, descriptors, _, _ = socket.recv_fds(manager, 4096, 4)
        assert data == b"BARRIER=1"
        await asyncio.sleep(0.01)
        assert not waiting.done()
        for descriptor in descriptors:
            os.close(descriptor)
        assert await waiting
        speaking.close()
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(scenario())


@pytest.mark.parametrize("full", [True, False])
def test_a_barrier_that_nobody_takes_away_is_given_up(
    manager: socket.socket,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    made: Callable[[Manager], Manager],
    full: bool,
) -> None:
    assert hear(manager) == []
    monkeypatch.setattr(notify, "BARRIER", 0.1)
    if full:
        fill(path)
    began = time.monotonic()
    assert asyncio.run(made(Manager()).barrier()) is False
    assert time.monotonic() - began < TIMEOUT
