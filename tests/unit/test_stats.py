"""Counters on real shared memory: what workers write, and sums that never go back."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import time
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)
from mcrd.dataplane._dataplane import ffi, lib

from mcrd.daemon import health
from mcrd.lanes.counts import (
    DROP_REASONS,
    OF_OUTPUTS,
    OF_RINGS,
    OF_RULES,
    InterfaceCount,
    OutputCount,
    RuleCount,
)
from mcrd.lanes.ledger import Ledger
from mcrd.lanes.segment import NoRoomError, Segment, Slots
from mcrd.planning.resources import Ingress, Ring
from mcrd.sockets.lost import Lost
from mcrd.sums import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcrd.addresses import Target

ETH0 = Ring(Ingress("eth0", 2))
WALL: Target = ("eth1", ip_address("239.2.2.2"), 6000)
CLOUD: Target = ("wg0", ip_address("10.100.0.2"), 6000)


def drops(**counts: int) -> dict[str, int]:
    """Those of an output, with all that are 0."""
    return {**dict.fromkeys(OF_OUTPUTS, 0), **counts}


class Pen:
    """A worker's own mapping of a segment, to write to as a worker does."""

    def __init__(self, segment: Segment) -> None:
        self._descriptor = os.dup(segment.descriptor)
        self._memory = mmap.mmap(self._descriptor, ffi.sizeof("struct segment"))
        self._bytes = ffi.from_buffer(self._memory)
        self.view: Any = ffi.cast("struct segment *", self._bytes)

    def close(self) -> None:
        """Ends the mapping, as the end of a worker does."""
        self.view = None
        ffi.release(self._bytes)
        self._memory.close()
        os.close(self._descriptor)

    def rule(self, slot: int, packets: int, size: int) -> None:
        """Counts what a rule received."""
        self.view.rules[slot].traffic.packets += packets
        self.view.rules[slot].traffic.bytes += packets * size

    def rule_limited(self, slot: int, count: int) -> None:
        """Counts datagrams beyond the rule's limit."""
        self.view.rules[slot].rate_limited += count

    def output(self, slot: int, packets: int, size: int) -> None:
        """Counts what was sent to an output."""
        self.view.outputs[slot].traffic.packets += packets
        self.view.outputs[slot].traffic.bytes += packets * size

    def error(self, slot: int, number: int, count: int = 1) -> None:
        """Counts datagrams that were not sent, as count_error() in counters.c does."""
        places = self.view.outputs[slot].errors
        for place in places[0 : lib.MCRD_ERROR_PLACES - 1]:
            if place.number in (0, number):
                place.number = number
                place.count += count
                return
        places[lib.MCRD_ERROR_PLACES - 1].count += count

    def refused(self, slot: int, count: int) -> None:
        """Counts refusals."""
        self.view.outputs[slot].refused += count

    def rate_limited(self, slot: int, count: int) -> None:
        """Counts datagrams beyond the output's limit."""
        self.view.outputs[slot].dropped.rate_limited += count

    def new_member(self, slot: int, count: int) -> None:
        """Counts datagrams of members without a socket."""
        self.view.outputs[slot].dropped.new_member += count

    def waiting(self, slot: int, count: int) -> None:
        """Says how many wait now."""
        self.view.outputs[slot].waiting = count

    def used(self, slot: int, now: int) -> None:
        """Notes when a member was used last."""
        self.view.members[slot] = now

    def frames(self, packets: int, size: int) -> None:
        """Counts frames of the interface."""
        self.view.interfaces[0].traffic.packets += packets
        self.view.interfaces[0].traffic.bytes += packets * size

    def drop(self, reason: str, packets: int) -> None:
        """Counts frames that went no further."""
        self.view.interfaces[0].dropped[DROP_REASONS.index(reason)] += packets


@pytest.fixture
def segment() -> Iterator[Segment]:
    """A segment that no worker has written to."""
    made = Segment()
    yield made
    made.close()


@pytest.fixture
def pen(segment: Segment) -> Iterator[Pen]:
    """A worker's hand on the segment."""
    made = Pen(segment)
    yield made
    made.close()


