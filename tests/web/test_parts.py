"""What mcrd-web is made of, without a process: the past, what happened, and who has access."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcrd.answers import Members, Rules, Status
from mcrd.counters import Stats
from mcrd.picture import picture
from mcrd.web.access import Access, RefusedError
from mcrd.web.happenings import AT_ONCE, QUIET, Watch
from mcrd.web.history import MINUTES, SECONDS, History, pack, series, unpack
from tests.web.serving import rule


@given(st.floats(0, 1e12))
def test_a_number_is_kept_to_half_a_thousandth(number: float) -> None:
    assert unpack(pack(number)) == pytest.approx(number, rel=0.0005, abs=0.01)


@given(st.integers(0, 500))
def test_small_counts_are_exact(count: int) -> None:
    assert unpack(pack(count)) == count


def test_the_past_has_an_end() -> None:
    history = History()
    rules = {"a": rule(packets=7)}
    for now in range(60 * (MINUTES + 5)):
        if now % 30 == 0:
            history.add(now, rules)
    past = history.of("a")
    assert past is not None
    seconds, minutes = series(past)
    assert (len(seconds.at), len(minutes.at)) == (SECONDS, MINUTES)
    assert set(minutes.packets) == {7.0}


def test_the_past_of_thousands_has_no_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcrd.web.history.ROOM", 50_000)
    history = History()
    rules = {f"r{n}": rule(packets=random.randrange(10**6)) for n in range(1000)}
    for now in range(1, 40):
        history.add(now, rules)
    past = history.of("r1")
    assert past is not None
    assert 5 < len(past.seconds) < 15
    assert past.seconds[-1].at == 39


def test_a_rule_does_not_see_the_past_of_another_one() -> None:
    history = History()
    history.add(1, {"old": rule(packets=900), "stays": rule(packets=5)})
    history.add(2, {"stays": rule(packets=6)})
    history.add(3, {"new": rule(packets=1), "stays": rule(packets=7)})
    assert history.of("old") is None
    new, stays = history.of("new"), history.of("stays")
    assert new is not None
    assert stays is not None
    assert series(new)[0].packets == [1]
    assert series(stays)[0].packets == [5, 6, 7]


def look(watch: Watch, now: float, stats: Stats) -> list[str]:
    shown = picture(stats, Rules(), Members())
    return [each.text for each in watch.look(now, Status(pid=1), stats, shown)]


def test_losses_are_told_when_they_begin() -> None:
    watch = Watch()
    told = []
    for now, lost in ((0, 0), (1, 3), (2, 5), (3, 9), (3 + 2 * QUIET, 10)):
        told.append(look(watch, now, Stats(rules={"a": rule(dropped={"looped": lost})})))
    assert told == [[], ["a loses packets: 3 looped"], [], [], ["a loses packets: 1 looped"]]


def test_a_flood_of_news_is_cut() -> None:
    watch = Watch()
    assert look(watch, 0, Stats()) == []
    told = look(watch, 1, Stats(rules={f"r{n}": rule() for n in range(1000)}))
    assert len(told) == AT_ONCE + 1
    assert told[-1] == f"and {1000 - AT_ONCE} more at the same time"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "127.9.9.9", "[::1]:9"]
)
def test_this_host_by_its_names(host: str) -> None:
    Access().check("127.0.0.1", {"Host": host}, None)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1"]
)
def test_no_other_name_is_taken(host: str) -> None:
    with pytest.raises(RefusedError):
        Access().check("127.0.0.1", {"Host": host}, None)
