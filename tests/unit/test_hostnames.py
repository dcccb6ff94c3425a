"""Outputs to hosts by their names: which outputs they become."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest

from mcrd.config import ConfigError, parse
from mcrd.config.outputs import CHOOSING_AT_MOST
from mcrd.daemon.index import pack, unpack
from mcrd.host.resolver import Resolver
from mcrd.model import HostName
from mcrd.planning import names
from mcrd.planning.actual import Actual
from mcrd.planning.hostnames import ADDRESSES_AT_MOST, NAMES_AT_MOST, Resolved, names_of_hosts
from mcrd.planning.links import Link
from mcrd.planning.patterns import Patterns
from mcrd.planning.plan import plan
from mcrd.planning.states import states
from tests.lab.rules import rule

OWN = tuple(map(ip_interface, ("10.2.0.1/24", "fd02::1/64")))
LINKS = names.by_name([Link(f"r{n}", n + 1, True, True, 1500, 1, OWN) for n in range(3)])
INPUT = "r0 239.1.1.1 5000"
POD = "r1 pods.test 6000"
SIX = "r0 ff15::1 5000"


def resolved(*addresses: str, trouble: str = "") -> dict[str, Resolved]:
    return {"pods.test": Resolved(tuple(map(ip_address, addresses)), trouble)}


def became(found: dict[str, Resolved], given: str, *outputs: str) -> list[str]:
    """Where the rule sends then, by interface and address."""
    config = parse(rule("a", given, *outputs), "f")
    made = Patterns(resolved=found).expand(config, LINKS)
    return [f"{one.interface or '-'} {one.address}" for one in made.rules["a"].outputs]


@pytest.mark.parametrize(
    ("found", "given", "outputs", "expected"),
    [
        ({}, INPUT, [POD], ["r1 pods.test"]),
        (resolved(), INPUT, [POD], ["r1 pods.test"]),
        # In the order in which they came, whatever they are by number.
        (resolved("10.2.0.9", "10.2.0.8"), INPUT, [POD], ["r1 10.2.0.9", "r1 10.2.0.8"]),
        # Of one family: that of the input, else that which there is, but that of the source first.
        (resolved("10.2.0.9", "fd02::9"), INPUT, [POD], ["r1 10.2.0.9"]),
        (resolved("10.2.0.9", "fd02::9"), SIX, [POD], ["r1 fd02::9"]),
        (resolved("fd02::9"), INPUT, [POD], ["r1 fd02::9"]),
        (resolved("fd02::9"), INPUT, ['r1 pods.test 6000 source="10.2.0.1"'], ["r1 pods.test"]),
        (
            resolved("10.2.0.9", "fd02::9"),
            INPUT,
            ['r1 pods.test 6000 source="fd02::1"'],
            ["r1 fd02::9"],
        ),
        (resolved("fd02::9"), INPUT, ['r1 pods.test 6000 source="keep"'], ["r1 pods.test"]),
        # What is no host is left out, and what is of a link without an interface.
        (resolved("239.9.9.9", "255.255.255.255", "0.0.0.0"), INPUT, [POD], ["r1 pods.test"]),
        (resolved("fe80::9"), SIX, ["- pods.test 6000"], ["- pods.test"]),
        (resolved("fe80::9"), SIX, [POD], ["r1 fe80::9"]),
        # None gets it twice.
        (
            resolved("10.2.0.9", "10.2.0.8"),
            INPUT,
            [POD, "r1 10.2.0.8 6000"],
            ["r1 10.2.0.9", "r1 10.2.0.8"],
        ),
        (
            resolved("10.2.0.9"),
            INPUT,
            ["r[12] pods.test 6000", "r2 10.2.0.9 6000"],
            ["r1 10.2.0.9", "r2 10.2.0.9"],
        ),
        # Nor does it go where it came from, or to this host itself.
        (resolved("127.0.0.1", "10.2.0.9"), INPUT, [POD], ["r1 10.2.0.9"]),
        (
            resolved("fd02::9"),
            INPUT,
            ['r1 pods.test 6000 source="keep" replies="9s"'],
            ["r1 pods.test"],
        ),
        (
            resolved("10.1.0.2", "10.2.0.9"),
            "r0 10.1.0.2 5000",
            ["- pods.test 5000"],
            ["- 10.2.0.9"],
        ),
    ],
)
def test_what_becomes_of_a_name(
    found: dict[str, Resolved], given: str, outputs: list[str], expected: list[str]
) -> None:
    assert became(found, given, *outputs) == expected


def test_more_addresses_than_are_sent_to() -> None:
    many = tuple(ip_address(f"10.2.{n // 200}.{n % 200 + 1}") for n in range(ADDRESSES_AT_MOST + 3))
    patterns = Patterns(resolved={"pods.test": Resolved(many)})
    made = patterns.expand(parse(rule("a", INPUT, "r1 pods.test 6000"), "f"), LINKS)
    assert [each.address for each in made.rules["a"].outputs] == list(many[:ADDRESSES_AT_MOST])
    says = "pods.test has more addresses than a rule can send to; left out: 3"
    assert [line for line in made.warnings if line.endswith(f"rules.a.outputs[0].address: {says}")]


def test_more_addresses_than_a_worker_can_choose_for() -> None:
    """The rule would fail as a whole, with its other outputs."""
    many = tuple(ip_address(f"10.2.1.{n + 1}") for n in range(100))
    patterns = Patterns(resolved={"pods.test": Resolved(many)})
    text = rule("a", INPUT, "r1 pods.test 6000 sample=2", "r1 10.2.0.9 6000 sample=3")
    made = patterns.expand(parse(text, "f"), LINKS)
    outputs = made.rules["a"].outputs
    assert len(outputs) == CHOOSING_AT_MOST
    assert outputs[-1].address == ip_address("10.2.0.9")
    assert [line for line in made.warnings if line.endswith("left out: 37")]


def test_names_that_are_too_many() -> None:
    found: dict[str, Resolved] = {}
    resolver = Resolver(found, lambda: None)
    resolver.want([f"{n}.test" for n in range(NAMES_AT_MOST + 1)])
    assert found == {"256.test": Resolved(trouble="more than 256 names are not looked up")}
    resolver.want(["256.test"])
    resolver.want([])
    assert found == {}


def test_nothing_is_made_anew_while_the_addresses_stay() -> None:
    config = parse(rule("a", INPUT, "r1 pods.test 6000"), "f")
    found = resolved("10.2.0.9")
    patterns = Patterns(resolved=found)
    first = patterns.expand(config, LINKS)
    assert patterns.expand(config, LINKS) is first
    found.update(resolved("10.2.0.9", "10.2.0.10"))
    assert len(patterns.expand(config, LINKS).rules["a"].outputs) == 2


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({}, "pods.test: its addresses are not known yet"),
        (resolved(trouble="no DNS server answered"), "pods.test: no DNS server answered"),
        (resolved("239.9.9.9"), "pods.test: it cannot be sent to 239.9.9.9"),
    ],
)
def test_a_name_without_an_address_waits(found: dict[str, Resolved], reason: str) -> None:
    config = parse(rule("a", INPUT, "r1 pods.test 6000", "- pods.test 7000"), "f")
    made = Patterns(resolved=found).expand(config, LINKS)
    actual = Actual(links=LINKS)
    assert plan(made, actual) == ()
    state = states(made, actual)["a"]
    assert (state.state, state.reason) == ("waiting", reason)
    assert {each.reason for each in state.outputs} == {reason}


def test_names_that_are_looked_up() -> None:
    text = rule("a", INPUT, "r1 Pods.TEST 6000", "r1 more.test. 6000", "r1 10.0.0.1 6000")
    text += rule("b", "r0 239.1.1.2 5000", "r1 off.test 6000").replace("b]", "b]\nenabled = false")
    assert names_of_hosts(parse(text, "f")) == ["pods.test", "more.test."]


@pytest.mark.parametrize(
    ("given", "outputs", "says"),
    [
        ("r0 239.1.0.0/24 5000", ["r1 pods.test 6000"], "expected an IPv4 prefix of /24"),
        (INPUT, ["r1 pods.test 6000", "r1 PODS.test 6000"], "same interface, address and port as"),
        (INPUT, ['r1 pods.test 6000 when="members"'], "there are members of groups only"),
        (INPUT, ["r1 pods.test 6000 loop=true"], "applies to groups only; pods.test is a host"),
        ("r0 pods.test 5000", ["r1 239.2.2.2 6000"], "a name, with a dot, may stand in an output"),
    ],
)
def test_wrong_names(given: str, outputs: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(rule("a", given, *outputs), "f")
    assert any(says in str(problem) for problem in caught.value.problems)


def test_a_name_is_handed_over() -> None:
    name = HostName("pods.test", "why")
    again = unpack(pack(name))
    assert (again, again.why, again == name) == (HostName("pods.test"), "", False)
    assert name != ip_address("0.0.0.0")
