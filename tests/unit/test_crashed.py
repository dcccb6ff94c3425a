"""What a worker leaves of the frame on which it crashes, whatever it has written there."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from mcrd.dataplane._dataplane import ffi, lib

from mcrd.lanes.crashed import Known, end_frame
from mcrd.sockets.lost import MOST, NOTHING, Lost

PLACE, RULE = 2, 7
OUTPUTS = (10, 11, 12)


def known(slot: int) -> Known | None:
    """One rule with three outputs; the second goes by member."""
    return Known(PLACE, OUTPUTS, (False, True, False)) if slot == RULE else None


def left(view: Any) -> tuple[Lost, int, int, list[int]]:
    """What is lost, frames taken, packets received, and what each output lost."""
    lost = end_frame(view, known)
    found = view.interfaces[PLACE]
    crashed = [view.outputs[slot].dropped.crashed for slot in OUTPUTS]
    return lost, found.taken[1], found.traffic.packets, crashed


@pytest.mark.parametrize(
    ("wrote", "expected"),
    [
        ((0, 3, RULE, 1, 0), (NOTHING, 0, 0, [0, 0, 0])),  # no frame
        ((1, 0, RULE, 0, 0), (NOTHING, 0, 0, [0, 0, 0])),  # nothing of it is counted
        ((1, 0, RULE, 1, 0), (NOTHING, 1, 1, [1, 1, 1])),
        ((1, 0, RULE, 3, 0), (NOTHING, 1, 1, [0, 0, 1])),
        ((1, 0, RULE, 4, 0), (NOTHING, 1, 1, [0, 0, 0])),
        ((1, 0, RULE, 4, 1), (NOTHING, 1, 1, [0, 1, 0])),  # the member is not open
        ((9, 4, RULE, 2, 0), (Lost(1, 4), 1, 5, [0, 1, 1])),
        ((9, 4, RULE, 0, 0), (Lost(1, 5), 1, 4, [0, 0, 0])),
        ((9, 9, RULE, 0, 0), (NOTHING, 1, 9, [0, 0, 0])),
        ((9, 4, RULE + 1, 2, 0), (NOTHING, 0, 0, [0, 0, 0])),  # a rule that is not there
        ((2**32 - 1, 5, RULE, 2**32 - 1, 9), (Lost(1, MOST - 6), 1, 6, [0, 1, 0])),
        ((5, 2**32 - 1, RULE, 1, 0), (NOTHING, 1, 5, [0, 0, 0])),
    ],
)
def test_each_datagram_of_a_frame_is_counted_once(
    wrote: tuple[int, ...], expected: tuple[Lost, int, int, list[int]]
) -> None:
    view = ffi.new("struct segment *")
    view.at_work = (*wrote, 100, 1 if wrote[0] < MOST else 2**32 - 1)
    assert left(view) == expected
    assert view.at_work.datagrams == 0
    assert left(view) == (NOTHING, *expected[1:])
    assert lib.MCRD_RINGS == 2
