"""What waits in rings that no worker reads is given back to the kernel, and counted as lost."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from mcrd.lanes.ledger import Ledger
from mcrd.lanes.segment import Segment
from mcrd.planning.resources import Ring
from mcrd.sockets.ingress import FOREVER, IngressSocket
from mcrd.sockets.lost import Lost
from mcrd.threads import apart


class Emptying:
    """Empties the rings of a lane after a crash: what waits may be what made the worker crash.

    `places` is where the segment counts for each ring.
    """

    def __init__(
        self,
        rings: Mapping[Ring, IngressSocket],
        places: Mapping[Ring, int],
        segment: Segment,
        ledger: Ledger,
    ) -> None:
        self._rings = rings
        self._places = places
        self._segment = segment
        self._ledger = ledger
        self._under_way: asyncio.Future[None] | None = None

    def begin(self, since: int, then: Callable[[bool], None]) -> None:
        """Empty them beside the loop, then call `then`: could it be done?

        What arrived before `since`, other lanes relay: nanoseconds of the real-time clock.
        """
        self._under_way = asyncio.ensure_future(self._empty(since, then))

    @property
    def is_over(self) -> bool:
        """Whether nobody empties them."""
        return self._under_way is None or self._under_way.done()

    async def end(self) -> None:
        """Wait until nobody empties them any more."""
        if self._under_way is not None:
            await asyncio.wait((self._under_way,))

    async def _empty(self, since: int, then: Callable[[bool], None]) -> None:
        throwing = {ring: self._throwing(ring, since, FOREVER) for ring in self._rings}
        try:
            found = await apart(lambda: {ring: throw() for ring, throw in throwing.items()})
        except OSError:
            found = {}
        for ring, lost in found.items():
            self._ledger.lose(ring, "discarded", self._note(ring, lost))
        self._under_way = None
        then(bool(found))

    def now(self, ring: Ring, since: int, until: int) -> Lost:
        """Empty one at once; return what is lost of what came within that time. Raises OSError."""
        return self._note(ring, self._throwing(ring, since, until)())

    def _throwing(self, ring: Ring, since: int, until: int) -> Callable[[], list[Lost]]:
        place = self._places[ring]
        taken, stand = self._segment.taken(place), self._segment.stand(place)
        return self._rings[ring].throw_away(taken, stand, since, until)

    def _note(self, ring: Ring, lost: list[Lost]) -> Lost:
        self._segment.empty(self._places[ring], lost)
        return Lost(*map(sum, zip(*lost, strict=True)))
