"""Carries out the steps of a plan, and knows what is open. A failure stays that of one thing."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from types import MappingProxyType
from typing import NamedTuple

from mcrd.daemon.handover import Keeper, take_over
from mcrd.dataplane import messages
from mcrd.errors import named, words
from mcrd.events import tell
from mcrd.lanes.counts import Ledger, NoRoomError
from mcrd.lanes.holdings import Holdings
from mcrd.lanes.hostile import ProtocolError
from mcrd.lanes.members import is_fit, may_have, members_of
from mcrd.lanes.process import WorkerError, WorkerProcess, unheard
from mcrd.model import Address, Config, Input, Network
from mcrd.planning.names import real
from mcrd.planning.plan import (
    Actual,
    Add,
    Close,
    Failure,
    Open,
    Relay,
    RelayKey,
    Remove,
    Replace,
    Step,
)
from mcrd.planning.resources import (
    Egress,
    GroupProtocol,
    Ingress,
    Link,
    Lookup,
    Members,
    Membership,
    Nowhere,
    Rejoin,
    Resource,
    Sending,
    Way,
    Worker,
    destinations,
    first_address,
    first_port,
    last_port,
    target,
)
from mcrd.systemd.store import Store

BACKOFF_FIRST = 0.25  # seconds
BACKOFF_LONGEST = 30.0
STEADY = 10.0  # seconds after which a worker's end is no longer one of a row
AT_ONCE = 20  # so many of a row are replaced at once, if they took packets
STALE = 60.0  # seconds after its time at which a failure that nobody retried is forgotten
STEPS_AT_ONCE = 64  # between two looks at what else has happened
ANSWER_TIMEOUT = 5.0  # seconds; a worker answers within one harvest
KEEP_MEMBERS = 5.0  # seconds
KEEP_TRIES, KEEP_PAUSE = 40, 0.05  # seconds; at the end, when the service manager is busy
LAYERS = 64  # names of them that are remembered; there are not half as many
OWN_AT_ONCE = 2000  # endpoints in one message

log = logging.getLogger(__name__)


class _Row(NamedTuple):
    """Ends of a worker in a row, how many without any packet, and when the last one was."""

    ends: int = 0
    useless: int = 0
    at: float = 0.0


class Estate:
    """Everything that is open: sockets, workers, memberships, and the rules that workers have."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.workers: dict[Worker, WorkerProcess] = {}
        self.restarts: Counter[tuple[str, int]] = Counter()  # by interface and number
        self._changed = changed
        self._early_ends: dict[Worker, _Row] = {}
        self._starting: set[WorkerProcess] = set()
        self._looked_at = 0.0
        self.advanced = time.monotonic()  # when a plan that is carried out last came further
        self._holdings = Holdings()
        self._store = Store()
        self._keeper = Keeper(self._store)
        self._config = Config()
        self._inherited = False  # there is a store, and what it had was taken over
        self._unkept = True  # the store has not what there is
        self._kept_at = 0.0
        self._changing: set[RelayKey] = set()
        self._level = "info"
        self._suspects: set[Ingress] = set()
        self._lacking: set[str] = set()  # layers of the sandbox that the log has named
        self._relays: dict[RelayKey, Relay] = {}
        self._failures: dict[Resource | RelayKey, Failure] = {}
        self.admit = self._holdings.admit
        self.ring_full = self._holdings.ring_full
        self.take_errors = self._holdings.take_errors
        self.rejoin = self._holdings.rejoin
        self.ring_inodes = self._holdings.ring_inodes
        self.output_inodes = self._holdings.output_inodes

    @property
    def ledger(self) -> Ledger:
        """What is and was counted."""
        return self._holdings.ledger

    async def take_over(self) -> Config | None:
        """Goes on with what the supervisor before this one left with the service manager.

        It is as if all workers had just ended. Returns the rules that it ran by, if there was one.
        """
        if not self._store.there:
            return None
        left = take_over(self._store, self._holdings, self.restarts)
        self._inherited = True
        if left.config is not None:
            self._config = left.config
        if left.to_drop:  # before anything is opened that the store still has
            await self.keep()
            await self._store.wait()
        return left.config

    def run_by(self, config: Config) -> None:
        """The rules that are wanted from now on; the next start has them too."""
        self._config = config
        self._unkept = True

    async def keep(self, *, at_once: bool = True) -> bool:
        """Leaves what is open with the service manager, when that has changed.

        Members that came or went wait until some time has passed, unless `at_once`. False when it
        has to be tried again.
        """
        members = self._holdings.members.values()
        now = time.monotonic()
        late = at_once or now >= self._kept_at + KEEP_MEMBERS
        if not self._inherited or not (self._unkept or (late and any(m.changed for m in members))):
            return True
        try:
            kept = await self._keeper.keep(self._holdings, self.restarts, self._config)
            self._unkept = not kept
        except OSError as error:
            if not self._unkept:
                log.warning("what is open cannot be left for a restart: %s", words(error))
            self._unkept = True
        self._kept_at = now
        for one in members:
            one.changed = False
        return not self._unkept

    def actual(
        self,
        links: Mapping[str, Link],
        ways: Mapping[Lookup, Way] = MappingProxyType({}),
        *,
        to_plan: bool = False,
    ) -> Actual:
        """What there is now. `to_plan`: what is due is tried again after this look."""
        now = time.monotonic()
        if to_plan:
            self._looked_at = now
        self._failures = {
            what: failure
            for what, failure in self._failures.items()
            if failure.retry_at > now - STALE
        }
        return Actual(
            links=links,
            ways=ways,
            open=frozenset((*self._holdings.all(), *self.workers)),
            relays=dict(self._relays),
            failures=dict(self._failures),
            now=now,
        )

    def end_retired(self) -> None:
        """Closes old rings in whose place no others are to be opened any more."""
        tried = [what for what in self._failures if isinstance(what, Ingress)]
        self._holdings.end_retired({ingress.index for ingress in tried})

    def next_retry(self) -> float | None:
        """Seconds until something that failed is to be tried again.

        What was due at the last look has been tried, or nobody wants it any more.
        """
        times = [f.retry_at for f in self._failures.values() if f.retry_at > self._looked_at]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def retry_now(self, interfaces: Iterable[str] | None = None) -> None:
        """Ends the wait of what failed on these interfaces, or of all."""
        names = None if interfaces is None else set(interfaces)
        self._retry_now(lambda what: names is None or _interface(what) in names)

    def retry_outputs_now(self, interfaces: Iterable[str]) -> None:
        """Ends the wait of outputs that failed on these interfaces, and of nothing else."""
        names = set(interfaces)
        self._retry_now(lambda what: isinstance(what, Egress | Members) and what.interface in names)

    def _retry_now(self, concerns: Callable[[Resource | RelayKey], bool]) -> None:
        now = time.monotonic()
        for what, failure in self._failures.items():
            if failure.retry_at > now and concerns(what):
                self._failures[what] = replace(failure, retry_at=now)

    def look_at_workers(self) -> None:
        """Ends those that hang; others take their place."""
        for worker, process in list(self.workers.items()):
            if worker.ring in self._holdings.rings:
                process.look(self._holdings.rings[worker.ring][1].received)

    def look_at_members(self) -> None:
        """Ends sockets of members that are idle for long, a few in each look."""
        ended = False
        for worker, process in self.workers.items():
            if process.begun and process.connected and worker.ring in self._holdings.members:
                ended = self._holdings.members[worker.ring].end_idle(process) or ended
        if ended:
            self._sync_own()

    def advance(self) -> None:
        """A plan comes further: whoever carries it out does not hang."""
        self.advanced = time.monotonic()

    def undone(self, steps: Sequence[Step]) -> int:
        """How many of these steps, just applied, came to nothing."""
        return sum(
            not self._is_open(step.resource)
            if isinstance(step, Open)
            else isinstance(step, Add | Replace) and step.key not in self._relays
            for step in steps
        )

    def is_well(self) -> bool:
        """No worker hangs that could not be ended."""
        return not any(process.hangs for process in self.workers.values())

    def set_level(self, level: str) -> None:
        """What workers are to log, those that run and those that come."""
        if level != self._level:
            self._level = level
            for process in self.workers.values():
                unheard(process.request(messages.SetLevel, level))

    def forget(self, config: Config, links: Mapping[str, Link]) -> None:
        """Forgets what concerns nothing of these rules: chosen source ports, counted restarts."""
        rules = config.rules.values()
        self._holdings.opener.forget({(r.name, target(o)) for r in rules for o in r.outputs})
        interfaces = {real(rule.input.interface, links) for rule in rules}
        interfaces.update(worker.ingress.interface for worker in self.workers)
        for key in [key for key in self.restarts if key[0] not in interfaces]:
            del self.restarts[key]

    async def apply(self, steps: Sequence[Step], links: Mapping[str, Link]) -> None:
        """Carries out the steps in their order; what fails becomes a failure to retry."""
        # What is replaced ends first; then all that is new begins before what is old ends.
        for kind, group in itertools.groupby(steps, _kind):
            self.advance()
            if kind is Open:
                await self._open_all([s.resource for s in group if isinstance(s, Open)], links)
                self._sync_own()
            elif kind is Close:
                for step in [s for s in group if isinstance(s, Close)]:
                    await self._close(step.resource, anew=step.anew)
                    self.advance()
            else:
                await self._change_relays(
                    [s for s in group if isinstance(s, Add | Replace | Remove)]
                )
        self._sync_own()
        self._unkept = self._unkept or bool(steps)

    async def close(self) -> None:
        """Closes everything, or leaves it in the store: who knows whether this is a restart."""
        processes = (*self.workers.values(), *self._starting)
        await asyncio.gather(*(process.stop() for process in processes))
        self.workers.clear()
        self._relays.clear()
        if not self._inherited:
            self._holdings.close_all()
            return
        self._holdings.end_protocols()  # this may be a stop, at which nobody else would undo them
        self._unkept = True
        for _ in range(KEEP_TRIES):
            if await self.keep():
                break
            await asyncio.sleep(KEEP_PAUSE)
        self._store.close()

    def _fail(self, what: Resource | RelayKey, reason: str) -> None:
        before = self._failures.get(what)
        attempts = before.attempts + 1 if before else 1
        self._failures[what] = Failure(reason, time.monotonic() + backoff(attempts), attempts)

    def _is_open(self, resource: Resource) -> bool:
        return resource in self.workers or self._holdings.has(resource)

    async def _open_all(self, resources: Sequence[Resource], links: Mapping[str, Link]) -> None:
        # Rings come before workers, and workers before all else; they start side by side.
        workers = [resource for resource in resources if isinstance(resource, Worker)]
        others = [resource for resource in resources if not isinstance(resource, Worker)]
        for resource in others:
            if isinstance(resource, Ingress):
                self._try(resource, links)
        await asyncio.gather(*(self._open_worker(worker, links) for worker in workers))
        self._holdings.look_anew()
        for number, resource in enumerate(others):
            if not isinstance(resource, Ingress):
                self._try(resource, links)
                if number % STEPS_AT_ONCE == 0:
                    self.advance()
                    await asyncio.sleep(0)

    def _try(self, resource: Resource, links: Mapping[str, Link]) -> None:
        try:
            self._holdings.open(resource, links)
        except OSError as error:
            if isinstance(resource, Rejoin | GroupProtocol) and resource not in self._failures:
                log.warning("%s: %s", resource, words(error))  # no rule fails by that
            self._fail(resource, explain(error, resource))
        else:
            self._failures.pop(resource, None)

    async def _open_worker(self, worker: Worker, links: Mapping[str, Link]) -> None:
        entry = self._holdings.rings.get(worker.ring)
        if entry is None:
            return  # its ring could not be had, and that is a failure already
        ring, segment = entry
        try:
            process = WorkerProcess(worker, self._worker_ended, self._members_wanted)
        except OSError as error:
            self._fail(worker, explain(error, worker))
            return
        process.received_before = segment.received
        self._starting.add(process)
        try:
            hardware = links[worker.ingress.interface].hardware
            await process.initialize(ring, segment, self._holdings.guard, hardware)
        except WorkerError as error:
            await process.stop()
            self._starting.discard(process)
            self._fail(worker, str(error))
            return
        self._starting.discard(process)
        unheard(process.request(messages.SetLevel, self._level))
        if process.gone:  # it answered, and ended before anybody listened
            self._fail(worker, "it ended at once")
            return
        self.workers[worker] = process
        self._failures.pop(worker, None)
        text, frames = "%s: pid %d, ring of %d frames", ring.geometry.frames
        where = {"interface": worker.ingress.interface, "worker": worker}
        tell(log, logging.INFO, "worker-started", text, worker, process.pid, frames, **where)
        new = {layer: why for layer, why in process.missing.items() if layer not in self._lacking}
        if new:
            if len(self._lacking) > LAYERS:  # a worker may say what it likes
                self._lacking.clear()
            self._lacking.update(new)
            text = "workers lack layers of their sandbox, see SECURITY in mcrd(8): %s"
            layers = "; ".join(f"{layer}: {why}" for layer, why in new.items())
            tell(log, logging.WARNING, "sandbox-layer-missing", text, layers)

    def _worker_ended(self, process: WorkerProcess, how: str) -> None:
        worker = process.worker
        if self.workers.get(worker) is not process:
            return  # it never became ready, and whoever started it knows
        del self.workers[worker]
        self._relays = {key: r for key, r in self._relays.items() if key.worker != worker}
        self._holdings.members[worker.ring].rest()
        self.restarts[worker.ingress.interface, worker.number] += 1
        # The first of a row is replaced at once, those that die young after a while, or only when
        # there are many of them if they did their work.
        now = time.monotonic()
        self._early_ends = {w: row for w, row in self._early_ends.items() if now - row.at < STALE}
        known = self._early_ends.get(worker, _Row()) if process.age < STEADY else _Row()
        row, useless = known.ends, known.useless
        wait = backoff(row - AT_ONCE + 1) if row >= AT_ONCE else 0.0
        if self._holdings.rings[worker.ring][1].received > process.received_before:
            useless = 0
        else:
            wait = max(wait, backoff(useless) if useless else 0.0)
            useless += 1
        self._early_ends[worker] = _Row(row + 1, useless, now)
        text = "%s: pid %d %s; another starts %s"
        when = f"in {wait:g} s" if wait else "at once"
        where = {"interface": worker.ingress.interface, "worker": worker}
        tell(log, logging.ERROR, "worker-ended", text, worker, process.pid, how, when, **where)
        self._failures[worker] = Failure(how, now + wait, row + 1)
        if process.suspect:
            self._suspects.add(worker.ingress)
        self._changed()

    async def renew_suspects(self) -> None:
        """Closes rings in which something may stand that nobody trusts; the plan opens new ones.

        Its other workers end first, or they would read on from rings that nobody counts any more.
        """
        while self._suspects:
            ingress = self._suspects.pop()
            text = "%s: what waits in its rings is thrown away"
            where = {"interface": ingress.interface}
            tell(log, logging.WARNING, "rings-renewed", text, ingress, **where)
            for worker in [worker for worker in self.workers if worker.ingress == ingress]:
                await self._close(worker)
            if self._holdings.has(ingress):
                await self._close(ingress, anew=True)

    def _sync_own(self) -> None:
        """Tells every worker what this daemon sends from, so that it is never relayed again."""
        own = self._holdings.own()
        for process in self.workers.values():
            for kind, endpoints in (
                (messages.AddOwn, own - process.own),
                (messages.RemoveOwn, process.own - own),
            ):
                ordered = sorted(endpoints, key=lambda e: (e.address, e.port))
                for at in range(0, len(ordered), OWN_AT_ONCE):
                    unheard(process.request(kind, ordered[at : at + OWN_AT_ONCE]))
            process.own = own

    async def _change_relays(self, steps: Sequence[Add | Replace | Remove]) -> None:
        under_way = []
        self._hand_over_many(steps)
        together = handed_on(steps, self._relays)
        for number, step in enumerate(step for step in steps if step.key not in together):
            sent = self._send(step)
            if sent is not None:
                under_way.append(sent)
            if number % STEPS_AT_ONCE == 0:
                self.advance()
                await asyncio.sleep(0)
        # In between, packets would match no rule, or one that is about to change.
        for worker in {key.worker for key in together} & self.workers.keys():
            self.workers[worker].begun = False
            unheard(self.workers[worker].request(messages.Pause))
        under_way += [sent for key in together if (sent := self._send(together[key])) is not None]
        for worker, process in self.workers.items():
            if not process.begun:
                process.begun = True
                self._holdings.members[worker.ring].end_resting(process)
                unheard(process.request(messages.Begin))
        for sent in under_way:
            self.advance()
            if not await self._answered(*sent) and isinstance(sent[0], Replace):
                # Its old form would keep sockets that the plan is about to close.
                removal = self._remove(sent[0].key)
                if removal is not None:
                    await self._answered(*removal)

    async def _answered(
        self, step: Add | Replace | Remove, future: asyncio.Future[messages.Answer]
    ) -> bool:
        """Waits for the worker's answer and records it: was the step carried out?"""
        process = self.workers.get(step.key.worker)
        try:
            if future.done():  # waiting costs more than all else here
                future.result()
            else:
                await asyncio.wait_for(future, ANSWER_TIMEOUT)
        except TimeoutError:
            # It hangs. Its end makes the other futures fail, and another worker start.
            if process is not None:
                process.kill("hung: it did not answer a request")
            return False
        except WorkerError as error:
            # The end of a worker is no failure of its rules.
            if process is not None and process.connected:
                self._fail(step.key, str(error))
            return False
        finally:
            self._changing.discard(step.key)
        if step.key.worker not in self.workers:
            return False  # it has ended since it answered
        self._record(step)
        return True

    def _send(
        self, step: Add | Replace | Remove
    ) -> tuple[Add | Replace | Remove, asyncio.Future[messages.Answer]] | None:
        """Sends a step as far as it can be carried out; returns what was sent, None for nothing.

        A rule that cannot be had in its new form does not stay in its old one.
        """
        process = self.workers.get(step.key.worker)
        if process is None or not process.connected:
            return None
        if isinstance(step, Remove):
            return self._remove(step.key)
        pairs = zip(step.relay.outputs, step.relay.limits, strict=True)
        usable = [pair for pair in pairs if self._is_open(pair[0])]
        needs = step.relay.needs
        if not usable or not all(self._is_open(need) for need in needs):
            return self._remove(step.key)
        relay = step.relay
        if len(usable) < len(relay.outputs):
            sockets, limits = zip(*usable, strict=True)
            relay = replace(relay, outputs=sockets, limits=limits)
        if self._relays.get(step.key) == relay:
            return None
        segment = self._holdings.rings[step.key.worker.ring][1]
        try:
            for output, _ in usable:
                if isinstance(output, Egress) and output not in process.places:
                    process.add_sockets({output: self._holdings.egress[output]})
            slot = segment.rule_slot(step.key.rule)
            outputs = [
                messages.RuleOutput(
                    _place_of(process, output),
                    segment.output_slot(output.rule, output.target),
                    limit or 0,
                )
                for output, limit in usable
            ]
        except (NoRoomError, WorkerError) as error:
            if process.connected:  # the end of a worker is no failure of its rules
                self._fail(step.key, str(error))
            return self._remove(step.key)
        match = _match(relay)
        members = self._holdings.members[step.key.worker.ring]
        if isinstance(step, Add):
            added = process.request(messages.AddRule, slot, match, outputs)
            if members.rests(step.key.rule) and not added.done():
                members.keep(process, step.key.rule, relay, self._sync_own)
            return Add(step.key, relay), added
        before = self._relays.get(step.key)
        kept = _kept(before, relay) if before is not None else []
        future = process.request(messages.ReplaceRule, slot, match, outputs, kept)
        if kept:
            self._changing.add(step.key)
            if not future.done():  # or it was not even sent
                members.keep(process, step.key.rule, relay, self._sync_own)
        else:
            self._end_members(step.key, process)
        return Replace(step.key, relay), future

    def _remove(self, key: RelayKey) -> tuple[Remove, asyncio.Future[messages.Answer]] | None:
        process = self.workers.get(key.worker)
        if process is None or not process.connected or key not in self._relays:
            return None
        slot = self._holdings.rings[key.worker.ring][1].rule_slot(key.rule)
        future = process.request(messages.RemoveRule, slot)
        self._end_members(key, process)
        return Remove(key), future

    def _end_members(self, key: RelayKey, process: WorkerProcess) -> None:
        """A worker forgets the members of a rule with its old form, and so does this daemon."""
        self._changing.add(key)
        self._holdings.members[key.worker.ring].end(process, key.rule)

    def _hand_over_many(self, steps: Sequence[Add | Replace | Remove]) -> None:
        """Sends the sockets that are new to workers, many in a message.

        Those of a message that cannot be sent are sent again one by one, with their rules.
        """
        new: dict[WorkerProcess, list[Egress]] = {}
        for step in steps:
            process = self.workers.get(step.key.worker)
            if process is not None and process.connected and not isinstance(step, Remove):
                new.setdefault(process, []).extend(
                    output
                    for output in step.relay.outputs
                    if output in self._holdings.egress and output not in process.places
                )
        for process, sockets in new.items():
            with contextlib.suppress(WorkerError):
                process.add_sockets({egress: self._holdings.egress[egress] for egress in sockets})

    def _members_wanted(self, process: WorkerProcess, keys: Sequence[messages.MemberKey]) -> None:
        """Packets came for which a rule has no sockets yet."""
        worker = process.worker
        if self.workers.get(worker) is not process:
            return
        segment = self._holdings.rings[worker.ring][1]
        for key in keys:
            where = RelayKey(worker, segment.rules.key_of(key.slot) or "")
            relay = self._relays.get(where)
            if relay is None or where in self._changing:
                unheard(process.request(messages.RemoveMember, key))  # to be asked for again
                continue
            if not may_have(relay, key):
                raise ProtocolError(f"asked for a member that {where.rule} does not have")
            if not is_fit(key):
                unheard(process.request(messages.RemoveMember, key))
                continue
            self._holdings.members[worker.ring].open(process, key, relay, where.rule)
        self._sync_own()

    def _record(self, step: Add | Replace | Remove) -> None:
        """A worker has done as it was told."""
        ring = step.key.worker.ring
        before = self._relays.pop(step.key, None)
        targets = {output.target for output in before.outputs} if before else set()
        if isinstance(step, Remove):
            self.ledger.end_rule(ring, step.key.rule)
        else:
            self._relays[step.key] = step.relay
            self._failures.pop(step.key, None)
            targets -= {output.target for output in step.relay.outputs}
        for gone in targets:
            self.ledger.end_output(ring, step.key.rule, gone)

    async def _close(self, resource: Resource, *, anew: bool = False) -> None:
        if not isinstance(resource, Worker):
            worker = self.workers.get(resource.worker) if isinstance(resource, Egress) else None
            self._holdings.close(resource, worker, anew=anew)
            return
        process = self.workers.pop(resource, None)
        if resource.ring in self._holdings.members:
            self._holdings.members[resource.ring].end(None)
        self._relays = {k: r for k, r in self._relays.items() if k.worker != resource}
        if process is not None:
            await process.stop()


