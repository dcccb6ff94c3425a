"""A part that fails stays alone with its failure, and says what it is."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Fork, Lab, LabError, Mcrd, Triangle, wait_for
from tests.lab.daemon import console_script
from tests.lab.datagrams import sender
from tests.lab.processes import PATIENCE
from tests.lab.rules import rule

A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000")


def entry(daemon: Mcrd, name: str) -> dict[str, Any]:
    """A rule as `mcrctl rules` shows it."""
    rules = json.loads(daemon.ctl("rules", "--json", name).stdout)["rules"]
    assert list(rules) == [name]
    found: dict[str, Any] = rules[name]
    return found


def flows(triangle: Triangle, group: str = "239.1.1.1", to: str = "239.2.2.1") -> bool:
    """Do a hundred datagrams go through the relay?"""
    received = triangle.sink.receive("k0", to, 6000, expect=100)
    triangle.source.send("s0", group, 5000, count=100, rate=1000)
    return bool(received.result()["unique"] == 100)


def test_a_broken_file_at_the_start_is_refused_with_every_line(triangle: Triangle) -> None:
    text = (
        rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=300")
        + rule("b", "r0 239.1.1.300 5000", "r1 239.2.2.2 6000")
        + rule("c", "r0 239.1.1.3 5000", "r1 239.2.2.3 6000", more="colour = 3")
    )
    daemon = Mcrd(triangle.relay, text, (), None)
    assert daemon.process.wait(PATIENCE) == 1
    lines = daemon.log().splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "rules.a.outputs[0].ttl",
        "rules.b.input.address",
        "rules.c.colour",
    ]
    assert [line.removeprefix(f"{daemon.config}:").split(":")[0] for line in lines] == [
        "4",
        "8",
        "18",
    ]
    assert not daemon.control.exists()


def test_a_rule_on_a_missing_interface_waits_and_comes(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, A + rule("b", "n0 239.1.1.2 5000", "r1 239.2.2.2 6000")
    )
    b = entry(daemon, "b")
    assert (b["state"], b["reason"]) == ("waiting", "n0 is missing")
    assert entry(daemon, "a")["state"] == "active"
    assert flows(triangle)
    (late,) = triangle.lab.hosts("late")
    triangle.lab.link(late, "l0", ["10.4.0.1/24"], triangle.relay, "n0", ["10.4.0.2/24"])
    wait_for(lambda: entry(daemon, "b")["state"] == "active", "the rule to become active")
    received = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=100)
    late.send("l0", "239.1.1.2", 5000, count=100, rate=1000)
    assert received.result()["unique"] == 100


def test_an_output_on_a_missing_interface_waits_alone(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", "r0 239.1.1.1 5000", "r9 239.2.2.9 6000", "r1 239.2.2.1 6000")
    )
    a = entry(daemon, "a")
    assert a["state"] == "active"
    assert [output["state"] for output in a["outputs"]] == ["waiting", "active"]
    assert a["outputs"][0]["reason"] == "r9 is missing"
    assert flows(triangle)


@pytest.mark.parametrize(
    ("output", "state", "reason"),
    [
        ("r1 198.51.100.1 6000", "waiting", "no route to 198.51.100.1 over r1"),
        ("r1 239.2.2.9 6000 source_port=4000", "failed", "another program has port 4000"),
        ('r1 239.2.2.9 6000 source="10.9.9.9"', "waiting", "does not have the address 10.9.9.9"),
        ("bare 239.2.2.9 6000", "waiting", "bare has no IPv4 address"),
        ("shut 239.2.2.9 6000", "waiting", "shut is down"),
    ],
)
def test_an_output_that_cannot_be_opened_does_not_stop_its_neighbour(
    triangle: Triangle, output: str, state: str, reason: str
) -> None:
    for name, up in (("bare", "up"), ("shut", "down")):
        triangle.relay.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}1")
        triangle.relay.run("ip", "link", "set", f"{name}1", "up")
        triangle.relay.run("ip", "link", "set", name, up)
    with triangle.relay.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        with triangle.relay.inside():
            other.bind(("10.2.0.1", 4000))
        daemon = triangle.lab.mcrd(
            triangle.relay, rule("a", "r0 239.1.1.1 5000", output, "r1 239.2.2.1 6000")
        )
        a = entry(daemon, "a")
        assert [out["state"] for out in a["outputs"]] == [state, "active"]
        assert reason in a["outputs"][0]["reason"]
        assert (a["outputs"][0]["retry_in_s"] is not None) == (state == "failed")
        assert flows(triangle)


def test_an_output_without_a_route_comes_when_there_is_one(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 198.51.100.1 6000")
    )
    assert entry(daemon, "a")["state"] == "waiting"
    triangle.relay.run("ip", "route", "add", "198.51.100.0/24", "via", "10.2.0.2")
    wait_for(lambda: entry(daemon, "a")["state"] == "active", "the rule to be active")


def test_an_output_waits_while_its_link_is_down(fork: Fork) -> None:
    daemon = fork.lab.mcrd(
        fork.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000", "r2 239.3.3.3 6000")
    )
    fork.relay.run("ip", "link", "set", "r2", "down")
    wait_for(
        lambda: [o["state"] for o in entry(daemon, "a")["outputs"]] == ["active", "waiting"],
        "the output to wait",
    )
    assert flows(fork)
    fork.relay.run("ip", "link", "set", "r2", "up")
    wait_for(
        lambda: [o["state"] for o in entry(daemon, "a")["outputs"]] == ["active", "active"],
        "the output to be back",
    )
    received = fork.sink2.receive("k1", "239.3.3.3", 6000, expect=100)
    fork.source.send("s0", "239.1.1.1", 5000, count=100, rate=1000)
    assert received.result()["unique"] == 100


def test_the_input_link_goes_down_and_comes_back(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    triangle.relay.run("ip", "link", "set", "r0", "down")
    wait_for(lambda: entry(daemon, "a")["reason"] == "r0 is down", "the rule to wait")
    used = daemon.cpu_seconds()
    time.sleep(1)  # a second of its life, to see that it does not spin
    assert daemon.cpu_seconds() - used < 0.5
    triangle.relay.run("ip", "link", "set", "r0", "up")
    wait_for(lambda: entry(daemon, "a")["state"] == "active", "the rule to be active")
    wait_for(lambda: flows(triangle), "the stream to flow", timeout=30)


def test_the_input_interface_is_deleted_and_made_again(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    assert flows(triangle)
    triangle.relay.run("ip", "link", "del", "r0")
    wait_for(lambda: entry(daemon, "a")["state"] == "waiting", "the rule to wait")
    triangle.lab.link(triangle.source, "s0", ["10.1.0.1/24"], triangle.relay, "r0", ["10.1.0.2/24"])
    wait_for(lambda: entry(daemon, "a")["state"] == "active", "the rule to be active")
    assert flows(triangle)
    assert daemon.stats()["rules"]["a"]["received"]["packets"] == 200


def test_an_address_of_an_output_changes(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    triangle.relay.run("ip", "address", "del", "10.2.0.1/24", "dev", "r1")
    triangle.relay.run("ip", "address", "add", "10.2.0.77/24", "dev", "r1")
    seen = triangle.sink.capture("k0", "udp")

    def from_the_new_address() -> bool:
        with sender(triangle.source, "s0") as sock:
            sock.sendto(b"x", ("239.1.1.1", 5000))
        frames = seen.frames()
        return bool(frames) and frames[-1][26:30] == socket.inet_aton("10.2.0.77")

    wait_for(from_the_new_address, "datagrams from the new address")
    assert daemon.process.poll() is None


@pytest.mark.usefixtures("each_engine")
def test_a_worker_that_dies_is_replaced_and_gets_its_rules(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    assert flows(triangle)
    for number in range(1, 4):
        (worker,) = daemon.stats()["workers"]
        os.kill(worker["pid"], signal.SIGKILL)

        def replaced(old: int = worker["pid"]) -> bool:
            workers = daemon.stats()["workers"]
            return len(workers) == 1 and workers[0]["pid"] != old

        wait_for(replaced, "another worker", timeout=300)
        wait_for(lambda: entry(daemon, "a")["state"] == "active", "the rule to be active")
        assert flows(triangle)
        stats = daemon.stats()
        assert stats["workers"][0]["restarts"] == number
        # Counters outlive workers.
        assert stats["rules"]["a"]["received"]["packets"] == 100 * (number + 1)
    assert "killed by SIGKILL" in daemon.log()


def test_a_refusal_of_a_unicast_output_costs_no_datagram(triangle: Triangle) -> None:
    """Nobody listens on the sink: every ICMP is reported at a later write, which is tried again."""
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 10.2.0.2 6000"))
    triangle.sink.sysctl("net.ipv4.icmp_ratelimit", "0")
    seen = triangle.sink.capture("k0", "udp dst port 6000 and not icmp")
    triangle.source.send("s0", "239.1.1.1", 5000, count=500, rate=500, size=100)
    wait_for(lambda: len(seen.frames()) >= 500, "all datagrams on the wire")
    assert len(seen.stop()) == 500

    def output() -> dict[str, Any]:
        found: dict[str, Any] = daemon.stats()["rules"]["a"]["outputs"][0]
        return found

    wait_for(lambda: output()["sent"]["packets"] == 500, "the last one to be counted")
    assert output()["errors"] == {}
    assert output()["refused"] > 0


def test_a_send_that_a_firewall_refuses_is_counted_by_its_errno(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000", "r1 239.2.2.2 6000")
    )
    triangle.relay.run(
        "nft",
        "add table inet t; add chain inet t o { type filter hook output priority 0; };"
        " add rule inet t o ip daddr 239.2.2.2 drop",
    )
    assert flows(triangle)
    outputs = daemon.stats()["rules"]["a"]["outputs"]
    assert outputs[0]["sent"]["packets"] == 100
    assert outputs[1]["sent"]["packets"] == 0
    assert outputs[1]["errors"] == {"EPERM": 100}


@pytest.mark.parametrize(
    "size", [500, *(pytest.param(size, marks=pytest.mark.long) for size in (18, 1400))]
)
def test_a_neighbour_that_does_not_answer_holds_nobody_up(triangle: Triangle, size: int) -> None:
    """ARP in vain is the output's affair alone, and all that it was to send is accounted for."""
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 10.2.0.99 6000", "r1 239.2.2.1 6000")
    )
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=4000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=4000, rate=2000, size=size)
    result = received.result()
    assert (result["unique"], result["lost"], result["reordered"]) == (4000, 0, 0)
    dead, alive = daemon.stats()["rules"]["a"]["outputs"]
    assert alive["sent"]["packets"] == 4000
    unsent = sum(dead["errors"].values()) + dead["unreachable"] - dead["unanswered"]
    assert dead["sent"]["packets"] + unsent == 4000
    assert dead["unreachable"] > 0


