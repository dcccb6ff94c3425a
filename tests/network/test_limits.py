"""As much as mcr.toml(5) says there may be, with real packets, and one more, which says so.

What a daemon takes at each limit is printed (`-s`); mcr.toml(5), LIMITS, has it.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcrd.config.outputs import OUTPUTS_AT_MOST
from mcrd.model import RULES_AT_MOST
from tests.lab import Lab, Mcrd, Triangle, wait_for
from tests.lab.daemon import console_script
from tests.lab.datagrams import sender, udp
from tests.lab.processes import PATIENCE, CommandError
from tests.lab.rules import rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.lab import Host

UNWATCHED = "[daemon]\nwatch = false\n"
SMALL = 'ring_size = "1 MiB"\n'
LARGE = 20 * PATIENCE  # seconds; the slowest takes 30
IDLE = 3.0  # seconds of a daemon's life whose CPU time is measured


def group(first: int, number: int) -> str:
    return f"239.{first + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def simple(number: int) -> str:
    """A rule that takes a group of its own from r0, and sends another one to r1."""
    return rule(f"n{number}", f"r0 {group(10, number)} 5000", f"r1 {group(20, number)} 6000")


def started(lab: Lab, host: Host, rules: str, nofile: str = "1024:") -> Mcrd:
    """A daemon whose every rule is active; its soft limit on open files is that of a shell."""
    program = ("prlimit", f"--nofile={nofile}", console_script("mcrd"))
    began = time.monotonic()
    daemon = lab.mcrd(host, rules, ready=False, program=program)
    count = len(re.findall(r"^\[rules\.", rules, re.MULTILINE))
    active(daemon, count)
    print(f"all active after {time.monotonic() - began:.1f} s; {cost(daemon)}")
    return daemon


def active(daemon: Mcrd, count: int) -> None:
    wait_for(
        lambda: daemon.status()["rules"] == {"active": count}, f"{count} rules", LARGE, interval=0.1
    )


def cost(daemon: Mcrd) -> str:
    """What it takes while it has nothing to relay."""
    workers = [worker["pid"] for worker in daemon.stats()["workers"]]
    before, began = spent(daemon.pid, *workers), time.monotonic()
    time.sleep(IDLE)  # of its life
    share = (spent(daemon.pid, *workers) - before) / (time.monotonic() - began)
    of_workers = sum(map(own, workers)) / max(1, len(workers))
    return (
        f"{own(daemon.pid):.0f} MiB, {len(workers)} workers of {of_workers:.0f} MiB,"
        f" {100 * share:.1f} % of a CPU while idle"
    )


def spent(*pids: int) -> float:
    """Seconds of CPU time. To ask the daemon would cost more than what is to be measured."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


