"""The results as Markdown tables, which read well in a terminal too."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cells import BURST_CELLS, CELLS, DETAILED_CELLS, Cell
from bench.lineup import FOREIGN_LABELS, LABELS, LIMIT
from bench.ratios import KEPT_UP
from bench.results import write

if TYPE_CHECKING:
    from bench.results import Results, Summary

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN = "<!-- Made by `python -m bench --report` from bench/results/latest.json: do not edit. -->"
END = "<!-- End of what is made. -->"
SOURCES = {"100k": "1400 bytes, thousands/s", "iperf": "iperf 2, thousands/s"}
POINTS = {"10k": "10,000/s", "100k": "100,000/s", "half": "half of its maximum"}


def report(results: Results) -> str:
    """Everything."""
    parts = [
        _machine(results),
        _rates(results),
        _loss(results),
        _cpu(results),
        _backlog(results),
        _latency(results),
        _lossless(results),
        _bursts(results),
        _behind(results),
        _foreign(results),
        _second_worker(results),
        _checks(results),
        _missing(results),
    ]
    return "\n\n".join(part for part in parts if part)


def update_page(results: Results) -> None:
    """Puts the report into docs/performance.md, between the marks."""
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RuntimeError(f"{PAGE.name} lacks the marks between which the results go")
    write(PAGE, f"{before}{BEGIN}\n\n{report(results)}\n\n{END}{after}")


def checks_text(results: Results) -> str:
    """The ratios, one a line."""
    lines = []
    for check in results.checks:
        note = f" ({check.note})" if check.note else ""
        verdict = "ok    " if check.held else "MISSED"
        lines.append(f"{verdict} {check.what}: {check.found}, wanted {check.wanted}{note}")
    return "\n".join(lines)


def _machine(results: Results) -> str:
    machine = results.machine
    shares = [run.others for run in results.floods]
    shares += [run.others for run in results.latencies]
    others = statistics.median(shares or [0.0])
    return (
        f"{results.date}; {machine.processor}, {machine.cpus} CPUs, {machine.memory_gib:g} GiB,"
        f" Linux {machine.kernel}. {len(results.floods)} runs at full speed,"
        f" {len(results.latencies)} for latency, {len(results.lossless)} searches,"
        f" in {results.seconds / 60:.0f} minutes; {results.repeated} runs repeated because"
        f" they were disturbed. Other programs took {others * 100:.0f} % of the two CPUs (median)."
    )


def _peers(results: Results) -> list[str]:
    measured = {run.peer for run in results.floods}
    return [name for name in LABELS if name in measured]


def _cells(results: Results) -> list[Cell]:
    measured = {run.cell for run in results.floods}
    return [cell for cell in CELLS if cell.name in measured]


def _rates(results: Results) -> str:
    def entry(runs: Summary) -> str:
        loss = runs.share(lambda run: run.lost)
        all_of_it = " *" if loss is not None and loss < KEPT_UP and not runs.of(LIMIT.name) else ""
        return f"{runs.median('rate') / 1000:.0f} ±{runs.spread('rate') * 50:.0f} %{all_of_it}"

    return (
        "### Datagrams at the sink, thousands a second (median, half of the spread)\n\n"
        "`*`: all that arrived; the generator was the limit.\n\n"
        + _grid(results, _peers(results), entry)
    )


def _loss(results: Results) -> str:
    def entry(runs: Summary) -> str:
        seen, reported = runs.share(lambda run: run.lost), runs.share(lambda run: run.reported)
        return f"{_percent(seen)} / {_percent(reported)}"

    peers = [name for name in _peers(results) if name != LIMIT.name]
    return (
        "### Loss at full speed: what the sink misses / what the relay reports\n\n"
        "Of what arrived at the relay, times outputs. `-`: it does not say.\n\n"
        + _grid(results, peers, entry)
    )


def _cpu(results: Results) -> str:
    peers = [name for name in _peers(results) if name != LIMIT.name]
    rows = []
    for cell in _cells(results):
        row = [cell.name]
        for peer in peers:
            runs = results.flood(cell.name, peer)
            whole = results.machine_ns(cell.name, peer, cell.outputs)
            row.append(
                ""
                if runs is None or whole is None
                else f"{runs.median('relay_ns'):.0f} / {whole:.0f}"
            )
        rows.append(row)
    return (
        "### CPU time for a datagram at the sink, ns: the relay / the whole machine\n\n"
        "The whole machine: with what the frame costs the generator's CPU more than one that is"
        " dropped on arrival.\n\n" + _table(["", *(LABELS[peer] for peer in peers)], rows)
    )


def _backlog(results: Results) -> str:
    found = {
        (cell.name, peer): value
        for cell in CELLS
        for peer in LABELS
        if (value := results.median_backlog(cell.name, peer)) is not None
    }
    if not found:
        return ""
    peers = [peer for peer in LABELS if any(peer == name for _, name in found)]
    rows = [
        [cell.name, *(f"{found[cell.name, peer]:.0f}" for peer in peers)]
        for cell in CELLS
        if all((cell.name, peer) in found for peer in peers)
    ]
    return (
        "### CPU time for a datagram while a backlog is worked off, ns\n\n"
        "The relay was stopped while the frames came: nothing waits, nothing wakes, and nothing"
        " is in a cache.\n\n" + _table(["", *(LABELS[peer] for peer in peers)], rows)
    )


def _foreign(results: Results) -> str:
    rows = []
    for peer, label in FOREIGN_LABELS.items():
        found = [
            results.median_foreign(peer, what) for what in ("arrived", "rate", "relay_ns", "lost")
        ]
        if None not in found:
            arrived, rate, cpu, lost = (value or 0.0 for value in found)
            rows.append(
                [label, f"{arrived / 1000:.0f}", f"{rate / 1000:.0f}", f"{cpu:.0f}", f"{lost:.0f}"]
            )
    if not rows:
        return ""
    titles = ["", "frames made, thousands/s", "relayed", "CPU ns of the relay for a frame", "lost"]
    return "### Nine frames of ten are foreign (18 bytes, 50 flows)\n\n" + _table(titles, rows)


def _latency(results: Results) -> str:
    rows = []
    for cell in DETAILED_CELLS:
        for point, text in POINTS.items():
            for peer in LABELS:
                found = [
                    results.median_latency(cell.name, peer, point, what)
                    for what in ("rate", "p50", "p99", "p999", "p9999", "relay_ns")
                ]
                if None not in found:
                    rate, p50, p99, p999, p9999, cpu = (value or 0.0 for value in found)
                    rows.append(
                        [
                            *(f"{cell.name}, {text}", LABELS[peer], f"{rate / 1000:.0f}"),
                            *(f"{p50:.0f}", f"{p99:.0f}", f"{p999:.0f}"),
                            *(f"{p9999:.0f}" if p9999 else "", f"{cpu:.0f}"),
                        ]
                    )
    if not rows:
        return ""
    titles = ["", "", "thousands/s", "p50", "p99", "p99.9", "p99.99", "CPU ns of the relay"]
    return "### Latency, microseconds\n\n" + _table(titles, rows)


def _lossless(results: Results) -> str:
    rows = []
    for cell in DETAILED_CELLS:
        for peer in LABELS:
            found = results.median_lossless(cell.name, peer)
            if found is not None:
                rate, capped = found
                note = "the generator made no more" if capped else ""
                rows.append([cell.name, LABELS[peer], f"{rate / 1000:.0f}", note])
    if not rows:
        return ""
    return "### Highest rate without loss, thousands a second\n\n" + _table(["", "", "", ""], rows)


def _bursts(results: Results) -> str:
    rows = []
    for peer in LABELS:
        row = [LABELS[peer]]
        for cell in BURST_CELLS:
            found = [results.median_bursts(cell.name, peer, w) for w in ("p50", "p99", "highest")]
            row.append("" if None in found else " / ".join(f"{size or 0:.0f}" for size in found))
        if any(row[1:]):
            rows.append(row)
    if not rows:
        return ""
    return (
        "### Bursts at 100,000/s: datagrams back to back at an output\n\n"
        "Half of the datagrams came in bursts up to the first number, 99 % up to the second; the"
        " third is the longest burst.\n\n" + _table(["", *(c.name for c in BURST_CELLS)], rows)
    )


def _behind(results: Results) -> str:
    rows = []
    for peer in LABELS:
        row = [LABELS[peer]]
        for source in SOURCES:
            found = results.lost_behind(peer, source)
            row += ["", ""] if found is None else [f"{found[1] / 1000:.0f}", _percent(found[0])]
        if any(row[1:]):
            rows.append(row)
    if not rows:
        return ""
    titles = [title for text in SOURCES.values() for title in (text, "lost")]
    return "### What a receiver with the default socket buffer loses\n\n" + _table(
        ["", *titles], rows
    )


def _second_worker(results: Results) -> str:
    rows = []
    for cell in _cells(results):
        one, two = results.flood(cell.name, "mcrd-1"), results.flood(cell.name, "mcrd-2")
        if one is not None and two is not None and cell.flows > 1:
            gain = two.median("rate") / max(1.0, one.median("rate"))
            rows.append(
                [
                    *(cell.name, f"{gain:.2f}", f"{two.median('arrived') / 1000:.0f}"),
                    f"{one.median('arrived') / 1000:.0f}",
                ]
            )
    if not rows:
        return ""
    titles = ["", "times one worker", "frames made, thousands/s", "the same with one worker"]
    return "### A second worker\n\n" + _table(titles, rows)


def _checks(results: Results) -> str:
    rows = [
        [check.what, check.wanted, check.found, "yes" if check.held else "**no**", check.note]
        for check in results.checks
    ]
    return "### What must hold\n\n" + _table(["", "wanted", "found", "held", ""], rows)


def _missing(results: Results) -> str:
    by_reason: dict[str, list[str]] = {}
    for what, reason in results.absent.items():
        by_reason.setdefault(reason, []).append(what)
    lines = [f"- {', '.join(what)}: {reason}" for reason, what in by_reason.items()]
    lines += [f"- {failure}" for failure in results.failures]
    return "### Not measured\n\n" + "\n".join(lines) if lines else ""


def _grid(results: Results, peers: Sequence[str], entry: Callable[[Summary], str]) -> str:
    rows = []
    for cell in _cells(results):
        row = [cell.name]
        for peer in peers:
            runs = results.flood(cell.name, peer)
            row.append("" if runs is None else entry(runs))
        rows.append(row)
    return _table(["", *(LABELS[peer] for peer in peers)], rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Padded, so that it can be read as it is."""
    widths = [max(len(row[i]) for row in (titles, *rows)) for i in range(len(titles))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(f"{w:<{n}}" for w, n in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(titles), rule, *(line(row) for row in rows)])


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return "0" if share == 0 else f"{share * 100:.1f} %" if share >= 0.0005 else "<0.1 %"
