"""The results as an SVG chart: datagrams per second, and CPU time for each."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from bench.cells import CELLS
from bench.lineup import LABELS, LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.results import Results

# Told apart with deficient colour vision too (Okabe and Ito); one for each peer, in their order.
COLOURS = (
    *("#bbbbbb", "#0072b2", "#003f63", "#56b4e9", "#9ad0f5", "#00a6a6", "#d55e00", "#7a3600"),
    *("#e69f00", "#009e73", "#00553e", "#5e3c99", "#b2abd2", "#f0e442", "#8c6d00", "#cc79a7"),
    *("#000000", "#777777"),
)
BAR = 9
GAP = 14
LEFT = 150
PANEL = 380
BETWEEN = 60
TOP = 124  # below five lines of the legend
NUMBER = 44  # room for the number behind the longest bar


@dataclass(frozen=True)
class _Panel:
    title: str
    left: int
    values: Mapping[tuple[str, str], float]  # by cell and peer

    def bars(self, cell: str, peers: Sequence[str], top: float) -> Iterator[str]:
        """The bars of a cell, one below the other."""
        largest = max(self.values.values(), default=0.0)
        for number, peer in enumerate(peers):
            value = self.values.get((cell, peer))
            if value is not None and largest > 0:
                length = (PANEL - NUMBER) * max(0.0, value) / largest
                y = top + number * BAR
                yield (
                    f'<rect x="{self.left}" y="{y}" width="{length:.1f}" height="{BAR - 1}"'
                    f' fill="{_colour(peer)}"/>'
                )
                yield _text(self.left + length + 4, y + BAR - 1.5, f"{value:.0f}", size=8)


def chart(results: Results) -> str:
    """The SVG."""
    measured = {(run.cell, run.peer) for run in results.floods}
    peers = [name for name in LABELS if any(peer == name for _, peer in measured)]
    cells = [cell for cell in CELLS if any(name == cell.name for name, _ in measured)]
    rates, times = {}, {}
    for cell in cells:
        for peer in peers:
            runs = results.flood(cell.name, peer)
            whole = results.machine_ns(cell.name, peer, cell.outputs)
            if runs is not None:
                rates[cell.name, peer] = runs.median("rate") / 1000
            if whole is not None and peer != LIMIT.name:
                times[cell.name, peer] = whole
    panels = (
        _Panel("Thousand datagrams/s at the sink", LEFT, rates),
        _Panel("CPU time of the whole machine, ns for a datagram", LEFT + PANEL + BETWEEN, times),
    )
    parts = [_legend(peers)]
    parts += [_text(panel.left, TOP - 14, panel.title, weight="bold") for panel in panels]
    top = TOP
    for cell in cells:
        shown = [peer for peer in peers if (cell.name, peer) in measured]
        parts.append(_text(LEFT - 10, top + len(shown) * BAR / 2 + 4, cell.name, anchor="end"))
        for panel in panels:
            parts += panel.bars(cell.name, shown, top)
        top += len(shown) * BAR + GAP
    width = LEFT + 2 * PANEL + BETWEEN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}"'
        f' width="{width}" height="{top}" font-family="sans-serif" font-size="11">\n'
        "<!-- SPDX-License-Identifier: GPL-3.0-or-later; made by python -m bench -->\n"
        f'<rect width="{width}" height="{top}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _legend(peers: Sequence[str]) -> str:
    parts = []
    for number, peer in enumerate(peers):
        x, y = LEFT + number % 4 * 180, 16 + number // 4 * 20
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{_colour(peer)}"/>')
        parts.append(_text(x + 16, y, LABELS[peer]))
    return "\n".join(parts)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", size: int = 11
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
        f' font-size="{size}" fill="#222222">{escape(text)}</text>'
    )


def _colour(peer: str) -> str:
    return COLOURS[list(LABELS).index(peer)]
