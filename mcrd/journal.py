"""The daemon's log: lines on stderr, with priorities that journald reads (sd-daemon(3))."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import os
import sys

LEVELS = ("debug", "info", "warning", "error")

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


class _Journal(logging.Formatter):
    """<priority>message, every line of it; journald adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 2)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


def set_up() -> None:
    """Starts the log; what it lets through is for set_level() to say."""
    handler = logging.StreamHandler(sys.stderr)
    if is_read_by_journald():
        handler.setFormatter(_Journal("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    # pyroute2 and watchdog tell their own stories at these levels.
    for name in ("pyroute2", "watchdog", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def is_read_by_journald() -> bool:
    """Whether lines begin with their priority, as sd-daemon(3) says."""
    return "JOURNAL_STREAM" in os.environ


def set_level(level: str) -> None:
    """Lets through what is at least this grave: one of LEVELS."""
    logging.getLogger("mcrd").setLevel(level.upper())
