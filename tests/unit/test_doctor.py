"""mcrctl doctor: each check on files that a host may have, and the whole on this one."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import json
import os
import pwd
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given

from mcrd import config
from mcrd.answers import Status
from mcrd.cli import mcrctl
from mcrd.doctor import (
    Finding,
    Host,
    Running,
    buffers,
    groups,
    kernel,
    limits,
    offloads,
    others,
    sysctls,
)
from mcrd.doctor.demand import Demand
from mcrd.doctor.examine import daemon, examine, for_service, may_read, network, rule_file, sandbox
from mcrd.host.bridges import Bridge
from mcrd.host.devices import Device, Feature
from mcrd.model import Config
from mcrd.planning.resources import Egress, Members
from mcrd.sockets import filters
from tests.lab.rules import rule
from tests.unit.test_plan import configs

NET = "proc/thread-self/net"
CLOCK = "sys/devices/system/clocksource/clocksource0"
TAKEN = "r0 239.1.1.1 5000"
SENT = "r1 239.2.2.2 6000"

MakeHost = Callable[[dict[str, str]], Host]


@pytest.fixture
def host(tmp_path: Path) -> MakeHost:
    """Makes a host of files, by their paths below the root; sysctls by their dotted names."""

    def make(files: dict[str, str]) -> Host:
        for name, text in files.items():
            path = tmp_path / (name if "/" in name else f"proc/sys/{name.replace('.', '/')}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Host(tmp_path)

    return make


def demand(*rules: str) -> Demand:
    return Demand(config.parse("\n".join(rules), "test.toml"))


def running(**more: Any) -> Running:
    """A daemon with one worker on r0."""
    status = {
        "version": "0",
        "pid": 4242,
        "config": "/etc/mcr.toml",
        "config_errors": [],
        "workers": [{"interface": "r0", "pid": 4243, "layers": ["uid", "seccomp"]}],
        "sandbox": {"mode": "default", "missing": {}},
        "privileges": {"uid": 995, "capabilities": ["net_raw"]},
    }
    return Running(msgspec.convert({**status, **more}, Status))


def verdicts(found: list[Finding]) -> list[str]:
    return [finding.verdict for finding in found]


@pytest.mark.parametrize(
    ("release", "verdict", "lacks"),
    [
        ("5.15.0-91-generic", "trouble", 0),
        ("5.19.0", "ok", 4),
        ("6.1.0-28-amd64", "ok", 2),
        ("6.2", "ok", 1),
        ("6.18.44", "ok", 0),
        ("?", "unknown", 0),
    ],
)
def test_the_version_of_the_kernel(host: MakeHost, release: str, verdict: str, lacks: int) -> None:
    found = kernel.version(host({"kernel.osrelease": f"{release}\n"}))
    assert (found.verdict, found.why.count("before ")) == (verdict, lacks)


@pytest.mark.parametrize(
    ("files", "error", "verdict"),
    [
        ({}, 0, "ok"),
        ({}, errno.EPERM, "trouble"),
        ({"kernel.io_uring_disabled": "0"}, errno.ENOSYS, "trouble"),
        ({"kernel.io_uring_disabled": "0"}, 0, "ok"),
        # As root it can be had all the same, but no worker is root.
        ({"kernel.io_uring_disabled": "1", "kernel.io_uring_group": "-1"}, 0, "trouble"),
        ({"kernel.io_uring_disabled": "1", "kernel.io_uring_group": "995"}, 0, "unknown"),
        ({"kernel.io_uring_disabled": "2"}, errno.EPERM, "trouble"),
    ],
)
def test_io_uring(host: MakeHost, files: dict[str, str], error: int, verdict: str) -> None:
    found = kernel.io_uring(host(files), Running(), kernel.Uring(error), "io_uring")
    assert found.verdict == verdict
    assert bool(found.remedy) == (verdict != "ok")


@pytest.mark.parametrize(("engine", "better"), [("auto", True), ("poll", False)])
def test_rules_run_without_io_uring(host: MakeHost, engine: str, better: bool) -> None:
    made = host({"kernel.io_uring_disabled": "2"})
    workers = [{"interface": "r0", "pid": 4243, "layers": ["uid"], "engine": "poll"}]
    found = kernel.io_uring(made, running(workers=workers), kernel.Uring(errno.EPERM), engine)
    assert (found.verdict, bool(found.remedy)) == ("ok", better)
    assert found.value.endswith("; the engine of the workers: poll")


@pytest.mark.parametrize(
    ("groups", "verdict"), [("", "trouble"), ("7 996", "ok"), (None, "unknown")]
)
def test_io_uring_for_a_group(host: MakeHost, groups: str | None, verdict: str) -> None:
    made = host({"kernel.io_uring_disabled": "1", "kernel.io_uring_group": "996"})
    if groups is not None:
        host({"proc/4243/status": f"Name:\tmcrd\nGid:\t995\t995\t995\t995\nGroups:\t{groups}\n"})
    assert kernel.io_uring(made, running(), kernel.Uring(0), "io_uring").verdict == verdict


def test_packet_sockets() -> None:
    assert kernel.packet_sockets(Running(), 0) == []
    (found,) = kernel.packet_sockets(Running(), errno.EPERM)
    assert (found.value, found.remedy) == ("socket: EPERM", "give the container CAP_NET_RAW")
    assert kernel.packet_sockets(running(), errno.EPERM) == []  # the daemon has them


def test_an_io_uring_is_tried_and_nothing_stays_open() -> None:
    before = os.listdir("/proc/self/fd")
    kernel.try_io_uring()
    kernel.try_packet_socket()
    assert os.listdir("/proc/self/fd") == before


NO_INSTANCE = "cannot watch the rule files: no inotify instance is left for this user; and so on"
NO_THREAD = "cannot check the rule files periodically: no thread"


@pytest.mark.parametrize(
    ("limits_", "said", "verdict", "remedy"),
    [
        ((9, 9, 100), "", "ok", ""),
        ((3, 9, 100), "", "ok", ""),  # used up, and it has one of them
        ((3, 9, 100), None, "trouble", "sysctl -w fs.inotify.max_user_instances=1024"),
        ((9, 0, 100), NO_INSTANCE, "trouble", "sysctl -w user.max_inotify_instances=1024"),
        ((9, 9, 0), "", "trouble", "sysctl -w fs.inotify.max_user_watches=65536"),
        ((9, 9, 100), NO_THREAD, "trouble", ""),
    ],
)
def test_instances_of_inotify(
    host: MakeHost, limits_: tuple[int, int, int], said: str | None, verdict: str, remedy: str
) -> None:
    """`said` is what the daemon does; None: there is none."""
    uid = 990 if said is not None else os.geteuid()
    own, other = f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n", "Uid:\t77\t77\t77\t77\n"
    made = host(
        {
            "fs.inotify.max_user_instances": f"{limits_[0]}\n",
            "user.max_inotify_instances": f"{limits_[1]}\n",
            "fs.inotify.max_user_watches": f"{limits_[2]}\n",
            "proc/4242/status": own,
            "proc/50/status": own,
            "proc/51/status": other,
        }
    )
    for pid, kind, count in ((4242, "inotify", 1), (50, "inotify", 2), (51, "inotify", 5)):
        directory = made.root / "proc" / str(pid) / "fd"
        directory.mkdir()
        for number in range(count):
            (directory / str(number)).symlink_to(f"anon_inode:{kind}")
        (directory / "9").symlink_to("anon_inode:[eventpoll]")
    status = running(privileges={"uid": 990, "capabilities": []}, watch_trouble=said or "")
    found = limits.inotify(made, Running() if said is None else status)
    assert (found.verdict, found.remedy) == (verdict, remedy)
    assert found.value.startswith(f"the user {uid} has 3 of {min(limits_[:2])} instances")


@pytest.mark.parametrize(
    ("name", "available", "verdict", "remedy"),
    [
        ("tsc", "tsc hpet", "ok", ""),
        ("kvm-clock", "kvm-clock", "ok", ""),
        ("hpet", "tsc hpet acpi_pm", "trouble", f"echo tsc > /{CLOCK}/current_clocksource"),
        ("acpi_pm", "hpet acpi_pm", "trouble", "tsc=reliable"),
        ("timebase", "timebase", "unknown", ""),
    ],
)
def test_the_clock(host: MakeHost, name: str, available: str, verdict: str, remedy: str) -> None:
    files = {f"{CLOCK}/current_clocksource": name, f"{CLOCK}/available_clocksource": available}
    found = kernel.clock(host(files))
    assert found.verdict == verdict
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("files", "verdict"),
    [
        ({"user.max_user_namespaces": "96365"}, "ok"),
        ({"user.max_user_namespaces": "0"}, "trouble"),
        ({"kernel.osrelease": "6.1"}, "trouble"),
        ({}, "unknown"),
        ({"user.max_user_namespaces": "9", "kernel.unprivileged_userns_clone": "0"}, "trouble"),
        (
            {
                "user.max_user_namespaces": "9",
                "kernel.apparmor_restrict_unprivileged_userns": "1",
            },
            "trouble",
        ),
        (
            {
                "user.max_user_namespaces": "9",
                "kernel.apparmor_restrict_unprivileged_userns": "1",
                "etc/apparmor.d/mcrd": "",
            },
            "ok",
        ),
    ],
)
def test_user_namespaces(host: MakeHost, files: dict[str, str], verdict: str) -> None:
    made = host(files)
    assert kernel.namespaces(made, Running()).verdict == verdict
    # What the workers have counts for more than what the settings let expect.
    assert kernel.namespaces(made, running()).verdict == "ok"
    refused = running(sandbox={"mode": "default", "missing": {"network namespace": "no"}})
    assert kernel.namespaces(made, refused).verdict == verdict


def limit(number: str) -> str:
    return f"Limit  Soft  Hard  Units\nMax open files            1024      {number}    files\n"


def test_descriptors_of_the_daemon_or_of_the_shell(host: MakeHost) -> None:
    many = demand(
        rule("a", TAKEN, *(f"r1 10.0.{n // 250}.{n % 250 + 1} 6000" for n in range(2000)))
    )
    made = host({"proc/4242/limits": limit("1024"), "proc/self/limits": limit("524288")})
    found = limits.descriptors(made, running(), many)
    assert found.verdict == "trouble"
    assert ": LimitNOFILE=131072; then" in found.remedy
    assert limits.descriptors(made, Running(), many).verdict == "ok"
    made = host({"proc/self/limits": limit("1024")})
    assert limits.descriptors(made, Running(), many).verdict == "unknown"
    made = host({"proc/4242/limits": limit("16384")})
    kept = demand(rule("a", TAKEN, f'{SENT} source="keep"', 'r2 239.1.1.1 1 source="keep"'))
    found = limits.descriptors(made, running(), kept)
    assert (found.verdict, bool(found.remedy)) == ("ok", True)  # two for each of 8192 sources
    bounded = demand(rule("a", TAKEN, f'{SENT} source="keep"'), "[interfaces.r0]\nmembers = 100")
    assert limits.descriptors(made, running(), bounded).remedy == ""
    few = demand(rule("a", "r0 239.1.1.0/30 5000", "r1 239.2.2.0/30 6000"))
    assert limits.descriptors(made, running(), few).remedy == ""
    made = host({"proc/4242/limits": limit("unlimited")})
    assert limits.descriptors(made, running(), many).verdict == "ok"
    assert limits.descriptors(made, running(pid=7), many).verdict == "unknown"


def test_what_rules_share_is_taken_once() -> None:
    one = demand(rule("a", "r0 239.1.1.0/30 5000", "r1 239.2.2.0/30 6000"))
    both = demand(
        rule("a", "r0 239.1.1.0/30 5000", "r1 239.2.2.0/30 6000"),
        rule("b", "r0 239.1.1.1 5001", "r1 239.2.2.1 6001"),
    )
    assert (one.groups(4), both.groups(4)) == (4, 4)
    assert both.descriptors(20) == one.descriptors(20) + 1  # the socket of the output


@given(configs())
def test_no_rule_waits_on_the_host_that_all_is_counted_for(found: Config) -> None:
    for _, entry in Demand(found)._needs:  # noqa: SLF001
        outlets = [outlet for outlets in entry.relays.values() for outlet in outlets]
        assert entry.waits == ""
        assert outlets
        assert all(isinstance(outlet, Egress | Members) for outlet in outlets)


def test_what_broadcasts_take() -> None:
    takes = demand(rule("a", "r0 broadcast 500", "r1 broadcast 6000", "r2 10.0.0.1 6000"))
    assert (takes.groups(4), takes.low_ports(1024), takes.hosts(4)) == (0, [], 1)


def test_memory_for_the_rings_that_there_are_not_yet(host: MakeHost) -> None:
    rings = demand(rule("a", TAKEN, SENT), '[interfaces.r0]\nworkers = 2\nring_size = "64 MiB"')
    made = host({"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:   {150 << 10} kB\n"})
    found = limits.memory(made, Running(), rings)
    assert found.verdict == "trouble"
    assert f"take {2 * (64 + 16 + 18)} MiB" in found.value
    assert limits.memory(made, running(), rings).verdict == "ok"  # one of the two runs
    assert limits.memory(host({"proc/meminfo": ""}), Running(), rings).verdict == "unknown"


def test_a_small_ring_is_made_no_larger(host: MakeHost) -> None:
    small = demand(rule("a", TAKEN, SENT), '[interfaces.r0]\nring_size = "4 MiB"')
    made = host({"proc/meminfo": "MemAvailable: 1 kB\n"})
    assert limits.memory(made, Running(), small).remedy == "fewer workers of r0, or more memory"


def test_memberships(host: MakeHost) -> None:
    one = demand(rule("a", TAKEN, SENT))
    name = "net.ipv4.igmp_max_memberships"
    assert verdicts(sysctls.memberships(host({name: "20"}), one)) == ["ok"]
    (found,) = sysctls.memberships(host({name: "0"}), one)
    assert (found.verdict, found.remedy) == ("trouble", f"sysctl -w {name}=20")
    assert sysctls.memberships(host({}), demand(rule("a", "r0 10.0.0.1 5000", SENT))) == []


def test_the_filters_that_the_rules_make_are_tried() -> None:
    rules = config.parse(rule("a", TAKEN, SENT), "test.toml")
    assert buffers.filter_memory(Host(), filters.networks(rules, {})) == []


def snmp(failed: int, late: int) -> dict[str, str]:
    return {f"{NET}/snmp": f"Ip: ReasmTimeout ReasmFails\nIp: {late} {failed}\nIcmp: InMsgs\n"}


@pytest.mark.parametrize(
    ("failed", "late", "threshold", "expected"),
    [
        (0, 0, 4 << 20, []),
        (5, 5, 4 << 20, ["ok"]),
        (5, 3, 4 << 20, ["trouble"]),
        (5, 3, 16 << 20, ["ok"]),  # raised already; the counter does not go back
    ],
)
def test_fragments(
    host: MakeHost, failed: int, late: int, threshold: int, expected: list[str]
) -> None:
    made = host({**snmp(failed, late), buffers.FRAGMENTS: str(threshold)})
    assert verdicts(buffers.fragments(made)) == expected


@pytest.mark.parametrize("threshold", [0, 256 << 10, 1 << 20, 4 << 20])
def test_the_line_for_fragments_ends_the_trouble(host: MakeHost, threshold: int) -> None:
    made = host({**snmp(5, 3), buffers.FRAGMENTS: str(threshold)})
    (found,) = buffers.fragments(made)
    _, _, value = found.remedy.partition(f"sysctl -w {buffers.FRAGMENTS}=")
    assert verdicts(buffers.fragments(host({buffers.FRAGMENTS: value}))) == ["ok"]


@pytest.mark.parametrize(
    ("size", "remedy"), [("212992", ""), ("4096", "sysctl -w net.core.wmem_default=212992")]
)
def test_the_send_buffer(host: MakeHost, size: str, remedy: str) -> None:
    (found,) = buffers.send_buffer(host({"net.core.wmem_default": size}))
    assert (found.verdict, found.remedy) == ("trouble" if remedy else "ok", remedy)
    assert buffers.send_buffer(Host(Path("/nowhere"))) == []


@pytest.mark.parametrize(
    ("dropped", "size", "expected"),
    [
        ("00000000", "1000", []),
        ("0000000a", "1000", ["trouble"]),
        ("0000000a", "16000", ["ok"]),  # raised already; the counter does not go back
        ("0000000a", "", ["unknown"]),
        ("?", "1000", ["unknown"]),
    ],
)
def test_the_backlog(host: MakeHost, dropped: str, size: str, expected: list[str]) -> None:
    cpu = "0000d31c {} 00000000 00000000\n"
    files = {
        f"{NET}/softnet_stat": cpu.format("00000002" if expected else "0") + cpu.format(dropped)
    }
    found = buffers.backlog(host({**files, "net.core.netdev_max_backlog": size}))
    assert verdicts(found) == expected
    if "trouble" in expected:
        assert found[0].value.startswith("12 frames")
        assert found[0].remedy == "sysctl -w net.core.netdev_max_backlog=16000"


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({}, ""),
        ({"net.ipv4.conf.r0.force_igmp_version": "0"}, ""),
        ({"net.ipv4.conf.r0.force_igmp_version": "3"}, ""),
        ({"net.ipv4.conf.r0.force_igmp_version": "2"}, "net/ipv4/conf/r0/force_igmp_version"),
        ({"net.ipv4.conf.all.force_igmp_version": "2"}, "net/ipv4/conf/all/force_igmp_version"),
        ({"net.ipv6.conf.r0.force_mld_version": "1"}, ""),
    ],
)
def test_the_version_of_igmp_that_is_forced(
    host: MakeHost, settings: dict[str, str], remedy: str
) -> None:
    kept = 'r1 232.1.0.0/16 5000 ttl=2 when="members" source="keep"'
    for ssm in (
        demand(rule("a", 'r0 232.1.1.1 5000 sources=["10.1.0.1"]', SENT)),
        demand(rule("a", "r0 232.1.0.0/16 5000", kept)),  # when members come
    ):
        (found,) = sysctls.igmp_version(host(settings), ssm, running())
        assert (found.verdict == "trouble", remedy in found.remedy) == (bool(remedy), True)
    # Without sources, only the version without a leave is one.
    any_source = demand(rule("a", TAKEN, SENT))
    assert verdicts(sysctls.igmp_version(host(settings), any_source, running())) == ["ok"]


def test_of_mld_the_version_of_all_goes_before(host: MakeHost) -> None:
    ssm = demand(rule("a", 'r0 ff3e::1 5000 sources=["fd01::1"]', "r1 ff3e::2 6000"))
    name = "net.ipv6.conf.{}.force_mld_version"
    for interface, value, verdict in (("r0", "1", "trouble"), ("all", "2", "ok")):
        made = host({name.format(interface): value})
        assert verdicts(sysctls.igmp_version(made, ssm, running())) == [verdict]


@pytest.mark.parametrize(
    ("value", "verdict", "without"),
    [("0", "trouble", "unknown"), ("3", "trouble", "unknown"), ("2", "ok", "ok")],
)
def test_the_version_of_igmp_that_the_rule_file_asks_for(
    host: MakeHost, value: str, verdict: str, without: str
) -> None:
    table = "[interfaces.r0]\nigmp_version = 2\nmld_version = 1"  # of MLD nothing is joined
    asked, name = demand(rule("a", TAKEN, SENT), table), "net/ipv4/conf/r0/force_igmp_version"
    made = host({name.replace("/", "."): value})
    (found,) = sysctls.igmp_version(made, asked, running())
    assert (found.verdict, f"sysctl -w {name}=2" in found.remedy) == (verdict, verdict != "ok")
    # Where none runs, it may be going to set that itself.
    assert verdicts(sysctls.igmp_version(made, asked, Running())) == [without]


def test_what_the_rule_file_asks_for_may_be_what_is_wrong(host: MakeHost) -> None:
    ssm = rule("a", 'r0 232.1.1.1 5000 sources=["10.1.0.1"]', SENT)
    asked = demand(ssm, "[interfaces.r0]\nigmp_version = 2")
    made = host({"net.ipv4.conf.r0.force_igmp_version": "2"})
    (found,) = sysctls.igmp_version(made, asked, running())
    assert (found.verdict, "no igmp_version" in found.remedy) == ("trouble", True)


def test_igmp_version_1(host: MakeHost) -> None:
    made = host({"net.ipv4.conf.r0.force_igmp_version": "1"})
    found = sysctls.igmp_version(made, demand(rule("a", TAKEN, SENT)), Running())
    assert verdicts(found) == ["trouble"]


def test_neighbours_count_when_they_are_many(host: MakeHost) -> None:
    made = host(
        {"net.ipv4.neigh.default.gc_thresh2": "512", "net.ipv4.neigh.default.gc_thresh3": "1024"}
    )

    def to_hosts(count: int) -> Demand:
        hosts = (f"r1 10.0.{n // 250}.{n % 250 + 1} 6000" for n in range(count))
        return demand(rule("a", TAKEN, *hosts))

    assert sysctls.neighbours(made, to_hosts(100)) == []
    assert verdicts(sysctls.neighbours(made, to_hosts(500))) == ["ok"]
    (found,) = sysctls.neighbours(made, to_hosts(600))
    assert found.remedy == (
        "sysctl -w net.ipv4.neigh.default.gc_thresh3=4096 net.ipv4.neigh.default.gc_thresh2=2048"
    )
    assert verdicts(sysctls.neighbours(Host(Path("/nowhere")), to_hosts(600))) == ["unknown"]


ROUTES = f"{NET}/route"


@pytest.mark.parametrize(
    ("settings", "address", "verdict", "remedy"),
    [
        ({"all": 0, "r0": 0}, False, "ok", ""),
        ({"all": 0, "r0": 1}, True, "ok", ""),
        ({"all": 0, "r0": 2}, False, "trouble", "net/ipv4/conf/r0/rp_filter=0"),
        (
            {"all": 1, "r0": 0},
            False,
            "trouble",
            "net/ipv4/conf/r0/rp_filter=0 net/ipv4/conf/all/rp_filter=0",
        ),
    ],
)
def test_rp_filter_drops_queries_of_igmp(
    host: MakeHost, settings: dict[str, int], address: bool, verdict: str, remedy: str
) -> None:
    files = {f"net.ipv4.conf.{name}.rp_filter": str(value) for name, value in settings.items()}
    devices = {"r0": Device("r0", ipv4=address)}
    joins = demand(rule("a", TAKEN, SENT))
    (found,) = sysctls.reverse_path(host(files), joins, devices)
    assert (found.verdict, found.remedy) == (verdict, remedy and f"sysctl -w {remedy}")
    # Where no group is joined, nobody answers; and a route will do for an address.
    takes = demand(rule("a", "r0 10.1.0.2 5000", SENT))
    assert verdicts(sysctls.reverse_path(host(files), takes, devices)) == ["ok"]
    made = host({**files, ROUTES: "Iface\tDestination\nr0\t0001010A\n"})
    assert verdicts(sysctls.reverse_path(made, joins, devices)) == ["ok"]


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        (rule("a", "r0 239.1.1.1 500", SENT), ""),
        (rule("a", "r0 10.1.0.2 500", f"{SENT} source_port=501"), "500, 501"),
        (rule("a", TAKEN, f"{SENT} source_port=1024"), ""),
        (rule("a", "r0 10.1.0.2 1000-1030", "r1 10.2.0.2 1000-1030"), "1000"),
    ],
)
def test_low_ports(host: MakeHost, text: str, ports: str) -> None:
    made, low = host({}), demand(text)
    found = sysctls.low_ports(made, running(), low)
    assert verdicts(found) == ["trouble"] * bool(ports)
    assert verdicts(sysctls.low_ports(made, Running(), low)) == ["unknown"] * bool(ports)
    assert [about.value.partition(", below")[0] for about in found] == [ports] * bool(ports)
    may = running(privileges={"uid": 0, "capabilities": ["net_raw", "net_bind_service"]})
    assert sysctls.low_ports(made, may, low) == []
    assert sysctls.low_ports(host({"net.ipv4.ip_unprivileged_port_start": "0"}), may, low) == []


def test_ipv6_that_is_off(host: MakeHost) -> None:
    name = "net.ipv6.conf.{}.disable_ipv6"
    made = host({name.format("r0"): "1", name.format("r1"): "1", name.format("r2"): "0"})
    assert sysctls.ipv6(made, demand(rule("a", TAKEN, SENT))) == []
    six = demand(rule("a", "r0 ff3e::1 5000", "r1 ff3e::2 6000", "r2 ff3e::2 6000"))
    found = sysctls.ipv6(made, six)
    assert [about.remedy for about in found] == [
        f"sysctl -w net/ipv6/conf/{interface}/disable_ipv6=0" for interface in ("r0", "r1")
    ]
    assert len(sysctls.ipv6(made, demand(rule("a", "r0 fd01::2 5000", "r2 fd02::2 6000")))) == 1
    # Frames with a tag are taken without a join.
    tagged = demand(rule("a", "r0 ff3e::1 5000 vlan=9", "r2 ff3e::2 6000"))
    assert sysctls.ipv6(made, tagged) == []
    assert sysctls.ipv6(Host(Path("/nowhere")), six) == []
    made = host({"net.ipv4.ip_forward": "0"})
    (made.root / "proc/sys/net/ipv6").rename(made.root / "away")
    (found_none,) = sysctls.ipv6(made, six)
    assert (found_none.verdict, found_none.value) == ("trouble", "the kernel has none")


@pytest.mark.parametrize("name", ["r0;reboot", "r0.9", "ä$(id)"])
def test_odd_names_in_what_is_to_be_typed(host: MakeHost, name: str) -> None:
    """As the shell reads it, the name is one word; and in the rule file, one key."""
    rules = demand(rule("a", f"{name} 239.1.1.1 5000 vlan=9", SENT))
    devices = {name: Device(name, features={"rx-vlan-filter": FIXED}), "r1": Device("r1")}
    line = offloads.offloads(rules, devices, (6, 2))[0].remedy
    assert shlex.split(line)[3:7] == ["link", name, "name", f"{name}.9"]

    forced = host({f"proc/sys/net/ipv4/conf/{name}/force_igmp_version": "1"})
    asked = demand(rule("a", f"{name} 239.1.1.1 5000", SENT))
    line = sysctls.igmp_version(forced, asked, Running())[0].remedy
    assert shlex.split(line) == ["sysctl", "-w", f"net/ipv4/conf/{name}/force_igmp_version=0"]

    little = host({"proc/meminfo": "MemAvailable: 1 kB\n"})
    line = limits.memory(little, Running(), rules).remedy
    setting, _, table = line.partition(" in the rule file, under ")
    assert tomllib.loads(f"{table}\n{setting}") == {"interfaces": {name: {"ring_size": "8 MiB"}}}


def test_a_long_name_has_no_room_for_a_vlan() -> None:
    rules = demand(
        rule("a", "enp129s0f1np1 239.1.1.1 5000 vlan=100", SENT),
        rule("b", "enp129s0f1np1 239.1.1.1 5000 vlan=7", SENT),
    )
    card = Device("enp129s0f1np1", features={"rx-vlan-filter": FIXED})
    line = offloads.offloads(rules, {card.name: card}, (6, 2))[0].remedy
    begin = "ip link add link enp129s0f1np1 name"
    assert line == (f"{begin} enp129s0f1np1.7 type vlan id 7; {begin} vlan100 type vlan id 100")


ON, OFF, FIXED = Feature(True, True), Feature(False, True), Feature(True, False)
HELD = Feature(False, True, True)


@pytest.mark.parametrize(
    ("device", "release", "verdict", "remedy"),
    [
        (Device("r0"), (6, 1), "ok", ""),
        (Device("r0", "veth"), (6, 2), "ok", ""),
        (Device("r0", "veth"), (6, 1), "unknown", "tx-udp-segmentation off"),
        (
            Device("r0", features={"rx-udp-gro-forwarding": ON}),
            (6, 1),
            "trouble",
            "ethtool -K r0 rx-udp-gro-forwarding off",
        ),
        (Device("r0", features={"rx-udp-gro-forwarding": ON}), (6, 2), "ok", ""),
        (
            Device("r0", features={"rx-vlan-filter": ON}),
            (6, 2),
            "trouble",
            "ethtool -K r0 rx-vlan-filter off",
        ),
        (
            Device("r0", features={"rx-vlan-filter": FIXED}),
            (6, 2),
            "trouble",
            "ip link add link r0 name r0.9 type vlan id 9",
        ),
        (Device("r0", vlans=frozenset({9}), features={"rx-vlan-filter": ON}), (6, 2), "ok", ""),
    ],
)
def test_offloads_of_an_input(
    device: Device, release: tuple[int, int], verdict: str, remedy: str
) -> None:
    rules = demand(rule("a", f"{TAKEN} vlan=9", SENT))
    found = offloads.offloads(rules, {"r0": device, "r1": Device("r1")}, release)
    assert verdicts(found) == [verdict, "ok"]
    assert remedy in found[0].remedy


GRO = {"rx-gro": ON, "rx-udp-gro-forwarding": ON}
LINE = "ethtool -K r0 gro on rx-udp-gro-forwarding on"


@pytest.mark.parametrize(
    ("device", "release", "wanted", "rate", "verdict", "remedy"),
    [
        (Device("r0", features=GRO), (6, 2), True, 0, "ok", ""),
        (Device("r0"), (6, 2), True, 0, "trouble", LINE),
        (Device("r0", features=dict.fromkeys(GRO, OFF)), (6, 2), True, 0, "trouble", LINE),
        (
            Device("r0", features=GRO | {"rx-udp-gro-forwarding": OFF}),
            *((6, 2), True, 0, "trouble"),
            "ethtool -K r0 rx-udp-gro-forwarding on",
        ),
        (Device("r0"), (6, 1), True, 0, "trouble", "take it out"),
        (Device("r0"), (6, 2), False, 10**5, "ok", "gro = true under [interfaces.r0]"),
        (Device("r0"), (6, 2), False, 10**5 - 1, "ok", ""),
        (Device("r0"), (6, 1), False, 10**5, "ok", ""),
    ],
)
def test_merging(
    device: Device, release: tuple[int, int], wanted: bool, rate: int, verdict: str, remedy: str
) -> None:
    merged = ["r0"] if wanted else []
    rules, both = demand(rule("a", TAKEN, SENT)), {"r0": device, "r1": Device("r1")}
    found = offloads.offloads(rules, both, release, merged, {"r0": rate, "r1": rate})
    assert verdicts(found) == [verdict, "ok"]
    assert remedy in found[0].remedy if remedy else not found[0].remedy
    assert not found[1].remedy


@pytest.mark.parametrize(
    ("device", "release", "verdict", "remedy"),
    [
        (Device("r1", features={"tx-udp-segmentation": ON}), (6, 1), "ok", ""),
        (Device("r1", features={"tx-udp-segmentation": OFF}), (6, 2), "ok", "segmentation on"),
        (
            Device("r1", "veth", features={"tx-udp-segmentation": ON}),
            (6, 1),
            "unknown",
            "segmentation off",
        ),
        (Device("r1", "veth", features={"tx-udp-segmentation": OFF}), (6, 1), "ok", ""),
        (
            Device("r1", features={"tx-udp-segmentation": HELD, "tx-checksum-ip-generic": OFF}),
            (6, 2),
            "ok",
            "ethtool -K r1 tx on",
        ),
        # Held off for a reason that is not seen here: no line is known that helps.
        (Device("r1", features={"tx-udp-segmentation": HELD}), (6, 2), "ok", ""),
    ],
)
def test_offloads_of_an_output(
    device: Device, release: tuple[int, int], verdict: str, remedy: str
) -> None:
    found = offloads.offloads(demand(rule("a", TAKEN, SENT)), {"r1": device}, release)
    assert verdicts(found) == ["unknown", verdict]  # r0 is not there
    assert remedy in found[1].remedy
    assert bool(remedy) == bool(found[1].remedy)


def test_another_program_on_the_port_of_a_rule() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        port = sock.getsockname()[1]
        rules = demand(rule("a", f"r0 239.1.1.1 {port}", SENT))
        found = others.programs(Host(), Running(), rules)
        assert f"({os.getpid()}) at 0.0.0.0:{port}" in found.value
        assert found.verdict == "ok"
    assert "none" in others.programs(Host(), Running(), rules).value


def test_programs_that_may_not_be_looked_at(host: MakeHost) -> None:
    line = " 1: {} 00000000:0000 07 00000000:00000000 00:00000000 00000000  {}        0 77 2 0 0\n"
    made = host(
        {
            f"{NET}/udp": "head\n" + line.format("010101EF:1388", 1000),
            f"{NET}/udp6": "head\n"
            + line.format(f"{'0' * 32}:1388", 995)
            + line.format(f"{'0' * 32}:1389", 1000),
        }
    )
    rules = demand(rule("a", TAKEN, SENT))
    if sys.byteorder == "little":
        found = others.programs(made, running(), rules)  # uid 995 is the daemon's
        assert found.value == "a program of uid 1000 at 239.1.1.1:5000"
    assert "uid 995 at [::]:5000" in others.programs(made, Running(), rules).value


def test_a_program_on_one_of_many_ports(host: MakeHost) -> None:
    line = " 1: 010101EF:{:04X} 00000000:0000 07 0:0 0:0 0  1000        0 77 2 0 0\n"
    rules = demand(
        rule("range", "r0 239.1.1.1 5000-5010", "r1 239.2.2.2 6000-6010"),
        rule("other", "r0 239.1.1.1 7000", SENT),
    )
    if sys.byteorder == "little":
        made = host({f"{NET}/udp": "head\n" + "".join(map(line.format, (5005, 5011, 7000)))})
        value = others.programs(made, Running(), rules).value
        assert value.replace("a program of uid 1000 at 239.1.1.1:", "") == "5005, 7000"


def test_a_multicast_router(host: MakeHost) -> None:
    head = "Interface      BytesIn  PktsIn  BytesOut PktsOut Flags Local    Remote\n"
    assert others.routers(host({f"{NET}/ip_mr_vif": head})).value == "the kernel does none"
    made = host({f"{NET}/ip_mr_vif": f"{head} 0 eth0  0 0 0 0 00000 0100000A 00000000\n"})
    found = others.routers(made)
    assert found.verdict == "ok"
    who = "a program that is not visible from here"
    assert found.value == f"the kernel routes between eth0, for {who}"


def test_what_the_daemon_says() -> None:
    assert verdicts([daemon(Running()), sandbox(Running())]) == ["unknown", "unknown"]
    assert verdicts([daemon(running()), sandbox(running())]) == ["ok", "ok"]
    assert sandbox(running(workers=[])).verdict == "unknown"
    missing = running(sandbox={"mode": "default", "missing": {"landlock": "not supported"}})
    found = sandbox(missing)
    assert (found.verdict, found.value) == ("trouble", "without landlock (not supported)")
    found = daemon(running(config_errors=["mcr.toml: permission denied", "y"]))
    assert found.verdict == "trouble"
    assert found.value.endswith("refused: mcr.toml: permission denied, and 1 more")


def test_a_daemon_in_another_pid_namespace(host: MakeHost) -> None:
    """What it says of processes is of others here."""
    made = host({"proc/4242/limits": limit("1024"), "proc/4243/status": "Gid:\t7\t7\nGroups:\n"})
    away = Running(running().status, seen=0)
    assert "in another pid namespace" in daemon(away).value
    assert limits.descriptors(made, away, demand(rule("a", TAKEN, SENT))).verdict == "unknown"
    assert (away.pid, away.worker) == (None, None)
    below = Running(running().status, seen=77)
    assert (below.pid, below.worker) == (77, None)
    assert (running().pid, running().worker) == (4242, 4243)


def test_a_daemon_in_another_network_namespace(host: MakeHost, tmp_path: Path) -> None:
    made = host({})
    assert verdicts(network(made, running(network_namespace=2))) == ["unknown"]  # no /proc
    own = tmp_path / "proc/self/ns/net"
    own.parent.mkdir(parents=True)
    own.symlink_to("net:[1]")
    assert network(made, Running()) == []
    assert network(made, running(network_namespace=1)) == []
    assert verdicts(network(made, running())) == ["unknown"]  # of a version that does not say it
    away = Running(running(network_namespace=2).status, seen=0)
    assert [found.remedy for found in network(made, away)] == ["run mcrctl in its container"]
    (found,) = network(made, running(network_namespace=2))
    assert found.verdict == "trouble"
    assert found.remedy == "nsenter --net=/proc/4242/ns/net mcrctl doctor"
    elsewhere = running(network_namespace=2)
    checks = {about.check for about in examine(made, tmp_path / "none", elsewhere)}
    assert {"network namespace", "clock"} <= checks
    assert "multicast routing" not in checks


def test_the_rule_file(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    found = rule_file(path)
    assert (found[0], found[1].verdict) == (None, "trouble")
    assert found[1].value == f"there is no {path}"
    path.write_text("[rules.a]\n")
    found = rule_file(path)
    assert (found[0], found[1].verdict) == (None, "trouble")
    assert f"{path}:1:" in found[1].value
    path.write_text(rule("a", TAKEN, SENT))
    assert rule_file(path)[1].value == f"{path}, 1 rule enabled"


@pytest.mark.parametrize(
    ("mode", "uid", "groups", "may"),
    [
        (0o600, 1, (1,), False),
        (0o640, 1, (1,), False),
        (0o640, 1, (1, 7), True),
        (0o604, 1, (1, 7), False),  # of its group, and the group may not
        (0o644, 1, (1,), True),
        (0o400, 5, (1,), True),
        (0o044, 5, (7,), False),
    ],
)
def test_who_may_read_the_rule_file(
    mode: int, uid: int, groups: tuple[int, ...], may: bool
) -> None:
    about = os.stat_result((mode, 0, 0, 1, 5, 7, 0, 0, 0, 0))  # of user 5 and group 7
    assert may_read(about, uid, groups) is may


def test_the_user_of_the_service_may_not_read_the_rule_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my rules.toml"
    path.touch(0o600)
    other = pwd.struct_passwd(("mcrd", "x", os.geteuid() + 1, os.getegid() + 1, "", "/", "/"))
    monkeypatch.setattr(pwd, "getpwnam", {"mcrd": other}.__getitem__)
    monkeypatch.setattr(os, "getgrouplist", lambda _, gid: [gid])
    (found,) = for_service(path, Running())
    assert found.remedy == f"chgrp mcrd '{path}' && chmod g+r '{path}'"
    assert for_service(path, running()) == []
    path.chmod(0o644)
    assert for_service(path, Running()) == []
    assert for_service(tmp_path / "none", Running()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_rule_file_that_one_may_not_read(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("")
    path.chmod(0o600)
    os.seteuid(65534)
    try:
        found = rule_file(path)
    finally:
        os.seteuid(0)
    assert (found[0], found[1].verdict) == (None, "unknown")


def test_mcrctl_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[rules.a]\n")
    options = ["--control", str(tmp_path / "none"), "doctor", "--config", str(path)]
    assert mcrctl.main([*options, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    (about,) = (f for f in answer["findings"] if f["check"] == "rule file")
    assert about["remedy"] == f"mcrctl check {path}"

    assert mcrctl.main(options) == 1
    lines = capsys.readouterr().out.splitlines()
    told = [line.split()[0] for line in lines[:-1] if not line.startswith(" ")]
    assert told == sorted(told, key=["trouble", "unknown", "ok"].index)  # troubles first
    assert f"         -> mcrctl check {path}" in lines


def test_it_goes_through_the_rules_of_a_host_that_has_none_of_their_interfaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.toml"
    path.write_text(rule("a", "nowhere0 239.1.1.1 5000", "nowhere1 10.0.0.1 6000"))
    mcrctl.main(["--control", str(tmp_path / "none"), "doctor", "--config", str(path), "--json"])
    checks = [f["check"] for f in json.loads(capsys.readouterr().out)["findings"]]
    assert {"descriptors", "memory", "offloads of nowhere0", "offloads of nowhere1"} <= {*checks}


@pytest.mark.parametrize(
    ("where", "status", "error"),
    [
        (">&-", 1, ""),
        (">/dev/full", 1, "cannot write: No space left on device\n"),
        ("| true", 1, ""),
    ],
)
def test_what_becomes_of_the_answer_is_no_matter(
    tmp_path: Path, where: str, status: int, error: str
) -> None:
    """Its exit status tells of the host, and never a traceback of stdout."""
    program = f'{sys.executable} -m mcrd.cli.mcrctl --control none doctor --config "no Ω"'
    command = f"set -o pipefail; {program} {where}"
    locale = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        ["bash", "-c", command], env=locale, cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (status, error)


QUERY = """[interfaces.r1]
querier = true
"""
SENDS = """[rules.a]
input = { interface = "r0", address = "239.1.1.1", port = 5000 }
outputs = [{ interface = "r1", address = "239.2.2.2", port = 6000, ttl = 2%s }]
"""
OF_LINK = SENDS.replace("239.1.1.1", "224.0.0.128/25").replace("239.2.2.2", "239.2.2.0/25") % ""
WIDER = SENDS.replace("239.1.1.1", "224.0.0.0/16").replace("239.2.2.2", "239.2.0.0/16") % ""


@pytest.mark.parametrize(
    ("rules", "unasked", "expected"),
    [
        ([SENDS % ""], {}, [("ok", "")]),
        ([SENDS % ""], {"r1": ["mld"]}, [("ok", "")]),
        ([SENDS % ""], {"r1": ["igmp"]}, [("unknown", "r1")]),
        ([SENDS % ', when = "members"'], {"r1": ["igmp"]}, [("trouble", "r1")]),
        ([SENDS % ', when = "members"'], {}, [("unknown", "r1")]),
        ([SENDS % ', when = "members"', QUERY], {}, [("ok", "")]),
        ([SENDS % "", QUERY], {"r1": ["igmp"]}, [("ok", "")]),
        ([SENDS % ""], {"r0": ["igmp"], "r1": ["igmp"]}, [("unknown", "r0"), ("unknown", "r1")]),
        ([SENDS % "", '[interfaces.r0]\nrejoin = "60s"\n'], {"r0": ["igmp"]}, [("ok", "")]),
        ([SENDS.replace("239.1.1.1", "224.0.0.251") % ""], {"r0": ["igmp"]}, [("ok", "")]),
        ([OF_LINK], {"r0": ["igmp"]}, [("ok", "")]),
        ([WIDER], {"r0": ["igmp"]}, [("unknown", "r0")]),
    ],
)
def test_where_nobody_asks_who_wants_groups(
    monkeypatch: pytest.MonkeyPatch,
    rules: list[str],
    unasked: dict[str, list[str]],
    expected: list[tuple[str, str]],
) -> None:
    monkeypatch.setattr(groups, "_bridges", lambda _: {})
    found = groups.queriers(running(unasked=unasked), demand(*rules))
    assert verdicts(found) == [verdict for verdict, _ in expected]
    for finding, (_, name) in zip(found, expected, strict=True):
        named = f"`querier = true` under [interfaces.{name}]"
        assert (named in finding.remedy) is bool(name)


def test_a_bridge_that_withholds_and_one_that_knows_no_querier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bridge = Bridge("r1", snooping=True, own=True, heard=None, groups=frozenset({"239.2.2.3"}))
    monkeypatch.setattr(groups, "_bridges", lambda _: {("r1", 4): bridge})
    (found,) = groups.queriers(running(), demand(SENDS % ""))
    assert found.value == "r1 snoops and sends nowhere: 239.2.2.2"
    assert "`querier = true` under [interfaces.r1]" in found.remedy
    deaf = replace(bridge, own=False)
    monkeypatch.setattr(groups, "_bridges", lambda _: {("r1", 4): deaf})
    (found,) = groups.queriers(Running(), demand(SENDS % ""))
    assert found.value == "r1 snoops and knows no IGMP querier"
    assert groups.queriers(Running(), demand(SENDS % "", QUERY)) == []
