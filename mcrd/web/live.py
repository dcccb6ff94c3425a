"""The one poll of the daemon for all clients, and what each of them has not seen yet."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import msgspec

from mcrd.answers import Members, Rules, Status
from mcrd.client import NoAnswerError
from mcrd.counters import Stats
from mcrd.picture import OutputPicture, Picture, RulePicture, picture
from mcrd.web.daemon import Daemon
from mcrd.web.happenings import Happening, Watch
from mcrd.web.history import History

INTERVAL = 1.0  # seconds between two polls
SHARE = 8  # a poll takes no more than one part in so many of a CPU's time
FEW = 200  # rules whose settings are asked for at each poll; those of more when a name changes
SETTINGS_EVERY = 20  # polls, then
HAPPENINGS_MOST = 200
PATIENCE = 5.0  # seconds without a poll after which clients hear of that
STARTS = 10.0  # seconds in which a daemon without rules may not have begun yet

Change = dict[str, Any]
"""What a client gets: JSON of a picture, or of what is different in it."""


class Live:
    """What is known of the daemon. Clients wait at `changed()`."""

    def __init__(self, daemon: Daemon) -> None:
        self.history = History()
        self.stats = Stats()
        self.shown = Picture({}, {})
        self.trouble = "mcrd has not answered yet"
        self.watchers = 0
        self._daemon = daemon
        self._status = Status()
        self._rules = Rules()
        self._asked = 0
        self._asked_of: frozenset[str] = frozenset()
        self._began, self._is_asking = time.monotonic(), False
        self._watch = Watch()
        self._happenings: deque[Happening] = deque(maxlen=HAPPENINGS_MOST)
        self._number = 0
        self._change = b"{}"
        self._whole = (-1, b"{}")
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

    def whole(self) -> bytes:
        """All of the picture, and what happened; made once for all who want it."""
        if self._whole[0] != self._number:
            all_of_it = {**self._head(), "whole": True, "rules": self.shown.rules}
            all_of_it["happenings"] = list(self._happenings)
            self._whole = (self._number, msgspec.json.encode(all_of_it))
        return self._whole[1]

    def _head(self) -> Change:
        return {
            "time": round(time.time(), 3),
            "trouble": self._trouble_now(),
            "version": self._status.version,
            "up_s": self._status.uptime_s,
            "summary": self._status.summary,
            "problems": self._status.config_errors[:20],
            "interfaces": self.shown.interfaces,
        }

    def _trouble_now(self) -> str:
        waits = time.monotonic() - self._began
        if self.trouble or not self._is_asking or waits < PATIENCE:
            return self.trouble
        return f"mcrd has not answered for {waits:.0f} s"

    async def _poll(self) -> None:
        now = time.time()
        before = self.shown
        try:
            self._is_asking = True
            status = await self._daemon.fetch(Status)
            stats = await self._daemon.fetch(Stats)
            if not stats.rules and status.uptime_s < STARTS:
                raise NoAnswerError("mcrd has started, and has no rules yet")
            if self._needs_settings(stats):
                self._rules = await self._daemon.fetch(Rules)
                self._asked, self._asked_of = 0, frozenset(stats.rules)
            self._asked += 1
            members = await self._daemon.fetch(Members)
            shown = picture(stats, self._rules, members)
        except NoAnswerError as error:
            self.trouble = str(error)
            news = self._watch.gone(now, self.trouble)
        else:
            self.trouble = ""
            self.history.add(int(now), stats.rules)
            news = self._watch.look(now, status, stats, shown)
            self._status, self.stats, self.shown = status, stats, shown
        self._is_asking = False
        self._happenings.extend(news)
        self._number += 1
        if self.watchers:
            change = {**self._head(), **difference(before, self.shown), "happenings": news}
            self._change = msgspec.json.encode(change)
        self._next.set()
        self._next = asyncio.Event()

    def _needs_settings(self, stats: Stats) -> bool:
        if len(stats.rules) <= FEW or self._asked >= SETTINGS_EVERY:
            return True
        return self._asked_of != stats.rules.keys()


def difference(old: Picture, new: Picture) -> Change:
    """Rules that are new or have another form, numbers of the others that changed, names gone."""
    rules, numbers = {}, {}
    for name, rule in new.rules.items():
        was = old.rules.get(name)
        if was is None or _form(was) != _form(rule):
            rules[name] = rule
        elif was != rule:
            numbers[name] = _numbers(rule)
    gone = [name for name in old.rules if name not in new.rules]
    return {"rules": rules, "numbers": numbers, "gone": gone}


def _form(rule: RulePicture) -> tuple[object, ...]:
    said = (rule.interface, rule.source, rule.state, rule.reason, rule.about, rule.stream)
    outputs = [_form_of(output) for output in rule.outputs]
    return (said, rule.used, rule.lost, rule.before, outputs)


def _form_of(output: OutputPicture) -> tuple[object, ...]:
    return (output.to, output.interface, output.state, output.reason, output.lost)


def _numbers(rule: RulePicture) -> list[object]:
    outputs = [(output.packets, output.bits) for output in rule.outputs]
    return [rule.packets, rule.bits, rule.peak, outputs]
