"""A writer that nobody waits for: a thread writes what cannot be written at once."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from mcrd import threads

ROOM = 4 << 20  # bytes that may wait; what comes beyond is lost

T = TypeVar("T")


class Writer(Generic[T]):
    """Calls `write`, which may block, with what put() was given, in its order.

    `write_now` is tried first, where nothing waits: it must not block, and says whether it has.
    What was lost for want of room is counted in `lost`; `tell` makes of a number what is written
    in its place, after what was there before.
    """

    def __init__(
        self,
        write: Callable[[T], None],
        write_now: Callable[[T], bool],
        tell: Callable[[int], T],
    ) -> None:
        self.lost = 0
        self._write_now = write_now
        self._write = write
        self._tell = tell
        self._waiting: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._unsaid = 0  # of those lost
        self._writing = False
        self._changed = threading.Condition()
        self._started = False
        self._has_thread = False

    def start(self) -> None:
        """Start the thread: from now on, put() never waits.

        Raises OSError when there is no thread to be had: then each call writes what it can at
        once, and whether there is a thread now.
        """
        self._started = True
        if not self._has_thread:
            try:
                threads.start(self._run)
            except OSError:
                with self._changed:
                    self._write_what_waits()
                raise
            self._has_thread = True

    def put(self, what: T, size: int) -> None:
        """Have it written; `size` is what it takes of the room, in bytes."""
        if not self._started:
            self._write(what)
            return
        with self._changed:
            if not self._has_thread:
                self._write_what_waits()
            if self._idle() and self._write_now(what):
                return
            if self._bytes + size > ROOM:
                self.lost += 1
                self._unsaid += 1
                return
            if self._unsaid:
                self._waiting.append((self._tell(self._unsaid), 0))
                self._unsaid = 0
            self._waiting.append((what, size))
            self._bytes += size
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all is written, but not for longer than that; return whether it was."""
        with self._changed:
            if not self._has_thread:
                self._write_what_waits()
                seconds = 0.0
            return self._changed.wait_for(self._idle, seconds)

    def _write_what_waits(self) -> None:
        """Without a thread: as much as can be written at once."""
        while self._waiting and self._write_now(self._waiting[0][0]):
            self._bytes -= self._waiting.popleft()[1]
        if not self._waiting and self._unsaid and self._write_now(self._tell(self._unsaid)):
            self._unsaid = 0

    def _idle(self) -> bool:
        return not self._waiting and not self._writing and not self._unsaid

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._unsaid)
                if self._waiting:
                    what, size = self._waiting.popleft()
                    self._bytes -= size
                else:
                    what, self._unsaid = self._tell(self._unsaid), 0
                self._writing = True
            self._write(what)
