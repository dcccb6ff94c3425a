"""What is wrong with an input of a merged stream, although the stream may be whole."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mcrd.sums import MergeCount

DEAD = 2.0  # seconds without a packet by an input, while others bring some
APART = 5.0  # seconds without one in common; copies may take two
FEW = 20  # packets that say nothing: both inputs have to bring more

FAULTS = {
    "leg_dead": "packets came by other inputs, and none by this one",
    "leg_apart": "packets came, and none that another input brought too",
    "leg_late": "packets came long after another input had brought them, and were relayed again",
    "leg_differs": "packets have the number of another input's, but other contents; not relayed",
}
"""What the packets say, by the event of the log."""


class Fault(NamedTuple):
    """Something that is wrong now, and how many more packets say so."""

    rule: str
    event: str
    more: int


@dataclass(slots=True)
class _Seen:
    """A leg at the last look, when it brought a packet last, and one in common."""

    count: MergeCount
    heard: float
    common: float
    others: int  # that the other legs had received, at the last look,
    others_heard: int  # when this one brought the last packet,
    others_common: int  # and when it brought the last one in common,
    own_common: int  # with what it had received itself


class Legs:
    """Compares the legs of each stream, from a look at their counters once in a while."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def look(self, streams: Mapping[str, Mapping[str, MergeCount]], now: float) -> Iterator[Fault]:
        """What is wrong now; the counts of each leg are by the name of its rule."""
        names = {name for legs in streams.values() for name in legs}
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        for legs in streams.values():
            total = sum(count.received for count in legs.values())
            for name, count in legs.items():
                yield from self._look_at(name, count, total - count.received, now)

    def _look_at(self, name: str, count: MergeCount, others: int, now: float) -> Iterator[Fault]:
        seen = self._seen.get(name)
        if seen is None or count.received < seen.count.received or others < seen.others:
            own = count.received
            self._seen[name] = _Seen(count, now, now, others, others, others, own)
            return
        before, seen.count = seen.count, count
        more, seen.others = others - seen.others, others
        came = count.received - before.received
        if came:
            seen.heard, seen.others_heard = now, others
        elif more and others - seen.others_heard > FEW and now - seen.heard >= DEAD:
            yield Fault(name, "leg_dead", more)
        if count.second + count.shared > before.second + before.shared:
            seen.common, seen.others_common, seen.own_common = now, others, count.received
        elif (
            came
            and min(count.received - seen.own_common, others - seen.others_common) > FEW
            and now - seen.common >= APART
        ):
            yield Fault(name, "leg_apart", came)
        for event, grown in (
            ("leg_late", count.late - before.late),
            ("leg_differs", count.differs - before.differs),
        ):
            if grown > 0:
                yield Fault(name, event, grown)
