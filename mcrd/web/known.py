"""What is known of all rules, and what an answer of the daemon changes in it. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from sys import intern
from typing import NamedTuple

import msgspec

from mcrd.answers import Answer, Members
from mcrd.counters import InterfaceCounts, RuleCounts, WorkerCounts, rates
from mcrd.picture import InterfacePicture, OutputPicture, RulePicture, of_interfaces, of_rule

OF_RULE = 6  # numbers in Stats.rates before those of outputs


_rule = msgspec.json.Decoder(RuleCounts)


class Counted(Answer):
    """As counters.Stats, with rules that are read one by one.

    The counters of thousands of rules, as objects, take many times the memory of their picture.
    """

    command = "stats"
    cursor: int = 0
    since: int = 0
    rules: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)
    interfaces: dict[str, InterfaceCounts] = msgspec.field(default_factory=dict)
    workers: list[WorkerCounts] = msgspec.field(default_factory=list)
    rates: dict[str, list[int | float]] = msgspec.field(default_factory=dict)

    def each(self) -> Iterator[tuple[str, RuleCounts]]:
        """The rules; raises ValueError for one that is none."""
        for name, counted in self.rules.items():
            yield intern(name), _rule.decode(counted)


class Change(NamedTuple):
    """What is different.

    `old` are the rules that the answer is about as they were, with those that have gone; `new` as
    they are. Of the new ones, `rules` look different. `numbers` are those of others.
    """

    old: dict[str, RulePicture]
    new: dict[str, RulePicture]
    rules: dict[str, RulePicture]
    numbers: dict[str, list[object]]
    gone: list[str]
    flows: Mapping[str, Sequence[float]]
    """Of all rules, as counters.rates()."""


UNCHANGED = Change({}, {}, {}, {}, [], {})


class Known:
    """The picture as of the last answer, of which only the next one knows what is different."""

    def __init__(self) -> None:
        self.cursor = 0
        self.rules: dict[str, RulePicture] = {}
        self.interfaces: dict[str, InterfacePicture] = {}

    def take(self, counted: Counted, members: Members) -> Change:
        """Take an answer over; of what it says nothing of, only the rates change.

        Raises ValueError, and takes nothing over, where it is not understood.
        """
        new: dict[str, RulePicture] = {}
        flows: dict[str, Sequence[float]] = {}
        for name, count in counted.each():
            new[name], flows[name] = of_rule(name, count), rates(count)
        if counted.since != 0 and counted.since == self.cursor:
            flows |= counted.rates
        self.cursor = counted.cursor
        gone = [name for name in self.rules if name not in flows]
        old = {name: self.rules[name] for name in (*new, *gone) if name in self.rules}
        for name in gone:
            del self.rules[name]
        numbers: dict[str, list[object]] = {}
        for name, rule in self.rules.items():
            if name not in new and (found := _flows(rule, flows[name])):
                numbers[name] = found
        rules: dict[str, RulePicture] = {}
        for name, rule in new.items():
            was = old.get(name)
            if was is None or _form(was) != _form(rule):
                rules[name] = rule
            elif was != rule:
                numbers[name] = _numbers(rule)
        self.rules |= new
        self.interfaces = of_interfaces(counted.interfaces, self.rules, members)
        return Change(old, new, rules, numbers, gone, flows)


def _flows(rule: RulePicture, flow: Sequence[float]) -> list[object]:
    """Let so much flow by it and its outputs; the numbers, unless all are as before."""
    before = _numbers(rule)
    packets, size, peak = flow[:3] or (0, 0, 0)
    rule.packets, rule.bits, rule.peak = int(packets), 8 * int(size), int(peak)
    for at, output in enumerate(rule.outputs):
        packets, size = flow[OF_RULE + 2 * at :][:2] or (0, 0)
        output.packets, output.bits = int(packets), 8 * int(size)
    now = _numbers(rule)
    return now if now != before else []


def _form(rule: RulePicture) -> tuple[object, ...]:
    said = (rule.interface, rule.source, rule.state, rule.reason, rule.about, rule.stream)
    outputs = [_form_of(output) for output in rule.outputs]
    return (said, rule.used, rule.lost, rule.before, outputs)


def _form_of(output: OutputPicture) -> tuple[object, ...]:
    return (output.to, output.interface, output.state, output.reason, output.lost)


def _numbers(rule: RulePicture) -> list[object]:
    outputs = [(output.packets, output.bits) for output in rule.outputs]
    return [rule.packets, rule.bits, rule.peak, outputs]
