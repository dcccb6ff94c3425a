"""One packet in, exactly one out: seen on the wire behind the relay, byte for byte."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.lab import Fork, Mcrd, Triangle, super_frames_arrive, wait_for
from tests.lab.datagrams import sender, udp
from tests.lab.rules import rule

SIZES = (0, 1, 18, 46, 64, 1472)
SUPER_FRAMES = pytest.mark.skipif(
    not super_frames_arrive(), reason="before Linux 6.2, UDP super-frames do not pass packet rings"
)


@pytest.mark.parametrize("size", SIZES)
def test_ipv4_datagram_arrives_once_and_equal(triangle: Triangle, size: int) -> None:
    triangle.lab.mcrd(
        triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000 ttl=9 dscp=34")
    )
    payload = os.urandom(size)
    seen = triangle.sink.capture("k0", "udp")
    with sender(triangle.source, "s0") as sock:
        sock.sendto(payload, ("239.1.1.1", 5000))
    wait_for(seen.frames, "a frame behind the relay")
    (frame,) = seen.stop()
    got = udp(frame)
    assert got[0] == "10.2.0.1"
    assert got[2:] == ("239.2.2.2", 6000, 9, 34, payload)


@pytest.mark.parametrize("size", [*SIZES[:-1], 1452])
def test_ipv6_datagram_arrives_once_and_equal(triangle: Triangle, size: int) -> None:
    triangle.lab.mcrd(triangle.relay, rule("a", "r0 ff15::1 5000", "r1 ff15::2 6000 ttl=9 dscp=46"))
    payload = os.urandom(size)
    seen = triangle.sink.capture("k0", "udp")
    with sender(triangle.source, "s0", 6) as sock:
        sock.sendto(payload, ("ff15::1", 5000))
    wait_for(seen.frames, "a frame behind the relay")
    (frame,) = seen.stop()
    got = udp(frame)
    assert got[0] == "fd02::1"
    assert got[2:] == ("ff15::2", 6000, 9, 46, payload)


@pytest.mark.usefixtures("each_engine")
@SUPER_FRAMES
def test_a_super_frame_leaves_as_the_datagrams_that_it_stands_for(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    seen = triangle.sink.capture("k0", "udp")
    payload = os.urandom(950)
    with sender(triangle.source, "s0") as sock:
        sock.setsockopt(socket.IPPROTO_UDP, 103, 100)  # UDP_SEGMENT, linux/udp.h
        sock.sendto(payload, ("239.1.1.1", 5000))
    wait_for(lambda: len(seen.frames()) >= 10, "ten frames behind the relay")
    got = [udp(frame).payload for frame in seen.stop()]
    assert got == [payload[at : at + 100] for at in range(0, 950, 100)]
    assert daemon.stats()["rules"]["a"]["received"] == {"packets": 10, "bytes": 950}


@SUPER_FRAMES
def test_the_next_worker_does_not_cut_a_datagram_as_the_last_one_cut_a_run(
    triangle: Triangle,
) -> None:
    """UDP_SEGMENT is a setting of the socket, which outlives a worker."""
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    seen = triangle.sink.capture("k0", "udp")
    with sender(triangle.source, "s0") as sock:
        sock.setsockopt(socket.IPPROTO_UDP, 103, 100)  # UDP_SEGMENT, linux/udp.h
        sock.sendto(bytes(1000), ("239.1.1.1", 5000))
        wait_for(lambda: len(seen.frames()) >= 10, "ten frames behind the relay")
        (worker,) = daemon.stats()["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        wait_for(
            lambda: pid_of_worker(daemon) not in (None, worker["pid"]),
            "another worker",
            timeout=300,
        )
        sock.setsockopt(socket.IPPROTO_UDP, 103, 0)
        sock.sendto(bytes(1200), ("239.1.1.1", 5000))
    wait_for(lambda: len(seen.frames()) >= 11, "another frame")
    assert [len(udp(frame).payload) for frame in seen.stop()] == [100] * 10 + [1200]


def pid_of_worker(daemon: Mcrd) -> int | None:
    """Of the only one, when it has its rule."""
    stats = daemon.stats()
    active = stats["rules"]["a"]["state"] == "active"
    return next((int(w["pid"]) for w in stats["workers"] if active), None)


def test_defaults_of_an_output(fork: Fork) -> None:
    """TTL 1 to a group, 64 to a host; no DSCP; the input's port; one source port for good."""
    fork.lab.mcrd(
        fork.relay,
        """
        [rules.a]
        input = { interface = "r0", address = "239.1.1.1", port = 5000 }
        outputs = [
            { interface = "r1", address = "239.2.2.2" },
            { interface = "r2", address = "10.3.0.2" },
        ]
        """,
    )
    group = fork.sink.capture("k0", "udp")
    host = fork.sink2.capture("k1", "udp")
    with sender(fork.source, "s0") as sock:
        for _ in range(2):
            sock.sendto(b"payload", ("239.1.1.1", 5000))
    wait_for(lambda: len(group.frames()) >= 2 and len(host.frames()) >= 2, "both datagrams")
    first, second = map(udp, group.stop())
    assert first == second
    assert first[2:6] == ("239.2.2.2", 5000, 1, 0)
    assert udp(host.stop()[0])[2:6] == ("10.3.0.2", 5000, 64, 0)


