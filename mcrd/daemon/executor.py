"""Carries out the steps of a plan over lanes. A failure stays that of one thing."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from mcrd.daemon.failures import Failures, explain
from mcrd.daemon.handover import Handover
from mcrd.daemon.reliefs import Reliefs
from mcrd.daemon.started import Started
from mcrd.dataplane import messages
from mcrd.errors import words
from mcrd.events import tell
from mcrd.lanes.channel import Answer, WorkerError
from mcrd.lanes.holdings import Holdings
from mcrd.lanes.lane import Lane
from mcrd.lanes.orders import Change, handed_on
from mcrd.lanes.process import WorkerProcess
from mcrd.lanes.recovery import STEADY, Recovery
from mcrd.lanes.segment import NoRoomError
from mcrd.lanes.spawn import Spare
from mcrd.model import DEFAULT_MEMBERS, Config
from mcrd.planning.actual import Actual, Failure
from mcrd.planning.links import Link, Lookup, Way
from mcrd.planning.names import real
from mcrd.planning.plan import Add, Close, Open, Relieve, Remove, Replace, Step
from mcrd.planning.relays import Relay, RelayKey
from mcrd.planning.replies import counted_by
from mcrd.planning.resources import (
    Egress,
    GroupProtocol,
    Ingress,
    Querying,
    Rejoin,
    Resource,
    Ring,
    Worker,
)
from mcrd.systemd.jobs import is_restarted

STEPS_AT_ONCE = 64  # between two looks at what else has happened
ANSWER_TIMEOUT = 5.0  # seconds; a worker answers within one harvest
GONE = "%s: what waits in its rings is thrown away"
USELESS = 2  # which crash in a row without a packet: what ended the first may stand in the segment
AT_THE_END = 3.0  # seconds that a relief under way may take

Sent = tuple[Lane, RelayKey, Relay | None, Answer]
"""A change of a rule that a worker was asked for, and what it does for the rule after that."""

log = logging.getLogger(__name__)


class Estate:
    """All that is open: lanes with their workers, sockets, memberships."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.advanced = time.monotonic()  # when a plan that is carried out last came further
        self.holdings = Holdings()
        self.recovery = Recovery()
        self.failures = Failures()
        self.handover = Handover(self.holdings, self.recovery.restarts)
        self._level = "info"
        self._suspects: set[Ingress] = set()
        self._started = Started()
        self._spare = Spare()
        self._reliefs = Reliefs(self.holdings, self.failures)
        self.ledger = self.holdings.ledger

    @property
    def workers(self) -> dict[Worker, WorkerProcess]:
        """The workers that run."""
        lanes = self.holdings.lanes.values()
        return {lane.process.worker: lane.process for lane in lanes if lane.process is not None}

    def actual(
        self,
        links: Mapping[str, Link],
        ways: Mapping[Lookup, Way] = MappingProxyType({}),
        *,
        to_plan: bool = False,
    ) -> Actual:
        """What there is now. `to_plan`: what is due is tried again after this look."""
        now = time.monotonic()
        return Actual(
            links=links,
            ways=ways,
            open=frozenset(self.holdings.all()),
            relays=self._relays(),
            failures=self.failures.now(now, to_plan=to_plan),
            now=now,
            listeners=self.holdings.queriers.listeners,
        )

    def _relays(self) -> dict[RelayKey, Relay]:
        found: dict[RelayKey, Relay] = {}
        for lane in self.holdings.lanes.values():
            found |= lane.relays
        return found

    def end_retired(self) -> None:
        """Closes old rings in whose place no others are to be opened any more."""
        tried = [what for what in self.failures if isinstance(what, Ingress)]
        self.holdings.end_retired({ingress.index for ingress in tried})

    def look_at_workers(self) -> None:
        """End those that hang; others take their place, for which a spare one waits."""
        for lane in self.holdings.lanes.values():
            lane.look()
        self._spare.look(self.holdings.lanes, (process.age for process in self.workers.values()))

    def allow_members(self, allowed: Mapping[str, int]) -> None:
        """How many members a worker may have, by interface, where that is not the default."""
        for lane in self.holdings.lanes.values():
            each = (allowed.get(ring.interface, DEFAULT_MEMBERS) for ring in lane.rings)
            lane.members.at_most = max(each)

    def look_at_members(self) -> None:
        """End sockets of members that are idle for long, a few in each look."""
        if sum(lane.look_at_members() for lane in self.holdings.lanes.values()):
            self.holdings.announce()

    def advance(self) -> None:
        """A plan comes further: whoever carries it out does not hang."""
        self.advanced = time.monotonic()

    def undone(self, steps: Sequence[Step]) -> int:
        """How many of these steps, just applied, came to nothing."""
        relays = self._relays()
        return sum(
            not self.holdings.has(step.resource)
            if isinstance(step, Open)
            else isinstance(step, Add | Replace) and step.key not in relays
            for step in steps
        )

    def is_well(self) -> bool:
        """No worker hangs that could not be ended."""
        return not any(process.hangs for process in self.workers.values())

    def set_level(self, level: str) -> None:
        """What workers are to log, those that run and those that come."""
        if level != self._level:
            self._level = level
            for lane in self.holdings.lanes.values():
                lane.tell(messages.SetLevel, level)

    def forget(self, config: Config, links: Mapping[str, Link]) -> None:
        """Forgets what concerns nothing of these rules: chosen source ports, counted restarts."""
        rules = config.rules.values()
        self.holdings.opener.forget({(r.stream, t) for r in rules for t in counted_by(r)})
        interfaces = {real(rule.input.interface, links) for rule in rules}
        interfaces.update(worker.ingress.interface for worker in self.workers)
        self.recovery.forget(interfaces)

    async def apply(self, steps: Sequence[Step], links: Mapping[str, Link]) -> None:
        """Carries out the steps in their order; what fails becomes a failure to retry."""
        # What is replaced ends first; then all that is new begins before what is old ends.
        await self._reliefs.end()
        for kind, group in itertools.groupby(steps, _kind):
            self.advance()
            if kind is Open:
                await self._open_all([s.resource for s in group if isinstance(s, Open)], links)
                self.holdings.announce()
            elif kind is Close:
                closed = [s for s in group if isinstance(s, Close)]
                for number, step in enumerate(closed):
                    await self._close(step.resource, anew=step.anew)
                    self.advance()
                    if number % STEPS_AT_ONCE == STEPS_AT_ONCE - 1:
                        await asyncio.sleep(0)
            elif kind is Relieve:
                pairs = [(s.old, s.resource) for s in group if isinstance(s, Relieve)]
                if not await self._reliefs.carry_out(pairs):
                    break  # what goes on needs what would be closed now; it is planned anew
            else:
                await self._change_relays(
                    [s for s in group if isinstance(s, Add | Replace | Remove)]
                )
        self.holdings.announce()
        self.handover.is_due |= bool(steps)

    async def close(self) -> None:
        """Closes everything, or leaves it in the store: who knows whether this is a restart."""
        await self._reliefs.end(AT_THE_END)
        lanes = self.holdings.lanes.values()
        await asyncio.gather(self._spare.stop(), *(lane.stop() for lane in lanes))
        self.holdings.close_unready()
        merging, stays = self.holdings.merging, self.handover.goes_on
        if merging.switched_on and not (stays and await is_restarted()):
            merging.want(())
        if stays:
            self.holdings.end_protocols()  # it may be a stop, and nobody else would undo them
            await self.handover.close()
        else:
            self.holdings.close_all()

    async def _open_all(self, resources: Sequence[Resource], links: Mapping[str, Link]) -> None:
        # Rings come before workers, and workers before all else; they start side by side.
        workers = [resource for resource in resources if isinstance(resource, Worker)]
        others = [resource for resource in resources if not isinstance(resource, Worker)]
        for resource in others:
            if isinstance(resource, Ingress):
                await self._open_ingress(resource, links)
                await self._rest(resource)
        await asyncio.gather(*(self._open_worker(worker, links) for worker in workers))
        self.holdings.look_anew()
        for number, resource in enumerate(others):
            if not isinstance(resource, Ingress):
                self._try(resource, links)
                if number % STEPS_AT_ONCE == STEPS_AT_ONCE - 1:
                    self.advance()
                    await asyncio.sleep(0)
        self.holdings.report_new(others, links)

    async def _open_ingress(self, ingress: Ingress, links: Mapping[str, Link]) -> None:
        """Open rings, beside those that they relieve; in their place where that cannot be had."""
        old = self.holdings.beside(ingress)
        self._try(ingress, links)
        if old is not None and not self.holdings.has(ingress):
            await self._close_rings(old)
            self._try(ingress, links)

    async def _close_rings(self, ingress: Ingress) -> None:
        """Close rings, in whose place others are to be opened, with their workers."""
        for worker in [worker for worker in self.workers if worker.ingress == ingress.home]:
            await self._close(worker)
        await self._close(ingress, anew=True)

    async def _rest(self, ingress: Ingress) -> None:
        """End a worker that reads several interfaces, when one of them has come or is to go.

        The next round starts another, which finds all as it was. One whose interface was deleted
        does not matter to it.
        """
        lane = self.holdings.lanes.get(Ring(ingress.home)) if ingress.lane else None
        ring = Ring(ingress)
        if lane is None or lane.process is None or ring not in lane.rings:
            return
        if lane.hears(ring):
            await lane.rest()

    def rings_of(self, worker: Worker) -> tuple[Ring, ...]:
        """The rings that a worker reads."""
        lane = self.holdings.lane_of(worker)
        return tuple(lane.rings) if lane is not None else ()

    def _try(self, resource: Resource, links: Mapping[str, Link]) -> None:
        try:
            self.holdings.open(resource, links)
        except OSError as error:
            if _is_dispensable(resource) and resource not in self.failures:
                log.warning("%s: %s", resource, words(error))  # rules may do without
            self.failures.add(resource, explain(error, resource))
        else:
            self.failures.pop(resource, None)

    async def _open_worker(self, worker: Worker, links: Mapping[str, Link]) -> None:
        lane = self.holdings.lanes.get(worker.ring)
        if lane is None:
            return  # its rings could not be had, and that is a failure already
        await lane.emptied()
        # One that crashed since this was planned has to wait, or its rings are made anew first.
        failure = self.failures.get(worker)
        is_late = failure is not None and failure.retry_at > time.monotonic()
        if is_late or not self._suspects.isdisjoint(ring.ingress for ring in lane.rings):
            return
        try:
            process = await lane.start(
                worker, self.holdings.guard, links, self._worker_ended, self._spare.take
            )
        except (OSError, WorkerError) as error:
            why = explain(error, worker) if isinstance(error, OSError) else str(error)
            self.failures.add(worker, why)
            return
        lane.tell(messages.SetLevel, self._level)
        self.failures.pop(worker, None)
        self._started.tell(process, lane.frames)

    def _worker_ended(self, lane: Lane, process: WorkerProcess, how: str) -> None:
        worker, now = process.worker, time.monotonic()
        wait, row = self.recovery.ended(
            worker, now, early=process.age < STEADY, useful=lane.is_useful
        )
        text = "%s: pid %d %s; another starts %s"
        when = f"in {wait:g} s" if wait else "at once"
        where = {"interface": worker.ingress.interface, "worker": worker}
        tell(log, logging.ERROR, "worker-ended", text, worker, process.pid, how, when, **where)
        self.failures[worker] = Failure(how, now + wait, row)
        useless = self.recovery.useless(worker)
        # New ones help once, or never.
        if process.suspect or (process.crashed and useless == USELESS):
            self._suspects.update(ring.ingress for ring in lane.rings)
        elif process.crashed and not lane.awaits_turn:
            tell(log, logging.WARNING, "rings-emptied", GONE, worker, **where)
        self._changed()

    async def renew_suspects(self) -> None:
        """Closes rings in which something may stand that nobody trusts; the plan opens new ones.

        Its other workers end first, or they would read on from rings that nobody counts any more.
        """
        while self._suspects:
            ingress = self._suspects.pop()
            tell(log, logging.WARNING, "rings-renewed", GONE, ingress, interface=ingress.interface)
            await self._close_rings(ingress)

    async def _change_relays(self, steps: Sequence[Change]) -> None:
        lanes = self.holdings.running()
        self._hand_over_many(steps, lanes)
        together = handed_on(steps, self._relays())
        under_way = []
        for number, step in enumerate(step for step in steps if step.key not in together):
            under_way.append(self._send(step, lanes))
            if number % STEPS_AT_ONCE == 0:
                self.advance()
                await asyncio.sleep(0)
        # In between, packets would match no rule, or one that is about to change.
        for worker in {key.worker for key in together} & lanes.keys():
            lanes[worker].pause()
        under_way += [self._send(step, lanes) for step in together.values()]
        for lane in lanes.values():
            lane.begin()
        for sent in under_way:
            self.advance()
            if sent is not None and not await self._answered(*sent):
                lane, key, relay, _ = sent
                # Its old form would keep sockets that the plan is about to close.
                if relay is not None and (removal := lane.remove(key)) is not None:
                    await self._answered(lane, key, None, removal)

    async def _answered(
        self, lane: Lane, key: RelayKey, relay: Relay | None, future: Answer
    ) -> bool:
        """Wait for the worker's answer and record it: was the change carried out?"""
        try:
            return await self._carried_out(lane, key, relay, future)
        finally:
            lane.answered(key)

    async def _carried_out(
        self, lane: Lane, key: RelayKey, relay: Relay | None, future: Answer
    ) -> bool:
        process = lane.process
        try:
            if process is not None:
                await process.hear(future, ANSWER_TIMEOUT, self.advance)
            future.result()
        except TimeoutError:
            # It hangs. Its end makes the other futures fail, and another worker start.
            if process is not None:
                process.kill("hung: it did not answer a request")
            return False
        except WorkerError as error:
            # The end of a worker is no failure of its rules.
            if lane.connected:
                self.failures.add(key, str(error))
            return False
        if lane.process is None:
            return False  # it has ended since it answered
        lane.record(key, relay)
        if relay is not None:
            self.failures.pop(key, None)
        return True

    def _send(self, step: Change, lanes: Mapping[Worker, Lane]) -> Sent | None:
        """Send a step as far as it can be carried out; return what was sent, None for nothing.

        A rule that cannot be had in its new form does not stay in its old one.
        """
        key, lane, has = step.key, lanes.get(step.key.worker), self.holdings.has
        if lane is None or not lane.connected:
            return None
        if not isinstance(step, Remove) and all(map(has, step.relay.needs)):
            relay = step.relay.only(has)
            if relay is not None and lane.relays.get(key) == relay:
                return None
            if relay is not None:
                try:
                    return lane, key, relay, lane.put(key, relay, self.holdings.egress)
                except (NoRoomError, WorkerError) as error:
                    if lane.connected:  # the end of a worker is no failure of its rules
                        self.failures.add(key, str(error))
        removal = lane.remove(key)
        return (lane, key, None, removal) if removal is not None else None

    def _hand_over_many(self, steps: Sequence[Change], lanes: Mapping[Worker, Lane]) -> None:
        """Send the sockets that are new to workers, many in a message."""
        new: dict[Worker, list[Relay]] = {}
        for step in steps:
            if not isinstance(step, Remove):
                new.setdefault(step.key.worker, []).append(step.relay)
        for worker in new.keys() & lanes.keys():
            lanes[worker].add_sockets(new[worker], self.holdings.egress)

    async def _close(self, resource: Resource, *, anew: bool = False) -> None:
        if not isinstance(resource, Worker):
            if not self.holdings.has(resource):
                return
            if isinstance(resource, Ingress):
                await self._rest(resource)
                lanes = self.holdings.lanes
                while lane := next((each for each in lanes.values() if not each.is_emptied), None):
                    await lane.emptied()
            self.holdings.close(resource, anew=anew)
        elif (lane := self.holdings.lanes.get(resource.ring)) is not None:
            lane.members.end(None)
            await lane.stop()


def _is_dispensable(resource: Resource) -> bool:
    """Whether rules may do without, so that their states do not tell of it."""
    hears = isinstance(resource, Egress) and resource.hears
    return hears or isinstance(resource, Rejoin | GroupProtocol | Querying)


def _kind(step: Step) -> type[Step]:
    """Steps that are carried out side by side."""
    return type(step) if isinstance(step, Open | Close | Relieve) else Add
