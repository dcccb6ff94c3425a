"""The stages of mcrctl explain: what follows from what is known."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, ip_address, ip_network
from typing import Any

import pytest

from mcrd.cli.explain import text
from mcrd.explain.evidence import Bridge, Daemon, Evidence, Finding, Host, Way
from mcrd.explain.stages import answer, explain
from mcrd.model import Input, Output, Place, PortRange, Rule
from mcrd.resources import Link

RULE = Rule(
    "a",
    Input("eth0", ip_address("239.1.1.1"), 5000),
    (Output("eth1", ip_address("10.2.0.2"), 6000, ttl=64),),
    place=Place("/etc/mcr.toml", 3, 1),
)
LINKS = {
    "eth0": Link("eth0", 2, True, True, 1500, 1, (IPv4Interface("10.1.0.2/24"),)),
    "eth1": Link("eth1", 3, True, True, 1500, 1, (IPv4Interface("10.2.0.1/24"),)),
}
HOST = Host(LINKS, joined=True, ways={0: Way(neighbour="REACHABLE")}, reverse_filter=0)


def kind(**other: Any) -> dict[str, Any]:
    made = {
        "vlan": None,
        "source": "10.1.0.1",
        "destination": "239.1.1.1",
        "protocol": "udp",
        "port": 5000,
        "fragment": "",
        "wrong_checksum": False,
        "detail": "",
        "other_host": False,
        "count": 100,
        "largest": 1344,
        "ttl_lowest": 1,
        "ttl_highest": 1,
    }
    return {**made, **other}


def look(*kinds: dict[str, Any], **other: Any) -> dict[str, Any]:
    made = {"seconds": 3.0, "ended": "time", "lost": 0, "frames": 100, "malformed": 0}
    return {**made, "of_more_kinds": 0, "kinds": list(kinds), **other}


def stats(
    received: int, sent: int, errors: dict[str, int] | None = None, **other: Any
) -> dict[str, Any]:
    output = {
        "interface": "eth1",
        "address": "10.2.0.2",
        "port": 6000,
        "state": "active",
        "reason": None,
        "sent": {"packets": sent},
        "errors": errors or {},
        "refused": other.get("refused", 0),
        "rate_limited": 0,
        "new_member": 0,
    }
    rule = {"received": {"packets": received}, "dropped": {"rate_limited": 0}, "outputs": [output]}
    return {
        "rules": {"a": rule},
        "interfaces": {"eth0": {"dropped": other.get("dropped", {})}},
        "workers": [{"interface": "eth0", "pid": other.get("pid", 7)}],
    }


ACTIVE = Daemon({"state": "active", "reason": None}, "/etc/mcr.toml")
WELL = replace(ACTIVE, before=stats(10, 10), after=stats(110, 110))
HEALTHY = Evidence(RULE, HOST, WELL, look(kind()))


def cause(evidence: Evidence) -> tuple[str, str] | None:
    first = answer(explain(evidence))
    return (first.stage, first.topic) if first is not None else None


def finding(evidence: Evidence, topic: str) -> Finding:
    (found,) = (each for each in explain(evidence) if each.topic == topic)
    return found


def test_a_healthy_rule() -> None:
    assert cause(HEALTHY) is None
    assert {each.answer for each in explain(HEALTHY)} == {"yes", "note"}
    assert next(iter(text("a", explain(HEALTHY)))) == "a: no stage says no"


def test_without_a_daemon_all_that_it_would_know_is_unknown() -> None:
    found = explain(Evidence(RULE, HOST))
    assert answer(found) is None
    assert {f.stage for f in found if f.answer == "unknown"} >= {"file", "frames", "taken"}


@pytest.mark.parametrize(
    ("daemon", "expected"),
    [
        (replace(WELL, refused=("mcr.toml:1:1: nonsense",)), ("file", "refused")),
        (replace(WELL, changed=("outputs[0].ttl 1 -> 8",)), ("file", "not_loaded")),
        (replace(WELL, state={"state": "failed", "reason": "no memory"}), ("file", "state")),
        (replace(WELL, stopped=frozenset({7})), ("taken", "worker")),
        (replace(WELL, after=stats(110, 110, pid=8)), ("taken", "worker")),
        (replace(WELL, after={**stats(110, 110), "workers": []}), ("taken", "worker")),
        (replace(WELL, after=stats(110, 110, dropped={"ring_full": 3})), ("taken", "ring_full")),
        (replace(WELL, after=stats(10, 10)), ("taken", "received")),
        (replace(WELL, after=stats(110, 10)), ("output", "sent")),
        (replace(WELL, after=stats(110, 10, {"EPERM": 100})), ("output", "EPERM")),
        (replace(WELL, after=stats(110, 10, {"EXFULL": 1})), ("output", "EXFULL")),
        (replace(WELL, after=stats(110, 110, refused=1)), ("output", "refused")),
    ],
)
def test_what_the_daemon_says(daemon: Daemon, expected: tuple[str, str]) -> None:
    assert cause(replace(HEALTHY, daemon=daemon)) == expected


def test_errors_and_refusals_from_before_are_a_note() -> None:
    before = stats(10, 10, {"EAGAIN": 5}, refused=2)
    after = stats(110, 110, {"EAGAIN": 5}, refused=2)
    evidence = replace(HEALTHY, daemon=replace(WELL, before=before, after=after))
    assert cause(evidence) is None
    assert finding(evidence, "EAGAIN").answer == finding(evidence, "refused").answer == "note"


def test_what_drops_is_told_where_nothing_is_taken() -> None:
    after = stats(10, 10, dropped={"wrong_source": 100, "unmatched": 3})
    found = finding(replace(HEALTHY, daemon=replace(WELL, after=after)), "received")
    assert "100 wrong_source" in found.text
    assert "sources" in found.remedy


@pytest.mark.parametrize(
    ("other", "topic"),
    [
        ({"port": 5001}, "port"),
        ({"destination": "239.1.1.9"}, "group"),
        ({"vlan": 10}, "vlan"),
        ({"wrong_checksum": True}, "checksum"),
        ({"other_host": True}, "hardware"),
        ({"protocol": "esp", "port": None}, "protocol"),
        ({"fragment": "later", "port": None}, "fragment"),
        ({"fragment": "first"}, "fragment"),
        ({"destination": "239.1.1.9", "port": 9}, "nothing"),
        ({"vlan": 10, "port": 5001}, "nothing"),
        ({"protocol": "igmp", "port": None}, "nothing"),
    ],
)
def test_near_misses(other: dict[str, Any], topic: str) -> None:
    seen = look(kind(**other))
    found = answer(explain(replace(HEALTHY, look=seen)))
    assert found is not None
    assert (found.stage, found.topic) == ("frames", topic)
    assert found.remedy


def test_sources() -> None:
    seen = look(kind(source="10.1.0.9"))
    for given, expected in (
        (replace(RULE.input, sources=(ip_network("10.1.0.1/32"),)), ("frames", "source")),
        (replace(RULE.input, exclude=(ip_network("10.1.0.0/24"),)), ("frames", "source")),
        (replace(RULE.input, sources=(ip_network("10.1.0.0/24"),)), None),
    ):
        assert cause(replace(HEALTHY, rule=replace(RULE, input=given), look=seen)) == expected


def test_a_range_takes_all_its_members() -> None:
    given = Input("eth0", ip_network("239.1.1.0/24"), PortRange(5000, 5009))
    rule = replace(RULE, input=given)
    assert cause(replace(HEALTHY, rule=rule, look=look(kind(port=5009)))) is None
    assert cause(replace(HEALTHY, rule=rule, look=look(kind(port=5010)))) == ("frames", "port")


def test_fragments_of_ipv4_that_are_all_there_are_no_fault() -> None:
    parts = look(kind(fragment="first"), kind(fragment="later", port=None, largest=4028))
    assert cause(replace(HEALTHY, look=parts)) is None
    assert finding(replace(HEALTHY, look=parts), "mtu").answer == "note"


def test_what_is_not_seen_because_nobody_looked_is_unknown() -> None:
    evidence = replace(HEALTHY, look=None, look_error="it is too late")
    assert cause(evidence) is None
    assert "it is too late" in finding(evidence, "seen").text


@pytest.mark.parametrize("missed", ["lost", "of_more_kinds"])
def test_a_look_that_did_not_see_all_is_no_proof(missed: str) -> None:
    evidence = replace(HEALTHY, look=look(**{missed: 1}))
    assert finding(evidence, "nothing").answer == "unknown"
    assert finding(evidence, "cut").answer == "note"


@pytest.mark.parametrize(
    ("bridge", "seen", "expected"),
    [
        (Bridge("br0", True, False, None), True, "note"),
        (Bridge("br0", True, False, None), False, "no"),
        (Bridge("br0", True, True, None), False, "yes"),
        (Bridge("br0", True, False, "10.1.0.9"), False, "yes"),
        (Bridge("br0", False, False, None), False, "unknown"),
        (None, True, "note"),
    ],
)
def test_queriers(bridge: Bridge | None, seen: bool, expected: str) -> None:
    host = replace(HOST, bridge=bridge)
    evidence = replace(HEALTHY, host=host, look=look(*[kind()] * seen))
    assert finding(evidence, "querier").answer == expected
    query = kind(protocol="igmp", port=None, detail="query v3", destination="224.0.0.1")
    heard = replace(evidence, look=look(query))
    assert finding(heard, "querier").answer == "yes"


@pytest.mark.parametrize(
    ("way", "ttl", "topic"),
    [
        (Way(error="Network is unreachable"), 64, "route"),
        (Way(neighbour="FAILED"), 64, "neighbour"),
        (Way(neighbour="INCOMPLETE"), 64, "neighbour"),
        (Way(gateway="10.2.0.9", neighbour="REACHABLE"), 1, "ttl"),
    ],
)
def test_ways(way: Way, ttl: int, topic: str) -> None:
    rule = replace(RULE, outputs=(replace(RULE.outputs[0], ttl=ttl),))
    evidence = replace(HEALTHY, rule=rule, host=replace(HOST, ways={0: way}))
    assert cause(evidence) == ("output", topic)


def test_interfaces_come_before_the_state_that_follows_from_them() -> None:
    waiting = replace(WELL, state={"state": "waiting", "reason": "eth0 is down"})
    down = {**LINKS, "eth0": replace(LINKS["eth0"], up=False)}
    evidence = replace(HEALTHY, daemon=waiting, host=replace(HOST, links=down))
    assert cause(evidence) == ("interface", "down")
    assert finding(evidence, "state").answer == "note"


def test_the_text_is_for_a_terminal() -> None:
    refused = replace(WELL, refused=("bad \x1b[31m name " + "x " * 200,))
    lines = list(text("a", explain(replace(HEALTHY, daemon=refused))))
    assert lines[0].startswith("a: NO: /etc/mcr.toml is refused")
    assert all(len(line) <= 100 and line.isprintable() for line in lines)
    assert any(line.startswith("    What to do: ") for line in lines)
