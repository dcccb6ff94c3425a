"""Which layer of the sandbox stops what: measured, as a table for docs/security.md."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.sandbox.attempts import ALL, WITHOUT_RING
from tests.sandbox.harness import REPOSITORY, SWITCHES, try_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from tests.lab import Triangle

PAGE = REPOSITORY / "docs" / "security.md"
BEGIN, END = "<!-- measured, {}: begin -->\n", "<!-- measured, {}: end -->\n"

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
ENGINES = {"io_uring": LINES, "poll": list(dict.fromkeys(map(line, WITHOUT_RING)))}
"""The lines of each engine's table. A worker without an io_uring finds none to misuse."""


def measure(
    triangle: Triangle, helper: Path, say: Callable[[str], None], engine: str = "io_uring"
) -> Found:
    """Every attempt with no layer, with each one alone, and with all but one."""
    lines = ENGINES[engine]
    found = Found({name: [] for name in lines}, {name: [] for name in lines})
    switches = {
        name: layers
        for name, layers in SWITCHES.items()
        if engine == "io_uring" or "io_uring" not in name
    }
    names = {layer for layers in switches.values() for layer in layers}

    def through(off: Collection[str]) -> set[str]:
        """The lines of which something got through with these layers off."""
        seen = try_all(triangle, helper, sorted(off), engine=engine)
        return {line(name) for name, outcome in seen.outcomes.items() if not outcome.refused}

    say("without any")
    found.open = through(names)
    for switch, layers in switches.items():
        say(f"without {switch}")
        for name in sorted(through(layers), key=LINES.index):
            found.without[name].append(switch)
        say(f"{switch} alone")
        # Of a line that is several attempts, all those that get through without any layer count.
        for name in sorted(found.open - through(names - set(layers)), key=LINES.index):
            found.alone[name].append(switch)
    return found


def table(found: Found, engine: str = "io_uring") -> str:
    """As Markdown: those that one layer alone stops come first; of poll, what it has otherwise."""
    known = set() if engine == "io_uring" else set(_section("io_uring").splitlines())
    rows = ["| attempt | gets through without | each of these stops it |", "|---|---|---|"]
    for name in sorted(
        found.without, key=lambda name: (not found.without[name], LINES.index(name))
    ):
        if name not in found.open:
            stops = "nothing gets through even without a sandbox"
        else:
            stops = ", ".join(found.alone[name])
        row = f"| {name} | {', '.join(found.without[name])} | {stops} |"
        if row not in known:
            rows.append(row)
    return "\n".join(rows) + "\n"


def documented(engine: str) -> dict[str, tuple[set[str], set[str]]]:
    """For each attempt of docs/security.md, the layers of its second and of its third column."""
    written = [*_section("io_uring").splitlines()[2:]]
    if engine != "io_uring":
        written += _section(engine).splitlines()[2:]
    rows = {}
    for row in written:
        name, without, alone = (column.strip() for column in row.strip("|").split("|"))
        if name in ENGINES[engine]:
            rows[name] = (_layers(without), _layers(alone))
    return rows


def write(found: Found, engine: str) -> None:
    """Puts the table in its place."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN.format(engine))
    after = rest.partition(END.format(engine))[2]
    begin, end = BEGIN.format(engine), END.format(engine)
    PAGE.write_text(before + begin + table(found, engine) + end + after, encoding="utf-8")


def _layers(column: str) -> set[str]:
    return {layer.strip() for layer in column.split(",") if layer.strip()}


def _section(engine: str) -> str:
    page = PAGE.read_text(encoding="utf-8")
    return page.partition(BEGIN.format(engine))[2].partition(END.format(engine))[0]
