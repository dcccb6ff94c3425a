"""What mcrd-web is made of, without a process: the past, what happened, and who has access."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcrd.answers import Members, Rules, Status
from mcrd.counters import OutputCounts, Stats
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


def test_a_rule_does_not_see_the_past_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcrd.web.history.RULES_MOST", 2)
    history = History()
    history.add(1, {"old": rule(packets=900), "stays": rule(packets=5)})
    history.add(2, {"stays": rule(packets=6)})
    history.add(3, {"new": rule(packets=1), "stays": rule(packets=7), "too many": rule()})
    assert history.of("old") is history.of("too many") is None
    assert packets(history, "new") == [1]
    assert packets(history, "stays") == [5, 6, 7]


def packets(history: History, name: str) -> list[float]:
    past = history.of(name)
    assert past is not None
    return series(past)[0].packets


def test_the_past_of_a_rule_that_was_away_is_kept_until_its_columns_have_left() -> None:
    history = History()
    history.add(60, {"away": rule(packets=9), "stays": rule(packets=5)})
    history.add(61, {"stays": rule(packets=5)})
    history.add(62, {})  # as a daemon answers that has not begun
    history.add(63, {"away": rule(packets=8), "stays": rule(packets=5)})
    assert packets(history, "away") == [9, 0, 0, 8]
    assert packets(history, "stays") == [5, 5, 0, 5]
    assert history.of("away") is not None
    for minute in range(2, MINUTES + 3):
        history.add(60 * minute, {"stays": rule(packets=5)})
    history.add(10**6, {"new": rule(packets=3)})
    assert history.of("away") is None
    assert packets(history, "new") == [3]


def test_the_past_moves_with_a_clock_that_was_set_back() -> None:
    history = History()
    for now in (10_000, 10_001, 10_001, 10_000, 10_002, 4000, 4001):
        history.add(now, {"a": rule(packets=now)})
    past = history.of("a")
    assert past is not None
    seconds, minutes = series(past)
    assert seconds.at == [3997, 3998, 3999, 4000, 4001]
    assert seconds.packets == pytest.approx([10_000, 10_001, 10_002, 4000, 4001], rel=0.001)
    assert minutes.at == [3997]


@pytest.mark.skipif(shutil.which("node") is None, reason="no node: `apt-get install nodejs`")
def test_a_curve_has_gaps_where_the_daemon_was_away(tmp_path: Path) -> None:
    model = Path(__file__).parents[2] / "web/src/model.js"
    (tmp_path / "model.mjs").write_text(model.read_text())
    for times, away, gaps in (
        ([1, 2, 3, 9, 10], 3, [4]),
        ([1, 5, 9, 13, 30], 3, [14]),  # there are many rules, and it is asked seldom
        ([60, 120, 180, 300], 90, [181]),
        ([], 3, []),
    ):
        drawn = f"withGaps({{at: {times}, bits: {times}, peak: {times}}}, {away})"
        say = f"import {{ withGaps }} from './model.mjs'; console.log(JSON.stringify({drawn}))"
        node = ("node", "--input-type=module", "-e", say)
        done = subprocess.run(node, cwd=tmp_path, capture_output=True, text=True, check=True)
        at, bits, peak = json.loads(done.stdout)
        assert at == sorted(times + gaps)
        assert bits == peak == [None if each in gaps else each for each in at]


def look(watch: Watch, now: float, stats: Stats, pid: int = 1, up: float = 9) -> list[str]:
    shown = picture(stats, Rules(), Members())
    status = Status(version="2", pid=pid, uptime_s=up)
    return [each.text for each in watch.look(now, status, stats, shown)]


def test_losses_are_told_when_they_begin() -> None:
    watch = Watch()
    told = []
    for now, lost in ((0, 0), (1, 3), (2, 5), (3, 9), (3 + 2 * QUIET, 10)):
        told.append(look(watch, now, Stats(rules={"a": rule(dropped={"looped": lost})})))
    assert told == [[], ["a loses packets: 3 looped"], [], [], ["a loses packets: 1 looped"]]


def test_losses_of_several_outputs_by_one_reason_are_told_as_one_number() -> None:
    watch = Watch()
    told: list[str] = []
    for now, lost in ((0, 0), (1, 3)):
        outputs = [OutputCounts(where=where, errors={"looped": lost}) for where in ("a", "b")]
        counted = rule(outputs=outputs, dropped={"looped": lost})
        told += look(watch, now, Stats(rules={"a": counted}))
    assert told == ["a loses packets: 9 looped"]


def test_a_restart_is_told_and_what_it_changed() -> None:
    watch = Watch()
    assert watch.gone(0, "no mcrd") == []
    assert look(watch, 1, Stats(rules={"a": rule(), "b": rule(dropped={"looped": 5})})) == []
    assert [each.text for each in watch.gone(2, "no mcrd")] == ["no mcrd"]
    assert watch.gone(3, "no mcrd") == []
    told = look(watch, 4, Stats(rules={"b": rule(dropped={"looped": 9}), "c": rule()}), pid=2)
    assert told == ["mcrd 2 has started, pid 2", "c is new: active", "a is gone"]
    watch.gone(5, "no mcrd")
    assert look(watch, 6, Stats(rules={"b": rule(), "c": rule()}), pid=2) == ["mcrd answers again"]
    # A container has the same number for each.
    told = look(watch, 7, Stats(rules={"b": rule(), "c": rule()}), pid=2, up=1)
    assert told == ["mcrd 2 has started, pid 2"]


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


def test_a_token_that_is_no_text_is_not_the_token() -> None:
    for shown in ("\udcff", "\ud800", "é"):
        assert not Access("a" * 20).is_token(shown)


def test_a_proxy_of_ipv4_comes_by_a_socket_of_ipv6() -> None:
    behind = Access(proxy_header="X-User")
    behind.check("::ffff:127.0.0.1", {"X-User": "ann", "Host": "localhost"}, None)
    with pytest.raises(RefusedError):
        behind.check("::ffff:127.0.0.2", {"X-User": "ann", "Host": "localhost"}, None)
