"""The meaning of counters whose names say little."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

_MEANINGS = {
    "EAGAIN": "send buffer full",
    "ENOBUFS": "queue of the interface full",
    "EHOSTUNREACH": "host unreachable",
    "ENETUNREACH": "no route",
    "EPERM": "firewall of this host",
    "late": "after the time of the asker",
    "lost": "too many at once for one asker",
}


def unsent_for(why: str) -> str:
    """Why something was not sent: the name of the error or counter, with what it means."""
    meaning = _MEANINGS.get(why)
    return f"{why} ({meaning})" if meaning else why
