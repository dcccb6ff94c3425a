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
import os
import shutil
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mcrd.sockets.netlink import master_of
from tests.dataplane.frames import frame, inject
from tests.lab import Host, Lab, Mcrd, datagrams, wait_for
from tests.lab.rules import rule

HOST = "10.99.0.5"
FIRST, SECOND = ("10.2.0.2", "r1"), ("10.3.0.2", "r2")
GUARD = 10  # times that what names a time may take on a busy machine
BIRD = """
router id {router};
protocol device {{}}
protocol kernel {{ ipv4 {{ import none; export all; }}; }}
protocol ospf v2 {{
    ipv4 {{ import all; export none; }};
    area 0 {{ {interfaces} }};
}}
"""
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
    """What did not arrive, whatever it is called."""
    return int(found["unreachable"] + sum(found["errors"].values()) + found["new_member"])


def accounted(found: dict[str, Any]) -> int:
    """All that the output was to send; what the kernel threw away is in two counters."""
    return int(found["sent"]["packets"] + counted(found) - found["unanswered"])


def has_sent(daemon: Mcrd, packets: int) -> bool:
    """Whether the output has sent so many."""
    return bool(output(daemon)["sent"]["packets"] >= packets)


def leads(daemon: Mcrd, interface: str) -> bool:
    """The output is active, over that interface."""
    (found,) = entry(daemon)["outputs"]
    return (found["state"], found["interface_now"]) == ("active", interface)


def where(daemon: Mcrd) -> dict[str, str | None]:
    """Where the first output of each rule leads now."""
    return {name: each["outputs"][0]["interface_now"] for name, each in daemon.rules().items()}


def all_lead(daemon: Mcrd, interface: str) -> bool:
    """All rules lead over that interface."""
    return set(where(daemon).values()) == {interface}


def test_an_output_without_an_interface_follows_the_routes(ways: Ways) -> None:
    ways.lead(FIRST)
    daemon = ways.lab.mcrd(ways.relay, ROUTED)
    assert leads(daemon, "r1")
    seen = ways.sink.capture("br0", f"udp and dst host {HOST}", largest=65536)
    count = 30_000
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
    sent = [datagrams.udp(each) for each in seen.stop()]
    assert {each.source for each in sent} == {"10.2.0.1", "10.3.0.1"}
    assert sent[-1].source == "10.3.0.1"
    # What comes back from the port of the moment is its own, and no longer from the one before.
    for number, each in enumerate((sent[-1], sent[0])):
        ports = (each.source_port, 5000)
        inject(ways.source, "s0", frame(b"back %d" % number, source=each.source, ports=ports))

    def came() -> tuple[int, int]:
        stats = daemon.stats()
        own = stats["interfaces"]["r0"]["dropped"]["own_output"]
        return own, stats["rules"]["a"]["received"]["packets"]

    wait_for(lambda: came() == (1, count + 1), "one of them to be its own")


def test_what_a_missing_route_costs_is_counted(ways: Ways) -> None:
    """Every packet arrives, or is in a counter: no route, one, none again, another."""
    daemon = ways.lab.mcrd(ways.relay, ROUTED)
    found = entry(daemon)
    assert (found["state"], found["reason"]) == ("waiting", f"there is no route to {HOST}")
    assert found["outputs"][0]["interface_now"] is None
    count = 30_000
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
    wait_for(lambda: accounted(output(daemon)) == count, "all")
    found = output(daemon)
    result = received.stop()
    print(f"unreachable {found['unreachable']}, errors {found['errors']}")
    assert result["unique"] <= found["sent"]["packets"]
    # What the worker had under way when the event was read is counted after it.
    assert abs(count - result["unique"] - counted(found)) < 0.05 * 5000 * GUARD
    said = daemon.log()
    assert f"WARNING: rules.a: waiting: there is no route to {HOST}" in said
    assert "INFO: rules.a: active" in said


def test_an_output_whose_interface_the_routes_left_is_counted_and_said(ways: Ways) -> None:
    ways.lead(FIRST)
    daemon = ways.lab.mcrd(ways.relay, BOUND)
    assert leads(daemon, "r1")
    count = 30_000
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
    wait_for(lambda: accounted(output(daemon)) == count, "all")
    found, result = output(daemon), received.stop()
    lost = count - result["unique"]
    print(f"{lost} lost; unreachable {found['unreachable']}, of these sent {found['unanswered']}")
    assert accounted(found) == count
    assert abs(lost - counted(found)) < 0.05 * 5000 * GUARD  # sent before the event was read
    assert f"WARNING: rules.a: waiting: {why}" in daemon.log()


