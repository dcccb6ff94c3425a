"""Counters: the memory that workers write; sums over workers, their restarts and what ended.

Nothing that was counted is ever subtracted again while its rule, output or interface is known.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import itertools
import mmap
import os
import struct
import time
from array import array
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from mcrd.dataplane._dataplane import ffi, lib
from mcrd.lanes.memory import is_sealed, sealed
from mcrd.planning.resources import Ring, Target
from mcrd.sockets.lost import NOTHING, Lost, Taken

_DROPS = sorted(ffi.typeof("enum drop").elements.items())
DROP_REASONS: tuple[str, ...] = tuple(
    name.removeprefix("DROP_").lower() for _, name in _DROPS[: lib.MCRD_DROP_REASONS]
)
"""In the order of enum drop of shared.h; those of the rings come before them all."""

OF_RINGS = ("ring_full", "discarded")
"""Of frames that no worker took: the kernel had no room, or the rings were closed before."""

OF_REPORTS = ("repeated", "failed")
"""Reports of memberships that were sent unasked (`rejoin`), and that could not be sent."""

OF_RULES: tuple[str, ...] = tuple(
    name for name, _ in ffi.typeof("struct rule_counters").fields if name in DROP_REASONS
)
"""Drops that a rule counts too."""


@dataclass(slots=True)
class Traffic:
    """Packets are datagrams; bytes are payload, or of interfaces whole frames."""

    packets: int = 0
    bytes: int = 0

    def add(self, other: Traffic) -> None:
        """Add the other's counts to these."""
        self.packets += other.packets
        self.bytes += other.bytes


@dataclass(slots=True)
class Rate:
    """Packets and bytes of the last whole second, and a second of the last minute.

    `peak` is the most packets in 10 ms, within the last second and the last minute.
    """

    second: Traffic = field(default_factory=Traffic)
    minute: dict[str, float] = field(default_factory=lambda: {"packets": 0.0, "bytes": 0.0})
    peak: dict[str, int] = field(default_factory=lambda: {"second": 0, "minute": 0})

    def add(self, other: Rate) -> None:
        """Add what another worker has; the peaks of both need not have been at one time."""
        self.second.add(other.second)
        for name, number in other.minute.items():
            self.minute[name] += number
        for name, peak in other.peak.items():
            self.peak[name] += peak


@dataclass(slots=True)
class RuleCount:
    """What a rule took, and what went no further."""

    received: Traffic = field(default_factory=Traffic)
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OF_RULES, 0))

    def add(self, other: RuleCount) -> None:
        """Add the other's counts to these."""
        self.received.add(other.received)
        for name, number in other.dropped.items():  # another version may know other reasons
            self.dropped[name] = self.dropped.get(name, 0) + number


@dataclass(slots=True)
class OutputCount:
    """What became of the datagrams of one output; `errors` by the name of the errno.

    `refused` counts reports of refusals, not datagrams; `new_member` datagrams for which there was
    no socket yet; `unreachable` those that no way to the host was there for. Of these, `unanswered`
    are among `sent` as well: the kernel took them, and threw them away.
    """

    sent: Traffic = field(default_factory=Traffic)
    errors: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    rate_limited: int = 0
    new_member: int = 0
    unreachable: int = 0
    unanswered: int = 0

    def add(self, other: OutputCount) -> None:
        """Add the other's counts to these."""
        self.sent.add(other.sent)
        self.refused += other.refused
        self.rate_limited += other.rate_limited
        self.new_member += other.new_member
        self.unreachable += other.unreachable
        self.unanswered += other.unanswered
        for name, number in other.errors.items():
            self.errors[name] = self.errors.get(name, 0) + number


@dataclass(slots=True)
class InterfaceCount:
    """Packets taken from an interface's rings, and why some went no further.

    Of those that no worker took, `dropped_frames` is what the kernel has counted, and `dropped` how
    many packets that was, see lost.py. `reports` are those of memberships that nobody asked for.
    """

    received: Traffic = field(default_factory=Traffic)
    dropped: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((*OF_RINGS, *DROP_REASONS), 0)
    )
    dropped_frames: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OF_RINGS, 0))
    reports: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OF_REPORTS, 0))

    def add(self, other: InterfaceCount) -> None:
        """Add the other's counts to these."""
        self.received.add(other.received)
        for ours, theirs in (
            (self.dropped, other.dropped),
            (self.dropped_frames, other.dropped_frames),
            (self.reports, other.reports),
        ):
            for name, number in theirs.items():  # another version may know other reasons
                ours[name] = ours.get(name, 0) + number

    def lose(self, reason: str, lost: Lost) -> None:
        """Count what no worker took."""
        self.dropped[reason] += lost.packets
        self.dropped_frames[reason] = self.dropped_frames.get(reason, 0) + lost.frames


