"""Broadcasts: what a rule file may say of them, and what that means on an interface."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_interface
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from mcrd.config import ConfigError, parse
from mcrd.daemon.index import pack, unpack
from mcrd.dataplane import messages
from mcrd.host.links import broadcasts_of
from mcrd.lanes.orders import may_have
from mcrd.model import BROADCAST, LIMITED_BROADCAST, Config, Output
from mcrd.planning.actual import Actual
from mcrd.planning.broadcast import DEFAULT_LIMIT, NETWORKS_AT_MOST, destination, input_here, limit
from mcrd.planning.doubts import doubt
from mcrd.planning.links import Link, Lookup, lookup
from mcrd.planning.plan import Add, Open, Step, plan
from mcrd.planning.portions import Portion
from mcrd.planning.resources import Egress, Members
from mcrd.sockets.filters import networks
from tests.lab.rules import rule

if TYPE_CHECKING:
    from collections.abc import Sequence

ADDRESSES = tuple(map(ip_interface, ("10.1.0.1/24", "10.7.0.1/16", "10.8.0.0/31", "fd00::1/64")))
NETWORKS = (IPv4Address("10.1.0.255"), IPv4Address("10.7.255.255"))
ETH0 = Link("eth0", 2, True, True, 1500, 1, ADDRESSES, broadcasts=NETWORKS)
ETH1 = Link(
    "eth1",
    *(3, True, True, 1500, 1, (ip_interface("10.2.0.1/24"),)),
    broadcasts=(IPv4Address("10.2.0.255"),),
)
LINKS = {"eth0": ETH0, "eth1": ETH1}


def of(text: str) -> Config:
    return parse(text, "f")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        of(text)
    return [str(problem).partition(": ")[2] for problem in caught.value.problems]


def output(text: str) -> Output:
    return of(rule("a", "eth9 239.1.1.1 5000", text)).rules["a"].outputs[0]


def test_it_is_nothing_but_itself() -> None:
    assert BROADCAST != LIMITED_BROADCAST
    assert LIMITED_BROADCAST != BROADCAST
    assert (str(BROADCAST), f"{BROADCAST}", BROADCAST.packed) == ("broadcast",) * 2 + (b"\xff" * 4,)
    for again in (copy.deepcopy(BROADCAST), pickle.loads(pickle.dumps(BROADCAST))):
        assert again == BROADCAST
        assert hash(again) == hash(BROADCAST)
    config = of(rule("a", "eth0 broadcast 9", "eth1 - -"))
    assert unpack(pack(config)) == config
    assert config.rules["a"].input.address == config.rules["a"].outputs[0].address == BROADCAST


@pytest.mark.parametrize(
    ("given", "outputs", "line"),
    [
        ("eth0 broadcast 9", ("- - -",), "rules.a.outputs[0].interface: missing; expected an "
         "interface name: the routes do not say where a broadcast goes"),
        ("eth0 239.1.1.1 9", ("- 255.255.255.255 -",), "rules.a.outputs[0].interface: missing; "
         "expected an interface name: the routes do not say where a broadcast goes"),
        ("eth0 broadcast 9", ("eth1 - - loop=true",), "rules.a.outputs[0].loop: applies to groups "
         "only; programs on this host hear every broadcast"),
        ("eth0 broadcast 9", ("eth0 255.255.255.255 9",), "rules.a.outputs[0]: overlaps the input "
         "of this rule (f:2:9): both have 255.255.255.255 port 9 on eth0"),
        ("eth0 broadcast 9", ("eth0 - -",), "rules.a.outputs[0]: same interface, address and port "
         "as the input of this rule (f:2:9)"),
        ("eth0 broadcast 9", ('eth1 - - source="fd00::1"',), "rules.a.outputs[0].source: expected "
         "an IPv4 address, as the address of this output is, got fd00::1"),
        ("eth0 ff02::1 9", ('eth1 broadcast - source="keep"',), "rules.a.outputs[0].source: an "
         "IPv6 source cannot be kept towards the IPv4 address broadcast"),
        ('eth0 broadcast 9 sources=["fd00::/8"]', ("eth1 - -",), "rules.a.input.sources[0]: "
         "expected an IPv4 address or prefix, as the address of this input is, got fd00::/8"),
        ("eth0 239.1.0.0/16 9", ("eth1 broadcast -",), "rules.a.outputs[0].address: expected an "
         "IPv4 prefix of /16, as the input's 239.1.0.0/16 is, got broadcast"),
        ("eth0 239.1.1.1 9", ('eth1 broadcast - source="255.255.255.255"',),
         "rules.a.outputs[0].source: expected the address of a group or a host, got the broadcast "
         "address 255.255.255.255"),
    ],
)  # fmt: skip
def test_wrong_rules(given: str, outputs: tuple[str, ...], line: str) -> None:
    assert problems(rule("a", given, *outputs)) == [line]


def test_two_rules_of_one_broadcast() -> None:
    text = rule("a", "eth0 broadcast 9", "eth1 - -") + rule(
        "b", "eth0 255.255.255.255 9", "eth1 - -"
    )
    (found,) = problems(text)
    assert "overlaps rules.a" in found


@pytest.mark.parametrize(
    ("address", "source", "to"),
    [
        ("broadcast", "10.1.0.1", "10.1.0.255"),
        ("broadcast", "10.7.0.1", "10.7.255.255"),
        ("broadcast", "10.8.0.0", "255.255.255.255"),
        ("broadcast", None, "10.1.0.255"),
        ("255.255.255.255", "10.1.0.1", "255.255.255.255"),
        ("10.7.255.255", "10.1.0.1", "10.7.255.255"),
    ],
)
def test_where_it_goes(address: str, source: str | None, to: str) -> None:
    found = destination(
        output(f"eth0 {address} 9"), ETH0, ip_address(source) if source is not None else None
    )
    assert str(found) == to
    bare = replace(ETH0, addresses=(), broadcasts=())
    if address == "broadcast":
        assert destination(output("eth0 broadcast 9"), bare, None) == LIMITED_BROADCAST


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("eth0 broadcast 9", DEFAULT_LIMIT),
        ("eth0 255.255.255.255 9", DEFAULT_LIMIT),
        ("eth0 10.7.255.255 9", DEFAULT_LIMIT),
        ("eth0 10.1.0.254 9", None),
        ("eth0 239.1.1.2 9", None),
        ("eth0 broadcast 9 limit={packets_per_second=7}", 7),
        ("eth0 10.1.0.254 9 limit={packets_per_second=7}", 7),
    ],
)
def test_the_limit(text: str, most: int | None) -> None:
    assert limit(output(text), ETH0) == most


def test_nobody_is_asked_for_the_way() -> None:
    assert lookup(output("eth0 broadcast 9"), "udp") is None
    assert lookup(output("eth0 255.255.255.255 9"), "udp") is None
    assert isinstance(lookup(output("eth0 10.1.0.255 9"), "udp"), Lookup)


def opened(steps: Sequence[Step]) -> list[Egress]:
    resources = [step.resource for step in steps if isinstance(step, Open)]
    return [each for each in resources if isinstance(each, Egress)]


def test_a_plan_follows_the_addresses() -> None:
    config = of(rule("a", "eth0 broadcast 9", "eth1 - -"))
    steps = plan(config, Actual(links=MappingProxyType(LINKS)))
    (egress,) = [
        s.resource for s in steps if isinstance(s, Open) and isinstance(s.resource, Egress)
    ]
    (add,) = [s for s in steps if isinstance(s, Add)]
    assert (egress.address, egress.source) == (ip_address("10.2.0.255"), ip_address("10.2.0.1"))
    assert egress.target == ("eth1", BROADCAST, 9)
    assert (add.relay.input.also, add.relay.portions) == (NETWORKS, (Portion(DEFAULT_LIMIT),))
    new = replace(
        ETH1, addresses=(ip_interface("10.3.0.1/24"),), broadcasts=(IPv4Address("10.3.0.255"),)
    )
    steps = plan(config, Actual(links=MappingProxyType({"eth0": ETH0, "eth1": new})))
    (other,) = opened(steps)
    assert (other.address, other.target) == (ip_address("10.3.0.255"), egress.target)
    taken = {str(network.network_address) for network in networks(config, LINKS)["eth0"]}
    assert taken == {"255.255.255.255", *map(str, NETWORKS)}
    assert input_here(config.rules["a"].input, None).also == ()


def test_members_of_a_broadcast() -> None:
    """What went to 255.255.255.255 stays so; all else goes to the network. No two are equal."""
    config = of(
        rule("a", "eth0 broadcast 9", 'eth1 - - source="keep"', 'eth1 239.1.1.1 - source="keep"')
    )
    steps = plan(config, Actual(links=MappingProxyType(LINKS)))
    (add,) = [step for step in steps if isinstance(step, Add)]
    found = {
        made.member(ip_address(to), 9, ip_address("10.1.0.7"), 4000): str(to)
        for made in add.relay.outputs
        if isinstance(made, Members)
        for to in ("255.255.255.255", "0.0.0.0")
    }
    assert [str(egress.address) for egress in found] == [
        "255.255.255.255",
        "10.2.0.255",
        "239.1.1.1",
        "239.1.1.1",
    ]
    for to, fits in (("255.255.255.255", True), ("0.0.0.0", True), ("10.1.0.255", False)):
        destination = messages.Endpoint(ip_address(to).packed, 9)
        source = messages.Endpoint(ip_address("10.1.0.7").packed, 4000)
        assert may_have(add.relay, messages.MemberKey(0, destination, source)) is fits


def test_no_more_networks_than_fit_a_message() -> None:
    many = tuple(IPv4Address("10.0.0.255") + 256 * number for number in range(2000))
    given = of(rule("a", "eth0 broadcast 9", "eth1 - -")).rules["a"].input
    assert input_here(given, replace(ETH0, broadcasts=many)).also == many[:NETWORKS_AT_MOST]


def test_an_interface_that_has_none() -> None:
    found = doubt(output("eth0 broadcast 9"), replace(ETH0, broadcast=False), ADDRESSES[0].ip)
    assert found is not None
    assert "eth0 has no flag BROADCAST" in found.reason
    assert "10.1.0.255" in found.reason


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({"address": "10.1.0.1", "prefixlen": 24}, ["10.1.0.255"]),
        ({"address": "10.1.0.1", "prefixlen": 24, "broadcast": "10.1.0.255"}, ["10.1.0.255"] * 2),
        ({"address": "10.1.0.1", "prefixlen": 24, "broadcast": "10.1.0.7"},
         ["10.1.0.7", "10.1.0.255"]),
        ({"address": "10.1.0.1", "prefixlen": 24, "broadcast": "255.255.255.255"}, ["10.1.0.255"]),
        ({"address": "10.1.0.1", "prefixlen": 31}, []),
        ({"local": "10.1.0.1", "address": "10.9.0.1", "prefixlen": 30}, ["10.9.0.3"]),
        ({"address": "fd00::1", "prefixlen": 64}, []),
    ],
)  # fmt: skip
def test_those_that_the_kernel_has(message: dict[str, object], found: list[str]) -> None:
    assert list(map(str, broadcasts_of(message))) == found
