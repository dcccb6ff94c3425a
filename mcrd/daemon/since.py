"""Which rules are not as they were: for who asks once a second, where there are thousands."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from collections.abc import Mapping
from secrets import randbits
from typing import NamedTuple

from mcrd.addresses import target
from mcrd.daemon import switches
from mcrd.daemon.alarms import Alarms
from mcrd.daemon.planner import Planner
from mcrd.lanes.counts import NO_FLOW, Glance
from mcrd.lanes.ledger import Ledger
from mcrd.model import Rule
from mcrd.planning.links import Link
from mcrd.planning.states import RuleState

AGAIN = 0.2  # seconds in which a look does for all who ask: of 5,000 rules, it takes some 40 ms


class Moment(NamedTuple):
    """How rules were at one time, for an answer that is counted in pieces.

    What comes and is over between two pieces would be told, and never taken back.
    """

    rules: Mapping[str, Rule]
    states: Mapping[str, RuleState]
    silent: set[str]
    faults: Mapping[str, list[str]]
    links: Mapping[str, Link]


def see(
    planner: Planner, alarms: Alarms, rules: Mapping[str, Rule], states: Mapping[str, RuleState]
) -> Moment:
    """How these rules are now."""
    return Moment(rules, states, set(alarms.silent), alarms.faults_of_legs(), planner.links.now)


class Mark(NamedTuple):
    """All of a rule that is no matter of how much flows."""

    rule: Rule
    state: RuleState
    interfaces: list[str | None]
    is_silent: bool
    faults: list[str] | None
    losses: tuple[int, ...]  # known, missing, how often counters began anew: a sum may stand still
    inputs: tuple[int, ...]  # of one that switches: how each of them is used

    def differs(self, other: Mark) -> bool:
        """Whether one would see it; most are the same objects."""
        return (
            self.rule is not other.rule
            or self[2:] != other[2:]
            or (self.state is not other.state and _shown(self.state) != _shown(other.state))
        )


def _shown(state: RuleState) -> tuple[object, ...]:
    outputs = tuple((output.state, output.reason) for output in state.outputs)
    return state.state, state.reason, outputs


class Since:
    """The marks of the last look, and at which look each rule had another one.

    Looks are counted from a number that no other daemon begins with.
    """

    def __init__(self) -> None:
        self._marks: dict[str, Mark] = {}
        self._changed: dict[str, int] = {}
        self._first = self.cursor = 1 + randbits(48)
        self._last: tuple[Moment, dict[str, list[float]]] | None = None
        self._at = 0.0  # seconds, monotonic

    def look(self, planner: Planner, alarms: Alarms) -> tuple[Moment, dict[str, list[float]]]:
        """Compare all rules with the last look; and what flows by each, as counters.rates().

        Nobody else has a turn meanwhile. The last look does for what is asked right after it.
        """
        now, rules = time.monotonic(), planner.config.rules
        if self._last is None or self._last[0].rules is not rules or now - self._at >= AGAIN:
            moment = see(planner, alarms, rules, planner.lately())
            self._last, self._at = (moment, self._compare_all(moment, planner.estate.ledger)), now
        return self._last

    def _compare_all(self, moment: Moment, ledger: Ledger) -> dict[str, list[float]]:
        names = {name: link.name for name, link in moment.links.items()}
        rules, outputs, kept = ledger.glances()
        legs = switches.legs(moment.rules)
        marks: dict[str, Mark] = {}
        flows: dict[str, list[float]] = {}
        for name, rule in moment.rules.items():
            state = moment.states[name]
            sent = [outputs.get((name, target(output)), NO_FLOW) for output in rule.outputs]
            flows[name], losses = _flow(rules.get(name, NO_FLOW), sent)
            inputs = legs[rule.stream].values() if rule.switch is not None and rule.leg else ()
            used = [kept.get(leg.name, 0) for leg in inputs]
            used += [n for leg in inputs for n in rules.get(leg.name, NO_FLOW)[-2:]]
            interfaces = [names.get(rule.input.interface)]
            for output, how in zip(rule.outputs, state.outputs, strict=True):
                own = names.get(output.interface) if output.interface else how.interface
                interfaces.append(own)
            is_silent, fault = name in moment.silent, moment.faults.get(name)
            lost = (*losses, kept.get(name, 0))
            marks[name] = Mark(rule, state, interfaces, is_silent, fault, lost, tuple(used))
        self._compare(marks)
        return flows

    def _compare(self, marks: dict[str, Mark]) -> None:
        self.cursor += 1
        before, self._marks = self._marks, marks
        self._changed = {
            name: self._changed[name]
            if (old := before.get(name)) is not None and (mark == old or not mark.differs(old))
            else self.cursor
            for name, mark in marks.items()
        }  # fmt: skip

    def knows(self, cursor: int) -> bool:
        """Whether there was such a look."""
        return self._first < cursor <= self.cursor

    def changed(self, cursor: int) -> list[str]:
        """The rules that have changed after that look."""
        return [name for name, at in self._changed.items() if at > cursor]


def _flow(taken: Glance, sent: list[Glance]) -> tuple[list[float], tuple[int, int]]:
    """What flows by a rule and its outputs; what they have lost, and what is missing."""
    packets, size, peak, minute_packets, minute_bytes, minute_peak, losses, missing, *_ = taken
    found = [packets, size, peak, minute_packets / 1000, minute_bytes / 1000, minute_peak]
    for packets, size, *_, lost, _, _, _ in sent:
        found += packets, size
        losses += lost
    return found if any(found) else [], (losses, missing)
