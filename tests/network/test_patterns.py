"""Patterns of interface names: what comes and goes with the interfaces, measured at receivers."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mcrd.planning.patterns import OUTPUTS_AT_MOST
from tests.lab import cut, wait_for
from tests.lab.datagrams import sender, udp
from tests.lab.rules import rule
from tests.network.test_broadcast import caster
from tests.network.test_streams import perfect

if TYPE_CHECKING:
    from tests.lab import Fork, Host, Mcrd, Triangle

MDNS = "224.0.0.251"
DISCOVERY = rule("mdns", f"r* {MDNS} 5353", "r* - - ttl=255 source_port=5353")
RATE = 1000


def container(triangle: Triangle, host: Host, number: int) -> None:
    """A bridge of the relay, as container engines make it, and a container on it."""
    address = f"172.18.{number}"
    triangle.lab.link(host, "eth0", [f"{address}.2/24"], triangle.relay, f"v{number}", [])
    triangle.lab.bridge(triangle.relay, f"br-{number}", [f"v{number}"], [f"{address}.1/24"])
    cut(triangle.relay, f"br-{number}", f"v{number}")


def ends(triangle: Triangle, number: int) -> None:
    for name in (f"br-{number}", f"v{number}"):
        triangle.relay.run("ip", "link", "delete", name)


def outputs(daemon: Mcrd, name: str) -> dict[str, str]:
    """The interfaces that a rule sends on, and how each output fares."""
    found = daemon.stats()["rules"][name]["outputs"]
    return {output["interface"]: output["state"] for output in found}


def test_into_bridges_of_containers_that_come_and_go(triangle: Triangle) -> None:
    """One container stays, and loses nothing while others come and go beside it."""
    first, *others = triangle.lab.hosts("first", "second", "third")
    daemon = triangle.lab.mcrd(triangle.relay, rule("in", "r0 239.1.1.1 5000", "br-* - - ttl=4"))
    entry = daemon.stats()["rules"]["in"]
    assert (entry["state"], entry["reason"]) == ("waiting", 'no interface matches "br-*"')
    container(triangle, first, 1)
    wait_for(lambda: outputs(daemon, "in") == {"br-1": "active"}, "the first")
    received = first.receive("eth0", "239.1.1.1", 5000)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=RATE)
    for number, other in enumerate(others, 2):
        container(triangle, other, number)
        both = {"br-1": "active", f"br-{number}": "active"}
        wait_for(lambda both=both: outputs(daemon, "in") == both, "both")  # type: ignore[misc]
        wire = other.capture("eth0", "udp port 5000")
        wait_for(lambda wire=wire: len(wire.frames()) > 200, "a stream")  # type: ignore[misc]
        seen = [udp(frame) for frame in wire.stop()]
        assert {each.source for each in seen} == {f"172.18.{number}.1"}
        assert len({each.payload for each in seen}) == len(seen)
        ends(triangle, number)
        wait_for(lambda: outputs(daemon, "in") == {"br-1": "active"}, "the first alone")
    assert stream.process.poll() is None
    sent = stream.stop()["sent"]
    wait_for(lambda: daemon.stats()["rules"]["in"]["received"]["packets"] >= sent, "all")

    def relayed() -> int:
        return int(daemon.stats()["rules"]["in"]["outputs"][0]["sent"]["packets"])

    wait_for(lambda: relayed() == sent, "all to be sent")
    got = received.stop()
    assert (got["unique"], got["lost"], got["duplicated"]) == (sent, 0, 0)
    ends(triangle, 1)
    nothing = 'no interface matches "br-*"'
    wait_for(lambda: daemon.stats()["rules"]["in"]["reason"] == nothing, nothing)
    assert daemon.rules()["in"]["outputs"][0]["interface"] == "br-*"


def test_a_broadcast_into_bridges(triangle: Triangle) -> None:
    """Each bridge has its own broadcast address, and the packet comes from its own."""
    hosts = triangle.lab.hosts("first", "second")
    for number, host in enumerate(hosts, 1):
        container(triangle, host, number)
    triangle.lab.mcrd(triangle.relay, rule("wake", "r0 broadcast 9", "br-[12] - -"))
    wires = [host.capture("eth0", "udp port 9", direction="in") for host in hosts]
    with caster(triangle.source, "s0") as sock:
        sock.sendto(b"wake", ("255.255.255.255", 9))
    for number, wire in enumerate(wires, 1):
        wait_for(wire.frames, "the broadcast")
        (seen,) = map(udp, wire.stop())
        assert (seen.source, seen.destination) == (f"172.18.{number}.1", f"172.18.{number}.255")


def test_every_network_with_every_other(fork: Fork) -> None:
    """A pattern on both sides: each packet comes to all other networks, once, and never back."""
    fork.relay.run("ethtool", "-K", "r0", "tx-udp-segmentation", "off")  # as the others
    daemon = fork.lab.mcrd(fork.relay, DISCOVERY)
    names = ["mdns@r0", "mdns@r1", "mdns@r2"]
    assert list(daemon.stats()["rules"]) == names
    assert outputs(daemon, "mdns@r1") == {"r0": "active", "r2": "active"}
    hosts = ((fork.source, "s0"), (fork.sink, "k0"), (fork.sink2, "k1"))
    wires = [host.capture(end, "udp port 5353", direction="in") for host, end in hosts]
    for number, (host, end) in enumerate(hosts):
        before = [len(wire.frames()) for wire in wires]
        with sender(host, end) as sock:
            for count in range(10):
                sock.sendto(b"%d from %d" % (count, number), (MDNS, 5353))

        def came(at: int, more: int) -> bool:
            return len(wires[at].frames()) == before[at] + more  # noqa: B023

        for at in range(3):
            wait_for(partial(came, at, 0 if at == number else 10), f"what came to {at}")
        for at in range(3):
            assert came(at, 0 if at == number else 10)
    for wire in wires:
        seen = [udp(frame) for frame in wire.stop()]
        assert {(one.ttl, one.source_port, one.port) for one in seen} == {(255, 5353, 5353)}
        assert len({one.payload for one in seen}) == len(seen) == 20
    told = daemon.ctl("explain", "mdns", "--seconds", "0.2", check=False)
    assert f"name one: {', '.join(names)}" in told.stderr
    told = daemon.ctl("explain", "mdns@r1", "--seconds", "0.2", check=False)
    assert "mdns@r1: " in told.stdout
    assert told.returncode in (0, 1), told.stderr
    assert list(json.loads(daemon.ctl("rules", "mdns", "--json").stdout)["rules"]) == names
    daemon.ctl("reload")
    assert "= 1 unchanged" in daemon.ctl("diff").stdout


def test_an_input_that_comes_and_goes(fork: Fork) -> None:
    """An interface gets a name of the pattern, by a rename or beside its own, and loses it."""
    relay = fork.relay
    daemon = fork.lab.mcrd(relay, rule("up", "wan* 239.1.1.1 5000", "r1 - - ttl=4"))
    assert daemon.stats()["rules"]["up"]["reason"] == 'no interface matches "wan*"'
    relay.run("ip", "link", "property", "add", "dev", "r0", "altname", "wan-first")
    wait_for(lambda: list(daemon.stats()["rules"]) == ["up@r0"], "the rule of r0")
    wait_for(lambda: daemon.stats()["rules"]["up@r0"]["state"] == "active", "it to be active")
    received = fork.sink.receive("k0", "239.1.1.1", 5000, expect=300)
    fork.source.send("s0", "239.1.1.1", 5000, count=300, rate=RATE)
    assert perfect(received.result(), 300)
    relay.run("ip", "link", "property", "del", "dev", "r0", "altname", "wan-first")
    wait_for(lambda: list(daemon.stats()["rules"]) == ["up"], "the rule to wait")
    wait_for(lambda: not daemon.stats()["workers"], "the worker to end")
    relay.run("ip", "link", "set", "r2", "down")
    relay.run("ip", "link", "set", "r2", "name", "wan2")
    relay.run("ip", "link", "set", "wan2", "up")
    wait_for(lambda: list(daemon.stats()["rules"]) == ["up@wan2"], "the rule of wan2")
    wait_for(lambda: daemon.stats()["rules"]["up@wan2"]["state"] == "active", "it to be active")
    received = fork.sink.receive("k0", "239.1.1.1", 5000, expect=300)
    fork.sink2.send("k1", "239.1.1.1", 5000, count=300, rate=RATE)
    assert perfect(received.result(), 300)


def test_who_is_named_comes_first(fork: Fork) -> None:
    """A rule that names an interface takes its packets; the pattern's waits there, and says so."""
    rules = rule("all", "r[01] 239.1.1.1 5000", "r2 - - ttl=4")
    rules += rule("one", "r0 239.1.1.1 5000", "r2 239.2.2.2 6000 ttl=4")
    rules += '[interfaces."r*"]\nring_size = "4 MiB"\n[interfaces.r1]\nring_size = "8 MiB"\n'
    daemon = fork.lab.mcrd(fork.relay, rules)
    stats = daemon.stats()["rules"]
    assert stats["all@r0"]["reason"] == "same input as rules.one: both on r0"
    assert [stats[name]["state"] for name in ("all@r1", "one")] == ["active", "active"]
    log = daemon.log()
    frames = {
        line.split(": worker of ")[1][:2]: line for line in log.splitlines() if "ring of" in line
    }
    assert "2560 frames" in frames["r0"] or "2620 frames" in frames["r0"], frames
    sizes = {name: int(line.split(" frames")[0].split()[-1]) for name, line in frames.items()}
    assert sizes["r0"] < sizes["r1"]
    found = json.loads(daemon.ctl("doctor", "--json", check=False).stdout)["findings"]
    of_names = [each for each in found if each["check"] == "interface names"]
    assert "rules.all@r0: same input as rules.one" in of_names[-1]["value"]


