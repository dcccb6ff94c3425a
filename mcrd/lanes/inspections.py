"""What rules with `inspect` found in their payloads, as a worker's segment has it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from typing import Any

from mcrd.dataplane._dataplane import ffi, lib
from mcrd.sums import InspectCount, Last, TsCount

FORMATS: dict[str, int] = {
    name.removeprefix("INSPECT_").lower().replace("mpeg_ts", "mpeg-ts"): number
    for number, name in ffi.typeof("enum inspect_format").elements.items()
}
"""The formats of the rule file by their names, as numbers of enum inspect_format."""

OTHER_PIDS = "other"
"""In `by_pid`: those for which a worker had no place left."""

_NS = 1e9
_LONGEST = 10**18  # ns: what a worker says may be wrong
_LATEST = 4 * 10**18  # ns since the epoch: the year 2096


def lost(found: Any) -> int:
    """What was lost by now: with what is missing, when nothing came for a while.

    The worker would give it up with the next datagram.
    """
    is_over = time.time_ns() - found.seen > lib.MCRD_MISSING_NS
    return int(found.lost + found.missing if is_over else found.lost)


def read(found: Any) -> InspectCount | None:
    """The counters of a struct inspect_counters; None when nobody looked."""
    if not found.inspected and not found.not_inspected:
        return None
    count = InspectCount.numbers(found)
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
