"""Members of ranges, and sources that are kept: sockets made when a worker first sees them.

A rule has as many members as the network cares to send; what they may cost is bounded. Beyond the
bound, the one that was idle longest makes room, if it was idle at all. One that is idle for very
long ends in any case.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import heapq
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mcrd.dataplane import messages
from mcrd.errors import words
from mcrd.events import Complaints
from mcrd.lanes.askers import Askers, answers_for
from mcrd.lanes.channel import WorkerError, end_sockets, own_sources, unheard
from mcrd.lanes.gates import Gates
from mcrd.lanes.member import ENDS_AFTER, Member, Sockets, take_some
from mcrd.lanes.orders import egress_of, may_have, members_of
from mcrd.lanes.process import WorkerProcess
from mcrd.lanes.segment import NoRoomError, Segment
from mcrd.model import DEFAULT_MEMBERS
from mcrd.planning.actual import Changed, Listeners
from mcrd.planning.relays import Relay
from mcrd.planning.replies import ASKERS_AT_MOST, belongs
from mcrd.planning.resources import Egress
from mcrd.sockets.egress import EgressSockets

IDLE = 1_000_000_000  # nanoseconds without a packet after which a member may make room
ROOM_AT_ONCE = 128  # a part: one in so many makes room together, at the least 64
LOOKED_AT = 64  # members in one look, or in one turn of the loop

Announce = Callable[[], None]

log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """A member that a worker asks for, and the rule that it is of."""

    key: messages.MemberKey
    relay: Relay
    rule: str


class MemberSockets:
    """The members of one lane: they outlive the worker that asked for them.

    `at_most` is how many there may be. `changed` says that there are others than before. Functions
    call `announce` when own() has grown, before anything is sent from there.
    """

    def __init__(self, segment: Segment, opener: EgressSockets) -> None:
        self.at_most = DEFAULT_MEMBERS
        self.askers = Askers(segment)
        self._segment = segment
        self._opener = opener
        self._members: dict[messages.MemberKey, Member] = {}
        self._complain = Complaints(log)
        self._own: Counter[messages.Endpoint] = Counter()
        self._look_again: dict[str | None, int] = {}  # nanoseconds, for rules and for all
        self._of_rule: Counter[str] = Counter()
        self._gates = Gates()
        self._due: dict[messages.MemberKey, None] = {}  # their turn comes after listen()
        self._lacking: dict[messages.MemberKey, None] = {}  # those without a socket that is wanted
        self._next: list[messages.MemberKey] = []  # those that are looked at next, the last first
        self._resting: dict[str, set[messages.MemberKey]] = {}  # by rule; no worker has them
        self.changed = False

    def all(self) -> Iterator[tuple[messages.MemberKey, str, int]]:
        """Each with its rule and its slot."""
        for key, member in self._members.items():
            yield key, member.rule, member.slot

    def sockets(self) -> Iterator[socket.socket]:
        """Those of all of them."""
        for member in self._members.values():
            yield from member.sockets.values()

    def add(self, key: messages.MemberKey, rule: str, slot: int) -> None:
        """A member that there was before; it gets sockets when a worker has its rule."""
        self._members[key] = Member(rule, slot, {}, since=time.monotonic())
        self._of_rule[rule] += 1
        self._resting.setdefault(rule, set()).add(key)

    def rest(self) -> None:
        """The worker has ended; the next one gets them with their rules."""
        self._segment.end_waiting()
        self._due.clear()
        self._resting = {}
        for key, member in self._members.items():
            self._resting.setdefault(member.rule, set()).add(key)

    def rests(self, rule: str) -> bool:
        """Whether the rule has members that no worker has."""
        return rule in self._resting

    def end_resting(self, process: WorkerProcess) -> None:
        """The worker has all its rules: members that are still nobody's have none any more."""
        for keys in self._resting.values():
            for key in keys & self._members.keys():
                self._close(process, key)
        self._resting.clear()

    def open(self, process: WorkerProcess, wanted: Sequence[Wanted], announce: Announce) -> None:
        """Open sockets of members, and tell the worker, or tell it that there are none."""
        made: list[messages.MemberKey] = []
        own = len(self._own)
        for key, relay, rule in wanted:
            outputs = [egress_of(output, key) for output in members_of(relay)]
            self._gates.note(key, outputs, members_of(relay))
            # One that is there already: the worker had no memory for it.
            if key in self._members or self._open(process, key, outputs, rule):
                self._members[key].outputs = outputs
                made.append(key)
            else:
                self._gates.forget(key)
                unheard(process.request(messages.RemoveMember, key))
        # None has made room for another, unless the clock was set or the worker is hostile.
        there = [key for key in made if key in self._members]
        self._hand_over(process, there, announce if len(self._own) > own else None)

    def _hand_over(
        self, process: WorkerProcess, keys: Iterable[messages.MemberKey], announce: Announce | None
    ) -> None:
        """Tell the worker of these members, and hand it the sockets that are new to it."""
        if announce is not None:
            announce()
        there = {key: self._members[key] for key in keys}
        self._add_sockets(
            process, {e: s for member in there.values() for e, s in member.sockets.items()}
        )
        for key, member in there.items():
            self._tell(process, key, member)

    def listen(
        self,
        process: WorkerProcess | None,
        listeners: Listeners,
        changed: Changed,
        announce: Announce,
    ) -> None:
        """Let members send only while somebody wants it; others are wanted of these groups.

        Of very many, some have their turn at once, and the others soon.
        """
        keys, others_wait = self._gates.listen(listeners, changed), bool(self._due)
        if process is not None:
            self._due.update(dict.fromkeys(keys))
            if not others_wait:
                self._go_on(process, announce)

    def _go_on(self, process: WorkerProcess, announce: Announce) -> None:
        some = take_some(self._due, LOOKED_AT)
        if process.connected:
            self._complete(process, some, announce)
        if self._due:
            asyncio.get_running_loop().call_soon(self._go_on, process, announce)

    def _complete(
        self, process: WorkerProcess, keys: Iterable[messages.MemberKey], announce: Announce
    ) -> None:
        """Open what these members lack and somebody wants, and tell the worker."""
        own, there = len(self._own), []
        for key in keys:
            member = self._members.get(key)
            if member is None or key in self._resting.get(member.rule, ()):
                continue
            there.append(key)
            lacking = [egress for egress in member.outputs if egress not in member.sockets]
            if new := self._open_wanted(key, lacking):
                member.sockets |= new
                self.changed = True
                self._own.update(own_sources(new))
        self._hand_over(process, there, announce if len(self._own) > own else None)

    def _open(
        self,
        process: WorkerProcess,
        key: messages.MemberKey,
        outputs: Sequence[Egress],
        rule: str,
    ) -> bool:
        """Open a member's sockets, as many as there can be. Has it any, or needs it none yet?"""
        if not self._has_room(process, rule, outputs):
            return False
        sockets = self._open_wanted(key, outputs)
        if not sockets and not self._gates.shut(key, outputs):
            return False
        try:
            now = time.time_ns()
            slot = self._segment.member_slot(key, now)
        except NoRoomError as error:
            self._complain(rule, str(error))
            for sock in sockets.values():
                sock.close()
            return False
        self._members[key] = Member(rule, slot, sockets, now, time.monotonic())
        self._of_rule[rule] += 1
        self.changed = True
        self._own.update(own_sources(sockets))
        return True

    def _open_wanted(self, key: messages.MemberKey, outputs: Sequence[Egress]) -> Sockets:
        """Open sockets for what somebody wants: others would take their time, and be idle."""
        found = (self._try(each, {}) for each in outputs if not self._gates.shuts(key, each))
        return {egress: sock for some in found for egress, sock in some.items()}

    def _try(self, egress: Egress, have: Sockets) -> Sockets:
        try:
            return self._opener.open_member(egress, have)
        except OSError as error:
            self._complain(egress.rule, f"{egress}: {words(error)}")
            return {}

    def keep(
        self, process: WorkerProcess, rule: str, relay: Relay, announce: Announce, *, same: bool
    ) -> None:
        """The worker has kept a rule's members: they get what they lack in its new form.

        Sockets of both forms stay open. The worker hears of members that rest, of those whose
        sockets change, and, unless all outputs are the `same` as before, of the others.
        """
        outputs = members_of(relay)
        resting = self._resting.pop(rule, set())
        if resting:
            keys = list(resting & self._members.keys())
        else:
            keys = [key for key, member in self._members.items() if member.rule == rule]
        slot = self._segment.rules.taken.get(rule)
        changed: dict[messages.MemberKey, None] = {}
        new: Sockets = {}
        gone: Sockets = {}
        for key in keys:
            member = self._members[key]
            # What rested may be of a rule that was another one, or had another place.
            if resting and (key.slot != slot or not may_have(relay, key)):
                self._close(process, key)
                continue
            wanted = member.outputs = [egress_of(output, key) for output in outputs]
            self._gates.note(key, wanted, outputs)
            before, member.sockets = member.sockets, {}
            for egress in wanted:
                if egress in before:
                    of_it = [one for one in before if belongs(one, egress)]
                    member.sockets |= {one: before.pop(one) for one in of_it}
                    continue
                if self._gates.shuts(key, egress):
                    continue
                changed[key] = None
                opened = self._try(egress, before)
                new |= {one: sock for one, sock in opened.items() if one not in before}
                for one in opened:
                    before.pop(one, None)
                member.sockets |= opened
            if resting or not same or not member.sockets:
                changed[key] = None
            gone |= before
        self._own.update(own_sources(new))
        self.changed = self.changed or bool(changed)
        self._hand_over(process, changed, announce if new else None)
        self._end(process, gone)

    def _add_sockets(self, process: WorkerProcess, sockets: Mapping[Egress, socket.socket]) -> None:
        try:
            process.add_sockets(sockets)
        except WorkerError as error:
            rule = next(iter(sockets)).rule
            self._complain(rule, str(error))

    def _tell(self, process: WorkerProcess, key: messages.MemberKey, member: Member) -> None:
        """Says which sockets a member has; one that lacks all ends, and is asked for again."""
        lost = {e: s for e, s in member.sockets.items() if e not in process.places}
        for egress in lost:
            del member.sockets[egress]
        self._end(process, lost)
        if not member.sockets and not self._gates.shut(key, member.outputs):
            unheard(process.request(messages.RemoveMember, key))
            self._close(process, key)
            return
        member.ends_after = answers_for(member.outputs) or ENDS_AFTER
        for egress in member.outputs:
            if egress.sending.replies is not None and egress in member.sockets:
                try:
                    self.askers.listen(process, key, egress, member.slot)
                except NoRoomError as error:
                    self._complain(egress.rule, str(error))
        has = [
            messages.UNWANTED if self._gates.shuts(key, egress) else process.places.get(egress)
            for egress in member.outputs
        ]
        if None in has:
            self._lacking[key] = None
        unheard(process.request(messages.AddMember, key, member.slot, has))

    def answer(self, process: WorkerProcess, place: int) -> None:
        """Tell the worker by which socket the first answer at that place goes."""
        where = self.askers.at(process, place)
        member = self._members.get(where[0]) if where is not None else None
        if where is None or member is None or where[1] not in member.sockets:
            unheard(process.request(messages.Answerer, place, None, messages.NOWHERE))
            return
        try:
            self.askers.answer(process, self._opener, place, where[1], member.sockets)
        except (OSError, WorkerError) as error:
            why = words(error) if isinstance(error, OSError) else str(error)
            self._complain(member.rule, f"{where[1]}: {why}")

    def own(self) -> set[messages.Endpoint]:
        """Addresses and ports of this host that members send from."""
        return set(self._own)

    def end(self, process: WorkerProcess | None, rule: str | None = None) -> None:
        """Closes the members of a rule, or all. The worker has forgotten them with the rule."""
        for key in [k for k, m in self._members.items() if rule in (None, m.rule)]:
            self._close(process, key)

    def look(self, process: WorkerProcess, announce: Announce) -> bool:
        """Try again what some members lack, and end those that are idle for long. Were there any?

        The times in the segment are of the real-time clock, which may be set, and the worker writes
        them: so it counts since when the time of a member is the same.
        """
        if self._resting:
            return False  # no worker has them, so nothing can be said
        self._complete(process, take_some(self._lacking, LOOKED_AT), announce)
        if not self._next:
            self._next = list(self._members)
        now = time.monotonic()
        some, self._next = self._next[-LOOKED_AT:], self._next[:-LOOKED_AT]
        idle = []
        for key in some:
            if (member := self._members.get(key)) is not None:
                self.askers.look(member.sockets)
                if member.is_idle(self._segment.last_used(member.slot), now):
                    idle.append(key)
        for key in idle:
            unheard(process.request(messages.RemoveMember, key))
            self._close(process, key)
        return bool(idle)

    def _has_room(self, process: WorkerProcess, rule: str, wanted: Sequence[Egress]) -> bool:
        """Whether one more member may come, of the rule and of all; some may end for it."""
        asks = any(egress.sending.replies is not None for egress in wanted)
        if asks and self._of_rule[rule] >= ASKERS_AT_MOST and not self._makes_room(process, rule):
            self._complain(rule, f"has more than {ASKERS_AT_MOST} askers at once")
            return False
        if len(self._members) >= self.at_most and not self._makes_room(process):
            self._complain(rule, f"has more than {self.at_most} members at once")
            return False
        return True

    def _makes_room(self, process: WorkerProcess, rule: str | None = None) -> bool:
        """Close some that were idle longest, of a rule or of all; look no more often than pays."""
        now = time.time_ns()
        if now < self._look_again.get(rule, 0):
            return False
        last = {
            key: self._segment.last_used(member.slot)
            for key, member in self._members.items()
            if rule in (None, member.rule)
        }
        some = max(64, len(last) // ROOM_AT_ONCE)
        oldest = heapq.nsmallest(some, last, key=last.__getitem__)
        idle = [key for key in oldest if now - last[key] >= IDLE]
        for key in idle:
            unheard(process.request(messages.RemoveMember, key))
            self._close(process, key)
        if not idle:
            self._look_again[rule] = now + IDLE
        return bool(idle)

    def _close(self, process: WorkerProcess | None, key: messages.MemberKey) -> None:
        member = self._members.pop(key)
        self._gates.forget(key)
        self._lacking.pop(key, None)
        self._of_rule[member.rule] -= 1
        if not self._of_rule[member.rule]:
            del self._of_rule[member.rule]
            self._look_again.pop(member.rule, None)
        self.changed = True
        self._segment.members.give_back(key)
        self._end(process, member.sockets)

    def _end(self, process: WorkerProcess | None, sockets: Mapping[Egress, socket.socket]) -> None:
        self._own -= Counter(own_sources(sockets))
        self.askers.forget(sockets)
        end_sockets(process, sockets)
