"""How the inputs of a merged stream fare, in words."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from mcrd.sums import MergeCount

RESULTS = ("first", "second", "repeated", "differs", "only_here", "lost", "forgotten")
"""What becomes of the datagrams of an input."""


def merged(found: MergeCount) -> str:
    """One line: what was first, lost and late."""
    named = ", ".join(
        f"{number} {name.replace('_', ' ')}"
        for name in RESULTS
        if (number := getattr(found, name)) or name in ("first", "lost")
    )
    skew = f"; skew {_time(found.skew_p50_s)}, at most {_time(found.skew_most_s)}"
    return f"{found.received} received: {named}{skew if found.second else ''}"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
