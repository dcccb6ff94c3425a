"""Says once in the log that somebody else relays what a rule relays, when both are there."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Container, Mapping

from mcrd import journal
from mcrd.beside.discovery import listeners
from mcrd.beside.sight import Sight, look
from mcrd.beside.twice import Twice, twice
from mcrd.beside.who import Party, parties
from mcrd.doctor.host import Host
from mcrd.model import Rule
from mcrd.resources import Link

EVERY = 60.0  # seconds between two looks while no rule becomes active: others come later, too
AGAIN = 2.0  # seconds until a second look has to confirm the first: sockets may be about to go
NAMED = 3  # rules in one line

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""The rule, and by whom."""


class Watcher:
    """Looks when rules have become active, and seldom else. Of ten thousand, it costs nothing."""

    def __init__(
        self,
        own_rings: Callable[[], Container[int]],
        own_outputs: Callable[[], Container[int]],
        host: Host = Host(),  # noqa: B008  a frozen value
    ) -> None:
        self._own_rings, self._own_outputs = own_rings, own_outputs
        self._next = 0.0
        self._seen: Collection[Key] = frozenset()
        self._told: set[Key] = set()
        self._fresh: set[str] = set()
        self._reflected: set[Key] = set()
        self._host = host

    def soon(self, rule: str) -> None:
        """Note that a rule has become active."""
        self._fresh.add(rule)
        self._next = 0.0

    def is_due(self) -> bool:
        """Whether it is time to look."""
        return time.monotonic() >= self._next

    def sight(self) -> Sight:
        """What is there now, except one's own."""
        return look(self._own_rings(), self._own_outputs)

    def look(self, rules: Callable[[], Mapping[str, Rule]], links: Mapping[str, Link]) -> None:
        """Look once; `rules` are those that are active, with the interfaces' own names."""
        self._next = time.monotonic() + EVERY
        sight = self.sight()
        found: dict[Key, Twice] = {}
        if sight.rings or sight.routes:
            found = {(one.rule, one.by): one for one in twice(rules().values(), links, sight)}
        self._told &= found.keys()
        fresh = found.keys() - self._told
        sure = fresh & set(self._seen)
        self._seen = frozenset(found)
        if fresh - sure:
            self._next = time.monotonic() + AGAIN
        self._told |= sure
        for party in parties(self._host, [found[key] for key in sorted(sure)]):
            _tell(party)
        fresh_rules, self._fresh = self._fresh, set()
        if fresh_rules:
            active = rules()
            for name in sorted(fresh_rules & active.keys()):
                self._look_at_reflectors(active[name])

    def _look_at_reflectors(self, rule: Rule) -> None:
        """Look for reflectors of a rule that has just become active; most rules can have none."""
        for listener in listeners(self._host, rule, os.getpid()):
            if listener.relays and (rule.name, listener.who) not in self._reflected:
                self._reflected.add((rule.name, listener.who))
                text = "rules.%s: %s is relayed twice: %s %s; %s"
                told = (rule.name, listener.protocol, listener.who, listener.relays)
                journal.tell(
                    log,
                    logging.WARNING,
                    "relayed-twice",
                    text,
                    *told,
                    listener.remedy,
                    rule=rule.name,
                )


def _tell(party: Party) -> None:
    names = [f"rules.{name}" for name in party.rules]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    text = "%s: receivers get each packet twice: %s, does the same; %s"
    which = ", ".join(names[:NAMED]) + more
    where = {"rule": party.rules[0]} if len(party.rules) == 1 else {}
    journal.tell(
        log, logging.WARNING, "relayed-twice", text, which, party.text, party.remedy, **where
    )
