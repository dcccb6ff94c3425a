"""Rules with several inputs: one worker reads the interfaces of all of them."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import random
import signal
import struct
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import wait_for
from tests.lab.datagrams import sender, udp
from tests.lab.processes import crash_at_the_first_write

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tests.lab import Triangle
    from tests.lab.daemon import Mcrd

A, B = ("239.1.1.1", 5000), ("239.1.1.2", 5001)
FEED = """
[rules.feed]
inputs = [
    { interface = "r0", address = "239.1.1.1", port = 5000 },
    { interface = "q0", address = "239.1.1.2", port = 5001 },
]
outputs = [{ interface = "r1", address = "239.2.2.2", port = 6000 }]
"""
OTHER = """
[rules.other]
input = { interface = "r0", address = "239.1.1.3", port = 5000 }
outputs = [{ interface = "r1", address = "239.2.2.3", port = 6000 }]
"""


def second_way(triangle: Triangle) -> None:
    """Another cable between source and relay."""
    source = (triangle.source, "s1", ["10.4.0.1/24"])
    triangle.lab.link(*source, triangle.relay, "q0", ["10.4.0.2/24"])


class Legs:
    """A stream that is sent by two ways."""

    def __init__(self, triangle: Triangle, rules: str) -> None:
        self._triangle = triangle
        second_way(triangle)
        self.daemon: Mcrd = triangle.lab.mcrd(triangle.relay, rules)
        self.a = sender(triangle.source, "s0")
        self.b = sender(triangle.source, "s1")
        self.capture = triangle.sink.capture("k0", "udp port 6000")
        self.sent: list[bytes] = []
        self.relayed = 0

    def new(self) -> bytes:
        """A payload that differs from all before."""
        made = struct.pack("!I", len(self.sent)) + os.urandom(60)
        self.sent.append(made)
        return made

    def send(self, by: socket.socket, to: tuple[str, int], count: int) -> None:
        """So many packets, each once."""
        for _ in range(count):
            by.sendto(self.new(), to)

    def stats(self, kind: str, name: str) -> dict[str, Any]:
        """Counters of a rule or interface."""
        found: dict[str, Any] = self.daemon.stats()[kind][name]
        return found

    def received(self, name: str) -> int:
        """Packets that a rule has taken."""
        return int(self.stats("rules", name)["received"]["packets"])

    def state(self, name: str) -> str:
        """Of a rule."""
        return str(self.daemon.rules()[name]["state"])

    def pids(self) -> dict[str, int]:
        """The worker of each interface."""
        return {each["interface"]: each["pid"] for each in self.daemon.status()["workers"]}

    def arrived(self) -> Counter[bytes]:
        """What has come to the sink, and how often."""
        return Counter(udp(frame).payload for frame in self.capture.frames())


@pytest.fixture
def legs(triangle: Triangle) -> Iterator[Legs]:
    """The stream of a rule that relays both."""
    made = Legs(triangle, FEED + OTHER)
    yield made
    made.a.close()
    made.b.close()


def test_two_interfaces_have_one_worker(legs: Legs, triangle: Triangle) -> None:
    """Counters are by interface; an interface may go and come, the worker may end: nothing lost."""
    first = legs.pids()
    assert set(first) == {"r0", "q0"}
    assert len(set(first.values())) == 1
    legs.send(legs.a, A, 300)
    legs.send(legs.b, B, 200)
    legs.send(legs.a, ("239.1.1.3", 5000), 100)
    legs.send(legs.b, A, 50)  # of no rule there
    astray = legs.sent[-50:]
    wait_for(lambda: legs.received("feed@r0") == 300, "the first leg")
    wait_for(lambda: legs.received("feed@q0") == 200, "the second leg")
    wait_for(lambda: legs.received("other") == 100, "the other rule")
    found = legs.stats("interfaces", "r0")
    assert found["received"]["packets"] - found["dropped"]["unmatched"] == 400
    wait_for(lambda: legs.stats("interfaces", "q0")["received"]["packets"] >= 200, "q0")

    triangle.relay.run("ip", "link", "del", "q0")
    wait_for(lambda: legs.state("feed@q0") == "waiting", "the second leg to wait")
    legs.send(legs.a, A, 100)
    wait_for(lambda: legs.received("feed@r0") == 400, "the first leg, alone")
    assert legs.pids() == {"r0": first["r0"]}  # whoever reads the other one went on

    os.kill(first["r0"], signal.SIGKILL)
    legs.send(legs.a, A, 100)
    wait_for(lambda: legs.received("feed@r0") == 500, "the first leg by another worker")

    legs.b.close()
    second_way(triangle)
    wait_for(lambda: legs.state("feed@q0") == "active", "the second leg to be there again")
    legs.b = sender(triangle.source, "s1")
    legs.send(legs.b, B, 100)
    legs.send(legs.a, A, 100)
    wait_for(lambda: legs.received("feed@q0") == 300, "the second leg")
    wait_for(lambda: legs.received("feed@r0") == 600, "the first leg")
    assert len(set(legs.pids().values())) == 1

    wanted = Counter(legs.sent) - Counter(astray)
    wait_for(lambda: legs.arrived() >= wanted, "all of it")
    assert legs.arrived() == wanted


def test_a_rule_that_joins_interfaces_comes_and_goes(legs: Legs) -> None:
    """Other rules go on, also while the interfaces get workers of their own again."""
    legs.daemon.edit(OTHER)
    wait_for(lambda: set(legs.pids()) == {"r0"}, "one interface")
    wait_for(lambda: legs.state("other") == "active", "the other rule")
    legs.send(legs.a, ("239.1.1.3", 5000), 10)
    wait_for(lambda: legs.received("other") == 10, "what it takes")
    legs.daemon.edit(FEED + OTHER)
    wait_for(lambda: set(legs.pids()) == {"r0", "q0"}, "both interfaces")
    assert len(set(legs.pids().values())) == 1
    wait_for(lambda: legs.state("feed@q0") == "active", "the second leg")
    legs.send(legs.b, B, 10)
    legs.send(legs.a, ("239.1.1.3", 5000), 10)
    wait_for(lambda: legs.received("feed@q0") == 10, "the second leg")
    wait_for(lambda: legs.received("other") == 20, "the other rule")
    wait_for(lambda: legs.arrived() == Counter(legs.sent), "all of it")


def rtp(number: int) -> bytes:
    """A packet of RTP, as all senders of one stream send it."""
    head = struct.pack("!BBHII", 0x80, 33, number & 0xFFFF, number * 90 & 2**32 - 1, 7)
    return head + number.to_bytes(4, "big") * 40


@pytest.mark.parametrize("by", ["rtp", "sequence", "content"])
def test_one_stream_by_two_ways(triangle: Triangle, by: str) -> None:
    """The output lacks exactly what both ways lost, and has nothing twice."""
    inspect = "inspect = { offset = 12, bytes = 4 }\n" if by == "sequence" else ""
    rules = f'{FEED}merge = {{ by = "{by}" }}\n{inspect}'
    legs, chance = Legs(triangle, rules), random.Random(by)
    lost = {leg: {n for n in range(3000) if chance.random() < 0.02} for leg in "ab"}
    lost["a"] |= set(range(1000, 1100))
    lost["b"] |= set(range(1090, 1200))
    for number in range(3000 + 40):
        if number < 3000 and number not in lost["a"]:
            legs.a.sendto(rtp(number), A)
        late = number - 40
        if late >= 0 and late not in lost["b"]:
            legs.b.sendto(rtp(late), B)
    wanted = Counter(rtp(n) for n in range(3000) if n not in lost["a"] & lost["b"])
    sent = {"feed@r0": 3000 - len(lost["a"]), "feed@q0": 3000 - len(lost["b"])}

    def merged(name: str) -> dict[str, Any]:
        found: dict[str, Any] = legs.stats("rules", name)["merge"]
        return found

    wait_for(lambda: all(merged(name)["received"] == sent[name] for name in sent), "all of it")
    wait_for(lambda: legs.arrived() >= wanted, "the stream")
    assert legs.arrived() == wanted
    for name, count in sent.items():
        found, counts = merged(name), legs.stats("rules", name)
        assert found["first"] + found["second"] == count
        assert found["first"] == counts["received"]["packets"]
        assert found["second"] == counts["dropped"]["second_copy"]
        assert found["first"] == counts["outputs"][0]["sent"]["packets"]
        interface = legs.stats("interfaces", name.partition("@")[2])["dropped"]
        assert interface["second_copy"] == found["second"]
    # The worker is killed, and its successor knows what has passed.
    os.kill(legs.pids()["r0"], signal.SIGKILL)
    for number in range(3000, 3100):
        legs.a.sendto(rtp(number), A)
    wanted += Counter(rtp(number) for number in range(3000, 3100))
    wait_for(lambda: legs.arrived() >= wanted, "the rest, by another worker")
    for number in range(3050, 3100):
        legs.b.sendto(rtp(number), B)
    legs.a.sendto(rtp(3100), A)
    wanted[rtp(3100)] += 1
    wait_for(lambda: merged("feed@q0")["received"] == sent["feed@q0"] + 50, "copies")
    wait_for(lambda: legs.arrived() >= wanted, "the last one")
    assert legs.arrived() == wanted
    assert "    merged: " in legs.daemon.ctl("stats").stdout
    legs.a.close()
    legs.b.close()


def test_a_dead_leg_is_named_although_the_stream_is_whole(triangle: Triangle) -> None:
    """One leg falls silent, its interface is deleted and comes again: nothing is lost."""
    legs, number = Legs(triangle, f'{FEED}merge = {{ by = "rtp" }}\n'), 0

    def send(*by: tuple[socket.socket, tuple[str, int]]) -> None:
        nonlocal number
        for each in range(number, number + 20):
            for leg, to in by:
                leg.sendto(rtp(each), to)
        number += 20

    def a_alone(found: Callable[[], bool]) -> bool:
        send((legs.a, A))  # for as long as it is looked for: a fault ends with its packets
        return found()

    send((legs.a, A), (legs.b, B))
    for found, what in (
        (lambda: "(leg_dead)" in legs.daemon.log(), "the dead leg to be named"),
        (lambda: legs.stats("rules", "feed@q0")["leg_faults"] == ["leg_dead"], "its fault"),
        (lambda: "    leg_dead: " in legs.daemon.ctl("stats").stdout, "its line in mcrctl stats"),
    ):
        wait_for(partial(a_alone, found), what)
    assert "rules.feed@q0: " in legs.daemon.log().partition("(leg_dead)")[0].splitlines()[-1]
    assert legs.stats("rules", "feed@r0")["leg_faults"] == []
    triangle.relay.run("ip", "link", "del", "q0")
    wait_for(lambda: legs.state("feed@q0") == "waiting", "the second leg to wait")
    send((legs.a, A))
    legs.b.close()
    second_way(triangle)
    wait_for(lambda: legs.state("feed@q0") == "active", "the second leg to be there again")
    legs.b = sender(triangle.source, "s1")
    send((legs.b, B), (legs.a, A))
    send((legs.b, B))
    wanted = Counter(rtp(each) for each in range(number))
    wait_for(lambda: legs.arrived() >= wanted, "the stream")
    assert legs.arrived() == wanted
    legs.a.close()
    legs.b.close()


def test_another_leg_brings_what_was_in_hand_at_a_crash(triangle: Triangle) -> None:
    """What the worker had taken by one leg and not sent is no second copy by the other.

    It ends with most of a burst in hand: when it writes the first of many runs.
    """
    rules = f'[daemon]\nengine = "poll"\n{FEED}merge = {{ by = "content" }}\n'
    legs = Legs(triangle, rules)
    worker = legs.pids()["r0"]
    crash_at_the_first_write(worker, lambda: legs.send(legs.a, A, 1000))
    # One that has not become ready within 10 s is replaced, on a very busy machine.
    wait_for(lambda: legs.pids().get("r0", worker) != worker, "another worker", timeout=300)
    (output,) = legs.stats("rules", "feed@r0")["outputs"]
    assert output["crashed"] > 500
    for content in legs.sent:
        legs.b.sendto(content, B)
    wait_for(lambda: legs.arrived().keys() >= set(legs.sent), "what the first leg did not bring")
    legs.a.close()
    legs.b.close()