def test_a_neighbour_that_does_not_answer_is_counted_and_said(ways: Ways) -> None:
    ways.lead(FIRST)
    daemon = ways.lab.mcrd(ways.relay, BOUND)
    received = ways.sink.receive("br0", HOST, 6000)
    stream = ways.source.start_send("s0", "239.1.1.1", 5000, rate=5000, size=100)
    wait_for(lambda: output(daemon)["sent"]["packets"] > 1000, "the stream")
    ways.sink.run("ip", "address", "del", "10.2.0.2/24", "dev", "br0")
    ways.relay.run("ip", "neighbour", "flush", "dev", "r1")
    why = "10.2.0.2 does not answer ARP on r1"
    wait_for(lambda: entry(daemon)["reason"] == why, "the rule to say so")
    wait_for(lambda: output(daemon)["unreachable"] > 1000, "packets without a way")
    ways.sink.run("ip", "address", "add", "10.2.0.2/24", "dev", "br0")
    wait_for(lambda: leads(daemon, "r1"), "the output to be active")
    stream.process.send_signal(signal.SIGINT)
    count = stream.result()["sent"]
    wait_for(lambda: accounted(output(daemon)) == count, "all")
    found, result = output(daemon), received.stop()
    lost = count - result["unique"]
    print(f"{lost} lost; unreachable {found['unreachable']}, of these sent {found['unanswered']}")
    # What the kernel held when the neighbour was back came after all: as much as its queue takes.
    assert lost <= counted(found) + 0.05 * 5000 * GUARD
    assert f"WARNING: rules.a: waiting: {why}" in daemon.log()


def test_a_neighbour_of_another_table_is_found_again(ways: Ways) -> None:
    """It is asked for itself; by the main table, the question would go to another router."""
    hop = "10.9.9.9"
    ways.route("add", "default", "via", FIRST[0], "dev", "r1")
    ways.route("add", "default", "via", hop, "dev", "r1", "onlink", "table", "100")
    ways.relay.run("ip", "rule", "add", "to", HOST, "lookup", "100")
    daemon = ways.lab.mcrd(ways.relay, ROUTED)
    why = f"{hop} does not answer ARP on r1"
    wait_for(lambda: entry(daemon)["reason"] == why, "the rule to say so")
    ways.sink.run("ip", "address", "add", f"{hop}/32", "dev", "br0")
    wait_for(partial(leads, daemon, "r1"), "the output to be active")
    received = ways.sink.receive("br0", HOST, 6000, expect=100)
    ways.source.send("s0", "239.1.1.1", 5000, count=100, rate=1000)
    assert received.result()["unique"] == 100


def test_a_firewall_that_drops_icmp_keeps_no_neighbour_silent(ways: Ways) -> None:
    if not (nft := shutil.which("nft", path=f"{os.environ['PATH']}:/usr/sbin")):
        pytest.skip("no nft")
    ways.lead(FIRST)
    table = "table ip t { chain c { type filter hook output priority 0; ip protocol icmp drop; }; }"
    made = ways.relay.call(nft, table)
    if made.returncode != 0:
        pytest.skip(f"no nftables in this kernel: {made.stderr.strip()}")
    ways.relay.sysctl("net.ipv4.neigh.r1.mcast_solicit", "1")
    ways.sink.run("ip", "address", "del", "10.2.0.2/24", "dev", "br0")
    daemon = ways.lab.mcrd(ways.relay, ROUTED)
    stream = ways.source.start_send("s0", "239.1.1.1", 5000, rate=1000, size=100)
    said = "cannot ask for 10.2.0.2 on r1: "
    wait_for(lambda: said in daemon.log(), "the log to say so")
    # The kernel asks once, for a second: then the neighbour has failed.
    wait_for(partial(has_sent, daemon, 1500), "packets to be sent all the same")
    received = ways.sink.receive("br0", HOST, 6000)
    ways.sink.run("ip", "address", "add", "10.2.0.2/24", "dev", "br0")
    wait_for(lambda: "10.2.0.2 dev r1 lladdr" in ways.relay.run("ip", "neighbour"), "it")
    before = output(daemon)["sent"]["packets"]
    wait_for(partial(has_sent, daemon, before + 100), "packets to be sent again")
    stream.process.send_signal(signal.SIGINT)
    stream.result()
    assert received.stop()["unique"] >= 100
    assert daemon.log().count(said) == 1


