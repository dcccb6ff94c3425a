"""Names of interfaces: what a rule file means by them, and what it says twice."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface

import pytest

from mcrd import config
from mcrd.model import Config, Interface
from mcrd.planning import names
from mcrd.planning.actual import Actual
from mcrd.planning.links import Link
from mcrd.planning.needs import KnownNeeds, needs
from mcrd.planning.plan import Close, Open, Relieve, plan
from mcrd.planning.resources import Ingress
from mcrd.planning.states import states
from mcrd.sockets.filters import networks
from tests.lab.rules import rule

LONG = "v" * 60
ETH0 = Link("eth0", 2, True, True, 1500, 1, (), ("video", LONG))
ETH1 = Link("eth1", 3, True, True, 1500, 1, (), ("hall",))
LINKS = names.by_name([ETH0, ETH1])


def parse(*rules: str) -> Config:
    return config.parse("".join(rules), "f")


def test_every_name_leads_to_its_interface() -> None:
    assert {name: link.name for name, link in LINKS.items()} == {
        "eth0": "eth0",
        "video": "eth0",
        LONG: "eth0",
        "eth1": "eth1",
        "hall": "eth1",
    }


def test_a_real_name_wins_over_an_alternative_one() -> None:
    here = names.by_name([replace(ETH0, alternatives=("eth1",)), ETH1])
    assert here["eth1"] is ETH1
    assert names.real("eth1", here) == "eth1"


def test_without_other_names_nothing_is_made_anew() -> None:
    rules = parse(rule("a", "eth0 239.1.1.1 5000", "eth1 239.1.1.1 5000", "gone 239.1.1.1 5000"))
    assert names.config_here(rules, LINKS) is rules
    assert names.rule_here(rules.rules["a"], LINKS) is rules.rules["a"]
    assert names.doubles(rules, LINKS) is names.NONE


def test_the_rules_by_the_interfaces_own_names() -> None:
    rules = parse(
        rule("a", f"{LONG} 239.1.1.1 5000", "hall 239.2.2.2 5000", "gone 239.1.1.1 5000"),
        "[interfaces.video]\nworkers = 3\n[interfaces.hall]\nworkers = 4\n",
        "[interfaces.eth1]\nworkers = 5\n",
    )
    here = names.config_here(rules, LINKS)
    assert here.rules["a"].input.interface == "eth0"
    assert [output.interface for output in here.rules["a"].outputs] == ["eth1", "gone"]
    assert here.interfaces == {"eth0": Interface(workers=3), "eth1": Interface(workers=5)}
    assert names.settings(rules, ETH0) == Interface(workers=3)
    assert names.settings(rules, ETH1) == Interface(workers=5)
    assert names.settings(rules, Link("eth2", 4, True, True, 1500, 1)) == Interface()
    assert names.aliases(names.used(rules), LINKS) == {
        LONG: "eth0",
        "video": "eth0",
        "hall": "eth1",
    }
    assert names.doubles(rules, LINKS).tables == {
        "hall": "has no effect beside interfaces.eth1: hall and eth1 are one interface"
    }


def test_one_filter_for_all_names_of_an_interface() -> None:
    rules = parse(
        rule("a", "eth0 239.1.1.1 5000", "eth1 239.1.1.1 5000"),
        rule("b", "video 239.1.1.2 5000", "eth1 239.1.1.2 5000"),
        rule("c", "gone 239.1.1.2 5000", "eth1 239.1.1.2 5000"),
    )
    found = networks(rules, LINKS)
    assert {name: len(taken) for name, taken in found.items()} == {"eth0": 2, "gone": 1}


FIRST = rule("a", "eth0 239.1.1.1 5000", "eth1 239.2.2.2 5000 source_port=7")
ONE = "video and eth0 are one interface"


@pytest.mark.parametrize(
    ("second", "doubles"),
    [
        (rule("b", "video 239.1.1.2 5000", "eth1 239.2.2.2 5001"), {}),
        (
            rule("b", "video 239.1.1.1 5000", "eth1 239.2.2.2 5001"),
            {"b": f"same input as rules.a: {ONE}"},
        ),
        (
            rule("b", "video 239.1.1.0/24 5000", "eth1 239.2.2.0/24 5001"),
            {"b": f"overlaps rules.a: {ONE}"},
        ),
        (rule("b", "video 239.1.1.1 5000 vlan=5", "eth1 239.2.2.2 5001"), {}),
        (rule("b", 'video 239.1.1.1 -  protocol="esp"', "eth1 239.2.2.2 -"), {}),
        (rule("b", "video 239.1.1.1 5000", "eth1 239.2.2.2 5001", more="enabled = false"), {}),
        (
            rule("b", "eth1 239.1.1.1 5000", "eth0 239.2.2.2 5001", "video 239.2.2.2 5001"),
            {("b", 1): f"sends where outputs[0] does: {ONE}"},
        ),
        (
            rule("b", "video 239.9.1.1 5000", "eth0 239.9.1.1 5000", "eth1 239.9.1.1 5000"),
            {("b", 0): "sends where the rule's own input is: eth0 and video are one interface"},
        ),
        (
            rule("b", "eth1 239.9.1.1 5000", "hall 239.2.2.2 5000 source_port=7"),
            {
                ("b", 0): "same source port, source and destination as an output of rules.a: "
                "hall and eth1 are one interface"
            },
        ),
    ],
)
def test_what_is_said_twice_by_two_names(second: str, doubles: dict[object, str]) -> None:
    rules = parse(FIRST, second)
    found = names.doubles(rules, LINKS)
    assert dict([*found.inputs.items(), *found.outputs.items()]) == doubles


def test_who_says_it_second_waits_with_a_reason_and_ends_waiting_with_the_name() -> None:
    rules = parse(FIRST, rule("b", "video 239.1.1.1 5000", "eth1 239.2.2.2 5001"))
    now = states(rules, Actual(links=LINKS))["b"]
    assert (now.state, now.reason) == ("waiting", f"same input as rules.a: {ONE}")
    # Asked for alone, as by mcrctl explain, it is no other.
    known = KnownNeeds()
    assert states(rules, Actual(links=LINKS), known, {"b": rules.rules["b"]}) == {"b": now}
    moved = names.by_name([replace(ETH0, alternatives=()), replace(ETH1, alternatives=("video",))])
    assert names.doubles(rules, moved).of(rules.rules["b"]) == ()


def test_reasons_have_both_names() -> None:
    rules = parse(rule("a", "video 239.1.1.1 5000", "hall 239.2.2.2 5001"))
    down = names.by_name([replace(ETH0, up=False), replace(ETH1, addresses=())])
    entry = needs(rules.rules["a"], rules, down)
    assert entry.waits == "hall (eth1) has no IPv4 address"
    entry = needs(rules.rules["a"], rules, names.by_name([ETH0, replace(ETH1, carrier=False)]))
    assert entry.waits == "hall (eth1) has no carrier"


def test_a_renamed_interface_is_the_same_ring() -> None:
    """Its alternative name stays: the new ring takes the place of the old one."""
    rules = parse(rule("a", "video 239.1.1.1 5000", "eth1 239.1.1.1 5000"))
    eth1 = replace(ETH1, addresses=(ip_interface("10.0.0.1/8"),))
    links = names.by_name([replace(ETH0, name="new"), eth1])
    steps = plan(rules, Actual(links=links, open=frozenset({Ingress("eth0", 2)})))
    old, new = Ingress("eth0", 2), Ingress("new", 2)
    assert steps[0] == Open(new)
    assert steps[-2:] == (Relieve(new, old), Close(old))
