"""A lane: the rings that one worker reads, with all that belongs to them while they are open."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from socket import socket

from mcrd.dataplane import messages
from mcrd.dataplane._dataplane import lib
from mcrd.lanes.channel import Answer, WorkerError, unheard
from mcrd.lanes.crashed import Known
from mcrd.lanes.emptying import Emptying
from mcrd.lanes.hostile import ProtocolError
from mcrd.lanes.ledger import Ledger
from mcrd.lanes.members import MemberSockets, Wanted
from mcrd.lanes.orders import is_fit, kept, match_of, may_have, members_of, place_of, runs_of
from mcrd.lanes.process import WorkerProcess
from mcrd.lanes.retired import Retired
from mcrd.lanes.segment import Segment
from mcrd.lanes.spawn import Spawned
from mcrd.planning.links import Link
from mcrd.planning.relays import Relay, RelayKey
from mcrd.planning.replies import answers
from mcrd.planning.resources import Egress, Members, Ring, Worker
from mcrd.sockets.egress import EgressSockets
from mcrd.sockets.ingress import FOREVER, IngressSocket
from mcrd.sockets.lost import NOTHING, Lost, Taken

OWN_AT_ONCE = 2000  # endpoints in one message

Ended = Callable[["Lane", WorkerProcess, str], None]
"""What to do when a worker ends unasked; the text is what to tell the user."""


class Lane:
    """The rings that one worker reads, their counters and members, the worker, and its rules.

    It lasts as long as its rings are open. The worker comes and goes; the next one finds rings,
    counters and members as the one before left them. `announce` is called when members have begun
    or ceased to send from somewhere, before anything is sent from there.
    """

    def __init__(
        self,
        ring: Ring,
        sock: IngressSocket,
        segment: Segment,
        opener: EgressSockets,
        ledger: Ledger,
        announce: Callable[[], None],
        place: int = 0,
    ) -> None:
        self.rings: dict[Ring, IngressSocket] = {}
        self.places: dict[Ring, int] = {}
        """Where the segment has the counters of each, and the positions."""
        self._left: set[int] = set()  # places of rings that are gone, but not for the worker
        self.segment = segment
        self.members = MemberSockets(segment, opener)
        self.process: WorkerProcess | None = None
        """The worker, from its first answer to its end."""
        self.relays: dict[RelayKey, Relay] = {}
        """What the worker does."""
        self.is_relieved = False
        """Whether what waits in its rings is in others too, which relay it."""
        self.until = FOREVER
        """What arrives from then on, other lanes relay: ns of the real-time clock."""
        self._since = 0  # what arrived before, other lanes relay as well
        self._theirs: list[Sequence[int]] | None = None  # among so many frames, when they ended
        self._starting: WorkerProcess | None = None
        self._emptying = Emptying(self.rings, self.places, segment, ledger)
        self._changing: set[RelayKey] = set()
        self._wanted_meanwhile: dict[RelayKey, list[tuple[WorkerProcess, messages.MemberKey]]] = {}
        self._received_before = 0  # packets that the workers before this one took
        self._ledger = ledger
        self._announce = announce
        self.add(ring, sock, place)

    # The worker's life.

    async def start(
        self,
        worker: Worker,
        guard: int,
        links: Mapping[str, Link],
        ended: Ended,
        spare: Callable[[], Spawned | None] = lambda: None,
    ) -> WorkerProcess:
        """Start a worker without rules, of the spare if it answers; raise OSError, WorkerError.

        Nobody empties the rings any more: see emptied().
        """
        hardware = {ring: links[ring.interface].hardware for ring in self.rings}
        self._left.clear()
        ended_now = partial(self._ended, ended)
        process = WorkerProcess(worker, ended_now, self._wanted, self._unknown, spare)
        self._received_before, self._starting = self.segment.received, process
        try:
            await process.initialize(self.rings, self.places, self.segment, guard, hardware)
        except (OSError, WorkerError):
            await process.stop()
            stopped, self._starting = self._starting is None, None
            if process.is_mute and not stopped:
                return await self.start(worker, guard, links, ended)
            raise
        self._starting, self.process = None, process
        return process

    def _ended(self, ended: Ended, process: WorkerProcess, how: str) -> None:
        if self.process is not process:
            return  # it never became ready, and whoever started it knows
        self.process = None
        if process.crashed:
            self.segment.end_in_hand()
            before = self.segment.received
            self._end_frame(process.worker)
            self._received_before += self.segment.received - before  # it was of no use
        self.relays.clear()
        self.members.rest()
        # Suspect rings are made anew. Of those that others relieve, what is lost is known when they
        # are closed; of those that wait for their turn, the worker saw nothing.
        known_later = self.until != FOREVER or self.awaits_turn
        if not process.crashed or process.suspect or known_later:
            ended(self, process, how)
            return

        def then(done: bool) -> None:
            process.suspect = not done
            ended(self, process, how)

        self._emptying.begin(self._since, then)

    @property
    def is_emptied(self) -> bool:
        """Whether nobody empties the rings."""
        return self._emptying.is_over

    async def emptied(self) -> None:
        """Wait until nobody empties the rings any more: after a crash, that takes milliseconds."""
        await self._emptying.end()

    def _end_frame(self, worker: Worker) -> None:
        """Count the frame that it crashed on, of which some is in the counters of outputs."""
        rings = []

        def known(rule: str) -> Known | None:
            relay = self.relays.get(RelayKey(worker, rule))
            if relay is None:
                return None
            place = self.places.get(ring := relay.ring or worker.ring)
            if place is None:
                return None  # its interface is gone, and so are its counters
            rings.append(ring)
            slots = [self.segment.output_slot(rule, each.target) for each in relay.outputs]
            by_member = [isinstance(each, Members) for each in relay.outputs]
            return Known(place, slots, by_member)

        lost = self.segment.end_frame(known)
        for ring in rings:
            self._ledger.lose(ring, "discarded", lost)

    async def stop(self) -> None:
        """End the worker, also one that is starting."""
        process, self.process, self._starting = self.process or self._starting, None, None
        self.relays.clear()
        await self.emptied()
        if process is not None:
            await process.stop()

    async def rest(self) -> None:
        """End the worker for now: the next one finds all as it was."""
        await self.stop()
        self.members.rest()

    @property
    def connected(self) -> WorkerProcess | None:
        """The worker, if it can take requests."""
        process = self.process
        return process if process is not None and process.connected else None

    @property
    def is_useful(self) -> bool:
        """Whether its last worker took any packet."""
        return self.segment.received > self._received_before

    def look(self) -> None:
        """End the worker if it hangs."""
        if self.process is not None:
            self.process.look(self.segment.received)
        if self._theirs is not None and self.has_taken(self._theirs):
            self.leave_nothing()

    def look_at_members(self) -> bool:
        """End some members that are idle for long. Were there any?"""
        worker = self.connected
        ended = worker is not None and worker.begun and self.members.look(worker, self._announce)
        for (rule, target), lost in self.members.askers.take_lost().items():
            self._ledger.lose_answers(rule, target, lost)
        return ended

    # What the worker is told.

    def tell(self, kind: Callable[..., messages.AnyRequest], *rest: object) -> None:
        """Tell the worker something, if there is one, whose answer matters to nobody."""
        if self.process is not None:
            unheard(self.process.request(kind, *rest))

    def ask(self, kind: Callable[..., messages.AnyRequest], *rest: object) -> Answer:
        """Tell the worker something whose answer matters; raise WorkerError without a worker."""
        return self._reached().request(kind, *rest)

    def tell_own(self, own: set[messages.Endpoint]) -> None:
        """Tell the worker what this daemon sends from, so that it is never relayed again."""
        if self.process is None:
            return
        before, self.process.own = self.process.own, own
        for kind, endpoints in (
            (messages.AddOwn, own - before),
            (messages.RemoveOwn, before - own),
        ):
            ordered = sorted(endpoints, key=lambda e: (e.address, e.port))
            for at in range(0, len(ordered), OWN_AT_ONCE):
                self.tell(kind, ordered[at : at + OWN_AT_ONCE])

    def pause(self) -> None:
        """Let the worker leave its rings alone until begin()."""
        if self.process is not None:
            self.process.begun = False
            self.tell(messages.Pause)

    def begin(self) -> None:
        """Let the worker look at its rings: it has its rules. See leave()."""
        if self.process is not None and not self.process.begun:
            self.process.begun = True
            self.members.end_resting(self.process)
            self.tell(messages.Begin, self._since)

    @property
    def awaits_turn(self) -> bool:
        """Whether nobody has said yet from when on what comes is this lane's."""
        return self._since == FOREVER

    def await_turn(self) -> None:
        """Take nothing until leave() says from when on what comes is this lane's."""
        self._since = FOREVER
        self.pause()

    def leave(self, since: int) -> None:
        """Leave what arrived before then to other lanes: ns of the real-time clock.

        The worker passes that over now, and pauses at the rest until begin(); so does the next one.
        """
        self._since = since
        self.tell(messages.Begin, since, since)

    def leave_nothing(self) -> None:
        """Let the worker relay all that comes, when nothing of the others' comes any more.

        Where there is none, the next one has to pass over what waits, and it is done by look().
        """
        if self.process is not None and self.process.begun:
            self._since, self._theirs = 0, None
            self.tell(messages.Begin)
        elif self._theirs is None:
            self._theirs = self.filled

    def deafen(self) -> None:
        """Let nothing into its rings any more. What cannot be had is in others too."""
        for sock in self.rings.values():
            with contextlib.suppress(OSError):  # they are about to be closed
                sock.deafen()

    def add_sockets(self, relays: Iterable[Relay], sockets: Mapping[Egress, socket]) -> None:
        """Send the sockets that are new to the worker, many in a message.

        Those of a message that cannot be sent are sent again one by one, with their rules.
        """
        process = self.connected
        if process is not None:
            with contextlib.suppress(WorkerError):
                outputs = (socket for relay in relays for socket in relay.sockets)
                egresses = (o for o in outputs if isinstance(o, Egress) and o in sockets)
                process.add_sockets({egress: sockets[egress] for egress in egresses})

    def put(self, key: RelayKey, relay: Relay, sockets: Mapping[Egress, socket]) -> Answer:
        """Give the worker a rule, or the new form of one that it has.

        Raises NoRoomError, and WorkerError when there is no worker or a socket cannot be sent.
        """
        process, before = self._reached(), self.relays.get(key)
        for output in relay.sockets:
            if isinstance(output, Egress):
                process.add_sockets({output: sockets[output]})
        slot = self.segment.rule_slot(key.rule)
        outputs = [
            messages.RuleOutput(
                place_of(output, process.places),
                self.segment.output_slot(key.rule, output.target),
                portion.limit or 0,
                portion.sample,
                runs_of(portion, relay.input),
            )
            for output, portion in zip(relay.outputs, relay.portions, strict=True)
        ]
        place = self.places[relay.ring or key.worker.ring]
        ear = process.places[relay.ear] if relay.ear is not None else None
        match = match_of(relay, place, ear)
        self._changing.add(key)
        if before is None:
            future = process.request(messages.AddRule, slot, match, outputs)
            stay = self.members.rests(key.rule)
        else:
            which = kept(before, relay)
            future = process.request(messages.ReplaceRule, slot, match, outputs, which)
            stay = bool(which)
            if not stay:
                self.members.end(process, key.rule)
        if stay and not future.done():  # or it was not even sent
            had = members_of(before) if before is not None else ()
            same = set(had).issuperset(members_of(relay))
            self.members.keep(process, key.rule, relay, self._announce, same=same)
        return future

    def remove(self, key: RelayKey) -> Answer | None:
        """Take a rule from the worker; None if it does not have it."""
        process = self.connected
        if process is None or key not in self.relays:
            return None
        future = process.request(messages.RemoveRule, self.segment.rule_slot(key.rule))
        self._changing.add(key)
        self.members.end(process, key.rule)  # the worker forgets them with the rule
        return future

    def answered(self, key: RelayKey) -> None:
        """Note that a change of that rule is over, whether it was carried out or not."""
        self._changing.discard(key)
        for process, member in self._wanted_meanwhile.pop(key, ()):
            self._wanted(process, [member], late=True)

    def record(self, key: RelayKey, relay: Relay | None) -> None:
        """Note that the worker does that for a rule now; None: nothing any more."""
        before, ring = self.relays.pop(key, None), next(iter(self.rings))
        gone = {output.target for output in before.outputs} if before else set()
        if relay is None:
            self._ledger.end_rule(ring, key.rule)
        else:
            self.relays[key] = relay
            gone -= {output.target for output in relay.outputs}
        for target in gone:
            self._ledger.end_output(ring, key.rule, target)
            self._ledger.end_output(ring, key.rule, answers(target))

    def _reached(self) -> WorkerProcess:
        process = self.connected
        if process is None:
            raise WorkerError("the worker has ended")
        return process

    def _wanted(
        self, process: WorkerProcess, keys: Sequence[messages.MemberKey], *, late: bool = False
    ) -> None:
        """Open members for which packets wait; raises ProtocolError.

        `late`: they were asked for while their rule changed, and may be of its old form.
        """
        if self.process is not process:
            return
        wanted = []
        for key in keys:
            rule = self.segment.rules.key_of(key.slot) or ""
            where = RelayKey(process.worker, rule)
            if where in self._changing:
                self._wanted_meanwhile.setdefault(where, []).append((process, key))
                continue
            relay = self.relays.get(where)
            if relay is not None and not may_have(relay, key) and not late:
                raise ProtocolError(f"asked for a member that {rule} does not have")
            if relay is None or not may_have(relay, key) or not is_fit(key):
                self.tell(messages.RemoveMember, key)
            else:
                wanted.append(Wanted(key, relay, rule))
        self.members.open(process, wanted, self._announce)
        self._announce()

    def _unknown(self, process: WorkerProcess, places: Sequence[int]) -> None:
        """Say where answers go, of hosts that have not answered there before."""
        if self.process is process:
            for place in places:
                self.members.answer(process, place)

    # The rings.

    def add(self, ring: Ring, sock: IngressSocket, place: int | None = None) -> None:
        """Add a ring, which the next worker reads; raise OSError when there is no room.

        `place` is where the segment knows it already.
        """
        if place is None:
            taken = self._left.union(self.places.values())
            free = [place for place in range(lib.MCRD_INTERFACES) if place not in taken]
            if not free:
                text = f"a worker reads {lib.MCRD_INTERFACES} interfaces at most"
                raise OSError(errno.ENOSPC, text)
            place = free[0]
            self.segment.begin(place)
        self.rings[ring], self.places[ring] = sock, place
        self._ledger.attach(ring, self.segment, place)

    def hears(self, ring: Ring) -> bool:
        """Whether frames may come to the ring: its interface is there."""
        return bool(self.rings[ring].socket.getsockname()[0])

    @property
    def frames(self) -> int:
        """How many frames of the MTU there is room for."""
        return sum(sock.geometry.frames for sock in self.rings.values())

    def has_taken(self, filled: Sequence[Sequence[int]]) -> bool:
        """Whether its workers are done with so many frames of each ring; see `filled`."""
        given_back = chain(*(self.segment.given_back(self.places[ring]) for ring in self.rings))
        return all(map(operator.ge, given_back, chain.from_iterable(filled)))

    @property
    def filled(self) -> list[Sequence[int]]:
        """Frames that came into each ring so far."""
        for _, sock, taken in self._each():
            sock.ring_full(taken)  # it learns what came before it counted
        return [sock.filled for sock in self.rings.values()]

    def losses(self) -> Iterator[tuple[Ring, Lost]]:
        """What each ring had no room for so far."""
        for ring, sock, taken in self._each():
            yield ring, sock.ring_full(taken)

    def retire(self, ring: Ring, into: Retired) -> bool:
        """Let go of a ring, which counts on in `into`. Was it the last? Then the lane has ended.

        No worker reads it any more, or nothing comes to it.
        """
        if len(self.rings) == 1:
            self.members.end(None)
        sock, place = self.rings[ring], self.places[ring]
        self._left.add(place)
        sock.take_error()  # a worker that has it still would wake up for that
        taken = self.segment.taken(place)
        full, waiting = sock.end(taken)
        into.add(ring, sock, taken, full, waiting)
        lost = NOTHING if self.is_relieved else waiting
        if not self.is_relieved and (self._since or self.until != FOREVER):
            self.segment.end_in_hand()
            with contextlib.suppress(OSError):
                lost = self._emptying.now(ring, self._since, self.until)
        del self.rings[ring], self.places[ring]
        self._ledger.detach(ring, full, lost)
        return not self.rings

    def _each(self) -> Iterator[tuple[Ring, IngressSocket, Sequence[Taken]]]:
        """Each with what workers took from it."""
        for ring, sock in self.rings.items():
            yield ring, sock, self.segment.taken(self.places[ring])
