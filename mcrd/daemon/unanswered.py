"""What outputs sent to hosts, while it was in doubt whether a way leads there."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Collection, Mapping

from mcrd.addresses import Target
from mcrd.lanes.ledger import Ledger
from mcrd.model import Config
from mcrd.planning.links import Lookup, Way
from mcrd.planning.outlets import outputs_by_lookup


class Unanswered:
    """Remembers how much was sent before a way came into doubt; the rest reached nobody, if so."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._outputs_of: dict[Lookup, list[tuple[str, Target]]] = {}
        self._sent_before: dict[tuple[Lookup, str, Target], int] = {}

    def watch(self, config: Config) -> Collection[Lookup]:
        """Take these rules for those that run; return the ways that they need."""
        self._outputs_of = outputs_by_lookup(config)
        return self._outputs_of.keys()

    def looked_at(self, doubted: Collection[Lookup], certain: Collection[Lookup]) -> None:
        """What is sent from now on may have to be counted as lost: how much was sent before?"""
        for lookup in doubted:
            for rule, called in self._outputs_of.get(lookup, ()):
                sent = self._ledger.output(rule, called).sent.packets
                self._sent_before.setdefault((lookup, rule, called), sent)
        for key in [key for key in self._sent_before if key[0] in certain]:
            del self._sent_before[key]

    def count(self, ways: Mapping[Lookup, Way]) -> None:
        """Count what outputs sent nowhere, until the workers were told that no way leads there."""
        for key, before in list(self._sent_before.items()):
            lookup, rule, called = key
            way = ways.get(lookup)
            if way is None or way.trouble:
                del self._sent_before[key]
            if way is not None and way.trouble:
                sent = self._ledger.output(rule, called).sent.packets
                self._ledger.sent_to_nobody(rule, called, max(0, sent - before))
