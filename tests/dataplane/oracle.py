"""A second implementation of what src/inspect.c counts, from the same documents, in another way.

It keeps sets of numbers that never wrap, where the C code keeps bits and wraps.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SECOND = 10**9
WINDOW, NEAR, FAR = 512, 3000, 1 << 20
MOLD_NEAR = 100_000


class Sequence:
    """Numbers of so many bits, as RFC 3550, A.1 treats those of RTP, with a window."""

    def __init__(self, bits: int, counts: Counter[str]) -> None:
        self.size, self.counts = 1 << bits, counts
        half = self.size // 2
        self.window, self.near = min(WINDOW, half // 2), min(NEAR, half // 2 - 1)
        self.far = min(FAR, half - 1)
        self.highest: int | None = None  # that never wraps, as all below
        self.missing: set[int] = set()
        self.given_up: set[int] = set()
        self.arrived: set[int] = set()
        self.gap_time = 0
        self.stray: int | None = None  # as it came

    def note(self, number: int, now: int) -> None:
        if self.highest is None:
            self.highest = number + self.size
            return
        if self.missing and now - self.gap_time > SECOND:
            self._lose(self.missing)
        forward = (number - self.highest) % self.size
        backward = (self.highest - number) % self.size
        if not 1 <= forward <= self.near + 1 and not backward < self.window:
            self._far(number, now)
            return
        if self.stray is not None:
            self.counts["stray"] += 1
            self.stray = None
        if 1 <= forward <= self.near + 1:
            self._advance(forward, now)
            return
        which = self.highest - backward
        if which in self.missing:
            self.missing.discard(which)
            self.counts["reordered"] += 1
        else:
            self.counts["repeated"] += 1

    def _advance(self, forward: int, now: int) -> None:
        assert self.highest is not None
        between = range(self.highest + 1, self.highest + forward)
        self.highest += forward
        edge = self.highest - self.window
        self._lose({which for which in self.missing if which <= edge})
        self.missing.update(between)
        if between:
            self._gap(len(between))
            self.gap_time = now
        self._lose({which for which in self.missing if which <= edge})

    def _far(self, number: int, now: int) -> None:
        assert self.highest is not None
        if self.stray is not None:
            if number == self.stray:
                self.counts["repeated"] += 1
                return
            step = (number - self.stray) % self.size
            if step <= self.near:
                between = (self.stray - self.highest) % self.size - 1
                if between <= self.far:
                    self._gap(between)
                    self.counts["lost"] += between
                else:
                    self.counts["resets"] += 1
                self._lose(self.missing)
                self.highest = self.stray + self.size
                self.stray = None
                self._advance(step, now)
                return
            self.counts["stray"] += 1
        self.stray = number

    def _gap(self, length: int) -> None:
        self.counts["gaps"] += 1
        self.counts["longest_gap"] = max(self.counts["longest_gap"], length)

    def _lose(self, numbers: set[int]) -> None:
        self.counts["lost"] += len(numbers)
        self.missing = self.missing - numbers


@dataclass
class Rtp:
    """One flow of RTP with one SSRC and a clock of 90 kHz."""

    counts: Counter[str]
    jitter: float = 0.0
    most: float = 0.0
    before: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.sequence = Sequence(16, self.counts)

    def note(self, sequence: int, timestamp: int, now: int) -> None:
        if self.before is not None:
            ticks = (timestamp - self.before[0] + 2**31) % 2**32 - 2**31
            took = now - self.before[1]
            if abs(took) <= 10 * SECOND and abs(ticks) <= 2_000_000:
                self.jitter += (abs(took - ticks * SECOND / 90_000) - self.jitter) / 16
                self.most = max(self.most, self.jitter)
        self.before = timestamp, now
        self.sequence.note(sequence, now)


@dataclass
class Ts:
    """Continuity counters, ISO/IEC 13818-1, 2.4.3.3."""

    counts: Counter[str]
    last: dict[int, int] = field(default_factory=dict)
    twice: set[int] = field(default_factory=set)
    by_pid: Counter[int] = field(default_factory=Counter)

    def note(self, packet: bytes) -> None:
        if packet[0] != 0x47:
            self.counts["sync"] += 1
            return
        self.counts["ts_packets"] += 1
        header = int.from_bytes(packet[:4])
        pid, control, counter = header >> 8 & 0x1FFF, header >> 4 & 3, header & 15
        if header >> 23 & 1:
            self.counts["transport"] += 1
        elif pid != 0x1FFF and control != 0:
            indicated = control >= 2 and packet[4] > 0 and packet[5] >= 0x80
            self._counter(pid, control % 2 == 1, counter, indicated)

    def _counter(self, pid: int, payload: bool, counter: int, indicated: bool) -> None:
        last, twice = self.last.get(pid), pid in self.twice
        self.last[pid] = counter
        self.twice.discard(pid)
        if last is None or indicated:
            return
        step = (counter - last) % 16
        if step == payload:
            return
        if payload and step == 0 and not twice:
            self.twice.add(pid)
            self.counts["duplicates"] += 1
            return
        self.counts["continuity"] += 1
        self.by_pid[pid] += 1


@dataclass
class Mold:
    """Messages of MoldUDP64 1.00, one by one; fewer gaps at a time than the C code has room for."""

    counts: Counter[str]
    session: bytes | None = None
    expected: int = 0
    missing: set[int] = field(default_factory=set)
    gap_time: int = 0

    def note(self, session: bytes, first: int, messages: int, now: int) -> None:
        heartbeat = messages in (0, 0xFFFF)
        numbers = range(first, first if heartbeat else first + messages)
        self.counts["messages"] += len(numbers)
        if session != self.session:
            if self.session is None:
                self.expected = first
            else:
                self.counts["changes"] += 1
                self._give_up()
                self.expected = 1
            self.session = session
        if self.missing and now - self.gap_time > SECOND:
            self._give_up()
        if first > self.expected:
            self.missing.update(range(self.expected, first))
            self.counts["gaps"] += 1
            self.counts["longest_gap"] = max(self.counts["longest_gap"], first - self.expected)
            self.gap_time = now
            self.expected = first
        late = self.missing & set(numbers)
        self.missing -= late
        if late:
            self.counts["reordered"] += 1
        elif numbers and numbers.stop <= self.expected:
            self.counts["repeated"] += 1
        self.expected = max(self.expected, numbers.stop)

    def _give_up(self) -> None:
        self.counts["lost"] += len(self.missing)
        self.missing.clear()
