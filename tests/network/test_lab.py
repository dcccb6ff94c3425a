"""The lab itself: packets cross it, captures see them, and nothing of it outlives its process."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.dataplane.frames import frame, inject
from tests.lab import CommandError, Fork, Host, Lab, LabError, Triangle, leftovers, wait_for

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).parents[2]


def ping(sender: Host, receiver: Host, address: str) -> bytes:
    """A datagram there, its echo back: what came back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        receiver.socket(family, socket.SOCK_DGRAM) as echo,
        sender.socket(family, socket.SOCK_DGRAM) as probe,
    ):
        echo.bind((address, 7))
        echo.settimeout(5)
        probe.settimeout(5)
        probe.sendto(b"hello", (address, 7))
        data, peer = echo.recvfrom(100)
        echo.sendto(data, peer)
        return probe.recv(100)


@pytest.mark.parametrize("address", ["10.1.0.2", "fd01::2"])
def test_neighbours_reach_each_other(triangle: Triangle, address: str) -> None:
    assert ping(triangle.source, triangle.relay, address) == b"hello"


def test_the_far_ends_do_not(triangle: Triangle) -> None:
    with (
        triangle.source.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
        pytest.raises(OSError, match="unreachable"),
    ):
        probe.sendto(b"hello", ("10.2.0.2", 7))


def test_a_fork_has_two_sinks(fork: Fork) -> None:
    assert ping(fork.relay, fork.sink, "10.2.0.2") == b"hello"
    assert ping(fork.relay, fork.sink2, "fd03::2") == b"hello"


def test_a_capture_sees_every_frame_in_order(triangle: Triangle) -> None:
    capture = triangle.relay.capture("r0", "udp port 5000", direction="in")
    with triangle.source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.1.0.1"))
        for number in range(2000):
            sender.sendto(struct.pack("!I", number), ("239.1.1.1", 5000))
    frames = capture.stop()
    assert [struct.unpack("!I", each[42:46])[0] for each in frames] == list(range(2000))
    assert all(each[:6] == bytes.fromhex("01005e010101") for each in frames)


def test_a_capture_takes_no_notice_of_what_its_filter_refuses(triangle: Triangle) -> None:
    """Not even in the moment in which it starts."""
    other = triangle.source.start_send("s0", "239.1.1.1", 5001, rate=20_000)
    seen = triangle.relay.capture("r0", "udp port 5001", direction="in")
    wait_for(lambda: len(seen.frames()) > 1000, "the stream")
    seen.stop()
    captures = [triangle.relay.capture("r0", "udp port 5000", direction="in") for _ in range(5)]
    assert [capture.stop() for capture in captures] == [[]] * 5
    assert other.process.poll() is None


def test_a_capture_puts_vlan_tags_back(lab: Lab) -> None:
    left, right = lab.hosts("left", "right")
    lab.link(left, "l0", [], right, "r0", [])
    capture = right.capture("r0", "vlan 7 and udp", direction="in")
    inject(left, "l0", frame(tags=[7]), frame(tags=[8]), frame())
    assert capture.stop() == [frame(tags=[7])]


def test_a_capture_says_when_a_frame_is_too_large(triangle: Triangle) -> None:
    capture = triangle.relay.capture("r0", "udp port 5000", direction="in", largest=100)
    triangle.source.send("s0", "239.1.1.1", 5000, count=1, size=200)
    with pytest.raises(LabError, match=r"r0 of relay has more than 100 bytes"):
        capture.stop()