def test_more_than_a_pattern_may_stand_for(triangle: Triangle) -> None:
    """What is left out is said once, in the log and by doctor."""
    relay, more = triangle.relay, OUTPUTS_AT_MOST // 2 + 1
    lines = [f"link add w{number}a type veth peer name w{number}b" for number in range(more)]
    lines += [f"link set w{number}{end} up" for number in range(more) for end in "ab"]
    relay.run("sh", "-c", "printf '%s\n' \"$@\" | ip -batch -", "sh", *lines)
    daemon = triangle.lab.mcrd(relay, rule("a", "r0 ff02::5 5000", "w* - - ttl=1", "r1 - - ttl=1"))
    left = f'rules.a.outputs[0].interface: {2 * more} interfaces match "w*", and 128 is the most: '
    wait_for(lambda: daemon.log().count(left) == 1, left)
    assert len(daemon.rules()["a"]["outputs"]) == OUTPUTS_AT_MOST + 1
    found: list[dict[str, Any]] = json.loads(daemon.ctl("doctor", "--json", check=False).stdout)[
        "findings"
    ]
    assert any(left in each["value"] for each in found if each["check"] == "interface names")
    shown = json.loads(daemon.ctl("rules", "a", "--json").stdout)
    assert any(left in line for line in shown["warnings"])


