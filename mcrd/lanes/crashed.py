"""What becomes of packets that a worker was at when it crashed, by what it left in its segment.

A worker may have written anything there: whatever it says, no more than a counter is wrong.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mcrd.dataplane._dataplane import lib
from mcrd.sockets.lost import MOST, NOTHING, Lost

ALL = 2**64
"""Counters begin anew there."""


class Known(NamedTuple):
    """A rule of a worker that has ended: where its interface counts, and its outputs do.

    `by_member` says of each output whether its sockets are those of members.
    """

    place: int
    outputs: Sequence[int]
    by_member: Sequence[bool]


def end_in_hand(view: Any) -> None:
    """Count what the worker had in hand.

    It does not crash while the kernel writes, so what the kernel had been given has left. The
    rest, the other inputs of a rule may bring again.
    """
    lost = not view.submitted or view.at_work.datagrams > 0
    for run in view.in_hand:
        if run.datagrams and run.output < lib.MCRD_OUTPUT_SLOTS:
            output = view.outputs[run.output]
            sent = min(run.under_way, run.datagrams) if view.submitted else 0
            view.sent = (view.sent + sent) % ALL
            traffic = output.traffic
            traffic.packets = (traffic.packets + sent) % ALL
            traffic.bytes = (traffic.bytes + sent * run.length) % ALL
            _crash(output, run.datagrams - sent)
            lost |= run.datagrams > sent
        run.datagrams = run.under_way = 0
    if lost:
        lib.merge_forget(view)


def end_frame(view: Any, known: Callable[[int], Known | None]) -> Lost:
    """Count the frame that was dealt with as far as it is in other counters: as one that was taken.

    `known` tells of the rule in a slot. Returns what is lost of the frame. One of which nothing was
    counted is as if it still waited.
    """
    work = view.at_work
    total, given = min(work.datagrams, MOST), work.given
    done = min(work.done, total)
    rule = known(work.rule) if total and (done or given) else None
    if rule is not None:
        if given and done < total:
            done += 1
            for at, slot in enumerate(rule.outputs):
                if at + 1 >= given or (work.waits and rule.by_member[at]):
                    _crash(view.outputs[slot], 1)
        found, which = view.interfaces[rule.place], work.ring % lib.MCRD_RINGS
        found.traffic.packets = (found.traffic.packets + done) % ALL
        found.traffic.bytes = (found.traffic.bytes + work.bytes) % ALL
        found.taken[which] = (found.taken[which] + 1) % ALL
        found.datagrams[which] = (found.datagrams[which] + total) % ALL
    work.datagrams = 0
    return Lost(1, total - done) if rule is not None and done < total else NOTHING


def _crash(output: Any, datagrams: int) -> None:
    output.dropped.crashed = (output.dropped.crashed + datagrams) % ALL
