"""What flowed before: the last ten minutes by the second, and the last day by the minute.

A column has numbers of all rules. They are kept as logarithms, exact to 0.3 %, and counts below
360 as they are. Written is how far they are from those of a column before, which is little of most
streams, and that is compressed. A rule has a place in all columns, and keeps it while it is away;
who gets it after another rule knows from which column on it is its own.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import math
import sys
import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

SECONDS, MINUTES = 600, 1440  # columns
RULES_MOST = 20_000  # that are remembered
ROOM_OF_SECONDS, ROOM_OF_MINUTES = 13_000_000, 27_000_000  # bytes
ANEW = 60  # columns that are written by how far they are from one
BACK = 5  # seconds; the past moves with a clock that was set back by more
AT_ONCE = 256  # places that columns get: for each new number of places, a whole base is kept
_STEPS = 256  # for a factor of 2
_ROWS = 3  # packets, bits and peaks, each of all rules
_NEAR = 128  # what is less by this or by fewer has the same higher byte as what is more


Flows = Mapping[str, Sequence[float]]
"""By the names of rules, as counters.rates()."""


class Series(Struct):
    """Points of a rule's past: each at a time, in seconds from the epoch. `bits` are bit/s."""

    at: list[int]
    packets: list[float]
    bits: list[float]
    peak: list[float]
    """The most packets in 10 ms: of that second, or of that minute."""


class _Column(NamedTuple):
    at: int
    base: array[int]
    """What it is written by, with as many numbers."""
    numbers: bytes
    """The higher bytes of all, then the lower ones; compressed."""


class _Place(NamedTuple):
    at: int
    since: int


class _Columns:
    """The last so many columns, as far as there is room."""

    def __init__(self, most: int, room: int) -> None:
        self.kept: deque[_Column] = deque()
        self.last = 0
        self._most, self._room = most, room
        self._size = 0
        self._base: array[int] = array("H")
        self._of_base = 0

    def add(self, at: int, numbers: array[int]) -> None:
        if len(numbers) != len(self._base) or self._of_base == ANEW:
            self._base, self._of_base = numbers, 0
        self._of_base += 1
        self._keep(_Column(at, self._base, _written(numbers, self._base)))
        self.last = at
        while len(self.kept) > self._most or self._size > self._room:
            self._forget()

    def _keep(self, column: _Column) -> None:
        self._size += len(column.numbers)
        if not self.kept or self.kept[-1].base is not column.base:
            self._size += _bytes(column.base)
        self.kept.append(column)

    def _forget(self) -> None:
        column = self.kept.popleft()
        self._size -= len(column.numbers)
        if not self.kept or self.kept[0].base is not column.base:
            self._size -= _bytes(column.base)

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
        self._size = 0  # places that rules have, or had
        self._seconds = _Columns(SECONDS, ROOM_OF_SECONDS)
        self._minutes = _Columns(MINUTES, ROOM_OF_MINUTES)

    def add(self, now: int, flows: Flows) -> None:
        """Keep what flows now; of each second, what came first."""
        if now < self._seconds.last - BACK:
            self._move(now - 1 - self._seconds.last)
        if now <= self._seconds.last:
            return
        self._arrange(now, flows)
        some = [(self._places[n].at, f) for n, f in flows.items() if f and n in self._places]
        self._seconds.add(now, self._column((i, f[0], f[1], f[2]) for i, f in some))
        if now - self._minutes.last >= 60:
            self._minutes.add(now, self._column((i, f[3], f[4], f[5]) for i, f in some))

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

    def _arrange(self, now: int, flows: Flows) -> None:
        for name in self._places.keys() - self._gone.keys() - flows.keys():
            self._gone[name] = self._seconds.last
        for name in self._gone.keys() & flows.keys():
            del self._gone[name]
        for name in flows:
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

    def _column(self, rates: Iterable[tuple[int, float, float, float]]) -> array[int]:
        """Packets; below them the factors to bits and to peaks, which change less."""
        below = -(-self._size // AT_ONCE) * AT_ONCE
        last = 2 * below
        numbers = array("H", bytes(2 * _ROWS * below))
        for at, packets, size, peak in rates:
            numbers[at] = packed = pack(packets)
            numbers[below + at] = (pack(8 * size) - packed) & 0xFFFF
            numbers[last + at] = (pack(peak) - packed) & 0xFFFF
        return numbers


def series(past: Past) -> tuple[Series, Series]:
    """The last minutes by the second, and the last day by the minute. Takes a moment."""
    return _series(past.seconds, past.place), _series(past.minutes, past.place)


def _series(columns: Iterable[_Column], place: _Place) -> Series:
    found = Series([], [], [], [])
    for at, base, compressed in columns:
        if at >= place.since:
            written, length = zlib.decompress(compressed), len(base)
            packets, bits, peak = (
                base[i] + (written[i] << 8 | written[length + i]) - _NEAR
                for i in range(place.at, length, length // _ROWS)
            )
            found.at.append(at)
            found.packets.append(unpack(packets))
            found.bits.append(unpack(packets + bits))
            found.peak.append(unpack(packets + peak))
    return found


def _bytes(numbers: array[int]) -> int:
    return len(numbers) * numbers.itemsize


def _written(numbers: array[int], base: array[int]) -> bytes:
    """Most higher bytes are 0, and lower ones are noise: runs are all that can be found."""
    apart = array("H", [(n - b + _NEAR) & 0xFFFF for n, b in zip(numbers, base, strict=True)])
    if sys.byteorder == "big":
        apart.byteswap()
    whole = apart.tobytes()
    compress = zlib.compressobj(strategy=zlib.Z_RLE)
    return compress.compress(whole[1::2] + whole[::2]) + compress.flush()


def pack(number: float) -> int:
    """Its logarithm, in 16 bits."""
    return min(65535, round(_STEPS * math.log2(1 + number)))


def unpack(packed: int) -> float:
    """A number that is packed so: a whole one, if there is one. What is beyond 16 bits is lost."""
    packed &= 0xFFFF
    number = 2 ** (packed / _STEPS) - 1
    whole = float(round(number))
    return whole if pack(whole) == packed else round(number, 3)