@pytest.mark.usefixtures("each_engine")
def test_a_full_queue_is_counted_and_not_called_sent(triangle: Triangle) -> None:
    """A token bucket behind the output drops most: sent is what arrives, the rest is ENOBUFS.

    It holds the longest run that goes out as one: tbf cuts what is longer than its burst, drops
    a part, and says that all is well (net/sched/sch_tbf.c, tbf_segment()).
    """
    triangle.relay.run(
        *("tc", "qdisc", "add", "dev", "r1", "root", "tbf"),
        *("rate", "1mbit", "burst", "70000", "limit", "70000"),
    )
    daemon = triangle.lab.mcrd(triangle.relay, A)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=2000, rate=2000, size=1000)

    def told() -> dict[str, Any]:
        found: dict[str, Any] = daemon.stats()["rules"]["a"]["outputs"][0]
        return found

    def queued() -> int:
        (bucket,) = json.loads(triangle.relay.run("tc", "-j", "-s", "qdisc", "show", "dev", "r1"))
        return int(bucket["backlog"])

    wait_for(lambda: told()["sent"]["packets"] + told()["errors"]["ENOBUFS"] == 2000, "all of it")
    wait_for(lambda: queued() == 0, "the bucket to be empty")
    arrived = received.stop()["unique"]
    assert 0 < arrived < 2000
    assert told()["sent"]["packets"] == arrived
    assert told()["errors"] == {"ENOBUFS": 2000 - arrived}


