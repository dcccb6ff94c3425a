"""What the hosts of one interface want of a group, by the state machine for routers. Pure.

RFC 3376, 6, and RFC 3810, 7, which says the same of MLD. Times are seconds, monotonic.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from mcrd.addresses import is_source_specific
from mcrd.model import Address

Sources = frozenset[bytes]
"""Addresses of sources, packed: the hashes of these are keyed, those of addresses are not."""
NONE: Sources = frozenset()


class Said(Enum):
    """The kind of a record of a report (RFC 3376, 4.2.12)."""

    IS_IN = 1
    IS_EX = 2
    TO_IN = 3
    TO_EX = 4
    ALLOW = 5
    BLOCK = 6


class Times(NamedTuple):
    """The variables of the protocol (RFC 3376, 8; RFC 3810, 9), in seconds."""

    robustness: int = 2
    query: float = 125.0
    response: float = 10.0
    last_member: float = 1.0

    @property
    def membership(self) -> float:
        """For how long a report holds (RFC 3376, 8.4)."""
        return self.robustness * self.query + self.response

    @property
    def starting(self) -> float:
        """Between two queries of a start (RFC 3376, 8.6)."""
        return self.query / 4

    @property
    def soon(self) -> float:
        """For how long answers to those may take.

        When another querier went right after a query, switches forget who answered at once 5 s
        after this one has asked (RFC 3376, 8.4 and 8.5). Linux bridges flood as long as it says.
        """
        return self.response / 4

    @property
    def leaving(self) -> float:
        """For how long somebody else may answer after a leave (RFC 3376, 8.8.1)."""
        return self.robustness * self.last_member


class Question(NamedTuple):
    """What is to be asked now: who wants the group, from these sources; none: from any."""

    sources: Sources = NONE


@dataclass(slots=True)
class Group:
    """The state of one group on one interface.

    `until` is the group timer: while it runs, the filter mode is EXCLUDE. It is 0.0 when it has run
    out: nothing holds it any more. `wanted` has the timers of sources; in EXCLUDE mode, those that
    have run out are in `refused`. `old` says until when a host is there that speaks an older
    version, by version.

    Of a source-specific group, who names no source, or refuses some, takes nothing from those who
    name some: both timers run beside each other, and nothing is refused. Routers should ignore the
    former (RFC 4604, 2.2), but a relay may know the sources, as a rule file names them.
    """

    address: Address
    since: float
    until: float = 0.0
    wanted: dict[bytes, float] = field(default_factory=dict)
    refused: set[bytes] = field(default_factory=set)
    old: dict[int, float] = field(default_factory=dict)

    @property
    def specific(self) -> bool:
        """Whether it is a group of source-specific multicast."""
        return is_source_specific(self.address)

    def hold(self, now: float, end: float) -> None:
        """Let no timer that runs end before that."""
        self.expire(now)
        if self.until > now:
            self.until = max(self.until, end)
        self.wanted = {source: max(until, end) for source, until in self.wanted.items()}

    def is_over(self, now: float) -> bool:
        """Whether nobody wants anything any more."""
        self.expire(now)
        return self.until <= now and not self.wanted

    def expire(self, now: float) -> None:
        """Let timers run out (RFC 3376, 6.5 and 6.2.3)."""
        ended = [source for source, until in self.wanted.items() if until <= now]
        for source in ended:
            del self.wanted[source]
        if self.until <= now:
            self.until = 0.0
        if self.until > now and not self.specific:
            self.refused.update(ended)
        else:
            self.refused.clear()
        self.old = {version: until for version, until in self.old.items() if until > now}

    def speaks(self, newest: int) -> int:
        """The oldest version that a member speaks (RFC 3376, 7.3.2)."""
        return min(self.old, default=newest)

    def hear_old(self, version: int, now: float, times: Times) -> None:
        """A report of an older version was heard: it is one for any source."""
        self.old[version] = now + times.membership
        self.hear(Said.IS_EX, NONE, now, times)

    def hear(self, said: Said, sources: Sources, now: float, times: Times) -> list[Question]:
        """Take a record; what is to be asked because of it (RFC 3376, 6.4)."""
        self.expire(now)
        hears_no_leave = 1 in self.old and self.address.version == 4  # IGMPv1 has none
        if self.specific:
            return self._hear_specific(said, sources, now, times, hears_no_leave)
        if self.old:  # RFC 3376, 7.3.2
            if said is Said.BLOCK or (said is Said.TO_IN and hears_no_leave):
                return []
            if said is Said.TO_EX:
                sources = NONE
        if self.until > now:
            return self._hear_excluding(said, sources, now, times)
        return self._hear_including(said, sources, now, times)

    def _hear_specific(
        self, said: Said, sources: Sources, now: float, times: Times, hears_no_leave: bool
    ) -> list[Question]:
        """Of older versions too: RFC 4604, 2.2, has no mode of compatibility with them."""
        if said in (Said.IS_EX, Said.TO_EX):
            self.until = now + times.membership
            return []
        questions = self._hear_including(said, sources, now, times)
        if said is Said.TO_IN and self.until > now and not hears_no_leave:
            questions.append(Question())
        return questions

    def _hear_including(
        self, said: Said, sources: Sources, now: float, times: Times
    ) -> list[Question]:
        before = frozenset(self.wanted)
        match said:
            case Said.IS_IN | Said.ALLOW | Said.TO_IN:
                self._want(sources, now + times.membership)
                return _ask(before - sources) if said is Said.TO_IN else []
            case Said.BLOCK:
                return _ask(before & sources)
            case Said.IS_EX | Said.TO_EX:
                self._keep(before & sources)
                self.refused = set(sources - before)
                self.until = now + times.membership
                return _ask(before & sources) if said is Said.TO_EX else []

    def _hear_excluding(
        self, said: Said, sources: Sources, now: float, times: Times
    ) -> list[Question]:
        before, refused = frozenset(self.wanted), frozenset(self.refused)
        match said:
            case Said.IS_IN | Said.ALLOW | Said.TO_IN:
                self.refused -= sources
                self._want(sources, now + times.membership)
                return [*_ask(before - sources), Question()] if said is Said.TO_IN else []
            case Said.BLOCK:
                self._want(sources - before - refused, self.until)
                return _ask(sources - refused)
            case Said.IS_EX | Said.TO_EX:
                new = now + times.membership if said is Said.IS_EX else self.until
                self._keep(before & sources)
                self._want(sources - before - refused, new)
                self.refused &= sources
                self.until = now + times.membership
                return _ask(sources - refused) if said is Said.TO_EX else []

    def asked(self, question: Question, now: float, times: Times) -> None:
        """Somebody asks: who does not answer in time wants nothing (RFC 3376, 6.6.1, 6.6.3)."""
        end = now + times.leaving
        if not question.sources:
            if self.until > now:
                self.until = min(self.until, end)
            return
        for source in question.sources & self.wanted.keys():
            self.wanted[source] = min(self.wanted[source], end)

    def _want(self, sources: Sources, until: float) -> None:
        self.wanted.update(dict.fromkeys(sources, until))

    def _keep(self, sources: Sources) -> None:
        self.wanted = {source: until for source, until in self.wanted.items() if source in sources}


def _ask(sources: Sources) -> list[Question]:
    return [Question(sources)] if sources else []