def test_a_new_segment_has_counted_nothing(segment: Segment, pen: Pen) -> None:
    assert pen.view.version == lib.MCRD_SEGMENT_VERSION
    assert segment.interface(Lost()) == InterfaceCount()
    assert segment.rule(segment.rule_slot("camera")).received == Traffic(0, 0)
    assert segment.output(segment.output_slot("camera", WALL)) == OutputCount()


def test_what_a_worker_writes_is_read(segment: Segment, pen: Pen) -> None:
    rule_slot, output_slot = segment.rule_slot("camera"), segment.output_slot("camera", WALL)
    pen.rule(rule_slot, 10, 1400)
    pen.rule_limited(rule_slot, 6)
    pen.output(output_slot, 7, 1400)
    pen.error(output_slot, errno.ENETUNREACH, 3)
    pen.refused(output_slot, 2)
    pen.rate_limited(output_slot, 4)
    pen.new_member(output_slot, 5)
    assert segment.rule(rule_slot) == RuleCount(
        Traffic(10, 14000), {**dict.fromkeys(OF_RULES, 0), "rate_limited": 6}
    )
    assert segment.output(output_slot) == OutputCount(
        Traffic(7, 9800), {"ENETUNREACH": 3}, refused=2, dropped=drops(rate_limited=4, new_member=5)
    )


def test_every_reason_to_drop_is_read_under_its_name(segment: Segment, pen: Pen) -> None:
    numbers = {reason: number for number, reason in enumerate(DROP_REASONS, start=1)}
    for reason, number in numbers.items():
        pen.view.interfaces[0].dropped[getattr(lib, f"DROP_{reason.upper()}")] = number
    pen.frames(45, 60)
    assert segment.interface(Lost(3, 9)) == InterfaceCount(
        Traffic(45, 2700),
        {"ring_full": 9, "discarded": 0, **numbers},
        {"ring_full": 3, "discarded": 0},
    )


def test_every_drop_of_a_rule_is_read_under_its_name(segment: Segment, pen: Pen) -> None:
    slot = segment.rule_slot("camera")
    numbers = {reason: number for number, reason in enumerate(OF_RULES, start=1)}
    for reason, number in numbers.items():
        setattr(pen.view.rules[slot], reason, number)
    assert segment.rule(slot).dropped == numbers


def test_the_reasons_are_in_the_order_in_which_they_are_tried() -> None:
    assert list(InterfaceCount().dropped) == [*OF_RINGS, *DROP_REASONS]


def test_no_reason_has_lost_its_name() -> None:
    """Scripts rely on them; more may come."""
    names = "malformed bad_checksum fragment truncated wrong_vlan wrong_source own_output unmatched"
    of_rules = "rate_limited looped cut_off duplicate"
    assert not set(names.split() + of_rules.split()) - set(DROP_REASONS)
    assert not set(of_rules.split()) - set(OF_RULES)
    assert not {"rate_limited", "new_member", "unreachable"} - set(OF_OUTPUTS)


def test_counters_go_beyond_32_bits(segment: Segment, pen: Pen) -> None:
    slot = segment.rule_slot("camera")
    pen.rule(slot, 2**40, 1400)
    assert segment.rule(slot).received == Traffic(2**40, 2**40 * 1400)


def test_a_slot_is_its_owner_s_until_given_back(segment: Segment) -> None:
    first, second = segment.rule_slot("a"), segment.rule_slot("b")
    assert first != second
    assert (segment.rule_slot("a"), segment.rule_slot("b")) == (first, second)
    segment.rules.give_back("a")
    assert segment.rule_slot("c") == first


def test_an_output_is_known_by_its_rule_and_its_target(segment: Segment) -> None:
    slots = {segment.output_slot(name, target) for name in ("a", "b") for target in (WALL, CLOUD)}
    assert len(slots) == 4


def test_asking_for_a_slot_again_clears_nothing(segment: Segment, pen: Pen) -> None:
    pen.rule(segment.rule_slot("a"), 5, 100)
    pen.output(segment.output_slot("a", WALL), 5, 100)
    assert segment.rule(segment.rule_slot("a")).received.packets == 5
    assert segment.output(segment.output_slot("a", WALL)).sent.packets == 5


