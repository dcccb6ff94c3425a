"""Interfaces and settings that not every kernel has: `make test-kernels` has kernels that do.

All of it starts from a triangle: source (s0) -- (r0) relay (r1) -- (k0) sink.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import wait_for
from tests.lab.datagrams import sender
from tests.lab.rules import rule
from tests.network.test_streams import perfect

if TYPE_CHECKING:
    from tests.lab import Host, Mcrd, Triangle

COUNT, RATE = 100, 1000  # datagrams of a stream, and those of a second
DISABLED = Path("/proc/sys/kernel/io_uring_disabled")


def add(host: Host, name: str, kind: str, *more: str, over: str = "", address: str = "") -> None:
    """Makes an interface that is up; skips the test on a kernel that has none of the kind."""
    link = ("link", over) if over else ()
    made = host.call("ip", "link", "add", *link, "name", name, "type", kind, *more)
    if made.returncode != 0:
        pytest.skip(f"this kernel has no {kind}: {made.stderr.strip()}")
    if address:
        host.run("ip", "address", "add", address, "dev", name)
    host.run("ip", "link", "set", name, "up")


def all_active(daemon: Mcrd) -> bool:
    """Every rule and every output is."""
    rules = daemon.rules().values()
    ends = [rule["state"] for rule in rules] + [o["state"] for r in rules for o in r["outputs"]]
    return set(ends) == {"active"}


def relayed(source: tuple[Host, str, str], sink: tuple[Host, str, str]) -> bool:
    """A stream to port 5000 of the one group or host comes to port 6000 of the other, perfect."""
    (sending, out, to), (receiving, into, at) = source, sink
    received = receiving.receive(into, at, 6000, expect=COUNT)
    sending.send(out, to, 5000, count=COUNT, rate=RATE, ttl=4)
    return perfect(received.result(), COUNT)


def test_a_bond(triangle: Triangle) -> None:
    """Active-backup, at a switch that floods both of its cables: in, out, and after a failure."""
    source, relay, sink = triangle.source, triangle.relay, triangle.sink
    triangle.lab.link(source, "s1", [], relay, "p1", [])
    relay.run("ip", "address", "flush", "dev", "r0")
    add(relay, "bond0", "bond", "mode", "active-backup", "miimon", "20", address="10.1.0.2/24")
    for name in ("r0", "p1"):
        relay.run("ip", "link", "set", name, "down")
        relay.run("ip", "link", "set", name, "master", "bond0")
    source.run("ip", "address", "flush", "dev", "s0")
    triangle.lab.bridge(source, "br0", ["s0", "s1"], ["10.1.0.1/24"])
    daemon = triangle.lab.mcrd(
        relay,
        rule("in", "bond0 239.1.1.1 5000", "r1 239.2.2.2 6000")
        + rule("out", "r1 239.3.3.3 5000", "bond0 239.4.4.4 6000"),
    )
    wait_for(partial(all_active, daemon), "the bond to be in use")
    left = {"s0", "s1"}
    for port in ("s0", "s1"):
        wait_for(partial(carries, relay, left), f"one of {left} to carry the bond")
        assert relayed((source, "br0", "239.1.1.1"), (sink, "k0", "239.2.2.2"))
        assert relayed((sink, "k0", "239.3.3.3"), (source, "br0", "239.4.4.4"))
        if port == "s0":
            source.run("ip", "link", "set", port, "down")
            left.remove(port)


def carries(relay: Host, ports: set[str]) -> bool:
    """Whether the cable in use of the bond is one of these ports of the switch."""
    ends = {"r0": "s0", "p1": "s1"}
    (bond,) = (link for link in relay.links() if link["ifname"] == "bond0")
    return ends.get(bond["linkinfo"]["info_data"].get("active_slave")) in ports


def test_a_macvlan(triangle: Triangle) -> None:
    """An interface of its own on the cable of another one, as containers have: in and out."""
    source, relay, sink = triangle.source, triangle.relay, triangle.sink
    add(relay, "m0", "macvlan", "mode", "bridge", over="r0", address="10.1.0.7/24")
    add(relay, "m1", "macvlan", "mode", "bridge", over="r1", address="10.2.0.7/24")
    daemon = triangle.lab.mcrd(
        relay,
        rule("a", "m0 239.1.1.1 5000", "m1 239.2.2.2 6000", "m1 10.2.0.2 6000")
        + rule("b", "m1 10.2.0.7 5000", "m0 239.4.4.4 6000"),
    )
    wait_for(partial(all_active, daemon), "both to be in use")
    for at in ("239.2.2.2", "10.2.0.2"):
        assert relayed((source, "s0", "239.1.1.1"), (sink, "k0", at))
    assert relayed((sink, "k0", "10.2.0.7"), (source, "s0", "239.4.4.4"))


def test_a_tunnel_of_wireguard(triangle: Triangle) -> None:
    """A host and a group in and out; a group that the peer may not have is counted by its errno."""
    source, relay, sink = triangle.source, triangle.relay, triangle.sink
    for host, number in ((relay, 1), (sink, 2)):
        add(host, "wg0", "wireguard", address=f"10.100.0.{number}/24")
    if not shutil.which("wg"):
        pytest.skip("no wg: apt-get install wireguard-tools")
    keys = {host: triangle.lab.file("key") for host in (relay, sink)}
    for host, path in keys.items():
        path.write_text(host.run("wg", "genkey"))
    for host, other, number in ((relay, sink, 2), (sink, relay, 1)):
        public = host.run("sh", "-c", f"wg pubkey < {keys[other]}").strip()
        host.run(
            *("wg", "set", "wg0", "listen-port", "51820", "private-key", str(keys[host])),
            *("peer", public, "endpoint", f"10.2.0.{number}:51820"),
            *("allowed-ips", f"10.100.0.{number}/32,239.2.0.0/16"),
        )
    daemon = triangle.lab.mcrd(
        relay,
        rule("a", "r0 239.1.1.1 5000", "wg0 239.2.2.2 6000", "wg0 10.100.0.2 6000")
        + rule("b", "wg0 10.100.0.1 5000", "r0 239.4.4.4 6000")
        + rule("c", "wg0 239.2.2.3 5000", "r0 239.4.4.5 6000")
        + rule("d", "r0 239.1.1.2 5000", "wg0 239.9.9.9 6000"),
    )
    wait_for(partial(all_active, daemon), "the tunnel to be in use")
    for at in ("10.100.0.2", "239.2.2.2"):
        assert relayed((source, "s0", "239.1.1.1"), (sink, "wg0", at))
    assert relayed((sink, "wg0", "10.100.0.1"), (source, "s0", "239.4.4.4"))
    assert relayed((sink, "wg0", "239.2.2.3"), (source, "s0", "239.4.4.5"))
    with sender(source, "s0") as sock:
        sock.sendto(b"for no peer", ("239.1.1.2", 5000))

    def fate() -> tuple[int, dict[str, int]]:
        (output,) = daemon.stats()["rules"]["d"]["outputs"]
        return output["sent"]["packets"], output["errors"]

    # It is received some time before it is sent: on a slow machine, a look at both is between.
    wait_for(lambda: fate() != (0, {}), "it to be sent or refused")
    assert fate() == (0, {"ENOKEY": 1})


@pytest.mark.parametrize("remote", ["one", "any"])
def test_gre(triangle: Triangle, remote: str) -> None:
    """Between two hosts, and with any (as of a DMVPN, where `ip neighbour` says to whom)."""
    source, relay, sink = triangle.source, triangle.relay, triangle.sink
    for host, own, other in ((relay, 1, 2), (sink, 2, 1)):
        peer = ("remote", f"10.2.0.{other}") if remote == "one" else ("key", "7")
        more = ("local", f"10.2.0.{own}", *peer, "ttl", "8")
        add(host, "gre1", "gre", *more, address=f"10.100.0.{own}/24")
        if remote == "any":
            for address in (f"10.100.0.{other}", "239.2.2.2", "239.2.2.3"):
                neighbour = (address, "lladdr", f"10.2.0.{other}", "dev", "gre1")
                host.run("ip", "neighbour", "replace", *neighbour)
            host.run("ip", "link", "set", "gre1", "multicast", "on")
    daemon = triangle.lab.mcrd(
        relay,
        rule("a", "r0 239.1.1.1 5000", "gre1 239.2.2.2 6000", "gre1 10.100.0.2 6000")
        + rule("b", "gre1 10.100.0.1 5000", "r0 239.4.4.4 6000")
        + rule("c", "gre1 239.2.2.3 5000", "r0 239.4.4.5 6000"),
    )
    wait_for(partial(all_active, daemon), "the tunnel to be in use")
    for at in ("10.100.0.2", "239.2.2.2"):
        assert relayed((source, "s0", "239.1.1.1"), (sink, "gre1", at))
    assert relayed((sink, "gre1", "10.100.0.1"), (source, "s0", "239.4.4.4"))
    assert relayed((sink, "gre1", "239.2.2.3"), (source, "s0", "239.4.4.5"))


def test_io_uring_that_is_switched_off(triangle: Triangle) -> None:
    """The rule runs without, and doctor gives the line; who asks for it is told which sysctl."""
    if not DISABLED.exists() or DISABLED.read_text().strip() != "2":
        pytest.skip(f"needs a machine with 2 in {DISABLED}: `make test-kernels KERNEL=no-io_uring`")
    a = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000")
    daemon = triangle.lab.mcrd(triangle.relay, a)
    wait_for(partial(all_active, daemon), "the rule to be active")
    assert relayed((triangle.source, "s0", "239.1.1.1"), (triangle.sink, "k0", "239.2.2.2"))
    assert [worker["engine"] for worker in daemon.status()["workers"]] == ["poll"]
    daemon.edit(a + '[daemon]\nengine = "io_uring"\n')
    wait_for(lambda: daemon.rules()["a"]["state"] == "failed", "the rule to fail")
    assert "kernel.io_uring_disabled" in daemon.rules()["a"]["reason"]
    done = daemon.ctl("doctor", check=False)
    assert done.returncode == 1
    assert "sysctl -w kernel.io_uring_disabled=0" in done.stdout
