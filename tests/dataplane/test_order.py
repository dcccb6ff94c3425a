"""In what order order.c lets datagrams leave, beside a second implementation, on random streams."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from cffi import FFI
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.libraries import build_library

WINDOW, BEFORE, LATE_IN_A_ROW = 16384, 4096, 64
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


class Oracle:
    """The same, with numbers that neither wrap nor are found by their bits: slow and plain."""

    def __init__(self, delay: int, bits: int) -> None:
        self._delay, self._modulus = delay, 1 << bits
        self._window = min(WINDOW, self._modulus // 2)
        self._stream: int | None = None
        self._due = self._known = self._late = 0
        self._fate: dict[int, bool] = {}  # of numbers before the one that is due: was it sent?
        self._waits: dict[int, tuple[int, int]] = {}  # by the number: the name, and when it came

    def give(self, number: int, name: int, now: int, stream: int = 7) -> list[int]:
        number = self._near(number % self._modulus)
        if stream == self._stream:
            if self._due <= number < self._due + self._window and number not in self._waits:
                self._late = 0
                self._waits[number] = name, now
                return self._ready() if number == self._due else []
            known = self._due - self._known <= number < self._due
            if known and not self._fate.get(number, False) and self._late + 1 < LATE_IN_A_ROW:
                self._late += 1
                return [LATE]
        left = [self._waits[each][0] for each in sorted(self._waits)]
        self._stream, self._due, self._late = stream, number + 1, 0
        self._known = min(BEFORE, self._window // 4) + 1
        self._waits, self._fate = {}, {number: True}
        return [*left, name]

    def expire(self, now: int) -> list[int]:
        left: list[int] = []
        while over := [n for n, (_, since) in self._waits.items() if now - since >= self._delay]:
            last = max(over)
            while self._waits and min(self._waits) <= last:
                self._go(min(self._waits) - self._due)
                left += self._ready()
        return left

    def _near(self, number: int) -> int:
        """The number with that remainder which is from half a turn before the due one on."""
        half: int = self._modulus // 2
        ahead = (number - self._due) % self._modulus
        return self._due + (ahead if ahead < half else ahead - self._modulus)

    def _go(self, numbers: int) -> None:
        self._due += numbers
        self._known = min(self._known + numbers, self._window)

    def _ready(self) -> list[int]:
        left = []
        while self._due in self._waits:
            left.append(self._waits.pop(self._due)[0])
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
    assert order.give(0, 6001, 6001) == [6000, 6001]  # far away: at once, and what waits before it
    assert order.give(1, 6002, 6002) == [6002]
    assert order.give(0, 6003, 6003) == [6003]  # a number that was used
    assert order.give(1, 6004, 6004, stream=8) == [6004]
    assert left == list(range(6000))


def test_a_restart_just_before_the_beginning(library: tuple[FFI, Any]) -> None:
    order = Order(library, 50, 16)
    left = [name for n in range(200) for name in order.give(1000 + n, n, n)]
    left += [name for n in range(200) for name in order.give(500 + n, 200 + n, 200 + n)]
    late = [LATE] * (LATE_IN_A_ROW - 1)
    assert left == [*range(200), *late, *range(200 + len(late), 400)]


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
