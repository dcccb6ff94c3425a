"""What the page shows of one rule, when somebody clicks on it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mcrd.counters import RuleCounts
from mcrd.inspected import inspected
from mcrd.merged import MEANINGS, merged
from mcrd.web.history import Past, Series, series
from mcrd.words import unsent_for


class Details(msgspec.Struct):
    """`seconds` and `minutes` are the last ten minutes and the last day; `health` are lines.

    `trouble` is why the daemon says nothing of the rule; then `received` is None.
    """

    name: str
    seconds: Series | None
    minutes: Series | None
    received: int | None
    dropped: dict[str, int]
    outputs: list[dict[str, object]]
    health: list[str]
    trouble: str


def details(name: str, counted: RuleCounts | None, past: Past | None, trouble: str) -> bytes:
    """As JSON. Takes a moment: columns of a day are looked at."""
    rule = counted or RuleCounts()
    outputs: list[dict[str, object]] = [
        {
            "where": output.where,
            "sent": output.sent.packets,
            "lost": _some(output.unsent),
            "skipped": _some(output.skipped),
            "refused": output.refused,
        }
        for output in rule.outputs
    ]
    seconds, minutes = series(past) if past else (None, None)
    health = list(_health(rule))
    received = None if counted is None else rule.received.packets
    dropped = _some(rule.dropped)
    shown = Details(name, seconds, minutes, received, dropped, outputs, health, trouble)
    return msgspec.json.encode(shown)


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {unsent_for(why): number for why, number in counts.items() if number}


def _health(rule: RuleCounts) -> Iterator[str]:
    """RTP, MPEG-TS and the inputs of one stream, in words."""
    if rule.inspect is not None:
        yield from (line.strip() for line in inspected(rule.inspect))
    if rule.merge is not None:
        yield f"merged: {merged(rule.merge)}"
    for fault in rule.leg_faults:
        yield f"{fault}: {MEANINGS.get(fault, 'this input has a fault')}"
    if rule.switch is not None:
        yield f"{'in use' if rule.switch.used else 'not in use'}: {rule.switch.why}"
