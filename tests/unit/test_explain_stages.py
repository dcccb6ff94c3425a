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
HOST = Host(LINKS, not_joined=(), ways={0: Way(neighbour="REACHABLE")}, reverse_filter=0)


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


@pytest.mark.parametrize(
    ("seen", "mtu", "way", "expected"),
    [
        (kind(largest=1400), 1500, Way(), "yes"),
        (kind(largest=1400), 1399, Way(), "no"),
        (kind(largest=1400), 1500, Way(mtu=1399), "no"),
        (kind(largest=1400), 1300, Way(mtu=1400), "no"),
        (kind(largest=4028, fragment="later", port=None), 1500, Way(), "note"),
    ],
)
def test_sizes(seen: dict[str, Any], mtu: int, way: Way, expected: str) -> None:
    links = {**LINKS, "eth1": replace(LINKS["eth1"], mtu=mtu)}
    parts = [kind(fragment="first")] if seen["fragment"] else []
    host = replace(HOST, links=links, ways={0: way})
    found = finding(replace(HEALTHY, host=host, look=look(seen, *parts)), "mtu")
    assert found.answer == expected


def test_a_super_frame_says_nothing_of_the_size_of_its_packets() -> None:
    evidence = replace(HEALTHY, look=look(kind(largest=9000)))
    assert not [each for each in explain(evidence) if each.topic == "mtu"]


QUERY = {"address": "10.2.0.9", "version": 3, "ago_s": 20.0, "answered": True}
TO_GROUP = replace(RULE, outputs=(Output("eth1", ip_address("239.2.2.2"), 6000, ttl=64),))


def member(group: str, ago_s: float = 10.0, sources: list[str] | None = None) -> dict[str, Any]:
    return {"group": group, "host": "10.2.0.2", "sources": sources, "ago_s": ago_s}


def heard(
    *members: dict[str, Any], query: dict[str, Any] | None = QUERY, routers: tuple[str, ...] = ()
) -> dict[str, Any]:
    """On eth1, of IGMP."""
    entry = {"listened_s": 300.0, "query": query, "members": [*members], "routers": [*routers]}
    return {"eth1": {"igmp": entry}}


MINE, ANOTHER = member("239.2.2.2"), member("239.2.2.3")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (heard(MINE, ANOTHER), "yes"),
        (heard(member("239.2.2.2", 200.0), query=None), "yes"),
        (heard(ANOTHER), "no"),
        # No proof: what is no answer to a query, a query that can still be answered or whose
        # answers pass unheard, hosts that have joined what every host has, and routers.
        (heard(), "unknown"),
        (heard(ANOTHER, query=None), "unknown"),
        (heard(member("239.2.2.3", 30.0)), "unknown"),
        (heard(ANOTHER, query={**QUERY, "answered": False}), "unknown"),
        (heard(ANOTHER, query={**QUERY, "version": 2}), "unknown"),
        (heard(member("224.0.0.251"), member("239.255.255.250")), "unknown"),
        (heard(ANOTHER, routers=("10.2.0.254",)), "unknown"),
        # From one source: that has to be the one that is sent from.
        (heard(member("239.2.2.2", sources=["10.2.0.1"])), "yes"),
        (heard(member("239.2.2.2", sources=["10.1.0.1"])), "no"),
    ],
)
def test_receivers(told: dict[str, Any], expected: str) -> None:
    seen = {**look(kind()), "heard": told}
    found = finding(replace(HEALTHY, rule=TO_GROUP, look=seen), "receiver")
    assert (found.stage, found.answer) == ("output", expected)
    assert (expected == "no") <= bool(found.remedy)


def test_a_kept_source_is_that_of_the_packets() -> None:
    kept = replace(TO_GROUP, outputs=(replace(TO_GROUP.outputs[0], source="keep"),))
    for source, expected in (("10.1.0.1", "yes"), ("10.2.0.1", "no")):
        seen = {**look(kind()), "heard": heard(member("239.2.2.2", sources=[source]))}
        assert finding(replace(HEALTHY, rule=kept, look=seen), "receiver").answer == expected


def test_receivers_are_not_looked_for_where_nobody_asks() -> None:
    outputs = (RULE.outputs[0], replace(RULE.outputs[0], address=ip_address("224.0.0.50")))
    seen = {**look(kind()), "heard": heard(ANOTHER)}
    found = explain(replace(HEALTHY, rule=replace(RULE, outputs=outputs), look=seen))
    assert not [each for each in found if each.topic == "receiver"]
    assert not [each for each in explain(HEALTHY) if each.topic == "receiver"]


