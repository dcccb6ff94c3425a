"""What of a plan is carried out together."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from mcrd.apply import handed_on
from mcrd.model import Input, PortRange
from mcrd.plan import Add, Relay, RelayKey, Remove, Replace
from mcrd.resources import Ingress, Worker

WORKERS = [Worker(Ingress(name, index)) for index, name in enumerate(("eth0", "eth1"), 2)]


def key(rule: str, worker: int = 0) -> RelayKey:
    return RelayKey(WORKERS[worker], rule)


def relay(address: str, port: int | PortRange = 5000, limit: int | None = None) -> Relay:
    where = ip_network(address) if "/" in address else ip_address(address)
    return Relay(Input("eth0", where, port, limit=limit), (), ())


ONE, TWO, THREE = (relay(f"239.1.1.{last}") for last in (1, 2, 3))
RANGE = relay("239.1.1.0/24", PortRange(4000, 6000))
HAS = {key("a"): ONE, key("b"): TWO, key("r"): RANGE, key("a", 1): ONE}
FAR = relay("239.9.9.9")


@pytest.mark.parametrize(
    ("steps", "together"),
    [
        ([Replace(key("a"), TWO), Replace(key("b"), ONE)], "ab"),
        ([Replace(key("a"), FAR), Add(key("c"), ONE)], "ac"),
        ([Replace(key("a"), TWO), Replace(key("b"), THREE), Add(key("c"), ONE)], "abc"),
        ([Replace(key("r"), FAR), Add(key("c"), THREE)], "rc"),
        ([Replace(key("a"), FAR), Add(key("c"), RANGE)], "ac"),
        # Nothing is handed on.
        ([Replace(key("a"), THREE), Replace(key("b"), FAR)], ""),
        ([Replace(key("a"), relay("239.1.1.1", limit=9)), Replace(key("b"), FAR)], ""),
        ([Add(key("c"), ONE), Remove(key("a"))], ""),
        ([Replace(key("a", 1), FAR), Add(key("c"), ONE)], ""),
        ([Replace(key("r"), FAR), Add(key("c"), relay("239.1.1.3", 7000))], ""),
    ],
)
def test_what_hands_an_input_on_is_carried_out_together(
    steps: list[Add | Replace | Remove], together: str
) -> None:
    assert {each.rule for each in handed_on(steps, HAS)} == set(together)
