"""What is heard of queriers, members and routers, from messages whose bytes nobody vouches for."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import random
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pytest

from mcrd import looks
from mcrd.observe.heard import MEMBER_AGE, MEMBERS, OTHERS, ROUTER_AGE, ROUTERS, Heard
from mcrd.observe.messages import Error, MalformedError, Message, Query, Record, icmp, igmp, mld
from mcrd.observe.returned import AGE, Returned
from mcrd.observe.returned import KINDS as RETURNED

if TYPE_CHECKING:
    from mcrd.model import Address

GROUP, OTHER = IPv4Address("239.1.1.1"), IPv4Address("239.1.1.2")
GROUP6 = IPv6Address("ff15::1")
HOST, OWN = IPv4Address("10.2.0.2"), IPv4Address("10.2.0.1")
ELSEWHERE = IPv4Address("10.2.0.3")  # this host's too, on another interface
SOURCE, SECOND = IPv4Address("10.1.0.1"), IPv4Address("10.1.0.2")
IS_INCLUDE, IS_EXCLUDE, TO_INCLUDE, TO_EXCLUDE, ALLOW, BLOCK = range(1, 7)
HELLO = bytes([0x20, 0, 0, 0])


def query(code: int = 100, group: str = "0.0.0.0", *, version: int = 3) -> bytes:
    head = struct.pack("!BBH", 0x11, code, 0) + ip_address(group).packed
    return head + bytes(4) * (version == 3)


def report(*records: tuple[int, Address, tuple[Address, ...]], kind: int = 0x22) -> bytes:
    """One of IGMPv3, or with 143 of MLDv2."""
    body = struct.pack("!BBHHH", kind, 0, 0, 0, len(records))
    for change, group, sources in records:
        body += struct.pack("!BBH", change, 0, len(sources)) + group.packed
        body += b"".join(source.packed for source in sources)
    return body


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (query(), Query(3, None, 10.0)),
        (query(0x8F), Query(3, None, 24.8)),  # (15 | 16) << 3
        (query(20, version=2), Query(2, None, 2.0)),
        (query(0, version=2), Query(1, None, 10.0)),
        (query(group="239.1.1.1"), Query(3, GROUP, 10.0)),
        (
            query(group="239.1.1.1")[:8] + bytes((0x0A, 125, 0, 1)) + SOURCE.packed,
            Query(3, GROUP, 10.0, 125.0, frozenset({SOURCE.packed}), suppress=True),
        ),
        (struct.pack("!BBH", 0x16, 0, 0) + GROUP.packed, (Record(GROUP, version=2),)),
        (
            struct.pack("!BBH", 0x17, 0, 0) + GROUP.packed,
            (Record(GROUP, frozenset(), version=2),),
        ),
        (
            report((TO_EXCLUDE, GROUP, (SOURCE,))),
            (Record(GROUP, kind=TO_EXCLUDE, refused=frozenset({SOURCE.packed})),),
        ),
        (report((TO_INCLUDE, GROUP, ())), (Record(GROUP, frozenset(), kind=TO_INCLUDE),)),
        (
            report((ALLOW, GROUP, (SOURCE,)), (IS_EXCLUDE, OTHER, ())),
            (
                Record(GROUP, frozenset({SOURCE.packed}), "allow", ALLOW),
                Record(OTHER, kind=IS_EXCLUDE),
            ),
        ),
        (
            report((IS_INCLUDE, GROUP, (SOURCE, SECOND)), (IS_EXCLUDE, OTHER, ())),
            (
                Record(GROUP, frozenset({SOURCE.packed, SECOND.packed}), kind=IS_INCLUDE),
                Record(OTHER, kind=IS_EXCLUDE),
            ),
        ),
        (
            report((IS_INCLUDE, GROUP, (SOURCE,) * 65), (BLOCK, OTHER, (SOURCE,) * 65)),
            (Record(GROUP, kind=IS_INCLUDE),),
        ),
        (struct.pack("!BBH", 0x13, 0, 0) + GROUP.packed, None),  # DVMRP
    ],
)
def test_igmp(body: bytes, expected: Message) -> None:
    assert igmp(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (struct.pack("!BxxxH2x", 130, 10000) + bytes(16) + bytes(4), Query(2, None, 10.0)),
        (struct.pack("!BxxxH2x", 130, 0x8FFF) + bytes(20), Query(2, None, 65.528)),
        (struct.pack("!BxxxH2x", 130, 500) + bytes(16), Query(1, None, 0.5)),
        (struct.pack("!BxxxH2x", 131, 0) + GROUP6.packed, (Record(GROUP6, version=1),)),
        (
            struct.pack("!BxxxH2x", 132, 0) + GROUP6.packed,
            (Record(GROUP6, frozenset(), version=1),),
        ),
        (report((IS_EXCLUDE, GROUP6, ()), kind=143), (Record(GROUP6, kind=IS_EXCLUDE),)),
        (struct.pack("!BxxxH2x", 134, 0) + bytes(16), None),  # a router advertisement
    ],
)
def test_mld(body: bytes, expected: Message) -> None:
    assert mld(body) == expected


def test_no_byte_is_trusted() -> None:
    """Every message cut short or spoilt is refused, or is some message: nothing else happens."""
    numbers = random.Random(1)
    bodies = [query(), report((ALLOW, GROUP, (SOURCE, SECOND)), (IS_EXCLUDE, OTHER, ()))]
    bodies += [report((IS_EXCLUDE, GROUP6, ()), kind=143), struct.pack("!BxxxH18x", 130, 1)]
    for body in bodies:
        for _ in range(300):
            spoilt = bytearray(body[: numbers.randrange(len(body) + 1)])
            if spoilt:
                spoilt[numbers.randrange(len(spoilt))] = numbers.randrange(256)
            for read in (igmp, mld):
                with contextlib.suppress(MalformedError):
                    read(bytes(spoilt))
    with pytest.raises(MalformedError):
        igmp(report((ALLOW, GROUP, (SOURCE, SECOND)))[:-1])
    with pytest.raises(MalformedError):
        mld(b"")


class Segment:
    """One interface, and the time there."""

    def __init__(self) -> None:
        self.heard = Heard()
        self.now = 1000.0
        self.heard.keep({3: frozenset({OWN}), 9: frozenset({ELSEWHERE})}, self.now)

    def take(self, body: bytes, host: Address = HOST, index: int = 3) -> None:
        protocol: Any = "igmp" if host.version == 4 else "mld"
        self.heard.take(index, protocol, host, body, self.now)

    def told(self, protocol: str = "igmp") -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(self.heard.plain(3, self.now)[protocol])
        return found

    def wanted(self, group: Address = GROUP) -> Any:
        """The sources that the host wants of it: None is any, "none" that it is no member."""
        members = self.told("igmp" if group.version == 4 else "mld")["members"]
        found = [m["sources"] for m in members if m["group"] == str(group)]
        return found[0] if found else "none"


def test_who_queried_last_and_whether_all_have_answered() -> None:
    segment = Segment()
    assert segment.told()["query"] is None
    segment.take(query())
    segment.now += 5
    entry = {"address": "10.2.0.2", "version": 3, "ago_s": 5.0, "answered": False, "gone": False}
    assert segment.told()["query"] == entry
    segment.take(query(group="239.1.1.1"))  # one for a group says nothing about the others
    segment.now += 7
    assert segment.told()["query"] == {**entry, "ago_s": 12.0, "answered": True}
    assert segment.told()["listened_s"] == 12.0
    segment.now += 300
    assert segment.told()["query"]["gone"]  # three of its queries would have come
    seldom = bytearray(query())
    seldom[9] = 0xFF  # every 31744 s
    segment.take(bytes(seldom))
    segment.now += 300
    assert not segment.told()["query"]["gone"]


def test_members_come_change_and_go() -> None:
    segment = Segment()
    for change, sources, expected in (
        (TO_EXCLUDE, (), None),
        (ALLOW, (SOURCE,), None),
        (TO_INCLUDE, (), "none"),
        (ALLOW, (SOURCE,), ["10.1.0.1"]),
        (ALLOW, (SECOND,), ["10.1.0.1", "10.1.0.2"]),
        (BLOCK, (SOURCE,), ["10.1.0.2"]),
        (IS_INCLUDE, (SOURCE,), ["10.1.0.1"]),
        (BLOCK, (SOURCE,), "none"),
        (IS_EXCLUDE, (), None),
    ):
        segment.take(report((change, GROUP, sources)))
        assert segment.wanted() == expected, (change, sources)
    segment.now += MEMBER_AGE + 1
    assert segment.wanted() == "none"


def test_this_host_s_own_reports_and_those_of_nobody_are_not_counted() -> None:
    segment = Segment()
    for host in (OWN, ELSEWHERE):
        segment.take(report((IS_EXCLUDE, GROUP, ())), host)
    segment.take(report((IS_EXCLUDE, GROUP, ())), index=4)
    assert segment.told()["members"] == []
    segment.take(report((IS_EXCLUDE, GROUP, ())), IPv4Address("0.0.0.0"))  # of a proxy
    assert segment.wanted() is None
    segment.heard.keep({3: frozenset()}, segment.now)
    segment.take(report((IS_EXCLUDE, OTHER, ())), IPv4Address("0.0.0.0"))  # this host, it may be
    assert segment.wanted(OTHER) == "none"
    segment.take(query(), IPv4Address("0.0.0.0"))  # a switch without an address may well query
    assert segment.told()["query"]["address"] == "0.0.0.0"


def test_routers_say_hello() -> None:
    segment = Segment()
    segment.heard.take_pim(3, HOST, HELLO, segment.now)
    segment.heard.take_pim(3, SOURCE, bytes([0x23, 0, 0, 0]), segment.now)  # a join
    segment.heard.take_pim(3, IPv6Address("fe80::1"), HELLO, segment.now)
    segment.heard.take_pim(4, HOST, HELLO, segment.now)
    segment.heard.take_pim(3, HOST, b"", segment.now)
    assert segment.told()["routers"] == ["10.2.0.2"]
    assert segment.told("mld")["routers"] == ["fe80::1"]
    segment.now += ROUTER_AGE + 1
    assert segment.told()["routers"] == []


def test_what_is_remembered_is_bounded() -> None:
    segment = Segment()
    for number in range(3 * MEMBERS):
        group = IPv4Address(int(GROUP) + number)
        segment.take(report((IS_EXCLUDE, group, ())))
        segment.heard.take_pim(3, IPv4Address(int(HOST) + number), HELLO, segment.now)
    members = segment.told()["members"]
    assert len(members) == MEMBERS
    assert segment.told()["forgot"]
    assert members[0]["group"] == str(IPv4Address(int(GROUP) + 3 * MEMBERS - 1))
    oldest = IPv4Address(int(GROUP) + 2 * MEMBERS)
    told = segment.heard.plain(3, segment.now, lambda group: group == oldest)["igmp"].members
    assert (len(told), told[-1].group) == (OTHERS + 1, str(oldest))
    assert len(segment.told()["routers"]) == ROUTERS
    many = tuple(IPv4Address(int(SOURCE) + number) for number in range(60))
    more = tuple(IPv4Address(int(SOURCE) + 100 + number) for number in range(60))
    segment.take(report((IS_INCLUDE, GROUP, many)))
    segment.take(report((ALLOW, GROUP, more)))
    assert segment.wanted() is None  # too many to remember: that is taken for any


EQUAL = 2**61 - 1
"""Python's hash of a number is what is left of it after a division by this."""


