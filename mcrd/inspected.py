"""What rules with `inspect` found in their payloads, in words."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from mcrd.events import counted
from mcrd.sums import InspectCount, Last

FAULTS = ("gaps", "reordered", "repeated", "stray", "resets", "changes", "other", "not_inspected")
"""What the numbers of a stream show, but for what was lost."""

TS_FAULTS = ("duplicates", "sync_errors", "transport_errors", "pcr_jumps")
"""What packets of MPEG-TS show, but for continuity errors."""


def clock(at: float) -> str:
    """The local time of a day, with the date where that is not today: 14:03:07."""
    then, now = datetime.fromtimestamp(at, UTC).astimezone(), datetime.now(UTC).astimezone()
    return f"{then:%H:%M:%S}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M:%S}"


def lost_before(found: InspectCount) -> str:
    """What was lost before it came here, in words; empty when nothing was."""
    parts = []
    if found.lost:
        noun = "message" if found.messages else "packet"
        parts.append(counted(found.lost, noun) + _last(found.last_lost, found.lost))
    if errors := found.mpeg_ts.continuity_errors:
        last = _last(found.mpeg_ts.last_error, errors)
        parts.append(f"{counted(errors, 'continuity error')} in MPEG-TS{last}")
    return "; ".join(parts)


def inspected(found: InspectCount) -> Iterator[str]:
    """All that was found, in lines."""
    if not found.inspected and not found.not_inspected:
        yield "lost before it came here: not known, as no packet came"
        return
    formats = ", ".join(found.formats) or "no known format"
    lost = lost_before(found) or "nothing"
    if found.missing:
        lost += f"; {found.missing} missing that may still come"
    yield f"lost before it came here ({formats}): {lost}"
    if faults := _named(found, *FAULTS, "longest_gap"):
        yield f"    {faults}"
    jitter = ("jitter", "jitter_most") if found.jitter_most_s else ()
    yield f"    {_times(found, *jitter, 'longest_silence')}; {counted(found.flows, 'flow')}"
    yield from _of_ts(found)


def _of_ts(found: InspectCount) -> Iterator[str]:
    stream = found.mpeg_ts
    if not stream.packets and not stream.sync_errors:
        return
    faults = _named(stream, *TS_FAULTS) or "no other fault"
    times = _times(stream, "pcr_interval", "pcr_jitter", "pcr_jitter_most")
    clock = f"; {times}" if stream.pcr_interval_s else ""
    yield f"    {counted(stream.packets, 'packet')} of MPEG-TS: {faults}{clock}"
    if stream.by_pid:
        by_pid = ", ".join(f"{pid}: {number}" for pid, number in stream.by_pid.items())
        yield f"    continuity errors by PID: {by_pid}"


def _last(last: Last, of: int) -> str:
    """When the last ones were, and how many within that second, unless all were."""
    if last.at is None:
        return ""
    which = f", the last {last.count}" if last.count != of else ""
    return f"{which} at {clock(last.at)}"


def _named(found: object, *names: str) -> str:
    numbers = {name: getattr(found, name) for name in names}
    return ", ".join(f"{name} {number}" for name, number in numbers.items() if number)


def _times(found: object, *names: str) -> str:
    return ", ".join(f"{name} {1000 * getattr(found, f'{name}_s'):.3g} ms" for name in names)
