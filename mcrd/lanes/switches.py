"""Which leg of a stream is in use, as a worker's segment has it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from mcrd.dataplane._dataplane import ffi
from mcrd.lanes.counts import SwitchCount

_REASONS: dict[int, str] = {
    number: name.removeprefix("SWITCH_").lower()
    for number, name in ffi.typeof("enum switch_reason").elements.items()
}
_LATEST = 10**19  # ns: what a worker says may be wrong


def read(found: Any, forgotten: int) -> SwitchCount | None:
    """The counters of a struct switch_counters; None when the rule is no leg, or took nothing."""
    if not found.last and not found.used:
        return None
    since, last = (min(found.since, _LATEST) / 1e9, min(found.last, _LATEST) / 1e9)
    why = _REASONS.get(found.why, "")
    silent = min(found.silent, _LATEST) / 1e9
    return SwitchCount(
        bool(found.used), found.switches, since, why, found.before, silent, last, forgotten
    )
