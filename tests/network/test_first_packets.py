"""The first packets of a member: they wait until its socket is there, and none is lost."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.dataplane.frames import frame, inject
from tests.lab import Mcrd, Triangle, wait_for
from tests.lab.datagrams import sender, udp
from tests.lab.rules import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = rule("a", "r0 239.1.1.1 5000", 'r1 239.2.2.2 6000 source="keep"')


def output(daemon: Mcrd, name: str = "a", number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = daemon.stats()["rules"][name]["outputs"][number]
    return found


def settled(daemon: Mcrd, packets: int, name: str = "a") -> bool:
    """Nothing waits any more, and each output has counted all packets."""
    found = daemon.stats()["rules"][name]
    return found["received"]["packets"] == packets and all(
        each["waiting"] == 0
        and each["sent"]["packets"]
        + each["new_member"]
        + each["rate_limited"]
        + sum(each["errors"].values())
        == packets
        for each in found["outputs"]
    )


def forged(count: int, first: int = 0, to: str = "239.1.1.1") -> Iterator[bytes]:
    """Frames of as many sources, each of its own address, which is what they carry."""
    for number in range(first, first + count):
        source = f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        yield frame(source.encode(), source=source, destination=to)


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def test_ten_searches_each_from_a_fresh_port(triangle: Triangle) -> None:
    """As every SSDP client does."""
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("a", "r0 239.255.255.250 1900", 'r1 239.255.255.250 1900 ttl=2 source="keep"'),
    )
    seen = triangle.sink.capture("k0", "udp port 1900")
    ports = []
    for number in range(10):
        with sender(triangle.source, "s0") as sock:
            sock.sendto(b"M-SEARCH %d" % number, ("239.255.255.250", 1900))
            ports.append(sock.getsockname()[1])
    wait_for(lambda: settled(daemon, 10), "all of them")
    found = [udp(one) for one in seen.stop()]
    assert sorted(d.payload for d in found) == [b"M-SEARCH %d" % number for number in range(10)]
    assert {(d.source, d.source_port, d.ttl) for d in found} == {("10.1.0.1", p, 2) for p in ports}
    assert output(daemon)["new_member"] == 0


def test_the_first_trap_of_twenty_agents(triangle: Triangle) -> None:
    """To a collector that keeps the source, and to one that has it of the relay."""
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("a", "r0 10.1.0.2 162", 'r1 10.2.0.2 162 source="keep"', "r1 10.2.0.2 1162"),
    )
    seen = triangle.sink.capture("k0", "udp")
    agents = [f"10.1.0.{number}" for number in range(101, 121)]
    address = triangle.relay.run("ip", "-br", "link", "show", "r0").split()[2].replace(":", "")
    inject(
        triangle.source,
        "s0",
        *(
            frame(
                agent.encode(),
                source=agent,
                destination="10.1.0.2",
                ports=(50000, 162),
                to=bytes.fromhex(address),
            )
            for agent in agents
        ),
    )
    wait_for(lambda: settled(daemon, 20), "all of them")
    found = [udp(one) for one in seen.stop()]
    kept = [(d.source, d.payload.decode()) for d in found if d.port == 162]
    plain = [(d.source, d.payload.decode()) for d in found if d.port == 1162]
    assert kept == [(agent, agent) for agent in agents]
    assert plain == [("10.2.0.1", agent) for agent in agents]


@pytest.mark.parametrize(("version", "size"), [(4, 100), (4, 1400), (4, 4000), (6, 1200)])
def test_two_hundred_of_a_new_member_arrive_in_order(
    triangle: Triangle, version: int, size: int
) -> None:
    """Those that come while its socket is opened as well; the largest are in fragments.

    Of these there are fewer than their ring has slots (480 then): a busy machine loses none.
    """
    source, target = ("239.1.1.1", "239.2.2.2") if version == 4 else ("ff15::1", "ff15::2")
    wide = '[interfaces.r0]\nring_size = "128MiB"\n' if size > 1500 else ""
    daemon = triangle.lab.mcrd(
        triangle.relay, wide + rule("a", f"r0 {source} 5000", f'r1 {target} 6000 source="keep"')
    )
    count, more = 200, 400 if size <= 1500 else 200
    received = triangle.sink.receive("k0", target, 6000, expect=count + more, timeout=30)
    stream = triangle.source.start_send(
        "s0", source, 5000, count=count + more, rate=5_000 if size > 1500 else 50_000, size=size
    )
    stream.result()
    result = received.result()
    assert (result["unique"], result["lost"]) == (count + more, 0)
    assert (result["duplicated"], result["reordered"], result["corrupt"]) == (0, 0, 0)
    wait_for(lambda: settled(daemon, count + more), "the counters")
    assert output(daemon)["sent"]["packets"] == count + more


def test_a_thousand_new_sources_in_a_second(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, KEPT)
    seen = triangle.sink.capture("k0", "udp port 6000")
    began = time.monotonic()
    frames = list(forged(1000))
    for at in range(0, 1000, 50):
        inject(triangle.source, "s0", *frames[at : at + 50])
        time.sleep(max(0.0, began + at / 1000 - time.monotonic()))
    wait_for(lambda: settled(daemon, 1000), "all of them")
    found = [udp(one) for one in seen.stop()]
    assert {(d.source, d.payload.decode()) for d in found} == {(d.source,) * 2 for d in found}
    assert len({d.source for d in found}) == len(found) == 1000
    assert output(daemon)["new_member"] == 0


@pytest.mark.alone
def test_a_hundred_thousand_forged_sources(triangle: Triangle) -> None:
    """Bounded memory; other rules lose nothing, not the first packets of their members either."""
    daemon = triangle.lab.mcrd(
        triangle.relay,
        KEPT
        + rule("there", "r0 239.1.1.2 5000", "r1 239.2.2.3 6000")
        + rule("range", "r0 239.3.0.0/16 5000", "r1 239.4.0.0/16 6001"),
    )
    (worker,) = daemon.stats()["workers"]
    before = memory(worker["pid"]), memory(daemon.pid)
    received = triangle.sink.receive("k0", "239.2.2.3", 6000, expect=2000, timeout=60)
    seen = triangle.sink.capture("k0", "udp port 6001")
    stream = triangle.source.start_send("s0", "239.1.1.2", 5000, count=2000, rate=500)
    groups = []
    with sender(triangle.source, "s0") as sock:
        for at in range(0, 100_000, 1000):
            inject(triangle.source, "s0", *forged(1000, at))
            groups.append(f"239.3.0.{at // 1000 + 1}")
            sock.sendto(b"first", (groups[-1], 5000))
    stream.result()
    result = received.result()
    assert (result["unique"], result["lost"], result["duplicated"]) == (2000, 0, 0)
    lost = daemon.stats()["interfaces"]["r0"]["dropped"]["ring_full"]
    assert lost == 0
    wait_for(lambda: settled(daemon, 100_000), "the flood to be accounted for")
    wait_for(lambda: settled(daemon, 100, "range"), "what came beside it")
    assert sorted({udp(one).destination for one in seen.stop()}) == sorted(
        group.replace("239.3.", "239.4.") for group in groups
    )
    assert output(daemon, "range")["new_member"] == 0
    after = memory(worker["pid"]), memory(daemon.pid)
    assert after[0] - before[0] < 64 << 20  # the pool, a ring, and 8192 members
    assert after[1] - before[1] < 128 << 20


def test_what_waits_in_a_worker_that_ends_is_counted(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, KEPT)
    (worker,) = daemon.stats()["workers"]
    os.kill(daemon.pid, signal.SIGSTOP)  # it answers nobody
    try:
        inject(triangle.source, "s0", *forged(7))
        ring = Path(f"/proc/{worker['pid']}/stat")
        wait_for(lambda: ring.read_text().split()[2] == "S", "the worker to have taken them")
        os.kill(worker["pid"], signal.SIGKILL)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    # The worker that takes its place looks at what the first one has left in the ring.
    wait_for(lambda: settled(daemon, 7), "all to be accounted for")
    inject(triangle.source, "s0", *forged(7, 100))
    wait_for(lambda: settled(daemon, 14), "those that come later")
    assert output(daemon)["sent"]["packets"] >= 7


def test_more_members_than_there_may_be(triangle: Triangle) -> None:
    """The key `members`, and its change; what cannot be had is counted at once."""
    table = "[daemon]\nwatch = false\n[interfaces.r0]\nmembers = {}\n"
    daemon = triangle.lab.mcrd(triangle.relay, table.format(2) + KEPT)
    stream = list(forged(2))

    def both() -> int:
        """Those that are there stay in use."""
        inject(triangle.source, "s0", *stream)
        return 2

    count = both()
    wait_for(lambda: settled(daemon, count), "two members")
    assert output(daemon)["sent"]["packets"] == 2
    count += both()
    inject(triangle.source, "s0", *forged(1, 500))
    count += 1
    wait_for(lambda: settled(daemon, count), "the third")
    assert (output(daemon)["sent"]["packets"], output(daemon)["new_member"]) == (4, 1)
    daemon.edit(table.format(3) + KEPT)
    assert "members 2 -> 3" in daemon.ctl("reload").stdout
    inject(triangle.source, "s0", *forged(1, 500))
    count += 1
    wait_for(lambda: settled(daemon, count), "the third again")
    assert (output(daemon)["sent"]["packets"], output(daemon)["new_member"]) == (5, 1)
    # No socket sends from an address like this.
    inject(triangle.source, "s0", frame(b"x", source="127.0.0.1"))
    count += 1
    wait_for(lambda: settled(daemon, count), "one that cannot be had")
    assert output(daemon)["new_member"] == 2


def test_the_first_packets_of_a_rule_that_is_new(triangle: Triangle) -> None:
    """They come while the supervisor still waits for the worker to take the rule."""
    daemon = triangle.lab.mcrd(triangle.relay, "[daemon]\nwatch = false\n" + KEPT)
    text = "[daemon]\nwatch = false\n" + KEPT
    seen = triangle.sink.capture("k0", "udp port 6000")

    def sources() -> set[str]:
        return {udp(one).source for one in seen.frames()}

    with triangle.source.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("s0", 0))
        for round_ in range(10):
            number = 1000 * round_
            name, group = f"b{round_}", f"239.1.2.{round_ + 1}"
            text += rule(name, f"r0 {group} 5000", f'r1 239.2.3.{round_ + 1} 6000 source="keep"')
            daemon.edit(text)
            reload = threading.Thread(target=daemon.ctl, args=("reload",))
            reload.start()
            while reload.is_alive():
                wire.send(next(forged(1, number, group)))
                number += 1
                time.sleep(0.002)
            # One that comes for certain when the rule is there: the last one to arrive.
            wire.send(next(forged(1, number, group)))
            number += 1
            last = f"10.{64 + (number - 1 >> 16)}.{number - 1 >> 8 & 255}.{number - 1 & 255}"
            wait_for(lambda: last in sources(), "the last of them")  # noqa: B023
            received = daemon.stats()["rules"][name]["received"]["packets"]
            wait_for(lambda: settled(daemon, received, name), "all of them")  # noqa: B023
            assert output(daemon, name)["new_member"] == 0
