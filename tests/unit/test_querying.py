"""The state machine for routers, the querier, and its packets, against what stands elsewhere."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
from dataclasses import astuple
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from mcrd.model import Address
from mcrd.observe.messages import Query, igmp, mld
from mcrd.planning.actual import Listeners, Wanted
from mcrd.querying.groups import NONE, Group, Question, Said, Sources, Times
from mcrd.querying.interests import Interests
from mcrd.querying.querier import ALL_SOURCES, GROUPS, SOURCES, Ask, Querier
from mcrd.sockets.queries import query
from mcrd.sockets.reports import LATEST

GROUP = IPv4Address("239.1.1.1")
US, LOWER, HIGHER = (IPv4Address(f"10.0.0.{n}") for n in (5, 2, 9))
TIMES = Times()
A, B, C = (IPv4Address(f"10.9.0.{n}").packed for n in (1, 2, 3))


def those(text: str) -> Sources:
    return frozenset({"a": A, "b": B, "c": C}[each] for each in text)


class Model:
    """RFC 3376, 6.4.1 and 6.4.2, written down as its tables are: sets X and Y, and the timers."""

    def __init__(self) -> None:
        self.exclude = False
        self.group = 0.0
        self.timers: dict[bytes, float] = {}  # 0: in Y

    def _sets(self) -> tuple[Sources, Sources]:
        x = frozenset(s for s, t in self.timers.items() if t)
        return x, frozenset(self.timers) - x

    def tick(self, now: float) -> None:
        for source, until in list(self.timers.items()):
            if until and until <= now:
                if self.exclude:
                    self.timers[source] = 0.0
                else:
                    del self.timers[source]
        if self.exclude and self.group <= now:
            self.exclude = False
            self.timers = {s: t for s, t in self.timers.items() if t}

    def hear(self, said: Said, s: Sources, now: float) -> list[Sources]:
        gmi = now + TIMES.membership
        x, y = self._sets()
        asked: list[Sources] = []
        old = dict(self.timers)
        if not self.exclude:
            if said in (Said.IS_IN, Said.ALLOW, Said.TO_IN):
                self.timers |= dict.fromkeys(s, gmi)
                asked = [x - s] if said is Said.TO_IN else []
            elif said is Said.BLOCK:
                asked = [x & s]
            else:
                self.exclude, self.group = True, gmi
                self.timers = {k: old[k] for k in x & s} | dict.fromkeys(s - x, 0.0)
                asked = [x & s] if said is Said.TO_EX else []
            return [each for each in asked if each]
        if said in (Said.IS_IN, Said.ALLOW, Said.TO_IN):
            self.timers |= dict.fromkeys(s, gmi)
            return [each for each in [x - s] if each] + [NONE] if said is Said.TO_IN else []
        if said is Said.BLOCK:
            self.timers |= dict.fromkeys(s - x - y, self.group)
            return [s - y] if s - y else []
        start = gmi if said is Said.IS_EX else self.group
        self.timers = (
            {k: old[k] for k in x & s} | dict.fromkeys(y & s, 0.0) | dict.fromkeys(s - x - y, start)
        )
        self.group = gmi
        return [s - y] if said is Said.TO_EX and s - y else []

    def wants(self, source: bytes) -> bool:
        if not self.exclude:
            return source in self.timers
        return self.timers.get(source, 1.0) > 0


def wants(group: Group, source: bytes, now: float) -> bool:
    """Whether some host wants what this source sends (RFC 3376, 6.3)."""
    if group.wanted.get(source, 0.0) > now:
        return True
    return group.until > now and source not in group.refused and source not in group.wanted


@pytest.mark.parametrize("seed", range(300))
def test_groups_follow_the_tables(seed: int) -> None:
    chance = random.Random(seed)
    group, model, now = Group(GROUP, 0.0), Model(), 1.0
    for _ in range(60):
        now += chance.choice((0.0, 0.5, 1.0, 3.0, 90.0, 300.0))
        said = chance.choice(list(Said))
        sources = frozenset(each for each in (A, B, C) if chance.random() < 0.5)
        model.tick(now)
        wanted = model.hear(said, sources, now)
        questions = group.hear(said, sources, now, TIMES)
        assert [question.sources for question in questions] == wanted
        if questions and chance.random() < 0.7:
            for question in questions:
                group.asked(question, now, TIMES)
                end = now + TIMES.leaving
                if not question.sources:
                    model.group = min(model.group, end)
                for each in question.sources:
                    if model.timers.get(each):
                        model.timers[each] = min(model.timers[each], end)
        later = now + chance.choice((0.0, 2.5, 100.0, 261.0))
        model.tick(later)
        if later > now:
            now = later
        for source in (A, B, C):
            assert wants(group, source, now) == model.wants(source)
        assert group.is_over(now) == (not model.exclude and not model.timers)


def test_a_leave_of_an_old_host_is_asked_about_and_a_v1_host_says_none() -> None:
    group = Group(GROUP, 0.0)
    group.hear_old(2, 1.0, TIMES)
    assert wants(group, A, 2.0)
    assert group.speaks(3) == 2
    assert group.hear(Said.BLOCK, those("a"), 2.0, TIMES) == []
    (question,) = group.hear(Said.TO_IN, NONE, 3.0, TIMES)
    group.asked(question, 3.0, TIMES)
    assert wants(group, A, 4.9)
    assert not wants(group, A, 5.1)
    assert group.is_over(5.1)
    group.hear_old(1, 6.0, TIMES)
    assert group.hear(Said.TO_IN, NONE, 7.0, TIMES) == []
    assert wants(group, A, 265.0)
    assert group.is_over(266.1)


def test_what_is_over_is_not_held() -> None:
    group = Group(GROUP, 0.0)
    group.hear(Said.ALLOW, those("a"), 1.0, TIMES)
    group.hear(Said.IS_EX, NONE, 1.0, TIMES)
    group.hold(100.0, 300.0)
    assert wants(group, A, 299.0)
    group.hold(300.5, 400.0)
    assert group.is_over(300.6)


def querier() -> Querier:
    found = Querier(US, True, 3)
    found.begin(0.0)
    return found


def test_a_querier_has_counted_nothing_before_it_begins() -> None:
    assert astuple(Querier(US, True, 3).counts) == (0, 0, 0, 0, 0)


def is_elected(asking: Querier) -> bool:
    return asking.elected


def test_a_querier_asks_at_once_and_then_at_its_interval() -> None:
    asking, at = querier(), []
    for tenth in range(3000):
        at += [tenth / 10] * len(list(asking.due(tenth / 10)))
    assert [round(when) for when in at] == [0, 31, 156, 281]


def test_the_lower_address_wins_and_is_replaced_when_it_goes() -> None:
    asking = querier()
    assert list(asking.due(0.0)) == [Ask(None, soon=True)]
    asking.hear_query(HIGHER, Ask(None), 125.0, 1.0)
    assert is_elected(asking)
    asking.hear_query(LOWER, Ask(None), 125.0, 2.0)
    assert not is_elected(asking)
    asking.hear(GROUP, Said.IS_EX, NONE, 2.1)
    assert list(asking.due(256.9)) == []
    assert list(asking.due(257.1)) == [Ask(None, soon=True)]
    assert is_elected(asking)
    asking.hear_query(IPv4Address(0), Ask(None), 125.0, 260.0)
    assert is_elected(asking)
    # A switch that believes in the other one for longer does not hand on the first answers.
    assert asking.expire(290.0) == []
    assert list(asking.due(288.5)) == [Ask(None, soon=True)]
    asking.hear(GROUP + 1, Said.IS_EX, NONE, 290.9)
    assert asking.expire(298.5) == [GROUP]
    assert list(asking.due(413.6)) == [Ask(None)]


def test_a_leave_is_asked_about_as_often_as_it_is_robust() -> None:
    asking = querier()
    list(asking.due(0.0))
    asking.hear(GROUP, Said.TO_EX, NONE, 1.0)
    asking.hear(GROUP, Said.TO_IN, NONE, 10.0)
    assert list(asking.due(10.0)) == [Ask(GROUP)]
    assert list(asking.due(10.5)) == []
    assert list(asking.due(11.0)) == [Ask(GROUP)]
    assert list(asking.due(13.0)) == []
    assert asking.expire(11.9) == []
    assert asking.expire(12.0) == [GROUP]


def test_a_leave_before_there_is_an_address_is_asked_about_with_it() -> None:
    asking = Querier(None, True, 3)
    asking.hear_old(GROUP, 2, 1.0)
    asking.hear_old(GROUP + 1, 2, 1.0)
    for group in (GROUP, GROUP + 1):
        asking.hear(group, Said.TO_IN, NONE, 1.1)
    assert list(asking.due(1.1)) == []
    asking.hear_old(GROUP + 1, 2, 1.2)
    asking.readdress(US, 2.0)
    assert list(asking.due(2.0)) == [Ask(None, soon=True), Ask(GROUP), Ask(GROUP + 1)]
    asking.hear_old(GROUP + 1, 2, 2.5)
    assert asking.expire(4.0) == [GROUP]
    # What is over is asked about no more, however long there is no address.
    alone = Querier(None, True, 3)
    alone.hear_old(GROUP, 2, 0.0)
    alone.hear(GROUP, Said.TO_IN, NONE, 1.0)
    assert alone.expire(300.0) == [GROUP]
    alone.hear_old(GROUP, 2, 301.0)
    alone.readdress(US, 302.0)
    assert list(alone.due(302.0)) == [Ask(None, soon=True)]


def test_who_goes_on_wanting_it_keeps_it() -> None:
    asking = querier()
    list(asking.due(0.0))
    asking.hear(GROUP, Said.TO_EX, NONE, 1.0)
    asking.hear(GROUP, Said.TO_IN, NONE, 10.0)
    assert list(asking.due(10.0)) == [Ask(GROUP)]
    asking.hear(GROUP, Said.IS_EX, NONE, 10.7)
    assert list(asking.due(11.0)) == [Ask(GROUP, suppress=True)]
    assert asking.expire(13.0) == []


def test_what_is_remembered_is_bounded() -> None:
    asking = querier()
    for number in range(2 * GROUPS):
        asking.hear(IPv4Address(0xEF000000 + number), Said.TO_EX, NONE, 1.0)
    assert len(asking.groups) == GROUPS
    assert asking.counts.ignored == GROUPS
    many = frozenset(number.to_bytes(4) for number in range(300))
    asking.hear(next(iter(asking.groups)), Said.ALLOW, many, 2.0)
    assert asking.counts.ignored == GROUPS + 1


@pytest.mark.parametrize(
    ("source", "group", "sources", "spoken"),
    [
        (US, None, (), 3),
        (US, GROUP, (), 3),
        (US, GROUP, (A, B), 3),
        (US, None, (), 2),
        (US, GROUP, (), 2),
        (US, None, (), 1),
        (IPv6Address("fe80::1"), None, (), 2),
        (IPv6Address("fe80::1"), IPv6Address("ff05::1"), (bytes(15) + b"\1",), 2),
        (IPv6Address("fe80::1"), IPv6Address("ff05::1"), (), 1),
    ],
)
def test_queries_are_read_as_what_they_were(
    source: Address, group: Address | None, sources: tuple[bytes, ...], spoken: int
) -> None:
    report = query(Ask(group, frozenset(sources)), source, spoken, TIMES)
    read = igmp(report.packet[24:]) if source.version == 4 else mld(report.packet[48:])
    assert isinstance(read, Query)
    assert (read.version, read.group) == (spoken, group)
    assert read.response == (10.0 if group is None else 1.0)
    report = query(Ask(None, soon=True), source, LATEST[source.version], TIMES)
    read = igmp(report.packet[24:]) if source.version == 4 else mld(report.packet[48:])
    assert isinstance(read, Query)
    assert read.response == 2.5
    assert read.interval == 125.0


def test_many_leaves_are_asked_about_in_turn_and_nobody_is_lost_before() -> None:
    asking = querier()
    list(asking.due(0.0))
    groups = [GROUP + number for number in range(250)]
    for group in groups:
        asking.hear(group, Said.TO_EX, NONE, 1.0)
    for group in groups:
        asking.hear(group, Said.TO_IN, NONE, 10.0)
    asked: dict[float, list[Ask]] = {}
    for tenth in range(100, 200):
        now = tenth / 10
        asked[now] = list(asking.due(now))
        for ask in asked[now]:  # somebody else is left of each
            assert ask.group is not None
            asking.hear(ask.group, Said.IS_EX, NONE, now)
        assert asking.expire(now) == []
    everything = [ask.group for some in asked.values() for ask in some]
    assert set(everything) == set(groups)
    assert max(map(len, asked.values())) <= 100
    assert sum(len(some) for now, some in asked.items() if now < 11) <= 200


def test_who_leaves_again_and_again_is_not_asked_more_often() -> None:
    asking = querier()
    list(asking.due(0.0))
    asking.hear(GROUP, Said.TO_EX, NONE, 1.0)
    count = 0
    for hundredth in range(1000, 1500):
        asking.hear(GROUP, Said.TO_EX, NONE, hundredth / 100)
        asking.hear(GROUP, Said.TO_IN, NONE, hundredth / 100)
        count += len(list(asking.due(hundredth / 100)))
    assert count <= 6


def test_one_query_silences_nobody_for_hours() -> None:
    asking = querier()
    asking.hear_query(LOWER, Ask(None), 31744.0, 1.0)
    assert not is_elected(asking)
    assert list(asking.due(1300.0)) == [Ask(None, soon=True)]


def test_sources_of_all_groups_are_bounded() -> None:
    asking = querier()
    for number in range(2 * ALL_SOURCES // SOURCES):
        many = frozenset((number << 16 | each).to_bytes(4) for each in range(SOURCES))
        asking.hear(GROUP + number, Said.ALLOW, many, 1.0)
    assert sum(len(group.wanted) for group in asking.groups.values()) == ALL_SOURCES
    assert wants(asking.groups[GROUP + 100], A, 2.0)  # of any source, then
    asking.expire(262.0)
    asking.hear(GROUP, Said.ALLOW, those("a"), 262.0)
    assert not wants(asking.groups[GROUP], B, 263.0)


def test_groups_that_outputs_send_to_are_asked_about_first() -> None:
    asking = querier()
    asking.reserved = {GROUP}
    list(asking.due(0.0))
    for group in [*(GROUP + number for number in range(1, 300)), GROUP]:
        asking.hear(group, Said.TO_EX, NONE, 1.0)
        asking.hear(group, Said.TO_IN, NONE, 1.0)
    assert next(iter(asking.due(2.0))) == Ask(GROUP)


def test_members_of_a_seldom_querier_stay() -> None:
    asking = querier()
    asking.hear_query(LOWER, Ask(None), 300.0, 1.0)
    asking.hear(GROUP, Said.IS_EX, NONE, 5.0)
    assert asking.expire(600.0) == []


def test_a_done_of_mldv1_is_believed() -> None:
    group = Group(IPv6Address("ff15::1"), 0.0)
    group.hear_old(1, 1.0, TIMES)
    assert group.hear(Said.TO_IN, NONE, 3.0, TIMES)


def test_there_is_room_for_what_outputs_send_to() -> None:
    asking = querier()
    asking.reserved = {GROUP}
    for number in range(GROUPS):
        asking.hear(IPv4Address(0xEF100000 + number), Said.TO_EX, NONE, 1.0)
    asking.hear(GROUP, Said.TO_EX, NONE, 1.0)
    assert GROUP in asking.groups
    many = frozenset(number.to_bytes(4) for number in range(300))
    asking.hear(GROUP, Said.TO_IN, NONE, 2.0)
    asking.hear(GROUP, Said.ALLOW, many, 2.0)
    assert wants(asking.groups[GROUP], A, 3.0)


def test_interests_are_groups_and_ranges() -> None:
    ranges = [IPv4Network("239.1.0.0/16"), IPv6Network("ff15::/120"), IPv4Network("238.0.0.0/30")]
    found = Interests([GROUP + (1 << 24), *ranges])
    for text in ("240.1.1.1", "239.1.255.255", "238.0.0.3", "ff15::ff"):
        address = IPv6Address(text) if ":" in text else IPv4Address(text)
        assert address in found
    for text in ("239.2.0.0", "238.0.0.4", "240.1.1.2"):
        assert IPv4Address(text) not in found
    assert IPv6Address("ff15::100") not in found
    few = Interests(ranges, 256)
    assert IPv4Address("239.1.1.1") not in few
    assert IPv6Address("ff15::1") in few


def test_listeners_of_a_range_come_in_their_order() -> None:
    numbers = [7, 3, 200, 256, 5]
    found = Listeners({(1, GROUP + number): Wanted(True, ()) for number in numbers})
    found[2, GROUP + 1] = Wanted(True, ())
    within = found.within(1, IPv4Network("239.1.1.0/24"))
    assert within == [GROUP + number for number in (7, 3, 200, 5)]
    assert found.within(1, IPv4Network("239.1.0.0/16")) == [GROUP + number for number in numbers]
    assert found.within(3, IPv4Network("239.1.0.0/16")) == []


def test_who_takes_the_place_of_another_knows_what_that_knew() -> None:
    before, after = querier(), Querier(None, True, 2)
    before.hear(GROUP, Said.IS_EX, NONE, 1.0)
    before.hear_query(LOWER, Ask(None), 125.0, 2.0)
    after.follow(before, 3.0)
    after.readdress(US, 3.5)  # as every look does
    assert GROUP in after.groups
    assert after.other == before.other
    assert after.counts.reports == 1
    assert list(after.due(4.0)) == []


@pytest.mark.parametrize(
    ("asked", "asks", "other", "elected"),
    [
        (True, True, None, True),
        (False, True, None, True),
        (False, True, LOWER, False),
        (False, True, HIGHER, True),  # which a listener takes as elected
        (True, False, None, False),
        (True, False, LOWER, False),
    ],
)
def test_who_takes_the_place_of_another_starts_if_it_is_elected(
    asked: bool, asks: bool, other: Address | None, elected: bool
) -> None:
    before, after = Querier(US, asked, 3), Querier(None, asks, 3)
    if other is not None:
        before.hear_query(other, Ask(None), 125.0, 2.0)
    after.follow(before, 3.0)
    after.readdress(US, 3.5)
    assert after.elected is elected
    times = [now for now in range(4, 200) for _ in after.due(float(now))]
    assert times == ([4, 36, 161] if elected else [])  # two as a start, then one every 125 s


@pytest.mark.parametrize("version", [1, 2, 3])
def test_of_a_source_specific_group_nobody_takes_anything_from_others(version: int) -> None:
    """Who names no source has a timer beside those of the sources."""
    group, times = Group(IPv4Address("232.1.1.1"), 0.0), TIMES
    assert group.hear(Said.ALLOW, those("ab"), 0.0, times) == []

    def join(now: float) -> None:
        if version < 3:
            group.hear_old(version, now, times)
        else:
            group.hear(Said.TO_EX, those("c"), now, times)

    join(1.0)
    assert group.wanted.keys() == those("ab")
    assert group.until == 261.0
    assert not group.refused
    assert group.hear(Said.BLOCK, those("b"), 2.0, times) == [Question(those("b"))]
    group.asked(Question(those("b")), 2.0, times)
    group.expire(4.0)
    assert group.wanted.keys() == those("a")
    assert not group.refused
    # IGMPv1 has no leave, so no other leave is believed for its part.
    asked = [Question(those("a"))] + [Question()] * (version > 1)
    assert group.hear(Said.TO_IN, NONE, 5.0, times) == asked
    for question in asked:
        group.asked(question, 5.0, times)
    group.hear(Said.IS_IN, those("a"), 6.0, times)
    group.expire(7.0)
    assert group.wanted.keys() == those("a")
    assert (group.until > 7.0) is (version == 1)
    join(8.0)
    group.expire(266.5)  # the source has run out, and who names none goes on
    assert not group.wanted
    assert not group.refused
    assert not group.is_over(266.5)
    assert group.is_over(268.0)


def test_of_too_many_sources_a_source_specific_group_keeps_those_that_are_known() -> None:
    """Another group is wanted from any then."""
    for group, is_any in ((IPv4Address("232.1.1.1"), False), (GROUP, True)):
        querier = Querier(US, asks=True, newest=3)
        querier.hear(group, Said.IS_IN, those("ab"), 0.0)
        many = frozenset(number.to_bytes(4) for number in range(SOURCES))
        querier.hear(group, Said.IS_IN, many | those("a"), 100.0)
        assert querier.counts.ignored == 1
        assert (querier.groups[group].until > 0) is is_any
        querier.expire(TIMES.membership + 1)
        assert list(querier.groups[group].wanted) == ([] if is_any else [A])


def test_what_is_wanted_exceeds_what_was() -> None:
    one, two = b"\n\0\0\1", b"\n\0\0\2"
    some, both, anybody = Wanted(False, (one,)), Wanted(False, (one, two)), Wanted(True, ())
    all_but_one, all_but_both = (Wanted(True, (), frozenset(each)) for each in ({one}, {one, two}))
    more = [(both, some), (anybody, both), (anybody, all_but_one), (some, all_but_one)]
    more += [(all_but_one, all_but_both)]
    assert all(now.exceeds(before) for now, before in more)
    no_more = [(some, both), (both, anybody), (some, some), (all_but_one, anybody)]
    no_more += [(all_but_both, all_but_one), (Wanted(False, (two,)), all_but_one)]
    assert not any(now.exceeds(before) for now, before in no_more)
