"""Threads, which may be refused: TasksMax= limits those of a service."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

BEGINS_WITHIN = 5.0  # seconds

NO_MORE = "there is no room for another thread (raise TasksMax= of the service, or ulimit -u)"


class _Begun(threading.Event):
    """Thread.start() would wait for ever for a thread that had no memory to begin with."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(BEGINS_WITHIN if timeout is None else timeout)


def start(name: str, run: Callable[[], None]) -> threading.Thread:
    """Start a thread that no end of the process waits for; raise OSError when none can be had."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread._started = _Begun()  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        thread.start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, NO_MORE) from None
    if thread.ident is None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return thread


async def apart(work: Callable[[], T], *, or_here: bool = True) -> T:
    """Call it in a thread of its own and return its result.

    Without a thread the loop waits for it; or, unless `or_here`, it is not called: raises OSError.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # whoever waits no more does not keep it from its end

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  # it is raised where it is waited for
            future.set_exception(error)

    try:
        start("apart", run)
    except OSError:
        if not or_here:
            raise
        return work()
    return await asyncio.wrap_future(future)
