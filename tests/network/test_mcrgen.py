"""mcrgen on real packets: nothing that happens to a stream may escape the receiver."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import wait_for
from tests.lab.daemon import console_script
from tests.lab.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab import Host, Lab, Receiver

GROUP = "239.1.1.1"
PORT = 5000


@dataclass(frozen=True)
class Cable:
    """left (l0) -- (r0) right."""

    left: Host
    right: Host


@pytest.fixture
def cable(lab: Lab) -> Cable:
    left, right = lab.hosts("left", "right")
    lab.link(
        *(left, "l0", ["10.1.0.1/24", "10.1.0.3/24", "fd01::1/64", "fd01::3/64"]),
        *(right, "r0", ["10.1.0.2/24", "fd01::2/64"]),
        mtu=9100,
    )
    return Cable(left, right)


def payload(sequence: int, *, flow: int = 0, run: int = 1, size: int = 32, time: int = 0) -> bytes:
    """A datagram of mcrgen, made independently of it."""
    if size < 4:
        return b"mcr"[:size]
    if size < 8:
        number = struct.pack(">I", sequence % 2**24)[1:]
        rest = bytes(size - 4)
        return number + bytes([zlib.crc32(b"mcrg" + number + rest) & 0xFF]) + rest
    number = struct.pack(">I", sequence % 2**32)
    fields = struct.pack(">HH6s", flow, run, time.to_bytes(8, "big")[2:])
    rest = fields.ljust(size - 8, b"\x55")[: size - 8]
    return number + struct.pack(">I", zlib.crc32(b"mcrg" + number + rest)) + rest


def craft(cable: Cable, payloads: Sequence[bytes], source: str = "10.1.0.1") -> None:
    """Sends these from left to the group, in this order."""
    with cable.left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
        sock.bind((source, 0))
        for data in payloads:
            sock.sendto(data, (GROUP, PORT))


def received_of(
    cable: Cable, payloads: Sequence[bytes], *, expect: int | None = None
) -> dict[str, Any]:
    """What a receiver says about these."""
    receiver = cable.right.receive("r0", GROUP, PORT, expect=expect)
    craft(cable, payloads)
    return receiver.stop()


def clean(result: dict[str, Any], unique: int) -> bool:
    return result["unique"] == unique and not any(
        result[key] for key in ("lost", "duplicated", "reordered", "corrupt", "kernel_dropped")
    )


def waiting(receiver: Receiver) -> bool:
    return receiver.process.poll() is None


@pytest.mark.parametrize("address", [GROUP, "ff15::1", "ff02::4242", "10.1.0.2", "fd01::2"])
def test_every_kind_of_address(cable: Cable, address: str) -> None:
    receiver = cable.right.receive("r0", address, PORT, expect=200)
    sent = cable.left.send("l0", address, PORT, count=200, rate=2000)
    result = receiver.result()
    assert sent["sent"] == 200
    assert sent["bytes"] == result["bytes"] == 200 * 1400
    assert clean(result, 200), result
    assert receiver.process.returncode == 0
    assert 0 < result["latency_us"]["p50"] <= result["latency_us"]["p99"] < 1e6


@pytest.mark.parametrize(
    "size", [0, 1, 3, 4, 7, 8, 9, 10, 12, 17, 18, 19, 46, 64, 1472, 9000, 65507]
)
def test_every_size(cable: Cable, size: int) -> None:
    receiver = cable.right.receive("r0", GROUP, PORT, expect=100)
    cable.left.send("l0", GROUP, PORT, count=100, rate=2000, size=size)
    result = receiver.result()
    assert clean(result, 100), result
    assert result["bytes"] == 100 * size
    assert result["unsequenced"] == (100 if size < 4 else 0)
    assert (result["latency_us"]["p50"] is not None) == (size >= 18)


def test_the_longest_ipv6_datagram(cable: Cable) -> None:
    receiver = cable.right.receive("r0", "ff15::1", PORT, expect=10)
    cable.left.send("l0", "ff15::1", PORT, count=10, size=65527)
    assert clean(receiver.result(), 10)


@pytest.mark.parametrize("address", [GROUP, "ff15::fffe"])
@pytest.mark.parametrize("size", [4, 18])
def test_thirty_flows(cable: Cable, address: str, size: int) -> None:
    receiver = cable.right.receive("r0", address, PORT, expect=3000, flows=30)
    cable.left.send("l0", address, PORT, count=3000, rate=20000, size=size, flows=30)
    result = receiver.result()
    assert clean(result, 3000), result
    assert result["sequences"] == 30


def test_other_groups_on_the_port_do_not_mix_in(cable: Cable) -> None:
    receiver = cable.right.receive("r0", GROUP, PORT)
    other = cable.right.receive("r0", "239.1.1.2", PORT, expect=50)
    cable.left.send("l0", "239.1.1.2", PORT, count=50)
    assert clean(other.result(), 50)
    assert receiver.stop()["unique"] == 0


@pytest.mark.parametrize("size", [0, 5, 9, 32, 1400])
def test_whole_packets_are_counted(cable: Cable, size: int) -> None:
    result = received_of(cable, [payload(n, size=size) for n in range(20)])
    assert clean(result, 20), result


@pytest.mark.parametrize("size", [4, 8, 32])
def test_duplicates_are_seen(cable: Cable, size: int) -> None:
    numbers = [0, 1, 1, 2, 3, 2, 3, 3]
    result = received_of(cable, [payload(n, size=size) for n in numbers], expect=4)
    assert (result["unique"], result["duplicated"]) == (4, 4)
    assert (result["lost"], result["reordered"], result["corrupt"]) == (0, 0, 0)


def test_duplicates_of_long_ago_are_seen(cable: Cable) -> None:
    """The bitmap is made of chunks of 2^14 numbers, and complete ones are not kept."""
    numbers = [*range(40_000), 7, 20_000, 39_999]
    receiver = cable.right.receive("r0", GROUP, PORT, expect=40_000)
    craft(cable, [payload(n) for n in numbers])
    result = receiver.result()
    assert (result["unique"], result["duplicated"], result["lost"]) == (40_000, 3, 0)


@pytest.mark.parametrize("size", [4, 8, 32])
def test_reordering_is_seen(cable: Cable, size: int) -> None:
    result = received_of(cable, [payload(n, size=size) for n in (0, 3, 1, 2, 4)])
    assert (result["unique"], result["reordered"]) == (5, 2)
    assert (result["lost"], result["duplicated"]) == (0, 0)


def test_a_first_packet_out_of_order_leaves_no_loss(cable: Cable) -> None:
    result = received_of(cable, [payload(n) for n in (5, 4, 3, 6)])
    assert (result["unique"], result["reordered"], result["lost"]) == (4, 2, 0)


@pytest.mark.parametrize("size", [4, 8, 32])
def test_loss_is_seen_without_a_number_to_expect(cable: Cable, size: int) -> None:
    numbers = [n for n in range(100, 200) if n not in {110, 150, 151}]
    result = received_of(cable, [payload(n, size=size) for n in numbers])
    assert (result["unique"], result["lost"]) == (97, 3)


def test_loss_is_counted_for_each_flow(cable: Cable) -> None:
    packets = [payload(n, flow=flow) for flow in range(3) for n in (0, 1, 4)]
    result = received_of(cable, packets)
    assert (result["unique"], result["lost"], result["sequences"]) == (9, 6, 3)


@pytest.mark.parametrize(("size", "bits"), [(4, 24), (8, 32), (32, 32)])
def test_sequence_numbers_wrap_around(cable: Cable, size: int, bits: int) -> None:
    numbers = [(n - 5) % 2**bits for n in range(10)]
    result = received_of(cable, [payload(n, size=size) for n in numbers])
    assert clean(result, 10), result


def test_a_long_gap_is_loss(cable: Cable) -> None:
    """Longer than the window in which duplicates are known."""
    numbers = (0, 1, 2**25, 2**25 + 1, 2**25, 1)
    result = received_of(cable, [payload(n) for n in numbers])
    assert result["lost"] == 2**25 + 2 - 4
    assert (result["unique"], result["duplicated"], result["unsequenced"]) == (5, 1, 1)


@pytest.mark.parametrize("size", [8, 18, 32, 1400])
def test_a_flipped_bit_anywhere_is_corrupt(cable: Cable, size: int) -> None:
    whole = payload(3, size=size)
    spoiled = []
    for at in sorted({*range(min(size, 32)), size - 1}):
        data = bytearray(whole)
        data[at] ^= 0x10
        spoiled.append(bytes(data))
    result = received_of(cable, [*spoiled, whole])
    assert (result["unique"], result["corrupt"]) == (1, len(spoiled))


def test_strange_and_cut_packets_are_corrupt(cable: Cable) -> None:
    whole = payload(3, size=1400)
    strange = [b"x", b"mcx", b"hello, world", whole[:700], whole + b"\0", payload(1)[8:]]
    result = received_of(cable, [whole, *strange])
    assert (result["unique"], result["corrupt"]) == (1, len(strange))
    assert result["lost"] == 0


def test_a_restarted_sender_is_no_duplicate(cable: Cable) -> None:
    receiver = cable.right.receive("r0", GROUP, PORT, expect=100)
    for _ in range(2):
        cable.left.send("l0", GROUP, PORT, count=50, size=12)
    result = receiver.result()
    assert clean(result, 100), result
    assert result["sequences"] == 2


@pytest.mark.parametrize(
    ("address", "source", "other"),
    [(GROUP, "10.1.0.1", "10.1.0.3"), ("10.1.0.2", "10.1.0.1", "10.1.0.3")],
)
def test_one_source_counts(cable: Cable, address: str, source: str, other: str) -> None:
    receiver = cable.right.receive("r0", address, PORT, source=source)
    for origin in (source, other):
        with cable.left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((origin, 0))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(origin))
            sock.sendto(payload(1 if origin == source else 2), (address, PORT))
    result = receiver.stop()
    assert clean(result, 1), result


def test_one_ipv6_source_counts(cable: Cable) -> None:
    receiver = cable.right.receive("r0", "ff35::4242", PORT, source="fd01::1")
    with cable.left.inside():
        index = socket.if_nametoindex("l0")
    for number, origin in enumerate(("fd01::1", "fd01::3")):
        with cable.left.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.bind((origin, 0))
            sock.sendto(payload(number), ("ff35::4242", PORT))
    assert clean(receiver.stop(), 1)


def test_a_source_is_joined_with_igmpv3(cable: Cable) -> None:
    capture = cable.left.capture("l0", "igmp", direction="in")
    cable.right.receive("r0", "232.1.1.1", PORT, source="10.1.0.1")
    report = socket.inet_aton("232.1.1.1") + socket.inet_aton("10.1.0.1")
    wait_for(lambda: any(report in frame for frame in capture.frames()), "an IGMPv3 report")


@pytest.mark.parametrize(("option", "ttl"), [(None, 1), (7, 7)])
def test_a_group_gets_this_ttl(cable: Cable, option: int | None, ttl: int) -> None:
    capture = cable.right.capture("r0", f"udp port {PORT}", direction="in")
    cable.left.send("l0", GROUP, PORT, count=3, ttl=option, source_port=4321)
    frames = capture.stop()
    assert [frame[14 + 8] for frame in frames] == [ttl] * 3
    assert {struct.unpack_from(">H", frame, 14 + 20)[0] for frame in frames} == {4321}


def test_flows_share_one_source_port(cable: Cable) -> None:
    capture = cable.right.capture("r0", f"udp port {PORT}", direction="in")
    cable.left.send("l0", GROUP, PORT, count=6, flows=3)
    frames = capture.stop()
    assert len({frame[14 + 20 : 14 + 22] for frame in frames}) == 1
    assert [frame[14 + 19] for frame in frames] == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("address", [GROUP, "ff15::1"])
def test_bursts_are_sound(cable: Cable, address: str) -> None:
    """By options that `Host.send` does not have."""
    receiver = cable.right.receive("r0", address, PORT, expect=1000, flows=2)
    cable.left.run(
        *(console_script("mcrgen"), "send", "--interface", "l0", "--address", address),
        *("--port", str(PORT), "--flows", "2", "--count", "1000", "--burst", "32"),
        *("--size", "18", "--rate", "20000"),
    )
    result = receiver.result()
    assert clean(result, 1000), result
    assert result["sequences"] == 2


def test_a_full_transmit_queue_loses_nothing(cable: Cable) -> None:
    queue = ("tc", "qdisc", "replace", "dev", "l0", "root", "tbf")
    if cable.left.call(*queue, "rate", "20mbit", "burst", "9k", "limit", "20k").returncode:
        pytest.skip("this kernel has no tbf")
    receiver = cable.right.receive("r0", GROUP, PORT, expect=500)
    sent = cable.left.send("l0", GROUP, PORT, count=500, rate=20000, size=1000)
    assert clean(receiver.result(), 500)
    assert sent["rate"] < 10_000


@pytest.mark.alone
def test_packets_are_evenly_spaced(cable: Cable) -> None:
    """By the times that the packets carry: when each was given to the kernel."""
    capture = cable.right.capture("r0", f"udp port {PORT}", direction="in")
    sent = cable.left.send("l0", GROUP, PORT, count=1000, rate=1000, size=18)
    times = [int.from_bytes(frame[-6:], "big") for frame in capture.stop()]
    gaps = sorted(after - before for before, after in pairwise(times))
    assert len(gaps) == 999
    assert gaps[0] >= 500_000, "a burst"
    # One that is late has a short gap behind it.
    assert sum(gap < 900_000 for gap in gaps) <= 100 + sum(gap > 1_100_000 for gap in gaps)
    # What it reports is what happened.
    assert sent["seconds"] == pytest.approx((times[-1] - times[0]) / 1e9, rel=1e-3)
    assert sent["rate"] == pytest.approx(999 / sent["seconds"], rel=1e-6)
    assert sent["rate"] <= 1001


@pytest.mark.alone
def test_a_stopped_sender_does_not_burst_afterwards(cable: Cable) -> None:
    capture = cable.right.capture("r0", f"udp port {PORT}", direction="in")
    sender = cable.left.start_send("l0", GROUP, PORT, count=400, rate=1000, size=18)
    wait_for(lambda: len(capture.frames()) > 50, "the first packets")
    sender.process.send_signal(signal.SIGSTOP)
    seen = 0

    def quiet() -> bool:
        nonlocal seen
        before, seen = seen, len(capture.frames())
        return before == seen

    wait_for(quiet, "the sender to stand still", interval=0.2)
    sender.process.send_signal(signal.SIGCONT)
    result = sender.result()
    times = [int.from_bytes(frame[-6:], "big") for frame in capture.stop()]
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) > 100_000_000
    assert min(gaps) >= 500_000, "a burst"
    assert result["late"] >= 1
    assert result["late_seconds"] > 0.1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sender_prints_its_summary(cable: Cable, number: signal.Signals) -> None:
    receiver = cable.right.receive("r0", GROUP, PORT)
    capture = cable.right.capture("r0", f"udp port {PORT}", direction="in")
    sender = cable.left.start_send("l0", GROUP, PORT, rate=1000)
    wait_for(capture.frames, "the first packet")
    sender.process.send_signal(number)
    sent = sender.result()
    assert sender.process.returncode == 0
    assert sent["sent"] > 0
    assert waiting(receiver)
    receiver.process.send_signal(number)
    result = receiver.result()
    assert receiver.process.returncode == 0
    assert clean(result, sent["sent"]), result


def test_too_few_is_a_failure(cable: Cable) -> None:
    receiver = cable.right.receive("r0", GROUP, PORT, expect=11)
    craft(cable, [payload(n) for n in range(10)])
    result = receiver.stop()
    assert receiver.process.returncode == 1
    assert (result["unique"], result["lost"]) == (10, 1)
    assert receiver.log().splitlines()[-1] == "mcrgen: expected 11 packets, received 10"


SILENCE = """
import socket, threading, time
from ipaddress import ip_address
from mcrd.traffic import Target
from mcrd.traffic import receive as r