def test_a_slot_that_is_used_again_counts_from_zero(segment: Segment, pen: Pen) -> None:
    rule_slot, output_slot = segment.rule_slot("a"), segment.output_slot("a", WALL)
    pen.rule(rule_slot, 5, 100)
    pen.output(output_slot, 5, 100)
    pen.refused(output_slot, 1)
    pen.rate_limited(output_slot, 1)
    pen.new_member(output_slot, 1)
    for number in range(1, 20):
        pen.error(output_slot, number)
    segment.rules.give_back("a")
    segment.outputs.give_back(("a", WALL))
    assert (segment.rule_slot("b"), segment.output_slot("b", WALL)) == (rule_slot, output_slot)
    assert segment.rule(rule_slot).received == Traffic(0, 0)
    assert segment.output(output_slot) == OutputCount()
    assert {int(place.number) for place in pen.view.outputs[output_slot].errors} == {0}


def test_a_new_slot_clears_no_neighbour(segment: Segment, pen: Pen) -> None:
    for name in ("a", "b", "c"):
        pen.rule(segment.rule_slot(name), 5, 100)
        pen.output(segment.output_slot(name, WALL), 5, 100)
    segment.rules.give_back("b")
    segment.outputs.give_back(("b", WALL))
    segment.rule_slot("new")
    segment.output_slot("new", WALL)
    for name in ("a", "c"):
        assert segment.rule(segment.rule_slot(name)).received.packets == 5
        assert segment.output(segment.output_slot(name, WALL)).sent.packets == 5


def test_the_last_slots_are_within_the_segment(segment: Segment, pen: Pen) -> None:
    for number in range(lib.MCRD_RULE_SLOTS):
        segment.rule_slot(str(number))
    for number in range(lib.MCRD_OUTPUT_SLOTS):
        segment.output_slot(str(number), WALL)
    pen.output(lib.MCRD_OUTPUT_SLOTS - 1, 3, 10)
    assert segment.output(lib.MCRD_OUTPUT_SLOTS - 1).sent == Traffic(3, 30)
    with pytest.raises(NoRoomError, match="more than 16384 rules on one worker"):
        segment.rule_slot("one more")
    with pytest.raises(NoRoomError, match="more than 65536 outputs on one worker"):
        segment.output_slot("one more", WALL)
    segment.rules.give_back("17")
    assert segment.rule_slot("one more") == 17


def test_what_a_worker_had_in_hand_is_told_once(segment: Segment, pen: Pen) -> None:
    """And what the kernel had been given has left. Whatever a worker writes there does no harm."""
    slot = segment.output_slot("a", WALL)
    pen.view.in_hand[3] = (slot, 100, 7, 2)
    pen.view.in_hand[4] = (lib.MCRD_OUTPUT_SLOTS, 1, 5, 0)
    pen.view.in_hand[5] = (slot, 2**32 - 1, 1, 2**32 - 1)
    pen.view.submitted = 1
    for _ in range(2):
        segment.end_in_hand()
        found = segment.output(slot)
        assert found.sent == Traffic(3, 200 + 2**32 - 1)
        assert (found.dropped["crashed"], segment.sent) == (5, 3)
    pen.view.in_hand[3] = (slot, 100, 7, 2)
    pen.view.submitted = 0
    segment.end_in_hand()
    assert (segment.output(slot).dropped["crashed"], segment.sent) == (12, 3)


