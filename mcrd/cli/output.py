"""What a command prints, at once: to a terminal, a file or a pipe."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType

from mcrd.errors import words


def write(text: str) -> bool:
    """Write it; return whether that worked. A reader that has seen enough (head) is no failure."""
    if sys.stdout is None:  # closed
        return True
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every locale has every character
    try:
        print(text, end="", flush=True)
    except OSError as error:
        # What is left in the buffer would be an error again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return True
        print(f"cannot write: {words(error)}", file=sys.stderr)
        return False
    return True


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def drops(dropped: Mapping[str, int], frames: Mapping[str, int] = MappingProxyType({})) -> str:
    """What was dropped and why. Of what no worker took, frames are known, and packets about."""
    told = []
    for why, number in dropped.items():
        if number and frames.get(why, number) != number:
            told.append(f"about {number} {why} ({frames[why]} frames)")
        elif number:
            told.append(f"{number} {why}")
    return ", ".join(told) or "none"
