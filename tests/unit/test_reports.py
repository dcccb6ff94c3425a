"""Reports of memberships, byte by byte, and when they are sent."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import random
import struct
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import TYPE_CHECKING

import pytest

from mcrd.host.procfs import Host
from mcrd.lanes import rejoin
from mcrd.lanes.rejoin import Rejoins, wanted
from mcrd.observe.messages import Record, igmp, mld
from mcrd.planning.links import Link
from mcrd.planning.resources import Membership, Rejoin
from mcrd.sockets import rejoin as sending
from mcrd.sockets.rejoin import AT_ONCE, SOON, Mouth, Repeater, source_for
from mcrd.sockets.reports import Report, Wanted, is_reported, reports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcrd.model import Address

V4, V6 = ip_address("10.1.0.2"), ip_address("fe80::2")
MTU = 1500
LO = Link("lo", 1, True, True, MTU, 772, (ip_interface("10.1.0.2/24"), ip_interface("fe80::2/64")))


def groups(first: str, count: int) -> Wanted:
    return {ip_address(first) + number: None for number in range(count)}


def body(report: Report) -> bytes:
    """What an IP stack hands on, once it has checked all that it checks."""
    packet = report.packet
    if packet[0] >> 4 == 4:
        assert len(packet) == struct.unpack_from("!H", packet, 2)[0]
        header, rest = packet[:24], packet[24:]
        assert (header[0], header[8], header[9]) == (0x46, 1, 2)
        assert IPv4Address(header[16:20]) == report.destination
        assert header[20:] == bytes((0x94, 4, 0, 0))
        assert checksum(header) == checksum(rest) == 0
        return rest
    length, following, hops = struct.unpack_from("!HBB", packet, 4)
    assert (length, following, hops) == (len(packet) - 40, 0, 1)
    assert IPv6Address(packet[24:40]) == report.destination
    assert packet[40:48] == bytes((58, 0, 5, 2, 0, 0, 1, 0))
    rest = packet[48:]
    assert checksum(packet[8:40] + struct.pack("!II", len(rest), 58) + rest) == 0
    return rest


def checksum(data: bytes) -> int:
    return int.from_bytes(data, "big") % 0xFFFF


def told(found: list[Report]) -> list[Record]:
    records: list[Record] = []
    for report in found:
        part = (igmp if report.destination.version == 4 else mld)(body(report))
        assert isinstance(part, tuple)
        records += part
    return records


@pytest.mark.parametrize(
    ("source", "first", "latest", "routers"),
    [(V4, "239.1.0.1", 3, "224.0.0.22"), (V6, "ff15::1", 2, "ff02::16")],
)
def test_many_groups_go_into_packets_of_the_mtu(
    source: Address, first: str, latest: int, routers: str
) -> None:
    found = list(reports(groups(first, 1000), source, latest, MTU))
    assert {str(report.destination) for report in found} == {routers}
    assert max(len(report.packet) for report in found) <= MTU
    assert len(found) == (6 if source.version == 4 else 14)
    assert told(found) == [Record(ip_address(first) + number, kind=2) for number in range(1000)]


@pytest.mark.parametrize(("source", "first", "latest"), [(V4, "239.1.0.1", 3), (V6, "ff15::1", 2)])
def test_no_packet_is_longer_where_the_mtu_is_larger(
    source: Address, first: str, latest: int
) -> None:
    """lo has more than a packet can be long. Very many groups are told in a moment."""
    began = time.thread_time()
    found = list(reports(groups(first, 9000), source, latest, 65536))
    assert time.thread_time() - began < 1
    assert max(len(report.packet) for report in found) <= MTU
    assert told(found) == [Record(ip_address(first) + number, kind=2) for number in range(9000)]


@pytest.mark.parametrize(("source", "group", "latest"), [(V4, "232.1.1.1", 3), (V6, "ff3e::1", 2)])
def test_sources_are_named_in_several_records_if_need_be(
    source: Address, group: str, latest: int
) -> None:
    hosts = frozenset(source + number for number in range(700))
    found = list(reports({ip_address(group): hosts}, source, latest, MTU))
    assert max(len(report.packet) for report in found) <= MTU
    named = set()
    for report in found:
        data = body(report)
        size, at = len(source.packed), 8
        for _ in range(struct.unpack_from("!H", data, 6)[0]):
            kind, auxiliary, count = struct.unpack_from("!BBH", data, at)
            assert (kind, auxiliary, data[at + 4 : at + 4 + size]) == (
                1,
                0,
                ip_address(group).packed,
            )
            at += 4 + size
            named |= {data[at + size * n : at + size * (n + 1)] for n in range(count)}
            at += size * count
        assert at == len(data)
    assert named == {host.packed for host in hosts}


@pytest.mark.parametrize(
    ("source", "group", "spoken", "kind"),
    [
        (V4, "239.1.1.1", 1, 0x12),
        (V4, "239.1.1.1", 2, 0x16),
        (V6, "ff15::1", 1, 131),
    ],
)
def test_older_versions_have_a_packet_for_each_group(
    source: Address, group: str, spoken: int, kind: int
) -> None:
    given = {ip_address(group): frozenset({source}), ip_address(group) + 1: None}
    found = list(reports(given, source, spoken, MTU))
    assert [report.destination for report in found] == list(given)
    assert {body(report)[0] for report in found} == {kind}
    assert told(found) == [Record(group, version=spoken) for group in given]


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("224.0.0.1", False),
        ("224.0.0.251", True),
        ("239.1.1.1", True),
        ("ff02::1", False),
        ("ff01::5", False),
        ("ff10::5", False),
        ("ff02::fb", True),
        ("ff15::1", True),
    ],
)
def test_groups_that_nobody_reports(group: str, expected: bool) -> None:
    assert is_reported(ip_address(group)) is expected
    version = ip_address(group).version
    found = list(reports({ip_address(group): None}, V4 if version == 4 else V6, 2, MTU))
    assert len(found) == expected


def joined(group: str, source: str | None = None) -> Membership:
    return Membership("lo", 1, ip_address(group), ip_address(source) if source else None)


def test_what_several_rules_want_of_a_group_is_told_together() -> None:
    """One of any source, and that of another family, take nothing from the others."""
    given = [
        joined("232.1.1.1", "10.1.0.7"),
        joined("232.1.1.1", "10.1.0.8"),
        joined("239.1.1.1", "10.1.0.7"),
        joined("239.1.1.1"),
        joined("239.1.1.1", "10.1.0.8"),
        joined("ff15::1"),
    ]
    assert wanted(given, 4) == {
        ip_address("232.1.1.1"): {ip_address("10.1.0.7"), ip_address("10.1.0.8")},
        ip_address("239.1.1.1"): None,
    }
    assert wanted(given, 6) == {ip_address("ff15::1"): None}


def test_of_whom_reports_are() -> None:
    bare = Link("r0", 3, True, True, MTU, 1, (ip_interface("fd01::2/64"),))
    assert source_for(bare, 4) == ip_address("0.0.0.0")
    assert source_for(bare, 6) == ip_address("::")
    assert source_for(LO, 4) == V4
    assert source_for(LO, 6) == V6


class Clock:
    now = 1e6


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: found.now)
    random.seed(7)
    return found


class Sent:
    """Stands in for the socket: packets, or the error of an interface that has gone down."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.down = False

    def sendto(self, packet: bytes, _: tuple[object, ...]) -> None:
        if self.down:
            raise OSError(100, "Network is down")
        self.packets.append(packet)


