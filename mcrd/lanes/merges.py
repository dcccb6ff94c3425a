"""How the legs of a merged stream fare, as a worker's segment has it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from mcrd.dataplane._dataplane import ffi
from mcrd.sums import MergeCount

MERGE_BY: dict[str, int] = {
    name.removeprefix("MERGE_").lower(): number
    for number, name in ffi.typeof("enum merge_by").elements.items()
}
"""What makes copies, by its name in the rule file, as numbers of enum merge_by."""

_LONGEST = 10**18  # ns: what a worker says may be wrong


def read(found: Any) -> MergeCount | None:
    """The counters of a struct merge_counters; None when the rule is no leg, or took nothing."""
    if not found.received:
        return None
    count = MergeCount.numbers(found)
    count.skew_most_s = min(found.skew_most, _LONGEST) / 1e9
    half, seen = sum(found.skews) / 2, 0
    for place, number in enumerate(found.skews):
        seen += number
        if number and seen >= half:
            count.skew_p50_s = min(2**place / 1e6, count.skew_most_s)
            break
    return count
