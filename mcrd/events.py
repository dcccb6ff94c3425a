"""Events of the log: a line with a name and fields, and the words of a line."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import time
from typing import Any

COMPLAIN_EVERY = 60.0  # seconds between two lines about the same thing


def counted(number: int, noun: str) -> str:
    """A number of things: `1 ring`, `2 rings`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tell(
    log: logging.Logger, level: int, event: str, message: str, *arguments: Any, **fields: object
) -> None:
    """Log an event. `fields` are rule, interface, output, worker, task or others, if not None."""
    given = {name.upper(): str(value) for name, value in fields.items() if value is not None}
    log.log(level, message, *arguments, extra={"fields": {"EVENT": event, **given}})


class Complaints:
    """Warnings about rules, of which each has one in a minute."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told: dict[str, float] = {}

    def __call__(self, rule: str, what: str) -> None:
        now = time.monotonic()
        if now - self._told.get(rule, -COMPLAIN_EVERY) >= COMPLAIN_EVERY:
            told = self._told.items()
            self._told = {r: at for r, at in told if now - at < COMPLAIN_EVERY}
            self._told[rule] = now
            self._log.warning("rules.%s: %s", rule, what)
