"""Frames of a look: what they are, and that no bytes whatever do harm."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcrd.looks import Kind, Look
from mcrd.model import Input
from mcrd.observe.capture import AUXDATA, _auxiliary
from mcrd.observe.frames import KINDS, Summary, parse
from mcrd.observe.kinds import takes
from mcrd.observe.messages import MalformedError
from tests.dataplane.frames import frame

IP, IPV6, TAG = 0x0800, 0x86DD, 0x8100


def packet(**settings: Any) -> bytes:
    """A frame without its link header, tags not counted."""
    return frame(b"data", **settings)[14:]


def kind(data: bytes, protocol: int = IP, vlan: int | None = None, verify: bool = True) -> Kind:
    found = parse(data, protocol, vlan, verify)
    assert found is not None
    return found


def ipv6(following: int, body: bytes, destination: str = "ff02::1") -> bytes:
    addresses = ip_address("fe80::1").packed + ip_address(destination).packed
    return struct.pack("!IHBB", 6 << 28, len(body), following, 9) + addresses + body


def ipv4(protocol: int, body: bytes, fragment: int = 0) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, fragment, 3, protocol, 0)
    return header + ip_address("10.1.0.1").packed + ip_address("239.1.1.1").packed + body


def test_a_datagram() -> None:
    found = parse(packet(), IP, None, verify=True)
    assert found is not None
    sizes: dict[str, Any] = {"count": 1, "largest": 32, "ttl_lowest": 8, "ttl_highest": 8}
    assert found == Kind(None, "10.1.0.1", "239.1.1.1", "udp", 5000, **sizes)
    six = kind(packet(source="fd01::1", destination="ff15::1"), IPV6)
    sizes["largest"] += 20
    assert six == Kind(None, "fd01::1", "ff15::1", "udp", 5000, **sizes)


def test_padding_is_no_part_of_it() -> None:
    found = parse(packet() + bytes(14), IP, None, verify=True)
    assert found is not None
    assert (found.largest, found.wrong_checksum) == (32, False)


@pytest.mark.parametrize("payload", [b"", b"x", b"xy", b"\xff" * 1400, bytes(1401)])
def test_checksums(payload: bytes) -> None:
    assert not kind(frame(payload)[14:]).wrong_checksum
    assert kind(frame(payload, spoil=1)[14:]).wrong_checksum
    assert not kind(frame(payload, spoil=1)[14:], verify=False).wrong_checksum
    for spoil in (0, 1):
        six = frame(payload, source="fd01::1", destination="ff15::1", spoil=spoil)[14:]
        assert kind(six, IPV6).wrong_checksum == bool(spoil)


def test_a_checksum_may_be_missing_over_ipv4_only() -> None:
    four = bytearray(packet())
    four[26:28] = bytes(2)
    assert not kind(bytes(four)).wrong_checksum
    six = bytearray(packet(source="fd01::1", destination="ff15::1"))
    six[46:48] = bytes(2)
    assert kind(bytes(six), IPV6, verify=False).wrong_checksum


def test_tags() -> None:
    assert kind(packet(), vlan=7).vlan == 7
    assert kind(packet(), vlan=0).vlan is None
    inner = struct.pack("!HH", 9, IP) + packet()
    assert kind(inner, TAG).vlan == 9
    assert kind(inner, TAG, vlan=7).vlan == 7  # the outer one counts
    assert parse(b"arp", 0x0806, None, verify=True) is None
    for protocol in (TAG, IP):  # since Linux 6.10 it is the innermost one
        found = kind(inner, protocol, vlan=7)
        assert (found.vlan, found.inner_vlan, found.port) == (7, 9, 5000)
    six = packet(source="fd01::1", destination="ff15::1")
    assert kind(struct.pack("!HH", 0x6009, IPV6) + six, IPV6, vlan=7).inner_vlan == 9
    assert kind(six, IPV6, vlan=7).inner_vlan is None


def test_fragments() -> None:
    first = kind(packet(fragment=0x2000))
    assert (first.fragment, first.port) == ("first", 5000)
    later = parse(packet(fragment=0x2001), IP, None, verify=True)
    assert later is not None
    assert (later.fragment, later.port, later.largest) == ("later", None, 40)
    udp = frame(b"data", source="fd01::1", destination="ff15::1")[54:]
    for where, part in ((1, "first"), (8, "later"), (0, "")):
        header = struct.pack("!BBHI", 17, 0, where, 7)
        assert kind(ipv6(44, header + udp), IPV6, verify=False).fragment == part


@pytest.mark.parametrize(
    ("protocol", "body", "detail"),
    [
        (2, bytes([0x11, 100, 0, 0]) + bytes(4), "query v2"),
        (2, bytes([0x11, 0, 0, 0]) + bytes(4), "query v1"),
        (2, bytes([0x11, 100, 0, 0]) + bytes(8), "query v3"),
        (2, bytes([0x16, 0, 0, 0, 239, 1, 1, 1]), "report of 239.1.1.1"),
        (2, bytes([0x17, 0, 0, 0, 239, 1, 1, 1]), "leave of 239.1.1.1"),
        (2, bytes([0x22]) + bytes(7), "report of no group"),
        (1, bytes([3, 3]) + bytes(6) + packet(), "3/3 about 239.1.1.1 port 5000"),
        (1, bytes([3, 3]) + bytes(6), "3/3"),
        (1, bytes([8, 0]) + bytes(6), "8/0"),
    ],
)
def test_what_igmp_and_icmp_are_about(protocol: int, body: bytes, detail: str) -> None:
    assert kind(ipv4(protocol, body)).detail == detail


@pytest.mark.parametrize(
    ("body", "name", "detail"),
    [
        (bytes([130]) + bytes(23), "mld", "query v1"),
        (bytes([130]) + bytes(27), "mld", "query v2"),
        (bytes([143]) + bytes(7), "mld", "report of no group"),
        (bytes([128, 0]) + bytes(6), "icmpv6", "128/0"),
    ],
)
def test_what_mld_is_about(body: bytes, name: str, detail: str) -> None:
    hop_by_hop = bytes([58, 0, 5, 2, 0, 0, 1, 0])
    found = kind(ipv6(0, hop_by_hop + body), IPV6)
    assert (found.protocol, found.detail) == (name, detail)


@pytest.mark.parametrize(
    ("data", "protocol"),
    [
        (b"", IP),
        (b"\x45" * 19, IP),
        (packet(total=19), IP),
        (packet(total=200), IP),
        (packet(udp_length=7), IP),
        (packet(udp_length=100), IP),
        (b"\x65" + packet()[1:], IP),
        (packet(total=22), IP),
        (ipv6(17, b"")[:39], IPV6),
        (ipv6(0, bytes([0, 0] + [0] * 6) * 20), IPV6),
        (ipv6(0, bytes([17, 9])), IPV6),
        (b"\0", TAG),
    ],
)
def test_what_makes_no_sense(data: bytes, protocol: int) -> None:
    with pytest.raises(MalformedError):
        parse(data, protocol, None, verify=True)


@given(
    st.binary(max_size=200),
    st.sampled_from([IP, IPV6, TAG, 0x88A8, 0x0806]),
    st.none() | st.integers(0, 4095),
    st.booleans(),
)
def test_no_bytes_do_harm(data: bytes, protocol: int, vlan: int | None, verify: bool) -> None:
    told = Look()
    summary = Summary(told)
    summary.add(data, protocol, vlan, verify, other_host=False)
    # With a header that is right, more of it is read.
    summary.add(ipv4(data[0] if data else 17, data), IP, vlan, verify, other_host=False)
    summary.add(ipv6(data[0] if data else 44, data), IPV6, vlan, verify, other_host=True)
    summary.end()
    apart = told.malformed + told.not_ip + told.of_more_kinds
    assert told.frames == 3 == apart + sum(each.count for each in told.kinds)


def test_a_summary_is_bounded() -> None:
    told = Look()
    summary = Summary(told)
    for number in range(KINDS + 100):
        summary.add(packet(ports=(1, 1000 + number)), IP, None, verify=True, other_host=False)
    summary.add(packet(ports=(1, 1000)), IP, None, verify=True, other_host=False)
    summary.end()
    assert (len(told.kinds), told.of_more_kinds) == (KINDS, 100)
    assert (told.kinds[0].count, told.kinds[0].largest) == (2, 32)


def test_what_the_rule_takes_is_not_crowded_out() -> None:
    wanted = Input("eth0", ip_address("239.1.1.1"), 5000)
    told = Look()
    summary = Summary(told, lambda kind: takes(wanted, kind))
    for number in range(KINDS + 100):
        summary.add(packet(ports=(1, 6000 + number)), IP, None, verify=True, other_host=False)
    summary.add(packet(ports=(1, 5000)), IP, None, verify=True, other_host=False)
    summary.end()
    assert len(told.kinds) == KINDS + 1
    assert told.kinds[-1].port == 5000


def test_what_the_kernel_says_of_a_frame() -> None:
    def said(status: int, tag: int = 0) -> tuple[int | None, bool]:
        return _auxiliary([(263, 8, AUXDATA.pack(status, 0, 0, 0, 0, tag, 0))])

    assert said(0) == (None, True)
    assert said(1 << 4, 0x2007) == (7, True)
    assert said(1 << 3) == (None, False)
    assert said(1 << 7) == (None, False)
    assert _auxiliary([]) == (None, False)
    assert _auxiliary([(263, 8, b"short")]) == (None, False)
