"""What mcrd-web is made of, without a process: the past, what happened, and who has access."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcrd.answers import Members, Status
from mcrd.counters import OutputCounts, RuleCounts, Stats, rates
from mcrd.web import history as module
from mcrd.web.access import Access, RefusedError
from mcrd.web.happenings import AT_ONCE, QUIET, Watch
from mcrd.web.history import ANEW, MINUTES, SECONDS, History, pack, series, unpack
from mcrd.web.known import Counted, Known
from tests.web.serving import rule


@given(st.floats(0, 1e12))
@example(99.7)
@example(100.5)
@example(7.012)
def test_a_number_is_kept_to_some_thousandths(number: float) -> None:
    assert abs(unpack(pack(number)) - number) < 0.0028 * (1 + number)


def test_each_number_that_is_kept_stays_and_small_counts_are_exact() -> None:
    assert [pack(unpack(packed)) for packed in range(65536)] == list(range(65536))
    assert [unpack(pack(count)) for count in range(360)] == list(range(360))


def add(history: History, now: int, rules: dict[str, RuleCounts]) -> None:
    history.add(now, {name: rates(each) for name, each in rules.items()})


def test_the_past_has_an_end() -> None:
    history = History()
    rules = {"a": rule(packets=7)}
    for now in range(60 * (MINUTES + 5)):
        if now % 30 == 0:
            add(history, now, rules)
    past = history.of("a")
    assert past is not None
    seconds, minutes = series(past)
    assert (len(seconds.at), len(minutes.at)) == (SECONDS, MINUTES)
    assert set(minutes.packets) == {7.0}


def test_the_past_of_thousands_has_no_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcrd.web.history.ROOM_OF_SECONDS", 50_000)
    history = History()
    for now in range(1, 40):
        add(history, now, {f"r{n}": rule(packets=random.randrange(10**6)) for n in range(1000)})
    past = history.of("r1")
    assert past is not None
    assert 5 < len(past.seconds) < 25
    assert past.seconds[-1].at == 39


def kept_bytes(history: History, name: str) -> list[int]:
    """Of the seconds, and of the minutes: what is compressed, and what that is written by."""
    past = history.of(name)
    assert past is not None
    return [
        sum(len(column.numbers) for column in columns)
        + sum(2 * len(base) for base in {id(c.base): c.base for c in columns}.values())
        for columns in (past.seconds, past.minutes)
    ]


def test_rules_that_come_and_go_are_as_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcrd.web.history.ROOM_OF_SECONDS", room := 50_000)
    monkeypatch.setattr("mcrd.web.history.ROOM_OF_MINUTES", room)
    history = History()
    steady = {f"steady{n}": [n * k for k in range(6)] for n in range(100)}
    for minute in range(1, 100):
        history.add(60 * minute, steady | {f"new{minute}-{n}": [9.0] * 6 for n in range(20)})
    assert all(room / 2 < size <= room for size in kept_bytes(history, "steady1"))


def test_rates_that_vary_by_a_third_take_little_more_than_two_bytes() -> None:
    """With what they are written by; 2.9 where numbers a little less have other higher bytes."""
    history, chance = History(), random.Random(1)
    usual = [chance.uniform(50, 3000) for _ in range(1000)]
    for second in range(1, ANEW + 1):
        packets = [int(most * chance.uniform(0.75, 1)) for most in usual]
        flows = [
            [n, 1000 * n, int(n / 100 * chance.uniform(1, 1.05)) + 1, 0, 0, 0] for n in packets
        ]
        history.add(second, {f"r{n}": each for n, each in enumerate(flows)})
    assert kept_bytes(history, "r1")[0] < 2.5 * 1000 * ANEW


@pytest.mark.long
def test_a_day_of_rates_by_chance_has_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of 5,000 rules in a tenth of the room: packets, sizes and peaks each by chance."""
    for name in ("ROOM_OF_SECONDS", "ROOM_OF_MINUTES"):
        monkeypatch.setattr(module, name, getattr(module, name) // 10)
    history, chance = History(), random.Random(1)
    flows = [[chance.uniform(0, 1e6) for _ in range(6)] for _ in range(500 + MINUTES)]
    for minute in range(MINUTES):
        history.add(60 * (minute + 1), {f"r{n}": flows[minute + n] for n in range(500)})
    rooms = (module.ROOM_OF_SECONDS, module.ROOM_OF_MINUTES)
    for size, room in zip(kept_bytes(history, "r1"), rooms, strict=True):
        assert 0.9 * room < size <= room


def test_a_rule_does_not_see_the_past_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcrd.web.history.RULES_MOST", 2)
    history = History()
    add(history, 1, {"old": rule(packets=900), "stays": rule(packets=5)})
    add(history, 2, {"stays": rule(packets=6)})
    add(history, 3, {"new": rule(packets=1), "stays": rule(packets=7), "too many": rule()})
    assert history.of("old") is history.of("too many") is None
    assert packets(history, "new") == [1]
    assert packets(history, "stays") == [5, 6, 7]


def packets(history: History, name: str) -> list[float]:
    past = history.of(name)
    assert past is not None
    return series(past)[0].packets


def test_the_past_of_a_rule_that_was_away_is_kept_until_its_columns_have_left() -> None:
    history = History()
    add(history, 60, {"away": rule(packets=9), "stays": rule(packets=5)})
    add(history, 61, {"stays": rule(packets=5)})
    add(history, 62, {})  # as a daemon answers that has not begun
    add(history, 63, {"away": rule(packets=8), "stays": rule(packets=5)})
    assert packets(history, "away") == [9, 0, 0, 8]
    assert packets(history, "stays") == [5, 5, 0, 5]
    assert history.of("away") is not None
    for minute in range(2, MINUTES + 3):
        add(history, 60 * minute, {"stays": rule(packets=5)})
    add(history, 10**6, {"new": rule(packets=3)})
    assert history.of("away") is None
    assert packets(history, "new") == [3]


def test_the_past_moves_with_a_clock_that_was_set_back() -> None:
    history = History()
    for now in (10_000, 10_001, 10_001, 10_000, 10_002, 4000, 4001):
        add(history, now, {"a": rule(packets=now)})
    past = history.of("a")
    assert past is not None
    seconds, minutes = series(past)
    assert seconds.at == [3997, 3998, 3999, 4000, 4001]
    assert seconds.packets == pytest.approx([10_000, 10_001, 10_002, 4000, 4001], rel=0.0014)
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


class Looks:
    """Answers of a daemon, one after another."""

    def __init__(self) -> None:
        self.watch, self.known = Watch(), Known()

    def look(self, now: float, stats: Stats, pid: int = 1, up: float = 9) -> list[str]:
        """What is told of the next one."""
        counted = msgspec.json.decode(msgspec.json.encode(stats), type=Counted)
        change = self.known.take(counted, Members())
        status = Status(version="2", pid=pid, uptime_s=up)
        told = self.watch.look(now, status, stats.workers, change.old, change.new)
        return [each.text for each in told]


def test_losses_are_told_when_they_begin() -> None:
    looks = Looks()
    told = []
    for now, lost in ((0, 0), (1, 3), (2, 5), (3, 9), (3 + 2 * QUIET, 10)):
        told.append(looks.look(now, Stats(rules={"a": rule(dropped={"looped": lost})})))
    assert told == [[], ["a loses packets: 3 looped"], [], [], ["a loses packets: 1 looped"]]


def test_losses_of_several_outputs_by_one_reason_are_told_as_one_number() -> None:
    looks = Looks()
    told: list[str] = []
    for now, lost in ((0, 0), (1, 3)):
        outputs = [OutputCounts(where=where, errors={"looped": lost}) for where in ("a", "b")]
        counted = rule(outputs=outputs, dropped={"looped": lost})
        told += looks.look(now, Stats(rules={"a": counted}))
    assert told == ["a loses packets: 9 looped"]


def test_a_restart_is_told_and_what_it_changed() -> None:
    looks = Looks()
    assert looks.watch.gone(0, "no mcrd") == []
    assert looks.look(1, Stats(rules={"a": rule(), "b": rule(dropped={"looped": 5})})) == []
    assert [each.text for each in looks.watch.gone(2, "no mcrd")] == ["no mcrd"]
    assert looks.watch.gone(3, "no mcrd") == []
    told = looks.look(4, Stats(rules={"b": rule(dropped={"looped": 9}), "c": rule()}), pid=2)
    assert told == ["mcrd 2 has started, pid 2", "c is new: active", "a is gone"]
    looks.watch.gone(5, "no mcrd")
    assert looks.look(6, Stats(rules={"b": rule(), "c": rule()}), pid=2) == ["mcrd answers again"]
    # A container has the same number for each.
    told = looks.look(7, Stats(rules={"b": rule(), "c": rule()}), pid=2, up=1)
    assert told == ["mcrd 2 has started, pid 2"]


def test_a_flood_of_news_is_cut() -> None:
    looks = Looks()
    assert looks.look(0, Stats()) == []
    told = looks.look(1, Stats(rules={f"r{n}": rule() for n in range(1000)}))
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
