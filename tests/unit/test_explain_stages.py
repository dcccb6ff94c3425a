"""The stages of mcrctl explain: what follows from what is known."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, ip_address, ip_network
from typing import Any

import msgspec
import pytest
from msgspec import structs

from mcrd import answers
from mcrd.cli.explain import text
from mcrd.counters import Stats
from mcrd.explain.evidence import Daemon, Evidence, Finding, Host, Way
from mcrd.explain.stages import answer, explain
from mcrd.host.bridges import Bridge
from mcrd.inspected import clock
from mcrd.looks import Heard, Kind, Look, Query, Returned
from mcrd.model import Input, Output, Place, PortRange, Rule
from mcrd.observe.kinds import mark
from mcrd.planning.links import Link
from mcrd.sums import InspectCount, Last, MergeCount

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


def kind(**other: Any) -> Kind:
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
        "outgoing": False,
        "inner_vlan": None,
        "rule": None,
        "back": False,
        "count": 100,
        "largest": 1344,
        "ttl_lowest": 1,
        "ttl_highest": 1,
    }
    return Kind(**{**made, **other})


def look(*kinds: Kind, **other: Any) -> Look:
    made = {"seconds": 3.0, "ended": "time", "lost": 0, "frames": 100, "malformed": 0}
    return Look(**{**made, "of_more_kinds": 0, "kinds": list(kinds), **other})


def stats(received: int, sent: int, errors: dict[str, int] | None = None, **other: Any) -> Stats:
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
        "not_wanted": other.get("not_wanted", 0),
        "answers": other.get("answers"),
    }
    rule = {"received": {"packets": received}, "dropped": {"rate_limited": 0}, "outputs": [output]}
    made = {
        "rules": {"a": rule},
        "interfaces": {"eth0": {"dropped": other.get("dropped", {}), **other.get("rings", {})}},
        "workers": [{"interface": "eth0", "pid": other.get("pid", 7)}],
    }
    return msgspec.convert(made, Stats)


ACTIVE = Daemon(answers.Rule("active"), "/etc/mcr.toml")
WELL = replace(ACTIVE, before=stats(10, 10), after=stats(110, 110))
HEALTHY = Evidence(RULE, HOST, WELL, look(kind()))
# Nothing that the rule takes came.
SILENT = Evidence(RULE, HOST, replace(WELL, after=stats(10, 10)), look())


def cause(evidence: Evidence) -> tuple[str, str] | None:
    first = answer(explain(evidence))
    return (first.stage, first.topic) if first is not None else None


def finding(evidence: Evidence, topic: str) -> Finding:
    (found,) = (each for each in explain(evidence) if each.topic == topic)
    return found


def test_what_an_output_skips_is_no_fault() -> None:
    skips = replace(WELL, after=stats(110, 10, not_wanted=100))
    found = finding(replace(HEALTHY, daemon=skips), "not_wanted")
    assert (found.answer, found.text) == (
        "note",
        "100 packets were not for this output, by their source, or as nobody has joined their"
        " group",
    )
    assert finding(replace(HEALTHY, daemon=skips), "sent").answer == "unknown"
    assert cause(replace(HEALTHY, daemon=skips)) is None


def test_a_healthy_rule() -> None:
    assert cause(HEALTHY) is None
    assert {each.answer for each in explain(HEALTHY)} == {"yes", "note"}
    said = "a: it flows: the rule received 100 packets meanwhile, and every output sends"
    assert next(iter(text("a", explain(HEALTHY)))) == said


def test_without_a_daemon_all_that_it_would_know_is_unknown() -> None:
    found = explain(Evidence(RULE, HOST))
    assert answer(found) is None
    assert {f.stage for f in found if f.answer == "unknown"} >= {"file", "frames", "taken"}


@pytest.mark.parametrize(
    ("daemon", "expected"),
    [
        (replace(WELL, refused=("mcr.toml:1:1: nonsense",)), ("file", "refused")),
        (replace(WELL, changed=("outputs[0].ttl 1 -> 8",)), ("file", "not_loaded")),
        (replace(WELL, state=answers.Rule("failed", "no memory")), ("file", "state")),
        (replace(WELL, stopped=frozenset({7})), ("taken", "worker")),
        (replace(WELL, after=stats(110, 110, pid=8)), ("taken", "worker")),
        (replace(WELL, after=structs.replace(stats(110, 110), workers=[])), ("taken", "worker")),
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


@pytest.mark.parametrize(
    ("rate", "gro", "said"), [(99_999, None, 0), (100_000, None, 1), (900_000, True, 0)]
)
def test_what_comes_fast_is_better_merged(rate: int, gro: bool | None, said: int) -> None:
    rings = {"rate": {"second": {"packets": rate}}, "gro": gro}
    found = explain(replace(HEALTHY, daemon=replace(WELL, after=stats(110, 110, rings=rings))))
    notes = [each.text for each in found if each.topic == "gro"]
    assert (
        notes == ["100,000 packets/s without `gro`, which halves what they take of the CPU"] * said
    )
    assert answer(found) is None


def test_errors_and_refusals_whichbefore_are_a_note() -> None:
    before = stats(10, 10, {"EAGAIN": 5}, refused=2)
    after = stats(110, 110, {"EAGAIN": 5}, refused=2)
    evidence = replace(HEALTHY, daemon=replace(WELL, before=before, after=after))
    assert cause(evidence) is None
    assert finding(evidence, "refused").answer == "note"
    assert not [each for each in explain(evidence) if each.topic == "EAGAIN"]  # it sends by now
    still = replace(evidence, daemon=replace(WELL, before=before, after=before), look=look())
    assert finding(still, "EAGAIN").answer == "note"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, [("unknown", "nothing that was sent was answered so far")]),
        ({"sent": {"packets": 3}}, {"sent": {"packets": 3}}, []),
        (
            {"sent": {"packets": 3}},
            {"sent": {"packets": 5}},
            [("yes", "2 answers went back to who asked meanwhile")],
        ),
        (
            {"late": 1},
            {"late": 4, "sent": {"packets": 1}},
            [
                ("note", "3 answers did not go back: late (after the time of the asker)"),
                ("yes", "1 answers went back to who asked meanwhile"),
            ],
        ),
    ],
)
def test_answers(
    before: dict[str, Any], after: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    daemon = replace(
        ACTIVE, before=stats(10, 10, answers=before), after=stats(110, 110, answers=after)
    )
    findings = explain(replace(HEALTHY, daemon=daemon))
    assert [(f.answer, f.text) for f in findings if f.topic == "answers"] == expected
    assert cause(replace(HEALTHY, daemon=daemon)) is None


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
    found = answer(explain(replace(SILENT, look=seen)))
    assert found is not None
    assert (found.stage, found.topic) == ("frames", topic)
    assert found.remedy


def test_sources() -> None:
    seen = look(kind(source="10.1.0.9"))
    for given, expected in (
        (replace(RULE.input, sources=(ip_network("10.1.0.1/32"),)), ("frames", "source")),
        (replace(RULE.input, exclude=(ip_network("10.1.0.0/24"),)), ("frames", "source")),
    ):
        assert cause(replace(SILENT, rule=replace(RULE, input=given), look=seen)) == expected
    allowed = replace(RULE, input=replace(RULE.input, sources=(ip_network("10.1.0.0/24"),)))
    assert cause(replace(HEALTHY, rule=allowed, look=seen)) is None


def test_a_range_takes_all_its_members() -> None:
    given = Input("eth0", ip_network("239.1.1.0/24"), PortRange(5000, 5009))
    rule = replace(RULE, input=given)
    assert cause(replace(HEALTHY, rule=rule, look=look(kind(port=5009)))) is None
    assert cause(replace(SILENT, rule=rule, look=look(kind(port=5010)))) == ("frames", "port")


def test_fragments_of_ipv4_that_are_all_there_are_no_fault() -> None:
    parts = look(kind(fragment="first"), kind(fragment="later", port=None, largest=4028))
    assert cause(replace(HEALTHY, look=parts)) is None
    assert finding(replace(HEALTHY, look=parts), "mtu").answer == "note"


def test_what_is_not_seen_because_nobody_looked_is_unknown() -> None:
    evidence = replace(HEALTHY, look=None, look_error="it is too late")
    assert cause(evidence) is None
    assert "it is too late" in finding(evidence, "seen").text


@pytest.mark.parametrize(("missed", "expected"), [("lost", "unknown"), ("of_more_kinds", "no")])
def test_a_look_that_did_not_see_all_is_no_proof(missed: str, expected: str) -> None:
    """But kinds that the rule takes have room of their own."""
    evidence = replace(SILENT, look=look(**{missed: 1}))
    assert finding(evidence, "nothing").answer == expected
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
    evidence = replace(HEALTHY if seen else SILENT, host=host)
    assert finding(evidence, "querier").answer == expected
    query = kind(protocol="igmp", port=None, detail="query v3", destination="224.0.0.1")
    heard = replace(evidence, look=look(query))
    assert finding(heard, "querier").answer == "yes"


@pytest.mark.parametrize(
    ("way", "ttl", "topic"),
    [
        (Way(error="ENETUNREACH"), 64, "route"),
        (Way(neighbour="FAILED"), 64, "neighbour"),
        (Way(neighbour="INCOMPLETE"), 64, "neighbour"),
        (Way(gateway="10.2.0.9", neighbour="REACHABLE"), 1, "ttl"),
    ],
)
def test_ways(way: Way, ttl: int, topic: str) -> None:
    rule = replace(RULE, outputs=(replace(RULE.outputs[0], ttl=ttl),))
    evidence = replace(HEALTHY, rule=rule, host=replace(HOST, ways={0: way}))
    assert cause(evidence) == ("output", topic)


def test_interfaces_come_before_the_state_that_follows_whichthem() -> None:
    waiting = replace(WELL, state=answers.Rule("waiting", "eth0 is down"))
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
def test_sizes(seen: Kind, mtu: int, way: Way, expected: str) -> None:
    links = {**LINKS, "eth1": replace(LINKS["eth1"], mtu=mtu)}
    parts = [kind(fragment="first")] if seen.fragment else []
    host = replace(HOST, links=links, ways={0: way})
    found = finding(replace(HEALTHY, host=host, look=look(seen, *parts)), "mtu")
    assert found.answer == expected


def test_a_super_frame_says_nothing_of_the_size_of_its_packets() -> None:
    evidence = replace(HEALTHY, look=look(kind(largest=9000)))
    assert not [each for each in explain(evidence) if each.topic == "mtu"]


QUERY = {"address": "10.2.0.9", "version": 3, "ago_s": 20.0, "answered": True, "gone": False}
TO_GROUP = replace(RULE, outputs=(Output("eth1", ip_address("239.2.2.2"), 6000, ttl=64),))


def member(group: str, ago_s: float = 10.0, sources: list[str] | None = None) -> dict[str, Any]:
    return {"group": group, "host": "10.2.0.2", "sources": sources, "ago_s": ago_s}


def heard(
    *members: dict[str, Any], query: dict[str, Any] | None = QUERY, routers: tuple[str, ...] = ()
) -> dict[str, dict[str, Heard]]:
    """On eth1, of IGMP."""
    entry = {"listened_s": 300.0, "query": query, "members": [*members], "routers": [*routers]}
    return {"eth1": {"igmp": msgspec.convert(entry, Heard)}}


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
        (heard({**ANOTHER, "rule": "b"}), "unknown"),  # that is what b sends there
        # From one source: that has to be the one that is sent from.
        (heard(member("239.2.2.2", sources=["10.2.0.1"])), "yes"),
        (heard(member("239.2.2.2", sources=["10.1.0.1"])), "no"),
    ],
)
def test_receivers(told: dict[str, dict[str, Heard]], expected: str) -> None:
    seen = look(kind(), heard=told)
    found = finding(replace(HEALTHY, rule=TO_GROUP, look=seen), "receiver")
    assert (found.stage, found.answer) == ("output", expected)
    assert (expected == "no") <= bool(found.remedy)


def test_a_kept_source_is_that_of_the_packets() -> None:
    kept = replace(TO_GROUP, outputs=(replace(TO_GROUP.outputs[0], source="keep"),))
    for source, expected in (("10.1.0.1", "yes"), ("10.2.0.1", "unknown")):
        seen = look(kind(), heard=heard(member("239.2.2.2", sources=[source])))
        assert finding(replace(HEALTHY, rule=kept, look=seen), "receiver").answer == expected


def test_receivers_are_not_looked_for_where_nobody_asks() -> None:
    outputs = (RULE.outputs[0], replace(RULE.outputs[0], address=ip_address("224.0.0.50")))
    seen = look(kind(), heard=heard(ANOTHER))
    found = explain(replace(HEALTHY, rule=replace(RULE, outputs=outputs), look=seen))
    assert not [each for each in found if each.topic == "receiver"]
    assert not [each for each in explain(HEALTHY) if each.topic == "receiver"]


def came_back(kind: int, code: int, **other: Any) -> Returned:
    made = {"host": "10.2.0.9", "type": kind, "code": code, "destination": "10.2.0.2"}
    made |= {"source": "10.2.0.1", "protocol": "udp"}
    return Returned(**{**made, "port": 6000, "count": 3, "ago_s": 1.0, **other})


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
        (came_back(11, 0, source="1.2.3.4"), None),  # this host never sent that
        (came_back(11, 0, protocol="esp", port=0), None),
        (came_back(3, 1, host="10.2.0.1"), None),  # this host: nobody answers ARP
    ],
)
def test_what_came_back(error: Returned, expected: str | None) -> None:
    evidence = replace(HEALTHY, look=look(kind(), returned=[error]))
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
        ({**QUERY, "ago_s": 700.0, "gone": True}, False, "no"),
        ({**QUERY, "ago_s": 700.0, "gone": True}, True, "note"),
        (None, False, "unknown"),
        (None, True, "note"),
    ],
)
def test_the_last_query(query: dict[str, Any] | None, seen: bool, expected: str) -> None:
    told = {"eth0": heard(query=query)["eth1"]}
    which = HEALTHY if seen else SILENT
    evidence = replace(which, look=look(*[kind()] * seen, heard=told))
    found = finding(evidence, "querier")
    assert found.answer == expected
    assert ("10.2.0.9" in found.text) is (query is not None)


@pytest.mark.parametrize(
    ("wanted", "missing", "expected", "told"),
    [
        ("239.1.1.0/30", (), "yes", "each of the 4 groups"),
        ("239.1.1.0/30", ("239.1.1.2",), "note", "1 of 4 groups, as 239.1.1.2"),
        ("239.0.0.0/16", None, "note", "too many groups"),
        ("239.1.1.1/32", None, "unknown", "cannot find out"),
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


@pytest.mark.parametrize(
    ("address", "which", "expected"),
    [("232.1.1.1", SILENT, "no"), ("232.1.1.1", HEALTHY, "note"), ("239.1.1.1", SILENT, "note")],
)
def test_a_source_specific_group_of_which_nobody_names_a_source(
    address: str, which: Evidence, expected: str
) -> None:
    to = (replace(TO_GROUP.outputs[0], when="members"),)
    rule = replace(RULE, input=replace(RULE.input, address=ip_address(address)), outputs=to)
    host = replace(HOST, not_joined=[ip_address(address)])
    found = finding(replace(which, rule=rule, host=host), "joined")
    assert found.answer == expected
    assert ("no member names a source" in found.text) is address.startswith("232")
    assert ("IGMPv3" in found.remedy) is address.startswith("232")


def test_a_loop_is_told_of_although_it_flows() -> None:
    after = stats(110, 110, dropped={"own_output": 7})
    found = finding(replace(HEALTHY, daemon=replace(WELL, after=after)), "own_output")
    assert found.answer == "note"
    assert found.text.startswith("7 ")


def test_a_loop_is_named_even_if_it_is_over() -> None:
    after = stats(110, 110)
    after.rules["a"].dropped["looped"] = 5
    after.rules["a"].returner = "10.1.0.9"
    before = stats(10, 10)
    before.rules["a"].dropped["looped"] = 5
    daemon = replace(WELL, before=before, after=after)
    found = finding(replace(HEALTHY, daemon=daemon), "looped")
    assert found.answer == "note"
    assert "5 packets came back" in found.text
    assert "0 of them meanwhile" in found.text
    assert "10.1.0.9 brought the last one" in found.text


def test_a_leg_with_a_fault_is_told() -> None:
    after = stats(110, 110)
    after.rules["a"].merge = MergeCount(received=100, first=100, lost=7)
    after.rules["a"].leg_faults = ["leg_apart"]
    told = replace(HEALTHY, daemon=replace(WELL, after=after))
    assert finding(told, "leg_apart").answer == "no"
    assert "another stream" in finding(told, "leg_apart").text
    assert finding(told, "merge").text == "merged: 100 received: 100 first, 7 lost"


def test_what_was_lost_before_is_said_with_its_time() -> None:
    after = stats(110, 110)
    after.rules["a"].inspect = told = InspectCount(inspected=5, lost=12, formats=["rtp"])
    told.last_lost = Last(12, 0.0)
    daemon = replace(WELL, after=after)
    found = finding(replace(HEALTHY, daemon=daemon), "lost_before")
    assert found.answer == "note"
    assert found.text == f"lost before it came here: 12 packets at {clock(0.0)}"
    assert "nothing is lost on this host" in found.remedy
    after.interfaces["eth0"].dropped["ring_full"] = 7
    assert (
        "of the 7 that eth0 lost here"
        in finding(replace(HEALTHY, daemon=daemon), "lost_before").remedy
    )
    told.lost = 0
    assert finding(replace(HEALTHY, daemon=daemon), "lost_before").text.startswith(
        "nothing was lost"
    )
    told.formats = []
    assert "not known" in finding(replace(HEALTHY, daemon=daemon), "lost_before").text


@pytest.mark.parametrize(
    ("heard_query", "flows", "expected"),
    [(None, False, "no"), (None, True, "note"), (QUERY, False, "no"), (0.5, False, "yes")],
)
def test_queries_that_the_kernel_drops(heard_query: Any, flows: bool, expected: str) -> None:
    """The look sees them at the interface, and the raw socket behind the checks does not."""
    asked = {**QUERY, "ago_s": heard_query} if isinstance(heard_query, float) else heard_query
    query = kind(protocol="igmp", port=None, detail="query v3", destination="224.0.0.1")
    told = {"eth0": heard(query=asked)["eth1"]}
    seen = look(query, *[kind()] * flows, heard=told)
    which = replace(HEALTHY if flows else SILENT, host=replace(HOST, reverse_filter=1), look=seen)
    assert finding(which, "querier").answer == expected
    assert ("rp_filter" in finding(which, "querier").remedy) is (expected != "yes")


def test_a_slow_stream_is_no_fault_whatever_else_comes() -> None:
    counted = stats(1483, 0)
    counted.rules["a"].rate.minute.packets = 0.2
    slow = replace(SILENT, daemon=replace(WELL, before=counted, after=counted))
    bridge = Bridge("br0", True, False, None)
    for other in (kind(destination="239.1.1.9"), kind(port=5001), kind(vlan=7)):
        seen = replace(slow, host=replace(HOST, bridge=bridge), look=look(other))
        assert cause(seen) is None
        assert finding(seen, "nothing").answer == "unknown"


def waiting(reason: str = "eth1 is missing") -> Daemon:
    return replace(SILENT.daemon or WELL, state=answers.Rule("waiting", reason))


def test_what_waits_for_an_output_asks_for_nothing() -> None:
    """The switch sends nothing then: that is no fault of the source."""
    links = {"eth0": LINKS["eth0"]}
    bridge = Bridge("br0", True, False, None)
    host = replace(HOST, links=links, bridge=bridge)
    for seen in (look(), look(kind(port=9)), look(ended="interface", frames=0)):
        evidence = replace(SILENT, host=host, daemon=waiting(), look=seen)
        assert cause(evidence) == ("output", "missing")


def test_what_another_rule_takes_is_no_remedy() -> None:
    for other in ({"destination": "239.1.1.9"}, {"port": 5001}):
        seen = look(kind(**other, rule="b"))
        evidence = replace(SILENT, look=seen)
        assert cause(evidence) == ("frames", "nothing")
        assert "(rule b)" in finding(evidence, "nothing").text
        assert cause(replace(HEALTHY, look=seen)) is None  # received all the same
    other_family = look(kind(destination="ff15::1", source="fd01::1"))
    assert cause(replace(SILENT, look=other_family)) == ("frames", "nothing")
    assert "ff15" not in finding(replace(SILENT, look=other_family), "nothing").text


def test_what_this_host_sends_itself() -> None:
    seen = look(kind(outgoing=True, rule="b"))
    found = answer(explain(replace(SILENT, look=seen)))
    assert found is not None
    assert (found.topic, "rule b" in found.text) == ("own", True)
    assert cause(replace(HEALTHY, look=look(kind(), kind(outgoing=True)))) is None


def test_two_tags() -> None:
    seen = look(kind(vlan=10, inner_vlan=20))
    assert cause(replace(SILENT, look=seen)) == ("frames", "vlan")
    assert "VLAN 10 with 20 in it" in finding(replace(SILENT, look=seen), "vlan").text
    tagged = replace(RULE, input=replace(RULE.input, vlan=10))
    assert cause(replace(SILENT, rule=tagged, look=seen)) == ("frames", "vlan")


@pytest.mark.parametrize(
    ("received", "rate", "expected", "told"),
    [
        (0, 0.0, "no", "never received any"),
        (1483, 0.0, "no", "1483 packets before, and none in the last minute"),
        (1483, 200.0, "no", "it has just ended"),
        (1483, 0.2, "unknown", "12 packets in the last minute"),
        (1483, 0.016, "unknown", "1 packet in the last minute"),
        (1483, 4.25, "no", "it was 4.2 in a second: it has just ended"),
    ],
)
def test_when_it_flowed(received: int, rate: float, expected: str, told: str) -> None:
    counted = stats(received, 0)
    counted.rules["a"].rate.minute.packets = rate
    evidence = replace(SILENT, daemon=replace(WELL, before=counted, after=counted))
    found = finding(evidence, "nothing")
    assert found.answer == expected
    assert told in found.text
    assert ("--seconds" in found.remedy) is (expected == "unknown")


@pytest.mark.parametrize(
    ("addresses", "seen", "expected"),
    [(("10.1.0.50/24",), False, "yes"), ((), False, "no"), ((), True, "note")],
)
def test_unicast_inputs(addresses: tuple[str, ...], seen: bool, expected: str) -> None:
    rule = replace(RULE, input=Input("eth0", ip_address("10.1.0.50"), 5000))
    own = tuple(map(IPv4Interface, addresses))
    host = replace(HOST, links={**LINKS, "eth0": replace(LINKS["eth0"], addresses=own)})
    which = HEALTHY if seen else SILENT
    assert finding(replace(which, rule=rule, host=host), "host").answer == expected


BAD = "/etc/mcr.toml:3:1: rules.{}.input.port: nonsense"


@pytest.mark.parametrize(
    ("changes", "topic", "expected"),
    [
        ({"refused": (BAD.format("a"),)}, "refused", "no"),
        ({"refused": (BAD.format("b"), BAD.format("a"))}, "refused", "no"),
        ({"refused": (BAD.format("b"), BAD.format("ab"))}, "refused", "note"),
        ({"refused": ("/etc/mcr.toml:3:1: expected a value",)}, "refused", "no"),
        ({"changed": ("input.port 1 -> 2",)}, "not_loaded", "no"),
        ({"changed": ("description a -> b",)}, "not_loaded", "note"),
        ({"changed": ("the rule is no longer there",), "removed": True}, "not_loaded", "no"),
    ],
)
def test_the_file_that_is_not_what_runs(changes: dict[str, Any], topic: str, expected: str) -> None:
    found = finding(replace(HEALTHY, daemon=replace(WELL, **changes)), topic)
    assert found.answer == expected
    assert ("ends this rule" in found.remedy) is bool(changes.get("removed"))


@pytest.mark.parametrize(
    ("error", "told"),
    [("ENETUNREACH", "no route"), ("EINVAL", "blackhole"), ("EACCES", "prohibit")],
)
def test_routes_that_refuse(error: str, told: str) -> None:
    evidence = replace(HEALTHY, host=replace(HOST, ways={0: Way(error=error)}))
    found = finding(evidence, "route")
    assert (found.answer, told in found.text) == ("no", True)


def test_what_this_host_sends_to_itself() -> None:
    local = replace(HEALTHY, host=replace(HOST, ways={0: Way(local=True)}))
    assert finding(local, "route").answer == "note"
    joined = replace(HEALTHY, rule=TO_GROUP, host=replace(HOST, joined_here=frozenset({0})))
    assert "loop = true" in finding(joined, "loop").remedy


def test_groups_of_one_network_need_no_querier_and_no_ttl() -> None:
    output = replace(RULE.outputs[0], address=ip_address("224.0.0.251"), ttl=1)
    given = replace(RULE.input, address=ip_address("224.0.0.251"))
    rule = replace(RULE, input=given, outputs=(output,))
    evidence = replace(HEALTHY, rule=rule, look=look(kind(destination="224.0.0.251")))
    assert not {each.topic for each in explain(evidence)} & {"querier", "ttl"}


def test_the_text_fits_the_terminal_and_points_to_what_is_not_known() -> None:
    seen = look(kind(), heard=heard(ANOTHER, query=None))
    lines = list(text("a", explain(replace(HEALTHY, rule=TO_GROUP, look=seen)), 60))
    assert all(len(line) <= 60 for line in lines)
    assert any(line.startswith("    Not known: nobody on eth1") for line in lines)
    assert "kept" not in "".join(lines)


def test_receivers_on_this_host() -> None:
    looped = replace(TO_GROUP, outputs=(replace(TO_GROUP.outputs[0], loop=True),))
    host = replace(HOST, joined_here=frozenset({0}), bridges={0: WITHHOLDS})
    seen = look(kind(), heard=heard(ANOTHER))
    found = finding(replace(HEALTHY, rule=looped, host=host, look=seen), "receiver")
    assert found.answer == "yes"


def test_more_members_than_are_remembered_are_no_proof() -> None:
    told = heard(ANOTHER)
    told["eth1"]["igmp"].forgot = True
    found = finding(replace(HEALTHY, rule=TO_GROUP, look=look(kind(), heard=told)), "receiver")
    assert found.answer == "unknown"


def test_rules_that_share_a_group_by_source_or_relay_both_ways() -> None:
    shared = [
        RULE,
        replace(RULE, name="b", input=replace(RULE.input, sources=(ip_network("10.1.0.2"),))),
        replace(RULE, name="back", input=Input("eth1", ip_address("10.2.0.2"), 6000)),
    ]
    shared[2] = replace(shared[2], outputs=(Output("eth0", RULE.input.address, 5000, ttl=1),))
    kinds = [kind(source="10.1.0.2"), kind(source="10.1.0.3"), kind(outgoing=True)]
    mark(look(*kinds), RULE, shared)
    assert [(each.rule, each.back) for each in kinds] == [
        ("b", False),
        (None, False),
        ("back", True),
    ]
    assert cause(replace(SILENT, look=look(kinds[2]))) == ("frames", "nothing")


def test_kinds_are_marked_with_the_other_rule_that_has_them() -> None:
    def output(interface: str, address: str, port: int) -> Output:
        return Output(interface, ip_address(address), port, ttl=1)

    rules = [
        RULE,
        Rule("b", Input("eth0", ip_address("239.1.1.2"), 5000), (output("eth1", "239.9.9.9", 1),)),
        Rule(
            "c", Input("eth1", ip_address("239.1.1.3"), 5000), (output("eth0", "239.1.1.1", 5000),)
        ),
        Rule("d", Input("eth0", ip_network("239.8.0.0/16"), PortRange(1, 9)), RULE.outputs),
        Rule("e", Input("eth0", ip_address("239.1.1.5"), 5000), RULE.outputs, enabled=False),
    ]
    kinds = [
        kind(),
        kind(destination="239.1.1.2"),
        kind(destination="239.1.1.2", port=5001),
        kind(destination="239.1.1.3"),
        kind(outgoing=True),
        kind(destination="239.8.7.6", port=5),
        kind(destination="239.1.1.5"),
    ]
    told = heard(member("239.9.9.9"), member("239.9.9.8"))
    mark(look(*kinds, heard=told), RULE, rules)
    assert [each.rule for each in told["eth1"]["igmp"].members] == ["b", None]
    assert [each.rule for each in kinds] == [None, "b", None, None, "c", "d", None]


UNASKED = structs.replace(heard(query=None)["eth1"]["igmp"], listened_s=900.0)
ASKED = msgspec.convert(QUERY, Query)


@pytest.mark.parametrize(
    ("told", "flows", "expected"),
    [
        (UNASKED, False, "unknown"),
        (UNASKED, True, "note"),
        (structs.replace(UNASKED, query=structs.replace(ASKED, gone=True)), False, "no"),
        (structs.replace(UNASKED, listened_s=60.0), False, "unknown"),
    ],
)
def test_where_nobody_asks_rejoin_is_named_and_where_it_is_set_it_is_told(
    told: Heard, flows: bool, expected: str
) -> None:
    seen = look(*[kind()] * flows, heard={"eth0": {"igmp": told}})
    which = replace(HEALTHY if flows else SILENT, look=seen)
    found = finding(which, "querier")
    assert found.answer == expected
    assert REJOIN in found.remedy
    again = finding(reported(which), "querier")
    assert (again.answer, again.remedy) == ("note", "")
    assert "every 30 s" in again.text


REJOIN = 'rejoin = "60s"` under [interfaces.eth0]'


def reported(evidence: Evidence) -> Evidence:
    """With rejoin in the rule file."""
    daemon = evidence.daemon
    assert daemon is not None
    assert daemon.state is not None
    state = structs.replace(daemon.state, input=answers.Input(rejoin_s=30.0))
    return replace(evidence, daemon=replace(daemon, state=state))


@pytest.mark.parametrize(
    ("told", "came", "named"),
    [
        (UNASKED, 10, True),
        (UNASKED, 0, False),  # it never came: that is something else
        (structs.replace(UNASKED, listened_s=60.0), 10, False),
        (structs.replace(UNASKED, query=ASKED), 10, False),
    ],
)
def test_a_stream_that_stopped_where_nobody_asks(told: Heard, came: int, named: bool) -> None:
    """The answer itself says what to do."""
    seen = look(heard={"eth0": {"igmp": told}})
    counted = stats(came, came)
    daemon = replace(WELL, before=counted, after=counted)
    evidence = replace(SILENT, look=seen, daemon=daemon)
    first = answer(explain(evidence))
    assert first is not None
    assert first.topic == "nothing"
    assert ("forgotten" in first.text, REJOIN in first.remedy) == (named, named)
    assert REJOIN not in finding(reported(evidence), "nothing").remedy
