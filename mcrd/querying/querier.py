"""One network's querier: who asks, when, and what follows from the answers. Pure.

RFC 3376, 6.6 and 8; RFC 3810, 7.6 and 9; RFC 2236, 3. Times are seconds, monotonic.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from mcrd.addresses import is_source_specific
from mcrd.model import Address
from mcrd.querying.groups import NONE, Group, Question, Said, Sources, Times

GROUPS = 4096  # of one interface; the reports of others are counted, and dropped
SOURCES = 256  # of one group, likewise
ALL_SOURCES = 16384  # of all groups; about as many as were named since they were counted
QUESTIONS = 100.0  # about groups, on one interface in a second; later ones wait, and their leaves
SLOWEST = 600.0  # seconds between two queries of another querier that are believed


class Ask(NamedTuple):
    """A query to be sent; no group: a general one. `soon`: answers may take `Times.soon`.

    `suppress` is the S flag: other routers do not lower their timers (RFC 3376, 4.1.5).
    """

    group: Address | None
    sources: Sources = NONE
    suppress: bool = False
    soon: bool = False


@dataclass(slots=True)
class Counts:
    """What a querier did and saw since it began; `reports` and `ignored` are records."""

    queries: int = 0
    reports: int = 0
    ignored: int = 0  # for lack of room
    unread: int = 0  # for lack of time
    malformed: int = 0


@dataclass(slots=True)
class _Pending:
    """A question about one group: how often it is to be asked yet, and when.

    `fresh`: what it is about was not asked yet, and so no timer is lowered.
    """

    question: Question
    left: int
    at: float
    fresh: bool = True


@dataclass(slots=True)
class Querier:
    """Asks on one interface in one protocol, unless somebody of a lower address does.

    `asks`: whether it may ask at all; else it only listens, as a router that is not elected. There
    is always room for groups that are `reserved`.
    """

    address: Address | None
    asks: bool
    newest: int
    times: Times = field(default_factory=Times)
    groups: dict[Address, Group] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    other: tuple[Address, float] | None = None  # who was elected, and until when that holds
    reserved: Container[object] = frozenset()
    asked_at: float | None = None  # when it asked everybody last
    _others: float = 125.0  # seconds between two queries of that one
    _budget: tuple[float, float] = (0.0, 0.0)  # questions that may be asked, at a time
    _general: float = 0.0  # when the next general query is due,
    _startup: int = 0  # and how many more there are at a quarter of the interval
    _pending: dict[tuple[Address, bool], _Pending] = field(default_factory=dict)
    _sources: int = 0  # of all groups, see ALL_SOURCES

    def begin(self, now: float) -> None:
        """Ask at once, and twice as a start (RFC 3376, 8.6 and 8.7)."""
        self._general, self._startup = now, self.times.robustness

    @property
    def elected(self) -> bool:
        """Whether it is the one that asks."""
        return self.asks and self.address is not None and self.other is None

    def follow(self, before: Querier, now: float) -> None:
        """Go on with what that one knew: it ends. Who was elected stays so, and we start if we are.

        One that only listened took any other as elected: of those, a lower address stays.
        """
        self.groups = before.groups | self.groups
        self.address, self.counts = before.address, before.counts
        self._others, self._sources = before._others, before._sources
        if before.other is not None and self._yields_to(before.other[0]):
            self.other = before.other
        else:
            self.begin(now)
        if self.asks:
            self._pending = before._pending

    def readdress(self, address: Address | None, now: float) -> None:
        """Ask from another address; it has to be elected anew."""
        if address == self.address:
            return
        self.address, self.other = address, None
        self.begin(now)

    def hear_query(self, source: Address, ask: Ask, interval: float, now: float) -> None:
        """Take a query of another one (RFC 3376, 6.6.1, 6.6.2)."""
        if not int(source) or source == self.address:
            return  # a proxy's, which takes no part in elections (RFC 4541, 2.1.1), or our own
        if self._yields_to(source):
            self._others = min(interval, SLOWEST)
            holds = self.times.robustness * self._others + self.times.response / 2
            self.other = (source, now + holds)
            self._pending.clear()
        if ask.group is not None and not ask.suppress:
            group = self.groups.get(ask.group)
            if group is not None:
                group.asked(Question(ask.sources), now, self.times)

    def _yields_to(self, other: Address) -> bool:
        return not self.asks or self.address is None or int(other) < int(self.address)

    def _take_over(self, now: float) -> None:
        """Start again: the other one is silent (RFC 3376, 6.6.2).

        Nobody was asked for long. A switch may believe in the other one for some seconds more, and
        hand on no answers meanwhile. So who is known is believed until the second query.
        """
        self.other = None
        self.begin(now)
        for group in self.groups.values():
            group.hold(now, now + self.times.starting + self.times.response)

    @property
    def _times(self) -> Times:
        """With the interval of the one who asks (RFC 3376, 4.1.7)."""
        return self.times if self.other is None else self.times._replace(query=self._others)

    def hear(self, group: Address, said: Said, sources: Sources, now: float) -> None:
        """Take a record of a report."""
        self.counts.reports += 1
        state = self._state(group, said, sources, now)
        if state is None:
            return
        self._sources += len(sources)
        of_group = len(state.wanted) + len(state.refused) + len(sources)
        if sources and (of_group > SOURCES or self._sources > ALL_SOURCES):
            self.counts.ignored += 1
            if said is Said.BLOCK:
                return
            if is_source_specific(group):  # of which nobody gets all
                sources = frozenset(sources & state.wanted.keys())
            else:
                said, sources = Said.IS_EX, NONE  # somebody wants some of it: all of it, then
        for question in state.hear(said, sources, now, self._times):
            self._ask_about(state, question, now)

    def hear_old(self, group: Address, version: int, now: float) -> None:
        """Take a report of IGMPv1, IGMPv2 or MLDv1."""
        self.counts.reports += 1
        state = self._state(group, Said.IS_EX, NONE, now)
        if state is not None:
            state.hear_old(version, now, self._times)

    def _state(self, group: Address, said: Said, sources: Sources, now: float) -> Group | None:
        known = self.groups.get(group)
        if known is not None:
            return known
        if said is Said.BLOCK or (said in (Said.TO_IN, Said.IS_IN) and not sources):
            return None  # it leaves what nobody is known to want
        if len(self.groups) >= GROUPS and group not in self.reserved:
            self.counts.ignored += 1
            return None
        return self.groups.setdefault(group, Group(group, now))

    def _ask_about(self, state: Group, question: Question, now: float) -> None:
        if not self.asks or self.other is not None:
            return  # whoever is elected has heard it too
        key = (state.address, bool(question.sources))
        before, at = self._pending.get(key), now
        if before is not None:  # RFC 3376, 6.6.3.2: the sources of both; not sooner than before
            question, at = Question(question.sources | before.question.sources), before.at
        self._pending[key] = _Pending(question, self.times.robustness, at)

    def due(self, now: float) -> Iterator[Ask]:
        """What is to be asked by now; each is taken to be sent."""
        if self.other is not None and self.other[1] <= now:
            self._take_over(now)
        if not self.elected:
            return
        if now >= self._general:
            starts, self._startup = self._startup > 0, max(0, self._startup - 1)
            self._general = now + (self.times.starting if self._startup else self.times.query)
            self.asked_at = now
            yield self._sent(Ask(None, soon=starts))
        budget, since = self._budget
        budget = min(QUESTIONS, budget + (now - since) * QUESTIONS)
        late = [key for key, pending in self._pending.items() if pending.at <= now]
        for key in sorted(late, key=lambda key: key[0] not in self.reserved):
            if budget < 1:
                break
            budget -= 1
            pending, group = self._pending[key], self.groups.get(key[0])
            if group is not None and pending.fresh:
                group.asked(pending.question, now, self.times)
            pending.fresh = False
            pending.left -= 1
            pending.at = now + self.times.last_member
            if group is None or pending.left == 0:
                del self._pending[key]
            if group is not None:
                yield from self._asks(group, pending.question, now)
        self._budget = (budget, now)

    def _asks(self, group: Group, question: Question, now: float) -> Iterator[Ask]:
        """Of sources whose timers run on, with the S flag (RFC 3376, 6.6.3.2)."""
        end = now + self.times.leaving
        if not question.sources:
            yield self._sent(Ask(group.address, NONE, suppress=group.until > end))
            return
        wanted = {each: until for each in question.sources if (until := group.wanted.get(each))}
        for suppress in (True, False):
            some = frozenset(each for each, until in wanted.items() if (until > end) is suppress)
            if some:
                yield self._sent(Ask(group.address, some, suppress))

    def _sent(self, ask: Ask) -> Ask:
        self.counts.queries += 1
        return ask

    def expire(self, now: float) -> list[Address]:
        """Forget groups that nobody wants any more, and tell which."""
        over = [address for address, group in self.groups.items() if group.is_over(now)]
        for address in over:
            del self.groups[address]
            for of_sources in (False, True):
                self._pending.pop((address, of_sources), None)
        self._sources = sum(len(each.wanted) + len(each.refused) for each in self.groups.values())
        return over
