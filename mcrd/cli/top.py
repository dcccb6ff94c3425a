"""mcrctl top: rules and interfaces as they run, live in a terminal, as text elsewhere."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mcrd.cli.output import drops
from mcrd.counters import InterfaceCounts, OutputCounts, RuleCounts, Stats
from mcrd.events import counted
from mcrd.merged import MEANINGS
from mcrd.sums import Rate

Ask = Callable[[], Stats]

PLAIN_WIDTH = 200  # columns, where there is no terminal to have a width
FASTEST, SLOWEST = 0.2, 60.0  # seconds between two looks

_KEY = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])|.", re.DOTALL)

HELP = (
    "q quit   s sort by the next column   r reverse   space pause   + - faster, slower"
    "   up down page-up page-down home end   h help"
)


@dataclass(frozen=True)
class Row:
    """A line of the table: what is shown, and by what it is sorted."""

    name: str
    state: str
    rate: Rate
    lost: int
    before: int = 0
    is_output: bool = False


COLUMNS: dict[str, tuple[str, Callable[[Row], Any], Callable[[Any], str]]] = {
    "name": ("rule", attrgetter("name"), str),
    "state": ("state", attrgetter("state"), str),
    "packets": ("packets/s", attrgetter("rate.second.packets"), str),
    "bits": ("Mbit/s", attrgetter("rate.second.bytes"), lambda count: f"{8 * count / 1e6:.2f}"),
    "minute": ("packets/s (1 min)", attrgetter("rate.minute.packets"), "{:.10g}".format),
    "peak": ("peak in 10 ms", attrgetter("rate.peak.minute"), str),
    "lost": ("lost", attrgetter("lost"), str),
    "before": ("lost before", attrgetter("before"), lambda count: str(count or "")),
}
"""What of a row stands in which column: its title, its value, and how that is written."""
STYLES = {
    "failed": "red",
    "waiting": "yellow",
    "silent": "yellow",
    "disabled": "dim",
} | dict.fromkeys(MEANINGS, "yellow")


@dataclass(frozen=True)
class View:
    """What the keys change."""

    sort: str = "packets"
    reverse: bool = True
    paused: bool = False
    interval: float = 1.0
    first: int = 0
    help: bool = False


def run(ask: Ask, interval: float, count: int | None) -> int:
    """Show until `q`, or `count` times; return the exit status.

    A terminal that cannot move its cursor (TERM=dumb) gets lines, until interrupted.
    """
    view = View(interval=interval)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal and not Console().is_dumb_terminal:
        return _live(ask, view, count)
    console = Console(width=PLAIN_WIDTH, force_terminal=False, color_system=None, highlight=False)
    for number in range(count or 1) if count or not terminal else itertools.count():
        if number:
            time.sleep(interval)
        console.print(render(ask(), view, len_of_page=1 << 30))
        sys.stdout.flush()
    return 0


def _live(ask: Ask, view: View, count: int | None) -> int:
    console = Console(highlight=False)
    answer, shown = ask(), 0
    with _keys() as read, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            page = max(3, console.height - 8 - len(answer.interfaces))
            live.update(render(answer, view, page), refresh=True)
            shown += 1
            if count is not None and shown >= count:
                return 0
            pressed = read(view.interval)
            if pressed is None or "q" in pressed or "\x03" in pressed:
                return 0
            lines = sum(1 + len(rule.outputs) for rule in answer.rules.values())
            for key in pressed:
                view = press(view, key, page, lines)
            if not pressed and not view.paused:
                answer = ask()


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], list[str] | None]]:
    """Keys from the terminal, unechoed; none after so many seconds, None when it has gone."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read(timeout: float) -> list[str] | None:
        if not select.select([descriptor], [], [], timeout)[0]:
            return []
        data = os.read(descriptor, 1024).decode("ascii", "ignore")
        return _KEY.findall(data) if data else None

    try:
        tty.setcbreak(descriptor)
        yield read
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def press(view: View, key: str, page: int, lines: int) -> View:
    """What a key does; there are so many lines in all, and on a page."""
    last = max(0, lines - 1)
    match key:
        case "s":
            columns = list(COLUMNS)
            sort = columns[(columns.index(view.sort) + 1) % len(columns)]
            return replace(view, sort=sort, reverse=sort not in ("name", "state"))
        case "r":
            return replace(view, reverse=not view.reverse)
        case " ":
            return replace(view, paused=not view.paused)
        case "+":
            return replace(view, interval=max(FASTEST, view.interval / 2))
        case "-":
            return replace(view, interval=min(SLOWEST, view.interval * 2))
        case "h" | "?":
            return replace(view, help=not view.help)
        case "\x1b[A" | "\x1bOA" | "k":
            return replace(view, first=max(0, view.first - 1))
        case "\x1b[B" | "\x1bOB" | "j":
            return replace(view, first=min(last, view.first + 1))
        case "\x1b[5~":
            return replace(view, first=max(0, view.first - page))
        case "\x1b[6~":
            return replace(view, first=min(last, view.first + page))
        case "\x1b[H" | "\x1bOH" | "\x1b[1~" | "g":
            return replace(view, first=0)
        case "\x1b[F" | "\x1bOF" | "\x1b[4~" | "G":
            return replace(view, first=max(0, lines - page))
    return view


