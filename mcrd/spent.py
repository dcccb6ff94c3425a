"""The time of a CPU that work takes: on a busy machine it lasts longer, but costs no more."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time


class Spent:
    """What this thread has had of a CPU since then; what has passed where the kernel says EPERM.

    A filter of system calls may not know clock_gettime(2): most clocks are read without a call, but
    not this one.
    """

    def __init__(self) -> None:
        self._passed, self._began = time.monotonic(), _of_this_thread()

    def seconds(self) -> float:
        """So many until now."""
        passed, now = time.monotonic() - self._passed, _of_this_thread()
        return passed if now is None or self._began is None else now - self._began


def _of_this_thread() -> float | None:
    try:
        return time.thread_time()
    except OSError:
        return None