class NoRoomError(Exception):
    """The segment has no slot left."""


class Slots:
    """Numbers the counters of one kind in a segment."""

    def __init__(self, room: int, what: str) -> None:
        self.taken: dict[Any, int] = {}
        self._keys: dict[int, Any] = {}
        self._free: list[int] = []
        self._room = room
        self._what = what

    def take(self, key: Any) -> tuple[int, bool]:
        """The key's slot, and whether it is a new one."""
        if key in self.taken:
            return self.taken[key], False
        if self._free:
            slot = self._free.pop()
        elif len(self.taken) < self._room:
            slot = len(self.taken)
        else:
            raise NoRoomError(f"more than {self._room} {self._what} on one worker")
        self.taken[key] = slot
        self._keys[slot] = key
        return slot, True

    def take_over(self, taken: dict[Any, int]) -> None:
        """Take over slots that were taken before; raises ValueError for impossible ones."""
        used = set(taken.values())
        if len(used) < len(taken) or not used <= set(range(self._room)):
            raise ValueError(f"slots of {self._what} are not what they should be")
        self.taken = dict(taken)
        self._keys = {slot: key for key, slot in taken.items()}
        self._free = [slot for slot in range(max(used, default=-1) + 1) if slot not in used]

    @property
    def end(self) -> int:
        """The number after the last slot that was ever taken."""
        return len(self.taken) + len(self._free)

    def key_of(self, slot: int) -> Any:
        """The key of a slot; None when it is free."""
        return self._keys.get(slot)

    def give_back(self, key: Any) -> None:
        """Free the key's slot."""
        slot = self.taken.pop(key)
        del self._keys[slot]
        self._free.append(slot)