class Counting:
    """How often two addresses are compared while it is entered."""

    def __enter__(self) -> Self:
        self.count, self._before = 0, IPv6Address.__eq__

        def compare(one: IPv6Address, other: object) -> bool:
            self.count += 1
            return self._before(one, other)

        IPv6Address.__eq__ = compare  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        IPv6Address.__eq__ = self._before  # type: ignore[method-assign]


def test_addresses_whose_hashes_are_equal_cost_no_more_than_others() -> None:
    """512 such members would make each further report compare with them all."""
    groups = [IPv6Address(int(GROUP6) + EQUAL * number) for number in range(MEMBERS)]
    sources = [IPv6Address(int(ENDS[0]) + EQUAL * number) for number in range(60)]
    assert len(set(map(hash, groups))) == len(set(map(hash, sources))) == 1
    segment, returned = Segment(), Returned()
    with Counting() as compared:
        for group in groups:
            segment.take(report((ALLOW, group, (GROUP6,)), kind=143), IPv6Address("fe80::2"))
        segment.take(report((ALLOW, GROUP6, tuple(sources)), kind=143), IPv6Address("fe80::2"))
        for source in sources:
            returned.take(source, icmp6_error(1, 4), 10.0)
            segment.heard.take_pim(3, source, HELLO, segment.now)
    assert compared.count < 10 * MEMBERS
    assert len(segment.told("mld")["members"]) == MEMBERS
    assert len(segment.wanted(GROUP6)) == 61
    assert len(returned.plain(lambda *_: True, 10.0)) == 60


