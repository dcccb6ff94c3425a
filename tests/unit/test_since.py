"""Which rules are not as they were: on real shared memory, in which a test counts as workers do."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import time
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from mcrd.addresses import target
from mcrd.answers import Changes
from mcrd.beside.lookout import Watcher
from mcrd.daemon.alarms import Alarms
from mcrd.daemon.commands import AT_ONCE, Commands
from mcrd.daemon.planner import Planner
from mcrd.daemon.rulefile import RuleFile
from mcrd.daemon.since import Since
from mcrd.lanes.segment import Segment
from mcrd.model import Config, Input, Output, Rule, Switch
from mcrd.observe.listener import Listener
from mcrd.planning.links import Link
from mcrd.planning.resources import Ingress, Ring
from mcrd.sockets.lost import Lost
from mcrd.systemd.notify import Notify
from mcrd.tasks import Tasks
from tests.unit.test_stats import Pen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ADDRESS = ip_address("239.1.1.1")


def a_rule(name: str, **more: Any) -> Rule:
    outputs = tuple(Output("eth1", ADDRESS, port, ttl=4) for port in (6000, 6001))
    more |= {"leg": int(name[-1])} if "@" in name else {}
    return Rule(name, Input("eth0", ADDRESS, 5000), outputs, **more)


class Daemon:
    """A planner whose rules are on one worker, and who asks what changed."""

    def __init__(self, *rules: Rule) -> None:
        self.planner, self.alarms, self.since = Planner(), Alarms(), Since()
        self.ledger = self.planner.estate.ledger
        self.ring = Ring(Ingress("eth0", 2))
        self.want(*rules)
        self.begin()

    def want(self, *rules: Rule) -> None:
        """Runs by these rules."""
        self.planner.config = Config(rules={rule.name: rule for rule in rules})

    def begin(self) -> None:
        """Begins a worker, with counters of its own."""
        self.segment = Segment()
        self.pen = Pen(self.segment)
        self.ledger.attach(self.ring, self.segment)
        self.slots = {name: self.segment.rule_slot(name) for name in self.planner.config.rules}
        self.outputs = {
            (rule.name, number): self.segment.output_slot(rule.name, target(output))
            for rule in self.planner.config.rules.values()
            for number, output in enumerate(rule.outputs)
        }

    def end(self) -> None:
        """Ends the worker: what it counted is kept."""
        self.pen.close()
        self.ledger.detach(self.ring, Lost())

    def look(self) -> int:
        """Looks, as for a client that has not asked before."""
        self.since.look(self.planner, self.alarms)
        return self.since.cursor

    def changed(self, cursor: int) -> list[str]:
        """The rules that are not as they were at that look."""
        self.look()
        assert self.since.knows(cursor)
        return self.since.changed(cursor)

    def inspection(self, name: str) -> Any:
        """What the worker found in the payloads of a rule."""
        return self.pen.view.inspections[self.slots[name]]

    def switch(self, name: str) -> Any:
        """Whether the worker uses this input."""
        return self.pen.view.switches[self.slots[name]]


@pytest.fixture(autouse=True)
def each_look_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """However soon after the last one."""
    monkeypatch.setattr("mcrd.daemon.since.AGAIN", 0.0)


@pytest.fixture
def two() -> Iterator[Daemon]:
    """Two rules of two outputs each."""
    made = Daemon(a_rule("camera"), a_rule("door"))
    yield made
    made.end()


@pytest.fixture
def legs() -> Iterator[Daemon]:
    """Three inputs of one rule, of which one is in use; and another rule."""
    made = Daemon(*(a_rule(f"tv@{leg}", switch=Switch(0.5)) for leg in (1, 2, 3)), a_rule("door"))
    yield made
    made.end()


@pytest.fixture
def many() -> Daemon:
    """More rules than are counted in one piece, or two; their worker has ended."""
    made = Daemon(*(a_rule(f"r{number}", silence=1.0) for number in range(2 * AT_ONCE + 1)))
    made.end()
    return made


def test_each_loss_is_a_change_of_its_rule_alone(two: Daemon) -> None:
    before = two.look()
    two.pen.rule(two.slots["camera"], 10, 100)  # what flows is none
    two.pen.output(two.outputs["camera", 0], 10, 100)
    assert two.changed(before) == []
    ways: list[Callable[[], None]] = [
        lambda: two.pen.rule_limited(two.slots["camera"], 1),
        lambda: two.pen.error(two.outputs["camera", 0], errno.EPERM),
        lambda: two.pen.rate_limited(two.outputs["camera", 1], 1),
        lambda: two.pen.new_member(two.outputs["camera", 1], 1),
    ]
    for lose in ways:
        before = two.look()
        assert two.changed(before) == []
        lose()
        assert two.changed(before) == ["camera"]
    before = two.look()
    two.ledger.sent_to_nobody("door", target(a_rule("door").outputs[0]), 1)
    assert two.changed(before) == ["door"]


def test_what_is_missing_is_a_change_when_it_is_told_and_not_before(two: Daemon) -> None:
    found = two.inspection("camera")
    found.inspected, found.missing = 9, 3
    found.seen = time.time_ns() + 60 * 10**9  # while segments are read, a worker goes on
    before = two.look()
    assert two.ledger.faults("camera") == (0, 0)
    found.seen -= 120 * 10**9
    assert two.ledger.faults("camera") == (3, 0)
    assert two.changed(before) == ["camera"]
    before = two.look()
    found.continuity = 1
    assert two.changed(before) == ["camera"]


def test_a_loss_that_was_missing_before_the_look_is_a_change(two: Daemon) -> None:
    """Its worker gives up what was not told as lost: the clock may have been set back, too."""
    found = two.inspection("camera")
    found.inspected, found.missing, found.seen = 9, 3, time.time_ns() + 60 * 10**9
    before = two.look()
    found.lost, found.missing = 3, 0
    assert two.changed(before) == ["camera"]


def test_what_a_worker_lost_at_its_end_is_a_change(two: Daemon) -> None:
    """Also where as much had been lost before as counters begin anew."""
    two.pen.rule_limited(two.slots["camera"], 1)
    two.pen.rate_limited(two.outputs["camera", 0], 1)
    two.pen.rate_limited(two.outputs["camera", 1], 1)
    before = two.look()
    two.pen.rate_limited(two.outputs["camera", 0], 499)
    two.end()
    two.begin()
    first = two.ledger.output("camera", target(a_rule("camera").outputs[0]))
    assert first.dropped["rate_limited"] == 500
    assert "camera" in two.changed(before)


def test_a_relief_that_loses_nothing_is_no_loss_later(two: Daemon) -> None:
    two.end()
    two.begin()
    before = two.look()
    assert two.changed(before) == []


def test_an_input_that_is_used_no_more_is_a_change_whatever_else_is_counted(legs: Daemon) -> None:
    legs.switch("tv@1").used, legs.switch("tv@1").since = 1, 7
    before = legs.look()
    assert legs.changed(before) == []
    legs.switch("tv@1").used = 0
    legs.pen.rule_limited(legs.slots["tv@1"], 1)  # one less in use, one lost more
    assert "tv@1" in legs.changed(before)


def test_which_input_is_in_use_is_a_change_of_all_inputs(legs: Daemon) -> None:
    """An answer says of each of them which one is: also of one that was not, and is not."""
    legs.switch("tv@1").used, legs.switch("tv@1").since = 1, 7
    before = legs.look()
    legs.switch("tv@1").used, legs.switch("tv@2").used, legs.switch("tv@2").since = 0, 1, 9
    assert legs.changed(before) == ["tv@1", "tv@2", "tv@3"]
    before = legs.look()
    legs.switch("tv@2").since = 11  # away and back
    assert legs.changed(before) == ["tv@1", "tv@2", "tv@3"]


def test_a_rule_that_goes_and_comes_again_has_changed(two: Daemon) -> None:
    camera, door = two.planner.config.rules.values()
    first = two.look()
    two.want(door)
    gone = two.look()
    assert two.changed(first) == []
    two.want(camera, door)
    assert two.changed(gone) == ["camera"]
    two.pen.rule_limited(two.slots["camera"], 1)
    before = two.look()
    two.want(door)
    two.planner.forget()
    two.want(replace(camera), door)  # between two looks: it has lost nothing now
    assert two.changed(before) == ["camera"]
    assert two.changed(first) == ["camera"]


def test_one_client_takes_no_change_from_another(two: Daemon) -> None:
    first = two.look()
    two.pen.rule_limited(two.slots["camera"], 1)
    second = two.look()
    two.pen.rule_limited(two.slots["door"], 1)
    assert two.changed(second) == ["door"]
    assert two.changed(first) == ["camera", "door"]
    assert not two.since.knows(first - 1)
    assert not two.since.knows(two.since.cursor + 1)


def test_one_look_does_for_all_who_ask_right_after_it(
    two: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcrd.daemon.since.AGAIN", 3600.0)
    first, found = two.look(), two.since.look(two.planner, two.alarms)
    two.pen.rule_limited(two.slots["camera"], 1)
    assert two.since.look(two.planner, two.alarms) is found
    assert two.changed(first) == []
    two.want(*two.planner.config.rules.values())  # other rules: nobody waits for them
    assert two.changed(first) == ["camera"]


def test_what_comes_and_is_over_between_two_looks_is_not_told(many: Daemon, tmp_path: Path) -> None:
    """Nothing would take it back: rules are counted in pieces, all as they were at the look."""

    async def scenario() -> None:
        commands = commands_of(many, tmp_path)
        planner, last = many.planner, f"r{2 * AT_ONCE}"
        assert (await commands.stats({"since": 0})).rules[last].silent is False
        answer = asyncio.create_task(commands.stats({"since": 0}))
        await asyncio.sleep(0)  # it has counted the first rules
        many.alarms.silent.add(last)
        planner.links.now = {"eth0": Link("renamed", 2, True, True, 1500, 1)}
        found = await answer
        many.alarms.silent.clear()
        assert len(found.rules) == 2 * AT_ONCE + 1
        assert found.rules[last].silent is False
        assert found.rules[last].interface_now is None
        told = await commands.stats({"since": found.cursor})
        assert told.rules.keys() == found.rules.keys()  # the interface is still there, and is told
        commands.listener.close()
        await planner.estate.close()

    asyncio.run(scenario())


def commands_of(daemon: Daemon, directory: Path) -> Commands:
    """What answers by these rules."""
    planner, tasks = daemon.planner, Tasks()
    holdings = planner.estate.holdings

    async def settle(call: Callable[[], None]) -> None:
        call()

    async def reload(_: str) -> Changes:
        return Changes()

    return Commands(
        planner=planner,
        file=RuleFile(directory / "mcr.toml", tasks, lambda: None),
        notify=Notify(),
        alarms=daemon.alarms,
        watcher=Watcher(holdings.ring_inodes, holdings.output_inodes),
        listener=Listener(),
        tasks=tasks,
        reload=reload,
        settle=settle,
    )


def test_silence_is_a_change(two: Daemon) -> None:
    before = two.look()
    two.alarms.silent.add("camera")
    assert two.changed(before) == ["camera"]
