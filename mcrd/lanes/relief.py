"""New rings take the place of old ones, at a time of arrival that all their workers go by.

Both get every frame for a moment, with one stamp: the kernel stamps it once. What arrived before
the time is relayed by the old worker, all else by the new one, when the old one has done its part.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from mcrd.dataplane import messages
from mcrd.lanes.channel import WorkerError
from mcrd.lanes.lane import Lane

ANSWER = 2.0  # seconds; a worker answers within one harvest
LEAD = 0.01  # seconds from the message to the time that it names; twice as much in each try
TRIES = 7
BEHIND = 0.005  # seconds from a frame's stamp to its place in the ring, in order
SILENCE = 0.5  # seconds for which the new workers wait for the old ones, at most
LINGER = 0.3  # seconds for which the old ones relay what comes late: the kernel has stamped it
DRAIN = 5.0  # seconds in which they take what is left
LOOK = 0.001


async def relieve(
    old: Sequence[Lane], new: Sequence[Lane], let_in: Callable[[], None]
) -> str | None:
    """Let new lanes go on where old ones end: no packet is lost, repeated, or overtaken.

    `let_in` lets frames into the new rings; it may raise OSError. Returns None; or, where a worker
    of either did not take part, why. Then what waits in the old rings is lost. The old workers have
    ended.
    """
    for lane in new:
        lane.pause()
    why = None
    try:
        await _ask(new, messages.Ping)
        let_in()
        since = await _agree(old)
        await asyncio.sleep(max(0.0, (since - time.time_ns()) / 1e9) + BEHIND)
        await _drained(old, SILENCE)
    except WorkerError as error:
        why = str(error)
        let_in()
        await asyncio.gather(*(lane.stop() for lane in old))
        since = time.time_ns()
    for lane in new:
        lane.begin(since)
    if why is None:
        await asyncio.sleep(LINGER)
        if not await _drained(old, DRAIN):
            why = "an old worker is too slow"
        for lane in old:
            lane.is_relieved = why is None
            await lane.stop()
    for lane in new:
        lane.tell(messages.Begin)
    return why


async def _agree(old: Iterable[Lane]) -> int:
    """Find a time until which the old workers relay, which all of them knew before it came.

    Until they know that it is final, they pause at what comes later: it may still be theirs.
    """
    for lead in (LEAD * 2**n for n in range(TRIES)):
        until = time.time_ns() + int(lead * 1e9)
        await _ask(old, messages.Begin, 0, until)
        if time.time_ns() < until:
            await _ask(old, messages.Begin, 0, until, True)
            return until
    raise WorkerError("a worker was not told in time")


async def _drained(old: Sequence[Lane], within: float) -> bool:
    """Wait until the old workers have taken what is in their rings now: have they?"""
    filled = [lane.filled for lane in old]
    for _ in range(round(within / LOOK)):
        if all(map(Lane.has_taken, old, filled)):
            return True
        await asyncio.sleep(LOOK)
    return False


async def _ask(
    lanes: Iterable[Lane], kind: Callable[..., messages.AnyRequest], *rest: object
) -> None:
    """Tell all workers, and wait until they have done it; raise WorkerError."""
    try:
        async with asyncio.timeout(ANSWER):
            await asyncio.gather(*(lane.ask(kind, *rest) for lane in lanes))
    except TimeoutError:
        raise WorkerError("a worker did not answer") from None