def test_an_interface_that_came_anew_is_another_one() -> None:
    segment = Segment()
    segment.take(query())
    segment.heard.keep({5: frozenset()}, segment.now)
    assert segment.heard.plain(3, segment.now) == {}
    segment.heard.keep({3: frozenset()}, segment.now)
    assert segment.told()["query"] is None


def icmp_error(kind: int, code: int, port: int = 6000, protocol: int = 17) -> bytes:
    """With the start of the packet that it is about (RFC 792)."""
    inner = struct.pack("!BBHHHBBH4s4s", 0x46, 0, 60, 0, 0, 1, protocol, 0, OWN.packed, HOST.packed)
    return struct.pack("!BBHI", kind, code, 0, 0) + inner + bytes(4) + struct.pack("!HH", 9, port)


ENDS = (IPv6Address("fd02::1"), IPv6Address("fd02::2"))


def icmp6_error(kind: int, code: int, port: int = 6000, protocol: int = 17) -> bytes:
    source, destination = ENDS
    inner = struct.pack("!IHBB16s16s", 6 << 28, 8, protocol, 1, source.packed, destination.packed)
    return struct.pack("!BBHI", kind, code, 0, 0) + inner + struct.pack("!HH", 9, port)


@pytest.mark.parametrize(
    ("body", "version", "expected"),
    [
        (icmp_error(11, 0), 4, Error(11, 0, OWN, HOST, 6000)),
        (icmp_error(3, 13, protocol=50), 4, Error(3, 13, OWN, HOST, 0, "esp")),
        (icmp_error(3, 3, protocol=6), 4, None),  # about TCP
        (icmp_error(8, 0), 4, None),  # an echo
        (icmp6_error(1, 4), 6, Error(1, 4, *ENDS, 6000)),
        (icmp6_error(2, 0, protocol=50), 6, Error(2, 0, *ENDS, 0, "esp")),
        (icmp6_error(135, 0), 6, None),
    ],
)
def test_icmp(body: bytes, version: int, expected: Error | None) -> None:
    assert icmp(body, version) == expected
    if expected is not None:
        with pytest.raises(MalformedError):
            icmp(body[:20], version)


