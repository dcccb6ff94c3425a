"""What a daemon holds, by time: whether that grows, in figures and as a chart."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.network.test_supervision import children

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab import Host

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
LEFT, WIDTH, HEIGHT, GAP, TOP = 260, 640, 46, 18, 40
# What may come on top between the second quarter and the last one: a share, and so many. What is
# counted has no share: a descriptor more is a leak. The kernel's slabs are those of all programs
# on the machine.
SHARE = {"MB": 0.05, "count": 0.0, "MB of the machine": 0.25}
MORE = {"MB": 1.0, "count": 0.5, "MB of the machine": 32.0}


@dataclass(frozen=True)
class Figure:
    """Something that is looked at again and again. `unit` is a key of SHARE."""

    name: str
    unit: str


def _memory(pid: int) -> float:
    """What belongs to this process alone, and its part of what it shares, in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise LookupError


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _slabs() -> float:
    """What the kernel cannot take back, in MB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SUnreclaim:"):
            return int(line.split()[1]) / 1024
    raise LookupError


def look(host: Host, pid: int, name: str) -> dict[Figure, float]:
    """What the daemon of this pid holds now, and what is held in its network namespace."""
    workers = sorted(children(pid))
    found = {
        Figure(f"{name}: supervisor", "MB"): _memory(pid),
        Figure(f"{name}: supervisor's descriptors", "count"): _descriptors(pid),
        Figure(f"{name}: processes", "count"): 1 + len(workers),
    }
    with contextlib.suppress(FileNotFoundError):  # one may end at any time
        found[Figure(f"{name}: workers together", "MB")] = sum(map(_memory, workers))
        found[Figure(f"{name}: workers' descriptors", "count")] = sum(map(_descriptors, workers))
    with host.inside():
        for what, file in (
            ("memberships", "/proc/thread-self/net/igmp"),
            ("packet sockets", "/proc/thread-self/net/packet"),
            ("UDP sockets", "/proc/thread-self/net/udp"),
        ):
            lines = len(Path(file).read_text().splitlines())
            found[Figure(f"{name}: {what} (lines)", "count")] = lines
    return found


class Watch:
    """All that was seen, one look after the other."""

    def __init__(self) -> None:
        self._seen: dict[Figure, list[tuple[float, float]]] = {}

    def add(self, at: float, found: dict[Figure, float]) -> None:
        """Remember a look; `at` is in seconds since the start."""
        for figure, value in {**found, Figure("slabs", "MB of the machine"): _slabs()}.items():
            self._seen.setdefault(figure, []).append((at, value))

    def growing(self) -> list[str]:
        """What is more in the last quarter of the looks than in the second one."""
        return [line for figure in self._seen for line in self._grown(figure)]

    def _grown(self, figure: Figure) -> Iterator[str]:
        early, late = self._quarters(figure)
        if late > early * (1 + SHARE[figure.unit]) + MORE[figure.unit]:
            yield f"{figure.name} grows: {early:.1f}, then {late:.1f} {figure.unit}"

    def _quarters(self, figure: Figure) -> tuple[float, float]:
        values = [value for _, value in self._seen[figure]]
        quarter = max(1, len(values) // 4)
        second = values[quarter : 2 * quarter] or values
        return median(second), median(values[-quarter:])

    def table(self) -> list[str]:
        """A line for each figure: what it was first, in the second quarter, and in the last."""
        lines = []
        for figure, seen in sorted(self._seen.items(), key=lambda each: each[0].name):
            early, late = self._quarters(figure)
            first, most = seen[0][1], max(value for _, value in seen)
            lines.append(
                f"{figure.name:44} {first:8.1f} {early:8.1f} {late:8.1f} {most:8.1f} {figure.unit}"
            )
        return [f"{'':44} {'first':>8} {'early':>8} {'late':>8} {'most':>8}", *lines]

    def chart(self) -> str:
        """The SVG: a line for each figure, from 0 up to the most that it was."""
        parts, top = [], TOP
        longest = max(at for seen in self._seen.values() for at, _ in seen) or 1.0
        for number, (figure, seen) in enumerate(
            sorted(self._seen.items(), key=lambda each: each[0].name)
        ):
            most = max(value for _, value in seen) or 1.0
            points = " ".join(
                f"{LEFT + WIDTH * at / longest:.1f},{top + HEIGHT * (1 - value / most):.1f}"
                for at, value in seen
            )
            colour = COLOURS[number % len(COLOURS)]
            parts += [
                f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>',
                f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{top + HEIGHT}" y2="{top + HEIGHT}"'
                ' stroke="#bbbbbb"/>',
                f'<text x="{LEFT - 10}" y="{top + HEIGHT / 2 + 4}" text-anchor="end">'
                f"{escape(figure.name)}</text>",
                f'<text x="{LEFT + WIDTH + 6}" y="{top + 8}">{most:.4g} {figure.unit}</text>',
            ]
            top += HEIGHT + GAP
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 150}" height="{top}"'
            f' font-family="sans-serif" font-size="11"><rect width="100%" height="100%"'
            f' fill="white"/><text x="10" y="20" font-size="14">{longest / 60:.0f} minutes, each'
            f" figure from 0 up to its most</text>{''.join(parts)}</svg>\n"
        )
