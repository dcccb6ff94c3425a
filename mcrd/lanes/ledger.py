"""The ledger: sums over workers, their restarts and what ended.

Nothing that was counted is ever subtracted again while its rule, output or interface is known.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from operator import add
from typing import Any, TypeVar

from mcrd.addresses import Target
from mcrd.lanes.counts import (
    OF_REPORTS,
    Glance,
    InterfaceCount,
    OutputCount,
    RuleCount,
    SwitchCount,
)
from mcrd.lanes.segment import Segment
from mcrd.planning.resources import Ring
from mcrd.sockets.lost import NOTHING, Lost
from mcrd.sums import Count, InspectCount, MergeCount, Rate

OTHERS = 64  # interfaces without a rule whose counts are remembered


class Ledger:
    """Sums what live segments hold and what ended ones held."""

    def __init__(self) -> None:
        self._live: dict[Ring, tuple[Segment, int]] = {}  # with the place in it
        self._segments: dict[Segment, None] = {}
        self._rules: dict[str, RuleCount] = {}
        self._outputs: dict[tuple[str, Target], OutputCount] = {}
        self._interfaces: dict[str, InterfaceCount] = {}
        self._numbered: dict[tuple[str, int], InterfaceCount] = {}  # of the interface's workers
        self._added: Counter[str] = Counter()  # how often to what is kept of a rule

    @property
    def kept(self) -> tuple[dict[Any, Any], ...]:
        """What was counted before the segments that there are."""
        return self._rules, self._outputs, self._interfaces, self._numbered

    def take_over(self, kept: Iterable[dict[Any, Any]]) -> None:
        """Take over what another ledger has kept; raises ValueError when it kept other things."""
        self._rules, self._outputs, self._interfaces, self._numbered = kept

    def attach(self, ring: Ring, segment: Segment, place: int = 0) -> None:
        """Count what this segment holds from now on; the interface's counters are at `place`."""
        self._live[ring] = segment, place
        self._segments[segment] = None

    def detach(self, ring: Ring, ring_full: Lost, discarded: Lost = NOTHING) -> None:
        """Keep what the segment counted of it. With its last ring, the segment is closed.

        `ring_full` is what there was no room for, `discarded` what waits and is not taken any more.
        """
        segment, place = self._live.pop(ring)
        count = segment.interface(ring_full, place)
        count.lose("discarded", discarded)
        known = self._interfaces.pop(ring.interface, InterfaceCount())
        known.add(count)
        self._interfaces[ring.interface] = known  # the last one now
        of_ring = (ring.interface, ring.number)
        self._numbered.setdefault(of_ring, InterfaceCount()).add(count)
        if all(other is not segment for other, _ in self._live.values()):
            self._end(segment)

    def _end(self, segment: Segment) -> None:
        for rule in list(segment.rules.taken):
            self._end_rule(segment, rule)
        for rule, target in list(segment.outputs.taken):
            self._end_output(segment, rule, target)
        del self._segments[segment]
        segment.close()

    def lose(self, ring: Ring, reason: str, lost: Lost) -> None:
        """Count what no worker took of what came to a ring pair."""
        for kept in (
            self._interfaces.setdefault(ring.interface, InterfaceCount()),
            self._numbered.setdefault((ring.interface, ring.number), InterfaceCount()),
        ):
            kept.lose(reason, lost)

    def report(self, interface: str, sent: int, failed: int) -> None:
        """Count reports of memberships that were sent unasked, or could not be."""
        kept = self._interfaces.setdefault(interface, InterfaceCount())
        for name, number in zip(OF_REPORTS, (sent, failed), strict=True):
            kept.reports[name] += number

    def end_rule(self, ring: Ring, rule: str) -> None:
        """Keep what a rule counted on a worker, which reads that ring, and has it no more."""
        self._end_rule(self._live[ring][0], rule)

    def _end_rule(self, segment: Segment, rule: str) -> None:
        slot = segment.rules.taken.get(rule)
        if slot is not None:
            count = segment.rule(slot)
            if count.inspect is not None:
                count.inspect.end()
            if count.switch is not None:
                count.switch.used = False
            count.dropped["standby"] += count.backlog
            count.backlog = 0
            self._rules.setdefault(rule, RuleCount()).add(count)
            self._added[rule] += 1
            segment.rules.give_back(rule)

    def end_output(self, ring: Ring, rule: str, target: Target) -> None:
        """Keep what an output counted on a worker, which reads that ring, and has it no more."""
        self._end_output(self._live[ring][0], rule, target)

    def _end_output(self, segment: Segment, rule: str, target: Target) -> None:
        slot = segment.outputs.taken.get((rule, target))
        if slot is not None:
            segment.end_waiting([slot])
            self._kept_of(rule, target).add(segment.output(slot))
            segment.outputs.give_back((rule, target))

    def sent_to_nobody(self, rule: str, target: Target, packets: int) -> None:
        """Note that so many of the datagrams that an output sent reached no host."""
        kept = self._kept_of(rule, target)
        kept.dropped["unreachable"] += packets
        kept.unanswered += packets

    def lose_answers(self, rule: str, target: Target, packets: int) -> None:
        """Count answers for which a socket had no room; `target` as that of replies.answers()."""
        self._kept_of(rule, target).lost += packets

    def _kept_of(self, rule: str, target: Target) -> OutputCount:
        """What is kept of an output, to be added to."""
        self._added[rule] += 1
        return self._outputs.setdefault((rule, target), OutputCount())

    def forget(
        self,
        rules: Iterable[str],
        outputs: Iterable[tuple[str, Target]],
        interfaces: Iterable[str] = (),
    ) -> None:
        """Forget ended counts of all rules and outputs but these.

        Of interfaces that no rule names any more, those that ended last are remembered.
        """
        named = {*interfaces, *(ring.interface for ring in self._live)}
        for name in [name for name in self._interfaces if name not in named][:-OTHERS]:
            del self._interfaces[name]
        for key in [key for key in self._numbered if key[0] not in named | self._interfaces.keys()]:
            del self._numbered[key]
        known, targets = set(rules), set(outputs)
        self._rules = {name: kept for name, kept in self._rules.items() if name in known}
        self._outputs = {key: kept for key, kept in self._outputs.items() if key in targets}
        self._added = Counter({name: n for name, n in self._added.items() if name in known})
        # Slots of what ended while its worker did are still taken.
        for segment in self._segments:
            for rule in segment.rules.taken.keys() - known:
                segment.rules.give_back(rule)
            for output in segment.outputs.taken.keys() - targets:
                segment.outputs.give_back(output)

    def rule(self, rule: str) -> RuleCount:
        """What a rule has received, over all workers."""
        live = (segment.rule(slot) for segment, slot in self._of(rule))
        return _sum(RuleCount(), live, self._rules.get(rule))

    def output(self, rule: str, target: Target) -> OutputCount:
        """What became of an output's datagrams, over all workers."""
        live = (segment.output(slot) for segment, slot in self._of((rule, target)))
        return _sum(OutputCount(), live, self._outputs.get((rule, target)))

    def rule_rate(self, rule: str) -> Rate:
        """How much a rule receives, over all workers."""
        return _sum(Rate(), (segment.rule_rate(slot) for segment, slot in self._of(rule)))

    def output_rate(self, rule: str, target: Target) -> Rate:
        """How much an output sends, over all workers."""
        live = (segment.output_rate(slot) for segment, slot in self._of((rule, target)))
        return _sum(Rate(), live)

    def glances(
        self,
    ) -> tuple[dict[str, Glance], dict[tuple[str, Target], Glance], Mapping[str, int]]:
        """How much flows now by all rules and outputs, over all workers.

        Then, how often something was added to what is kept of a rule and its outputs.
        """
        rules: dict[str, Glance] = {}
        outputs: dict[tuple[str, Target], Glance] = {}
        found: tuple[dict[Any, Glance], dict[Any, Glance]] = rules, outputs
        now = time.time_ns()
        for segment in self._segments:
            for glances, more in zip(found, segment.glances(now), strict=True):
                for key, glance in more:
                    known = glances.get(key)
                    glances[key] = glance if known is None else list(map(add, known, glance))
        return rules, outputs, self._added

    def faults(self, rule: str) -> tuple[int, int]:
        """What a rule lost before it came here, and its continuity errors, over all workers."""
        kept = self._rules.get(rule, RuleCount()).inspect or InspectCount()
        lost, errors = kept.lost, kept.mpeg_ts.continuity_errors
        for segment, slot in self._of(rule):
            more = segment.faults(slot)
            lost, errors = lost + more[0], errors + more[1]
        return lost, errors

    def merged(self, rule: str) -> MergeCount:
        """How a leg of a merged stream fares, over all workers."""
        live = (found for s, slot in self._of(rule) if (found := s.merged(slot)) is not None)
        return _sum(MergeCount(), live, self._rules.get(rule, RuleCount()).merge)

    def switch(self, rule: str) -> SwitchCount:
        """Whether a rule that is one of several inputs is in use, and how often it was."""
        kept = self._rules.get(rule, RuleCount()).switch
        live = (segment.switch(slot) for segment, slot in self._of(rule))
        return _sum(SwitchCount(), (found for found in live if found is not None), kept)

    def askers(self, rule: str) -> int:
        """How many members a rule has on live workers."""
        return sum(segment.members_of(slot) for segment, slot in self._of(rule))

    def looped(self) -> set[str]:
        """The rules to which a live worker has seen something come back."""
        return {rule for segment in self._segments for rule in segment.looped()}

    def returner(self, rule: str) -> str | None:
        """Who brings back what a rule relayed, as far as a live worker knows."""
        found = (segment.returner(slot) for segment, slot in self._of(rule))
        return next((text for text in found if text is not None), None)

    def received(self, rule: str) -> int:
        """Packets that came for a rule on live workers, also those that another input brings."""
        return sum(segment.received_by(slot) for segment, slot in self._of(rule))

    def sent(self) -> int:
        """Datagrams that all outputs sent, on live workers."""
        return sum(segment.sent for segment in self._segments)

    def failed(self) -> int:
        """A number that grows when datagrams are not sent, and changes when workers come or go."""
        return sum(segment.failed for segment in self._segments)

    def failing(self) -> dict[str, set[Target]]:
        """Outputs that failed to send something since the last call, by rule.

        One whose counters began anew may be among them.
        """
        found: dict[str, set[Target]] = {}
        for segment in self._segments:
            for rule, target in segment.failing():
                found.setdefault(rule, set()).add(target)
        return found

    def interface_rates(self, only: Collection[str] | None = None) -> dict[str, Rate]:
        """The rate of each interface, or of these."""
        totals = {name: Rate() for name in self._interfaces if only is None or name in only}
        for ring, (segment, place) in self._of_interfaces(only):
            totals.setdefault(ring.interface, Rate()).add(segment.interface_rate(place))
        return totals

    def ring(self, ring: Ring, ring_full: Lost) -> tuple[InterfaceCount, Rate]:
        """What one ring pair received, whose workers come and go, and its rate."""
        (segment, place), key = self._live[ring], (ring.interface, ring.number)
        total, before = segment.interface(ring_full, place), self._numbered.get(key)
        if before is not None:
            total.add(before)
        return total, segment.interface_rate(place)

    def interfaces(
        self, ring_full: dict[Ring, Lost], only: Collection[str] | None = None
    ) -> dict[str, InterfaceCount]:
        """What each interface received, or these.

        `ring_full` is what each live ring had no room for.
        """
        totals: dict[str, InterfaceCount] = {}
        for name, kept in self._interfaces.items():
            if only is None or name in only:
                totals[name] = _sum(InterfaceCount(), (), kept)
        for ring, (segment, place) in self._of_interfaces(only):
            total = totals.setdefault(ring.interface, InterfaceCount())
            total.add(segment.interface(ring_full[ring], place))
        return totals

    def _of(self, counted: str | tuple[str, Target]) -> Iterator[tuple[Segment, int]]:
        """The places where live workers count for a rule, or for an output of one."""
        for segment in self._segments:
            slots = segment.rules if isinstance(counted, str) else segment.outputs
            slot = slots.taken.get(counted)
            if slot is not None:
                yield segment, slot

    def _of_interfaces(
        self, only: Collection[str] | None
    ) -> Iterator[tuple[Ring, tuple[Segment, int]]]:
        """The rings of all interfaces, or of these, with the places where they count."""
        for ring, where in self._live.items():
            if only is None or ring.interface in only:
                yield ring, where


_Any = TypeVar("_Any", bound=Count)


def _sum(total: _Any, live: Iterable[_Any], kept: _Any | None = None) -> _Any:
    """The sum; `total` is zero, and who made the `live` ones has no more use for them."""
    parts = iter(live)
    total = next(parts, total)
    for part in (*parts, kept):
        if part is not None:
            total.add(part)
    return total
