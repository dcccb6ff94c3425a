"""Threads, which may be refused: TasksMax= limits those of a service."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

NO_MORE = "there is no room for another thread (raise TasksMax= of the service, or ulimit -u)"


def start(name: str, run: Callable[[], None]) -> threading.Thread:
    """Start a thread that no end of the process waits for; raise OSError when none can be had."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, NO_MORE) from None
    return thread


async def apart(work: Callable[[], T], *, or_here: bool = True) -> T:
    """Call it in a thread of its own and return its result.

    Without a thread the loop waits for it; or, unless `or_here`, it is not called: raises OSError.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  # it is raised where it is waited for
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, failure)

    try:
        start("apart", run)
    except OSError:
        if not or_here:
            raise
        return work()
    return await future
