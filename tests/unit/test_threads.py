"""Threads that cannot be had: what they would do is done all the same."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import _thread
import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from mcrd import threads
from mcrd.systemd.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 20.0  # seconds


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The limit on processes does not hold for root: Python says so in the kernel's place."""

    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", start)
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


def test_work_of_a_thread_that_begins_too_late_is_done_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when the process was stopped, or its memory is on a disk; nobody waits for it again."""
    go, done, ended = threading.Event(), list[int](), list[threading.Event]()
    real = _thread.start_new_thread

    def start_late(run: Callable[[], None], _: tuple[()]) -> None:
        ended.append(threading.Event())

        def late(end: threading.Event) -> None:
            assert go.wait(TIMEOUT)
            run()
            end.set()

        real(late, (ended[-1],))

    monkeypatch.setattr(_thread, "start_new_thread", start_late)
    monkeypatch.setattr(threads, "BEGINS_WITHIN", 0.05)
    monkeypatch.setattr(threads, "_none_until", 0.0)
    here = threading.get_ident()

    def work() -> int:
        done.append(threading.get_ident())
        return done[-1]

    alive = threading.active_count()
    assert asyncio.run(threads.apart(work)) == here
    assert asyncio.run(threads.apart(work)) == here
    assert len(ended) == 1  # the next is not tried so soon
    monkeypatch.setattr(threads, "_none_until", 0.0)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        asyncio.run(threads.apart(work, or_here=False))
    assert len(ended) == 2
    assert threading.active_count() == alive
    go.set()
    assert all(end.wait(TIMEOUT) for end in ended)
    assert done == [here] * 2
    monkeypatch.setattr(threads, "_none_until", 0.0)
    monkeypatch.setattr(threads, "BEGINS_WITHIN", TIMEOUT)
    assert asyncio.run(threads.apart(work)) != here
    assert len(ended) == 3


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
