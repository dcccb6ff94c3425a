"""Streams: every datagram of thousands, counted at the receivers."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Sequence
from typing import Any

import pytest

from tests.lab import Fork, Host, Lab, Triangle, wait_for
from tests.lab.datagrams import sender
from tests.lab.rules import rule

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
PERFECT = {"lost": 0, "duplicated": 0, "reordered": 0, "corrupt": 0}


def perfect(result: dict[str, Any], count: int) -> bool:
    """Did the receiver get each datagram once, in order, unharmed?"""
    assert {key: result[key] for key in ("unique", *PERFECT)} == {"unique": count, **PERFECT}
    return True


def hoard(host: Host, interface: str, group: str, port: int) -> socket.socket:
    """A member of the group that keeps a whole stream in its receive buffer."""
    sock = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 512 << 20)
    with host.inside():
        sock.bind((group, port))
        index = socket.if_nametoindex(interface)
    mreqn = struct.pack("4s4si", socket.inet_aton(group), bytes(4), index)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
    return sock


def digest(sock: socket.socket, count: int) -> tuple[int, str]:
    """How many datagrams there are, and the SHA-256 of all payloads in the order they came in."""
    total, seen = hashlib.sha256(), 0
    sock.settimeout(1)
    with sock:
        try:
            while seen <= count:
                total.update(sock.recv(65536))
                seen += 1
                if seen == count:
                    sock.setblocking(False)
        except (TimeoutError, BlockingIOError):
            pass
    return seen, total.hexdigest()


@pytest.mark.alone
def test_75_000_datagrams_at_50_000_a_second(triangle: Triangle) -> None:
    """None lost, duplicated, reordered or changed: the digests of both sides are equal."""
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    before = hoard(triangle.relay, "r0", "239.1.1.1", 5000)
    behind = hoard(triangle.sink, "k0", "239.2.2.2", 6000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=75_000, rate=50_000, size=1400)
    wait_for(lambda: _handled(daemon.stats()["rules"]["a"]) == 75_000, "the relay to finish")
    assert digest(behind, 75_000) == digest(before, 75_000)
    rule_stats = daemon.stats()["rules"]["a"]
    assert rule_stats["received"] == {"packets": 75_000, "bytes": 75_000 * 1400}
    assert rule_stats["outputs"][0]["sent"] == {"packets": 75_000, "bytes": 75_000 * 1400}


def _handled(stats: dict[str, Any]) -> int:
    output = stats["outputs"][0]
    return int(output["sent"]["packets"] + sum(output["errors"].values()))


@pytest.mark.alone
def test_the_same_as_mcrgen_sees_it(triangle: Triangle) -> None:
    triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    received = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=75_000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=75_000, rate=50_000, size=1400)
    assert perfect(received.result(), 75_000)


@pytest.mark.usefixtures("each_engine")
def test_fan_out_to_three(fork: Fork) -> None:
    fork.lab.mcrd(
        fork.relay,
        rule(
            "a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000", "r1 239.2.2.3 6001", "r2 239.3.3.3 7000"
        ),
    )
    receivers = [
        fork.sink.receive("k0", "239.2.2.2", 6000, expect=10_000),
        fork.sink.receive("k0", "239.2.2.3", 6001, expect=10_000),
        fork.sink2.receive("k1", "239.3.3.3", 7000, expect=10_000),
    ]
    fork.source.send("s0", "239.1.1.1", 5000, count=10_000, rate=10_000, size=1400)
    assert all(perfect(receiver.result(), 10_000) for receiver in receivers)


def test_fan_out_to_fifty(triangle: Triangle) -> None:
    outputs = [f"r1 239.2.2.{number} 6000" for number in range(1, 51)]
    triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", *outputs))
    receivers = [
        triangle.sink.receive("k0", f"239.2.2.{number}", 6000, expect=1000, timeout=300)
        for number in range(1, 51)
    ]
    triangle.source.send("s0", "239.1.1.1", 5000, count=1000, rate=500, size=200)
    assert all(perfect(receiver.result(), 1000) for receiver in receivers)


def test_three_senders_on_one_interface_to_three_rules(triangle: Triangle) -> None:
    numbers = (1, 2, 3)
    triangle.lab.mcrd(
        triangle.relay,
        "".join(rule(f"n{n}", f"r0 239.1.1.{n} 5000", f"r1 239.2.2.{n} 6000") for n in numbers),
    )
    receivers = [triangle.sink.receive("k0", f"239.2.2.{n}", 6000, expect=10_000) for n in numbers]
    senders = [
        triangle.source.start_send("s0", f"239.1.1.{n}", 5000, count=10_000, rate=5000, size=500)
        for n in numbers
    ]
    for stream in senders:
        stream.result()
    assert all(perfect(receiver.result(), 10_000) for receiver in receivers)


def test_two_input_interfaces_at_once(fork: Fork) -> None:
    """r0 to r1, and r2 to r1; each input interface has a worker of its own."""
    daemon = fork.lab.mcrd(
        fork.relay,
        rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000")
        + rule("b", "r2 239.1.1.1 5000", "r1 239.2.2.2 6000"),
    )
    one = fork.sink.receive("k0", "239.2.2.1", 6000, expect=10_000)
    two = fork.sink.receive("k0", "239.2.2.2", 6000, expect=10_000)
    senders = [
        fork.source.start_send("s0", "239.1.1.1", 5000, count=10_000, rate=10_000),
        fork.sink2.start_send("k1", "239.1.1.1", 5000, count=10_000, rate=10_000),
    ]
    for stream in senders:
        stream.result()
    assert perfect(one.result(), 10_000)
    assert perfect(two.result(), 10_000)
    assert sorted(worker["interface"] for worker in daemon.stats()["workers"]) == ["r0", "r2"]


@pytest.mark.parametrize(
    ("sent_to", "relayed_to"),
    [
        ("239.1.1.1", "239.2.2.2"),
        ("239.1.1.1", "10.2.0.2"),
        ("10.1.0.2", "239.2.2.2"),
        ("ff15::1", "fd02::2"),
        ("fd01::2", "ff15::2"),
        *(
            pytest.param(*way, marks=pytest.mark.long)
            for way in (
                *(("10.1.0.2", "10.2.0.2"), ("ff15::1", "ff15::2"), ("fd01::2", "fd02::2")),
                *(("239.1.1.1", "ff15::2"), ("fd01::2", "10.2.0.2")),
            )
        ),
    ],
)
def test_group_or_host_in_and_out(triangle: Triangle, sent_to: str, relayed_to: str) -> None:
    triangle.lab.mcrd(triangle.relay, rule("a", f"r0 {sent_to} 5000", f"r1 {relayed_to} 6000"))
    received = triangle.sink.receive("k0", relayed_to, 6000, expect=5000)
    triangle.source.send("s0", sent_to, 5000, count=5000, rate=10_000, size=1000)
    assert perfect(received.result(), 5000)


def test_over_a_unicast_network_between_two_relays(lab: Lab) -> None:
    """Group to host on the near side, host to group on the far one: a VPN in the middle.

    source s0 -- a0 near a1 --(unicast only)-- b0 far b1 -- k0 sink
    """
    source, near, far, sink = lab.hosts("source", "near", "far", "sink")
    lab.link(source, "s0", ["10.1.0.1/24"], near, "a0", ["10.1.0.2/24"])
    lab.link(near, "a1", ["10.9.0.1/30"], far, "b0", ["10.9.0.2/30"])
    lab.link(far, "b1", ["10.2.0.1/24"], sink, "k0", ["10.2.0.2/24"])
    lab.mcrd(near, rule("up", "a0 239.1.1.1 5000", "a1 10.9.0.2 7000"))
    lab.mcrd(far, rule("down", "b0 10.9.0.2 7000", "b1 239.1.1.1 5000"))
    received = sink.receive("k0", "239.1.1.1", 5000, expect=20_000)
    source.send("s0", "239.1.1.1", 5000, count=20_000, rate=5_000, size=1316)
    assert perfect(received.result(), 20_000)


def test_a_sender_that_the_kernel_would_not_route(triangle: Triangle) -> None:
    """The source is in no network of the relay, and its reverse path check is strict."""
    triangle.relay.sysctl("net.ipv4.conf.all.rp_filter", "1")
    triangle.relay.sysctl("net.ipv4.conf.r0.rp_filter", "1")
    triangle.source.run("ip", "address", "flush", "dev", "s0")
    triangle.source.run("ip", "address", "add", "203.0.113.9/32", "dev", "s0")
    triangle.source.run("ip", "route", "add", "239.0.0.0/8", "dev", "s0")
    triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    received = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=1000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=1000, rate=5000)
    assert perfect(received.result(), 1000)


def test_tiny_to_full_size_datagrams_in_one_stream(triangle: Triangle) -> None:
    triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    sizes: Sequence[int] = [0, 1, 2, 17, 18, 19, 255, 256, 1471, 1472] * 20
    behind = hoard(triangle.sink, "k0", "239.2.2.2", 6000)
    before = hoard(triangle.relay, "r0", "239.1.1.1", 5000)
    with sender(triangle.source, "s0") as sock:
        for number, size in enumerate(sizes):
            sock.sendto(bytes([number % 251]) * size, ("239.1.1.1", 5000))
    assert digest(behind, len(sizes)) == digest(before, len(sizes))
