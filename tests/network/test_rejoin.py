"""A switch that snoops, and nobody who queries: memberships are reported again, unasked.

A Linux bridge withholds groups only while it believes in a querier, so it hears one query, and
believes in it for an hour. None comes after that.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import socket
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mcrd.host.protocols import GroupProtocols
from mcrd.observe.messages import Record, igmp, mld
from mcrd.planning.resources import GroupProtocol
from tests.lab import wait_for
from tests.lab.datagrams import udp
from tests.lab.rules import rule
from tests.network.test_supervision import with_a_fault
from tests.sandbox import harness

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.lab import Host, Lab, Mcrd, Triangle
    from tests.lab.capture import Capture

GROUPS = ("239.1.1.1", "232.1.1.1", "ff15::1")
RULES = (
    rule("any", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=2")
    + rule("one", 'r0 232.1.1.1 5000 sources=["10.1.0.1"]', "r1 239.2.2.2 6000 ttl=2")
    + rule("six", "r0 ff15::1 5000", "r1 ff15::2 6000 ttl=2")
)
OFTENER = "from mcrd.config import values\nvalues.DURATIONS['rejoin'] = (0.5, 60.0, '')\n"
REPORTS = "igmp or (ip6 and ip6[6] = 0)"
ALL = set(GROUPS)
FLOODED = "224.0.0.251"
OLD_LEAVES = {0x17, 132}


def switch(lab: Lab, membership: float, relays: Sequence[Host], sinks: Sequence[Host] = ()) -> Host:
    """source (s0) -- (p0) [br0] (p1, ...) -- (r0) each relay (r1) -- (k0) its sink, or nobody."""
    source, bridge = lab.hosts("source", "switch")
    lab.link(source, "s0", ["10.1.0.1/24", "fd01::1/64"], bridge, "p0", [])
    for number, relay in enumerate(relays, 1):
        ends = [f"10.1.0.{number + 1}/24", f"fd01::{number + 1:x}/64"]
        lab.link(bridge, f"p{number}", [], relay, "r0", ends)
        if not sinks:
            lab.link(relay, "r1", ["10.2.0.1/24", "fd02::1/64"], relay, "nobody", [])
    for relay, sink in zip(relays, sinks, strict=False):
        lab.link(relay, "r1", ["10.2.0.1/24", "fd02::1/64"], sink, "k0", ["10.2.0.2/24"])
    ports = [f"p{number}" for number in range(len(relays) + 1)]
    lab.bridge(bridge, "br0", ports, snooping=True)
    settings = {
        "mcast_querier_interval": 360_000,
        "mcast_membership_interval": round(membership * 100),
    }
    words = [str(word) for setting in settings.items() for word in setting]
    bridge.run("ip", "link", "set", "br0", "type", "bridge", *words)
    return source


def query(source: Host) -> None:
    """One general query of IGMPv3 and of MLDv2, to be answered within 0.1 s."""
    body = struct.pack("!BBH4sBBH", 0x11, 1, 0, bytes(4), 2, 125, 0)
    body = body[:2] + struct.pack("!H", 0xFFFF - int.from_bytes(body, "big") % 0xFFFF) + body[4:]
    with source.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.1.0.1"))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes((0x94, 4, 0, 0)))
        sock.sendto(body, ("224.0.0.1", 0))
    body = struct.pack("!BBHHH16sBBH", 130, 0, 0, 100, 0, bytes(16), 2, 125, 0)
    with source.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        with source.inside():
            index = socket.if_nametoindex("s0")
        alert = bytes((0, 0, 5, 2, 0, 0, 1, 0))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, alert)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        sock.sendto(body, ("ff02::1", 0, 0, index))


class Stream:
    """Datagrams to all groups, and then one to a group that every switch floods."""

    def __init__(self, source: Host) -> None:
        self._count = 0
        self._sockets = []
        for family in (socket.AF_INET, socket.AF_INET6):
            sock = source.socket(family, socket.SOCK_DGRAM)
            source.lab.close_at_end(sock)
            self._sockets.append(sock)
        with source.inside():
            index = socket.if_nametoindex("s0")
        address = socket.inet_aton("10.1.0.1")
        self._sockets[0].setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address)
        self._sockets[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)

    def reaches(self, *seen: Capture) -> list[set[str]]:
        """Which of the groups the switch sends to each, now."""
        self._count += 1
        text = b"%d" % self._count
        for group in (*GROUPS[1:], GROUPS[0], FLOODED):
            self._sockets[":" in group].sendto(text, (group, 5000))
        wait_for(lambda: all(FLOODED in groups_of(each, text) for each in seen), "the last one")
        return [groups_of(each, text) - {FLOODED} for each in seen]


def groups_of(seen: Capture, text: bytes) -> set[str]:
    """To which groups this has come."""
    return {d.destination for d in map(udp, seen.frames()) if d.payload == text}


def messages(frames: Sequence[bytes]) -> Iterator[tuple[str, int, bytes]]:
    """From whom, TTL and body, of IGMP and MLD that have Router Alert."""
    for frame in frames:
        if frame[12:14] == b"\x08\x00":
            at = 14 + (frame[14] & 15) * 4
            assert frame[34:38] == bytes((0x94, 4, 0, 0))
            yield socket.inet_ntoa(frame[26:30]), frame[22], frame[at:]
        else:
            assert frame[54:62] == bytes((58, 0, 5, 2, 0, 0, 1, 0))
            yield socket.inet_ntop(socket.AF_INET6, frame[22:38]), frame[21], frame[62:]


def check_reports(frames: Sequence[bytes]) -> set[tuple[str, str, str]]:
    """All are reports, none a leave; returns which groups in which types, from whom."""
    found = set()
    for source, ttl, body in messages(frames):
        assert ttl == 1
        assert body[0] not in OLD_LEAVES
        records = igmp(body) if "." in source else mld(body)
        assert isinstance(records, tuple)
        for record in records:
            assert isinstance(record, Record)
            assert record.change != "block"
            assert record.sources is None or record.sources
            found.add((hex(body[0]), source, str(record.group)))
    return found


def test_without_a_querier_a_stream_goes_on_where_it_is_reported_again(lab: Lab) -> None:
    """And it ends where it is not, which was heard last at the same time or later.

    One has no IPv4 address, and speaks the older versions.
    """
    often, older, never = relays = lab.hosts("often", "older", "never")
    source = switch(lab, 3, relays)
    older.run("ip", "-4", "address", "flush", "dev", "r0")
    before = forced(older)
    every = '[interfaces.r0]\nrejoin = "500ms"\n'
    fast = with_a_fault(OFTENER)
    daemons = [
        lab.mcrd(often, every + RULES, program=fast),
        lab.mcrd(older, every + "igmp_version = 2\nmld_version = 1\n" + RULES, program=fast),
        lab.mcrd(never, RULES),
    ]
    assert forced(often) == before
    assert forced(older) == ("2", "1")
    seen = [relay.capture("r0", "udp port 5000", direction="in") for relay in relays]
    query(source)
    said = [relay.capture("r0", REPORTS, direction="out") for relay in relays]
    stream = Stream(source)
    wait_for(lambda: stream.reaches(*seen) == [ALL, ALL, set()], "what nobody reports again to end")
    assert [reported(daemon)["failed"] for daemon in daemons] == [0, 0, 0]
    assert reported(daemons[2])["repeated"] == 0
    shown = daemons[0].ctl("stats").stdout
    assert re.search(
        r"^    [1-9][0-9]* membership reports sent unasked \(rejoin\)$", shown, re.MULTILINE
    )
    assert check_reports(said[0].frames()) >= {
        *(("0x22", "10.1.0.2", group) for group in GROUPS[:2]),
        ("0x8f", link_local(often), "ff15::1"),
    }
    assert check_reports(said[1].frames()) >= {
        *(("0x16", "0.0.0.0", group) for group in GROUPS[:2]),
        ("0x83", link_local(older), "ff15::1"),
    }
    daemons[1].edit(RULES)
    wait_for(lambda: forced(older) == before, "the versions to be as they were")


def test_a_version_is_set_back_where_the_interface_has_another_name_by_then(
    triangle: Triangle,
) -> None:
    """But not where somebody else has set another one meanwhile."""
    relay, found = triangle.relay, GroupProtocols()
    name = "net/ipv4/conf/{}/force_igmp_version"
    with relay.inside():
        first = GroupProtocol("r0", socket.if_nametoindex("r0"), 4, 2)
        found.set(first)
        assert relay.sysctl(name.format("r0")) == "2"
        relay.run("ip", "link", "set", "r0", "name", "in0")
        second = replace(first, interface="in0")
        found.set(second)
        assert found.written() == {first: 0, second: 0}
        found.end(first)
        assert relay.sysctl(name.format("in0")) == "2"
        third = replace(second, spoken=3)
        found.set(third)
        found.end(second)
        assert relay.sysctl(name.format("in0")) == "3"
        found.end(third)
        assert relay.sysctl(name.format("in0")) == "0"
        found.set(second)
        relay.sysctl(name.format("in0"), "1")
        found.end(second)
        assert relay.sysctl(name.format("in0")) == "1"
        found.set(second)
        relay.run("ip", "link", "delete", "in0")
        found.end(second)
    assert list(found) == []


def test_a_right_to_raw_sockets_is_all_that_it_takes(triangle: Triangle) -> None:
    """The version, it cannot set then: the log says how to, and all else goes on."""
    harness.has_to_be_readable()
    seen = triangle.source.capture("s0", REPORTS, direction="in")
    daemon = triangle.lab.mcrd(
        triangle.relay,
        '[interfaces.r0]\nrejoin = "500ms"\nigmp_version = 2\n' + RULES,
        program=(*harness.with_net_raw(harness.stranger()), *with_a_fault(OFTENER)),
        owner=harness.stranger(),
    )
    wait_for(lambda: reported(daemon)["repeated"] >= 4, "reports")
    assert "`sysctl -w net/ipv4/conf/r0/force_igmp_version=2`" in daemon.log()
    assert daemon.status()["rules"] == {"active": 3}
    assert forced(triangle.relay) == ("0", "0")
    found = check_reports(seen.frames())
    assert ("0x22", "10.1.0.2", "239.1.1.1") in found
    daemon.edit('[interfaces.r0]\nrejoin = "5s"\nigmp_version = 2\n' + RULES)
    doctor = daemon.ctl("doctor", check=False)
    assert "force_igmp_version=2" in doctor.stdout


@pytest.mark.long
def test_for_five_minutes_of_a_switch_that_forgets_after_twenty_seconds(lab: Lab) -> None:
    often, never, *sinks = lab.hosts("often", "never", "kept", "cut")
    source = switch(lab, 20, [often, never], sinks)
    daemon = lab.mcrd(often, '[interfaces.r0]\nrejoin = "5s"\n' + RULES)
    lab.mcrd(never, RULES)
    receivers = [sink.receive("k0", "239.2.2.1", 6000, timeout=600) for sink in sinks]
    query(source)
    said = often.capture("r0", REPORTS, direction="out")
    begun = time.monotonic()
    stream = source.start_send("s0", "239.1.1.1", 5000, rate=100, count=30_000)
    assert stream.result(600)["sent"] == 30_000
    assert time.monotonic() - begun > 299
    wait_for(
        lambda: daemon.stats()["rules"]["any"]["outputs"][0]["sent"]["packets"] == 30_000, "all"
    )
    kept, cut = (receiver.stop() for receiver in receivers)
    assert (kept["unique"], kept["lost"]) == (30_000, 0)
    assert 1000 < cut["unique"] < 4000
    check_reports(said.frames())


def link_local(relay: Host) -> str:
    (link,) = (link for link in relay.links() if link["ifname"] == "r0")
    (address,) = (each["local"] for each in link["addr_info"] if each["scope"] == "link")
    return str(address)


def forced(relay: Host) -> tuple[str, str]:
    return (
        relay.sysctl("net/ipv4/conf/r0/force_igmp_version"),
        relay.sysctl("net/ipv6/conf/r0/force_mld_version"),
    )


def reported(daemon: Mcrd) -> dict[str, int]:
    found: dict[str, int] = daemon.stats()["interfaces"]["r0"]["reports"]
    return found
