"""What a run of the benchmark found, as it stands in bench/results/latest.json."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

DIRECTORY = Path(__file__).parent / "results"
LATEST = DIRECTORY / "latest.json"
CHART = DIRECTORY / "latest.svg"


@dataclass(frozen=True)
class Flood:
    """One run at full speed. Shares are of 1; rates are datagrams per second."""

    cell: str
    peer: str
    rate: float  # at the sink; of the generator's limit: at the relay's interface
    arrived: float  # frames per second at the relay
    lost: int  # datagrams that the sink misses, of all that arrived for all outputs
    expected: int
    reported: int | None  # lost, as the relay says
    interface_drops: int  # lost by the network interfaces around the relay
    relay_ns: float  # CPU time of the relay for a datagram at the sink
    generator_ns: float  # CPU time of the generator for a frame, its delivery included
    relay_busy: float
    steal: float
    others: float


@dataclass(frozen=True)
class Latency:
    """One run at a given rate; microseconds."""

    cell: str
    peer: str
    point: str  # "10k", "100k", "half"
    rate: float
    p50: float
    p99: float
    p999: float
    lost: int
    relay_ns: float
    steal: float
    others: float
    p9999: float = 0.0  # 0 in results that are older than it


@dataclass(frozen=True)
class Lossless:
    """One search for the highest rate without loss."""

    cell: str
    peer: str
    rate: float
    capped: bool  # the generator made no more


@dataclass(frozen=True)
class Backlog:
    """What a relay spends on a datagram while it works off a backlog: no waiting, no waking."""

    cell: str
    peer: str
    relay_ns: float


@dataclass(frozen=True)
class Foreign:
    """One run at full speed of which most is not wanted."""

    peer: str
    arrived: float  # frames per second at the relay
    rate: float  # datagrams per second at the sink
    lost: int  # as the relay says
    relay_ns: float  # CPU time of the relay for a frame that arrived
    steal: float
    others: float


@dataclass(frozen=True)
class Bursts:
    """How many datagrams came back to back to an interface of the sink, at 100,000 a second."""

    cell: str
    peer: str
    rate: float  # datagrams per second of an output
    highest: int
    p50: int  # the size of burst that this share of the datagrams did not exceed
    p99: int
    steal: float
    others: float


@dataclass(frozen=True)
class Behind:
    """What a receiver with a default socket buffer lost behind a relay."""

    peer: str
    source: str  # "100k", "iperf"
    rate: float  # frames per second at the relay
    received: int
    lost: int  # for which the socket had no room
    steal: float
    others: float


@dataclass(frozen=True)
class Integrity:
    """What mcrgen found in one output at a moderate rate."""

    cell: str
    peer: str
    unique: int
    lost: int
    duplicated: int
    reordered: int
    corrupt: int


@dataclass(frozen=True)
class Check:
    """A ratio that must hold."""

    what: str
    wanted: str
    found: str
    held: bool
    note: str = ""


@dataclass(frozen=True)
class Machine:
    """What it ran on."""

    processor: str
    cpus: int
    kernel: str
    memory_gib: float

    @classmethod
    def this(cls) -> Machine:
        processor = "unknown"
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(processor, os.cpu_count() or 0, platform.release(), round(pages / 2**30, 1))


@dataclass
class Results:
    """All of it."""

    machine: Machine
    date: str
    seconds: float = 0.0
    repeated: int = 0  # runs that were disturbed
    floods: list[Flood] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    lossless: list[Lossless] = field(default_factory=list)
    backlogs: list[Backlog] = field(default_factory=list)
    foreign: list[Foreign] = field(default_factory=list)
    bursts: list[Bursts] = field(default_factory=list)
    behind: list[Behind] = field(default_factory=list)
    integrity: list[Integrity] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)  # peer, or peer and cell: why
    failures: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def flood(self, cell: str, peer: str) -> Summary | None:
        """The runs of a peer in a cell, as one."""
        runs = [run for run in self.floods if run.cell == cell and run.peer == peer]
        return Summary(runs) if runs else None

    def machine_ns(self, cell: str, peer: str, outputs: int) -> float | None:
        """CPU time of the whole machine for a datagram at the sink, less the generator's own.

        The relay's, and what a frame costs the generator's CPU more than one that is dropped at
        the relay's interface: its delivery to the relay, or its whole way through the kernel.
        """
        runs, base = self.flood(cell, peer), self.flood(cell, "limit")
        if runs is None or base is None:
            return None
        added = runs.median("generator_ns") - base.median("generator_ns")
        return runs.median("relay_ns") + added / outputs

    def median_latency(self, cell: str, peer: str, point: str, what: str) -> float | None:
        """In microseconds."""
        return _median(
            getattr(run, what)
            for run in self.latencies
            if (run.cell, run.peer, run.point) == (cell, peer, point)
        )

    def median_lossless(self, cell: str, peer: str) -> tuple[float, bool] | None:
        """The rate, and whether the generator was the limit in most searches."""
        runs = [run for run in self.lossless if (run.cell, run.peer) == (cell, peer)]
        if not runs:
            return None
        capped = sum(run.capped for run in runs) * 2 > len(runs)
        return statistics.median(run.rate for run in runs), capped

    def median_backlog(self, cell: str, peer: str) -> float | None:
        """In ns of CPU time for a datagram."""
        return _median(
            run.relay_ns for run in self.backlogs if (run.cell, run.peer) == (cell, peer)
        )

    def median_foreign(self, peer: str, what: str) -> float | None:
        """Of the runs with foreign traffic."""
        return _median(getattr(run, what) for run in self.foreign if run.peer == peer)

    def median_bursts(self, cell: str, peer: str, what: str) -> float | None:
        """A size of bursts."""
        runs = [run for run in self.bursts if (run.cell, run.peer) == (cell, peer)]
        return _median(getattr(run, what) for run in runs)

    def lost_behind(self, peer: str, source: str) -> tuple[float, float] | None:
        """The share of what came to the socket, and the rate at the relay."""
        runs = [run for run in self.behind if (run.peer, run.source) == (peer, source)]
        shares = [run.lost / max(1, run.lost + run.received) for run in runs]
        if not runs:
            return None
        return statistics.median(shares), statistics.median(run.rate for run in runs)

    def save(self, path: Path) -> None:
        """As JSON, for people as well."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        write(path, text.decode() + "\n")


class Summary:
    """Runs of the same thing."""

    def __init__(self, runs: list[Flood]) -> None:
        self.runs = runs

    def of(self, peer: str) -> bool:
        """Whether they are this peer's."""
        return self.runs[0].peer == peer

    def median(self, what: str) -> float:
        return statistics.median(self._values(what))

    def spread(self, what: str) -> float:
        """Largest less smallest, as a share of the median."""
        values = self._values(what)
        middle = statistics.median(values)
        return (max(values) - min(values)) / middle if middle else 0.0

    def share(self, of: Callable[[Flood], int | None]) -> float | None:
        """The median share of what was expected; None when no run knows."""
        return _median(
            count / run.expected
            for run in self.runs
            if run.expected and (count := of(run)) is not None
        )

    def _values(self, what: str) -> list[float]:
        return [float(getattr(run, what)) for run in self.runs]


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.median(known) if known else None


def load(path: Path = LATEST) -> Results:
    """Reads what `save` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def write(path: Path, text: str) -> None:
    """A file that belongs to whom its directory belongs to, even under sudo."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    owner = Path(__file__).stat()
    for made in (path.parent, path):
        if os.geteuid() == 0 and made.is_relative_to(Path(__file__).parent.parent):
            os.chown(made, owner.st_uid, owner.st_gid)