def came_back(kind: int, code: int, **other: Any) -> dict[str, Any]:
    made = {"host": "10.2.0.9", "type": kind, "code": code, "destination": "10.2.0.2"}
    return {**made, "port": 6000, "count": 3, "ago_s": 1.0, **other}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (came_back(11, 0), "TTL"),
        (came_back(3, 3), "nobody listens"),
        (came_back(3, 13), "prohibited"),
        (came_back(3, 1), "unreachable"),
        (came_back(3, 4), "too large"),
        (came_back(12, 1), "type 12, code 1"),
        (came_back(11, 0, port=6001), None),  # about somebody else's packets
        (came_back(11, 0, destination="10.2.0.3"), None),
        (came_back(11, 0, ago_s=30.0), None),  # before the look
    ],
)
def test_what_came_back(error: dict[str, Any], expected: str | None) -> None:
    evidence = replace(HEALTHY, look={**look(kind()), "returned": [error]})
    found = answer(explain(evidence))
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found.topic, expected in found.text) == ("refused", True)
        assert "10.2.0.9" in found.text


WITHHOLDS = Bridge("eth1", True, True, None, frozenset({"239.2.2.3"}))


@pytest.mark.parametrize(
    ("bridge", "expected"),
    [
        (WITHHOLDS, ("output", "snooping")),
        (replace(WITHHOLDS, groups=frozenset({"239.2.2.2"})), None),
        (replace(WITHHOLDS, routers=True), None),
        (replace(WITHHOLDS, own=False), None),  # without a querier it floods
        (replace(WITHHOLDS, own=False, heard="10.2.0.9"), ("output", "snooping")),
        (replace(WITHHOLDS, snooping=False), None),
        (replace(WITHHOLDS, name="br0"), None),  # eth1 is a port of it
    ],
)
def test_bridges_that_are_outputs(bridge: Bridge, expected: tuple[str, str] | None) -> None:
    evidence = replace(HEALTHY, rule=TO_GROUP, host=replace(HOST, bridges={0: bridge}))
    assert cause(evidence) == expected


@pytest.mark.parametrize(
    ("query", "seen", "expected"),
    [
        ({**QUERY, "ago_s": 100.0}, False, "yes"),
        ({**QUERY, "ago_s": 700.0}, False, "no"),
        ({**QUERY, "ago_s": 700.0}, True, "note"),
        (None, False, "unknown"),
        (None, True, "note"),
    ],
)
def test_the_last_query(query: dict[str, Any] | None, seen: bool, expected: str) -> None:
    told = {"eth0": heard(query=query)["eth1"]}
    evidence = replace(HEALTHY, look={**look(*[kind()] * seen), "heard": told})
    found = finding(evidence, "querier")
    assert found.answer == expected
    assert ("10.2.0.9" in found.text) is (query is not None)


@pytest.mark.parametrize(
    ("wanted", "missing", "expected", "told"),
    [
        ("239.1.1.0/30", (), "yes", "each of the 4 groups"),
        ("239.1.1.0/30", ("239.1.1.2",), "note", "1 of 4 groups, as 239.1.1.2"),
        ("239.0.0.0/16", None, "note", "too many groups"),
        ("239.1.1.1/32", None, "unknown", "cannot be told"),
    ],
)
def test_ranges_are_joined(
    wanted: str, missing: tuple[str, ...] | None, expected: str, told: str
) -> None:
    rule = replace(RULE, input=replace(RULE.input, address=ip_network(wanted)))
    groups = None if missing is None else [ip_address(group) for group in missing]
    found = finding(replace(HEALTHY, rule=rule, host=replace(HOST, not_joined=groups)), "joined")
    assert found.answer == expected
    assert told in found.text


def test_a_loop_is_told_of_although_it_flows() -> None:
    after = stats(110, 110, dropped={"own_output": 7})
    found = finding(replace(HEALTHY, daemon=replace(WELL, after=after)), "own_output")
    assert found.answer == "note"
    assert found.text.startswith("7 ")


@pytest.mark.parametrize(
    ("reverse_filter", "addresses", "back", "seen", "expected"),
    [
        (1, True, "eth0", False, "yes"),
        (1, True, "eth1", False, "no"),
        (1, True, "eth1", True, "note"),
        (1, True, None, False, "no"),
        (2, True, "eth1", False, "yes"),
        (2, True, None, False, "no"),
        (2, False, "eth1", False, "no"),
        (0, False, None, False, "yes"),
    ],
)
def test_queries_that_the_kernel_drops(
    reverse_filter: int, addresses: bool, back: str | None, seen: bool, expected: str
) -> None:
    eth0 = LINKS["eth0"] if addresses else replace(LINKS["eth0"], addresses=())
    host = replace(
        HOST,
        links={**LINKS, "eth0": eth0},
        reverse_filter=reverse_filter,
        back={"10.9.0.1": back},
    )
    query = kind(
        protocol="igmp", port=None, detail="query v3", destination="224.0.0.1", source="10.9.0.1"
    )
    evidence = replace(HEALTHY, host=host, look=look(query, *[kind()] * seen))
    assert finding(evidence, "querier").answer == expected
    assert not [each for each in explain(evidence) if each.stage == "kernel"]
