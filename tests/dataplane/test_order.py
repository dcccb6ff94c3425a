"""In what order order.c lets datagrams leave, beside a second implementation, on random streams."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cffi import FFI
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.libraries import build_library

WINDOW, BEFORE, LATE_IN_A_ROW, NEAR = 16384, 4096, 64, 32
LATE = -1
ROOM = 70_000  # more than what may leave at once


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FFI, Any]]:
    parts = ("order.c", "waiting.c")
    made = build_library(tmp_path_factory.mktemp("reorder"), "reorder", parts, "-O2")
    ffi = FFI()
    ffi.cdef(
        """
        struct reorder *reorder_new(uint64_t delay);
        void reorder_free(struct reorder *reorder);
        uint32_t reorder_expire(struct reorder *reorder, uint64_t now, int64_t *left);
        uint32_t reorder_give(struct reorder *reorder, uint64_t stream, uint64_t number,
                              uint32_t span, uint8_t bits, int64_t name, uint32_t length,
                              uint64_t now, int64_t *left);
        uint32_t reorder_held(const struct reorder *reorder);
        """
    )
    library = ffi.dlopen(str(made))
    yield ffi, library
    ffi.dlclose(library)


class Order:
    """What the C code makes of it."""

    def __init__(self, library: tuple[FFI, Any], delay: int, bits: int) -> None:
        ffi, self._lib = library
        self._made = ffi.gc(self._lib.reorder_new(delay), self._lib.reorder_free)
        self._left = ffi.new("int64_t[]", ROOM)
        self._bits = bits

    def give(
        self, number: int, name: int, now: int, stream: int = 7, span: int = 1, length: int = 8
    ) -> list[int]:
        """What leaves as it comes."""
        where = (stream, number % 2**self._bits, span, self._bits)
        found = self._lib.reorder_give(self._made, *where, name, length, now, self._left)
        return list(self._left[0:found])

    def expire(self, now: int) -> list[int]:
        """What leaves as time goes by."""
        return list(self._left[0 : self._lib.reorder_expire(self._made, now, self._left)])

    @property
    def held(self) -> int:
        return int(self._lib.reorder_held(self._made))


@dataclass
class Waits:
    """One that waits for what is due before it."""

    name: int
    since: int


class Oracle:
    """The same, with numbers that neither wrap nor are found by their bits: slow and plain."""

    def __init__(self, delay: int, bits: int) -> None:
        self._delay, self._modulus = delay, 1 << bits
        self._window = min(WINDOW, self._modulus // 2)
        self._stream: int | None = None
        self._due = self._known = self._late = self._first = self._began = 0
        self._in_turn = False
        self._stray: tuple[int, int] | None = None  # its stream, and the number after it
        self._fate: dict[int, bool] = {}  # of numbers before the one that is due: was it sent?
        self._waits: dict[int, Waits] = {}  # by the number

    def give(self, number: int, name: int, now: int, stream: int = 7) -> list[int]:
        if self._stream is None:
            return self._anew(number % self._modulus, name, now, stream)
        number = self._near(number % self._modulus)
        ahead = number - self._due
        if stream != self._stream or number in self._waits or self._fate.get(number, False):
            return self._doubt(number, name, now, stream)
        if 0 <= ahead < self._window:
            if ahead >= NEAR and self._follows_stray(number, stream):
                return self._anew_after_stray(number, name, now, stream)
            self._late = 0
            if ahead < NEAR:
                self._stray = None
                self._in_turn = self._in_turn or ahead == 0
            self._waits[number] = Waits(name, now)
            return self._ready() if ahead == 0 else []
        if not -self._known <= ahead < 0:
            return self._doubt(number, name, now, stream)
        if number < self._first and now - self._began < self._delay:
            self._fate[number] = True
            return [name]
        self._late += 1
        return [LATE] if self._late < LATE_IN_A_ROW else self._anew(number, name, now, stream)

    def expire(self, now: int) -> list[int]:
        left: list[int] = []
        while over := [n for n, it in self._waits.items() if now - it.since >= self._delay]:
            first = min(over, key=lambda n: (self._waits[n].since, self._waits[n].name))
            lowest = min(self._waits)
            if self._is_stray(first):
                self._stray = self._stream or 0, first + 1
                self._in_turn = False
                left.append(self._waits.pop(first).name)
            elif self._is_stray(lowest):
                self._in_turn = False
                left.append(self._waits.pop(lowest).name)
            else:
                self._in_turn = False
                self._go(lowest - self._due)
                left += self._ready()
        return left

    def _is_stray(self, number: int) -> bool:
        near = range(number - NEAR, number + NEAR + 1)
        others = self._waits.keys() - {number}
        return self._in_turn and number - self._due >= NEAR and not others & set(near)

    def _follows_stray(self, number: int, stream: int) -> bool:
        if self._stray is None or self._stray[0] != stream:
            return False
        ahead = (number - self._stray[1] + NEAR) % self._modulus
        return ahead <= 2 * NEAR

    def _doubt(self, number: int, name: int, now: int, stream: int) -> list[int]:
        if self._follows_stray(number, stream):
            return self._anew_after_stray(number, name, now, stream)
        self._stray = stream, number + 1
        return [name]

    def _flush(self) -> list[int]:
        left = [self._waits[each].name for each in sorted(self._waits)]
        self._waits = {}
        return left

    def _anew(self, number: int, name: int, now: int, stream: int) -> list[int]:
        left = self._flush()
        self._stream, self._due = stream, number + 1
        self._first, self._began = number, now
        self._late, self._in_turn, self._stray = 0, False, None
        self._known = min(BEFORE, self._window // 4) + 1
        self._fate = {number: True}
        return [*left, name]

    def _anew_after_stray(self, number: int, name: int, now: int, stream: int) -> list[int]:
        assert self._stray is not None
        left = self._anew((self._stray[1] - 1) % self._modulus, 0, now, stream)[:-1]
        self._in_turn = False
        return left + self.give(number, name, now, stream)

    def _near(self, number: int) -> int:
        """The number with that remainder which is from half a turn before the due one on."""
        half: int = self._modulus // 2
        ahead = (number - self._due) % self._modulus
        return self._due + (ahead if ahead < half else ahead - self._modulus)

    def _go(self, numbers: int) -> None:
        self._due += numbers
        self._known = min(self._known + numbers, self._window)

    def _ready(self) -> list[int]:
        left: list[int] = []
        while self._due in self._waits:
            self._in_turn = self._in_turn or bool(left)
            left.append(self._waits.pop(self._due).name)
            self._fate[self._due] = True
            self._go(1)
        return left


@given(
    seed=st.integers(0, 2**32),
    bits=st.sampled_from((8, 16, 24, 32, 64)),
    delay=st.sampled_from((1, 5, 50, 400)),
    wild=st.sampled_from((0.0, 0.001, 0.02)),
)
@settings(max_examples=150, deadline=None)
def test_random_streams(
    library: tuple[FFI, Any], seed: int, bits: int, delay: int, wild: float
) -> None:
    chance = random.Random(seed)
    order, oracle = Order(library, delay, bits), Oracle(delay, bits)
    number, stream, coming = chance.randrange(2**bits), 7, 0
    jitter = chance.choice((0, 3, 40, 200))
    later: list[tuple[int, int, int]] = []
    left: list[int] = []
    for now in range(1500):
        if chance.random() < wild:
            number = chance.choice((chance.randrange(2**bits), number - 5, number + 20000))
            stream = chance.choice((7, 7, 8))
        if chance.random() > 0.05:
            later.append((now + chance.randrange(jitter + 1), number, stream))
        number += 1
        for item in sorted(one for one in later if one[0] == now):
            later.remove(item)
            found = order.give(item[1], coming, now, item[2])
            assert found == oracle.give(item[1], coming, now, item[2])
            left += found
            coming += 1
        if chance.random() < 0.7:
            found = order.expire(now)
            assert found == oracle.expire(now)
            left += found
    found = order.expire(10**6)
    assert found == oracle.expire(10**6)
    left += found
    assert order.held == 0
    assert sorted(each for each in left if each != LATE) == sorted(set(left) - {LATE})
    assert len(left) == coming


@pytest.mark.parametrize("bits", [16, 24, 32, 64])
def test_in_order_where_the_delay_is_long_enough(library: tuple[FFI, Any], bits: int) -> None:
    chance, order, first = random.Random(bits), Order(library, 60, bits), 2**bits - 3000
    lost = {n for n in range(1, 6000) if chance.random() < 0.05}
    coming = sorted((n + chance.randrange(50), n) for n in range(1, 6000) if n not in lost)
    left = order.give(first, 0, 0)
    for now, number in coming:
        left += order.expire(now) + order.give(first + number, number, now)
    left += order.expire(10**6)
    assert left == [n for n in range(6000) if n not in lost]


def test_numbers_that_begin_anew(library: tuple[FFI, Any]) -> None:
    order = Order(library, 50, 32)
    left = [name for n in range(6000) for name in order.give(900_000 + n, n, n)]
    assert order.give(906_003, 6000, 6000) == []
    assert order.give(0, 6001, 6001) == [6001]  # far away: at once
    assert order.give(1, 6002, 6002) == [6000, 6002]  # so it was no stray
    assert order.give(0, 6003, 6003) == [6003]  # a number that was used
    assert order.give(2, 6004, 6004) == [6004]
    assert order.give(1, 6005, 6005, stream=8) == [6005]
    assert order.give(3, 6006, 6006, stream=8) == []
    assert order.give(2, 6007, 6007, stream=8) == [6007, 6006]
    assert left == list(range(6000))


def test_a_restart_just_before_the_beginning(library: tuple[FFI, Any]) -> None:
    order = Order(library, 50, 16)
    left = [name for n in range(200) for name in order.give(1000 + n, n, n)]
    left += [name for n in range(200) for name in order.give(500 + n, 200 + n, 200 + n)]
    late = [LATE] * (LATE_IN_A_ROW - 1)
    assert left == [*range(200), *late, *range(200 + len(late), 400)]


@pytest.mark.parametrize("far", [40, 3000, 16_000, 30_000, -10, -3000, -5000])
@pytest.mark.parametrize("stream", [7, 8])
@pytest.mark.parametrize("step", [1, 100])
def test_a_stray_makes_nothing_late(
    library: tuple[FFI, Any], far: int, stream: int, step: int
) -> None:
    """Neither does it hold anything up, whether numbers come quickly or after the delay."""
    order, left, count = Order(library, 50, 32), list[int](), 6000
    for n in range(count):
        left += order.expire(n * step) + order.give(10**6 + n, n, n * step)
        if n in (1000, 2500):
            left += order.give(10**6 + n + far, count + n, n * step, stream=stream)
        assert order.held <= 1
    left += order.expire(10**9)
    assert len(left) == count + 2  # a stray that is just before the others is late itself
    assert [n for n in left if 0 <= n < count] == list(range(count))


@pytest.mark.parametrize("step", [2, 33, 40, 100, 1316])
def test_numbers_that_count_by_more_than_one(library: tuple[FFI, Any], step: int) -> None:
    """They wait for what never comes, and leave in order all the same."""
    order, left = Order(library, 50, 32), list[int]()
    for n in range(2000):
        swapped = n ^ 1
        left += order.expire(n * 10) + order.give(step * swapped, swapped, n * 10)
    left += order.expire(10**9)
    assert left[2:] == list(range(2, 2000))


def test_what_is_before_the_first_one_was_not_waited_for(library: tuple[FFI, Any]) -> None:
    """It leaves at once, once, until `delay` is over."""
    order = Order(library, 50, 16)
    assert order.give(100, 0, 0) == [0]
    assert order.give(90, 1, 10) == [1]
    assert order.give(101, 2, 20) == [2]
    assert order.give(91, 3, 49) == [3]
    assert order.give(92, 4, 50) == [LATE]
    assert order.give(102, 5, 60) == [5]


def test_spans_of_numbers(library: tuple[FFI, Any]) -> None:
    order = Order(library, 50, 64)
    assert order.give(100, 0, 0, span=5) == [0]
    assert order.give(110, 2, 1, span=5) == []
    assert order.give(112, 3, 2, span=10) == []  # overlaps the one before
    assert order.give(105, 1, 3, span=5) == [1, 2]
    assert order.give(115, 4, 4, span=2) == [4]
    assert order.expire(60) == [3]
    assert order.held == 0


def test_no_more_waits_than_there_is_room_for(library: tuple[FFI, Any]) -> None:
    order, length = Order(library, 10**6, 32), 1400
    left = order.give(0, 0, 0)
    for n in range(2, 20_000):
        left += order.give(n, n, n, length=length)
        assert order.held * length <= 8 << 20
    left += order.expire(10**7)
    assert left == [0, *range(2, 20_000)]