def test_another_input_may_bring_what_a_worker_had_in_hand(segment: Segment, pen: Pen) -> None:
    """What it had relayed before stays known, and so does all where nothing was lost."""
    for at, micros in enumerate((0, 999, 1000, 1001, 2**40 - 1)):
        pen.view.copies[at].tag = at + 1
        pen.view.copies[at].time = (10**15 + micros) % 2**40
    pen.view.first_in_hand = (10**15 + 1000) * 1000 + 500
    pen.view.submitted = 1
    segment.end_in_hand()
    assert [pen.view.copies[at].tag for at in range(5)] == [1, 2, 3, 4, 5]
    pen.view.submitted = 0
    segment.end_in_hand()
    assert [pen.view.copies[at].tag for at in range(5)] == [1, 2, 0, 0, 5]
    assert pen.view.first_in_hand == 0
    segment.end_in_hand()
    assert [pen.view.copies[at].tag for at in range(5)] == [1, 2, 0, 0, 5]


def test_no_two_owners_have_one_slot() -> None:
    slots = Slots(3, "things")
    assert [slots.take(key)[0] for key in "abc"] == [0, 1, 2]
    slots.give_back("b")
    slots.give_back("a")
    assert {slots.take(key)[0] for key in "de"} == {0, 1}
    with pytest.raises(NoRoomError, match="more than 3 things"):
        slots.take("f")
    assert slots.take("c") == (2, False)


def test_a_slot_knows_whose_it_is() -> None:
    slots = Slots(2, "things")
    assert slots.key_of(0) is None
    slot, _ = slots.take("a")
    assert (slots.key_of(slot), slots.key_of(1 - slot), slots.key_of(-1)) == ("a", None, None)
    slots.give_back("a")
    assert slots.key_of(slot) is None
    slots.take("b")
    assert slots.key_of(slot) == "b"


def test_a_member_s_slot_says_when_it_was_used_and_now_when_it_is_new(
    segment: Segment, pen: Pen
) -> None:
    slot = segment.member_slot("a", 1)
    assert segment.last_used(slot) == 1
    pen.used(slot, 2**62)
    assert segment.member_slot("a", 2) == slot
    assert segment.last_used(slot) == 2**62
    other = segment.member_slot("b", 3)
    assert (other != slot, segment.last_used(other)) == (True, 3)
    segment.members.give_back("a")
    assert segment.member_slot("c", 4) == slot
    assert segment.last_used(slot) == 4


def test_the_last_member_s_slot_is_within_the_segment(segment: Segment, pen: Pen) -> None:
    for number in range(lib.MCRD_MEMBER_SLOTS):
        segment.member_slot(number, 1)
    pen.used(lib.MCRD_MEMBER_SLOTS - 1, 7)
    assert segment.last_used(lib.MCRD_MEMBER_SLOTS - 1) == 7
    with pytest.raises(NoRoomError, match="more than 65536 members on one worker"):
        segment.member_slot("one more", 1)


def test_errors_have_the_names_of_their_numbers(segment: Segment, pen: Pen) -> None:
    slot = segment.output_slot("a", WALL)
    for number in (errno.ENETUNREACH, errno.EPERM, errno.EAGAIN):
        pen.error(slot, number, number)
    assert segment.output(slot).errors == {
        "ENETUNREACH": errno.ENETUNREACH,
        "EPERM": errno.EPERM,
        "EAGAIN": errno.EAGAIN,
    }


def test_errors_that_found_no_place_are_counted_as_others(segment: Segment, pen: Pen) -> None:
    slot = segment.output_slot("a", WALL)
    for number in range(1, 11):  # seven places of their own
        pen.error(slot, number)
    named = {errno.errorcode[number]: 1 for number in range(1, 8)}
    assert segment.output(slot).errors == {**named, "OTHER": 3}


def test_errors_without_a_name_are_added_to_the_others(segment: Segment, pen: Pen) -> None:
    # 524 is ENOTSUPP, which some drivers let out and errno.h does not have.
    slot = segment.output_slot("a", WALL)
    pen.error(slot, 524, 5)
    pen.error(slot, 512, 7)
    assert segment.output(slot).errors == {"OTHER": 12}
    for number in range(1, 7):
        pen.error(slot, number)
    assert segment.output(slot).errors["OTHER"] == 13