def test_slaves_of_a_vrf(fork: Fork) -> None:
    """Linux binds sockets to the interfaces in a VRF: in by r0, out by r2, both in one."""
    relay = fork.relay
    if relay.call("ip", "link", "add", "blue", "type", "vrf", "table", "10").returncode != 0:
        pytest.skip("this kernel has no VRF (CONFIG_NET_VRF)")
    relay.run("ip", "link", "set", "blue", "up")
    for name in ("r0", "r2"):
        relay.run("ip", "link", "set", name, "master", "blue")
    rules = rule("a", "r[01] 239.1.1.1 5000", "r2 - - ttl=4", "r2 10.3.0.2 5001")
    daemon = fork.lab.mcrd(relay, rules + rule("b", "r0 broadcast 9", "r2 - -"))
    wait_for(lambda: daemon.stats()["rules"]["a@r0"]["state"] == "active", "the rule")
    received = [
        fork.sink2.receive("k1", "239.1.1.1", 5000, expect=300),
        fork.sink2.receive("k1", "10.3.0.2", 5001, expect=300),
    ]
    fork.source.send("s0", "239.1.1.1", 5000, count=300, rate=RATE)
    for each in received:
        assert perfect(each.result(), 300)
    wire = fork.sink2.capture("k1", "udp port 9", direction="in")
    with caster(fork.source, "s0") as sock:
        sock.sendto(b"x", ("255.255.255.255", 9))
    wait_for(wire.frames, "the broadcast")
    assert udp(wire.stop()[0]).destination == "10.3.0.255"
