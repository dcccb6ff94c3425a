"""python -m bench: measures all relays side by side. `make bench` and `make bench-quick` run it.

Exit status 0 means that every ratio of ratios.py held, 1 that one was missed or that something
could not be measured; only complete results replace the last ones.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench import chart, ratios, report, results
from bench.campaign import Campaign, Plan
from bench.cells import BACKLOG_CELLS, BURST_CELLS, CELLS, DETAILED_CELLS, FOREIGN_CELL, QUICK_CELLS
from bench.generators import Site
from bench.interrupt import end_in_order
from bench.lineup import (
    FILTERED,
    KERNEL,
    LET_IN,
    LIMIT,
    MCRD,
    MCRD_ALONE,
    MCRD_BUSY,
    MCRD_GRO,
    MULTISHOT,
    PEERS_ALL,
    PYTHON,
    REFERENCE,
    REFERENCE_ALONE,
    SOCAT,
    TC,
    XDP,
)
from bench.measure import Stand
from bench.processor import Meter, pin, placement
from bench.programs import build
from bench.tools import find
from bench.topology import Network
from tests.lab import Lab, LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

DETAIL_PEERS = (MCRD, REFERENCE, MULTISHOT, KERNEL)
LATENCY_PEERS = (*DETAIL_PEERS, MCRD_BUSY, XDP)
BURST_PEERS = (MCRD, MCRD_GRO, MCRD_BUSY, REFERENCE, MULTISHOT, KERNEL, XDP, TC, SOCAT, PYTHON)

FULL = Plan(
    cells=CELLS,
    peers=PEERS_ALL,
    rounds=3,
    seconds=0.8,
    detailed=DETAILED_CELLS,
    latency_peers=LATENCY_PEERS,
    latency_points=("10k", "100k", "half"),
    latency_seconds=1.0,
    backlog_cells=BACKLOG_CELLS,
    backlog_peers=(MCRD, REFERENCE, MULTISHOT),
    backlog_runs=2,
    foreign=FOREIGN_CELL,
    foreign_peers=(FILTERED, LET_IN),
    lossless_peers=(*DETAIL_PEERS, MCRD_ALONE, REFERENCE_ALONE),
    lossless_rounds=3,
    lossless_steps=4,
    lossless_seconds=0.5,
    burst_cells=BURST_CELLS,
    burst_peers=BURST_PEERS,
    burst_rounds=2,
    burst_seconds=0.5,
    repeats=25,
    deadline=23 * 60,
)

QUICK = Plan(
    cells=QUICK_CELLS,
    peers=(LIMIT, MCRD, MCRD_ALONE, MCRD_GRO, REFERENCE, REFERENCE_ALONE, KERNEL),
    rounds=3,
    seconds=0.5,
    detailed=DETAILED_CELLS[:1],
    latency_peers=(MCRD, MCRD_BUSY, MULTISHOT),
    latency_points=("10k", "100k"),
    latency_seconds=0.7,
    backlog_cells=(),
    backlog_peers=(),
    backlog_runs=0,
    foreign=None,
    foreign_peers=(),
    lossless_peers=(MCRD, REFERENCE),
    lossless_rounds=3,
    lossless_steps=4,
    lossless_seconds=0.4,
    burst_cells=(),
    burst_peers=(),
    burst_rounds=0,
    burst_seconds=0.0,
    repeats=10,
    deadline=290,
)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.report:
        found = results.load()
        report.update_page(found)
        results.write(results.CHART, chart.chart(found))
        return 0
    end_in_order()
    plan = _plan(arguments)
    found = results.Results(results.Machine.this(), datetime.now(UTC).isoformat(timespec="minutes"))
    try:
        _measure(plan, found)
    except (LabError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything that it started has ended", file=sys.stderr)
        return 130
    found.checks = ratios.check(found)
    print(report.report(found))
    if plan is FULL and not found.failures:
        found.save(results.LATEST)
        results.write(results.CHART, chart.chart(found))
    if arguments.output is not None:
        found.save(arguments.output)
        results.write(arguments.output.with_suffix(".svg"), chart.chart(found))
    print("\n" + report.checks_text(found), file=sys.stderr)
    for failure in found.failures:
        print(f"FAILED {failure}", file=sys.stderr)
    held = all(check.held for check in found.checks)
    return 0 if held and found.checks and not found.failures else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures the relays.")
    parser.add_argument("--quick", action="store_true", help="what the ratios need, no more")
    parser.add_argument(
        "--report",
        action="store_true",
        help="measure nothing: put the last results into docs/performance.md and the chart",
    )
    parser.add_argument("--cells", type=_words, metavar="NAME,...", help="these cells only")
    parser.add_argument("--peers", type=_words, metavar="NAME,...", help="these peers only")
    parser.add_argument("--rounds", type=int, metavar="N", help="of all that is measured")
    parser.add_argument("--output", type=Path, metavar="FILE", help="save the results there too")
    return parser


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split(","))


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else FULL
    known = {cell.name for cell in CELLS} | {peer.name for peer in PEERS_ALL}
    asked = (arguments.cells or frozenset()) | (arguments.peers or frozenset())
    if unknown := asked - known:
        sys.exit(f"bench: no such cell or peer: {', '.join(sorted(unknown))}")
    if arguments.cells is None and arguments.peers is None and arguments.rounds is None:
        return plan
    cells = arguments.cells or {cell.name for cell in CELLS}
    peers = arguments.peers or {peer.name for peer in PEERS_ALL}
    return replace(
        plan,
        cells=[cell for cell in plan.cells if cell.name in cells],
        detailed=[cell for cell in plan.detailed if cell.name in cells],
        peers=[peer for peer in plan.peers if peer.name in peers],
        backlog_cells=[cell for cell in plan.backlog_cells if cell.name in cells],
        backlog_peers=[peer for peer in plan.backlog_peers if peer.name in peers],
        foreign=plan.foreign if plan.foreign is not None and plan.foreign.name in cells else None,
        foreign_peers=plan.foreign_peers if arguments.peers is None else (),
        latency_peers=[peer for peer in plan.latency_peers if peer.name in peers],
        lossless_peers=[peer for peer in plan.lossless_peers if peer.name in peers],
        burst_cells=[cell for cell in plan.burst_cells if cell.name in cells],
        burst_peers=[peer for peer in plan.burst_peers if peer.name in peers],
        burst_rounds=min(arguments.rounds or plan.burst_rounds, plan.burst_rounds),
        rounds=arguments.rounds or plan.rounds,
        lossless_rounds=min(arguments.rounds or plan.lossless_rounds, plan.lossless_rounds),
    )


def _measure(plan: Plan, found: results.Results) -> None:
    where = placement()
    with Lab() as lab, tempfile.TemporaryDirectory(prefix="mcrd-bench-") as directory:
        programs = build(Path(directory)) | find(Path(directory))
        pin(os.getpid(), where.generator)
        stand = Stand(Site(Network(lab), where, programs), Meter(where))
        Campaign(stand, plan, found).run()


if __name__ == "__main__":
    sys.exit(main())