def test_what_came_back_is_summed_up_and_bounded() -> None:
    returned = Returned()
    for port in range(2 * RETURNED):
        returned.take(HOST, icmp_error(3, 3, port), 10.0)
    for now in (10.0, 20.0):
        returned.take(HOST, icmp_error(11, 0), now)
        returned.take(HOST, icmp_error(11, 0, 6001), now)
    returned.take(HOST, b"\x03", 20.0)
    assert len(returned.plain(lambda *_: True, 20.0)) == RETURNED
    (error,) = returned.plain(lambda _, port: port == 6000, 22.0)
    assert error == looks.Returned(
        host="10.2.0.2",
        type=11,
        code=0,
        protocol="udp",
        source="10.2.0.1",
        destination="10.2.0.2",
        port=6000,
        count=2,
        ago_s=2.0,
    )
    assert returned.plain(lambda _, port: port == 6000, 20.0 + AGE) == []


def test_nonsense_is_passed_over() -> None:
    segment = Segment()
    segment.take(b"\x22")
    segment.take(b"", IPv6Address("fe80::2"))
    assert segment.told()["members"] == segment.told("mld")["members"] == []


def test_mld_is_of_the_link() -> None:
    segment = Segment()
    body = struct.pack("!BxxxH2x", 130, 10000) + bytes(20)
    segment.take(body, IPv6Address("fd02::2"))
    assert segment.told("mld")["query"] is None
    segment.take(body, IPv6Address("fe80::2"))
    assert segment.told("mld")["query"]["address"] == "fe80::2"