def rows(answer: Stats, view: View) -> list[list[Row]]:
    """The rules, each with its outputs, sorted."""
    found = []
    for name, rule in answer.rules.items():
        outputs = [_of_output(output) for output in rule.outputs]
        lost = sum(row.lost for row in outputs) + sum(rule.dropped.values())
        state = next(iter(rule.leg_faults), "silent" if rule.silent else rule.state)
        found.append([Row(name, state, rule.rate, lost, _before(rule)), *outputs])
    _, value, _ = COLUMNS[view.sort]
    return sorted(found, key=lambda group: value(group[0]), reverse=view.reverse)


def _before(rule: RuleCounts) -> int:
    """What was lost before it came here, or continuity errors where nothing else says it."""
    found = rule.inspect
    return 0 if found is None else found.lost or found.mpeg_ts.continuity_errors


def _of_output(output: OutputCounts) -> Row:
    routed = output.interface is None and output.interface_now
    by = f" by {output.interface_now}" if routed else ""
    lost = sum(output.unsent.values())
    return Row(f"  to {output.where}{by}", output.state, output.rate, lost, is_output=True)


def render(answer: Stats, view: View, len_of_page: int) -> RenderableType:
    """The screen, as far as it fits a page of so many lines."""
    groups = rows(answer, view)
    table = Table(box=None, pad_edge=False, expand=False)
    for column, (title, _, _) in COLUMNS.items():
        mark = (" v" if view.reverse else " ^") if column == view.sort else ""
        right = column not in ("name", "state")
        table.add_column(title + mark, justify="right" if right else "left", no_wrap=True)
    for row in list(itertools.chain.from_iterable(groups))[view.first :][:len_of_page]:
        cells = (Text(told(value(row))) for _, value, told in COLUMNS.values())
        table.add_row(*cells, style=STYLES.get(row.state, "dim" if row.is_output else ""))
    total = sum(group[0].rate.second.packets for group in groups)
    head = (
        f"mcrd: {counted(len(groups), 'rule')}, {total} packets/s,"
        f" up {answer.uptime_s:.0f} s"
        + (", paused" if view.paused else "")
        + (f", from line {view.first + 1}" if view.first else "")
    )
    parts: list[RenderableType] = [Text(head, style="bold"), table, Text("")]
    parts += [Text(_interface(name, entry)) for name, entry in answer.interfaces.items()]
    if view.help:
        parts.append(Text(HELP, style="dim"))
    return Group(*parts)


def _interface(name: str, entry: InterfaceCounts) -> str:
    rate = entry.rate
    return (
        f"{name}: {rate.second.packets} packets/s, {8 * rate.second.bytes / 1e6:.2f} Mbit/s,"
        f" peak {rate.peak.minute} in 10 ms; dropped: {drops(entry.dropped, entry.dropped_frames)}"
    )