def test_a_worker_cannot_change_the_size(segment: Segment) -> None:
    size = os.fstat(segment.descriptor).st_size
    for other in (0, size - 1, size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(segment.descriptor, other)
    assert os.fstat(segment.descriptor).st_size == size == ffi.sizeof("struct segment")


def test_a_worker_cannot_take_the_writing_away(segment: Segment) -> None:
    with pytest.raises(PermissionError):
        fcntl.fcntl(segment.descriptor, 1033, 8)  # F_ADD_SEALS, F_SEAL_WRITE


def test_closing_a_segment_ends_its_descriptor() -> None:
    made = Segment()
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made.descriptor)


# The ledger.


def test_what_ended_stays_in_the_sum(segment: Segment, pen: Pen) -> None:
    ledger = Ledger()
    ledger.attach(ETH0, segment)
    pen.rule(segment.rule_slot("camera"), 10, 100)
    pen.output(segment.output_slot("camera", WALL), 10, 100)
    pen.rate_limited(segment.output_slot("camera", WALL), 1)
    pen.new_member(segment.output_slot("camera", WALL), 2)
    ledger.end_rule(ETH0, "camera")
    ledger.end_output(ETH0, "camera", WALL)
    pen.rule(segment.rule_slot("camera"), 5, 100)
    pen.output(segment.output_slot("camera", WALL), 4, 100)
    pen.error(segment.output_slot("camera", WALL), errno.EPERM)
    pen.rate_limited(segment.output_slot("camera", WALL), 3)
    pen.new_member(segment.output_slot("camera", WALL), 4)
    assert ledger.rule("camera").received == Traffic(15, 1500)
    assert ledger.output("camera", WALL) == OutputCount(
        Traffic(14, 1400), {"EPERM": 1}, refused=0, dropped=drops(rate_limited=4, new_member=6)
    )


def test_what_waits_is_lost_with_its_worker(segment: Segment, pen: Pen) -> None:
    ledger = Ledger()
    ledger.attach(ETH0, segment)
    slot = segment.output_slot("camera", WALL)
    pen.new_member(slot, 2)
    pen.waiting(slot, 3)
    assert ledger.output("camera", WALL) == OutputCount(dropped=drops(new_member=2), waiting=3)
    segment.end_waiting()
    assert ledger.output("camera", WALL) == OutputCount(dropped=drops(new_member=5))
    pen.waiting(slot, 4)
    ledger.end_output(ETH0, "camera", WALL)
    assert ledger.output("camera", WALL) == OutputCount(dropped=drops(new_member=9))


def test_looking_changes_nothing(segment: Segment, pen: Pen) -> None:
    ledger = Ledger()
    ledger.attach(ETH0, segment)
    slot = segment.output_slot("camera", WALL)
    pen.error(slot, errno.EPERM)
    ledger.end_output(ETH0, "camera", WALL)
    pen.error(segment.output_slot("camera", WALL), errno.EPERM)
    for _ in range(3):
        assert ledger.output("camera", WALL).errors == {"EPERM": 2}
        assert ledger.interfaces({ETH0: Lost(4, 4)})["eth0"].dropped["ring_full"] == 4


def test_ending_what_never_was_is_nothing(segment: Segment) -> None:
    ledger = Ledger()
    ledger.attach(ETH0, segment)
    ledger.end_rule(ETH0, "camera")
    ledger.end_output(ETH0, "camera", WALL)
    assert ledger.rule("camera").received == Traffic()
    assert ledger.output("camera", WALL) == OutputCount()


def test_a_ring_that_was_made_anew_adds_to_its_interface() -> None:
    ledger = Ledger()
    for index in (2, 7):
        ring, made = Ring(Ingress("eth0", index)), Segment()
        ledger.attach(ring, made)
        pen = Pen(made)
        pen.frames(3, 100)
        pen.drop("unmatched", 1)
        pen.close()
        assert ledger.interfaces({ring: Lost(5, 5)})["eth0"].received.packets == (
            3 if index == 2 else 6
        )
        ledger.detach(ring, Lost(5, 5))
    total = ledger.interfaces({})["eth0"]
    assert total.received == Traffic(6, 600)
    assert (total.dropped["unmatched"], total.dropped["ring_full"]) == (2, 10)


