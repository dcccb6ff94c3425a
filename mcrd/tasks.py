"""The tasks of the loop: none ends without a line in the log."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import logging
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from mcrd.errors import NEVER, NeverError, no_memory, with_remedy, words
from mcrd.events import tell

PAUSE_FIRST = 0.1  # seconds until a task that has ended begins anew
PAUSE_LONGEST = 5.0
STEADY = 10.0  # seconds after which its end is no longer one of a row
AT_THE_END = 8.0  # seconds that one step of the clean-up may take

Make = Callable[[], Coroutine[Any, Any, None]]
Step = Callable[[], Awaitable[object] | None]

log = logging.getLogger(__name__)


class Tasks:
    """The running tasks; the log says how one ended that should not have."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def endless(self, name: str, make: Make) -> None:
        """Start a task that runs for ever: if it ends all the same, another one takes its place."""
        self._start(_again_and_again(name, make))

    def passing(self, name: str, make: Make) -> asyncio.Task[None]:
        """Start a task that ends by itself; if it fails, only a line in the log follows."""

        async def until_it_ends() -> None:
            try:
                await make()
            except Exception as error:  # noqa: BLE001  # the line is what this is for
                text = "%s failed: %s"
                tell(log, logging.ERROR, "task-failed", text, name, describe(error), task=name)

        return self._start(until_it_ends())

    async def stop(self) -> None:
        """End all of them, and wait until they have."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _again_and_again(name: str, make: Make) -> None:
    pause = PAUSE_FIRST
    while True:
        began = time.monotonic()
        how = "it came to its end"
        try:
            await make()
        except Exception as error:  # noqa: BLE001  # whatever it was
            how = describe(error)
        if time.monotonic() - began >= STEADY:
            pause = PAUSE_FIRST
        text = "%s ended: %s; restarting it in %g s"
        tell(log, logging.ERROR, "task-ended", text, name, how, pause, task=name)
        await asyncio.sleep(pause)
        pause = min(2 * pause, PAUSE_LONGEST)


async def until_it_can(what: str, attempt: Callable[[], Awaitable[None]]) -> None:
    """What the start cannot do without is tried until the kernel grants it, and that is said.

    Raises NeverError where no other try helps.
    """
    pause, told = PAUSE_FIRST, ""
    while True:
        try:
            return await attempt()
        except OSError as error:
            why = f"cannot {what}: {with_remedy(error)}"
            if error.errno in NEVER:
                raise NeverError(why) from None
        if why != told:
            log.warning("%s; trying again until it can be", why)
            told = why
        await asyncio.sleep(pause)
        pause = min(2 * pause, PAUSE_LONGEST)


async def clean_up(steps: Iterable[tuple[str, Step]]) -> None:
    """Take all steps in their order, whatever becomes of the others, and none for too long."""
    for name, step in steps:
        try:
            waiting = step()
            if waiting is not None:
                await asyncio.wait_for(waiting, AT_THE_END)
        except TimeoutError:
            log.error("at the end, %s: not done after %g s", name, AT_THE_END)
        except Exception as error:  # noqa: BLE001  # the others are due all the same
            log.error("at the end, %s: %s", name, describe(error))


def take_all(checks: Iterable[tuple[str, Callable[[], object]]]) -> None:
    """Take all periodic checks, and log what fails: it ends neither the daemon nor the others."""
    for name, check in checks:
        try:
            check()
        except Exception as error:  # noqa: BLE001  # the others have to look all the same
            text = "periodic check failed: %s: %s"
            tell(log, logging.ERROR, "look-failed", text, name, describe(error), task=name)


def log_uncaught(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody caught: one line, as when descriptors run out and no client can be accepted.

    Not each time: a callback of the loop may fail again and again.
    """
    error, message = context.get("exception"), str(context.get("message"))
    if error is not None:
        # The loop's own frame and the error name each other, until the collector comes, which is
        # seldom. What the others hold would stay open: a connection, for one.
        traceback.clear_frames(error.__traceback__)
    text = f"{message}: {error!r}" if error is not None else message
    about = f"{type(error).__name__}: {message[:40]}"
    tell(log, logging.ERROR, "unexpected", "%s", text, task=about)


def log_unraisable(found: sys.UnraisableHookArgs) -> None:
    """What nobody could catch, as where a thread had no memory to begin with: in the log."""
    error = found.exc_value
    if error is None:
        how = repr(found.exc_type)
    else:
        how = describe(error) if isinstance(error, MemoryError) else _at_length(error)
    text = f"{found.err_msg or 'ignored'}: {found.object!r}: {how}"
    tell(log, logging.ERROR, "unexpected", "%s", text, task=found.exc_type.__name__)


def describe(error: BaseException) -> str:
    """The error in words, if it is of the system; anything else is a bug, and has its traceback."""
    if isinstance(error, MemoryError):
        error = no_memory()
    if isinstance(error, OSError):
        return words(error)
    return _at_length(error)


def _at_length(error: BaseException) -> str:
    return f"{error!r}\n{''.join(traceback.format_exception(error))}".rstrip()
