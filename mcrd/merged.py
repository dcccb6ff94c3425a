"""How the inputs of a merged stream fare, in words."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from mcrd.sums import MergeCount

RESULTS = (
    *("first", "second", "repeated", "differs", "only_here", "lost", "forgotten", "shared", "late"),
    *("reordered", "hurried"),
)
"""What becomes of the datagrams of an input."""


MEANINGS = {
    "leg_dead": "this input brings nothing, while others do; the stream may be whole",
    "leg_apart": "no other input brings the same: another stream, or more than 2 s apart",
    "leg_late": "its packets come more than 2 s after those of another, and are relayed again",
    "leg_differs": "its packets have numbers of another input's, but other contents",
}
"""What is wrong with an input, by the event of the log."""


def merged(found: MergeCount) -> str:
    """One line: what was first, lost and late."""
    named = ", ".join(
        f"{number} {name.replace('_', ' ')}"
        for name in (*RESULTS, "held")
        if ((number := getattr(found, name)) and name != "shared") or name in ("first", "lost")
    )
    skew = f"; skew {_time(found.skew_p50_s)}, at most {_time(found.skew_most_s)}"
    return f"{found.received} received: {named}{skew if found.second else ''}"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
