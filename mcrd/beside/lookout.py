"""Says once in the log that somebody else relays what a rule relays, when both are there."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cache

from mcrd import threads
from mcrd.answers import Twice
from mcrd.beside.discovery import Listener, listeners
from mcrd.beside.sight import Sight, connected, rings_and_routes
from mcrd.beside.twice import twice
from mcrd.beside.who import Party, parties
from mcrd.events import tell
from mcrd.host.procfs import Host
from mcrd.model import Rule
from mcrd.planning.links import Link
from mcrd.words import few

EVERY = 60.0  # seconds between two looks while no rule becomes active: others come later, too
# Seconds between two looks at least. A second one has to confirm the first: sockets may be about
# to go.
AGAIN = 2.0
NAMED = 3  # rules in one line

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""The rule, and by whom."""


class Watcher:
    """Looks when rules have become active, and seldom else. Of ten thousand, it costs nothing.

    What has to be asked of the kernel, or read in /proc, a thread does: each may take a while.
    """

    def __init__(
        self,
        own_rings: Callable[[], AbstractSet[int]],
        own_outputs: Callable[[], AbstractSet[int]],
        host: Host = Host(),  # noqa: B008  a frozen value
    ) -> None:
        self._own_rings, self._own_outputs = own_rings, own_outputs
        self._next = 0.0
        self._looked = -AGAIN
        self._looks = False
        self._seen: Collection[Key] = frozenset()
        self._told: set[Key] = set()
        self._fresh: set[str] = set()
        self._reflected: set[Key] = set()
        self._host = host

    def soon(self, rule: str) -> None:
        """Note that a rule has become active."""
        self._fresh.add(rule)
        self._next = min(self._next, self._looked + AGAIN)

    def is_due(self) -> bool:
        """Whether it is time to look, and nobody does."""
        return not self._looks and time.monotonic() >= self._next

    async def sight(self) -> Sight:
        """What is there now, except one's own: what was there before, or is now."""
        own = self._own_rings()
        seen = await threads.apart(rings_and_routes)
        own |= self._own_rings()
        rings = tuple(ring for ring in seen.rings if ring.inode not in own)
        if not rings:
            return replace(seen, rings=())
        own = self._own_outputs()
        sent = await threads.apart(lambda: connected(own))
        later = self._own_outputs()
        others = {
            where: tuple(sender for sender in senders if sender.inode not in later)
            for where, senders in sent.items()
        }
        return replace(seen, rings=rings, sent={where: who for where, who in others.items() if who})

    async def look(
        self, rules: Callable[[], Mapping[str, Rule]], links: Callable[[], Mapping[str, Link]]
    ) -> None:
        """Look once; `rules` are those that are active, with the interfaces' own names."""
        self._looks = True
        self._looked = time.monotonic()
        self._next = self._looked + EVERY
        try:
            await self._look(rules, links)
        finally:
            self._looks = False

    async def _look(
        self, rules: Callable[[], Mapping[str, Rule]], links: Callable[[], Mapping[str, Link]]
    ) -> None:
        fresh_rules, self._fresh = self._fresh, set()
        sight = await self.sight()
        found: dict[Key, Twice] = {}
        if sight.rings or sight.routes:
            found = {(one.rule, one.by): one for one in twice(rules().values(), links(), sight)}
        self._told &= found.keys()
        fresh = found.keys() - self._told
        sure = fresh & set(self._seen)
        self._seen = frozenset(found)
        if fresh - sure:
            self._next = min(self._next, time.monotonic() + AGAIN)
        self._told |= sure
        these = [found[key] for key in sorted(sure)]
        active = rules() if fresh_rules else {}
        those = [active[name] for name in sorted(fresh_rules & active.keys())]
        told, reflectors = await threads.apart(lambda: self._who(these, those))
        for party in told:
            _tell(party)
        for rule, listener in reflectors:
            self._tell_reflector(rule, listener)

    def _who(
        self, found: Collection[Twice], fresh: Collection[Rule]
    ) -> tuple[list[Party], list[tuple[Rule, Listener]]]:
        """Who does what was found, and what rules do that have just become active. In a thread."""
        holders = cache(self._host.holders)  # it looks at every descriptor of the host
        reflectors = [
            (rule, listener)
            for rule in fresh
            for listener in listeners(self._host, rule, os.getpid(), holders)
            if listener.relays
        ]
        return parties(self._host, found), reflectors

    def _tell_reflector(self, rule: Rule, listener: Listener) -> None:
        if (rule.name, listener.who) in self._reflected:
            return
        self._reflected.add((rule.name, listener.who))
        text = "rules.%s: %s is relayed twice: %s %s; %s"
        told = (rule.name, listener.protocol, listener.who, listener.relays, listener.remedy)
        tell(log, logging.WARNING, "relayed-twice", text, *told, rule=rule.name)


def _tell(party: Party) -> None:
    names = [f"rules.{name}" for name in party.rules]
    text = "%s: receivers get each packet twice: %s, does the same; %s"
    told = (few(names, NAMED), party.text, party.remedy)
    where = {"rule": party.rules[0]} if len(party.rules) == 1 else {}
    tell(log, logging.WARNING, "relayed-twice", text, *told, **where)
