"""The picture of what flows where: from the daemon's answers to text and SVG."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcrd.answers import Asked, Members, Switch
from mcrd.cli import graph, svg
from mcrd.counters import InterfaceCounts, OutputCounts, RuleCounts, Stats
from mcrd.picture import Picture, bits_text, picture
from mcrd.sums import InspectCount, Rate, Traffic

SVG = "{http://www.w3.org/2000/svg}"
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def rate(packets: int, size: int = 1000) -> Rate:
    return Rate(Traffic(packets, packets * size))


def output(interface: str, packets: int, **other: object) -> OutputCounts:
    address = {"interface": interface, "address": "239.2.2.2", "port": 6000, "state": "active"}
    return OutputCounts(**address, rate=rate(packets), **other)  # type: ignore[arg-type]


STATS = Stats(
    rules={
        "camera": RuleCounts(
            "eth0", "eth0", "active", dropped={"rate_limited": 3, "looped": 0}, rate=rate(2000),
            outputs=[output("eth1", 2000), output("eth2", 500, errors={"EAGAIN": 7})],
            address="239.1.1.1", port=5000, description="The <door>",
        ),
        "news@eth0": RuleCounts(
            "eth0", "eth0", "active", silent=True, switch=Switch(1, used=True), leg=1,
            inspect=InspectCount(lost=9), address="ff15::1", port=5000,
        ),
        "news@eth3": RuleCounts(
            "eth3", None, "waiting", "eth3 is missing", switch=Switch(2), leg=2,
        ),
    },
    interfaces={
        "eth0": InterfaceCounts(dropped={"rate_limited": 3, "ring_full": 5}, rate=rate(2010)),
    },
)  # fmt: skip
MEMBERS = Members(asked=[Asked("eth2", "igmp", "10.0.0.1", elected=True)])
SHOWN = picture(STATS, MEMBERS)


def test_inputs_of_one_stream_are_its_own_and_rules_of_a_pattern_are_not() -> None:
    rules = {"all@br-1": RuleCounts("br-1", "br-1", "active"), "hall@eth0": RuleCounts(leg=1)}
    shown = picture(Stats(rules=rules), MEMBERS).rules
    assert [rule.stream for rule in shown.values()] == ["", "hall"]
    assert {SHOWN.rules[f"news@eth{n}"].stream for n in (0, 3)} == {"news"}


def test_a_rule_has_its_rate_state_and_losses() -> None:
    camera = SHOWN.rules["camera"]
    assert (camera.packets, camera.bits, camera.lost) == (2000, 16_000_000, {"rate_limited": 3})
    assert (camera.source, camera.about, camera.state) == ("239.1.1.1:5000", "The <door>", "active")
    assert [each.lost for each in camera.outputs] == [{}, {"EAGAIN": 7}]


def test_legs_know_their_stream_and_which_is_in_use() -> None:
    first, second = SHOWN.rules["news@eth0"], SHOWN.rules["news@eth3"]
    assert (first.stream, first.used, first.state, first.before) == ("news", True, "silent", 9)
    assert (second.stream, second.used, second.state) == ("news", False, "waiting")
    assert (first.source, second.source) == ("[ff15::1]:5000", "")


def test_an_interface_has_what_no_rule_counts_and_who_asks_there() -> None:
    assert SHOWN.interfaces["eth0"].lost == {"ring_full": 5}
    assert SHOWN.interfaces["eth2"].queriers == ["IGMP: 10.0.0.1 (this host) asks; 0 groups wanted"]


def test_text_for_a_ticket() -> None:
    assert "\n".join(graph.text(SHOWN)) == (
        "eth0  2010 packets/s, 16.1 Mbit/s; lost: 5 ring_full\n"
        "  +-- camera  239.1.1.1:5000  ========== active; 2000 packets/s, 16 Mbit/s;"
        " lost: 3 rate_limited\n"
        "  |     --> eth1 239.2.2.2:6000  ========== active; 2000 packets/s, 16 Mbit/s\n"
        "  |     --> eth2 239.2.2.2:6000  === active; 500 packets/s, 4 Mbit/s; lost: 7 EAGAIN\n"
        "  +-- news@eth0  [ff15::1]:5000  silent; 0 packets/s, 0 bit/s; in use; 9 lost before\n"
        "eth3  not there\n"
        "  +-- news@eth3    waiting: eth3 is missing; 0 packets/s, 0 bit/s; not in use"
    )


def test_a_flow_is_as_wide_as_its_rate() -> None:
    drawn = ET.fromstring("\n".join(svg.drawing(SHOWN)))
    width = {
        path.findtext(f"{SVG}title"): float(path.get("stroke-width", ""))
        for path in drawn.iter(f"{SVG}path")
    }
    assert width["active, 2000 packets/s, 16 Mbit/s"] == svg.WIDEST
    assert width["active, 500 packets/s, 4 Mbit/s"] == svg.WIDEST / 4
    assert width["silent, 0 packets/s, 0 bit/s"] == svg.NARROWEST


@given(NAMES, NAMES, NAMES)
def test_no_name_becomes_markup(name: str, interface: str, why: str) -> None:
    rule = RuleCounts(interface, interface, why, why, dropped={why: 1}, outputs=[output(name, 1)])
    rule.description = why
    stats = Stats(rules={name: rule}, interfaces={interface: InterfaceCounts(dropped={why: 2})})
    shown = picture(stats, Members())
    drawn = ET.fromstring("\n".join(svg.drawing(shown)))
    plain = {"svg", "title", "style", "path", "rect", "text", "tspan", "g"}
    assert {element.tag.removeprefix(SVG) for element in drawn.iter()} <= plain
    assert all(line.isprintable() for line in graph.text(shown))


def test_only_what_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert graph.run(SHOWN, ["news", "cam*"], "json") == 0
    assert json.loads(capsys.readouterr().out)["rules"].keys() == SHOWN.rules.keys()
    assert graph.run(SHOWN, ["news@eth3"], "json") == 0
    assert json.loads(capsys.readouterr().out)["interfaces"] == {}
    assert graph.run(SHOWN, ["none"], "svg") == 1
    assert capsys.readouterr().out == "no rule is called none\n"


def test_nothing_to_show() -> None:
    empty = Picture({}, {})
    assert list(graph.text(empty)) == ["no rules"]
    ET.fromstring("\n".join(svg.drawing(empty)))


@pytest.mark.parametrize(
    ("bits", "text"), [(999, "999 bit/s"), (1500, "1.5 kbit/s"), (22_400_000_000, "22.4 Gbit/s")]
)
def test_rates_as_people_read_them(bits: int, text: str) -> None:
    assert bits_text(bits) == text
