"""Which outputs a rule that stands by hears of the other host, and what that takes."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest

from mcrd.config import parse
from mcrd.planning.actual import Actual, Failure
from mcrd.planning.links import Link
from mcrd.planning.needs import KnownNeeds, needs
from mcrd.planning.plan import Open, plan
from mcrd.planning.relays import Relay
from mcrd.planning.resources import Egress, Membership
from tests.lab.rules import rule

LINKS = {
    name: Link(name, index, True, True, 1500, 1, (ip_interface(f"10.{index}.0.1/24"),))
    for index, name in enumerate(("in0", "out0"), 1)
}
PAIR = 'active_with = "10.9.9.9"'
KEEPS = f'{PAIR}\nstandby = "1s"'


def relay_of(output: str, more: str = KEEPS) -> Relay:
    """What a worker does for a rule with that output."""
    config = parse(rule("a", "in0 239.1.1.1 5000", output, more=more), "test.toml")
    (found,) = needs(config.rules["a"], config, LINKS).whole.values()
    return found


def test_a_group_is_heard_where_the_other_host_sends_to_it() -> None:
    ear = relay_of("out0 239.2.2.2 6000 ttl=2").ear
    assert ear is not None
    assert (ear.interface, ear.address, ear.port) == ("out0", ip_address("239.2.2.2"), 6000)
    assert ear.hears
    # Another source or TTL is the same ear.
    assert relay_of('out0 239.2.2.2 6000 ttl=3 source="10.2.0.1"').ear == ear


@pytest.mark.parametrize(
    ("output", "more"),
    [
        ("out0 239.2.2.2 6000 ttl=2", PAIR),
        ("out0 10.2.0.9 6000", KEEPS),
        ('out0 239.2.2.2 6000 ttl=2 when="members"', KEEPS),
        ("out0 239.2.2.2 6000 ttl=2 limit={packets_per_second=10}", KEEPS),
        ("out0 239.2.2.2 6000 ttl=2 sample=10", KEEPS),
        ("out0 232.2.2.2 6000 ttl=2", KEEPS),
        ('out0 239.2.2.2 6000 ttl=2 source="keep"', KEEPS),
    ],
)
def test_others_are_not(output: str, more: str) -> None:
    config = parse(rule("a", "in0 239.1.1.1 5000", output, more=more), "test.toml")
    whole = needs(config.rules["a"], config, LINKS).whole
    assert all(relay.ear is None for relay in whole.values())


def test_what_one_of_several_outputs_sent_is_not_what_all_sent() -> None:
    outputs = ("out0 239.2.2.2 6000 ttl=2", "out0 239.2.2.3 6000 ttl=2")
    config = parse(rule("a", "in0 239.1.1.1 5000", *outputs, more=KEEPS), "test.toml")
    (found,) = needs(config.rules["a"], config, LINKS).whole.values()
    assert (found.ear, len(found.outputs)) == (None, 2)


@pytest.mark.parametrize(
    ("output", "hears"),
    [
        ("out0 239.2.2.2 6001 ttl=2", False),
        ("out0 239.2.0.0/16 6001 ttl=2", False),
        ("out0 239.3.0.0/16 6001 ttl=2", True),
        ("in0 239.2.2.2 6001 ttl=2", True),
    ],
)
def test_nobody_becomes_a_member_of_what_another_rule_sends_to_members(
    output: str, hears: bool
) -> None:
    """Also where the other rule comes later, whatever is remembered of this one."""
    group = "239.4.0.0/16" if "/16" in output else "239.4.4.4"
    alone = rule("a", "in0 239.1.1.1 5000", "out0 239.2.2.2 6000 ttl=2", more=KEEPS)
    gate = rule("b", f"in0 {group} 5001", f'{output} when="members"')
    known, actual = KnownNeeds(), Actual(LINKS)
    for text, is_heard in ((alone, True), (alone + gate, hears), (alone, True)):
        config = parse(text, "test.toml")
        for found in (
            needs(config.rules["a"], config, LINKS),
            known.of(config.rules["a"], config, actual),
        ):
            (relay,) = found.whole.values()
            assert (relay.ear is not None) == is_heard, text


def test_it_takes_a_socket_and_a_membership_and_the_rule_can_do_without() -> None:
    text = rule("a", "in0 239.1.1.1 5000", "out0 239.2.2.2 6000 ttl=2", more=KEEPS)
    config = parse(text, "test.toml")
    actual = Actual(LINKS)
    steps = plan(config, actual)
    opened = [step.resource for step in steps if isinstance(step, Open)]
    assert Membership("out0", 2, ip_address("239.2.2.2")) in opened
    (ear,) = (each for each in opened if isinstance(each, Egress) and each.hears)
    without = Actual(LINKS, failures={ear: Failure("no", 1e9, 1)})
    (relay,) = (step.relay for step in plan(config, without) if hasattr(step, "relay"))
    assert (relay.ear, len(relay.outputs)) == (None, 1)
