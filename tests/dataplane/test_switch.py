"""Which leg switch.c uses, beside a second implementation, on random events."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cffi import FFI
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.libraries import build_library

PARTS = ("switch.c", "merge.c", "content.c", "guard.c", "moldudp.c", "rtp.c", "sequence.c")
LEGS, SILENCE = 4, 200
BEGIN = 1_700_000_000_000


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FFI, Any]]:
    made = build_library(tmp_path_factory.mktemp("reswitch"), "reswitch", PARTS, "-O2")
    ffi = FFI()
    ffi.cdef(
        """
        struct reswitch *reswitch_new(uint64_t silence, uint64_t back);
        void reswitch_join(struct reswitch *made, uint8_t leg, uint64_t now);
        void reswitch_leave(struct reswitch *made, uint8_t leg);
        void reswitch_choose(struct reswitch *made, uint8_t number, uint64_t now);
        void reswitch_again(struct reswitch *made, uint64_t now);
        int reswitch_give(struct reswitch *made, uint8_t leg, uint64_t now);
        uint32_t reswitch_used(const struct reswitch *made);
        void reswitch_free(struct reswitch *made);
        """
    )
    library = ffi.dlopen(str(made))
    yield ffi, library
    ffi.dlclose(library)


class Oracle:
    """The same in other words: all arrivals are remembered, and looked through at each one."""

    def __init__(self, back: int) -> None:
        self._back = back
        self._came: dict[int, list[int]] = {}  # of the legs that are there
        self._used: int | None = None
        self._chosen: int | None = None

    def join(self, leg: int) -> None:
        self._came[leg] = []

    def leave(self, leg: int) -> None:
        del self._came[leg]

    def choose(self, leg: int | None) -> None:
        self._chosen = leg
        if leg is not None and self._came:
            self._used = leg

    def give(self, leg: int, now: int) -> bool:
        self._came[leg].append(now)
        if self._chosen is None and self._used != leg:
            self._used = self._best(now)
        return self._used == leg

    def used(self) -> set[int]:
        return {self._used} & self._came.keys() if self._used is not None else set()

    def _flows(self, leg: int | None, now: int) -> bool:
        came = self._came.get(leg, []) if leg is not None else []
        return bool(came) and abs(now - came[-1]) <= SILENCE

    def _steady_for(self, leg: int, now: int) -> int:
        """How long it has come without a silence."""
        came = self._came[leg]
        since = came[-1]
        for before, after in zip(came[-2::-1], came[:0:-1], strict=True):
            if abs(after - before) > SILENCE:
                break
            since = before
        return abs(now - since)

    def _best(self, now: int) -> int | None:
        flowing = sorted(leg for leg in self._came if self._flows(leg, now))
        if not self._flows(self._used, now):
            return flowing[0]
        assert self._used is not None
        before = (leg for leg in flowing if leg < self._used and self._back)
        steady = (leg for leg in before if self._steady_for(leg, now) >= self._back)
        return next(steady, self._used)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("give",) * 30 + ("go", "choose", "free", "again")),
        st.integers(0, LEGS - 1),
        st.sampled_from((0, 1, 20, 60, SILENCE, SILENCE + 1, 1000)),
    ),
    max_size=300,
)


@given(events=EVENTS, back=st.sampled_from((0, 100, 1000)))
@settings(max_examples=400, deadline=None)
def test_it_is_as_the_oracle_says(
    library: tuple[FFI, Any], events: list[tuple[str, int, int]], back: int
) -> None:
    ffi, lib = library
    made = ffi.gc(lib.reswitch_new(SILENCE, back), lib.reswitch_free)
    oracle, there, now = Oracle(back), set[int](), BEGIN
    for leg in range(LEGS):
        lib.reswitch_join(made, leg, now)
        oracle.join(leg)
        there.add(leg)
    for what, leg, took in events:
        now += took
        if what == "give" and leg in there:
            assert lib.reswitch_give(made, leg, now) == oracle.give(leg, now)
        elif what == "go" and leg in there and len(there) > 1:
            lib.reswitch_leave(made, leg)
            oracle.leave(leg)
            there.remove(leg)
        elif what == "go" and leg not in there:
            lib.reswitch_join(made, leg, now)
            oracle.join(leg)
            there.add(leg)
        elif what in ("choose", "free"):
            lib.reswitch_choose(made, leg + 1 if what == "choose" else 0, now)
            oracle.choose(leg if what == "choose" else None)
        elif what == "again":
            lib.reswitch_again(made, now)
        used = {leg for leg in range(LEGS) if lib.reswitch_used(made) >> leg & 1}
        assert used == oracle.used()
