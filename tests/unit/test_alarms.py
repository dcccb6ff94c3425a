"""What is told of counters, when, and how little is read for it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import time
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from mcrd.addresses import target
from mcrd.daemon.alarms import OVER, Alarms
from mcrd.lanes.counts import InterfaceCount, OutputCount
from mcrd.lanes.ledger import Ledger
from mcrd.lanes.segment import Segment
from mcrd.model import Config, Input, Inspect, Output, Rule
from mcrd.planning.resources import Ingress, Ring
from mcrd.sockets.lost import Lost
from mcrd.sums import Traffic
from tests.unit.test_stats import Pen

if TYPE_CHECKING:
    from mcrd.addresses import Target


def test_only_what_comes_after_the_beginning_is_news(caplog: pytest.LogCaptureFixture) -> None:
    count = InterfaceCount(Traffic(1000, 0))
    count.lose("ring_full", Lost(500, 500))
    alarms = Alarms()
    alarms.begin(Config(), Ledger(), {"r0": count})
    alarms.look(Config(), {}, Ledger(), {"r0": count})
    assert caplog.text == ""
    count.lose("ring_full", Lost(7, 7))
    count.received.packets += 13
    alarms.look(Config(), {}, Ledger(), {"r0": count})
    assert "r0: at least 7 packets found no room" in caplog.text
    assert "r0: at least 7 of 20 packets lost" in caplog.text


def test_what_is_not_known_to_the_packet_is_not_said_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("mcrd.daemon.alarms.OVER", 0.0)
    count = InterfaceCount(Traffic(1000, 0))
    alarms = Alarms()
    alarms.begin(Config(), Ledger(), {"r0": count})
    count.lose("ring_full", Lost(7, 70))
    count.lose("discarded", Lost(2, 5))
    alarms.look(Config(), {}, Ledger(), {"r0": count})
    assert "r0: about 70 packets found no room" in caplog.text
    assert "r0: about 70 of 70 packets lost (100 %)" in caplog.text
    assert "r0: about 5 packets were thrown away with their rings" in caplog.text
    assert "ring_full is over: about 70 packets" in caplog.text


def test_counts_of_a_version_that_knew_other_reasons_are_summed() -> None:
    older, newer = InterfaceCount(), InterfaceCount()
    del older.dropped["malformed"]
    newer.dropped["malformed"] = 3
    newer.dropped["too_green"] = 2
    older.add(newer)
    newer.add(older)
    assert older.dropped["malformed"] == 3
    assert newer.dropped["too_green"] == 4


def many(count: int) -> tuple[Config, Ledger, Segment, dict[str, int]]:
    """So many rules of one output each on one worker, and the slots of the outputs."""
    rules = {
        f"r{n}": Rule(
            f"r{n}",
            Input("eth0", ip_address("239.1.1.1"), 5000 + n),
            (Output("eth1", ip_address("239.2.2.2"), 5000 + n, ttl=1),),
        )
        for n in range(count)
    }
    ledger, made = Ledger(), Segment()
    ledger.attach(Ring(Ingress("eth0", 2)), made)
    slots = {name: made.output_slot(name, target(r.outputs[0])) for name, r in rules.items()}
    return Config(rules=rules), ledger, made, slots


def test_what_was_lost_before_is_said_when_it_begins_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    config, ledger, made, _ = many(2)
    rules = {**config.rules, "r1": replace(config.rules["r1"], inspect=Inspect("mpeg-ts"))}
    config, alarms = replace(config, rules=rules), Alarms()
    pen = Pen(made)
    found = pen.view.inspections[made.rule_slot("r1")]
    found.lost = 5
    found.seen = time.time_ns() + 10**12
    alarms.begin(config, ledger, {})
    assert caplog.text == ""
    found.lost, found.continuity = 17, 1
    alarms.look(config, {}, ledger, {})
    assert "rules.r1: 12 packets were lost before they came here (lost_before)" in caplog.text
    assert "rules.r1: 1 continuity errors in MPEG-TS" in caplog.text
    found.lost = 20
    alarms.look(config, {}, ledger, {})
    assert caplog.text.count("(lost_before)") == 1
    monkeypatch.setattr("mcrd.daemon.alarms.OVER", 0.0)
    alarms.look(config, {}, ledger, {})
    assert "rules.r1: lost_before is over" in caplog.text
    assert ": 15 packets" in caplog.text
    assert "1 error" in caplog.text
    pen.close()


def fail(pen: Pen, *slots: int) -> None:
    """Each sends one datagram in vain, as account() in egress.c counts it."""
    for slot in slots:
        pen.error(slot, errno.EPERM)
    pen.view.failed += len(slots)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rules whose output was read."""
    found: list[str] = []
    read = Ledger.output

    def noted(self: Ledger, rule: str, called: Target) -> OutputCount:
        found.append(rule)
        return read(self, rule, called)

    monkeypatch.setattr(Ledger, "output", noted)
    return found


