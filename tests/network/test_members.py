"""Ranges, sources that are kept, limits, ESP, several workers, and relays that face each other."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, Mcrd, Triangle, wait_for
from tests.lab.datagrams import sender, udp
from tests.lab.rules import rule
from tests.network.test_streams import hoard
from tests.network.test_supervision import with_a_fault

ESP = 50
UNWATCHED = "[daemon]\nwatch = false\n"  # else the watcher may be quicker than mcrctl


def output(daemon: Mcrd, name: str, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = daemon.stats()["rules"][name]["outputs"][number]
    return found


def handled(daemon: Mcrd, name: str) -> int:
    """What became of a rule's datagrams, all outputs and reasons together."""
    return sum(
        out["sent"]["packets"]
        + sum(out["errors"].values())
        + out["rate_limited"]
        + out["new_member"]
        for out in daemon.stats()["rules"][name]["outputs"]
    )


def _all_handled(daemon: Mcrd, number: int) -> bool:
    return handled(daemon, "a") == number


def test_a_thousand_members_of_a_prefix_each_to_its_image(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", "r0 239.1.0.0/16 5000", "r1 239.2.0.0/16 6000")
    )
    groups = [f"239.1.{n // 250}.{n % 250 + 1}" for n in range(1000)]
    with sender(triangle.source, "s0") as sock:
        seen = triangle.sink.capture("k0", "udp port 6000")
        for group in groups:
            sock.sendto(group.encode(), (group, 5000))
        wait_for(partial(_all_handled, daemon, 1000), "the first datagrams")
        for group in groups:
            sock.sendto(group.encode(), (group, 5000))
        wait_for(partial(_all_handled, daemon, 2000), "the second datagrams")
        assert output(daemon, "a")["sent"]["packets"] == 2000
        sock.sendto(b"never configured", ("239.3.0.1", 5000))
        sock.sendto(b"another port", ("239.1.0.1", 5001))
    wait_for(
        lambda: daemon.stats()["interfaces"]["r0"]["dropped"]["unmatched"] >= 1, "the other port"
    )
    images = {(d.destination, d.payload.decode()) for d in map(udp, seen.stop())}
    assert images == {(group.replace("239.1.", "239.2."), group) for group in groups}


def test_a_range_of_ports_and_an_output_that_keeps_them(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("a", "r0 239.1.1.1 5000-5009", "r1 239.2.2.2 6000-6009", "r1 239.2.2.3 -"),
    )
    seen = triangle.sink.capture("k0", "udp")
    with sender(triangle.source, "s0") as sock:
        for port in range(4999, 5011):
            sock.sendto(b"first", ("239.1.1.1", port))
        wait_for(lambda: handled(daemon, "a") == 20, "the first datagrams")
        for port in range(4999, 5011):
            sock.sendto(b"%d" % port, ("239.1.1.1", port))
        wait_for(lambda: handled(daemon, "a") == 40, "the second datagrams")
    got = {(d.destination, d.port, d.payload) for d in map(udp, seen.stop())}
    expected = {("239.2.2.2", p + 1000, b"%d" % p) for p in range(5000, 5010)}
    expected |= {("239.2.2.3", p, b"%d" % p) for p in range(5000, 5010)}
    expected |= {(address, port, b"first") for address, port, _ in expected}
    assert got == expected
    # All members of an output send from one port.
    assert (
        len({d.source_port for d in map(udp, seen.frames()) if d.destination == "239.2.2.2"}) == 1
    )


def test_members_follow_a_change_of_their_rule(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", "r0 239.1.0.0/24 5000", "r1 239.2.0.0/24 6000")
    )
    seen = triangle.sink.capture("k0", "udp")
    with sender(triangle.source, "s0") as sock:

        def arrives(ttl: int) -> bool:
            sock.sendto(b"x", ("239.1.0.7", 5000))
            frames = seen.frames()
            return bool(frames) and udp(frames[-1]).ttl == ttl

        wait_for(lambda: arrives(1), "the first form")
        daemon.edit(rule("a", "r0 239.1.0.0/24 5000", "r1 239.2.0.0/24 6000 ttl=9"))
        daemon.ctl("reload")
        wait_for(lambda: arrives(9), "the second form")
    (worker,) = daemon.stats()["workers"]
    os.kill(worker["pid"], 9)
    wait_for(lambda: daemon.status()["rules"] == {"active": 1}, "another worker")
    before = len(seen.frames())
    with sender(triangle.source, "s0") as sock:

        def arrives_again() -> bool:
            sock.sendto(b"again", ("239.1.0.7", 5000))
            found = seen.frames()[before:]
            return any((udp(frame).payload, udp(frame).ttl) == (b"again", 9) for frame in found)

        wait_for(arrives_again, "the member in the new worker")
    daemon.edit("")
    daemon.ctl("reload")
    assert len(os.listdir(f"/proc/{daemon.pid}/fd")) < 40


