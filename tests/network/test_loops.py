"""Relays side by side and in rings: what loops ends by itself, and nothing else is lost.

Each network is a switch ("wire") in a host of its own; each relay has a cable to two or three.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from mcrd.lanes.counts import OF_RULES
from tests.dataplane.frames import frame, inject
from tests.lab import wait_for
from tests.lab.datagrams import udp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab import Lab, Mcrd, Triangle

MDNS = "224.0.0.251"
BOUND = 60  # datagrams on all networks that one may become
LATE = 10  # times that, where relays wait for a CPU for longer than the guard knows a copy for one
APART = 0.25  # seconds between looks: longer than any way round here takes


class Wires:
    """So many networks, and relays between those that each names: r0, r1 and so on."""

    def __init__(self, lab: Lab, networks: int, relays: Sequence[Sequence[int]]) -> None:
        self.lab = lab
        names = [f"n{number}" for number in range(networks)]
        made = lab.hosts(*names, *(f"relay{number}" for number in range(len(relays))))
        self.networks, self.relays = made[:networks], made[networks:]
        ports: list[list[str]] = [[] for _ in names]
        for number, (relay, ends) in enumerate(zip(self.relays, relays, strict=True)):
            for own, end in enumerate(ends):
                port = f"p{number}{own}"
                address = f"10.{end + 1}.{own}.{number + 10}/16"
                lab.link(self.networks[end], port, [], relay, f"r{own}", [address])
                ports[end].append(port)
        for end, host in enumerate(self.networks):
            lab.bridge(host, "wire", ports[end], [f"10.{end + 1}.0.1/16"])
        self._captures = [host.capture("wire", "udp") for host in self.networks]
        self.daemons: list[Mcrd] = []

    def run(self, *rules: str) -> None:
        """The rules of each relay; one text is for all of them."""
        texts = rules * len(self.relays) if len(rules) == 1 else rules
        self.daemons = [self.lab.mcrd(*pair) for pair in zip(self.relays, texts, strict=True)]

    def send(self, payload: bytes) -> None:
        """One packet into the first network."""
        sent = frame(payload, source="10.1.0.1", destination=MDNS, ports=(5353, 5353))
        inject(self.networks[0], "wire", sent)

    def dropped(self) -> list[int]:
        """What each relay dropped for coming back."""
        rules = [daemon.stats()["rules"].values() for daemon in self.daemons]
        return [sum(rule["dropped"]["looped"] for rule in each) for each in rules]

    def began_with(self, start: bytes) -> int:
        """How many datagrams on all wires so far began like this."""
        all_frames = (each for capture in self._captures for each in capture.frames())
        return sum(udp(each).payload.startswith(start) for each in all_frames)

    def silence(self) -> int:
        """Waits until nothing moves any more; how many datagrams were on all wires so far."""

        def seen() -> list[int]:
            return [len(capture.frames()) for capture in self._captures]

        def still() -> bool:
            before = seen()
            time.sleep(APART)
            return seen() == before

        wait_for(still, "silence")
        return sum(seen())


def rule(name: str, into: str, out: Sequence[str], more: str) -> str:
    """mDNS from an interface to others."""
    outputs = ", ".join(
        f'{{ interface = "{each}", address = "{MDNS}", ttl = 255, {more} }}' for each in out
    )
    return f"""
[rules.{name}]
input = {{ interface = "{into}", address = "{MDNS}", port = 5353 }}
outputs = [{outputs}]
"""


OWN, KEPT = "source_port = 5353", 'source = "keep"'


def both_ways(more: str) -> str:
    """The mDNS rules of etc/mcr.toml.example."""
    return rule("there", "r0", ["r1"], more) + rule("back", "r1", ["r0"], more)


def ends(wires: Wires) -> None:
    """Sends packets one after the other; each becomes but few, also before anybody has learned.

    With kept sources, the first ones only make sockets.
    """
    before = wires.silence()
    for number in range(20):
        wires.send(b"who is there? %d" % number)
        now = wires.silence()
        assert now - before <= LATE * BOUND, f"packet {number}"
        before = now
        if any(wires.dropped()):
            return
    pytest.fail("nothing came back")


def is_named(daemon: Mcrd, name: str) -> None:
    """Says the daemon what is going on?"""
    wait_for(lambda: f"rules.{name}: " in daemon.log() and "(looped)" in daemon.log(), "the log")
    found = daemon.stats()["rules"][name]
    address = found["returner"].split()[0]  # of several relays that return it, the last one
    assert address in daemon.log()
    said = daemon.ctl("explain", name, "--seconds", "0.3", check=False).stdout
    assert "a loop: " in said
    assert address in said


@pytest.mark.parametrize(("more", "workers"), [(OWN, 2), (KEPT, 1)])
def test_two_relays_side_by_side(lab: Lab, more: str, workers: int) -> None:
    wires = Wires(lab, 2, [(0, 1), (0, 1)])
    several = f"[interfaces]\nr0.workers = {workers}\nr1.workers = {workers}\n"
    wires.run(several + both_ways(more))
    ends(wires)
    (daemon, name) = next(
        (daemon, name)
        for daemon in wires.daemons
        for name, found in daemon.stats()["rules"].items()
        if found["dropped"]["looped"]
    )
    is_named(daemon, name)
    # Of a stream, each packet goes over once by each relay, and comes back by that one at most
    # which was quicker than the other. Known by two contents, the other returns nothing any more.
    before = wires.silence()
    for number in range(200):
        wires.send(b"stream %d" % number)
    assert wires.silence() - before <= LATE * 200


@pytest.mark.parametrize("more", [KEPT, pytest.param(OWN, marks=pytest.mark.long)])
def test_a_ring_of_three(lab: Lab, more: str) -> None:
    wires = Wires(lab, 3, [(0, 1), (1, 2), (2, 0)])
    wires.run(rule("on", "r0", ["r1"], more))
    ends(wires)
    looped = [daemon for daemon, count in zip(wires.daemons, wires.dropped(), strict=True) if count]
    is_named(looped[0], "on")


def test_two_relays_and_three_networks(lab: Lab) -> None:
    """Between the second and the third network, each relay hears the other alone."""
    wires = Wires(lab, 3, [(0, 1, 2), (0, 1, 2)])
    names = {"r0", "r1", "r2"}
    wires.run("".join(rule(f"from-{a}", a, sorted(names - {a}), "") for a in sorted(names)))
    ends(wires)


def test_both_ends_in_one_network(lab: Lab) -> None:
    """What comes back has the source that was kept, so it is not known for the daemon's own."""
    wires = Wires(lab, 1, [(0, 0)])
    wires.run(both_ways(KEPT))
    ends(wires)