def test_what_no_worker_took_of_closed_rings_is_discarded() -> None:
    ledger, ring, made = Ledger(), Ring(Ingress("eth0", 2)), Segment()
    ledger.attach(ring, made)
    pen = Pen(made)
    pen.frames(30, 100)
    pen.close()
    ledger.detach(ring, Lost(5, 5), Lost(3, 7))
    assert ledger.interfaces({})["eth0"].dropped["discarded"] == 7
    assert ledger.interfaces({})["eth0"].dropped_frames["discarded"] == 3
    again = Segment()
    ledger.attach(ring, again)
    count, _ = ledger.ring(ring, Lost(1, 1))  # a worker's counts go on, as its interface's do
    assert count.received.packets == 30
    assert (count.dropped["ring_full"], count.dropped["discarded"]) == (6, 7)
    ledger.detach(ring, Lost(1, 1))
    assert ledger.interfaces({})["eth0"].dropped["discarded"] == 7


def test_a_rule_on_two_workers_is_one_sum() -> None:
    ledger = Ledger()
    rings = [Ring(Ingress("eth0", 2, workers=2), number) for number in (0, 1)]
    for ring, number in zip(rings, (2, 3), strict=True):
        made = Segment()
        ledger.attach(ring, made)
        pen = Pen(made)
        pen.rule(made.rule_slot("camera"), number, 1)
        pen.output(made.output_slot("camera", WALL), number, 1)
        pen.frames(number, 100)
        pen.close()
    live = dict.fromkeys(rings, Lost(4, 4))
    while True:
        assert ledger.rule("camera").received.packets == 5
        assert ledger.output("camera", WALL).sent.packets == 5
        total = ledger.interfaces(live)["eth0"]
        assert total.received.packets == 5
        assert total.dropped["ring_full"] == 8
        if not live:
            break
        ledger.detach(*live.popitem())


def test_one_packet_in_a_minute_has_a_rate_and_two_workers_have_its_sum() -> None:
    ledger = Ledger()
    for number in (0, 1):
        ring, made = Ring(Ingress("eth0", 2, workers=2), number), Segment()
        ledger.attach(ring, made)
        pen = Pen(made)
        for counters in (
            pen.view.interfaces[0],
            pen.view.rules[made.rule_slot("clock")],
            pen.view.outputs[made.output_slot("clock", WALL)],
        ):
            then = time.time_ns() - 3 * 10**9  # a window that is closed when it is read
            counters.meter.window = then // 10**7
            counters.meter.second.tag = then // 10**9
            counters.traffic.packets, counters.traffic.bytes = 1, 1
        pen.close()
    for found in (
        ledger.rule_rate("clock"),
        ledger.output_rate("clock", WALL),
        ledger.interface_rates()["eth0"],
    ):
        assert 2 / 64 <= found.minute.packets == found.minute.bytes <= 2 / 60
        shown = found.rounded().minute
        assert 0.031 <= shown.packets == shown.bytes <= 0.033
    assert ledger.ring(ring, Lost())[1].rounded().minute.packets in (0.016, 0.017)


def test_the_line_of_the_status_shows_slow_streams() -> None:
    before, now = health.Flow(0.0), health.Flow(30.0, received=1, sent=360, interfaces=1)
    assert health.flow(before, now) == "1 interface, 0.033 pps in, 12 pps out, 0 lost"


def test_what_the_rule_file_has_no_more_is_forgotten(segment: Segment, pen: Pen) -> None:
    ledger = Ledger()
    ledger.attach(ETH0, segment)
    for name in ("stays", "goes"):
        pen.rule(segment.rule_slot(name), 1, 1)
        ledger.end_rule(ETH0, name)
        for target in (WALL, CLOUD):
            pen.output(segment.output_slot(name, target), 1, 1)
            ledger.end_output(ETH0, name, target)
    ledger.forget(["stays"], [("stays", WALL)])
    assert (ledger.rule("stays").received.packets, ledger.rule("goes").received.packets) == (1, 0)
    assert ledger.output("stays", WALL).sent.packets == 1
    assert ledger.output("stays", CLOUD).sent.packets == 0
    assert ledger.output("goes", WALL).sent.packets == 0


