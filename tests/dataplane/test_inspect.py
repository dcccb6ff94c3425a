"""What inspect.c counts, beside a second implementation, on random streams; and what was done."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from cffi import FFI
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.libraries import SOURCES, build_library
from tests.dataplane.oracle import SECOND, Mold, Rtp, Sequence, Ts

PARTS = ("inspect.c", "moldudp.c", "mpegts.c", "rtp.c", "sequence.c")
BEGIN = 1_700_000_000 * SECOND
RTP, MPEG_TS, MOLDUDP64, SEQUENCE = 1, 2, 3, 4  # enum inspect_format
NUMBERS = ("lost", "missing", "gaps", "reordered", "repeated", "stray", "resets", "longest_gap")


class Replay:
    """One inspector of a shared library that traps what is undefined."""

    def __init__(self, library: tuple[FFI, Any], kind: int, bits: int = 8, little: bool = False):
        self.ffi, self.lib = library
        made = self.ffi.new("struct inspect_settings *")
        made.format, made.bytes, made.little = kind, bits // 8, little
        self.replay = self.ffi.gc(self.lib.replay_new(made), self.lib.replay_free)
        self.counters = self.lib.replay_counters(self.replay)

    def give(self, data: bytes, now: int, source: int = 1) -> None:
        self.lib.replay_give(self.replay, source, data, len(data), now)

    def check(self, counts: Counter[str], names: tuple[str, ...]) -> None:
        assert {name: getattr(self.counters, name) for name in names} == {
            name: counts[name] for name in names
        }


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FFI, Any]]:
    made = build_library(tmp_path_factory.mktemp("replay"), "replay", PARTS, "-O1")
    ffi = FFI()
    ffi.cdef(_declarations())
    ffi.cdef(
        """
        struct replay;
        struct replay *replay_new(const struct inspect_settings *settings);
        const struct inspect_counters *replay_counters(const struct replay *replay);
        void replay_free(struct replay *replay);
        void replay_give(struct replay *replay, uint32_t source, const uint8_t *data,
                         uint32_t length, uint64_t now);
        """
    )
    library = ffi.dlopen(str(made))
    yield ffi, library
    ffi.dlclose(library)


def _declarations() -> str:
    """The structures of segment.h that have to do with it."""
    text = (SOURCES / "segment.h").read_text(encoding="utf-8")
    places = next(line for line in text.splitlines() if "MCRD_PID_PLACES" in line)
    begin, end = text.index("struct inspect_settings {"), text.index("struct segment {")
    return f"{places}\n{text[begin:end]}"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("next", "next", "next", "gap", "late", "again", "jump", "random")),
        st.integers(0, 6000),
        st.sampled_from((1000, 10**6, 10**8, 6 * 10**8, 2 * 10**9)),
    ),
    max_size=150,
)


def _numbers(first: int, steps: list[tuple[str, int, int]]) -> Iterator[tuple[int, int]]:
    """Numbers that never wrap, and the times at which they come."""
    number, now = first, BEGIN
    yield number, now
    for kind, size, took in steps:
        now += took
        match kind:
            case "next":
                for _ in range(1 + size % 40):
                    number += 1
                    now += 100
                    yield number, now
            case "gap":
                number += 2 + size
                yield number, now
            case "late":
                yield number - size // 8, now
            case "again":
                yield number, now
            case "jump":
                number += (size - 3000) * 1777
                yield number, now
            case "random":
                yield number + size * 7919 * 7919, now


@given(bits=st.sampled_from(range(8, 65, 8)), first=st.integers(0, 2**64 - 1), steps=STEPS)
@settings(max_examples=400, deadline=None)
def test_numbers(
    library: tuple[FFI, Any], bits: int, first: int, steps: list[tuple[str, int, int]]
) -> None:
    little = first % 2 == 0
    replay = Replay(library, SEQUENCE, bits, little)
    counts: Counter[str] = Counter()
    oracle = Sequence(bits, counts)
    for number, now in _numbers(first, steps):
        wrapped = number % (1 << bits)
        oracle.note(wrapped, now)
        counts["missing"] = len(oracle.missing)
        replay.give(wrapped.to_bytes(bits // 8, "little" if little else "big"), now)
        replay.check(counts, NUMBERS)


@given(first=st.integers(0, 2**32 - 1), steps=STEPS, wobble=st.integers(0, 10**7))
@settings(max_examples=200, deadline=None)
def test_rtp(
    library: tuple[FFI, Any], first: int, steps: list[tuple[str, int, int]], wobble: int
) -> None:
    replay = Replay(library, RTP)
    counts: Counter[str] = Counter()
    oracle = Rtp(counts)
    chance = random.Random(first)
    for number, due in _numbers(first, steps):
        sequence, timestamp = number % 2**16, number * 3003 % 2**32
        now = due + chance.randrange(wobble + 1)
        oracle.note(sequence, timestamp, now)
        counts["missing"] = len(oracle.sequence.missing)
        data = b"\x80\x21" + sequence.to_bytes(2) + timestamp.to_bytes(4) + b"\0\0\0\7payload"
        replay.give(data, now)
        replay.check(counts, (*NUMBERS, "other", "changes"))
        assert replay.counters.jitter == pytest.approx(oracle.jitter, rel=1e-6, abs=20)
    assert replay.counters.jitter_most == pytest.approx(oracle.most, rel=1e-6, abs=20)


def _packet(pid: int, counter: int, control: int, flags: int, fault: int) -> bytes:
    head = (0x46 if fault == 1 else 0x47) << 24 | (fault == 2) << 23
    head |= pid << 8 | control << 4 | counter
    return head.to_bytes(4) + bytes((1, flags)) + bytes(182)


PACKETS = st.lists(
    st.tuples(
        st.sampled_from((0, 17, 256, 257, 0x1FFF)),
        st.sampled_from((0, 0, 0, 1, 1, 1, 1, 1, 2, 7, 15)),  # by how much the counter goes on
        st.sampled_from((1, 1, 1, 2, 3, 0)),
        st.sampled_from((0, 0, 0, 0x80, 0x40)),
        st.sampled_from((0,) * 20 + (1, 2)),
    ),
    max_size=300,
)


@given(packets=PACKETS, size=st.integers(1, 7), over_rtp=st.booleans())
@settings(max_examples=300, deadline=None)
def test_mpeg_ts(
    library: tuple[FFI, Any],
    packets: list[tuple[int, int, int, int, int]],
    size: int,
    over_rtp: bool,
) -> None:
    replay = Replay(library, MPEG_TS)
    oracle = Ts(Counter())
    counters: Counter[int] = Counter()
    made = []
    for pid, step, control, flags, fault in packets:
        counters[pid] = (counters[pid] + step) % 16
        made.append(_packet(pid, counters[pid], control, flags, fault))
    good = _packet(99, 0, 1, 0, 0)  # so that it is known what it is
    for number, at in enumerate(range(0, len(made), size)):
        chunk = [good, *made[at : at + size], good]
        for packet in chunk:
            oracle.note(packet)
        header = b"\x80\x21" + number.to_bytes(2) + bytes(8) if over_rtp else b""
        replay.give(header + b"".join(chunk), BEGIN + number)
    replay.check(
        oracle.counts, ("sync", "transport", "duplicates", "continuity", "ts_packets", "other")
    )
    places = {place.pid - 1: place.errors for place in replay.counters.pids if place.pid}
    assert places == dict(oracle.by_pid)


MOLDS = st.lists(
    st.tuples(
        st.sampled_from(("next", "next", "gap", "late", "beat", "end", "session")),
        st.integers(0, 60),
        st.integers(1, 9),
        st.sampled_from((1000, 10**6, 6 * 10**8, 2 * 10**9)),
    ),
    max_size=14,  # the C code keeps sixteen gaps in mind
)


@given(first=st.integers(1, 2**40), steps=MOLDS)
@settings(max_examples=500, deadline=None)
def test_moldudp64(
    library: tuple[FFI, Any], first: int, steps: list[tuple[str, int, int, int]]
) -> None:
    replay = Replay(library, MOLDUDP64)
    counts: Counter[str] = Counter()
    oracle = Mold(counts)
    session, number, now = 0, first, BEGIN

    def come(at: int, messages: int) -> None:
        name = b"SESSION%03d" % session
        oracle.note(name, at, messages, now)
        counts["missing"] = len(oracle.missing)
        body = b"\0\1x" * (messages if messages < 0xFFFF else 0)
        replay.give(name + at.to_bytes(8) + messages.to_bytes(2) + body, now)
        replay.check(counts, (*NUMBERS, "messages", "changes", "other"))

    come(number, 3)
    number += 3
    for kind, size, messages, took in steps:
        now += took
        match kind:
            case "next":
                come(number, messages)
                number += messages
            case "gap":
                number += size
                come(number, messages)
                number += messages
            case "late":
                come(max(1, number - size), messages)
                number = max(number, max(1, number - size) + messages)
            case "beat":
                come(number, 0)
            case "end":
                come(number + size, 0xFFFF)
                number += size
            case "session":
                session, number = session + 1, 1 + size
                come(number, messages)
                number += messages


def test_what_was_done_is_what_is_counted(library: tuple[FFI, Any]) -> None:
    """Not what an implementation says: what was dropped, sent twice and swapped."""
    chance = random.Random(29)
    for bits in (16, 32):
        replay = Replay(library, SEQUENCE, bits)
        done: Counter[str] = Counter()
        number = 2**bits - 10_000
        for _ in range(20_000):
            match chance.randrange(200):
                case 0:
                    lost = chance.choice((1, 2, 30, 700))
                    number += lost
                    done["lost"] += lost
                    numbers = [number]
                case 1:
                    numbers = [number, number]
                    done["repeated"] += 1
                case 2:
                    numbers = [number + 1, number]
                    done["reordered"] += 1
                case _:
                    numbers = [number]
            for one in numbers:
                data = (one % 2**bits).to_bytes(bits // 8)
                replay.give(data, BEGIN + number % 2**bits)
            number = max(numbers) + 1
        found = replay.counters
        assert found.lost + found.missing == done["lost"]
        assert found.repeated == done["repeated"]
        assert found.reordered == done["reordered"]
        assert found.resets == found.stray == found.other == 0
