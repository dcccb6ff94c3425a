"""What of a plan is carried out together."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from mcrd.daemon.executor import Estate
from mcrd.lanes.orders import handed_on
from mcrd.model import Input, PortRange
from mcrd.planning.actual import Failure
from mcrd.planning.plan import Add, Remove, Replace
from mcrd.planning.relays import Relay, RelayKey
from mcrd.planning.resources import Egress, Ingress, Resource, Sending, Worker

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


def test_a_way_that_moved_ends_the_wait_of_outputs_and_of_nothing_else() -> None:
    """A worker that crashes in a row waits on: where the routes lead is nothing to it."""
    estate = Estate(lambda: None)
    worker, host = WORKERS[1], ip_address("192.0.2.7")
    source = ip_address("10.0.0.1")
    egress = Egress(worker, "a", Sending("eth1", 3, source, ttl=64), host, 5000)
    other = replace(egress, sending=replace(egress.sending, interface="eth0"))
    later = time.monotonic() + 20.0
    failed: list[Resource | RelayKey] = [worker, worker.ingress, key("a", 1), egress, other]
    for what in failed:
        estate.failures[what] = Failure("no", later, 3)
    estate.failures.retry_outputs_now({"eth1"})
    failures = estate.actual({}).failures
    assert {what for what, failure in failures.items() if failure.retry_at < later} == {egress}
    estate.failures.retry_now({"eth1"})
    failures = estate.actual({}).failures
    assert {what for what, failure in failures.items() if failure.retry_at == later} == {other}