def test_a_worker_that_replaces_another_has_the_members_from_the_start(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", "r0 239.1.1.0/28 5000", "r1 239.2.2.0/28 6000")
    )

    def stats() -> dict[str, Any]:
        found: dict[str, Any] = daemon.stats()["rules"]["a"]
        return found

    receiver = triangle.sink.receive("k0", "239.2.2.3", 6000, timeout=300)
    stream = triangle.source.start_send("s0", "239.1.1.3", 5000, rate=2000)
    wait_for(lambda: stats()["outputs"][0]["sent"]["packets"] > 1000, "the stream to flow")
    unknown = stats()["outputs"][0]["new_member"]
    (worker,) = daemon.stats()["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    wait_for(
        lambda: [w["restarts"] for w in daemon.stats()["workers"]] == [1],
        "another worker",
        timeout=300,
    )
    count = stats()["outputs"][0]["sent"]["packets"]
    wait_for(lambda: stats()["outputs"][0]["sent"]["packets"] > count + 1000, "it to go on")
    sent = stream.stop()["sent"]
    wait_for(lambda: stats()["received"]["packets"] >= sent, "the last packets")
    result = receiver.stop()
    assert stats()["outputs"][0]["new_member"] == unknown
    assert result["unique"] == sent - unknown
    assert stats()["outputs"][0]["errors"] == {}


@pytest.mark.alone
def test_two_workers_neither_duplicate_nor_reorder(triangle: Triangle) -> None:
    """Sixty-four source ports, 100,000 datagrams: each flow stays with one worker, in order."""
    daemon = triangle.lab.mcrd(
        triangle.relay,
        "[interfaces.r0]\nworkers = 2\ncpus = [0, 1]\nring_size = '64 MiB'\n"
        + rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"),
    )
    workers = daemon.stats()["workers"]
    assert [(w["number"], w["cpu"]) for w in workers] == [(0, 0), (1, 1)]
    behind = hoard(triangle.sink, "k0", "239.2.2.2", 6000)
    flows = [sender(triangle.source, "s0") for _ in range(64)]
    for number in range(100_000):
        flows[number % 64].sendto(struct.pack("!II", number % 64, number), ("239.1.1.1", 5000))
    for flow in flows:
        flow.close()
    wait_for(lambda: handled(daemon, "a") == 100_000, "all to be relayed")
    seen: dict[int, list[int]] = defaultdict(list)
    with behind:
        behind.settimeout(1)
        for _ in range(100_000):
            flow_number, sequence = struct.unpack("!II", behind.recv(100))
            seen[flow_number].append(sequence)
        behind.setblocking(False)
        with pytest.raises(BlockingIOError):
            behind.recv(100)
    assert all(seen[n] == list(range(n, 100_000, 64)) for n in range(64))
    # Both took part: the kernel shares by flow.
    ticks = [Path(f"/proc/{w['pid']}/stat").read_text().split()[13:15] for w in workers]
    assert all(int(user) + int(system) > 0 for user, system in ticks)


@pytest.mark.alone
def test_the_number_of_workers_changes_live(triangle: Triangle) -> None:
    plain = UNWATCHED + rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000")
    daemon = triangle.lab.mcrd(triangle.relay, plain)
    received = triangle.sink.receive("k0", "239.2.2.2", 6000)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, count=20_000, rate=10_000)
    wait_for(lambda: handled(daemon, "a") > 1000, "the stream to flow")
    daemon.edit(plain + "[interfaces.r0]\nworkers = 3\n")
    said = daemon.ctl("reload").stdout
    assert "~ interfaces.r0: workers 1 -> 3 (its rings and workers are replaced" in said
    assert len(daemon.stats()["workers"]) == 3
    stream.result()

    def settled() -> bool:
        before = handled(daemon, "a")
        time.sleep(0.2)
        return handled(daemon, "a") == before

    wait_for(settled, "the last of the stream")
    result = received.stop()
    assert (result["duplicated"], result["reordered"], result["corrupt"]) == (0, 0, 0)
    assert result["unique"] == 20_000
    # Counters did not begin anew.
    assert daemon.stats()["rules"]["a"]["received"]["packets"] == result["unique"]