r.EXPECT_SILENCE_NS = 2_000_000_000  # 10 s would be too long for a test
times = []

def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(100):
            times.append(time.monotonic())
            sock.sendto(b"x" * 100, ("127.0.0.1", 5000))
            time.sleep(0.05)

sender = threading.Thread(target=send)
target = Target("lo", ip_address("127.0.0.1"), 5000, 1)
got = r.receive(target, None, r.Ending(expect=99), lambda _: sender.start(), lambda: False)
sender.join()
print(got.corrupt, times[-1] - times[0] > 2 * 2, time.monotonic() - times[-1] >= 2)
"""


def test_what_is_expected_is_waited_for_as_long_as_packets_come(lab: Lab) -> None:
    (host,) = lab.hosts("host")
    host.run("ip", "link", "set", "lo", "up")
    assert host.run(sys.executable, "-c", SILENCE).split() == ["100", "True", "True"]


def test_loss_in_the_receivers_own_socket_is_named(cable: Cable) -> None:
    """Without CAP_NET_ADMIN the buffer is as small as net.core.rmem_max says."""
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    if limit > 32 * 1024 * 1024:
        pytest.skip("net.core.rmem_max of this machine is too large to fill quickly")
    too_many = 2 * limit // 9000 + 500
    log, answer = cable.right.lab.file("log"), cable.right.lab.file("json")
    with log.open("wb") as stderr, answer.open("wb") as stdout:
        process = cable.right.start(
            *("setpriv", "--bounding-set=-net_admin", console_script("mcrgen"), "receive"),
            *("--interface", "r0", "--address", GROUP, "--port", str(PORT), "--json"),
            stdout=stdout,
            stderr=stderr,
        )
    wait_for(lambda: "receiving on" in log.read_text(), "mcrgen receive")
    process.send_signal(signal.SIGSTOP)
    craft(cable, [payload(n, size=9000) for n in range(too_many)])
    process.send_signal(signal.SIGCONT)

    def caught_up() -> bool:
        """With an empty queue the next packet has room."""
        with cable.right.inside():
            lines = Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
        return all(line.split()[4].endswith(":00000000") for line in lines)

    wait_for(caught_up, "the receiver to empty its socket")
    craft(cable, [payload(too_many)])
    wait_for(caught_up, "the receiver to empty its socket")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    result = json.loads(answer.read_text())
    assert result["kernel_dropped"] > 0
    assert result["lost"] == result["kernel_dropped"]
    assert result["unique"] == too_many + 1 - result["kernel_dropped"]


@pytest.mark.parametrize("address", ["10.1.0.2", "fd01::2"])
def test_a_closed_port_does_not_end_the_run(cable: Cable, address: str) -> None:
    capture = cable.right.capture("r0", f"udp dst port {PORT}", direction="in")
    sent = cable.left.send("l0", address, PORT, count=50)
    assert sent["sent"] == 50
    assert len(capture.stop()) == 50


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("send --interface nosuch0 --address 239.1.1.1 --port 5000", "nosuch0"),
        ("receive --interface nosuch0 --address 239.1.1.1 --port 5000", "nosuch0"),
        ("send --interface l0 --address fd09::9 --port 5000 --count 5", "unreachable"),
        ("receive --interface l0 --address 10.9.9.9 --port 5000", "assign"),
    ],
)
def test_a_failure_is_one_clear_line(cable: Cable, arguments: str, named: str) -> None:
    done = cable.left.call(console_script("mcrgen"), *arguments.split())
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("mcrgen: ")
    assert named in line


def test_a_firewall_that_refuses_is_named(cable: Cable) -> None:
    cable.left.run("nft", "add table inet t")
    cable.left.run("nft", "add chain inet t o { type filter hook output priority 0; policy drop; }")
    done = cable.left.call(
        console_script("mcrgen"),
        *("send", "--interface", "l0", "--address", GROUP, "--port", "5000", "--count", "5"),
    )
    assert done.returncode == 1
    assert done.stderr == (
        "mcrgen: cannot send to l0 239.1.1.1:5000: Operation not permitted (EPERM)\n"
    )
