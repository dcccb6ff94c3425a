"""The supervisor's loop, as far as it needs no privilege."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from mcrd.config import Blocks, ConfigError, Problem
from mcrd.daemon import rulefile
from mcrd.daemon.health import Health
from mcrd.daemon.planner import STALLED, Planner
from mcrd.daemon.rulefile import RuleFile
from mcrd.daemon.supervisor import Supervisor
from mcrd.model import Config, Place
from mcrd.systemd.notify import Notify
from mcrd.tasks import Tasks

if TYPE_CHECKING:
    from pathlib import Path


def test_a_fault_at_a_change_of_interfaces_does_not_lose_the_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        planner = Planner()

        def refuse() -> None:
            raise OSError(errno.ENOBUFS, "no")

        monkeypatch.setattr(planner.routes, "links_changed", refuse)
        with pytest.raises(OSError, match="no"):
            planner.links_changed(frozenset({"eth0"}))
        assert planner.woken.is_set()
        await planner.estate.close()

    asyncio.run(scenario())


def test_the_loop_does_not_wait_for_a_file_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no thread is added for each event while one waits for it."""
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()
    looks: list[int] = []

    def hang(_: object) -> bytes:
        looks.append(threading.get_ident())
        begun.set()
        assert go.wait(10.0)
        if len(looks) == 2:
            ended.set()
        return b""

    monkeypatch.setattr("mcrd.daemon.rulefile.digest_of", hang)

    async def scenario() -> None:
        tasks, told = Tasks(), list[str]()
        made = RuleFile(tmp_path / "mcr.toml", tasks, lambda: told.append("saved"))
        made.changed()
        async with asyncio.timeout(10.0):
            while not begun.is_set():  # noqa: ASYNC110  the thread makes no event of the loop
                await asyncio.sleep(0.01)
            for _ in range(5):
                made.changed()
            go.set()
            while not ended.is_set() or made._comparing:  # noqa: ASYNC110, SLF001
                await asyncio.sleep(0.01)
        assert len(looks) == 2
        assert threading.get_ident() not in looks
        assert told == []
        await tasks.stop()

    asyncio.run(scenario())


def test_the_watchdog_hears_nothing_of_a_plan_that_comes_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits for a worker comes further in the end; one that hangs for good does not."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "1")

    async def scenario(manager: socket.socket) -> None:
        planner, notify = Planner(), Notify()
        file = RuleFile(tmp_path / "mcr.toml", Tasks(), lambda: None)
        health = Health(planner, file, notify)

        def is_alive() -> bool:
            health.tell()
            try:
                return manager.recv(4096) == b"WATCHDOG=1"
            except BlockingIOError:
                return False

        estate = planner.estate
        assert is_alive()
        estate.advanced -= 2 * STALLED
        assert is_alive()  # nothing is planned
        async with planner.turn():
            assert is_alive()
            estate.advanced -= 2 * STALLED
            assert not is_alive()
            await estate.apply((), {})
            assert not is_alive()  # nothing was done
            estate.advance()
            assert is_alive()
        await estate.close()
        notify.close()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(str(tmp_path / "notify"))
        asyncio.run(scenario(manager))


def test_after_many_refused_reloads_the_file_is_read_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each; and never when a reload comes first, or the daemon ends."""
    problem = Problem(Place("mcr.toml", 0, 0), "", "cannot read: no memory", passing=True)

    def refuse(*_: object) -> Config:
        raise ConfigError([problem])

    again = 0.05
    monkeypatch.setattr(rulefile, "READ_AGAIN", again)
    monkeypatch.setattr(rulefile, "load", refuse)

    async def scenario() -> None:
        told = list[str]()
        made = RuleFile(tmp_path / "mcr.toml", Tasks(), lambda: told.append("saved"))
        for _ in range(3):
            with pytest.raises(ConfigError):
                await made.load()
        await asyncio.sleep(again)  # all that were to come before this have come
        assert told == ["saved"]
        with pytest.raises(ConfigError):
            await made.load()
        made.stop()
        with pytest.raises(ConfigError):
            await made.load()
        await asyncio.sleep(again)
        assert told == ["saved"]

    asyncio.run(scenario())


def test_a_reload_that_comes_at_the_end_does_not_begin(tmp_path: Path) -> None:
    async def scenario() -> None:
        made = Supervisor(tmp_path / "mcr.toml", tmp_path / "s", Config(), Blocks(), None)
        made._stop.set()  # noqa: SLF001
        made._reload_soon("SIGHUP")  # noqa: SLF001
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await made._estate.close()  # noqa: SLF001
        made._listener.close()  # noqa: SLF001

    asyncio.run(scenario())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_file_that_may_not_be_looked_at_is_no_file_that_has_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who reads it says why, once; nobody looks again before it changes."""
    path = tmp_path / "of root" / "mcr.toml"
    path.parent.mkdir(0o700)
    path.write_text("ttl = 8\n", encoding="utf-8")

    async def scenario() -> None:
        tasks, told = Tasks(), asyncio.Event()
        made = RuleFile(path, tasks, told.set)
        await made.has_been_read(Config())
        os.seteuid(65534)
        try:
            made.changed()
            async with asyncio.timeout(10.0):
                await told.wait()
            with pytest.raises(ConfigError, match="Permission denied"):
                await made.load()
        finally:
            os.seteuid(0)
        assert made._again is None  # noqa: SLF001
        await tasks.stop()

    asyncio.run(scenario())
    assert caplog.messages == []