@pytest.mark.long
def test_a_hundred_moves_at_5000_packets_a_second(ways: Ways) -> None:
    """Moved, and every fifth time taken away before: what did not arrive was counted by name."""
    ways.lead(FIRST)
    daemon = ways.lab.mcrd(ways.relay, ROUTED)
    count = 100_000
    received = ways.sink.receive("br0", HOST, 6000)
    stream = ways.source.start_send("s0", "239.1.1.1", 5000, count=count, rate=5000, size=100)
    wait_for(partial(has_sent, daemon, 100), "the stream")
    slowest = 0.0
    for number in range(100):
        way = (SECOND, FIRST)[number % 2]
        if number % 5 == 0:
            ways.route("del", f"{HOST}/32")
        ways.lead(way)
        began = time.monotonic()
        wait_for(partial(leads, daemon, way[1]), "the output to follow")
        slowest = max(slowest, time.monotonic() - began)
    assert stream.process.poll() is None, "the moves were to happen under traffic"
    stream.result()
    wait_for(lambda: accounted(output(daemon)) == count, "all")
    found, result = output(daemon), received.stop()
    print(f"followed after {slowest:.3f} s at most; {found['errors']}, {found['unreachable']}")
    # What the worker had under way when an event was read is counted after it.
    assert abs(count - result["unique"] - counted(found)) < 100 * 0.01 * 5000
    assert result["duplicated"] == 0
    assert slowest < 0.5 * GUARD
    # Twenty times without a route, for as long as `ip` takes to add one.
    assert counted(found) < 20 * 5000 * 0.5


def test_rules_of_ip_rule_are_followed(ways: Ways) -> None:
    """By DSCP, which ip-rule(8) calls tos: the same host over two ways."""
    ways.lead(FIRST)
    ways.route("add", f"{HOST}/32", "via", SECOND[0], "dev", SECOND[1], "table", "100")
    rules = ROUTED + rule("b", "r0 239.1.1.2 5000", f"- {HOST} 6001 dscp=4")
    daemon = ways.lab.mcrd(ways.relay, rules)
    assert where(daemon) == {"a": "r1", "b": "r1"}
    ways.relay.run("ip", "rule", "add", "tos", "0x10", "lookup", "100")
    wait_for(lambda: where(daemon) == {"a": "r1", "b": "r2"}, "the rule to be followed")
    seen = ways.relay.capture("r2", f"udp and dst host {HOST}", largest=65536)
    received = ways.sink.receive("br0", HOST, 6001, expect=100)
    ways.source.send("s0", "239.1.1.2", 5000, count=100, rate=1000)
    assert received.result()["unique"] == 100
    assert seen.stop()


def test_who_belongs_to_whom(ways: Ways) -> None:
    """As of a VRF: of a bridge, of which every kernel knows."""
    with ways.sink.inside():
        bridge, port, lo = (socket.if_nametoindex(name) for name in ("br0", "k0", "lo"))
        assert master_of(port) == bridge
        assert master_of(lo) == 0


def test_a_way_that_leads_into_a_vrf_is_followed(ways: Ways) -> None:
    """A route of the default table leads over an interface of a VRF: it is leaked."""
    made = ways.relay.call("ip", "link", "add", "blue", "type", "vrf", "table", "77")
    if made.returncode != 0:
        pytest.skip(f"no VRF in this kernel: {made.stderr.strip()}")
    ways.relay.run("ip", "link", "set", "blue", "up")
    ways.relay.run("ip", "link", "set", "r2", "master", "blue")
    ways.lead(SECOND)
    daemon = ways.lab.mcrd(ways.relay, ROUTED)
    wait_for(partial(leads, daemon, "r2"), "the output to be active")
    received = ways.sink.receive("br0", HOST, 6000, expect=100)
    ways.source.send("s0", "239.1.1.1", 5000, count=100, rate=1000)
    assert received.result()["unique"] == 100