def test_the_kernel_does_not_refuse_a_unicast_input(triangle: Triangle) -> None:
    """A connected sender would be told "port unreachable" and stop."""
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 10.1.0.2 5000", "r1 239.2.2.1 6000"))
    seen = triangle.source.capture("s0", "icmp")
    received = triangle.sink.receive("k0", "239.2.2.1", 6000)
    with triangle.source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with triangle.source.inside():
            sock.connect(("10.1.0.2", 5000))
        for number in range(100):
            sock.send(struct.pack("!I", number) + bytes(60))

    def sent() -> int:
        return int(daemon.stats()["rules"]["a"]["outputs"][0]["sent"]["packets"])

    wait_for(lambda: sent() == 100, "all to be sent")
    result = received.stop()
    assert result["unique"] + result["corrupt"] == 100
    assert seen.stop() == []


def test_what_this_daemon_sends_is_never_relayed_again(lab: Lab) -> None:
    """Opposite rules for one group between two networks that are bridged behind the relay's back.

    relay r1 --- b1 bridge b2 --- r2 relay
    """
    relay, bridge, source = lab.hosts("relay", "bridge", "source")
    lab.link(relay, "r1", ["10.1.0.1/24"], bridge, "b1", [])
    lab.link(relay, "r2", ["10.2.0.1/24"], bridge, "b2", [])
    lab.link(bridge, "b3", [], source, "s0", ["10.1.0.9/24"])
    lab.bridge(bridge, "br0", ["b1", "b2", "b3"])
    daemon = lab.mcrd(
        relay,
        rule("east", "r1 239.1.1.1 5000", "r2 239.1.1.1 5000")
        + rule("west", "r2 239.1.1.1 5000", "r1 239.1.1.1 5000"),
    )
    with sender(source, "s0") as sock:
        # Of one content the two workers might see more copies than they let pass (guard.h).
        for number in range(10):
            sock.sendto(b"%d" % number, ("239.1.1.1", 5000))

    # Each datagram comes in on r1 and on r2, and what is made of it once more on the other side.
    def interfaces() -> dict[str, Any]:
        found: dict[str, Any] = daemon.stats()["interfaces"]
        return found

    wait_for(
        lambda: sum(i["dropped"]["own_output"] for i in interfaces().values()) == 20,
        "the loop to end",
    )
    rules = daemon.stats()["rules"]
    assert rules["east"]["received"]["packets"] == 10
    assert rules["west"]["received"]["packets"] == 10