def test_workers_on_other_cpus_lose_nothing(triangle: Triangle) -> None:
    """What comes while a worker is replaced on its ring waits there."""
    plain = UNWATCHED + rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000")
    daemon = triangle.lab.mcrd(triangle.relay, plain)
    received = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=10_000)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, count=10_000, rate=5000)
    wait_for(lambda: handled(daemon, "a") > 1000, "the stream to flow")
    for cpu in (0, 1, 0):
        daemon.edit(plain + f"[interfaces.r0]\ncpus = [{cpu}]\n")
        assert "packets wait in the rings" in daemon.ctl("reload").stdout
    stream.result()
    result = received.result()
    assert (result["unique"], result["lost"], result["reordered"]) == (10_000, 0, 0)
    assert daemon.stats()["rules"]["a"]["received"]["packets"] == 10_000


@pytest.mark.alone
@pytest.mark.parametrize(
    "limit",
    [pytest.param(100, marks=pytest.mark.long), 1000, pytest.param(5000, marks=pytest.mark.long)],
)
def test_a_limit_is_exact(triangle: Triangle, limit: int) -> None:
    """Twice the limit for one and a half seconds: what the limit allows in each of two passes."""
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule(
            "a",
            f"r0 239.1.1.1 5000 limit={{packets_per_second={limit}}}",
            "r1 239.2.2.1 6000",
        )
        + rule(
            "b",
            "r0 239.1.1.2 5000",
            f"r1 239.2.2.2 6000 limit={{packets_per_second={limit}}}",
            "r1 239.2.2.3 6000",
        ),
    )
    count = 3 * limit
    least, most = [], []
    for group in ("239.1.1.1", "239.1.1.2"):
        sent = triangle.source.send("s0", group, 5000, count=count, rate=2 * limit, size=100)
        least.append(0.99 * 2 * limit)
        most.append(limit * (int(sent["seconds"]) + 1))  # 2 * limit, unless the sender was late
    wait_for(lambda: handled(daemon, "b") == 2 * count, "the relay to finish")
    stats = daemon.stats()
    a, b = stats["rules"]["a"], stats["rules"]["b"]
    assert least[0] <= a["received"]["packets"] <= most[0]
    limited = stats["interfaces"]["r0"]["dropped"]["rate_limited"]
    assert a["received"]["packets"] + limited == count
    assert b["received"]["packets"] == count
    assert least[1] <= b["outputs"][0]["sent"]["packets"] <= most[1]
    assert b["outputs"][0]["sent"]["packets"] + b["outputs"][0]["rate_limited"] == count
    assert b["outputs"][1]["sent"]["packets"] == count


@pytest.mark.alone
def test_bursts_within_a_limit_pass(triangle: Triangle) -> None:
    """A picture of forty packets, twenty-five times a second: a thousand packets a second."""
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("a", "r0 239.1.1.1 5000 limit={packets_per_second=1100}", "r1 239.2.2.1 6000"),
    )
    with sender(triangle.source, "s0") as sock:
        for picture in range(50):
            began = time.monotonic()
            for number in range(40):
                sock.sendto(struct.pack("!II", picture, number), ("239.1.1.1", 5000))
            time.sleep(max(0.0, began + 0.04 - time.monotonic()))
    wait_for(lambda: handled(daemon, "a") == 2000, "all pictures to be relayed")