def test_ipv6_and_a_kept_source_follow_too(ways: Ways) -> None:
    host = "fd99::5"
    rules = rule("a", "r0 239.1.1.1 5000", f"- {host} 6000")
    rules += rule("b", "r0 239.1.1.2 5000", f'- {HOST} 6001 source="keep"')
    ways.lead(FIRST)
    ways.relay.run("ip", "-6", "route", "add", f"{host}/128", "via", "fd02::2", "dev", "r1")
    daemon = ways.lab.mcrd(ways.relay, rules)
    assert all_lead(daemon, "r1")
    with datagrams.sender(ways.source, "s0") as out:  # the member is made by its first packet
        out.bind(("10.1.0.1", 4000))
        out.sendto(b"first", ("239.1.1.2", 5000))
        wait_for(lambda: daemon.stats()["rules"]["b"]["received"]["packets"] == 1, "it")
    ways.lead(SECOND)
    ways.relay.run("ip", "-6", "route", "replace", f"{host}/128", "via", "fd03::2", "dev", "r2")
    wait_for(partial(all_lead, daemon, "r2"), "the outputs to follow")
    for group, address, port in (("239.1.1.1", host, 6000), ("239.1.1.2", HOST, 6001)):
        seen = ways.relay.capture("r2", f"udp and dst host {address}", largest=65536)
        received = ways.sink.receive("br0", address, port, expect=200)
        ways.source.send("s0", group, 5000, count=200, rate=1000, source_port=4000)
        assert received.result()["unique"] == 200
        assert seen.stop()


def test_a_storm_of_other_routes_keeps_nobody_from_work(ways: Ways) -> None:
    """10,000 routes that concern no output come and go; then the one that does moves."""
    ways.lead(FIRST)
    daemon = ways.lab.mcrd(ways.relay, ROUTED)
    batch = ways.lab.file("batch")
    lines = [
        f"route {what} 10.{100 + number // 250}.{number % 250}.0/24 via 10.2.0.2"
        for what in ("add", "del")
        for number in range(10_000)
    ]
    batch.write_text("\n".join(lines) + "\n")
    before, began = daemon.cpu_seconds(), time.monotonic()
    ways.relay.run("ip", "-batch", str(batch), timeout=60)
    used, took = daemon.cpu_seconds() - before, time.monotonic() - began
    print(f"{2 * 10_000 / took:.0f} routes/s for {took:.2f} s: {used / took:.1%} of a CPU")
    ways.lead(SECOND)
    wait_for(partial(leads, daemon, "r2"), "the output to follow", 0.5 * GUARD)
    assert used < 0.8 * took


@pytest.mark.long
def test_a_routing_daemon_moves_the_way(ways: Ways) -> None:
    """BIRD at both ends speaks OSPF over both ways; the better one goes down."""
    bird = shutil.which(
        "bird", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    )
    if bird is None:
        pytest.skip("no bird: `make setup` fetches it, where the distribution has bird2")
    tried = ways.relay.call(bird, "--version")
    if tried.returncode != 0:
        pytest.skip(f"bird does not run here: {tried.stderr.strip()}")
    # Each way has a network of its own here.
    for number, (own, _) in enumerate((FIRST, SECOND)):
        ways.sink.run("ip", "link", "set", f"k{number}", "nomaster")
        ways.sink.run("ip", "address", "del", f"{own}/24", "dev", "br0")
        ways.sink.run("ip", "address", "add", f"{own}/24", "dev", f"k{number}")
    of_relay = ospf("r1", cost=10) + ospf("r2", cost=20)
    of_sink = ospf("k0", cost=10) + ospf("k1", cost=10) + 'interface "lo" { stub yes; };'
    for host, router, interfaces in (
        (ways.relay, "10.0.0.1", of_relay),
        (ways.sink, "10.0.0.2", of_sink),
    ):
        conf, control = ways.lab.file("bird.conf"), ways.lab.file("bird.ctl")
        conf.write_text(BIRD.format(router=router, interfaces=interfaces))
        host.start(bird, "-f", "-c", str(conf), "-s", str(control))
    daemon = ways.lab.mcrd(ways.relay, ROUTED)
    wait_for(partial(leads, daemon, "r1"), "OSPF to find the better way", 60)
    ways.sink.run("ip", "link", "set", "k0", "down")
    wait_for(partial(leads, daemon, "r2"), "OSPF to find the other way", 60)
    ways.source.send("s0", "239.1.1.1", 5000, count=100, rate=1000)
    wait_for(lambda: output(daemon)["sent"]["packets"] == 100, "all to be sent")
    assert counted(output(daemon)) == 0


def ospf(interface: str, cost: int) -> str:
    """An interface in the words of BIRD, with the shortest timers that there are."""
    return f'interface "{interface}" {{ type ptp; cost {cost}; hello 1; dead 4; }}; '
