"""What is told of the inputs of a merged stream."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from mcrd.daemon.alarms import Alarms
from mcrd.daemon.legs import APART, DEAD, FAULTS, FEW, Legs
from mcrd.lanes.ledger import Ledger
from mcrd.lanes.segment import Segment
from mcrd.merged import MEANINGS
from mcrd.model import Config, Input, Merge, Output, Rule
from mcrd.planning.resources import Ingress, Ring
from mcrd.sums import MergeCount
from tests.unit.test_stats import Pen

MANY = 10 * FEW


class Stream:
    """Two inputs, and a clock."""

    def __init__(self) -> None:
        self.legs, self.now = Legs(), 1000.0
        self.counts = {"feed@a": MergeCount(), "feed@b": MergeCount()}

    def passes(self, seconds: float, **more: MergeCount) -> set[tuple[str, str]]:
        """What is wrong after that time, in which the inputs brought so much more."""
        self.now += seconds
        self.counts = {name: replace(count) for name, count in self.counts.items()}
        for leg, count in more.items():
            self.counts[f"feed@{leg}"].add(count)
        found = self.legs.look({"feed": self.counts}, self.now)
        return {(fault.rule, fault.event) for fault in found}


FIRST = MergeCount(received=MANY, first=MANY, shared=MANY)
SECOND = MergeCount(received=MANY, second=MANY)
OTHER = MergeCount(received=MANY, first=MANY)


def test_an_input_is_dead_when_others_bring_the_stream() -> None:
    stream = Stream()
    assert not stream.passes(0, a=FIRST, b=SECOND)
    assert not stream.passes(1, a=FIRST, b=SECOND)
    assert not stream.passes(DEAD / 2, a=OTHER)
    assert stream.passes(DEAD, a=OTHER) == {("feed@b", "leg_dead")}
    assert not stream.passes(DEAD)  # both are silent: the stream has ended
    assert stream.passes(DEAD, a=OTHER) == {("feed@b", "leg_dead")}
    assert not stream.passes(1, a=FIRST, b=SECOND)
    assert not stream.passes(DEAD, b=MergeCount(received=1, first=1))  # too few to say so


def test_inputs_with_nothing_in_common_are_apart() -> None:
    stream = Stream()
    stream.passes(0, a=FIRST, b=SECOND)
    assert not stream.passes(APART / 2, a=OTHER, b=OTHER)
    both = {("feed@a", "leg_apart"), ("feed@b", "leg_apart")}
    assert stream.passes(APART, a=OTHER, b=OTHER) == both
    assert not stream.passes(1, a=FIRST, b=SECOND)


def test_late_packets_and_other_contents_are_told_at_once() -> None:
    stream = Stream()
    stream.passes(0, a=FIRST, b=SECOND)
    late, differs = MergeCount(received=1, first=1, late=1), replace(SECOND, differs=3)
    assert stream.passes(1, a=FIRST, b=late) == {("feed@b", "leg_late")}
    assert stream.passes(1, a=FIRST, b=differs) == {("feed@b", "leg_differs")}


def test_counters_that_begin_anew_say_nothing() -> None:
    stream = Stream()
    stream.passes(0, a=FIRST, b=SECOND)
    stream.counts = {"feed@a": MergeCount(), "feed@b": MergeCount()}
    assert not stream.passes(2 * DEAD)
    assert not stream.passes(1, a=OTHER)


def test_each_has_a_line_when_it_begins_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    group = ip_address("239.1.1.1")
    outputs = (Output("eth2", ip_address("239.2.2.2"), 6000, ttl=1),)
    rules = {
        f"feed@{name}": Rule(
            *(f"feed@{name}", Input(name, group, 5000), outputs), merge=Merge("rtp"), leg=leg
        )
        for leg, name in ((1, "eth0"), (2, "eth1"))
    }
    ledger, made, alarms, config = Ledger(), Segment(), Alarms(), Config(rules=rules)
    ledger.attach(Ring(Ingress("eth0", 2)), made)
    pen = Pen(made)
    first, second = (pen.view.merges[made.rule_slot(name)] for name in rules)
    first.received = second.received = MANY
    alarms.begin(config, ledger, {})
    assert not alarms.faults_of_legs()
    second.received, second.differs = 2 * MANY, 7
    alarms.look(config, {}, ledger, {})
    line = "rules.feed@eth1: 7 packets have the number of another input's"
    assert line in caplog.text
    assert "(leg_differs)" in caplog.text
    assert alarms.faults_of_legs() == {"feed@eth1": ["leg_differs"]}
    monkeypatch.setattr("mcrd.daemon.alarms.OVER", 0.0)
    alarms.look(config, {}, ledger, {})
    assert "rules.feed@eth1: leg_differs is over: 7 packets" in caplog.text
    assert not alarms.faults_of_legs()


def test_each_has_a_meaning() -> None:
    assert FAULTS.keys() == MEANINGS.keys()