@pytest.mark.parametrize(
    ("sent_to", "relayed_to", "version"),
    [("10.1.0.2", "10.2.0.2", 4), ("239.1.1.1", "239.2.2.2", 4), ("fd01::2", "fd02::2", 6)],
)
def test_esp_is_relayed_as_it_is(
    triangle: Triangle, sent_to: str, relayed_to: str, version: int
) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", f'r0 {sent_to} - protocol="esp"', f"r1 {relayed_to} - ttl=7")
    )
    seen = triangle.sink.capture("k0", "ip proto 50 or ip6 proto 50")
    refused = triangle.source.capture("s0", "icmp or (ip6 and not ip6 proto 50 and icmp6[0] == 1)")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    packets = [os.urandom(size) for size in (8, 9, 100, 1400)]
    with triangle.source.socket(family, socket.SOCK_RAW, ESP) as sock, triangle.source.inside():
        index = socket.if_nametoindex("s0")
        if version == 4:
            mreqn = struct.pack("4s4si", bytes(4), bytes(4), index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
        for packet in [*packets, bytes(7)]:
            sock.sendto(packet, (sent_to, 0))
    wait_for(lambda: len(seen.frames()) == 4, "the packets behind the relay")
    frames = [frame[14:] for frame in seen.stop()]
    header = 20 if version == 4 else 40
    assert [
        frame[header : struct.unpack("!H", frame[2:4])[0] if version == 4 else None]
        for frame in frames
    ] == packets
    assert {frame[8] if version == 4 else frame[7] for frame in frames} == {7}
    dropped = daemon.stats()["interfaces"]["r0"]["dropped"]
    wait_for(
        lambda: daemon.stats()["interfaces"]["r0"]["dropped"]["malformed"] == 1, "the short one"
    )
    assert dropped["bad_checksum"] == 0
    assert refused.stop() == []


def test_the_original_source_is_kept(triangle: Triangle) -> None:
    triangle.source.run("ip", "address", "add", "203.0.113.9/32", "dev", "s0")
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("a", "r0 239.1.1.1 5000", 'r1 239.2.2.2 6000 source="keep"', "r1 239.2.2.3 6000"),
    )
    seen = triangle.sink.capture("k0", "udp")
    socks = {address: sender(triangle.source, "s0") for address in ("10.1.0.1", "203.0.113.9")}
    for number, (address, sock) in enumerate(socks.items()):
        with triangle.source.inside():
            sock.bind((address, 7000 + number))

    sent = 0

    def both() -> bool:
        nonlocal sent
        for address, sock in socks.items():
            sock.sendto(address.encode(), ("239.1.1.1", 5000))
            sent += 1
        kept = [d for d in map(udp, seen.frames()) if d.destination == "239.2.2.2"]
        return len({d.source for d in kept}) == 2

    wait_for(both, "both sources behind the relay")
    for sock in socks.values():
        sock.close()
    wait_for(lambda: handled(daemon, "a") == 2 * sent, "the counters")
    found = [udp(frame) for frame in seen.stop()]
    kept = {(d.source, d.source_port, d.payload) for d in found if d.destination == "239.2.2.2"}
    assert kept == {("10.1.0.1", 7000, b"10.1.0.1"), ("203.0.113.9", 7001, b"203.0.113.9")}
    # The output that keeps nothing missed nothing, and sends from the relay's own address.
    plain = [d for d in found if d.destination == "239.2.2.3"]
    assert {d.source for d in plain} == {"10.2.0.1"}
    assert len(plain) == sent
    assert output(daemon, "a", 1)["sent"]["packets"] == len(plain)
    assert output(daemon, "a", 0)["sent"]["packets"] == len(plain)


def test_discovery_both_ways(lab: Lab) -> None:
    """Opposite rules for one group between two networks: each hears the other, and no loop.

    left l0 -- r1 relay r2 -- k0 right
    """
    left, relay, right = lab.hosts("left", "relay", "right")
    lab.link(left, "l0", ["10.1.0.1/24"], relay, "r1", ["10.1.0.2/24"])
    lab.link(relay, "r2", ["10.2.0.2/24"], right, "k0", ["10.2.0.1/24"])
    daemon = lab.mcrd(
        relay,
        rule("east", "r1 224.0.0.251 5353", "r2 224.0.0.251 5353")
        + rule("west", "r2 224.0.0.251 5353", "r1 224.0.0.251 5353"),
    )
    at_right = right.receive("k0", "224.0.0.251", 5353, expect=100)
    at_left = left.receive("l0", "224.0.0.251", 5353, expect=100)
    left.send("l0", "224.0.0.251", 5353, count=100, rate=1000)
    right.send("k0", "224.0.0.251", 5353, count=100, rate=1000)
    for received in (at_right.result(), at_left.result()):
        assert (received["unique"], received["duplicated"]) == (100, 0)
    rules = daemon.stats()["rules"]
    assert [rules[name]["received"]["packets"] for name in ("east", "west")] == [100, 100]