def handed_on(
    steps: Sequence[Add | Replace | Remove], relays: Mapping[RelayKey, Relay]
) -> dict[RelayKey, Add | Replace]:
    """The steps by which an input goes from one rule to another that a worker has meanwhile.

    Where a rule goes after another has its input, as a removal does, no packet is missed.
    """
    given_up: dict[tuple[Worker, tuple[object, ...]], RelayKey] = {}
    ranges: list[tuple[RelayKey, Input]] = []
    for step in steps:
        before = relays.get(step.key) if isinstance(step, Replace) else None
        if before is not None and isinstance(step, Replace) and before.input != step.relay.input:
            given_up[step.key.worker, _place(before.input)] = step.key
            if before.input.is_range:
                ranges.append((step.key, before.input))
    found: dict[RelayKey, Add | Replace] = {}
    if not given_up:
        return found
    by_key = {step.key: step for step in steps if isinstance(step, Add | Replace)}
    for key, step in by_key.items():
        wanted = step.relay.input
        givers = {given_up.get((key.worker, _place(wanted)))}
        others = (
            ((giver, relays[giver].input) for giver in given_up.values())
            if wanted.is_range
            else ranges
        )
        givers |= {
            giver for giver, old in others if giver.worker == key.worker and _overlap(old, wanted)
        }
        givers -= {None, key}
        if givers:
            found |= {one: by_key[one] for one in (key, *givers) if one is not None}
    return found


