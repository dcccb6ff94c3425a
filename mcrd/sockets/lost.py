"""An estimate of the datagrams in frames that no worker took: the kernel counts frames only. Pure.

A super-frame is one frame for it, of up to 128 datagrams, and what it has thrown away it does not
describe. Those that it threw away came among others, which a worker took: their mean stands for
them. Where each of these was one datagram, the figure is exact.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import NamedTuple

LEAST = 64  # frames that make a mean, or half of what a small ring has room for
MOST = 65535  # datagrams of a frame: a worker may say anything


class Lost(NamedTuple):
    """Frames that no worker took, as the kernel counts them, and the datagrams that they were.

    `packets` is the best figure that there is, and never less than `frames`.
    """

    frames: int = 0
    packets: int = 0


NOTHING = Lost()


class Taken(NamedTuple):
    """Frames that workers have taken from a ring so far, and the datagrams that they were."""

    frames: int = 0
    packets: int = 0


class Estimate:
    """The estimate for one ring, with room for so many frames.

    A frame is lost when the ring is full: so the frames that stand in it then came just before.
    They tell, when they are taken; until then a lost frame is one datagram, and no figure ever
    goes back.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._least = min(LEAST, max(1, room // 2))
        self._pending = 0  # frames, of which nothing is known yet
        self._noticed = 0  # how many had been taken then
        self._older = self._newer = Taken()

    def more(self, lost: int, waiting: int, taken: Taken) -> int:
        """Datagrams beyond one for each lost frame, that have become known since the last call.

        `lost` are frames since then, `waiting` those that are in the ring.
        """
        if taken.frames < self._newer.frames:  # other counters than before
            self._older = self._newer = taken
            self._noticed = min(self._noticed, taken.frames)
        if lost:
            if not self._pending:
                self._noticed = taken.frames
            self._pending += lost
        if self._pending:
            if waiting > 0 and taken.frames < self._noticed + self._room:
                return 0
            return self.end(taken)
        self._mark(taken)
        return 0

    def end(self, taken: Taken) -> int:
        """The last more(), when nothing will be known later."""
        found = round(self._pending * (self.mean(taken) - 1))
        self._pending = 0
        self._mark(taken)
        return found

    def mean(self, taken: Taken) -> float:
        """Datagrams of a frame, of those taken last."""
        since = self._newer if taken.frames - self._newer.frames >= self._least else self._older
        frames = taken.frames - since.frames
        return min(max(1.0, (taken.packets - since.packets) / frames), MOST) if frames > 0 else 1.0

    def _mark(self, taken: Taken) -> None:
        if taken.frames - self._newer.frames >= self._least:
            self._older, self._newer = self._newer, taken
