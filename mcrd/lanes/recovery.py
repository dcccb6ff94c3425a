"""How long what failed has to wait, and the worker after one that ended. Pure, but for counting."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from typing import NamedTuple

from mcrd.planning.resources import Worker

BACKOFF_FIRST = 0.25  # seconds
BACKOFF_LONGEST = 30.0
STEADY = 10.0  # seconds after which a worker's end is no longer one of a row
AT_ONCE = 20  # so many of a row are replaced at once, if they took packets
STALE = 60.0  # seconds after its time at which a failure that nobody retried is forgotten


def backoff(attempts: int) -> float:
    """Seconds from this many failures to the next try."""
    return min(BACKOFF_FIRST * 2.0 ** min(attempts - 1, 16), BACKOFF_LONGEST)


class _Row(NamedTuple):
    """Ends of a worker in a row, how many without any packet, and when the last one was."""

    ends: int = 0
    useless: int = 0
    at: float = 0.0


class Recovery:
    """Ends of workers. They outlast a lane: after a crash, its rings are made anew."""

    def __init__(self) -> None:
        self.restarts: Counter[tuple[str, int]] = Counter()
        """By interface and number."""
        self._rows: dict[Worker, _Row] = {}

    def ended(self, worker: Worker, now: float, *, early: bool, useful: bool) -> tuple[float, int]:
        """Note an end; return the seconds to the next start, and which end of a row it was.

        `early`: it ended within STEADY. `useful`: it took packets. The first of a row is replaced
        at once. Those that end early wait, if they took nothing or there are many of them.
        """
        self.restarts[worker.ingress.interface, worker.number] += 1
        self._rows = {one: row for one, row in self._rows.items() if now - row.at < STALE}
        row = self._rows.get(worker, _Row()) if early else _Row()
        wait = backoff(row.ends - AT_ONCE + 1) if row.ends >= AT_ONCE else 0.0
        if row.useless and not useful:
            wait = max(wait, backoff(row.useless))
        self._rows[worker] = _Row(row.ends + 1, 0 if useful else row.useless + 1, now)
        return wait, row.ends + 1

    def useless(self, worker: Worker) -> int:
        """How many of its last ends in a row were without any packet."""
        return self._rows.get(worker, _Row()).useless

    def forget(self, interfaces: Container[str]) -> None:
        """Forget the restarts on all interfaces but these."""
        for key in [key for key in self.restarts if key[0] not in interfaces]:
            del self.restarts[key]
