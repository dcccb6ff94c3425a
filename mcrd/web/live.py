"""The one poll of the daemon for all clients, and what each of them has not seen yet."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import msgspec

from mcrd.answers import Members, Status
from mcrd.client import NoAnswerError
from mcrd.counters import RuleCounts, Stats
from mcrd.web.daemon import Daemon, not_understood
from mcrd.web.happenings import Happening, Watch
from mcrd.web.history import History
from mcrd.web.known import UNCHANGED, Counted, Known

INTERVAL = 1.0  # seconds between two polls
SHARE = 8  # a poll takes no more than one part in so many of a CPU's time
HAPPENINGS_MOST = 200
PATIENCE = 5.0  # seconds without a poll after which clients hear of that
COUNTING = 2  # questions for the counters of one rule, at once
STARTS = 10.0  # seconds in which a daemon without rules may not have begun yet


class Live:
    """What is known of the daemon. Clients wait at `changed()`."""

    def __init__(self, daemon: Daemon) -> None:
        self.history = History()
        self.trouble = "mcrd has not answered yet"
        self.watchers = 0
        self._daemon = daemon
        self._counting = asyncio.Semaphore(COUNTING)
        self._status = Status()
        self._known = Known()
        self._began, self._is_asking = time.monotonic(), False
        self._watch = Watch()
        self._happenings: deque[Happening] = deque(maxlen=HAPPENINGS_MOST)
        self._number = 0
        self._change = b"{}"
        self._whole = (-1, "", b"{}")
        self._next = asyncio.Event()

    async def run(self) -> None:
        """Poll for ever."""
        while True:
            self._began, worked = time.monotonic(), time.process_time()
            await self._poll()
            took = time.monotonic() - self._began
            worked = time.process_time() - worked
            # What the daemon spent on the answers, as far as it spent it.
            spared = 0.0 if self.trouble else min(took, PATIENCE)
            await asyncio.sleep(max(INTERVAL - took, (SHARE - 1) * worked, spared))

    @property
    def number(self) -> int:
        """Of the last poll."""
        return self._number

    async def changed(self, since: int) -> tuple[int, bytes]:
        """Wait for the next poll; its number and JSON: all, unless `since` is the one before.

        After PATIENCE, `since` and JSON that has no more than who waits for what.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._next.wait()
        except TimeoutError:
            return since, msgspec.json.encode(self._head())
        if since == self._number - 1:
            return self._number, self._change
        return self._number, self.whole()

    def has(self, name: str) -> bool:
        """Whether there is such a rule."""
        return name in self._known.rules

    async def counts(self, name: str) -> RuleCounts:
        """What a rule has counted by now; raises NoAnswerError, after PATIENCE at the latest."""
        if trouble := self._trouble_now():
            raise NoAnswerError(trouble)
        asked = Daemon(self._daemon.path)
        try:
            async with asyncio.timeout(PATIENCE), self._counting:
                found = (await asked.fetch(Stats, name=name)).rules
        except TimeoutError:
            raise NoAnswerError(f"mcrd has not answered for {PATIENCE:.0f} s") from None
        finally:
            asked.close()
        if name not in found:
            raise NoAnswerError("there is no such rule any more")
        return found[name]

    def whole(self) -> bytes:
        """All of the picture, and what happened; made once for all who want it.

        While the daemon hangs, once a second, since the trouble has the seconds.
        """
        trouble = self._trouble_now()
        if self._whole[:2] != (self._number, trouble):
            all_of_it = {**self._head(), "whole": True, "rules": self._known.rules}
            all_of_it["happenings"] = list(self._happenings)
            self._whole = (self._number, trouble, msgspec.json.encode(all_of_it))
        return self._whole[2]

    def _head(self) -> dict[str, Any]:
        return {
            "time": round(time.time(), 3),
            "trouble": self._trouble_now(),
            "version": self._status.version,
            "up_s": self._status.uptime_s,
            "summary": self._status.summary,
            "problems": self._status.config_errors[:20],
            "interfaces": self._known.interfaces,
        }

    def _trouble_now(self) -> str:
        waits = time.monotonic() - self._began
        if self.trouble or not self._is_asking or waits < PATIENCE:
            return self.trouble
        return f"mcrd has not answered for {waits:.0f} s"

    async def _poll(self) -> None:
        now = time.time()
        changed = UNCHANGED
        try:
            self._is_asking = True
            status = await self._daemon.fetch(Status)
            counted = await self._daemon.fetch(Counted, since=self._known.cursor)
            if not (counted.rules or counted.rates) and status.uptime_s < STARTS:
                raise NoAnswerError("mcrd has started, and has no rules yet")
            members = await self._daemon.fetch(Members)
            changed = self._known.take(counted, members)
        except (NoAnswerError, ValueError) as error:
            self.trouble = str(not_understood(error))
            news = self._watch.gone(now, self.trouble)
        else:
            self.trouble = ""
            self.history.add(int(now), changed.flows)
            news = self._watch.look(now, status, counted.workers, changed.old, changed.new)
            self._status = status
        self._is_asking = False
        self._happenings.extend(news)
        self._number += 1
        if self.watchers:
            change = {key: getattr(changed, key) for key in ("rules", "numbers", "gone")}
            self._change = msgspec.json.encode({**self._head(), **change, "happenings": news})
        self._next.set()
        self._next = asyncio.Event()
