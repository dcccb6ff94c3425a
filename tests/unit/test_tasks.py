"""Tasks of the loop: what ends that should not have begins anew, and the log says so."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from mcrd import tasks
from mcrd.errors import NeverError
from mcrd.tasks import Tasks, clean_up, until_it_can

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TIMEOUT = 10.0  # seconds


def fails_twice(error: Exception | None, done: asyncio.Event) -> Callable[[], object]:
    """What ends twice, and is then as it should be."""
    ends = [2]

    async def work() -> None:
        if ends[0]:
            ends[0] -= 1
            if error is not None:
                raise error
            return
        done.set()
        await asyncio.Event().wait()

    return work


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(105, "No buffer space available"), "No buffer space available"),
        (KeyError("a bug"), "KeyError('a bug')\nTraceback"),
        (None, "it came to its end"),
    ],
)
def test_an_endless_task_that_ends_begins_anew(
    error: Exception | None, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        made, done = Tasks(), asyncio.Event()
        made.endless("following", fails_twice(error, done))  # type: ignore[arg-type]
        await asyncio.wait_for(done.wait(), TIMEOUT)
        await made.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"following ended: {why}")
    assert first.endswith("restarting it in 0.1 s")
    assert second.endswith("restarting it in 0.2 s")


def test_the_pause_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "PAUSE_FIRST", 0.001)
    monkeypatch.setattr(tasks, "PAUSE_LONGEST", 0.002)

    async def scenario() -> None:
        made = Tasks()
        count = [0]
        enough = asyncio.Event()

        async def work() -> None:
            count[0] += 1
            if count[0] == 50:
                enough.set()

        made.endless("spinning", work)
        await asyncio.wait_for(enough.wait(), TIMEOUT)
        await made.stop()

    asyncio.run(scenario())
    assert caplog.messages[-1].endswith("restarting it in 0.002 s")


def test_a_passing_task_that_fails_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        made = Tasks()

        async def work() -> None:
            raise OSError(5, "Input/output error")

        await made.passing("reload (SIGHUP)", work)
        await made.stop()

    asyncio.run(scenario())
    assert caplog.messages == ["reload (SIGHUP) failed: Input/output error"]


class Closes:
    """What fails where nobody can catch it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error


def test_what_nobody_can_catch_is_said_with_its_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", tasks.log_unraisable)
    Closes(OSError(errno.EBADF, "Bad file descriptor"))
    assert "Closes.__del__" in caplog.messages[0].splitlines()[0]
    assert "Traceback" in caplog.messages[0]
    assert caplog.messages[0].endswith("Bad file descriptor")
    Closes(MemoryError())
    assert caplog.messages[1].endswith(": Cannot allocate memory")
    assert "Traceback" not in caplog.messages[1]
    without = SimpleNamespace(
        exc_type=UnicodeDecodeError, exc_value=None, err_msg="Exception ignored in", object=len
    )
    tasks.log_unraisable(without)
    said = "Exception ignored in: <built-in function len>: <class 'UnicodeDecodeError'>"
    assert caplog.messages[2] == said


def test_no_step_of_a_clean_up_skips_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "AT_THE_END", 0.01)
    taken = []

    async def scenario() -> None:
        async def hangs() -> None:
            taken.append("hangs")
            await asyncio.Event().wait()

        async def fails() -> None:
            taken.append("fails")
            raise RuntimeError("pyroute2's own")

        def fails_at_once() -> None:
            taken.append("fails at once")
            raise OSError(9, "Bad file descriptor")

        async def is_well() -> None:
            taken.append("is well")

        steps = [("a", hangs), ("b", fails), ("c", fails_at_once), ("d", is_well)]
        await clean_up(steps)

    asyncio.run(scenario())
    assert taken == ["hangs", "fails", "fails at once", "is well"]
    assert [message.splitlines()[0] for message in caplog.messages] == [
        "at the end, a: not done after 0.01 s",
        'at the end, b: RuntimeError("pyroute2\'s own")',
        "at the end, c: Bad file descriptor",
    ]


def refused(numbers: list[int], then: list[str]) -> Callable[[], Awaitable[None]]:
    """What the kernel refuses for these reasons, one after the other, and then grants."""

    async def attempt() -> None:
        if numbers:
            number = numbers.pop(0)
            raise OSError(number, os.strerror(number))
        then.append("done")

    return attempt


def test_what_the_start_needs_is_tried_until_it_can_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "PAUSE_FIRST", 0.001)
    done: list[str] = []
    numbers = [errno.ENOBUFS, errno.ENOBUFS, errno.EMFILE, errno.EBUSY]
    asyncio.run(until_it_can("look", refused(numbers, done)))
    assert done == ["done"]
    assert [line.partition(";")[0] for line in caplog.messages] == [
        "cannot look: No buffer space available (ENOBUFS)",
        "cannot look: Too many open files (EMFILE)",
        "cannot look: Device or resource busy (EBUSY)",
    ]
    assert all(line.endswith("; trying again until it can be") for line in caplog.messages)


def test_what_can_never_be_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    numbers = [errno.EAFNOSUPPORT, errno.EIO]
    with pytest.raises(NeverError, match=r"^cannot look: .* \(EAFNOSUPPORT\); look at Restrict"):
        asyncio.run(until_it_can("look", refused(numbers, [])))
    assert numbers == [errno.EIO]
    assert caplog.messages == []