@pytest.mark.parametrize("joined", [True, False])
def test_a_snooping_bridge_forwards_a_group_only_to_who_joined(lab: Lab, joined: bool) -> None:
    """left (l0) -- (p0) [br0 on switch] (p1) -- (r0) right."""
    left, switch, right = lab.hosts("left", "switch", "right")
    lab.link(left, "l0", ["10.9.0.1/24"], switch, "p0", [])
    lab.link(right, "r0", ["10.9.0.2/24"], switch, "p1", [])
    lab.bridge(switch, "br0", ["p0", "p1"], ["10.9.0.3/24"], snooping=True, querier=True)
    with (
        right.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        if joined:
            request = socket.inet_aton("239.1.1.1") + socket.inet_aton("10.9.0.2")
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            wait_for(
                lambda: "239.1.1.1" in switch.run("bridge", "mdb", "show"),
                "the membership to reach the bridge",
            )
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.9.0.1"))

        def arrives() -> bool:
            capture = right.capture("r0", "udp port 5000", direction="in")
            sender.sendto(b"hello", ("239.1.1.1", 5000))
            assert ping(left, right, "10.9.0.2") == b"hello"  # behind it, in order
            return capture.stop() != []

        wait_for(lambda: arrives() == joined, "the bridge to know its querier")


def test_mtu_is_of_both_ends(lab: Lab) -> None:
    left, right = lab.hosts("left", "right")
    lab.link(left, "l0", [], right, "r0", [], mtu=9000)
    assert {link["mtu"] for host in (left, right) for link in host.links()[1:]} == {9000}


def test_sysctls_are_the_hosts_own(lab: Lab) -> None:
    left, right = lab.hosts("left", "right")
    name = "net.ipv4.igmp_max_memberships"
    before = right.sysctl(name)
    assert left.sysctl(name, "7") == "7"
    assert right.sysctl(name) == before
    assert Path("/proc/sys/net/ipv4/igmp_max_memberships").read_text().strip() == before


def test_inside_ends_with_the_block(lab: Lab) -> None:
    (host,) = lab.hosts("host")
    before = os.readlink("/proc/thread-self/ns/net")
    with host.inside():
        assert os.readlink("/proc/thread-self/ns/net") == os.readlink(f"/proc/{host.pid}/ns/net")
    assert os.readlink("/proc/thread-self/ns/net") == before


def test_a_failed_command_says_what_failed(lab: Lab) -> None:
    (host,) = lab.hosts("router")
    with pytest.raises(
        CommandError, match=r"on router: ip link show nowhere: exit code 1\n.*exist"
    ):
        host.run("ip", "link", "show", "nowhere")


def test_wait_for_says_what_it_waited_for() -> None:
    with pytest.raises(TimeoutError, match=r"0\.05 s in vain for better weather; last seen: 0"):
        wait_for(lambda: 0, "better weather", timeout=0.05)


def test_what_runs_mcrctl_may_end_but_not_silently(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, "")
    assert daemon.ctl_again("status")[0] == 0
    process = daemon._again  # noqa: SLF001  # the fault is put there by hand
    assert process is not None
    process.kill()
    with pytest.raises(LabError, match="has ended with -9"):
        daemon.ctl_again("status")


DEAF = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


def test_leaving_the_lab_ends_everything() -> None:
    with Lab(grace=0.3) as lab:
        (host,) = lab.hosts("host")
        polite = host.start("sleep", "infinity")
        with (log := lab.file("log")).open("wb") as output:
            deaf = host.start("sh", "-c", DEAF, stdout=output)
        wait_for(log.read_text, "the deaf process")
        directory = lab.directory
        assert {str(p.pid) for p in (polite, deaf)} <= {entry.split()[0] for entry in leftovers()}
    assert polite.returncode == -signal.SIGTERM
    assert deaf.returncode == -signal.SIGKILL
    assert not directory.exists()


HOLDER = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
from tests.lab import Lab, build_triangle
with Lab() as lab:
    triangle = build_triangle(lab)
    sleeper = triangle.sink.start("sleep", "infinity")
    hosts = (triangle.source, triangle.relay, triangle.sink)
    print(*(host.pid for host in hosts), sleeper.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_lab_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # its files are all that it does leave
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        alive = {pid: birth(pid) for pid in holder.stdout.readline().split()}
        assert len(alive) == 4
        assert None not in alive.values()
        holder.send_signal(number)
    wait_for(
        lambda: not [pid for pid, born in alive.items() if birth(pid) == born],
        "the processes of the killed lab to vanish",
    )


def birth(pid: str) -> str | None:
    """When a living process started, in ticks since boot: its number may be another's by now."""
    try:
        fields = (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def test_a_lab_is_quick() -> None:
    """Tests are only written where they cost little."""
    before = time.monotonic()
    with Lab() as lab:
        left, right = lab.hosts("left", "right")
        lab.link(left, "l0", ["10.9.0.1/24"], right, "r0", ["fd09::1/64"])
    assert time.monotonic() - before < 5