def _place(given: Input) -> tuple[object, ...]:
    return given.address, given.also, given.port, given.protocol, given.vlan


def _overlap(one: Input, other: Input) -> bool:
    """Whether a packet may be for both, whoever sends it."""
    return (
        (one.protocol, one.vlan) == (other.protocol, other.vlan)
        and any(
            first.version == second.version and first.overlaps(second)
            for first in _destinations(one)
            for second in _destinations(other)
        )
        and first_port(one.port) <= last_port(other.port)
        and first_port(other.port) <= last_port(one.port)
    )


def _destinations(given: Input) -> list[Network]:
    return [ip_network((first_address(each).packed, _bits(each))) for each in destinations(given)]


def _kind(step: Step) -> type[Step]:
    """Steps that are carried out side by side."""
    return type(step) if isinstance(step, Open | Close) else Add


def _place_of(process: WorkerProcess, output: Sending) -> int | None:
    """Where the worker has the output's socket; None where each member has its own."""
    match output:
        case Egress():
            return process.places[output]
        case Members():
            return None
        case Nowhere():
            return messages.NOWHERE


def _kept(before: Relay, relay: Relay) -> list[int | None]:
    """Of each output that goes by member, which of those before it was; [] when no member stays.

    One whose way has moved is the same: its sockets send over the new one too, until others come.
    """
    old, new = members_of(before), members_of(relay)
    known = {output: at for at, output in enumerate(old)}
    moved = {output.target: at for at, output in enumerate(old) if output.routed}
    found = [
        known.get(output, moved.get(output.target) if output.routed else None) for output in new
    ]
    if before.by_source != relay.by_source or all(at is None for at in found):
        return []
    return found


