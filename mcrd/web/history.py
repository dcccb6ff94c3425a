"""What flowed before: the last ten minutes by the second, and the last day by the minute.

A column has a number of each rule, in 16 bits, and is compressed. Numbers are kept as logarithms,
exact to 0.05 %. A rule has a place in all columns, and keeps it while it is away; who gets it after
another rule knows from which column on it is its own. With thousands of rules whose rates all
differ, the day is shorter.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import math
import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec import Struct

from mcrd.counters import RuleCounts

SECONDS, MINUTES = 600, 1440  # columns
RULES_MOST = 20_000  # that are remembered
ROOM = 24_000_000  # bytes for the columns of seconds, and as many for those of minutes
BACK = 5  # seconds; the past moves with a clock that was set back by more
_STEPS = 1500  # for a factor of 2


class Series(Struct):
    """Points of a rule's past: each at a time, in seconds from the epoch. `bits` are bit/s."""

    at: list[int]
    packets: list[float]
    bits: list[float]
    peak: list[float]
    """The most packets in 10 ms: of that second, or of that minute."""


class _Column(NamedTuple):
    at: int
    numbers: bytes
    """Packets of all rules, then bits, then peaks; compressed."""


class _Place(NamedTuple):
    at: int
    since: int


class _Columns:
    """The last so many columns, as far as there is room."""

    def __init__(self, most: int) -> None:
        self.kept: deque[_Column] = deque()
        self.last = 0
        self._most = most
        self._size = 0

    def add(self, column: _Column) -> None:
        self.kept.append(column)
        self.last = column.at
        self._size += len(column.numbers)
        while len(self.kept) > self._most or self._size > ROOM:
            self._size -= len(self.kept.popleft().numbers)

    def move(self, by: int) -> None:
        """As if the clock had been right: by so many seconds."""
        self.kept = deque(column._replace(at=column.at + by) for column in self.kept)
        self.last += by


class Past(NamedTuple):
    """Columns with the place of a rule."""

    seconds: tuple[_Column, ...]
    minutes: tuple[_Column, ...]
    place: _Place


class History:
    """Columns of all rules, in bounded memory."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._gone: dict[str, int] = {}  # when each was seen last; the longest ago is first
        self._size = 0  # places that columns have
        self._seconds = _Columns(SECONDS)
        self._minutes = _Columns(MINUTES)

    def add(self, now: int, rules: Mapping[str, RuleCounts]) -> None:
        """Keep what these rules count now; of each second, what came first."""
        if now < self._seconds.last - BACK:
            self._move(now - 1 - self._seconds.last)
        if now <= self._seconds.last:
            return
        self._arrange(now, rules)
        rates = [(self._places[n].at, r.rate) for n, r in rules.items() if n in self._places]
        self._seconds.add(
            self._column(
                now,
                ((i, rate.second.packets) for i, rate in rates),
                ((i, 8 * rate.second.bytes) for i, rate in rates),
                ((i, rate.peak.second) for i, rate in rates),
            )
        )
        if now - self._minutes.last >= 60:
            self._minutes.add(
                self._column(
                    now,
                    ((i, rate.minute.packets) for i, rate in rates),
                    ((i, 8 * rate.minute.bytes) for i, rate in rates),
                    ((i, rate.peak.minute) for i, rate in rates),
                )
            )

    def of(self, name: str) -> Past | None:
        """What is kept of a rule, for series(); None: it is not remembered."""
        place = self._places.get(name)
        if place is None:
            return None
        return Past(tuple(self._seconds.kept), tuple(self._minutes.kept), place)

    def _move(self, by: int) -> None:
        self._seconds.move(by)
        self._minutes.move(by)
        self._places = {n: _Place(at, since + by) for n, (at, since) in self._places.items()}
        self._gone = {name: at + by for name, at in self._gone.items()}

    def _arrange(self, now: int, rules: Mapping[str, RuleCounts]) -> None:
        for name in self._places.keys() - self._gone.keys() - rules.keys():
            self._gone[name] = self._seconds.last
        for name in self._gone.keys() & rules.keys():
            del self._gone[name]
        for name in rules:
            if name not in self._places and (at := self._free_place()) is not None:
                self._places[name] = _Place(at, now)

    def _free_place(self) -> int | None:
        """That of a rule of which nothing is kept, or a new one, or of what is away for longest."""
        oldest = next(iter(self._gone), None)
        kept = [columns.kept[0].at for columns in (self._seconds, self._minutes) if columns.kept]
        if oldest is not None and (self._size >= RULES_MOST or self._gone[oldest] < min(kept)):
            del self._gone[oldest]
            return self._places.pop(oldest).at
        if self._size >= RULES_MOST:
            return None
        self._size += 1
        return self._size - 1

    def _column(self, now: int, *of_rules: Iterable[tuple[int, float]]) -> _Column:
        whole = bytearray()
        for pairs in of_rules:
            numbers = array("H", bytes(2 * self._size))
            for index, number in pairs:
                if number:
                    numbers[index] = pack(number)
            whole += numbers.tobytes()
        return _Column(now, zlib.compress(whole, 1))


def series(past: Past) -> tuple[Series, Series]:
    """The last minutes by the second, and the last day by the minute. Takes a tenth of a second."""
    return _series(past.seconds, past.place), _series(past.minutes, past.place)


def _series(columns: Iterable[_Column], place: _Place) -> Series:
    found = Series([], [], [], [])
    for at, compressed in columns:
        if at >= place.since:
            numbers = array("H", zlib.decompress(compressed))
            size = len(numbers) // 3
            found.at.append(at)
            found.packets.append(unpack(numbers[place.at]))
            found.bits.append(unpack(numbers[size + place.at]))
            found.peak.append(unpack(numbers[2 * size + place.at]))
    return found


def pack(number: float) -> int:
    """Its logarithm, in 16 bits: up to 2 to the power of 43."""
    return min(65535, round(_STEPS * math.log2(1 + number)))


def unpack(packed: int) -> float:
    """The number that was packed, but for 0.05 %."""
    number = 2 ** (packed / _STEPS) - 1
    whole = float(round(number))
    return whole if number > 100 or abs(number - whole) < number / 2000 else round(number, 3)
