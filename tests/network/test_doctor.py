"""mcrctl doctor in a network namespace whose settings stand in the way, and then do not."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from mcrd.host.devices import devices
from tests.lab import Host, Triangle, wait_for
from tests.lab.daemon import Mcrd, console_script
from tests.lab.rules import rule

RULES = rule("any", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000") + rule(
    "ssm", 'r0 232.1.1.1 5000 sources=["10.1.0.1"]', "r1 239.2.2.3 6000"
)


def doctor(daemon: Mcrd) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and the findings by their checks."""
    done = daemon.ctl("doctor", "--config", str(daemon.config), "--json", check=False)
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert answer["ok"] == (done.returncode == 0)
    return done.returncode, {found["check"]: found for found in answer["findings"]}


def test_settings_of_a_namespace(triangle: Triangle) -> None:
    relay = triangle.relay
    daemon = triangle.lab.mcrd(relay, RULES)
    _, before = doctor(daemon)
    assert {
        name: before[name]["verdict"]
        for name in ("daemon", "rule file", "descriptors", "memory", "memberships", "rp_filter")
    } == {
        "daemon": "ok",
        "rule file": "ok",
        "descriptors": "ok",
        "memory": "ok",
        "memberships": "ok",
        "rp_filter": "ok",
    }
    assert "the daemon may have" in before["descriptors"]["value"]
    assert "the workers have theirs" in before["memory"]["value"]
    missing = daemon.status()["sandbox"]["missing"]
    assert before["sandbox"]["verdict"] == ("trouble" if missing else "ok")

    relay.sysctl("net.ipv4.igmp_max_memberships", "0")
    relay.sysctl("net.ipv4.conf.r0.force_igmp_version", "2")
    with relay.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("239.1.1.1", 5000))
        status, found = doctor(daemon)
    assert status == 1
    troubled = {name: about["remedy"] for name, about in found.items() if name in SET}
    assert troubled == SET
    assert f"({os.getpid()}) at 239.1.1.1:5000" in found["other programs"]["value"]

    for remedy in SET.values():  # what it says is what helps
        name, _, value = remedy.removeprefix("sysctl -w ").partition("=")
        relay.sysctl(name, value)
    _, after = doctor(daemon)
    assert {after[name]["verdict"] for name in SET} == {"ok"}
    assert "none" in after["other programs"]["value"]

    mcrctl = console_script("mcrctl")  # in another network, where all of this is otherwise
    done = triangle.source.call(mcrctl, "--control", str(daemon.control), "doctor", "--json")
    found = {about["check"]: about for about in json.loads(done.stdout)["findings"]}
    assert found["network namespace"]["verdict"] == "trouble"
    assert f"/proc/{daemon.pid}/ns/net" in found["network namespace"]["remedy"]
    assert found["descriptors"]["value"].startswith("the daemon may have")
    assert "rp_filter" not in found


SET = {
    "memberships": "sysctl -w net.ipv4.igmp_max_memberships=20",
    "group protocol": "sysctl -w net/ipv4/conf/r0/force_igmp_version=0",
}


@pytest.mark.parametrize(("room", "why"), [("4096", "a coarser filter"), ("0", "no ring")])
def test_no_room_for_filters(triangle: Triangle, room: str, why: str) -> None:
    groups = (rule(f"g{n}", f"r0 239.1.{2 * n}.1 5000", "r1 239.2.2.2 6000") for n in range(60))
    try:
        triangle.relay.sysctl("net.core.optmem_max", room)
    except OSError:
        pytest.skip("on older kernels, net.core.optmem_max is the whole machine's")
    daemon = triangle.lab.mcrd(triangle.relay, "".join(groups))
    status, found = doctor(daemon)
    assert (status, found["filter memory"]["verdict"]) == (1, "trouble")
    assert why in found["filter memory"]["why"]
    triangle.relay.sysctl("net.core.optmem_max", "131072")
    assert "filter memory" not in doctor(daemon)[1]


