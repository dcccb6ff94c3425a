"""How many datagrams lost frames were: by what was taken before and after them."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from mcrd.cli.output import drops
from mcrd.sockets.lost import MOST, Estimate, Taken

ROOM = 100


def test_of_plain_frames_nothing_is_guessed() -> None:
    estimate = Estimate(ROOM)
    for number in range(20):
        assert estimate.more(7, ROOM, Taken(50 * number, 50 * number)) == 0
    assert estimate.end(Taken(1000, 1000)) == 0


def test_lost_frames_are_like_those_that_stood_in_the_ring() -> None:
    estimate = Estimate(ROOM)
    assert estimate.more(0, 0, Taken(5000, 5000)) == 0  # plain, a while ago
    assert estimate.more(30, ROOM, Taken(5000, 5000)) == 0  # nobody takes any: not known yet
    assert estimate.more(10, ROOM, Taken(5000, 5000)) == 0
    assert estimate.more(0, ROOM // 2, Taken(5050, 5000 + 50 * 20)) == 0
    assert estimate.more(0, 0, Taken(5100, 5000 + 100 * 20)) == 40 * 19
    assert estimate.more(0, 0, Taken(5200, 9000)) == 0  # once


def test_what_is_lost_all_the_time_becomes_known_all_the_time() -> None:
    estimate, told = Estimate(ROOM), 0
    for number in range(1, 11):
        told += estimate.more(5, ROOM, Taken(1000 * number, 8000 * number))
    told += estimate.more(0, 0, Taken(12000, 96000))
    assert told == 10 * 5 * 7


def test_a_burst_that_was_over_before_anybody_looked() -> None:
    estimate = Estimate(ROOM)
    estimate.more(0, 0, Taken(1000, 1000))
    assert estimate.more(60, 0, Taken(1000 + ROOM, 1000 + 44 * ROOM)) == 60 * 43


def test_few_frames_make_no_mean_of_their_own() -> None:
    estimate = Estimate(ROOM)
    estimate.more(0, 0, Taken(1000, 4000))
    assert estimate.more(10, 0, Taken(1010, 4013)) == round(10 * (4013 / 1010 - 1))


def test_a_small_ring_has_a_mean_too() -> None:
    estimate = Estimate(60)
    estimate.more(0, 0, Taken(60, 60 * 44))
    assert estimate.more(10, 60, Taken(60, 60 * 44)) == 0
    assert estimate.more(0, 0, Taken(120, 60 * 44 + 60 * 20)) == 10 * 19


def test_nothing_that_a_worker_says_makes_it_less_or_too_much() -> None:
    estimate = Estimate(ROOM)
    assert estimate.more(9, 0, Taken(1, 2**64 - 1)) == 9 * (MOST - 1)
    assert estimate.more(9, 0, Taken(0, 0)) == 0  # other counters than before
    assert estimate.more(9, 0, Taken(2**63, 0)) == 0
    assert estimate.more(9, -5, Taken(3, 2**64 - 1)) == 0
    assert estimate.end(Taken(4, 0)) == 0


def test_people_are_told_what_is_counted_and_what_is_not() -> None:
    assert drops({"ring_full": 0, "malformed": 2}) == "2 malformed"
    dropped = {"ring_full": 440, "discarded": 3, "malformed": 2}
    told = "about 440 ring_full (10 frames), 3 discarded, 2 malformed"
    assert drops(dropped, {"ring_full": 10, "discarded": 3}) == told
    assert drops({}) == "none"