def test_one_output_that_always_fails_is_the_only_one_that_is_read(
    reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    config, ledger, made, slots = many(1000)
    pen, alarms = Pen(made), Alarms()
    fail(pen, slots["r1"])
    alarms.begin(config, ledger, {})
    assert reads == ["r1"]
    for _ in range(3):
        fail(pen, slots["r7"])
        alarms.look(config, {}, ledger, {})
    alarms.look(config, {}, ledger, {})
    assert reads == ["r1", "r7", "r7", "r7"]
    assert [r.getMessage() for r in caplog.records if "unsent" in r.getMessage()] == [
        "rules.r7: output eth1 239.2.2.2:5007:"
        " 1 packets were not sent: EPERM (firewall of this host) (unsent)"
    ]
    pen.close()


def test_outputs_that_all_fail_are_read_in_turn_and_none_is_over_meanwhile(
    reads: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, at_once = 0.0, 16
    monkeypatch.setattr("mcrd.daemon.alarms.AT_ONCE", at_once)
    monkeypatch.setattr("mcrd.daemon.alarms.time.monotonic", lambda: now)
    config, ledger, made, slots = many(4 * at_once)
    pen, alarms = Pen(made), Alarms()
    alarms.begin(config, ledger, {})
    for number in range(1, 21):
        now += OVER / 3
        fail(pen, *slots.values())
        alarms.look(config, {}, ledger, {})
        assert len(reads) == number * at_once
    assert {reads.count(name) for name in config.rules} == {5}
    caplog.set_level("INFO")
    assert "is over" not in caplog.text
    for _ in range(2):
        now += OVER
        for _ in range(4):
            alarms.look(config, {}, ledger, {})
    alarms.look(config, {}, ledger, {})
    assert caplog.text.count("unsent is over") == len(config.rules)
    pen.close()


def test_an_output_over_its_limit_is_found_although_nothing_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, ledger, made, slots = many(3)
    rule = config.rules["r2"]
    limited = replace(rule, outputs=(replace(rule.outputs[0], limit=5),))
    config = Config(rules={**config.rules, "r2": limited})
    pen, alarms = Pen(made), Alarms()
    alarms.begin(config, ledger, {})
    pen.rate_limited(slots["r2"], 9)
    alarms.look(config, {}, ledger, {})
    assert "rules.r2: output eth1 239.2.2.2:5002: 9 packets over its limit" in caplog.text
    pen.close()


def test_what_closed_rings_counted_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    config, ledger, made, slots = many(2)
    pen = Pen(made)
    fail(pen, slots["r0"])
    pen.close()
    ledger.detach(Ring(Ingress("eth0", 2)), Lost())
    again = Segment()
    ledger.attach(Ring(Ingress("eth0", 3)), again)
    alarms = Alarms()
    alarms.begin(config, ledger, {})
    pen = Pen(again)
    fail(pen, again.output_slot("r0", target(config.rules["r0"].outputs[0])))
    alarms.look(config, {}, ledger, {})
    assert "rules.r0: output eth1 239.2.2.2:5000: 1 packets were not sent" in caplog.text
    pen.close()


def test_a_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    config = Config(rules={"there": Rule("there", Input("r0", ip_address("239.1.1.1"), 5000), ())})
    segment, ledger, alarms = Segment(), Ledger(), Alarms()
    ledger.attach(Ring(Ingress("r0", 2)), segment)
    slot = segment.rule_slot("there")
    segment.rule_slot("other")
    count = InterfaceCount()
    alarms.begin(config, ledger, {"r0": count})
    pen = Pen(segment)
    pen.view.rules[slot].looped = count.dropped["looped"] = 3
    returner = pen.view.rules[slot].returner
    returner.family = 4
    returner.address[0:4] = bytes((10, 1, 0, 9))
    returner.hardware[0:6] = bytes.fromhex("020000000009")
    alarms.look(config, {}, ledger, {"r0": count})
    assert "rules.there: 3 packets came back" in caplog.text
    assert "on r0, 10.1.0.9 (02:00:00:00:00:09) returns" in caplog.text
    pen.close()