def test_included_files_are_read_and_watched(triangle: Triangle) -> None:
    directory = triangle.lab.file("rules.d")
    directory.mkdir()
    (directory / "a.toml").write_text(rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000"))
    daemon = triangle.lab.mcrd(triangle.relay, f'[daemon]\ninclude = ["{directory}/*.toml"]\n')

    def rules() -> set[str]:
        return set(daemon.stats()["rules"])

    assert rules() == {"a"}
    (directory / "b.toml").write_text(rule("b", "r0 239.1.1.2 5000", "r1 239.2.2.2 6000"))
    wait_for(lambda: rules() == {"a", "b"}, "the new file to be noticed")
    (directory / "a.toml").unlink()
    wait_for(lambda: rules() == {"b"}, "the end of the other to be noticed")
    (directory / "c.toml").write_text(rule("b", "r0 239.1.1.3 5000", "r1 239.2.2.3 6000"))
    done = daemon.ctl("reload", check=False)
    assert done.returncode == 1
    assert f"{directory}/b.toml:1:" in done.stderr
    assert f"{directory}/c.toml:1:" in done.stderr
    assert rules() == {"b"}


def test_a_flood_of_members_does_not_disturb_another_rule(triangle: Triangle) -> None:
    """Thousands of groups of a prefix, more than there can be sockets for."""
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("there", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000")
        + rule("many", "r0 239.5.0.0/16 5000", "r1 239.6.0.0/16 6000"),
    )
    received = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=2000)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, count=2000, rate=500)
    flooded = 0
    with sender(triangle.source, "s0") as sock:
        while stream.process.poll() is None:
            for _ in range(20):
                group = f"239.5.{flooded % 20_000 // 250}.{flooded % 250 + 1}"
                sock.sendto(b"flood", (group, 5000))
                flooded += 1
            time.sleep(0.005)  # some 3000 a second
    result = received.result()
    assert (result["unique"], result["lost"], result["duplicated"]) == (2000, 0, 0)
    assert result["latency_us"]["p99"] < 1_000_000
    wait_for(lambda: handled(daemon, "many") == flooded, "the flood to be accounted for")
    assert daemon.stats()["interfaces"]["r0"]["dropped"]["ring_full"] == 0
    # What is not a packet's worth of waiting: the daemon answers.
    assert daemon.status()["rules"] == {"active": 2}


QUICKLY = "import mcrd.lanes.members\nmcrd.lanes.members.ENDS_AFTER = 1.0\n"


def test_members_that_are_idle_for_long_are_given_back(triangle: Triangle) -> None:
    """Those in use stay; one that comes again is opened again."""
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("a", "r0 239.1.1.0/24 5000", "r1 239.2.2.0/24 6000"),
        program=with_a_fault(QUICKLY),
    )

    def there() -> set[str]:
        """Sockets that the daemon has or a worker: one is there until both have given it back."""
        lines = triangle.relay.run("ss", "-Hnu", "dst", "239.2.2.0/24").splitlines()
        return {line.split()[-1].removesuffix(":6000") for line in lines}

    receiver = triangle.sink.receive("k0", "239.2.2.1", 6000, timeout=30)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=100)
    with sender(triangle.source, "s0") as sock:
        for number in range(2, 42):
            sock.sendto(b"once", (f"239.1.1.{number}", 5000))
        wait_for(lambda: len(there()) > 2, "the sockets of the others")
        wait_for(lambda: there() == {"239.2.2.1"}, "those that are idle to be closed")
        sock.sendto(b"again", ("239.1.1.7", 5000))
        wait_for(lambda: there() == {"239.2.2.1", "239.2.2.7"}, "its socket")
    sent = stream.stop()["sent"]
    wait_for(lambda: handled(daemon, "a") == sent + 41, "all datagrams")
    result = receiver.stop()
    assert result["unique"] == sent
    assert output(daemon, "a")["sent"]["packets"] == sent + 41
