"""A segment: the memory that one worker at a time writes its counters to."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import itertools
import mmap
import os
import struct
import sys
import time
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any

from mcrd.addresses import Target
from mcrd.dataplane._dataplane import ffi, lib
from mcrd.lanes import crashed, merges, switches
from mcrd.lanes.counts import (
    DROP_REASONS,
    NO_FLOW,
    OF_OUTPUTS,
    OF_RINGS,
    OF_RULES,
    OF_SKIPS,
    Glance,
    InterfaceCount,
    OutputCount,
    RuleCount,
    SwitchCount,
)
from mcrd.lanes.inspections import lost, read
from mcrd.lanes.memory import is_sealed, mapped
from mcrd.sockets.lost import Lost, Taken
from mcrd.sums import MergeCount, Peak, PerSecond, Rate, Traffic

OF_SEVERAL = 12
"""The first version whose segments have the positions of several interfaces."""


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
    """The memory that one worker at a time writes its counters and its place in the rings to."""

    def __init__(self, kept: int | None = None) -> None:
        """`kept` is the descriptor of one that there is; raises ValueError when it does not fit.

        Raises OSError; `kept` stays open then.
        """
        if kept is None:
            self.descriptor, self._memory = mapped("mcrd-counters", _SEGMENT)
        elif not _fits(kept):
            raise ValueError("counters of another version")
        else:
            self.descriptor, self._memory = kept, mmap.mmap(kept, _SEGMENT)
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
        version = int.from_bytes(os.pread(other, 8, 0), sys.byteorder)
        size = _POSITIONS if version >= OF_SEVERAL else 8 * lib.MCRD_RINGS
        there = slice(_POSITIONS_AT, _POSITIONS_AT + _POSITIONS)
        self._memory[there] = os.pread(other, size, _POSITIONS_AT).ljust(_POSITIONS, b"\0")

    def begin(self, place: int) -> None:
        """Count from zero at the place of an interface, whose rings are new."""
        found = ffi.addressof(self._view.interfaces, place)
        ffi.memmove(found, bytes(_INTERFACE), _INTERFACE)
        for which in range(lib.MCRD_RINGS):
            self._view.positions[lib.MCRD_RINGS * place + which] = 0

    def taken(self, place: int = 0) -> tuple[Taken, ...]:
        """The frames of each ring of an interface that the workers dealt with."""
        found = self._view.interfaces[place]
        return tuple(map(Taken, found.taken, found.datagrams))

    def given_back(self, place: int) -> tuple[int, ...]:
        """Frames of each ring of an interface that the kernel has again."""
        return tuple(self._view.interfaces[place].frames)

    def stand(self, place: int) -> list[tuple[Any, Any]]:
        """For each ring of an interface, pointers: where the next frame is, and given_back()."""
        first, frames = lib.MCRD_RINGS * place, self._view.interfaces[place].frames
        positions = self._view.positions
        return [(positions + first + which, frames + which) for which in range(lib.MCRD_RINGS)]

    def empty(self, place: int, lost: Sequence[Lost]) -> None:
        """Note that what waited in the rings was given back, and what of it is lost."""
        found = self._view.interfaces[place]
        for which, of_ring in enumerate(lost):
            found.datagrams[which] = (found.datagrams[which] + of_ring.packets) % 2**64
            found.taken[which] = found.frames[which]

    @property
    def sent(self) -> int:
        """Datagrams that all outputs of the worker sent."""
        return int(self._view.sent)

    @property
    def failed(self) -> int:
        """Datagrams that some output of the worker did not send."""
        return int(self._view.failed)

    def received_by(self, slot: int) -> int:
        """Packets that came for a rule, also those that another input brings."""
        found = self._view.rules[slot]
        other = found.second_copy + found.standby_input + found.standby + found.backlog
        return int(found.traffic.packets + other)

    @property
    def received(self) -> int:
        """Packets that the worker has taken from its rings."""
        return sum(int(found.traffic.packets) for found in self._view.interfaces)

    def close(self) -> None:
        """Unmap and close it."""
        self._view = None
        self._memory.close()  # it has a descriptor of its own, for as long as anything names it
        os.close(self.descriptor)

    def rule_slot(self, rule: str) -> int:
        """The slot of a rule, counting from zero when it is new; raises NoRoomError."""
        slot, new = self.rules.take(rule)
        if new:
            ffi.memmove(ffi.addressof(self._view.rules, slot), bytes(_RULE), _RULE)
            found = ffi.addressof(self._view.inspections, slot)
            ffi.memmove(found, bytes(_INSPECTION), _INSPECTION)
            ffi.memmove(ffi.addressof(self._view.merges, slot), bytes(_MERGE), _MERGE)
            ffi.memmove(ffi.addressof(self._view.switches, slot), bytes(_SWITCH), _SWITCH)
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

    def member_slot(self, member: Hashable, now: int) -> int:
        """The slot of a member, last used `now` when it is new; raises NoRoomError."""
        slot, new = self.members.take(member)
        if new:
            self._view.members[slot] = now
        return slot

    def members_of(self, slot: int) -> int:
        """How many members the rule of a slot has."""
        return sum(key.slot == slot for key in self.members.taken)

    def rule(self, slot: int) -> RuleCount:
        """What a rule received."""
        counters = self._view.rules[slot]
        dropped = {name: getattr(counters, name) for name in OF_RULES}
        inspected = read(self._view.inspections[slot])
        return RuleCount(
            _traffic(counters),
            dropped,
            inspected,
            self.merged(slot),
            self.switch(slot),
            int(counters.backlog),
            int(counters.overheard),
        )

    def merged(self, slot: int) -> MergeCount | None:
        """How a leg of a merged stream fares; None when it took nothing."""
        return merges.read(self._view.merges[slot])

    def switch(self, slot: int) -> SwitchCount | None:
        """Whether a rule that is one of several inputs is in use."""
        return switches.read(self._view.switches[slot], self._view.merges[slot].forgotten)

    def faults(self, slot: int) -> tuple[int, int]:
        """How many datagrams or messages of a rule were lost before they came here.

        With errors of the continuity counters of MPEG-TS.
        """
        found = self._view.inspections[slot]
        return lost(found), int(found.continuity)

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

    def interface_rate(self, place: int = 0) -> Rate:
        """How much the worker takes from the rings of an interface."""
        return _rate(self._view.interfaces[place])

    def glances(self, now: int) -> tuple[Iterator[tuple[str, Glance]], Iterator[Any]]:
        """All rules by their names, and all outputs as in `outputs`, at `now`, in nanoseconds."""
        return (
            self._glances(self.rules, lib.counters_of_rules, now),
            self._glances(self.outputs, lib.counters_of_outputs, now),
        )

    def _glances(
        self, slots: Slots, look: Callable[..., None], now: int
    ) -> Iterator[tuple[Any, Glance]]:
        found = ffi.new("struct glance[]", slots.end)
        look(self._view, slots.end, now, found)
        numbers = memoryview(ffi.buffer(found)).cast("B").cast("Q").tolist()
        size = len(NO_FLOW)
        for key, slot in slots.taken.items():
            yield key, numbers[size * slot : size * (slot + 1)]

    def output(self, slot: int) -> OutputCount:
        """What became of an output's datagrams."""
        counters = self._view.outputs[slot]
        errors: dict[str, int] = {}
        for place in counters.errors:
            if place.count:
                name = errno.errorcode.get(place.number, "OTHER")
                errors[name] = errors.get(name, 0) + place.count
        dropped = {name: getattr(counters.dropped, name) for name in OF_OUTPUTS}
        skipped = {name: getattr(counters.skipped, name) for name in OF_SKIPS}
        return OutputCount(
            _traffic(counters),
            errors,
            counters.refused,
            dropped,
            skipped,
            waiting=counters.waiting,
            late=counters.late,
        )

    def end_waiting(self, slots: Iterable[int] | None = None) -> None:
        """Count what waited in a worker that has ended, at these outputs or all."""
        for slot in self.outputs.taken.values() if slots is None else slots:
            counters = self._view.outputs[slot]
            if counters.waiting:  # whatever a worker wrote there
                dropped = counters.dropped
                dropped.new_member = (dropped.new_member + counters.waiting) % 2**64
                counters.waiting = 0

    def end_in_hand(self) -> None:
        """Count what a worker had in hand when it crashed; see crashed.end_in_hand()."""
        crashed.end_in_hand(self._view)

    def end_frame(self, known: Callable[[str], crashed.Known | None]) -> Lost:
        """Count the frame on which it crashed; see crashed.end_frame(). `known` is by name."""

        def at(slot: int) -> crashed.Known | None:
            rule = self.rules.key_of(slot)
            return known(rule) if rule is not None else None

        return crashed.end_frame(self._view, at)

    def failing(self) -> list[tuple[str, Target]]:
        """The outputs that failed to send something since the last call, for any reason."""
        end = self.outputs.end
        self._unsent.extend(itertools.repeat(0, max(0, end - len(self._unsent))))
        slots = ffi.new("uint32_t[]", end)
        known = ffi.from_buffer("uint64_t[]", self._unsent)
        found = lib.counters_unsent(self._view.outputs, end, known, slots)
        keys = map(self.outputs.key_of, slots[0:found])
        return [key for key in keys if key is not None]

    def interface(self, ring_full: Lost, place: int = 0) -> InterfaceCount:
        """What the worker took from the rings of an interface, and what these had no room for."""
        view = self._view.interfaces[place]
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
        PerSecond(found.minute.packets / seconds, found.minute.bytes / seconds),
        Peak(found.second_peak, found.minute_peak),
    )


_SEGMENT: int = ffi.sizeof("struct segment")
_POSITIONS_AT: int = ffi.offsetof("struct segment", "positions")
_POSITIONS = 8 * int(lib.MCRD_POSITIONS)
_INTERFACE: int = ffi.sizeof("struct interface_counters")
_RULE: int = ffi.sizeof("struct rule_counters")
_INSPECTION: int = ffi.sizeof("struct inspect_counters")
_MERGE: int = ffi.sizeof("struct merge_counters")
_SWITCH: int = ffi.sizeof("struct switch_counters")
_OUTPUT: int = ffi.sizeof("struct output_counters")