class Segment:
    """The memory that one worker at a time writes its counters and its place in the ring to."""

    def __init__(self, kept: int | None = None) -> None:
        """`kept` is the descriptor of one that there is; raises ValueError when it does not fit."""
        if kept is None:
            self.descriptor = sealed("mcrd-counters", _SEGMENT)
        elif not _fits(kept):
            raise ValueError("counters of another version")
        else:
            self.descriptor = kept
        self._memory = mmap.mmap(self.descriptor, _SEGMENT)
        self._view = ffi.cast("struct segment *", ffi.from_buffer(self._memory))
        self._view.version = lib.MCRD_SEGMENT_VERSION
        self.rules = Slots(lib.MCRD_RULE_SLOTS, "rules")
        self.outputs = Slots(lib.MCRD_OUTPUT_SLOTS, "outputs")
        self.members = Slots(lib.MCRD_MEMBER_SLOTS, "members")
        self._unsent = array("Q")  # of each output, at the last look

    def continue_from(self, other: int) -> None:
        """Let workers go on where they stood in a segment of another version, by its descriptor.

        It has the positions in the same place, as all versions have.
        """
        there = slice(_POSITIONS_AT, _POSITIONS_AT + _POSITIONS)
        known = os.pread(other, _POSITIONS, _POSITIONS_AT)
        self._memory[there] = known.ljust(_POSITIONS, b"\0")

    @property
    def taken(self) -> tuple[Taken, ...]:
        """The frames of each ring that the workers gave back to the kernel."""
        return tuple(map(Taken, self._view.frames, self._view.datagrams))

    @property
    def sent(self) -> int:
        """Datagrams that all outputs of the worker sent."""
        return int(self._view.sent)

    @property
    def failed(self) -> int:
        """Datagrams that some output of the worker did not send."""
        return int(self._view.failed)

    def received_by(self, slot: int) -> int:
        """Packets that a rule received."""
        return int(self._view.rules[slot].traffic.packets)

    @property
    def received(self) -> int:
        """Packets that the worker has taken from its rings."""
        return int(self._view.traffic.packets)

    def close(self) -> None:
        """Unmap and close it."""
        self._view = None
        os.close(self.descriptor)

    def rule_slot(self, rule: str) -> int:
        """The slot of a rule, counting from zero when it is new; raises NoRoomError."""
        slot, new = self.rules.take(rule)
        if new:
            ffi.memmove(ffi.addressof(self._view.rules, slot), bytes(_RULE), _RULE)
        return slot

    def output_slot(self, rule: str, target: Target) -> int:
        """The slot of an output, counting from zero when it is new; raises NoRoomError."""
        slot, new = self.outputs.take((rule, target))
        if new:
            ffi.memmove(ffi.addressof(self._view.outputs, slot), bytes(_OUTPUT), _OUTPUT)
        return slot

    def last_used(self, slot: int) -> int:
        """When a member was used last: nanoseconds of the real-time clock, 0 for never."""
        return int(self._view.members[slot])

    def member_slot(self, member: Hashable) -> int:
        """The slot of a member, never used when it is new; raises NoRoomError."""
        slot, new = self.members.take(member)
        if new:
            self._view.members[slot] = 0
        return slot

    def rule(self, slot: int) -> RuleCount:
        """What a rule received."""
        counters = self._view.rules[slot]
        return RuleCount(_traffic(counters), {name: getattr(counters, name) for name in OF_RULES})

    def looped(self) -> Iterator[str]:
        """The rules to which something came back."""
        rules = self._view.rules
        return (
            rule
            for rule, slot in self.rules.taken.items()
            if rules[slot].looped or rules[slot].cut_off
        )

    def returner(self, slot: int) -> str | None:
        """Who last brought a rule what it had relayed before: an address, with the hardware's."""
        found = self._view.rules[slot].returner
        if found.family not in (4, 6):
            return None
        packed = bytes(found.address[0 : 16 if found.family == 6 else 4])
        hardware = bytes(found.hardware[0:6])
        text = str(ip_address(packed))
        return f"{text} ({hardware.hex(':')})" if any(hardware) else text

    def rule_rate(self, slot: int) -> Rate:
        """How much of it a rule receives."""
        return _rate(self._view.rules[slot])

    def output_rate(self, slot: int) -> Rate:
        """How much an output sends."""
        return _rate(self._view.outputs[slot])

    def interface_rate(self) -> Rate:
        """How much the worker takes from its rings."""
        return _rate(self._view)

    def output(self, slot: int) -> OutputCount:
        """What became of an output's datagrams."""
        counters = self._view.outputs[slot]
        errors: dict[str, int] = {}
        for place in counters.errors:
            if place.count:
                name = errno.errorcode.get(place.number, "OTHER")
                errors[name] = errors.get(name, 0) + place.count
        return OutputCount(
            _traffic(counters),
            errors,
            counters.refused,
            counters.rate_limited,
            counters.new_member,
            counters.unreachable,
        )

    def failing(self) -> list[tuple[str, Target]]:
        """The outputs that failed to send something since the last call, for any reason."""
        end = self.outputs.end
        self._unsent.extend(itertools.repeat(0, max(0, end - len(self._unsent))))
        slots = ffi.new("uint32_t[]", end)
        known = ffi.from_buffer("uint64_t[]", self._unsent)
        found = lib.counters_unsent(self._view.outputs, end, known, slots)
        keys = map(self.outputs.key_of, slots[0:found])
        return [key for key in keys if key is not None]

    def interface(self, ring_full: Lost) -> InterfaceCount:
        """What the worker took from the ring, and what that had no room for."""
        view = self._view
        dropped = dict(zip(DROP_REASONS, view.dropped, strict=True))
        count = InterfaceCount(_traffic(view), {**dict.fromkeys(OF_RINGS, 0), **dropped})
        count.lose("ring_full", ring_full)
        return count


def _fits(descriptor: int) -> bool:
    """Whether this is the memory of a segment of this version, which nobody can shrink."""
    try:
        return (
            is_sealed(descriptor, _SEGMENT)
            and struct.unpack("Q", os.pread(descriptor, 8, 0))[0] == lib.MCRD_SEGMENT_VERSION
        )
    except (OSError, struct.error):
        return False


