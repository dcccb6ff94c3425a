"""Broadcasts: taken on one network, sent to all hosts of another, and measured there."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import socket
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mcrd.planning.broadcast import DEFAULT_LIMIT
from tests.dataplane.frames import frame, inject
from tests.lab import wait_for
from tests.lab.datagrams import udp
from tests.lab.rules import rule
from tests.network.test_loops import BOUND, LATE
from tests.network.test_streams import perfect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab import Host, Lab, Mcrd, Triangle

ALL = "255.255.255.255"
EVERYONE = b"\xff" * 6  # the hardware address
MAGIC = EVERYONE + bytes.fromhex("0200000000aa") * 16  # what wakes 02:00:00:00:00:aa
WAKE = rule("wake", "r0 broadcast 9", "r1 - -")


@contextmanager
def caster(host: Host, interface: str) -> Iterator[socket.socket]:
    """A socket that may broadcast on this interface."""
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        yield sock


@contextmanager
def anyone(host: Host, port: int) -> Iterator[socket.socket]:
    """A program that receives whatever comes to the port."""
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(10.0)
        sock.bind(("", port))
        yield sock


def received(daemon: Mcrd, name: str) -> int:
    return int(daemon.stats()["rules"][name]["received"]["packets"])


@pytest.mark.parametrize("to", [ALL, "10.1.0.255"])
def test_a_magic_packet_reaches_the_other_network(triangle: Triangle, to: str) -> None:
    """Sent by a program, received by one; to all hosts of the link, and nobody answers."""
    relay, source, sink = triangle.relay, triangle.source, triangle.sink
    daemon = triangle.lab.mcrd(relay, WAKE)
    answers = source.capture("s0", "icmp")
    wire = sink.capture("k0", "udp port 9", direction="in")
    with caster(source, "s0") as sock, anyone(sink, 9) as program:
        sock.sendto(MAGIC, (to, 9))
        payload, sender = program.recvfrom(2000)
    assert (payload, sender[0]) == (MAGIC, "10.2.0.1")
    wait_for(lambda: received(daemon, "wake") == 1, "the count")
    (seen,) = wire.stop()
    assert seen[:6] == EVERYONE
    assert udp(seen).destination == "10.2.0.255"
    assert answers.stop() == []
    found = json.loads(daemon.ctl("rules", "wake", "--json").stdout)["rules"]["wake"]
    assert found["input"]["address"] == found["outputs"][0]["address"] == "broadcast"
    assert found["input"]["broadcasts"] == ["10.1.0.255"]
    assert found["outputs"][0]["limit"] == DEFAULT_LIMIT
    assert daemon.ctl("explain", "wake", "--seconds", "0.2", check=False).returncode in (0, 1)


@pytest.mark.parametrize(
    ("output", "destination", "source"),
    [
        (f"r1 {ALL} 9", ALL, "10.2.0.1"),
        ("r1 10.2.0.255 9", "10.2.0.255", "10.2.0.1"),
        ("- 10.2.0.255 9", "10.2.0.255", "10.2.0.1"),
        ('r1 broadcast 9 source="keep"', ALL, "10.1.0.1"),
        ('r1 broadcast 9 source="10.7.0.1"', "10.7.255.255", "10.7.0.1"),
    ],
)
def test_where_an_output_sends(
    triangle: Triangle, output: str, destination: str, source: str
) -> None:
    triangle.relay.run("ip", "address", "add", "10.7.0.1/16", "dev", "r1")
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", f"r0 {ALL} 9", output))
    wire = triangle.sink.capture("k0", "udp port 9", direction="in")
    with caster(triangle.source, "s0") as sock:
        sock.sendto(b"x", (ALL, 9))
    wait_for(wire.frames, "a broadcast")
    (seen,) = wire.stop()
    assert seen[:6] == EVERYONE
    assert (udp(seen).destination, udp(seen).source) == (destination, source)
    assert daemon.stats()["rules"]["a"]["outputs"][0]["state"] == "active"


def test_a_kept_source_that_sends_to_both(triangle: Triangle) -> None:
    """One host sends to 255.255.255.255 and to its network, from one port."""
    rules = rule("a", "r0 broadcast 9", 'r1 - - source="keep"')
    daemon = triangle.lab.mcrd(triangle.relay, rules)
    with caster(triangle.source, "s0") as sock, anyone(triangle.sink, 9) as program:
        sock.bind(("10.1.0.1", 4000))
        for to in ("10.1.0.255", ALL, "10.1.0.255"):
            sock.sendto(to.encode(), (to, 9))
        got = [program.recvfrom(100) for _ in range(3)]
    assert {sender for _, sender in got} == {("10.1.0.1", 4000)}
    # Each address has a socket of its own.
    assert sorted(payload for payload, _ in got) == [b"10.1.0.255", b"10.1.0.255", ALL.encode()]
    assert daemon.stats()["rules"]["a"]["outputs"][0]["new_member"] == 0


def test_addresses_that_change_are_followed(triangle: Triangle) -> None:
    """Both ends get other networks while the daemon runs; a range of ports does so, too."""
    relay = triangle.relay
    daemon = triangle.lab.mcrd(relay, rule("a", "r0 broadcast 9-10", "r1 broadcast 9-10"))
    wire = triangle.sink.capture("k0", "udp port 10", direction="in")

    def arrives(to: str, at: str) -> bool:
        before = len(wire.frames())
        one = frame(b"x", destination=to, ports=(40000, 10), to=EVERYONE)
        inject(triangle.source, "s0", one)
        new = [udp(each).destination for each in wire.frames()[before:]]
        return at in new

    wait_for(partial(arrives, "10.1.0.255", "10.2.0.255"), "the first networks")
    for interface, old, new in (
        ("r0", "10.1.0.2/24", "10.8.0.2/16"),
        ("r1", "10.2.0.1/24", "10.9.0.1/16"),
    ):
        relay.run("ip", "address", "add", new, "dev", interface)
        relay.run("ip", "address", "delete", old, "dev", interface)
    wait_for(partial(arrives, "10.8.255.255", "10.9.255.255"), "the others")
    before = received(daemon, "a")
    inject(triangle.source, "s0", frame(b"x", destination="10.1.0.255", ports=(1, 10), to=EVERYONE))
    inject(triangle.source, "s0", frame(b"y", destination=ALL, ports=(2, 10), to=EVERYONE))
    wait_for(lambda: received(daemon, "a") > before, "the limited one")
    assert received(daemon, "a") == before + 1
    relay.run("ip", "address", "delete", "10.9.0.1/16", "dev", "r1")
    missing = "r1 has no IPv4 address"
    wait_for(lambda: daemon.stats()["rules"]["a"]["reason"] == missing, missing)


def both_ways(more: str) -> str:
    return rule("there", "r0 broadcast 9", f"r1 broadcast 9 {more}") + rule(
        "back", "r1 broadcast 9", f"r0 broadcast 9 {more}"
    )


@pytest.mark.parametrize("more", ["", "source_port=9", 'source="keep"'])
def test_rules_that_face_each_other(triangle: Triangle, more: str) -> None:
    """What the daemon sends, it does not take: also where both networks are one wire."""
    relay, source, sink = triangle.relay, triangle.source, triangle.sink
    relay.run("ethtool", "-K", "r0", "tx-udp-segmentation", "off")  # as r1
    daemon = triangle.lab.mcrd(relay, both_ways(more))
    wires = [source.capture("s0", "udp port 9"), sink.capture("k0", "udp port 9")]

    def on_wires() -> int:
        return sum(len(wire.frames()) for wire in wires)

    def quiet() -> bool:
        before = on_wires()
        daemon.stats()
        inject(source, "s0", frame(b"", destination="10.1.0.1", ports=(1, 1)))
        daemon.stats()
        return before == on_wires()

    count = 20
    with caster(source, "s0") as one, caster(sink, "k0") as other:
        for number in range(count):
            one.sendto(b"there %d" % number, (ALL, 9))
            other.sendto(b"back %d" % number, (ALL, 9))
            wait_for(quiet, "silence")

        def sent() -> int:
            rules = daemon.stats()["rules"].values()
            return sum(rule["outputs"][0]["sent"]["packets"] for rule in rules)

        wait_for(lambda: sent() >= 2 * count, "all of them")  # silence may come before a busy relay
        wait_for(quiet, "silence")
    assert sent() == 2 * count
    wait_for(lambda: on_wires() >= 4 * count, "all frames")
    assert quiet()
    assert on_wires() == 4 * count


def test_one_wire_on_both_sides(lab: Lab) -> None:
    """r0 and r1 are ports of one switch: each gets what goes out by the other."""
    relay, switch = lab.hosts("relay", "switch")
    lab.link(switch, "p0", [], relay, "r0", ["10.1.0.2/24"])
    lab.link(switch, "p1", [], relay, "r1", ["10.1.0.3/24"])
    lab.bridge(switch, "wire", ["p0", "p1"], ["10.1.0.1/24"])
    daemon = lab.mcrd(relay, both_ways(""))
    wire = switch.capture("wire", "udp port 9")
    with caster(switch, "wire") as sock:
        sock.sendto(b"once", (ALL, 9))

    def both() -> bool:
        rules = daemon.stats()["rules"]
        return all(rules[name]["received"]["packets"] == 1 for name in rules)

    wait_for(both, "both rules")
    # One by the host, and one by each rule; each of these came back, and was known as the daemon's.
    wait_for(lambda: len(wire.frames()) == 3, "three frames")

    def own() -> int:
        found = daemon.stats()["interfaces"].values()
        return sum(each["dropped"]["own_output"] for each in found)

    wait_for(lambda: own() >= 2, "what came back")
    assert len(wire.stop()) == 3


def test_one_wire_on_both_sides_with_kept_sources(lab: Lab) -> None:
    """What comes back then looks like the original: the guard ends it, as with groups."""
    relay, switch = lab.hosts("relay", "switch")
    lab.link(switch, "p0", [], relay, "r0", ["10.1.0.2/24"])
    lab.link(switch, "p1", [], relay, "r1", ["10.1.0.3/24"])
    lab.bridge(switch, "wire", ["p0", "p1"], ["10.1.0.1/24"])
    daemon = lab.mcrd(relay, both_ways('source="keep"'))
    wire = switch.capture("wire", "udp port 9")
    with caster(switch, "wire") as sock:
        sock.sendto(b"once", (ALL, 9))
    wait_for(lambda: len(wire.frames()) >= 3, "what the rules send")

    def received() -> list[int]:
        rules = daemon.stats()["rules"].values()
        return [rule["received"]["packets"] + rule["dropped"]["looped"] for rule in rules]

    def still() -> bool:
        before = received(), len(wire.frames())
        with caster(switch, "wire") as sock:  # goes the same way, and is nobody's
            sock.sendto(b"", (ALL, 10))
        time.sleep(0.25)
        return before == (received(), len(wire.frames()))

    wait_for(still, "silence")
    assert len(wire.stop()) <= LATE * BOUND


def test_the_default_limit(triangle: Triangle) -> None:
    """1000 a second, unless the rule says another number; what exceeds it is counted."""
    rules = rule(
        "a", "r0 239.1.1.1 5000", f"r1 {ALL} 5000", "r1 10.2.0.255 5001", "r1 10.2.0.2 5002"
    )
    rules += rule("b", "r0 239.1.1.2 5000", "r1 broadcast 6000 limit={packets_per_second=100000}")
    daemon = triangle.lab.mcrd(triangle.relay, rules)
    for group in ("239.1.1.1", "239.1.1.2"):
        triangle.source.send("s0", group, 5000, count=3 * DEFAULT_LIMIT, rate=6 * DEFAULT_LIMIT)

    def counted() -> dict[str, Any]:
        found: dict[str, Any] = daemon.stats()["rules"]
        return found

    wait_for(
        lambda: (
            [one["received"]["packets"] for one in counted().values()] == [3 * DEFAULT_LIMIT] * 2
        ),
        "all",
    )
    limited, directed, host = counted()["a"]["outputs"]
    for each in (limited, directed):
        assert each["sent"]["packets"] + each["rate_limited"] == 3 * DEFAULT_LIMIT
        assert each["rate_limited"] > 0
    assert host["sent"]["packets"] == 3 * DEFAULT_LIMIT
    assert counted()["b"]["outputs"][0]["sent"]["packets"] == 3 * DEFAULT_LIMIT


def test_a_stream_of_broadcasts(triangle: Triangle) -> None:
    """mcrgen at both ends: nothing is lost, whatever kind of broadcast the stream is."""
    rules = rule("a", "r0 broadcast 5000", "r1 broadcast 6000", f"r1 {ALL} 6001")
    triangle.lab.mcrd(triangle.relay, rules)
    ends = (("10.2.0.255", 6000), (ALL, 6001))
    for to in ("10.1.0.255", ALL):
        received = [triangle.sink.receive("k0", *end, expect=500) for end in ends]
        triangle.source.send("s0", to, 5000, count=500, rate=500)
        for each in received:
            assert perfect(each.result(), 500)