def test_a_second_daemon_on_the_same_socket_refuses(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    with pytest.raises(LabError, match="ended with 1"):
        triangle.lab.mcrd(triangle.relay, A, options=("--control", str(daemon.control)))
    assert "another mcrd answers there" in triangle.lab.daemons[-1].log()
    assert flows(triangle)


def test_without_cap_net_raw_it_says_so(triangle: Triangle) -> None:
    command = ("capsh", "--drop=cap_net_raw", "--", "-c")
    daemon = triangle.lab.mcrd(triangle.relay, A)
    daemon.stop()
    mcrd = Path(daemon.process.args[-5] if isinstance(daemon.process.args, list) else "")
    process = triangle.relay.start(
        *command, f"exec {mcrd} --config {daemon.config} --control {daemon.control}"
    )
    wait_for(daemon.control.exists, "the control socket")
    wait_for(lambda: entry(daemon, "a")["state"] == "failed", "the rule to have failed")
    assert "packet sockets need CAP_NET_RAW" in entry(daemon, "a")["reason"]
    process.terminate()
    assert process.wait(PATIENCE) == 0


NEEDED = '[daemon]\nengine = "io_uring"\n'


def engines(daemon: Mcrd) -> list[str]:
    """What its workers wait and send with."""
    return [worker["engine"] for worker in daemon.status()["workers"]]


@pytest.mark.parametrize(
    ("error", "said", "remedy"),
    [
        ("EPERM", "io_uring is not allowed here (EPERM)", "kernel.io_uring_disabled"),
        ("ENOMEM", "there is no memory for an io_uring (ENOMEM)", "LimitMEMLOCK="),
    ],
)
def test_io_uring_switched_off(triangle: Triangle, error: str, said: str, remedy: str) -> None:
    """As by a sysctl or a container's filter; here by strace(1): the sysctl is the machine's.

    So does the limit on locked memory, of which the kernel counts those of all workers together.
    Who asks for it is told, with the remedy; by default the rules run without.
    """
    refuse = ("-e", "trace=io_uring_setup", "-e", f"inject=io_uring_setup:error={error}")
    daemon = triangle.lab.mcrd(
        triangle.relay,
        f"{A}{NEEDED}",
        program=("strace", "-D", "-f", "-qqq", "-o", "/dev/null", *refuse, console_script("mcrd")),
    )
    a = entry(daemon, "a")
    daemon.edit(f'{A}[daemon]\nengine = "auto"\n')
    wait_for(lambda: entry(daemon, "a")["state"] == "active", "the rule to run without")
    fallen_back = engines(daemon) == ["poll"]
    fallen_back &= said in daemon.log()
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (tracer,) = (line.split()[1] for line in status.splitlines() if line.startswith("TracerPid:"))
    os.kill(int(tracer), signal.SIGKILL)  # it lets go of all
    assert a["state"] == "failed"
    assert said in a["reason"]
    assert remedy in a["reason"]
    assert 'engine = "auto"' in a["reason"]
    assert fallen_back
    daemon.edit(f"{A}{NEEDED}")
    wait_for(lambda: engines(daemon) == ["io_uring"], "it to be had again")
    assert flows(triangle)