def _traffic(counters: Any) -> Traffic:
    return Traffic(counters.traffic.packets, counters.traffic.bytes)


def _rate(counters: Any) -> Rate:
    found = ffi.new("struct rates *")
    meter, traffic = ffi.addressof(counters, "meter"), ffi.addressof(counters, "traffic")
    lib.meter_read(meter, traffic, time.time_ns(), found)
    seconds = found.minute_seconds
    return Rate(
        Traffic(found.second.packets, found.second.bytes),
        {"packets": found.minute.packets / seconds, "bytes": found.minute.bytes / seconds},
        {"second": found.second_peak, "minute": found.minute_peak},
    )


_SEGMENT: int = ffi.sizeof("struct segment")
_POSITIONS_AT: int = ffi.offsetof("struct segment", "positions")
_POSITIONS = 8 * int(lib.MCRD_RINGS)
_RULE: int = ffi.sizeof("struct rule_counters")
_OUTPUT: int = ffi.sizeof("struct output_counters")


OTHERS = 64  # interfaces without a rule whose counts are remembered


class Ledger:
    """Sums what live segments hold and what ended ones held."""

    def __init__(self) -> None:
        self._live: dict[Ring, Segment] = {}
        self._rules: dict[str, RuleCount] = {}
        self._outputs: dict[tuple[str, Target], OutputCount] = {}
        self._interfaces: dict[str, InterfaceCount] = {}
        self._numbered: dict[tuple[str, int], InterfaceCount] = {}  # of the interface's workers

    @property
    def kept(self) -> tuple[dict[Any, Any], ...]:
        """What was counted before the segments that there are."""
        return self._rules, self._outputs, self._interfaces, self._numbered

    def take_over(self, kept: Iterable[dict[Any, Any]]) -> None:
        """Take over what another ledger has kept; raises ValueError when it kept other things."""
        self._rules, self._outputs, self._interfaces, self._numbered = kept

    def attach(self, ring: Ring, segment: Segment) -> None:
        """Count what this segment holds from now on."""
        self._live[ring] = segment

    def detach(self, ring: Ring, ring_full: Lost, discarded: Lost = NOTHING) -> None:
        """Keep what the segment counted, and close it.

        `ring_full` is what there was no room for, `discarded` what waits and is not taken any more.
        """
        segment = self._live[ring]
        for rule in list(segment.rules.taken):
            self.end_rule(ring, rule)
        for rule, target in list(segment.outputs.taken):
            self.end_output(ring, rule, target)
        count = segment.interface(ring_full)
        count.lose("discarded", discarded)
        known = self._interfaces.pop(ring.interface, InterfaceCount())
        known.add(count)
        self._interfaces[ring.interface] = known  # the last one now
        of_ring = (ring.interface, ring.number)
        self._numbered.setdefault(of_ring, InterfaceCount()).add(count)
        del self._live[ring]
        segment.close()

    def lose(self, ring: Ring, reason: str, lost: Lost) -> None:
        """Count what came to a ring that was detached."""
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
        """Keep what a rule counted on a worker that has it no more."""
        segment = self._live[ring]
        slot = segment.rules.taken.get(rule)
        if slot is not None:
            self._rules.setdefault(rule, RuleCount()).add(segment.rule(slot))
            segment.rules.give_back(rule)

    def end_output(self, ring: Ring, rule: str, target: Target) -> None:
        """Keep what an output counted on a worker that has it no more."""
        segment = self._live[ring]
        slot = segment.outputs.taken.get((rule, target))
        if slot is not None:
            kept = self._outputs.setdefault((rule, target), OutputCount())
            kept.add(segment.output(slot))
            segment.outputs.give_back((rule, target))

    def sent_to_nobody(self, rule: str, target: Target, packets: int) -> None:
        """Note that so many of the datagrams that an output sent reached no host."""
        kept = self._outputs.setdefault((rule, target), OutputCount())
        kept.unreachable += packets
        kept.unanswered += packets

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
        # Slots of what ended while its worker did are still taken.
        for segment in self._live.values():
            for rule in segment.rules.taken.keys() - known:
                segment.rules.give_back(rule)
            for output in segment.outputs.taken.keys() - targets:
                segment.outputs.give_back(output)

    def _of_rule(self, rule: str) -> Iterator[tuple[Segment, int]]:
        """The places where live workers count for a rule."""
        for segment in self._live.values():
            slot = segment.rules.taken.get(rule)
            if slot is not None:
                yield segment, slot

    def _of_output(self, rule: str, target: Target) -> Iterator[tuple[Segment, int]]:
        """The places where live workers count for an output."""
        for segment in self._live.values():
            slot = segment.outputs.taken.get((rule, target))
            if slot is not None:
                yield segment, slot

    def rule(self, rule: str) -> RuleCount:
        """What a rule has received, over all workers."""
        total = RuleCount()
        total.add(self._rules.get(rule, RuleCount()))
        for segment, slot in self._of_rule(rule):
            total.add(segment.rule(slot))
        return total

    def output(self, rule: str, target: Target) -> OutputCount:
        """What became of an output's datagrams, over all workers."""
        total = OutputCount()
        total.add(self._outputs.get((rule, target), OutputCount()))
        for segment, slot in self._of_output(rule, target):
            total.add(segment.output(slot))
        return total

    def looped(self) -> set[str]:
        """The rules to which a live worker has seen something come back."""
        return {rule for segment in self._live.values() for rule in segment.looped()}

    def returner(self, rule: str) -> str | None:
        """Who brings back what a rule relayed, as far as a live worker knows."""
        found = (segment.returner(slot) for segment, slot in self._of_rule(rule))
        return next((text for text in found if text is not None), None)

    def received(self, rule: str) -> int:
        """Packets that a rule has received on live workers."""
        return sum(segment.received_by(slot) for segment, slot in self._of_rule(rule))

    def sent(self) -> int:
        """Datagrams that all outputs sent, on live workers."""
        return sum(segment.sent for segment in self._live.values())

    def failed(self) -> int:
        """A number that grows when datagrams are not sent, and changes when workers come or go."""
        return sum(segment.failed for segment in self._live.values())

    def failing(self) -> dict[str, set[Target]]:
        """Outputs that failed to send something since the last call, by rule.

        One whose counters began anew may be among them.
        """
        found: dict[str, set[Target]] = {}
        for segment in self._live.values():
            for rule, target in segment.failing():
                found.setdefault(rule, set()).add(target)
        return found

    def rule_rate(self, rule: str) -> Rate:
        """How much a rule receives, over all workers."""
        total = Rate()
        for segment, slot in self._of_rule(rule):
            total.add(segment.rule_rate(slot))
        return total

    def output_rate(self, rule: str, target: Target) -> Rate:
        """How much an output sends, over all workers."""
        total = Rate()
        for segment, slot in self._of_output(rule, target):
            total.add(segment.output_rate(slot))
        return total

    def interface_rates(self, only: Collection[str] | None = None) -> dict[str, Rate]:
        """The rate of each interface, or of these."""
        totals: dict[str, Rate] = {
            name: Rate() for name in self._interfaces if only is None or name in only
        }
        for ring, segment in self._live.items():
            if only is not None and ring.interface not in only:
                continue
            totals.setdefault(ring.interface, Rate()).add(segment.interface_rate())
        return totals

    def ring(self, ring: Ring, ring_full: Lost) -> tuple[InterfaceCount, Rate]:
        """What one ring received, whose workers come and go, and its rate."""
        segment, total = self._live[ring], InterfaceCount()
        total.add(self._numbered.get((ring.interface, ring.number), InterfaceCount()))
        total.add(segment.interface(ring_full))
        return total, segment.interface_rate()

    def interfaces(
        self, ring_full: dict[Ring, Lost], only: Collection[str] | None = None
    ) -> dict[str, InterfaceCount]:
        """What each interface received, or these.

        `ring_full` is what each live ring had no room for.
        """
        totals: dict[str, InterfaceCount] = {}
        for name, kept in self._interfaces.items():
            if only is None or name in only:
                totals.setdefault(name, InterfaceCount()).add(kept)
        for ring, segment in self._live.items():
            if only is not None and ring.interface not in only:
                continue
            total = totals.setdefault(ring.interface, InterfaceCount())
            total.add(segment.interface(ring_full[ring]))
        return totals
