"""Outputs to hosts and the routes there: followed, counted where they lead nowhere, and explained.

    +--------+ s0      r0 +-------+ r1 10.2.0.1 ---- 10.2.0.2 +------+
    | source |------------| relay |                           | sink | lo 10.99.0.5
    +--------+ .1      .2 +-------+ r2 10.3.0.1 ---- 10.3.0.2 +------+
             10.1.0.0/24

Both ways end in one bridge of the sink, br0, which answers ARP for its own two addresses only.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import socket
import time
from functools import partial
from typing import Any, NamedTuple

import pytest

from tests.lab import Host, Lab, Mcrd, wait_for
from tests.lab.rules import rule

HOST = "10.99.0.5"
FIRST, SECOND = ("10.2.0.2", "r1"), ("10.3.0.2", "r2")
ROUTED = rule("a", "r0 239.1.1.1 5000", f"- {HOST} 6000")
BOUND = rule("a", "r0 239.1.1.1 5000", f"r1 {HOST} 6000")


class Ways(NamedTuple):
    """Three hosts, two of which are joined by two ways."""

    lab: Lab
    source: Host
    relay: Host
    sink: Host

    def route(self, *words: str) -> None:
        """Changes a route to the host: `ip route WORDS`."""
        self.relay.run("ip", "route", *words)

    def lead(self, way: tuple[str, str], what: str = "replace") -> None:
        """Routes the host over that way."""
        self.route(what, f"{HOST}/32", "via", way[0], "dev", way[1])


@pytest.fixture
def ways(lab: Lab) -> Ways:
    """As drawn above; no route leads to the host yet."""
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(source, "s0", ["10.1.0.1/24"], relay, "r0", ["10.1.0.2/24"])
    for number, (address, name) in enumerate((FIRST, SECOND)):
        own = address.removesuffix("2") + "1/24"
        lab.link(relay, name, [own, f"fd0{number + 2}::1/64"], sink, f"k{number}", [])
    sink.run("ip", "link", "add", "br0", "type", "bridge")
    for number in range(2):
        sink.run("ip", "link", "set", f"k{number}", "master", "br0")
    for address in ("10.2.0.2/24", "10.3.0.2/24"):
        sink.run("ip", "address", "add", address, "dev", "br0")
    for number in range(2):
        address = f"fd0{number + 2}::2/64"
        sink.run("ip", "address", "add", address, "dev", "br0", "nodad")
    sink.run("ip", "address", "add", f"{HOST}/32", "dev", "lo")
    sink.run("ip", "address", "add", "fd99::5/128", "dev", "lo", "nodad")
    sink.sysctl("net.ipv4.conf.all.arp_ignore", "1")
    sink.run("ip", "link", "set", "br0", "up")
    wait_for(
        lambda: "state UP" in sink.run("ip", "link", "show", "br0"), "the bridge to have carrier"
    )
    return Ways(lab, source, relay, sink)


def entry(daemon: Mcrd) -> dict[str, Any]:
    """The rule, as `mcrctl rules` has it."""
    found: dict[str, Any] = daemon.rules()["a"]
    return found


def output(daemon: Mcrd) -> dict[str, Any]:
    """The counters of its output."""
    found: dict[str, Any] = daemon.stats()["rules"]["a"]["outputs"][0]
    return found


def counted(found: dict[str, Any]) -> int:
    """What was not sent, whatever it is called."""
    return int(found["unreachable"] + sum(found["errors"].values()) + found["new_member"])


def has_sent(daemon: Mcrd, packets: int) -> bool:
    """Whether the output has sent so many."""
    return bool(output(daemon)["sent"]["packets"] >= packets)


def leads(daemon: Mcrd, interface: str) -> bool:
    """The output is active, over that interface."""
    (found,) = entry(daemon)["outputs"]
    return (found["state"], found["interface_now"]) == ("active", interface)


def test_an_output_without_an_interface_follows_the_routes(ways: Ways) -> None:
    ways.lead(FIRST)
    daemon = ways.lab.mcrd(ways.relay, ROUTED)
    assert leads(daemon, "r1")
    seen = ways.sink.capture("br0", f"udp and dst host {HOST}", largest=65536)
    count = 5000
    received = ways.sink.receive("br0", HOST, 6000, expect=count)
    stream = ways.source.start_send("s0", "239.1.1.1", 5000, count=count, rate=5000, size=100)
    for number, way in enumerate((SECOND, FIRST, SECOND), 1):
        due = 1000 * number
        wait_for(partial(has_sent, daemon, due), "the stream")
        before = time.monotonic()
        ways.lead(way)
        wait_for(partial(leads, daemon, way[1]), "the output to follow")
        print(f"over {way[1]} after {time.monotonic() - before:.3f} s, mcrctl included")
    stream.result()
    result = received.result()
    found = output(daemon)
    assert (result["lost"], result["duplicated"], result["corrupt"]) == (0, 0, 0)
    assert (found["sent"]["packets"], counted(found)) == (count, 0)
    assert found["where"] == f"{HOST}:6000"
    # From the address of each way.
    sources = [socket.inet_ntoa(frame[26:30]) for frame in seen.stop()]
    assert set(sources) == {"10.2.0.1", "10.3.0.1"}
    assert sources[-1] == "10.3.0.1"


def test_what_a_missing_route_costs_is_counted(ways: Ways) -> None:
    """Every packet arrives, or is in a counter: no route, one, none again, another."""
    daemon = ways.lab.mcrd(ways.relay, ROUTED)
    found = entry(daemon)
    assert (found["state"], found["reason"]) == ("waiting", f"there is no route to {HOST}")
    assert found["outputs"][0]["interface_now"] is None
    count = 6000
    received = ways.sink.receive("br0", HOST, 6000)
    stream = ways.source.start_send("s0", "239.1.1.1", 5000, count=count, rate=5000, size=100)
    wait_for(lambda: output(daemon)["unreachable"] > 0, "packets without a way")
    ways.lead(FIRST, "add")
    wait_for(lambda: leads(daemon, "r1"), "the output to be active")
    ways.route("del", f"{HOST}/32")
    wait_for(lambda: entry(daemon)["state"] == "waiting", "the rule to wait")
    ways.lead(SECOND, "add")
    wait_for(lambda: leads(daemon, "r2"), "the output to be active again")
    stream.result()
    wait_for(lambda: output(daemon)["sent"]["packets"] + counted(output(daemon)) == count, "all")
    found = output(daemon)
    result = received.stop()
    print(f"unreachable {found['unreachable']}, errors {found['errors']}")
    assert result["unique"] == found["sent"]["packets"]
    assert result["unique"] + counted(found) == count
    said = daemon.log()
    assert f"WARNING: rules.a: waiting: there is no route to {HOST}" in said
    assert "INFO: rules.a: active" in said


def test_an_output_whose_interface_the_routes_left_is_counted_and_said(ways: Ways) -> None:
    ways.lead(FIRST)
    daemon = ways.lab.mcrd(ways.relay, BOUND)
    assert leads(daemon, "r1")
    count = 6000
    received = ways.sink.receive("br0", HOST, 6000)
    stream = ways.source.start_send("s0", "239.1.1.1", 5000, count=count, rate=5000, size=100)
    wait_for(lambda: output(daemon)["sent"]["packets"] > 1000, "the stream")
    ways.lead(SECOND)
    why = f"there is no route to {HOST} over r1; it leads over r2"
    wait_for(lambda: entry(daemon)["reason"] == why, "the rule to say so")
    wait_for(lambda: output(daemon)["unreachable"] > 1000, "packets without a way")
    _, said, _ = daemon.ctl_again("explain", "a", "--json", "--seconds", "0.3")
    cause = json.loads(said)["cause"]
    assert cause["text"] == f"the route to {HOST} leaves by r2, and not by r1"
    assert 'interface = "r2"' in cause["remedy"]
    ways.lead(FIRST)
    wait_for(lambda: leads(daemon, "r1"), "the output to be active")
    stream.result()
    wait_for(lambda: output(daemon)["sent"]["packets"] + counted(output(daemon)) == count, "all")
    found, result = output(daemon), received.stop()
    print(f"sent {found['sent']['packets']}, unreachable {found['unreachable']}: {result}")
    assert f"WARNING: rules.a: waiting: {why}" in daemon.log()


def test_a_neighbour_that_does_not_answer_is_counted_and_said(ways: Ways) -> None:
    ways.lead(FIRST)
    daemon = ways.lab.mcrd(ways.relay, BOUND)
    count = 15_000
    received = ways.sink.receive("br0", HOST, 6000)
    stream = ways.source.start_send("s0", "239.1.1.1", 5000, count=count, rate=5000, size=100)
    wait_for(lambda: output(daemon)["sent"]["packets"] > 1000, "the stream")
    ways.sink.run("ip", "address", "del", "10.2.0.2/24", "dev", "br0")
    ways.relay.run("ip", "neighbour", "flush", "dev", "r1")
    why = "10.2.0.2 does not answer ARP on r1"
    wait_for(lambda: entry(daemon)["reason"] == why, "the rule to say so")
    wait_for(lambda: output(daemon)["unreachable"] > 1000, "packets without a way")
    ways.sink.run("ip", "address", "add", "10.2.0.2/24", "dev", "br0")
    wait_for(lambda: leads(daemon, "r1"), "the output to be active")
    stream.result()
    found, result = output(daemon), received.stop()
    print(f"sent {found['sent']['packets']}, unreachable {found['unreachable']}: {result}")
    assert f"WARNING: rules.a: waiting: {why}" in daemon.log()
