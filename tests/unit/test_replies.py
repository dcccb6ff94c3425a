"""`replies` in the plan: the sockets of an asker, by values."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from mcrd.addresses import target
from mcrd.model import Config, Input, Output, Rule
from mcrd.planning.changes import changes
from mcrd.planning.links import Link
from mcrd.planning.needs import needs
from mcrd.planning.replies import (
    answerer,
    answers,
    back,
    belongs,
    ear,
    is_answer,
    receives,
    sockets_of,
)
from mcrd.planning.resources import Egress, Members

ETH0 = Link("eth0", 2, True, True, 1500, 1, tuple(map(ip_interface, ("10.1.0.1/24", "fe80::1/64"))))
ETH1 = Link("eth1", 3, True, True, 1500, 1, (ip_interface("10.2.0.1/24"),))
GROUP = ip_address("239.255.255.250")
ASKER = ip_address("10.1.0.5")


def rule_of(output: Output) -> Rule:
    return Rule("ssdp", Input("eth0", GROUP, 1900), (output,))


def members(output: Output, *links: Link) -> Members:
    rule = rule_of(output)
    found = needs(rule, Config(rules={"ssdp": rule}), {link.name: link for link in links})
    (relay,) = found.whole.values()
    assert relay.by_source
    (only,) = relay.outputs
    assert isinstance(only, Members)
    return only


def asker(output: Output, source: str = "10.1.0.5") -> Egress:
    return members(output, ETH0, ETH1).member(GROUP, 1900, ip_address(source), 40000)


SEARCH = Output("eth1", GROUP, 1900, ttl=4, dscp=8, replies=30.0)


def test_the_sockets_of_an_asker() -> None:
    asks = asker(SEARCH)
    assert sockets_of(asks) == (asks, ear(asks), back(asks))
    assert (asks.source, asks.sending.source_port, asks.transparent) == (
        ip_address("10.2.0.1"),
        None,
        False,
    )
    to_asker = back(asks)
    assert (to_asker.interface, to_asker.address, to_asker.port) == ("eth0", ASKER, 40000)
    assert (to_asker.source, to_asker.sending.ttl, to_asker.sending.dscp) == (
        ip_address("10.1.0.1"),
        64,
        8,
    )
    assert is_answer(to_asker)
    assert not is_answer(asks)
    assert to_asker.target == answers(target(SEARCH)) == ("/eth1", GROUP, 1900)
    # Of a group, only the ear receives; of a host, its own answers come to who asked it.
    assert (receives(asks), receives(ear(asks)), receives(to_asker)) == (False, True, False)
    assert receives(asker(replace(SEARCH, address=ip_address("10.2.0.9"))))


def test_a_higher_ttl_is_that_of_answers_too() -> None:
    assert back(asker(replace(SEARCH, ttl=255))).sending.ttl == 255


def test_who_sends_from_the_port_of_the_output_is_no_asker() -> None:
    """And all others are answered from that port."""
    output = replace(SEARCH, source_port=40000)
    plain = asker(output)
    assert sockets_of(plain) == (plain,)
    assert plain.sending.source_port == 40000
    asks = members(output, ETH0, ETH1).member(GROUP, 1900, ASKER, 40001)
    assert sockets_of(asks) == (asks, ear(asks), back(asks))
    assert (asks.sending.source_port, back(asks).sending.source_port) == (None, 40000)


def test_two_askers_have_nothing_in_common() -> None:
    one, other = (
        members(SEARCH, ETH0, ETH1).member(GROUP, 1900, ASKER, port) for port in (40000, 40001)
    )
    assert not set(sockets_of(one)) & set(sockets_of(other))


def test_without_replies_there_is_one_socket() -> None:
    asks = asker(SEARCH)
    plain = replace(asks, sending=replace(asks.sending, replies=None))
    assert sockets_of(plain) == (plain,)


def test_whose_the_socket_of_an_answerer_is() -> None:
    """Its asker's; not that of an output beside it, which has no answers."""
    asks = asker(replace(SEARCH, keeps_answerer=True))
    theirs = answerer(asks, ip_address("10.2.0.9"), 1900)
    plain = replace(asks, sending=replace(asks.sending, replies=None))
    assert (belongs(theirs, asks), belongs(theirs, plain)) == (True, False)
    other = members(SEARCH, ETH0, ETH1).member(GROUP, 1900, ASKER, 40001)
    assert not belongs(theirs, other)


def test_the_input_needs_an_address_to_answer_from() -> None:
    rule = rule_of(SEARCH)
    config = Config(rules={"ssdp": rule})
    links = {"eth0": replace(ETH0, addresses=()), "eth1": ETH1}
    assert needs(rule, config, links).waits == "eth0 has no IPv4 address to answer from"


@pytest.mark.parametrize(
    ("source", "expected"),
    [("10.1.0.5", "10.1.0.1"), ("10.9.0.5", "10.9.0.1"), ("192.0.2.1", "10.1.0.1")],
)
def test_answers_come_from_the_askers_network(source: str, expected: str) -> None:
    both = replace(ETH0, addresses=(*ETH0.addresses, ip_interface("10.9.0.1/24")))
    asks = members(SEARCH, both, ETH1).member(GROUP, 1900, ip_address(source), 5)
    assert back(asks).source == ip_address(expected)


def test_a_change_is_told_in_seconds() -> None:
    old, new = (
        Config(rules={"ssdp": rule_of(replace(SEARCH, replies=replies))})
        for replies in (None, 30.0)
    )
    assert changes(old, new).changed == {"ssdp": ["outputs[0].replies none -> 30 s"]}
