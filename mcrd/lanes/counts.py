"""What was counted, as values: of rules, of outputs, of interfaces."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass, field

from mcrd.dataplane._dataplane import ffi, lib
from mcrd.lanes.inspections import InspectCount
from mcrd.sockets.lost import Lost

_DROPS = sorted(ffi.typeof("enum drop").elements.items())
DROP_REASONS: tuple[str, ...] = tuple(
    name.removeprefix("DROP_").lower() for _, name in _DROPS[: lib.MCRD_DROP_REASONS]
)
"""In the order of enum drop of shared.h; those of the rings come before them all."""

OF_RINGS = ("ring_full", "discarded")
"""Of frames that no worker took: the kernel had no room, or the rings were closed before."""

OF_REPORTS = ("repeated", "failed")
"""Reports of memberships that were sent unasked (`rejoin`), and that could not be sent."""

OF_RULES: tuple[str, ...] = tuple(
    name for name, _ in ffi.typeof("struct rule_counters").fields if name in DROP_REASONS
)
"""Drops that a rule counts too."""

OF_OUTPUTS: tuple[str, ...] = tuple(name for name, _ in ffi.typeof("struct output_drops").fields)
"""Why an output did not send a datagram, unless it was an error."""


@dataclass(slots=True)
class Traffic:
    """Packets are datagrams; bytes are payload, or of interfaces whole frames."""

    packets: int = 0
    bytes: int = 0

    def add(self, other: Traffic) -> None:
        """Add the other's counts to these."""
        self.packets += other.packets
        self.bytes += other.bytes


@dataclass(slots=True)
class Rate:
    """Packets and bytes of the last whole second, and a second of the last minute.

    `peak` is the most packets in 10 ms, within the last second and the last minute.
    """

    second: Traffic = field(default_factory=Traffic)
    minute: dict[str, float] = field(default_factory=lambda: {"packets": 0.0, "bytes": 0.0})
    peak: dict[str, int] = field(default_factory=lambda: {"second": 0, "minute": 0})

    def add(self, other: Rate) -> None:
        """Add what another worker has; the peaks of both need not have been at one time."""
        self.second.add(other.second)
        for name, number in other.minute.items():
            self.minute[name] += number
        for name, peak in other.peak.items():
            self.peak[name] += peak


@dataclass(slots=True)
class RuleCount:
    """What a rule took, what went no further, and what its payloads say; None: nobody looked."""

    received: Traffic = field(default_factory=Traffic)
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OF_RULES, 0))
    inspect: InspectCount | None = None

    def add(self, other: RuleCount) -> None:
        """Add the other's counts to these."""
        self.received.add(other.received)
        _add(self.dropped, other.dropped)
        if other.inspect is not None:
            self.inspect = self.inspect or InspectCount()
            self.inspect.add(other.inspect)


@dataclass(slots=True)
class OutputCount:
    """What became of the datagrams of one output; `errors` by the name of the errno.

    `refused` counts reports of refusals, not datagrams. Of the `dropped` that are unreachable,
    `unanswered` are among `sent` as well: the kernel took them, and threw them away. `waiting` is
    how many wait for a socket now. Of answers to an output, which are counted apart, `late` came
    after their time, and `lost` to a socket without room.
    """

    sent: Traffic = field(default_factory=Traffic)
    errors: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OF_OUTPUTS, 0))
    unanswered: int = 0
    waiting: int = 0
    late: int = 0
    lost: int = 0

    def add(self, other: OutputCount) -> None:
        """Add the other's counts to these."""
        self.sent.add(other.sent)
        self.refused += other.refused
        self.unanswered += other.unanswered
        self.waiting += other.waiting
        self.late += other.late
        self.lost += other.lost
        _add(self.dropped, other.dropped)
        _add(self.errors, other.errors)


@dataclass(slots=True)
class InterfaceCount:
    """Packets taken from an interface's rings, and why some went no further.

    Of those that no worker took, `dropped_frames` is what the kernel has counted, and `dropped` how
    many packets that was, see lost.py. `reports` are those of memberships that nobody asked for.
    """

    received: Traffic = field(default_factory=Traffic)
    dropped: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((*OF_RINGS, *DROP_REASONS), 0)
    )
    dropped_frames: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OF_RINGS, 0))
    reports: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OF_REPORTS, 0))

    def add(self, other: InterfaceCount) -> None:
        """Add the other's counts to these."""
        self.received.add(other.received)
        _add(self.dropped, other.dropped)
        _add(self.dropped_frames, other.dropped_frames)
        _add(self.reports, other.reports)

    def lose(self, reason: str, lost: Lost) -> None:
        """Count what no worker took."""
        self.dropped[reason] += lost.packets
        self.dropped_frames[reason] = self.dropped_frames.get(reason, 0) + lost.frames


def _add(ours: dict[str, int], theirs: dict[str, int]) -> None:
    for name, number in theirs.items():  # another version may know other reasons
        ours[name] = ours.get(name, 0) + number
