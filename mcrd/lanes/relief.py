"""New rings take the place of old ones, at a time of arrival that all their workers go by.

Both get every frame for a moment, with one stamp: the kernel stamps it once. What arrived before
the time is relayed by the old worker, all else by the new one, when the old one has done its part.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence

from mcrd.dataplane import messages
from mcrd.lanes.channel import WorkerError
from mcrd.lanes.lane import Lane

ANSWER = 2.0  # seconds; a worker answers within one harvest
LEAD = 0.01  # seconds from the message to the time that it names; twice as much in each try
TRIES = 7
LONGEST = 2 * LEAD * 2**TRIES
BEHIND = 0.005  # seconds from a frame's stamp to its place in the ring, in order
SILENCE = 0.5  # seconds for which the new workers wait for the old ones, at most
LINGER = 0.3  # seconds for which the old ones relay what comes late: the kernel has stamped it
DRAIN = 5.0  # seconds in which they take what is left
LOOK = 0.001


async def relieve(
    old: Sequence[Lane], new: Sequence[Lane], let_in: Callable[[], None]
) -> str | None:
    """Let new lanes go on where old ones end: no packet is lost, repeated, or overtaken.

    `let_in` lets frames into the new rings; it may raise OSError. Returns None; or, where an old
    worker did not do its part, why: what waits in its ring is lost. The old workers have ended.
    """
    for lane in (*old, *new):
        await lane.emptied()
    for lane in new:
        lane.await_turn()
    with contextlib.suppress(WorkerError):  # what comes waits for the next worker
        await _ask(new, messages.Ping)
    for lane in old:
        await lane.emptied()  # by what it went by until now
    let_in()
    since, why = await _agree(old)
    for lane in new:
        await lane.emptied()
        lane.leave(since)
    ahead = min((since - time.time_ns()) / 1e9, LONGEST)  # the clock may have been set back
    await asyncio.sleep(max(0.0, ahead))
    for lane in old:
        if lane.connected is None:  # what comes from now on is lost to nobody
            lane.deafen()
    await asyncio.sleep(BEHIND)
    await _drained(old, SILENCE)
    for lane in new:
        lane.begin()
    await asyncio.sleep(LINGER)
    for lane in old:
        lane.deafen()
    done = await _drained(old, DRAIN)
    for lane in new:
        lane.leave_nothing()
    await asyncio.gather(*(lane.stop() for lane in old))
    return None if done else why or "an old worker has ended, or is too slow"


async def _agree(old: Sequence[Lane]) -> tuple[int, str | None]:
    """Find a time until which the old workers relay, which all of them knew before it came.

    Until they know that it is final, they pause at what comes later: it may still be theirs. Return
    it; and where one was not told in time, why. Then the last one holds for the others.
    """
    until, why = _name(old, time.time_ns()), None
    try:
        for lead in (LEAD * 2**n for n in range(TRIES)):
            until = _name(old, time.time_ns() + int(lead * 1e9))
            await _ask(old, messages.Begin, 0, until)
            if time.time_ns() < until:
                break
        else:
            until = _name(old, time.time_ns() + int(LONGEST * 1e9))
            why = "an old worker was not told in time"
    except WorkerError as error:
        why = str(error)
    for lane in old:
        lane.tell(messages.Begin, 0, until, True)
    return until, why


def _name(old: Sequence[Lane], until: int) -> int:
    """What the old lanes lose of their rings, should a worker end, goes by the last time named."""
    for lane in old:
        lane.until = until
    return until


async def _drained(old: Sequence[Lane], within: float) -> bool:
    """Wait until the old workers have taken what is in their rings now: have they?

    One that has ended takes no more.
    """
    filled = [lane.filled for lane in old]
    for _ in range(round(within / LOOK)):
        for lane, frames in zip(old, filled, strict=True):
            lane.is_relieved = lane.has_taken(frames)
        if all(lane.is_relieved or lane.connected is None for lane in old):
            break
        await asyncio.sleep(LOOK)
    return all(lane.is_relieved for lane in old)


async def _ask(
    lanes: Iterable[Lane], kind: Callable[..., messages.AnyRequest], *rest: object
) -> None:
    """Tell all workers, and wait until they have done it; raise WorkerError."""
    try:
        async with asyncio.timeout(ANSWER):
            await asyncio.gather(*(lane.ask(kind, *rest) for lane in lanes))
    except TimeoutError:
        raise WorkerError("a worker did not answer") from None