class Life(RuleBasedStateMachine):
    """Workers that come, count and go, in any order; every sum is what was ever counted."""

    attached = Bundle("attached")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.live: dict[Ring, tuple[Segment, Pen, int]] = {}
        self.next_index = 1
        self.received: Counter[str] = Counter()
        self.sent: Counter[tuple[str, Target]] = Counter()
        self.errors: Counter[tuple[str, Target]] = Counter()
        self.frames: Counter[str] = Counter()
        self.ring_full: Counter[str] = Counter()

    names = st.sampled_from(["a", "b"])
    targets = st.sampled_from([WALL, CLOUD])
    numbers = st.integers(1, 1000)

    @initialize(target=attached)
    def begin(self) -> Ring:
        return self._attach("eth0")

    @rule(target=attached, interface=st.sampled_from(["eth0", "eth1"]))
    def attach(self, interface: str) -> Ring:
        return self._attach(interface)

    def _attach(self, interface: str) -> Ring:
        ring, made = self._ring(interface), Segment()
        self.ledger.attach(ring, made)
        self.live[ring] = (made, Pen(made), 0)
        return ring

    def _ring(self, interface: str) -> Ring:
        """In pairs, as of two workers."""
        self.next_index += 1
        return Ring(Ingress(interface, self.next_index // 2, workers=2), self.next_index % 2)

    @rule(ring=attached, name=names, output=targets, number=numbers)
    def relay(self, ring: Ring, name: str, output: Target, number: int) -> None:
        segment, pen, _ = self.live[ring]
        pen.frames(number, 100)
        pen.rule(segment.rule_slot(name), number, 100)
        pen.output(segment.output_slot(name, output), number, 100)
        self.frames[ring.interface] += number
        self.received[name] += number
        self.sent[name, output] += number

    @rule(ring=attached, name=names, output=targets, code=st.integers(1, 40), number=numbers)
    def fail(self, ring: Ring, name: str, output: Target, code: int, number: int) -> None:
        segment, pen, _ = self.live[ring]
        pen.error(segment.output_slot(name, output), code, number)
        self.errors[name, output] += number

    @rule(ring=attached, number=numbers)
    def overflow(self, ring: Ring, number: int) -> None:
        segment, pen, before = self.live[ring]
        self.live[ring] = (segment, pen, before + number)
        self.ring_full[ring.interface] += number

    @rule(ring=attached, name=names)
    def end_rule(self, ring: Ring, name: str) -> None:
        self.ledger.end_rule(ring, name)

    @rule(ring=attached, name=names, output=targets)
    def end_output(self, ring: Ring, name: str, output: Target) -> None:
        self.ledger.end_output(ring, name, output)

    @rule(ring=consumes(attached))
    def detach(self, ring: Ring) -> None:
        _, pen, ring_full = self.live.pop(ring)
        pen.close()
        self.ledger.detach(ring, Lost(ring_full, ring_full))

    @rule()
    def keep(self) -> None:
        self.ledger.forget(["a", "b"], [(n, t) for n in ("a", "b") for t in (WALL, CLOUD)])

    @invariant()
    def every_sum_is_what_was_ever_counted(self) -> None:
        for name in ("a", "b"):
            assert self.ledger.rule(name).received.packets == self.received[name]
            assert self.ledger.rule(name).received.bytes == self.received[name] * 100
            for target in (WALL, CLOUD):
                found = self.ledger.output(name, target)
                assert found.sent.packets == self.sent[name, target]
                assert sum(found.errors.values()) == self.errors[name, target]
        live = {ring: Lost(full, full) for ring, (_, _, full) in self.live.items()}
        for interface, found_there in self.ledger.interfaces(live).items():
            assert found_there.received.packets == self.frames[interface]
            assert found_there.dropped["ring_full"] == self.ring_full[interface]

    def teardown(self) -> None:
        for ring, (_, pen, ring_full) in self.live.items():
            pen.close()
            self.ledger.detach(ring, Lost(ring_full, ring_full))


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