def _match(relay: Relay) -> messages.Match:
    given = relay.input
    return messages.Match(
        first=messages.Endpoint(first_address(given.address).packed, first_port(given.port)),
        bits=_bits(given.address),
        last_port=last_port(given.port),
        protocol=socket.IPPROTO_UDP if given.protocol == "udp" else socket.IPPROTO_ESP,
        vlan=given.vlan or 0,
        limit=given.limit or 0,
        by_source=relay.by_source,
        sources=_networks(given.sources),
        exclude=_networks(given.exclude),
        also=[address.packed for address in given.also],
    )


def _bits(address: Address | Network) -> int:
    return address.max_prefixlen if isinstance(address, Address) else address.prefixlen


def _networks(networks: Sequence[Network]) -> list[messages.Network]:
    return [messages.Network(n.network_address.packed, n.prefixlen) for n in networks]


def backoff(attempts: int) -> float:
    """Seconds from this many failures to the next try."""
    return min(BACKOFF_FIRST * 2.0 ** min(attempts - 1, 16), BACKOFF_LONGEST)


def _interface(what: Resource | RelayKey) -> str:
    match what:
        case RelayKey():
            return what.worker.ingress.interface
        case Worker():
            return what.ingress.interface
        case _:
            return what.interface


def explain(error: OSError, resource: Resource) -> str:
    """Why something could not be opened, and what to do about it where that is known."""
    text, hint = named(error), ""
    match resource, error.errno:
        case (Ingress(), errno.EPERM):
            hint = "packet sockets need CAP_NET_RAW"
        case (Egress(), errno.ENETUNREACH | errno.EHOSTUNREACH):
            over = "" if resource.routed else f" over {resource.interface}"
            hint = f"there is no route to {resource.address}{over}"
        case (Egress(), errno.EADDRINUSE):
            hint = f"another program has port {resource.source_port} of {resource.source}"
        case (Egress(), errno.EACCES):
            hint = "a source_port below 1024 needs CAP_NET_BIND_SERVICE"
        case (Egress(), errno.EADDRNOTAVAIL):
            hint = f"{resource.source} is not an address of this host"
        case (_, errno.EMFILE):
            hint = "raise the limit on open files (LimitNOFILE=)"
        case (Membership(), errno.ENOBUFS):
            hint = "look at the sysctl net.ipv4.igmp_max_memberships"
        case (Membership(), errno.ENOMEM):
            hint = "look at the sysctl net.core.optmem_max"
    return f"{text}: {hint}" if hint else text
