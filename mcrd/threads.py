"""Threads, which may be refused: TasksMax= limits those of a service."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import _thread
import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

BEGINS_WITHIN = 1.0  # seconds
LOOKS = 10  # within that: a process that is stopped meanwhile loses one of them
NONE_FOR = 5.0  # seconds after one that never began

NO_MORE = "there is no room for another thread (raise TasksMax= of the service, or ulimit -u)"

_none_until = 0.0  # in the time of time.monotonic()


def start(run: Callable[[], None]) -> threading.Event:
    """Start a thread that no end of the process waits for; return what is set when it ends.

    Raises OSError when none can be had: then `run` is never called, however late one begins.
    threading.Thread would wait for ever for one that has no memory for its first frame.
    """
    global _none_until  # noqa: PLW0603
    if time.monotonic() < _none_until:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    turn, begun, ended = threading.Lock(), threading.Lock(), threading.Event()
    begun.acquire()

    def in_time() -> None:
        if turn.acquire(blocking=False):
            begun.release()
            try:
                run()
            finally:
                ended.set()

    try:
        _thread.start_new_thread(in_time, ())
    except RuntimeError:
        raise OSError(errno.EAGAIN, NO_MORE) from None
    began = any(begun.acquire(timeout=BEGINS_WITHIN / LOOKS) for _ in range(LOOKS))
    if not began and turn.acquire(blocking=False):
        _none_until = time.monotonic() + NONE_FOR
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return ended


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
        start(run)
    except OSError:
        if not or_here:
            raise
        return work()
    return await asyncio.wrap_future(future)
