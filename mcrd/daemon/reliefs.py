"""Reliefs under way: each that has begun is carried to its end, whatever becomes of the plan."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial

from mcrd.daemon.failures import Failures, explain
from mcrd.events import tell
from mcrd.lanes.holdings import Holdings
from mcrd.lanes.recovery import backoff
from mcrd.lanes.relief import relieve
from mcrd.planning.actual import Failure
from mcrd.planning.resources import Ingress

TRIES = 3  # to have workers for new rings; then these take the place of the old ones without

log = logging.getLogger(__name__)


class Reliefs:
    """New rings that take the place of old ones, and those that do it now."""

    def __init__(self, holdings: Holdings, failures: Failures) -> None:
        self._holdings = holdings
        self._failures = failures
        self._tried: Counter[Ingress] = Counter()  # without success, by the new one
        self._under_way: asyncio.Future[list[bool]] | None = None

    async def carry_out(self, pairs: Iterable[tuple[Ingress, Ingress]]) -> bool:
        """Let the second of each pair take the place of the first, which is closed.

        False when a new one is not ready, and is closed: the old one goes on until another try.
        Half of a relief relays packets twice, or loses them: whoever is cancelled here leaves them
        to end().
        """
        self._under_way = asyncio.gather(*(self._relieve(*pair) for pair in pairs))
        return all(await asyncio.shield(self._under_way))

    async def end(self, within: float | None = None) -> None:
        """Wait for what is under way, for some seconds at most; then it ends where it is."""
        if (under_way := self._under_way) is not None:
            await asyncio.wait((under_way,), timeout=within)
            under_way.cancel()
            await asyncio.gather(under_way, return_exceptions=True)
            self._under_way = None

    async def _relieve(self, old: Ingress, new: Ingress) -> bool:
        before, after = map(self._holdings.lanes_of, (old, new))
        if not before or not after:
            return True
        ready = all(lane.connected for lane in after)
        if not ready and self._tried[new] < TRIES:
            await self._put_off(new, "a new worker does not start")
            return False
        try:
            why = await relieve(before, after, partial(self._holdings.let_in, new))
        except OSError as error:
            if self._tried[new] < TRIES:
                await self._put_off(new, explain(error, new))
                return False
            await asyncio.gather(*(lane.stop() for lane in after))
            self._failures.add(new, explain(error, new))
            self._holdings.close(new, anew=True)
            return True
        self._tried.pop(new, None)
        self._holdings.close(old)
        if why is not None:
            text = "%s: what waits in the old rings is thrown away: %s"
            tell(log, logging.WARNING, "rings-renewed", text, new, why, interface=new.interface)
        return True

    async def _put_off(self, new: Ingress, why: str) -> None:
        """Close the new rings: the old ones go on until a later try."""
        self._tried[new] += 1
        tried = self._tried[new]
        await asyncio.gather(*(lane.stop() for lane in self._holdings.lanes_of(new)))
        self._holdings.close(new)
        self._failures[new] = Failure(why, time.monotonic() + backoff(tried), tried)
