"""All runs, interleaved: every round takes every peer once, so that a slow minute hits them all."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from bench.lineup import MCRD, TC
from bench.results import Lossless
from bench.topology import SINK_INTERFACES
from tests.lab import LabError

if TYPE_CHECKING:
    from bench.cells import Cell
    from bench.measure import Stand, Trial
    from bench.relays import Peer, Running
    from bench.results import Behind, Bursts, Flood, Foreign, Latency, Results

T = TypeVar("T")

DISTURBED_MAX = 0.10  # share of a CPU that the host or other programs took
TRIES = 3  # of a run that was disturbed
GENERATOR_SHARE = 0.97  # of the rate asked for: below it, the generator fell behind
LIMIT_SHARE = 0.75  # of what it makes at full speed: only above it, that is its limit
INTEGRITY_CELLS = ("1400B-1x1", "1400B-50x3")


@dataclass(frozen=True)
class Plan:
    """What to run, and how long each."""

    cells: Sequence[Cell]
    peers: Sequence[Peer]
    rounds: int
    seconds: float
    detailed: Sequence[Cell]
    latency_peers: Sequence[Peer]
    latency_points: Sequence[str]
    latency_seconds: float
    backlog_cells: Sequence[Cell]
    backlog_peers: Sequence[Peer]
    backlog_runs: int  # of each relay, in each round
    foreign: Cell | None
    foreign_peers: Sequence[Peer]
    lossless_peers: Sequence[Peer]
    lossless_rounds: int
    lossless_steps: int
    lossless_seconds: float
    burst_cells: Sequence[Cell]
    burst_peers: Sequence[Peer]
    burst_rounds: int
    burst_seconds: float
    repeats: int  # at most, of all disturbed runs together
    deadline: float  # seconds for all; what is left then is left out, and said


class Campaign:
    """Carries out a plan."""

    def __init__(self, stand: Stand, plan: Plan, results: Results) -> None:
        self._stand = stand
        self._plan = plan
        self._results = results
        self._began = time.monotonic()

    def run(self) -> None:
        """All of it; the results are in `results`."""
        self._drop_at_sink(True)
        self._leave_out()
        self._floods()
        self._backlogs()
        self._foreign()
        self._lossless()
        self._bursts()
        self._drop_at_sink(False)
        self._latencies()
        self._behind()
        self._integrity()
        self._results.seconds = time.monotonic() - self._began

    def _leave_out(self) -> None:
        """Notes what cannot be measured, and why."""
        for peer in self._plan.peers:
            if reason := peer.refused(self._stand.site):
                self._results.absent[peer.name] = reason
                continue
            for cell in self._plan.cells:
                if reason := peer.missing(self._stand.site, cell):
                    self._results.absent[f"{peer.name} {cell.name}"] = reason

    def _has(self, peer: Peer, cell: Cell) -> bool:
        absent = self._results.absent
        return peer.name not in absent and f"{peer.name} {cell.name}" not in absent

    def _floods(self) -> None:
        for number in range(self._plan.rounds):
            for cell in self._plan.cells:
                self._say(f"full speed, round {number + 1} of {self._plan.rounds}: {cell.name}")
                for peer in self._plan.peers:
                    if self._has(peer, cell) and self._in_time("full speed"):
                        self._flood(peer, cell)

    def _flood(self, peer: Peer, cell: Cell) -> None:
        run = self._attempt(
            f"{peer.name} {cell.name}",
            lambda: self._stand.flood(peer, cell, self._plan.seconds),
            _disturbance,
        )
        if run is not None:
            self._results.floods.append(run)

    def _backlogs(self) -> None:
        for number in range(self._plan.rounds):
            for cell in self._plan.backlog_cells:
                self._say(f"backlog, round {number + 1} of {self._plan.rounds}: {cell.name}")
                for peer in self._plan.backlog_peers:
                    if self._has(peer, cell) and self._in_time("backlog"):
                        self._backlog(peer, cell)

    def _backlog(self, peer: Peer, cell: Cell) -> None:
        self._stand.site.network.prepare(cell)
        running = peer.start(self._stand.site, cell)
        try:
            for _ in range(self._plan.backlog_runs):
                run = self._attempt(
                    f"{peer.name} {cell.name} backlog",
                    partial(self._stand.backlog, running, peer, cell),
                    lambda _: 0.0,  # too short to tell: the median has to do
                )
                if run is not None:
                    self._results.backlogs.append(run)
        finally:
            running.stop()

    def _foreign(self) -> None:
        cell = self._plan.foreign
        if cell is None:
            return
        for number in range(self._plan.rounds):
            self._say(f"foreign traffic, round {number + 1} of {self._plan.rounds}: {cell.name}")
            for peer in self._plan.foreign_peers:
                if self._in_time("foreign traffic"):
                    run = self._attempt(
                        f"{peer.name} {cell.name}",
                        partial(self._stand.foreign, peer, cell, self._plan.seconds),
                        _disturbance,
                    )
                    if run is not None:
                        self._results.foreign.append(run)

    def _latencies(self) -> None:
        for number in range(self._plan.rounds):
            for cell in self._plan.detailed:
                self._say(f"latency, round {number + 1} of {self._plan.rounds}: {cell.name}")
                for peer in self._plan.latency_peers:
                    if self._has(peer, cell) and self._in_time("latency"):
                        self._latency(peer, cell)

    def _latency(self, peer: Peer, cell: Cell) -> None:
        self._stand.site.network.prepare(cell)
        running = peer.start(self._stand.site, cell)
        try:
            for point in self._plan.latency_points:
                rate = self._rate_of(point, peer, cell)
                if rate is None:
                    continue
                run = self._attempt(
                    f"{peer.name} {cell.name} {point}",
                    partial(
                        self._stand.latency,
                        peer=peer,
                        running=running,
                        cell=cell,
                        point=(point, rate),
                        seconds=self._plan.latency_seconds,
                    ),
                    _disturbance,
                )
                if run is not None:
                    self._results.latencies.append(run)
        finally:
            running.stop()

    def _rate_of(self, point: str, peer: Peer, cell: Cell) -> float | None:
        if point != "half":
            return float(point.removesuffix("k")) * 1000
        runs = self._results.flood(cell.name, peer.name)
        return None if runs is None else runs.median("rate") / cell.outputs / 2

    def _lossless(self) -> None:
        for number in range(self._plan.lossless_rounds):
            for cell in self._plan.detailed:
                self._say(
                    f"highest rate without loss, round {number + 1}"
                    f" of {self._plan.lossless_rounds}: {cell.name}"
                )
                for peer in self._plan.lossless_peers:
                    if self._has(peer, cell) and self._in_time("lossless"):
                        found = self._search(peer, cell)
                        if found is not None:
                            self._results.lossless.append(
                                Lossless(cell.name, peer.name, found[0], found[1])
                            )

    def _search(self, peer: Peer, cell: Cell) -> tuple[float, bool] | None:
        """Halves the interval in which the highest rate lies."""
        runs = self._results.flood(cell.name, peer.name)
        if runs is None:
            return None
        if not any(run.lost for run in runs.runs):
            return runs.median("arrived"), True  # at full speed nothing is lost either
        reached = runs.median("rate") / cell.outputs
        arrived = runs.median("arrived")
        low, high = 0.3 * reached, min(1.3 * reached, arrived)
        best, capped = 0.0, False
        self._stand.site.network.prepare(cell)
        running = peer.start(self._stand.site, cell)
        try:
            for _ in range(self._plan.lossless_steps):
                rate = (low + high) / 2
                trial = self._try(running, cell, rate)
                if trial is None:
                    break
                short = trial.made < GENERATOR_SHARE * rate
                if trial.held and trial.made > best:
                    best, capped = trial.made, short and trial.made >= LIMIT_SHARE * arrived
                if trial.held and not short:
                    low = rate
                else:
                    high = rate
        finally:
            running.stop()
        return best, capped

    def _try(self, running: Running, cell: Cell, rate: float) -> Trial | None:
        return self._attempt(
            f"{cell.name} at {rate:.0f}/s",
            lambda: self._stand.trial(running, cell, rate, self._plan.lossless_seconds),
            lambda trial: 0.0 if trial.held else _disturbance(trial),
        )

    def _bursts(self) -> None:
        if self._plan.burst_cells and (reason := TC.refused(self._stand.site)):
            self._results.absent["bursts"] = reason  # the same kind of program counts them
            return
        for number in range(self._plan.burst_rounds):
            for cell in self._plan.burst_cells:
                self._say(f"bursts, round {number + 1} of {self._plan.burst_rounds}: {cell.name}")
                for peer in self._plan.burst_peers:
                    if self._has(peer, cell) and self._in_time("bursts"):
                        run = partial(self._at_work, self._stand.bursts, peer, cell)
                        what = f"{peer.name} {cell.name} bursts"
                        if (found := self._attempt(what, run, _disturbance)) is not None:
                            self._results.bursts.append(found)

    def _behind(self) -> None:
        runs = {"100k": self._stand.behind, "iperf": self._stand.behind_iperf}
        if "iperf" not in self._stand.site.programs and self._plan.burst_cells:
            del runs["iperf"]
            self._results.absent["iperf"] = "iperf is not installed, and could not be downloaded"
        for number in range(self._plan.burst_rounds):
            for cell in self._plan.burst_cells[:1]:
                self._say(f"receivers, round {number + 1} of {self._plan.burst_rounds}")
                for peer in self._plan.burst_peers:
                    for source, run in runs.items():
                        if self._has(peer, cell) and self._in_time("receivers"):
                            found = self._attempt(
                                f"{peer.name} {source} receiver",
                                partial(self._at_work, run, peer, cell),
                                _disturbance,
                            )
                            if found is not None:
                                self._results.behind.append(found)

    def _at_work(self, run: Callable[[Peer, Running, Cell, float], T], peer: Peer, cell: Cell) -> T:
        """A run with a relay that is started for it."""
        self._stand.site.network.prepare(cell)
        running = peer.start(self._stand.site, cell)
        try:
            return run(peer, running, cell, self._plan.burst_seconds)
        finally:
            running.stop()

    def _integrity(self) -> None:
        for cell in self._plan.cells:
            if cell.name in INTEGRITY_CELLS and MCRD in self._plan.peers:
                self._say(f"every datagram: {cell.name}")
                found = self._attempt(
                    f"integrity {cell.name}",
                    partial(self._stand.integrity, MCRD, cell),
                    lambda _: 0.0,
                )
                if found is not None:
                    self._results.integrity.append(found)

    def _attempt(
        self, what: str, run: Callable[[], T], disturbed: Callable[[T], float]
    ) -> T | None:
        """Runs it, again when it was disturbed; returns the result that was so the least.

        A failure is noted, and the rest goes on.
        """
        results: list[T] = []
        try:
            for _ in range(TRIES):
                results.append(run())
                if disturbed(results[-1]) <= DISTURBED_MAX:
                    break
                if self._results.repeated >= self._plan.repeats or len(results) == TRIES:
                    break
                self._results.repeated += 1
        except (LabError, OSError, subprocess.SubprocessError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            short = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
            self._results.failures.append(f"{what}: {short}")
            self._say(f"failed: {what}: {error}")
        return min(results, key=disturbed, default=None)

    def _in_time(self, what: str) -> bool:
        if time.monotonic() - self._began < self._plan.deadline:
            return True
        note = f"{what}: not all runs were made, for lack of time"
        if note not in self._results.failures:
            self._results.failures.append(note)
        return False

    def _drop_at_sink(self, on: bool) -> None:
        network = self._stand.site.network
        (network.drop if on else network.let_in)(network.sink, *SINK_INTERFACES)

    def _say(self, text: str) -> None:
        print(
            f"bench: {time.monotonic() - self._began:5.0f} s  {text}", file=sys.stderr, flush=True
        )


def _disturbance(run: Flood | Foreign | Latency | Trial | Bursts | Behind) -> float:
    return max(run.steal, run.others)
