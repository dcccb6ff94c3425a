"""What rules with `inspect` found in their payloads, as a worker's segment has it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import Any

from mcrd.dataplane._dataplane import ffi

FORMATS: dict[str, int] = {
    name.removeprefix("INSPECT_").lower().replace("mpeg_ts", "mpeg-ts"): number
    for number, name in ffi.typeof("enum inspect_format").elements.items()
}
"""The formats of the rule file by their names, as numbers of enum inspect_format."""

OTHER_PIDS = "other"
"""In `by_pid`: those for which a worker had no place left."""

PATIENCE = 3 * 10**9
"""So many nanoseconds after the last datagram, nothing comes that is missing."""

_NS = 1e9
_LONGEST = 10**18  # ns: what a worker says may be wrong
_LATEST = 4 * 10**18  # ns since the epoch: the year 2096


@dataclass(slots=True)
class Last:
    """The last of some faults: how many were in its second, and when it was, from the epoch."""

    count: int = 0
    at: float | None = None

    def add(self, other: Last) -> None:
        """Take the later one."""
        if other.at is not None and (self.at is None or other.at > self.at):
            self.count, self.at = other.count, other.at


@dataclass(slots=True)
class TsCount:
    """What was found in packets of MPEG-TS, ISO/IEC 13818-1. Times are in seconds.

    `continuity_errors` are those of `by_pid` together. `duplicates` were allowed to come twice.
    `pcr_interval_s` is the longest, `pcr_jitter_s` smoothed as that of RTP.
    """

    packets: int = 0
    continuity_errors: int = 0
    duplicates: int = 0
    sync_errors: int = 0
    transport_errors: int = 0
    pcr_jumps: int = 0
    pcr_interval_s: float = 0.0
    pcr_jitter_s: float = 0.0
    pcr_jitter_most_s: float = 0.0
    by_pid: dict[str, int] = field(default_factory=dict)
    last_error: Last = field(default_factory=Last)


@dataclass(slots=True)
class InspectCount:
    """What the payloads of a rule say of the network before this host. Times are in seconds.

    Of all datagrams that were `inspected`, `other` are not of the format. `not_inspected` are of
    flows beyond the bound. `lost` have been given up, `missing` may still come: datagrams, or
    messages of MoldUDP64. `gaps` is how often some were missing, `longest_gap` how many at most.
    `jitter_s` is that of RFC 3550, section 6.4.1, where it is worst.
    """

    inspected: int = 0
    not_inspected: int = 0
    other: int = 0
    lost: int = 0
    missing: int = 0
    gaps: int = 0
    reordered: int = 0
    repeated: int = 0
    stray: int = 0
    resets: int = 0
    changes: int = 0
    messages: int = 0
    longest_gap: int = 0
    longest_silence_s: float = 0.0
    jitter_s: float = 0.0
    jitter_most_s: float = 0.0
    flows: int = 0
    formats: list[str] = field(default_factory=list)
    last_lost: Last = field(default_factory=Last)
    mpeg_ts: TsCount = field(default_factory=TsCount)

    def add(self, other: InspectCount) -> None:
        """Add what another worker found, or one before."""
        _add(self, other)

    def end(self) -> None:
        """The worker has the rule no more: nothing comes that is missing."""
        self.lost += self.missing
        self.missing = self.flows = 0
        self.jitter_s = self.mpeg_ts.pcr_jitter_s = 0.0


def _add(ours: Any, theirs: Any) -> None:
    """Sums of numbers, the highest of gauges, the later of events."""
    for each in fields(ours):
        name = each.name
        before, other = getattr(ours, name), getattr(theirs, name)
        if isinstance(before, Last):
            before.add(other)
        elif isinstance(before, TsCount):
            _add(before, other)
        elif isinstance(before, dict):
            for key, number in other.items():
                before[key] = before.get(key, 0) + number
        elif isinstance(before, list | tuple):  # taken over, it is a tuple
            setattr(ours, name, sorted({*before, *other}))
        elif isinstance(before, float) or name == "longest_gap":
            setattr(ours, name, max(before, other))
        else:
            setattr(ours, name, before + other)


def lost(found: Any) -> int:
    """What was lost by now: with what is missing, when nothing came for a while.

    The worker would give it up with the next datagram.
    """
    is_over = time.time_ns() - found.seen > PATIENCE
    return int(found.lost + found.missing if is_over else found.lost)


def read(found: Any) -> InspectCount | None:
    """The counters of a struct inspect_counters; None when nobody looked."""
    if not found.inspected and not found.not_inspected:
        return None
    names = [each.name for each in fields(InspectCount) if each.type == "int"]
    count = InspectCount(**{name: getattr(found, name) for name in names})
    given_up = lost(found) - count.lost
    count.lost, count.missing = count.lost + given_up, count.missing - given_up
    count.longest_silence_s = _seconds(found.longest_silence)
    count.jitter_s, count.jitter_most_s = _seconds(found.jitter), _seconds(found.jitter_most)
    formats = ((name, number) for name, number in FORMATS.items() if number)
    count.formats = sorted(name for name, number in formats if found.formats >> number & 1)
    count.last_lost = _last(found.last_lost)
    count.mpeg_ts = TsCount(
        packets=found.ts_packets,
        continuity_errors=found.continuity,
        duplicates=found.duplicates,
        sync_errors=found.sync,
        transport_errors=found.transport,
        pcr_jumps=found.pcr_jumps,
        pcr_interval_s=_seconds(found.pcr_interval),
        pcr_jitter_s=_seconds(found.pcr_jitter),
        pcr_jitter_most_s=_seconds(found.pcr_jitter_most),
        by_pid={
            str(place.pid - 1) if place.pid else OTHER_PIDS: place.errors
            for place in found.pids
            if place.errors
        },
        last_error=_last(found.last_continuity),
    )
    return count


def _seconds(nanoseconds: int) -> float:
    return min(nanoseconds, _LONGEST) / _NS


def _last(event: Any) -> Last:
    return Last(event.count, event.at / _NS) if 0 < event.at < _LATEST else Last()
