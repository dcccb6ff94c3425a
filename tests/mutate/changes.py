"""What is changed, what became of it, and which changes are known to change nothing."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import random

    from tests.mutate.copies import Copy

KNOWN = Path(__file__).with_name("known.txt")


class Spot(NamedTuple):
    """A line that tests reach."""

    path: str  # from the top of the checkout
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


class Change(NamedTuple):
    """Lines of a file before and after, without what is white."""

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}\n- {self.before}\n+ {self.after}"


class Result(NamedTuple):
    """A change, and the test that noticed it: empty when none did."""

    spot: Spot
    change: Change
    noticed: str


class Subject(Protocol):
    """Sources of one language, and the tests that concern them."""

    def spots(self) -> list[Spot]:
        """All lines that may be changed."""

    def judge(self, copy: Copy, spot: Spot, dice: random.Random) -> Result | None:
        """Change something in that line; None when nothing of it can be.

        Raises Stopped.
        """


def change_between(path: str, old: str, new: str) -> Change:
    """The lines that differ; where lines have come, with the one before them."""
    lines = list(difflib.ndiff(old.splitlines(), new.splitlines()))
    if not any(line.startswith("-") for line in lines):
        first = next(at for at, line in enumerate(lines) if line.startswith("+"))
        lines[first - 1 : first] = [sign + lines[first - 1][1:] for sign in "-+"]
    before, after = (
        " ".join(" ".join(line[2:].split()) for line in lines if line.startswith(sign))
        for sign in "-+"
    )
    return Change(path, before, after)


def known() -> dict[Change, str]:
    """Changes that make no difference, with the reason."""
    found = {}
    for block in KNOWN.read_text(encoding="utf-8").strip().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if lines:
            path, before, after, reason = lines
            found[Change(path, before.removeprefix("- "), after.removeprefix("+ "))] = reason
    return found