def own(pid: int) -> float:
    """MiB of memory that a process shares with no other."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    sizes = re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE)
    return sum(map(int, sizes)) / 1024


def arrive(triangle: Triangle, numbers: Iterable[int]) -> None:
    """One packet for each of these simple() rules comes to the sink, and nothing else does."""
    expected = {group(20, number) for number in numbers}
    seen = triangle.sink.capture("k0", "udp port 6000", direction="in")
    with sender(triangle.source, "s0") as out:
        for number in numbers:
            out.sendto(b"?", (group(10, number), 5000))

    def all_of_them() -> bool:
        return {udp(frame).destination for frame in seen.frames()} >= expected

    wait_for(all_of_them, "a packet of each rule")
    assert sorted(udp(frame).destination for frame in seen.stop()) == sorted(expected)


def refused(daemon: Mcrd, rules: str) -> str:
    """What a reload of these says, which changes nothing."""
    before = daemon.status()["rules"]
    daemon.edit(rules)
    with pytest.raises(CommandError) as caught:
        daemon.ctl("reload", timeout=LARGE)
    assert daemon.status()["rules"] == before
    return caught.value.stderr.strip()


@pytest.mark.long
def test_as_many_rules_as_an_interface_has(triangle: Triangle) -> None:
    """16384, each with a group of its own, with the sysctls that Linux begins with."""
    assert triangle.relay.sysctl("net.ipv4.igmp_max_memberships") == "20"
    rules = UNWATCHED + "".join(map(simple, range(RULES_AT_MOST)))
    daemon = started(triangle.lab, triangle.relay, rules)
    some = (0, 5000, 9999, RULES_AT_MOST - 1)
    arrive(triangle, some)
    said = refused(daemon, rules + simple(RULES_AT_MOST))
    line = rules.count("\n") + 2
    assert said == (
        f"{daemon.config}:{line}:9: rules.n16384.input: more than 16384 of the rules with their"
        " input on r0, and a worker has room for no more: one with a range takes many addresses"
    )
    arrive(triangle, some)
    # One that changes is one step, among however many.
    began = time.monotonic()
    daemon.edit(rules.replace("port = 6000 },", "port = 6000, ttl = 9 },", 1))
    (changed, rest) = daemon.ctl("reload", timeout=LARGE).stdout.splitlines()
    print(f"a rule of 16384 changed in {time.monotonic() - began:.1f} s")
    assert changed == "~ rules.n0: outputs[0].ttl 1 -> 9"
    assert rest == "= 16383 unchanged"


@pytest.mark.long
def test_as_many_outputs_as_a_rule_has(triangle: Triangle) -> None:
    def rules(count: int) -> str:
        outputs = (f"r1 {group(20, number)} 6000" for number in range(count))
        return UNWATCHED + rule("a", "r0 239.1.1.1 5000", *outputs)

    def each_sends_one() -> None:
        seen = triangle.sink.capture("k0", "udp port 6000", direction="in")
        with sender(triangle.source, "s0") as out:
            out.sendto(b"?", ("239.1.1.1", 5000))
        wait_for(lambda: len(seen.frames()) >= OUTPUTS_AT_MOST, "a packet of each output")
        came = sorted(udp(frame).destination for frame in seen.stop())
        assert came == sorted(group(20, number) for number in range(OUTPUTS_AT_MOST))

    daemon = started(triangle.lab, triangle.relay, rules(OUTPUTS_AT_MOST))
    each_sends_one()
    assert refused(daemon, rules(OUTPUTS_AT_MOST + 1)) == (
        f"{daemon.config}:{OUTPUTS_AT_MOST + 6}:5: rules.a.outputs[{OUTPUTS_AT_MOST}]:"
        " more than 7168 outputs of one rule"
    )
    each_sends_one()


def tenfold(number: int) -> str:
    """A rule with ten outputs."""
    outputs = (f"r1 {group(20 + at, number)} 6000" for at in range(10))
    return rule(f"n{number}", f"r0 {group(10, number)} 5000", *outputs)


def arrive_tenfold(triangle: Triangle, numbers: Iterable[int]) -> None:
    """One packet for each of these rules comes to all its outputs, and nowhere else."""
    expected = sorted(group(20 + at, number) for number in numbers for at in range(10))
    seen = triangle.sink.capture("k0", "udp port 6000", direction="in")
    with sender(triangle.source, "s0") as out:
        for number in numbers:
            out.sendto(b"?", (group(10, number), 5000))
    wait_for(lambda: len(seen.frames()) >= len(expected), "a packet of each output")
    assert sorted(udp(frame).destination for frame in seen.stop()) == expected


@pytest.mark.long
def test_20000_outputs_with_a_low_soft_limit(triangle: Triangle) -> None:
    """Or as many as this machine lets root have; groups and the daemon itself take some."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = min(2000, (hard - 500) // 10) if hard != resource.RLIM_INFINITY else 2000
    print(f"{10 * count} outputs")
    rules = UNWATCHED + "".join(map(tenfold, range(count)))
    started(triangle.lab, triangle.relay, rules)
    arrive_tenfold(triangle, (0, 1000, count - 1))


def test_more_outputs_than_descriptors(triangle: Triangle) -> None:
    """Those that find no room say what to do, and the others relay; the limit is the hard one."""
    program = ("prlimit", "--nofile=256:512", console_script("mcrd"))
    rules = UNWATCHED + "".join(map(tenfold, range(60)))
    daemon = triangle.lab.mcrd(triangle.relay, rules, program=program)
    arrive_tenfold(triangle, (0, 10))
    outputs = [each for entry in daemon.rules().values() for each in entry["outputs"]]
    failed = [each["reason"] for each in outputs if each["state"] == "failed"]
    assert failed
    assert all("raise the limit on open files (LimitNOFILE=" in reason for reason in failed)
    assert len(outputs) - len(failed) > 350
    daemon.ctl("rules")  # it has descriptors of its own left
    daemon.edit(UNWATCHED + "".join(map(tenfold, range(10))))
    daemon.ctl("reload")
    active(daemon, 10)


INTERFACES = 200


