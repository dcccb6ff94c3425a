"""Which layer of the sandbox stops what: measured, as a table for docs/security.md."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.sandbox.attempts import ALL
from tests.sandbox.harness import REPOSITORY, SWITCHES, Seen, try_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.lab import Triangle

PAGE = REPOSITORY / "docs" / "security.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"

GROUPS = {
    "io_uring operation ": "every other operation of io_uring",
    "io_uring register ": "every other io_uring_register()",
    "io_uring flag ": "every other flag of an operation",
}
"""Attempts that are one line of the table, by how their names begin."""


@dataclass
class Found:
    """For each line of the table: layers without which it gets through, layers that stop it alone.

    `open` are the lines that get through without any layer.
    """

    without: dict[str, list[str]] = field(default_factory=dict)
    alone: dict[str, list[str]] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)


def line(attempt: str) -> str:
    """The line of the table that the attempt is on."""
    return next((name for start, name in GROUPS.items() if attempt.startswith(start)), attempt)


LINES = list(dict.fromkeys(map(line, ALL)))


def _through(seen: Seen) -> set[str]:
    """The lines of which something got through."""
    return {line(name) for name, outcome in seen.outcomes.items() if not outcome.refused}


def measure(triangle: Triangle, helper: Path, say: Callable[[str], None]) -> Found:
    """Every attempt with no layer, with each one alone, and with all but one."""
    found = Found({name: [] for name in LINES}, {name: [] for name in LINES})
    names = {layer for layers in SWITCHES.values() for layer in layers}
    say("without any")
    bare = try_all(triangle, helper, sorted(names))
    found.open = _through(bare)
    for switch, layers in SWITCHES.items():
        say(f"without {switch}")
        for name in sorted(_through(try_all(triangle, helper, layers)), key=LINES.index):
            found.without[name].append(switch)
        say(f"{switch} alone")
        alone = try_all(triangle, helper, sorted(names - set(layers)))
        # Of a line that is several attempts, all those that get through without any layer count.
        for name in sorted(found.open - _through(alone), key=LINES.index):
            found.alone[name].append(switch)
    return found


def table(found: Found) -> str:
    """As Markdown: those that one layer alone stops come first."""
    rows = ["| attempt | gets through without | each of these stops it |", "|---|---|---|"]
    for name in sorted(LINES, key=lambda name: (not found.without[name], LINES.index(name))):
        if name not in found.open:
            stops = "nothing gets through even without a sandbox"
        else:
            stops = ", ".join(found.alone[name])
        rows.append(f"| {name} | {', '.join(found.without[name])} | {stops} |")
    return "\n".join(rows) + "\n"


def written() -> str:
    """The table that docs/security.md has."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def write(found: Found) -> None:
    """Puts the table in its place."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + table(found) + END + after, encoding="utf-8")
