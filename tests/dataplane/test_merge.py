"""What merge.c lets pass, beside a second implementation, on random streams."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from cffi import FFI
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.libraries import build_library

PARTS = ("merge.c", "content.c", "guard.c", "moldudp.c", "rtp.c", "sequence.c")
RTP, SEQUENCE, MOLDUDP64, CONTENT = 1, 2, 3, 4  # enum merge_by
LEGS, SECOND = 4, 10**9
WITHIN = 2 * SECOND
BEGIN = 850_000_000 * WITHIN
BEHIND = 15
NAMES = (
    *("received", "first", "second", "repeated", "differs"),
    *("only_here", "lost", "forgotten", "shared", "late"),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FFI, Any]]:
    made = build_library(tmp_path_factory.mktemp("remerge"), "remerge", PARTS, "-O2")
    ffi = FFI()
    ffi.cdef(
        """
        struct remerge *remerge_new(uint8_t by, uint32_t offset, uint8_t bytes);
        void remerge_again(struct remerge *remerge);
        void remerge_with_another_hash(struct remerge *remerge);
        void remerge_free(struct remerge *remerge);
        const uint64_t *remerge_counters(const struct remerge *remerge, uint8_t leg);
        int remerge_give(struct remerge *remerge, uint8_t leg, const uint8_t *data,
                         uint32_t length, uint64_t now);
        """
    )
    library = ffi.dlopen(str(made))
    yield ffi, library
    ffi.dlclose(library)


class Worker:
    """What the C code makes of it."""

    def __init__(self, library: tuple[FFI, Any], by: int, offset: int = 0, size: int = 0) -> None:
        ffi, self.lib = library
        self._made = ffi.gc(self.lib.remerge_new(by, offset, size), self.lib.remerge_free)

    def give(self, leg: int, data: bytes, now: int) -> bool:
        return bool(self.lib.remerge_give(self._made, leg, data, len(data), now))

    def again(self) -> None:
        self.lib.remerge_again(self._made)

    def with_another_hash(self) -> None:
        self.lib.remerge_with_another_hash(self._made)

    def counts(self, leg: int) -> dict[str, int]:
        found = self.lib.remerge_counters(self._made, leg)
        return dict(zip(NAMES, found[0 : len(NAMES)], strict=True))


@dataclass
class Passed:
    """What has passed under one name."""

    content: bytes
    time: int
    said: Counter[int] = field(default_factory=Counter)
    item: list[int] = field(default_factory=list)  # the legs that brought it, in order


class Oracle:
    """The same in other words: everything is remembered, and counted at the end."""

    def __init__(self, name: Any) -> None:
        self._name, self._known = name, dict[Any, Passed]()
        self._items: list[list[int]] = []
        self.counts = [Counter[str]() for _ in range(LEGS)]

    def give(self, leg: int, data: bytes, now: int) -> bool:
        self.counts[leg]["received"] += 1
        name, again = self._name(data), self._name(data) is None
        known = self._known.get(name or data)
        if known is None or now - known.time >= WITHIN:
            behind = known is not None and known.said[leg] < max(known.said.values())
            is_late = behind and not again and known is not None and known.content == data
            self.counts[leg]["late"] += is_late
            known = self._known[name or data] = Passed(data, now)
            return self._passes(known, leg, now)
        most = max(known.said.values())
        if known.said[leg] < most:
            known.said[leg] += 1
            self.counts[leg]["second"] += 1
            self.counts[leg]["differs"] += not again and known.content != data
            if leg not in known.item:
                known.item.append(leg)
            return False
        if again:
            return self._passes(known, leg, now)
        if known.content == data:
            self.counts[leg]["repeated"] += 1
            return False
        known = self._known[name] = Passed(data, now)
        return self._passes(known, leg, now)

    def _passes(self, known: Passed, leg: int, now: int) -> bool:
        known.said[leg] += 1
        for each in range(LEGS):
            known.said[each] = max(known.said[each], known.said[leg] - BEHIND)
        known.time = now
        self._items.append(item := [leg])
        known.item = item
        self.counts[leg]["first"] += 1
        return True

    def settle(self) -> None:
        """No copy follows any more."""
        for item in self._items:
            self.counts[item[0]]["only_here"] += len(item) == 1
            self.counts[item[0]]["shared"] += len(item) > 1
            for leg in range(LEGS):
                self.counts[leg]["lost"] += leg not in item


def rtp(number: int, ssrc: int = 1, content: bytes = b"") -> bytes:
    return struct.pack("!BBHII", 0x80, 96, number & 0xFFFF, number * 90 & 2**32 - 1, ssrc) + content


def rtp_name(data: bytes) -> bytes | None:
    return data[2:12] if len(data) >= 12 and data[0] >> 6 == 2 and data[1] == 96 else None


def number_name(data: bytes) -> bytes | None:
    return data[2:6] if len(data) >= 6 else None


def mold(number: int, messages: int, session: bytes = b"session001") -> bytes:
    return session + struct.pack("!QH", number, messages) + b"\x00\x01a" * messages


def mold_name(data: bytes) -> bytes | None:
    return data[:20] if struct.unpack_from("!H", data, 18)[0] else None


EVENTS = st.lists(
    st.tuples(
        st.integers(0, LEGS - 1),
        st.integers(0, 12),
        st.integers(0, 2),
        st.sampled_from((1000, 10**6, 10**8, 7 * 10**8, WITHIN)),
    ),
    max_size=200,
)
WAYS: dict[str, tuple[int, Any, Any]] = {
    "rtp": (RTP, rtp_name, lambda number, kind: rtp(65530 + number, kind % 2, b"abc"[kind:])),
    "sequence": (
        SEQUENCE,
        number_name,
        lambda number, kind: b"%d-" % kind + struct.pack("<I", number + 2**32 - 6 & 2**32 - 1),
    ),
    "moldudp64": (
        MOLDUDP64,
        mold_name,
        lambda number, kind: mold(number, kind, b"session%03d" % (number % 2)),
    ),
    "content": (CONTENT, lambda _: None, lambda number, kind: bytes((number, kind)) * 40 * kind),
}


@pytest.mark.parametrize("way", list(WAYS))
@given(events=EVENTS)
@settings(max_examples=150, deadline=None)
def test_it_is_as_the_oracle_says(
    library: tuple[FFI, Any], way: str, events: list[tuple[int, int, int, int]]
) -> None:
    by, name, make = WAYS[way]
    worker, oracle, now = Worker(library, by, 2, 4), Oracle(name), BEGIN
    for leg, number, kind, took in events:
        now += took
        data = make(number, kind)
        assert worker.give(leg, data, now) == oracle.give(leg, data, now)
    settled(worker, oracle, now)


def settled(worker: Worker, oracle: Oracle, now: int) -> None:
    """Nothing comes for long; then the counters are the same."""
    before = [worker.counts(leg) for leg in range(LEGS)]
    assert all(counts["lost"] < 2**63 and counts["only_here"] < 2**63 for counts in before)
    now += 10 * WITHIN
    data = b"the end of it"
    worker.give(0, data, now)
    oracle.settle()
    oracle.counts[0].update(received=1, first=1)
    for leg in range(LEGS):
        assert worker.counts(leg) == {name: oracle.counts[leg][name] for name in NAMES}


def two_legs(
    seed: int, count: int, apart: int = 50_000
) -> tuple[list[tuple[int, int, int]], set[int]]:
    """What comes of a stream: time, leg and number, in order; and what both legs lost.

    Each loses 1 %, four times a second up to 100 ms in a row, and is up to 50 ms late. Numbers are
    `apart` ns apart.
    """
    chance, arrives, lost = random.Random(seed), [], Counter[int]()
    for leg in (0, 1):
        cut_until, skew = 0, 0.0
        for number in range(count):
            sent = number * apart
            if chance.random() < 4e-9 * apart:
                cut_until = sent + chance.randrange(100_000_000)
            if chance.random() < 0.01 or sent < cut_until:
                lost[number] += 1
                continue
            skew = min(max(skew + chance.uniform(-1e6, 1e6), 0.0), 5e7)
            arrives.append((sent + int(skew), leg, number))
    return sorted(arrives), {number for number, legs in lost.items() if legs == 2}


@pytest.mark.parametrize("seed", range(2))
def test_two_legs_with_loss_bursts_and_skew(library: tuple[FFI, Any], seed: int) -> None:
    """The output lacks exactly what both lacked, and repeats nothing; also over wraps."""
    arrives, lost = two_legs(seed, 60_000)
    worker = Worker(library, RTP)
    passed = [n for at, leg, n in arrives if worker.give(leg, rtp(n, content=b"x"), BEGIN + at)]
    assert len(passed) == len(set(passed))
    assert set(range(60_000)) - set(passed) == lost
    for leg in (0, 1):
        counts = worker.counts(leg)
        assert counts["received"] == counts["first"] + counts["second"] + counts["repeated"]
        assert (counts["repeated"], counts["differs"], counts["forgotten"]) == (0, 0, 0)


def test_the_next_worker_goes_on(library: tuple[FFI, Any]) -> None:
    worker = Worker(library, RTP)
    assert all(worker.give(0, rtp(number), BEGIN) for number in range(100))
    worker.again()
    assert not any(worker.give(1, rtp(number), BEGIN + 1000) for number in range(100))
    for at in range(1, 5):
        worker.give(0, rtp(1000 + at), BEGIN + at * WITHIN)
    assert worker.counts(1)["second"] == 100
    assert worker.counts(1)["lost"] < 5  # nothing has wrapped


def test_a_worker_with_another_hash_repeats_a_little_and_loses_nothing(
    library: tuple[FFI, Any],
) -> None:
    worker = Worker(library, CONTENT)
    contents = [struct.pack("!Q", number) * 20 for number in range(100)]
    assert all(worker.give(0, data, BEGIN) for data in contents)
    worker.with_another_hash()
    assert all(worker.give(1, data, BEGIN + 1000) for data in contents)
    assert not any(worker.give(0, data, BEGIN + 2000) for data in contents)
    for at in range(1, 5):
        assert worker.give(0, b"new %d" % at * 20, BEGIN + at * WITHIN)
    for leg in (0, 1):
        assert worker.counts(leg)["lost"] < 5  # nothing has wrapped
        assert (worker.counts(leg)["differs"], worker.counts(leg)["repeated"]) == (0, 0)


def test_another_programme_or_a_leg_too_late_is_named(library: tuple[FFI, Any]) -> None:
    worker = Worker(library, RTP)
    for number in range(200):
        worker.give(0, rtp(number, 1), BEGIN + number * 10**8)
        worker.give(1, rtp(number, 2), BEGIN + number * 10**8)
    for leg in (0, 1):
        counts = worker.counts(leg)
        assert counts["first"] == 200
        assert counts["only_here"] == counts["lost"] > 150


def test_a_flood_makes_room_and_says_so(library: tuple[FFI, Any]) -> None:
    worker = Worker(library, CONTENT)
    for number in range(400_000):
        worker.give(0, struct.pack("!Q", number), BEGIN + number)
    assert worker.counts(0)["first"] == 400_000
    assert worker.counts(0)["forgotten"] > 100_000


def test_a_clock_that_is_set_back(library: tuple[FFI, Any]) -> None:
    worker = Worker(library, CONTENT)
    for now in (BEGIN, BEGIN - 3600 * SECOND, BEGIN - 3600 * SECOND + 1000):
        for number in range(1000):
            worker.give(0, struct.pack("!Q", number), now)
            worker.give(1, struct.pack("!Q", number), now)
    assert worker.counts(0)["first"] == 3000
    assert worker.counts(1)["second"] == 3000
