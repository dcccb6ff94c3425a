"""What was counted, as values: of rules, of outputs, of interfaces."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass, field

from mcrd.dataplane._dataplane import ffi, lib
from mcrd.sockets.lost import Lost
from mcrd.sums import Count, InspectCount, MergeCount, Traffic

_DROPS = sorted(ffi.typeof("enum drop").elements.items())
DROP_REASONS: tuple[str, ...] = tuple(
    name.removeprefix("DROP_").lower() for _, name in _DROPS[: lib.MCRD_DROP_REASONS]
)
"""In the order of enum drop of segment.h; those of the rings come before them all."""

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


OF_SKIPS: tuple[str, ...] = tuple(name for name, _ in ffi.typeof("struct output_skips").fields)
"""Why an output was not to send a datagram: these are no losses."""


Glance = list[int]
"""The fields of `struct glance` of shared.h, in their order."""

NO_FLOW: Glance = [0] * len(ffi.typeof("struct glance").fields)
"""Of what no worker has."""


@dataclass(slots=True)
class SwitchCount(Count):
    """One of several inputs of a rule, of which one is in use. Times are seconds from the epoch.

    It was switched to so many times from another. The last time that it was taken into use was
    `since`, for a reason of enum switch_reason, segment.h: then `before` was in use, counted from
    1, and had been silent for `silent` seconds. `last` is when it brought something. Of the numbers
    of its datagrams, those `forgotten` were remembered for less than half a second.
    """

    used: bool = False
    switches: int = 0
    since: float = 0.0
    why: str = ""
    before: int = 0
    silent: float = 0.0
    last: float = 0.0
    forgotten: int = 0

    def add(self, other: SwitchCount) -> None:
        """Add what was counted; the rest is that of the later one."""
        if other.since > self.since:
            self.since, self.why = other.since, other.why
            self.before, self.silent = other.before, other.silent
        self.used = self.used or other.used
        self.last = max(self.last, other.last)
        self.switches += other.switches
        self.forgotten += other.forgotten


@dataclass(slots=True)
class RuleCount(Count):
    """What a rule took, what went no further, and what its payloads say; None: nobody looked.

    `backlog` is how many datagrams it has now that are in no other counter yet. Of those that
    stood by, another host was heard to send those `overheard`.
    """

    received: Traffic = field(default_factory=Traffic)
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OF_RULES, 0))
    inspect: InspectCount | None = None
    merge: MergeCount | None = None
    switch: SwitchCount | None = None
    backlog: int = 0
    overheard: int = 0


@dataclass(slots=True)
class OutputCount(Count):
    """What became of the datagrams of one output; `errors` by the name of the errno.

    Those `skipped` were not for it, by its `sources`, `exclude` or `sample`.
    `refused` counts ICMP errors that the kernel reported, not datagrams. Of the `dropped` that are
    unreachable, `unanswered` are among `sent` as well: the kernel took them, and threw them away.
    `waiting` is how many wait for a socket now. Of answers to an output, which are counted apart,
    `late` came after their time, and `lost` to a socket without room.
    """

    sent: Traffic = field(default_factory=Traffic)
    errors: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OF_OUTPUTS, 0))
    skipped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OF_SKIPS, 0))
    unanswered: int = 0
    waiting: int = 0
    late: int = 0
    lost: int = 0


@dataclass(slots=True)
class InterfaceCount(Count):
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

    def lose(self, reason: str, lost: Lost) -> None:
        """Count what no worker took."""
        self.dropped[reason] += lost.packets
        self.dropped_frames[reason] = self.dropped_frames.get(reason, 0) + lost.frames
