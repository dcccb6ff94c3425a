"""Events of the log: a line with a name and fields, and the words of a line."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
from typing import Any


def counted(number: int, noun: str) -> str:
    """A number of things: `1 ring`, `2 rings`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tell(
    log: logging.Logger, level: int, event: str, message: str, *arguments: Any, **fields: object
) -> None:
    """Log an event. `fields` are rule, interface, output, worker, task or others, if not None."""
    given = {name.upper(): str(value) for name, value in fields.items() if value is not None}
    log.log(level, message, *arguments, extra={"fields": {"EVENT": event, **given}})