@pytest.mark.long
def test_200_interfaces(triangle: Triangle) -> None:
    """Each has a worker and rings of its own. All packets arrive."""
    source, relay = triangle.source, triangle.relay
    numbers = range(INTERFACES)
    lines = [
        f"link add v{number} type veth peer name p{number} netns {source.pid}" for number in numbers
    ]
    lines += [f"address add 10.64.{number}.2/24 dev v{number}" for number in numbers]
    lines += [f"link set v{number} up" for number in numbers]
    batch(relay, lines)
    lines = [f"address add 10.64.{number}.1/24 dev p{number}" for number in numbers]
    batch(source, lines + [f"link set p{number} up" for number in numbers])
    rules = (
        UNWATCHED
        + f'[interfaces."v*"]\n{SMALL}'
        + "".join(
            rule(f"n{number}", f"v{number} 239.1.1.1 5000", f"r1 {group(20, number)} 6000")
            for number in numbers
        )
    )
    daemon = started(triangle.lab, relay, rules)
    seen = triangle.sink.capture("k0", "udp port 6000", direction="in")
    for number in numbers:
        with sender(source, f"p{number}") as out:
            out.sendto(b"?", ("239.1.1.1", 5000))
    wait_for(lambda: len(seen.frames()) >= INTERFACES, "a packet of each interface")
    came = sorted(udp(frame).destination for frame in seen.stop())
    assert came == sorted(group(20, number) for number in numbers)
    began = time.monotonic()
    assert daemon.stop(LARGE) == 0
    print(f"ended after {time.monotonic() - began:.1f} s")


def batch(host: Host, lines: Iterable[str]) -> None:
    """Run commands of ip(8)."""
    file = host.lab.file("batch")
    file.write_text("".join(f"{line}\n" for line in lines))
    host.run("ip", "-batch", str(file), timeout=LARGE)


@pytest.mark.long
def test_64_workers(triangle: Triangle) -> None:
    def rules(workers: int) -> str:
        table = f"[interfaces.r0]\nworkers = {workers}\n{SMALL}"
        return UNWATCHED + table + rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000")

    daemon = started(triangle.lab, triangle.relay, rules(64))
    # Each flow stays with one worker; of a thousand, some come to each.
    seen = triangle.sink.capture("k0", "udp port 6000", direction="in")
    sent = [f"{flow} {number}".encode() for flow in range(1000) for number in range(3)]
    for flow in range(1000):
        with sender(triangle.source, "s0") as out:
            for payload in sent[3 * flow : 3 * flow + 3]:
                out.sendto(payload, ("239.1.1.1", 5000))
    wait_for(lambda: len(seen.frames()) >= len(sent), "all packets")
    assert sorted(udp(frame).payload for frame in seen.stop()) == sorted(sent)
    assert refused(daemon, rules(65)) == (
        f"{daemon.config}:4:11: interfaces.r0.workers: expected an integer from 1 to 64, got 65"
    )


GROUPS = 5000


@pytest.mark.long
def test_5000_groups_of_ipv6_and_as_many_sources(triangle: Triangle) -> None:
    """With the sysctls that Linux begins with. A socket has room for few of either."""
    assert triangle.relay.sysctl("net.ipv4.igmp_max_memberships") == "20"
    assert triangle.relay.sysctl("net.ipv4.igmp_max_msf") == "10"
    rules = UNWATCHED
    for number in range(GROUPS):
        rules += rule(
            f"six{number}", f"r0 ff15::{number + 1:x} 5000", f"r1 ff15::a:{number:x} 6000"
        )
    sources = ", ".join(f'"10.1.1.{number + 1}"' for number in range(50))
    for number in range(GROUPS // 50):
        rules += rule(
            f"ssm{number}", f"r0 232.1.1.{number} 5000", f"r1 239.2.2.{number} 6000"
        ).replace("port = 5000", f"port = 5000, sources = [{sources}]")
    started(triangle.lab, triangle.relay, rules)
    joined = triangle.relay.run("ip", "maddress", "show", "dev", "r0")
    assert len(re.findall(r"inet6 +ff15::", joined)) == GROUPS
    assert len(re.findall(r"inet +232\.1\.1\.", joined)) == GROUPS // 50
    with triangle.relay.inside():
        asked = Path("/proc/thread-self/net/mcfilter").read_text()
    assert len(re.findall(r" 0xe80101\w\w ", asked)) == GROUPS
    seen = triangle.sink.capture("k0", "udp port 6000", direction="in")
    triangle.source.run("ip", "address", "add", "10.1.1.50/16", "dev", "s0")
    with sender(triangle.source, "s0", 6) as six, sender(triangle.source, "s0") as four:
        six.sendto(b"?", (f"ff15::{GROUPS:x}", 5000))
        four.bind(("10.1.1.50", 0))
        four.sendto(b"?", ("232.1.1.99", 5000))
    wait_for(lambda: len(seen.frames()) >= 2, "a packet of each family")
    assert {udp(frame).destination for frame in seen.stop()} == {
        f"ff15::a:{GROUPS - 1:x}",
        "239.2.2.99",
    }