def sender_of(rejoins: Rejoins, every: Rejoin, sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(self: Repeater, given: Rejoin, now: float) -> None:
        self._rejoin, self._left, self._socket = given, [], sent  # type: ignore[assignment]
        self._next = now + random.uniform(0, SOON)

    monkeypatch.setattr(Repeater, "__init__", begin)
    rejoins.begin(every)


def test_rounds_come_in_time_and_a_long_one_is_spread(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rejoins, sent = Rejoins(), Sent()
    sender_of(rejoins, Rejoin("lo", 1, 10.0), sent, monkeypatch)
    monkeypatch.setattr(rejoin, "igmp_spoken", lambda _: 2)
    many = [joined(str(group)) for group in groups("239.1.0.1", 3 * AT_ONCE)]
    elsewhere = Membership("r9", 9, ip_address("239.9.9.9"))
    links = {"lo": LO}
    rounds, each = [], []
    for _ in range(200):  # looks, twice a second
        before = len(sent.packets)
        said = dict(rejoins.look(links, [*many, elsewhere]))
        each.append(len(sent.packets) - before)
        assert said == ({"lo": (each[-1], 0)} if each[-1] else {})
        if each[-1] and (len(each) < 2 or not each[-2]):
            rounds.append(clock.now)
        clock.now += 0.5
    assert max(each) == AT_ONCE
    gaps = {after - before for before, after in itertools.pairwise(rounds)}
    assert 10 <= len(rounds) <= 13
    assert 8.0 <= min(gaps) < max(gaps) <= 10.5  # not always the same
    assert rounds[0] <= 1e6 + SOON + 0.5
    assert not any(b"\xef\x09\x09\x09" in packet for packet in sent.packets)


def test_an_interface_without_carrier_waits_and_what_fails_is_counted(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rejoins, sent = Rejoins(), Sent()
    sender_of(rejoins, Rejoin("lo", 1, 10.0), sent, monkeypatch)

    def look(link: Link | None) -> dict[str, tuple[int, int]]:
        clock.now += 11
        links = {"lo": link} if link else {}
        return dict(rejoins.look(links, [joined("239.1.1.1"), joined("ff15::1")]))

    rejoins.queried = lambda _: 1
    for away in (None, Link("lo", 1, True, False, MTU, 772), Link("lo", 5, True, True, MTU, 772)):
        assert look(away) == {}
    assert look(LO) == {"lo": (2, 0)}
    assert told([Report(ip_address("ff15::1"), sent.packets[-1])])  # as it is queried there, MLDv1
    sent.down = True
    assert look(LO) == {"lo": (0, 2)}
    assert look(LO) == {"lo": (0, 2)}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> tuple[Rejoins, list[bytes]]:
    """Those that report at once, where IGMPv3 and MLDv2 are spoken, and what they have sent."""
    sent = Sent()
    monkeypatch.setattr(Mouth, "__init__", lambda self: setattr(self, "_socket", sent))
    monkeypatch.setattr(rejoin, "igmp_spoken", lambda _: 3)
    monkeypatch.setattr(rejoin, "forced", lambda *_: 0)
    return Rejoins(), sent.packets


def report_new(rejoins: Rejoins, *new: Membership, before: Sequence[Membership] = ()) -> None:
    rejoins.report_new(new, {"lo": LO}, [*before, *new])


def told_v4(packet: bytes) -> list[tuple[str, int | None, frozenset[bytes] | None]]:
    found = told([Report(ip_address("224.0.0.22"), packet)])
    return [(str(each.group), each.kind, each.sources) for each in found]


def test_what_is_new_is_reported_at_once_and_of_very_many_some(
    at_once: tuple[Rejoins, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the version of each family; not on an interface that is down, or another by now."""
    rejoins, packets = at_once
    for away in ({}, {"lo": replace(LO, carrier=False)}, {"lo": replace(LO, index=5)}):
        rejoins.report_new([joined("239.1.1.1")], away, [joined("239.1.1.1")])
    assert not packets
    report_new(rejoins, joined("239.1.1.1"), joined("ff15::1"), joined("232.1.1.1", "10.1.0.7"))
    four, six = packets
    assert told_v4(four) == [
        ("239.1.1.1", 2, None),
        ("232.1.1.1", 1, frozenset({ip_address("10.1.0.7").packed})),
    ]
    assert told([Report(ip_address("ff02::16"), six)]) == [Record(ip_address("ff15::1"), kind=2)]
    # The version is another one from one plan to the next: each group takes a packet.
    monkeypatch.setattr(rejoin, "igmp_spoken", lambda _: 2)
    list(rejoins.look({}, []))
    many = [joined(str(group)) for group in groups("239.1.0.1", 3 * AT_ONCE)]
    for looks in (1, 2):
        report_new(rejoins, *many)
        assert len(packets) == 2 + looks * AT_ONCE
        list(rejoins.look({}, []))
    # A kernel that speaks MLDv1 has said it already.
    rejoins.queried = lambda _: 1
    report_new(rejoins, joined("ff15::1"))
    assert len(packets) == 2 + 2 * AT_ONCE


def test_a_report_of_what_is_new_is_of_all_that_is_wanted_of_the_group(
    at_once: tuple[Rejoins, list[bytes]],
) -> None:
    """Also under the name that the interface had before; other groups are not spoken of."""
    rejoins, packets = at_once
    hosts = ["10.1.0.7", "10.1.0.8"]
    before = [
        *(joined("232.1.1.1", hosts[0]), joined("239.1.1.1"), joined("239.9.9.9")),
        Membership("in0", 1, ip_address("232.1.1.2"), ip_address(hosts[0])),
        Membership("r9", 9, ip_address("232.1.1.3"), ip_address(hosts[0])),
    ]
    new = ("232.1.1.1", "239.1.1.1", "232.1.1.2", "232.1.1.3")
    report_new(rejoins, *(joined(group, hosts[1]) for group in new), before=before)
    both = frozenset(ip_address(host).packed for host in hosts)
    (packet,) = packets
    assert sorted(told_v4(packet)) == [
        ("232.1.1.1", 1, both),
        ("232.1.1.2", 1, both),
        ("232.1.1.3", 1, frozenset({ip_address(hosts[1]).packed})),
        ("239.1.1.1", 2, None),
    ]


def test_what_nobody_waits_for_is_left_to_the_kernel(
    at_once: tuple[Rejoins, list[bytes]], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that is not to report groups of a link has no daemon that does."""
    rejoins, packets = at_once
    links = ("224.0.0.22", "224.0.0.13", "224.0.0.251")
    report_new(rejoins, *map(joined, (*links, "ff02::16", "ff02::d")))
    assert not packets
    repeated = Sent()
    sender_of(rejoins, Rejoin("lo", 1, 10.0), repeated, monkeypatch)
    for setting in (1, 0):
        monkeypatch.setattr(Host, "sysctl", lambda *_: setting)  # noqa: B023
        clock.now += 11
        list(rejoins.look({"lo": LO}, [*map(joined, links), joined("239.1.1.1")]))
        groups_told = {group for group, _, _ in told_v4(repeated.packets.pop())}
        assert groups_told == {"239.1.1.1", *(links if setting else ())}


def test_a_report_that_cannot_be_made_does_not_end_a_plan(
    at_once: tuple[Rejoins, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rejoins, packets = at_once

    def broken(*_: object) -> None:
        raise ValueError("no")

    with monkeypatch.context() as patch:
        patch.setattr(rejoin, "reports", broken)
        report_new(rejoins, joined("239.1.1.1"))
    assert "not reported at once" in caplog.text
    report_new(rejoins, joined("239.1.1.1"))
    assert len(packets) == 1


def test_hardware_addresses_of_groups() -> None:
    """RFC 1112, 6.4, and RFC 2464, 7; tunnels have none."""
    r0 = Link("r0", 3, True, True, MTU, 1)
    for group, hardware in (
        ("224.0.0.22", "01005e000016"),
        ("239.129.1.1", "01005e010101"),
        ("ff02::16", "333300000016"),
    ):
        address = sending.address_of(Report(ip_address(group), b""), r0)
        assert address[-1] == bytes.fromhex(hardware)
    tunnel = Link("tun0", 3, True, True, MTU, 65534)
    assert sending.address_of(Report(V4, b""), tunnel)[-1] == b""
