"""What must hold, whatever the machine: ratios between peers of one run."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.cells import CELLS
from bench.lineup import (
    KERNEL,
    MCRD,
    MCRD_2,
    MCRD_ALONE,
    MCRD_BUSY,
    MCRD_GRO,
    MCRD_POLL,
    MULTISHOT,
    REFERENCE,
    REFERENCE_ALONE,
)
from bench.results import Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.results import Results

_SMALL, _LARGE, _MANY_SMALL, _MANY_LARGE = CELLS[0], CELLS[2], CELLS[8], CELLS[9]
_NO_OFFLOAD = CELLS[12]

# Datagrams at the sink, times those of the reference design.
RATE = {_SMALL: 2.4, _LARGE: 2.6, _MANY_SMALL: 8.0, _MANY_LARGE: 9.0, _NO_OFFLOAD: 2.2}

# The same where the interface merges datagrams (`gro`).
MERGED = {_SMALL: 5.0, _LARGE: 4.5, _MANY_SMALL: 11.0, _MANY_LARGE: 10.0}

# CPU time of the relay for a datagram: the reference design's, divided by this.
CPU = {_SMALL: 6.0, _LARGE: 5.0, _MANY_SMALL: 8.0, _MANY_LARGE: 9.0}

CPU_POLL = 1.5  # that of a worker without io_uring, times that of one with it

LATENCY_10K = 1.25  # times the p50 of the multishot relay; at 100,000/s less than it
LATENCY_BUSY = 0.7  # the same, for a worker that never sleeps
LOSSLESS = 2.5  # times the reference design's highest rate without loss

# Each with the other under the same conditions.
PAIRS = ((MCRD, REFERENCE), (MCRD_ALONE, REFERENCE_ALONE))

# With less loss than this the relay took all that the generator made.
KEPT_UP = 0.001


def check(results: Results) -> list[Check]:
    """All that the run has the figures for."""
    return [
        *_rates(results),
        *_cpu(results),
        *_latency(results),
        *_lossless(results),
        *_accounting(results),
        *_integrity(results),
    ]


def _rates(results: Results) -> Iterator[Check]:
    asked = [(cell, factor, pair) for cell, factor in RATE.items() for pair in PAIRS]
    asked += [(cell, factor, (MCRD_GRO, REFERENCE)) for cell, factor in MERGED.items()]
    for cell, factor, (peer, other) in asked:
        ours = results.flood(cell.name, peer.name)
        reference = results.flood(cell.name, other.name)
        if ours is None or reference is None:
            continue
        ratio = ours.median("rate") / max(1.0, reference.median("rate"))
        loss = ours.share(lambda run: run.lost)
        capped = loss is not None and loss < KEPT_UP and ratio < factor
        yield Check(
            what=f"datagrams, {cell.name}: {peer.label} / {other.label}",
            wanted=f"at least {factor:g}",
            found=f"{ratio:.2f}",
            held=ratio >= factor or capped,
            note="the generator made no more: see the CPU time" if capped else "",
        )


def _cpu(results: Results) -> Iterator[Check]:
    for cell, factor in CPU.items():
        ours = results.flood(cell.name, MCRD.name)
        reference = results.flood(cell.name, REFERENCE.name)
        if ours is not None and reference is not None:
            ratio = reference.median("relay_ns") / max(1.0, ours.median("relay_ns"))
            yield Check(
                what=f"CPU time, {cell.name}: reference / mcrd",
                wanted=f"at least {factor:g}",
                found=f"{ratio:.2f}",
                held=ratio >= factor,
            )
        without = results.flood(cell.name, MCRD_POLL.name)
        if ours is not None and without is not None:
            ratio = without.median("relay_ns") / max(1.0, ours.median("relay_ns"))
            yield Check(
                what=f"CPU time, {cell.name}: mcrd without io_uring / with it",
                wanted=f"at most {CPU_POLL:g}",
                found=f"{ratio:.2f}",
                held=ratio <= CPU_POLL,
            )
        mine = results.machine_ns(cell.name, MCRD.name, cell.outputs)
        kernel = results.machine_ns(cell.name, KERNEL.name, cell.outputs)
        if mine is not None and kernel is not None:
            yield Check(
                what=f"CPU time of the machine, {cell.name}: mcrd / kernel routing",
                wanted="less than 1",
                found=f"{mine / max(1.0, kernel):.2f}",
                held=mine < kernel,
            )


def _latency(results: Results) -> Iterator[Check]:
    for cell in CELLS:
        for peer, point, factor in (
            *((MCRD, "10k", LATENCY_10K), (MCRD, "100k", 1.0)),
            (MCRD_BUSY, "10k", LATENCY_BUSY),
        ):
            ours = results.median_latency(cell.name, peer.name, point, "p50")
            other = results.median_latency(cell.name, MULTISHOT.name, point, "p50")
            if ours is not None and other is not None:
                yield Check(
                    what=f"p50 at {point}/s, {cell.name}: {peer.label} / multishot",
                    wanted=f"at most {factor:g}" if factor != 1 else "less than 1",
                    found=f"{ours / max(0.1, other):.2f}",
                    held=ours <= factor * other if factor != 1 else ours < other,
                )


def _lossless(results: Results) -> Iterator[Check]:
    for cell in CELLS:
        for peer, other in PAIRS:
            ours = results.median_lossless(cell.name, peer.name)
            reference = results.median_lossless(cell.name, other.name)
            if ours is None or reference is None:
                continue
            ratio = ours[0] / max(1.0, reference[0])
            yield Check(
                what=f"highest rate without loss, {cell.name}: {peer.label} / {other.label}",
                wanted=f"at least {LOSSLESS:g}",
                found=f"{ratio:.2f}",
                held=ratio >= LOSSLESS or ours[1],
                note="the generator made no more" if ours[1] else "",
            )


def _accounting(results: Results) -> Iterator[Check]:
    ours = (MCRD.name, MCRD_ALONE.name, MCRD_2.name, MCRD_GRO.name, MCRD_POLL.name)
    runs = [run for run in results.floods if run.peer in ours]
    if not runs:
        return
    wrong = [run for run in runs if run.reported != run.lost]
    note = ""
    if wrong:
        worst = max(wrong, key=lambda run: abs((run.reported or 0) - run.lost))
        note = f"{worst.cell}: reported {worst.reported}, missing {worst.lost}"
    yield Check(
        what="loss that mcrd reports = loss at the sink",
        wanted=f"in all {len(runs)} runs",
        found=f"in {len(runs) - len(wrong)}",
        held=not wrong,
        note=note,
    )


def _integrity(results: Results) -> Iterator[Check]:
    for found in results.integrity:
        wrong = {
            name: count
            for name in ("lost", "duplicated", "reordered", "corrupt")
            if (count := getattr(found, name))
        }
        yield Check(
            what=f"{found.cell}: whole, once and in order",
            wanted=f"all {found.unique + found.lost} datagrams",
            found="all" if not wrong else ", ".join(f"{n} {name}" for name, n in wrong.items()),
            held=not wrong,
        )
