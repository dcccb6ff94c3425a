"""A benchmark that is told to end leaves nothing behind."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def end_in_order() -> None:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
