"""Counters whose names say little, and lists that may be long, in words."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence

_MEANINGS = {
    "EAGAIN": "send buffer full",
    "ENOBUFS": "queue of the interface full",
    "EHOSTUNREACH": "host unreachable",
    "ENETUNREACH": "no route",
    "EPERM": "firewall of this host",
    "not_wanted": "not from its sources, or nobody has joined",
    "not_sampled": "not in its sample",
    "late": "after the time of the asker",
    "lost": "too many at once for one asker",
}


def unsent_for(why: str) -> str:
    """Why something was not sent: the name of the error or counter, with what it means."""
    meaning = _MEANINGS.get(why)
    return f"{why} ({meaning})" if meaning else why


def few(told: Sequence[object], most: int, more: str = " and {} more", between: str = ", ") -> str:
    """The first of them, and of more than `most`, how many are left: in `more`, for {}."""
    rest = more.format(len(told) - most) if len(told) > most else ""
    return between.join(map(str, told[:most])) + rest