def test_a_loop_in_which_nobody_can_be_told_apart(lab: Lab) -> None:
    """Kept sources, one TTL and one hardware address: what comes back looks like its sender."""
    wires = Wires(lab, 2, [(0, 1), (1, 0)])
    for relay in wires.relays:
        for name in ("r0", "r1"):
            relay.run("ip", "link", "set", name, "address", "02:00:00:00:00:01")
    wires.run(rule("on", "r0", ["r1"], KEPT).replace("ttl = 255", "ttl = 8"))
    cut: list[Mcrd] = []

    def is_cut() -> bool:
        wires.send(b"round and round")  # the first only makes sockets
        cut[:] = [d for d in wires.daemons if d.stats()["rules"]["on"]["dropped"]["cut_off"]]
        return bool(cut)

    wait_for(is_cut, "a relay to cut it off", interval=0.7)
    wires.silence()
    wait_for(lambda: "rules.on: " in cut[0].log() and "(cut_off)" in cut[0].log(), "the log")

    def new_passes_once() -> bool:
        before = wires.silence()
        for number in range(20):
            wires.send(b"new %d" % number)
        # Into each network once; and once more into those before the relay that has cut it off.
        return wires.silence() - before in range(2 * 20, 4 * 20 + 1)

    wait_for(new_passes_once, "what is new to pass, and not to come back", 30.0)
    assert "a loop: " in cut[0].ctl("explain", "on", "--seconds", "0.3", check=False).stdout


def of(host: int, payload: bytes, ports: tuple[int, int] = (40000, 5000)) -> bytes:
    """A frame of a host of the first network."""
    whole = frame(payload, source=f"10.1.1.{host}", ports=ports)
    return whole[:6] + bytes((2, 0, 0, 0, 1, host)) + whole[12:]


RELAY = """
[rules.a]
input = { interface = "r0", address = "239.1.1.1", port = 5000 }
outputs = [{ interface = "r1", address = "239.2.2.2", port = 6000, ttl = 4 }]
[rules.b]
input = { interface = "r1", address = "239.1.1.1", port = 5000 }
outputs = [{ interface = "r0", address = "239.2.2.2", port = 6000, ttl = 4 }]
"""


def test_what_repeats_and_does_not_loop_loses_nothing(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, RELAY)
    arriving = triangle.sink.capture("k0", "udp port 6000", direction="in")
    expected: Counter[bytes] = Counter()

    def say(*frames: bytes) -> None:
        inject(triangle.source, "s0", *frames)
        expected.update(each[42:] for each in frames)

    # As fast as it goes, far more than 10,000 a second.
    for _ in range(50):
        say(*([of(1, b"constant value")] * 1000))
        time.sleep(0.01)
    # UPnP: many hosts ask the same, three times each, from a fresh port each time.
    ports = iter(range(40000, 50000))
    for _ in range(3):
        say(*(of(host, b"M-SEARCH * HTTP/1.1", (next(ports), 5000)) for host in range(1, 60)))
    # mDNS queries are alike from all hosts; of RTP only the numbers change while all is silent.
    say(*(of(host, b"_googlecast._tcp.local PTR?") for host in range(1, 60)))
    say(*(of(2, struct.pack("!BBHII", 128, 8, n, 160 * n, 7) + b"\xd5" * 160) for n in range(1000)))
    # Two servers with one heartbeat, at 20 Hz; then one of them fails.
    for number in range(60):
        if number < 40:
            say(of(3, b"alive"))
        say(of(4, b"alive"))
        time.sleep(0.05)
    wait_for(lambda: received(daemon)["received"]["packets"] == expected.total(), "all packets")
    found = Counter(each[42 : 42 + length(each)] for each in arriving.stop())
    assert found == expected
    assert received(daemon)["dropped"] == dict.fromkeys(OF_RULES, 0)


def received(daemon: Mcrd) -> dict[str, Any]:
    """The counters of rule a."""
    entry: dict[str, Any] = daemon.stats()["rules"]["a"]
    return entry


def length(of_frame: bytes) -> int:
    """Of the payload: a capture may have padding."""
    size: int = struct.unpack_from("!H", of_frame, 38)[0] - 8
    return size
