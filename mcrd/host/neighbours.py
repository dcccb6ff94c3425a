"""Which of the neighbours that outputs send to answer, and which are to be asked for when."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice

from mcrd.errors import words
from mcrd.model import Address
from mcrd.sockets.probe import probe
from mcrd.sockets.rtnetlink import NUD_FAILED, NUD_INCOMPLETE

PATIENCE = 0.5  # seconds in which a neighbour has to answer,
PROBES_AT_ONCE = 64  # and in which so many are asked for
ASK_AGAIN = 1.0  # seconds between two questions to one that does not answer,
SELDOM_AFTER, SELDOM = 60.0, 5.0  # and after so many, if many do not, between two

Hop = tuple[int, Address]
"""A neighbour: the index of the interface, and its address there."""

log = logging.getLogger(__name__)


class Neighbours:
    """Which neighbours are known not to answer, of those that outputs send to.

    The kernel makes no event of the first question to a neighbour, and holds what is sent until an
    answer comes or, after three seconds, does not. So one that is not known is asked for at once,
    and one that does not answer is asked for again and again: nothing else would be sent there.
    Of one that cannot be asked for it is not said that it is silent: what outputs send there makes
    the kernel ask.
    """

    def __init__(self) -> None:
        self.pending: dict[Hop, float] = {}  # asked for since then
        self.silent: dict[Hop, tuple[float, float]] = {}  # since when, and asked for at last
        self._unasked: dict[Hop, None] = {}  # to be asked for the first time, in this order
        self._unaskable: set[Hop] = set()
        self._known: set[Hop] = set()
        self._seen: set[Hop] = set()  # the kernel has had an entry
        self._forgotten: set[Hop] = set()  # and has none since: the next packet makes it ask
        self._asked = (-PATIENCE, 0)  # since when, and how many
        # Errors that were said; of an interface that is away, others say so.
        self._told: set[int | None] = {errno.ENODEV, errno.ENETDOWN}

    def take(self, states: Mapping[Hop, int | None], names: Mapping[int, str]) -> bool:
        """The states as they are now; whether some are to be looked at again soon."""
        now = time.monotonic()
        for hop, state in states.items():
            if state is None:
                if hop not in self._known and hop not in self.silent:
                    self._unasked[hop] = None
                elif hop in self._seen and hop not in self.silent:
                    self._seen.discard(hop)
                    self._forgotten.add(hop)
                    self.pending[hop] = now
                else:
                    self.pending.pop(hop, None)
            elif state & NUD_FAILED:
                self._is_silent(hop, now)
            elif state & NUD_INCOMPLETE:
                if hop in self._forgotten:  # asked for since it was looked at
                    self.pending[hop] = now
                since = self.pending.setdefault(hop, now)
                if hop not in self.silent and now - since >= PATIENCE:
                    self._is_silent(hop, now)
            else:
                self.pending.pop(hop, None)
                self.silent.pop(hop, None)
            if state is not None:
                self._unasked.pop(hop, None)
                self._forgotten.discard(hop)
                self._seen.add(hop)
            if hop not in self._unasked:
                self._known.add(hop)
        self._ask_first(now, names)
        return bool(self.pending)

    def _is_silent(self, hop: Hop, now: float) -> None:
        self.pending.pop(hop, None)
        self.silent.setdefault(hop, (now, now))

    def is_silent(self, hop: Hop) -> bool:
        """Whether it did not answer when it was asked for."""
        return hop in self.silent and hop not in self._unaskable

    def is_doubted(self, hop: Hop) -> bool:
        """Whether it is not known yet if it answers."""
        return hop in self.pending or hop in self._unasked or hop in self._forgotten

    def keep(self, used: Collection[Hop]) -> None:
        """Forgets all but these."""
        self.pending = {hop: since for hop, since in self.pending.items() if hop in used}
        self.silent = {hop: times for hop, times in self.silent.items() if hop in used}
        self._unasked = {hop: None for hop in self._unasked if hop in used}
        self._unaskable.intersection_update(used)
        self._known.intersection_update(used)
        self._seen.intersection_update(used)
        self._forgotten.intersection_update(used)

    def wait(self) -> float | None:
        """In how many seconds to ask again; None: there is nobody to ask for."""
        if self._unasked or len(self.silent) > PROBES_AT_ONCE:
            return PATIENCE
        return ASK_AGAIN if self.silent else None

    def ask(
        self,
        names: Mapping[int, str],
        states: Callable[[list[Hop]], Iterable[int | None]],
    ) -> list[Hop]:
        """Asks for those whose time has come; those of which `is_silent` says something else now.

        `states` asks the kernel. Raises what it raises.
        """
        now = time.monotonic()
        room = self._room(now)
        due = self._due(now)[: room // 2 if self._unasked else room]
        before = [hop for hop in due if self.is_silent(hop)]
        for hop in due:
            self.silent[hop] = (self.silent[hop][0], now)
            self._probe(hop, names)
        self._ask_first(now, names)
        for hop, state in zip(due, states(due), strict=True):
            if state is None:  # the question went elsewhere, or nowhere
                self._unaskable.add(hop)
        return [hop for hop in due if self.is_silent(hop) != (hop in before)]

    def _due(self, now: float) -> list[Hop]:
        """The silent ones whose time has come, the one that has waited longest first."""
        many = len(self.silent) > PROBES_AT_ONCE
        due = [
            hop
            for hop, (since, last) in self.silent.items()
            if now - last >= (SELDOM if many and now - since > SELDOM_AFTER else 0.9 * ASK_AGAIN)
        ]
        return sorted(due, key=lambda hop: self.silent[hop][1])

    def _room(self, now: float) -> int:
        """How many can be asked for now."""
        if now - self._asked[0] >= 0.9 * PATIENCE:
            self._asked = (now, 0)
        return PROBES_AT_ONCE - self._asked[1]

    def _ask_first(self, now: float, names: Mapping[int, str]) -> None:
        """Asks for those that nobody has asked for; the others wait, and count as good."""
        for hop in list(islice(self._unasked, self._room(now))):
            del self._unasked[hop]
            self._known.add(hop)
            self.pending[hop] = now
            self._probe(hop, names)

    def _probe(self, hop: Hop, names: Mapping[int, str]) -> None:
        self._asked = (self._asked[0], self._asked[1] + 1)
        index, address = hop
        name = names.get(index, "")
        try:
            if not name:
                raise OSError(errno.ENODEV, "the interface has gone")
            probe(name, index, address)
        except OSError as error:
            self._unaskable.add(hop)
            text = "cannot ask for %s on %s: %s; whether it answers is not known"
            level = logging.DEBUG if error.errno in self._told else logging.WARNING
            self._told.add(error.errno)
            log.log(level, text, address, name, words(error))
        else:
            self._unaskable.discard(hop)