@pytest.mark.long
def test_a_query_without_a_way_back(triangle: Triangle) -> None:
    """The kernel drops it, doctor says so, and its line makes the kernel answer."""
    relay, source = triangle.relay, triangle.source
    daemon = triangle.lab.mcrd(relay, RULES)
    relay.run("ip", "-4", "address", "flush", "dev", "r0")
    relay.sysctl("net.ipv4.conf.all.rp_filter", "1")
    remedy = doctor(daemon)[1]["rp_filter"]["remedy"]
    assert remedy.endswith("net/ipv4/conf/r0/rp_filter=0 net/ipv4/conf/all/rp_filter=0")

    # Of what is joined (1, 2): what a join reports by itself is another record.
    answers = source.capture("s0", "igmp[0] = 0x22 and igmp[8] <= 2", direction="in")
    with source.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("s0", 0))
        before = dropped_for_no_way_back(relay)
        sock.send(QUERY)
        wait_for(lambda: dropped_for_no_way_back(relay) > before, "the query to be dropped")
        relay.run(*remedy.split())
        assert answers.frames() == []
        sock.send(QUERY)
        wait_for(answers.frames, "the answer")
    assert doctor(daemon)[1]["rp_filter"]["verdict"] == "ok"


# A general query of IGMPv3 from 10.1.0.1, to be answered within 0.1 s (RFC 3376, 4.1).
QUERY = (
    bytes.fromhex("01005e000001 020000000001 0800")
    + bytes.fromhex("46c00024 00010000 01023a10 0a010001 e0000001 94040000")
    + bytes.fromhex("1101ec81 00000000 027d0000")
)


def dropped_for_no_way_back(host: Host) -> int:
    """IPReversePathFilter of the kernel's counters."""
    with host.inside():
        lines = Path("/proc/thread-self/net/netstat").read_text().splitlines()
    names, counts = (line.split() for line in lines if line.startswith("TcpExt:"))
    return int(counts[names.index("IPReversePathFilter")])


def test_interfaces_are_looked_at(triangle: Triangle) -> None:
    relay = triangle.relay
    with relay.inside():
        found = devices(["r0", "r7"])
    assert found.keys() == {"r0"}
    assert (found["r0"].kind, found["r0"].vlans, found["r0"].ipv4) == ("veth", frozenset(), True)
    assert found["r0"].has("tx-udp-segmentation")
    relay.run("ethtool", "-K", "r0", "tx-udp-segmentation", "off")
    relay.run("ip", "-4", "address", "flush", "dev", "r0")
    with relay.inside():
        changed = devices(["r0"])["r0"]
    assert changed.could("tx-udp-segmentation")
    assert not changed.ipv4
    relay.run("ethtool", "-K", "r0", "tx-udp-segmentation", "on")
    relay.run("ethtool", "-K", "r0", "tx", "off")
    with relay.inside():
        changed = devices(["r0"])["r0"]
    assert changed.withheld("tx-udp-segmentation")
    assert changed.could("tx-checksum-ip-generic")


def test_a_vlan_with_an_interface_of_its_own(triangle: Triangle) -> None:
    relay = triangle.relay
    made = relay.call(
        *("ip", "link", "add", "link", "r0", "name", "r0.9", "type", "vlan", "id", "9")
    )
    if "Unknown device type" in made.stderr:
        pytest.skip("this kernel has no VLAN interfaces")
    with relay.inside():
        found = devices(["r0", "r0.9"])
    assert found["r0"].vlans == frozenset({9})
    assert found["r0.9"].kind == "vlan"


def test_a_multicast_router_is_seen(triangle: Triangle) -> None:
    """As smcroute does: the kernel routes as long as the socket is open."""
    daemon = triangle.lab.mcrd(triangle.relay, RULES)
    init, add_vif = 200, 202  # MRT_INIT, MRT_ADD_VIF (linux/mroute.h)
    with triangle.relay.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP) as sock:
        sock.setsockopt(socket.IPPROTO_IP, init, 1)
        vif = bytes([0, 0, 0, 1, 0, 0, 0, 0]) + socket.inet_aton("10.1.0.2") + bytes(4)
        sock.setsockopt(socket.IPPROTO_IP, add_vif, vif)
        _, found = doctor(daemon)
    who = f"{Path('/proc/self/comm').read_text().strip()} ({os.getpid()})"
    assert found["multicast routing"]["value"] == f"the kernel routes between r0, for {who}"
