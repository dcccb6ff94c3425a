"""Threads that cannot be had: what they would do is done all the same."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import threading

import pytest

from mcrd import threads
from mcrd.systemd.writer import Writer


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The limit on processes does not hold for root: Python says so in the kernel's place."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    return monkeypatch


def own_thread() -> int:
    return threading.get_ident()


def test_work_is_done_apart(caplog: pytest.LogCaptureFixture) -> None:
    assert asyncio.run(threads.apart(own_thread)) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(threads.apart(lambda: 1 // 0))
    assert caplog.messages == []


@pytest.mark.usefixtures("no_threads")
def test_without_a_thread_work_is_done_here() -> None:
    assert asyncio.run(threads.apart(own_thread)) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(threads.apart(lambda: 1 // 0))
    with pytest.raises(OSError, match="TasksMax="):
        asyncio.run(threads.apart(own_thread, or_here=False))


def test_a_writer_without_a_thread_waits_for_nobody(no_threads: pytest.MonkeyPatch) -> None:
    """What cannot be written at once is written later, in its order, and by a thread at last."""
    written: list[str] = []
    has_room = False

    def write_now(what: str) -> bool:
        if has_room:
            written.append(what)
        return has_room

    writer = Writer(written.append, write_now, str)
    with pytest.raises(OSError, match="TasksMax="):
        writer.start()
    writer.put("a", 1)
    writer.put("b", 1)
    assert not writer.flush(10.0)
    assert written == []
    has_room = True
    writer.put("c", 1)
    assert writer.flush(10.0)
    assert written == ["a", "b", "c"]
    has_room = False
    writer.put("d", 1)
    no_threads.undo()
    writer.start()
    assert writer.flush(10.0)
    assert written == ["a", "b", "c", "d"]
