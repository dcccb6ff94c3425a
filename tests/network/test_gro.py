"""`gro`: who switches it on and off, and that what is merged is relayed and counted."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab import wait_for
from tests.lab.daemon import console_script
from tests.lab.rules import rule
from tests.sandbox import harness

if TYPE_CHECKING:
    from tests.lab import Host, Lab, Triangle

GRO = "[interfaces.r0]\ngro = true\n"
A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=4")
BOTH, NONE, ONE = ("on", "on"), ("off", "off"), ("on", "off")


def features(host: Host, interface: str = "r0") -> tuple[str, ...]:
    """GRO, and that for UDP of others."""
    found = dict(
        line.strip().split(": ")
        for line in host.run("ethtool", "-k", interface).splitlines()
        if not line.endswith(":")
    )
    return tuple(
        found[name].split()[0] for name in ("generic-receive-offload", "rx-udp-gro-forwarding")
    )


def test_it_comes_and_goes_with_the_key(lab: Lab, triangle: Triangle) -> None:
    """Also on an interface that is made again; what was on before stays on."""
    source, relay = triangle.source, triangle.relay
    assert features(relay) == NONE
    daemon = lab.mcrd(relay, GRO + A)
    wait_for(lambda: features(relay) == BOTH, "gro")
    receiver = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=50_000)
    source.send("s0", "239.1.1.1", 5000, count=50_000, rate=20_000, size=1400)
    found = receiver.result()
    assert (found["unique"], found["lost"]) == (50_000, 0)
    counted = daemon.stats()
    assert counted["rules"]["a"]["received"]["packets"] == 50_000
    assert counted["interfaces"]["r0"]["gro"] is True
    assert "    gro is on\n" in daemon.ctl("stats").stdout
    daemon.edit(A)
    wait_for(lambda: features(relay) == NONE, "no gro")
    daemon.edit(GRO + A)
    wait_for(lambda: features(relay) == BOTH, "gro again")
    relay.run("ip", "link", "delete", "r0")
    lab.link(source, "s0", ["10.1.0.1/24"], relay, "r0", ["10.1.0.2/24"])
    wait_for(lambda: features(relay) == BOTH, "gro of the new interface")
    assert daemon.stop() == 0
    assert features(relay) == NONE
    relay.run("ethtool", "-K", "r0", "gro", "on")
    daemon = lab.mcrd(relay, GRO + A)
    wait_for(lambda: features(relay) == BOTH, "the other half")
    assert daemon.stop() == 0
    assert features(relay) == ONE


def test_ports_of_a_bridge(lab: Lab) -> None:
    """Frames are merged where they come in: at a port, whenever that comes."""
    source, relay = lab.hosts("source", "relay")
    lab.link(source, "s0", ["10.1.0.1/24"], relay, "p0", [])
    lab.link(source, "s1", [], relay, "p1", [])
    lab.link(relay, "r1", ["10.2.0.1/24"], relay, "nobody", [])
    lab.bridge(relay, "r0", ["p0"], ["10.1.0.2/24"])
    daemon = lab.mcrd(relay, GRO + rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=4"))
    wait_for(lambda: features(relay, "p0")[1] == "on" == features(relay)[1], "gro")
    assert features(relay, "p1") == NONE
    relay.run("ip", "link", "set", "p1", "master", "r0")
    wait_for(lambda: features(relay, "p1") == BOTH, "gro of the new port")
    relay.run("ip", "link", "set", "p1", "nomaster")
    wait_for(lambda: features(relay, "p1") == NONE, "no gro of what is no port")
    assert daemon.stop() == 0
    assert features(relay, "p0") == NONE


def test_without_the_right_there_is_the_line(triangle: Triangle) -> None:
    harness.has_to_be_readable()
    relay, line = triangle.relay, "ethtool -K r0 gro on rx-udp-gro-forwarding on"
    daemon = triangle.lab.mcrd(
        relay,
        GRO + A,
        program=(*harness.with_net_raw(harness.stranger()), console_script("mcrd")),
        owner=harness.stranger(),
    )
    wait_for(lambda: f"`{line}`" in daemon.log(), "the line")
    assert daemon.stats()["interfaces"]["r0"]["gro"] is False
    assert f"-> {line}\n" in daemon.ctl("doctor", check=False).stdout
    relay.run(*line.split())
    assert daemon.stats()["interfaces"]["r0"]["gro"] is True
    assert line not in daemon.ctl("doctor", check=False).stdout
    daemon.edit(A)
    wait_for(lambda: daemon.stats()["interfaces"]["r0"]["gro"] is None, "the rules")
    assert features(relay) == BOTH
