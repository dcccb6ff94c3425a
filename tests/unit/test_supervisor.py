"""The supervisor's loop, as far as it needs no privilege."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from mcrd.daemon.supervisor import STALLED, Supervisor
from mcrd.model import Config

if TYPE_CHECKING:
    from pathlib import Path


def test_a_fault_at_a_change_of_interfaces_does_not_lose_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        made = Supervisor(tmp_path / "mcr.toml", tmp_path / "control", Config(), None)

        def refuse() -> None:
            raise OSError(errno.ENOBUFS, "no")

        monkeypatch.setattr(made._routes, "links_changed", refuse)  # noqa: SLF001
        with pytest.raises(OSError, match="no"):
            made._links_changed(frozenset({"eth0"}))  # noqa: SLF001
        assert made._woken.is_set()  # noqa: SLF001
        await made._estate.close()  # noqa: SLF001
        made._listener.close()  # noqa: SLF001
        made._notify.close()  # noqa: SLF001

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

    monkeypatch.setattr("mcrd.daemon.supervisor._digest", hang)

    async def scenario() -> None:
        made = Supervisor(tmp_path / "mcr.toml", tmp_path / "control", Config(), None)
        made._file_changed()  # noqa: SLF001
        async with asyncio.timeout(10.0):
            while not begun.is_set():  # noqa: ASYNC110  the thread makes no event of the loop
                await asyncio.sleep(0.01)
            for _ in range(5):
                made._file_changed()  # noqa: SLF001
            go.set()
            while not ended.is_set() or made._comparing:  # noqa: ASYNC110, SLF001
                await asyncio.sleep(0.01)
        assert len(looks) == 2
        assert threading.get_ident() not in looks
        await made._tasks.stop()  # noqa: SLF001
        await made._estate.close()  # noqa: SLF001
        made._listener.close()  # noqa: SLF001
        made._notify.close()  # noqa: SLF001

    asyncio.run(scenario())


def test_the_watchdog_hears_nothing_of_a_plan_that_comes_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits for a worker comes further in the end; one that hangs for good does not."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "1")

    async def scenario(manager: socket.socket) -> None:
        made = Supervisor(tmp_path / "mcr.toml", tmp_path / "control", Config(), None)

        def is_alive() -> bool:
            made._tell_manager()  # noqa: SLF001
            try:
                return manager.recv(4096) == b"WATCHDOG=1"
            except BlockingIOError:
                return False

        estate = made._estate  # noqa: SLF001
        assert is_alive()
        estate.advanced -= 2 * STALLED
        assert is_alive()  # nothing is planned
        async with made._planning():  # noqa: SLF001
            assert is_alive()
            estate.advanced -= 2 * STALLED
            assert not is_alive()
            await estate.apply((), {})
            assert not is_alive()  # nothing was done
            estate.advance()
            assert is_alive()
        await estate.close()
        made._listener.close()  # noqa: SLF001
        made._notify.close()  # noqa: SLF001

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(str(tmp_path / "notify"))
        asyncio.run(scenario(manager))