def test_source_and_source_port_are_what_the_rule_says(triangle: Triangle) -> None:
    triangle.relay.run("ip", "address", "add", "192.0.2.7/32", "dev", "r1")
    triangle.lab.mcrd(
        triangle.relay,
        rule("a", "r0 239.1.1.1 5000", 'r1 239.2.2.2 6000 source="192.0.2.7" source_port=4321'),
    )
    seen = triangle.sink.capture("k0", "udp")
    with sender(triangle.source, "s0") as sock:
        sock.sendto(b"x", ("239.1.1.1", 5000))
    wait_for(seen.frames, "a frame behind the relay")
    assert udp(seen.stop()[0])[:2] == ("192.0.2.7", 4321)


@pytest.mark.parametrize("loop", [True, False])
def test_programs_on_the_relay_hear_an_output_with_loop(triangle: Triangle, loop: bool) -> None:
    triangle.lab.mcrd(
        triangle.relay,
        rule("a", "r0 239.1.1.1 5000", f"r1 239.2.2.2 6000 loop={str(loop).lower()}"),
    )
    local = triangle.relay.receive("r1", "239.2.2.2", 6000)
    far = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=100)
    triangle.source.send("s0", "239.1.1.1", 5000, count=100, rate=1000)
    assert far.result()["unique"] == 100
    assert local.stop()["unique"] == (100 if loop else 0)


@pytest.mark.parametrize("size", [2000, 20000])
def test_a_datagram_in_fragments_is_relayed(triangle: Triangle, size: int) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    received = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=100)
    triangle.source.send("s0", "239.1.1.1", 5000, count=100, rate=500, size=size)
    result = received.result()
    assert (result["unique"], result["corrupt"]) == (100, 0)
    assert daemon.stats()["interfaces"]["r0"]["dropped"]["fragment"] == 0


def test_fragments_of_ipv6_are_counted(triangle: Triangle) -> None:
    """Every fragment has its name, and nothing leaves."""
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 ff15::1 5000", "r1 239.2.2.2 6000"))
    seen = triangle.sink.capture("k0", "udp or ip[6:2] & 0x3fff != 0")
    with sender(triangle.source, "s0", 6) as sock:
        sock.sendto(bytes(20000), ("ff15::1", 5000))
    fragments = -(-(20000 + 8) // 1448)
    wait_for(
        lambda: daemon.stats()["interfaces"]["r0"]["dropped"]["fragment"] >= fragments,
        "the fragments to be counted",
    )
    stats = daemon.stats()
    assert stats["interfaces"]["r0"]["dropped"]["fragment"] == fragments
    assert stats["rules"]["a"]["received"]["packets"] == 0
    assert seen.stop() == []


def test_a_datagram_larger_than_the_outputs_mtu_is_fragmented(
    small_output: Triangle,
) -> None:
    triangle = small_output
    triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    received = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=100)
    triangle.source.send("s0", "239.1.1.1", 5000, count=100, rate=1000, size=1400)
    result = received.result()
    assert (result["unique"], result["corrupt"]) == (100, 0)


@pytest.fixture
def small_output(triangle: Triangle) -> Triangle:
    """The network behind the relay takes frames of 1000 bytes."""
    triangle.relay.run("ip", "link", "set", "r1", "mtu", "1000")
    triangle.sink.run("ip", "link", "set", "k0", "mtu", "1000")
    return triangle
