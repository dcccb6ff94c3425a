"""Carries out the steps of a plan, and knows what is open. A failure stays that of one thing."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from mcrd.dataplane import messages
from mcrd.plan import Actual, Add, Close, Failure, Open, Relay, RelayKey, Remove, Replace, Step
from mcrd.resources import Egress, Hold, Ingress, Link, Membership, Resource, Worker
from mcrd.sockets import EgressSockets, IngressSocket, Memberships, open_hold
from mcrd.stats import Ledger, NoRoomError, Segment
from mcrd.workers import WorkerError, WorkerProcess

BACKOFF_FIRST = 0.25  # seconds
BACKOFF_LONGEST = 30.0
STEADY = 10.0  # seconds after which a worker's end is no longer one of a row
STALE = 60.0  # seconds after its time at which a failure that nobody retried is forgotten
STEPS_AT_ONCE = 64  # between two looks at what else has happened
ANSWER_TIMEOUT = 5.0  # seconds; a worker answers within one harvest
OWN_AT_ONCE = 2000  # endpoints in one message

log = logging.getLogger(__name__)


class Estate:
    """Everything that is open: sockets, workers, memberships, and the rules that workers have."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.ledger = Ledger()
        self.workers: dict[Worker, WorkerProcess] = {}
        self.restarts: dict[str, int] = {}
        self._changed = changed
        self._early_ends: dict[Worker, int] = {}
        self._starting: set[WorkerProcess] = set()
        self._looked_at = 0.0
        self._ingress: dict[Ingress, tuple[IngressSocket, Segment]] = {}
        self._egress: dict[Egress, socket.socket] = {}
        self._own: dict[Egress, messages.Endpoint] = {}
        self._holds: dict[Hold, socket.socket | None] = {}
        self._joined: set[Membership] = set()
        self._memberships = Memberships()
        self._egress_sockets = EgressSockets()
        self._relays: dict[RelayKey, Relay] = {}
        self._failures: dict[Resource | RelayKey, Failure] = {}

    def actual(self, links: Mapping[str, Link]) -> Actual:
        """What there is now."""
        self._looked_at = now = time.monotonic()
        self._failures = {
            what: failure
            for what, failure in self._failures.items()
            if failure.retry_at > now - STALE
        }
        return Actual(
            links=links,
            open=frozenset(
                (*self._ingress, *self.workers, *self._egress, *self._holds, *self._joined)
            ),
            relays=dict(self._relays),
            failures=dict(self._failures),
            now=now,
        )

    def next_retry(self) -> float | None:
        """Seconds until something that failed is to be tried again.

        What was due at the last look has been tried, or nobody wants it any more.
        """
        times = [f.retry_at for f in self._failures.values() if f.retry_at > self._looked_at]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def retry_now(self, interfaces: Iterable[str] | None = None) -> None:
        """Ends the wait of what failed on these interfaces, or of all."""
        names = None if interfaces is None else set(interfaces)
        now = time.monotonic()
        for what, failure in self._failures.items():
            if failure.retry_at > now and (names is None or _interface(what) in names):
                self._failures[what] = replace(failure, retry_at=now)

    def ring_full(self) -> dict[Ingress, int]:
        """Frames that each live ring had no room for."""
        return {ingress: ring.ring_full() for ingress, (ring, _) in self._ingress.items()}

    def take_errors(self) -> None:
        """Clears the packet sockets of links that went down, so that their workers do not spin."""
        for ring, _ in self._ingress.values():
            ring.take_error()

    def forget_ports(self, rules: frozenset[str]) -> None:
        """Forgets the source ports chosen for all rules but these."""
        self._egress_sockets.forget(rules)

    async def apply(self, steps: Sequence[Step], links: Mapping[str, Link]) -> None:
        """Carries out the steps in their order; what fails becomes a failure to retry."""
        await self._open_all([s.resource for s in steps if isinstance(s, Open)], links)
        self._sync_own()
        await self._change_relays([s for s in steps if isinstance(s, Add | Replace | Remove)])
        for resource in [s.resource for s in steps if isinstance(s, Close)]:
            await self._close(resource)
        self._sync_own()

    async def close(self) -> None:
        """Closes everything."""
        processes = (*self.workers.values(), *self._starting)
        await asyncio.gather(*(process.stop() for process in processes))
        self.workers.clear()
        self._relays.clear()
        for sock in (*self._egress.values(), *self._holds.values()):
            if sock is not None:
                sock.close()
        for membership in self._joined:
            self._memberships.leave(membership)
        for ring, _ in self._ingress.values():
            ring.close()

    def _fail(self, what: Resource | RelayKey, reason: str) -> None:
        before = self._failures.get(what)
        attempts = before.attempts + 1 if before else 1
        self._failures[what] = Failure(reason, time.monotonic() + backoff(attempts), attempts)

    def _is_open(self, resource: Resource) -> bool:
        match resource:
            case Ingress():
                return resource in self._ingress
            case Worker():
                return resource in self.workers
            case Egress():
                return resource in self._egress
            case Hold():
                return resource in self._holds
            case Membership():
                return resource in self._joined

    async def _open_all(self, resources: Sequence[Resource], links: Mapping[str, Link]) -> None:
        # Rings come before workers, and workers before all else; they start side by side.
        workers = [resource for resource in resources if isinstance(resource, Worker)]
        others = [resource for resource in resources if not isinstance(resource, Worker)]
        for resource in others:
            if isinstance(resource, Ingress):
                self._try(resource, links)
        await asyncio.gather(*(self._open_worker(worker, links) for worker in workers))
        for number, resource in enumerate(others):
            if not isinstance(resource, Ingress):
                self._try(resource, links)
                if number % STEPS_AT_ONCE == 0:
                    await asyncio.sleep(0)

    def _try(self, resource: Resource, links: Mapping[str, Link]) -> None:
        try:
            self._open(resource, links)
        except OSError as error:
            self._fail(resource, explain(error, resource))
        else:
            self._failures.pop(resource, None)

    def _open(self, resource: Resource, links: Mapping[str, Link]) -> None:
        match resource:
            case Ingress():
                ring = IngressSocket(resource, links[resource.interface].mtu)
                segment = Segment()
                self._ingress[resource] = (ring, segment)
                self.ledger.attach(resource, segment)
            case Egress():
                sock = self._egress_sockets.open(resource)
                self._egress[resource] = sock
                self._own[resource] = messages.Endpoint(
                    resource.source.packed, sock.getsockname()[1]
                )
            case Hold():
                self._holds[resource] = self._open_hold(resource)
            case Membership():
                self._memberships.join(resource)
                self._joined.add(resource)

    def _open_hold(self, hold: Hold) -> socket.socket | None:
        try:
            return open_hold(hold)
        except PermissionError as error:
            log.warning("%s: %s; senders may be told that the port is closed", hold, error.strerror)
            return None

    async def _open_worker(self, worker: Worker, links: Mapping[str, Link]) -> None:
        entry = self._ingress.get(worker.ingress)
        if entry is None:
            return  # its ring could not be had, and that is a failure already
        ring, segment = entry
        try:
            process = WorkerProcess(worker.ingress, self._worker_ended)
        except OSError as error:
            self._fail(worker, explain(error, worker))
            return
        self._starting.add(process)
        try:
            hardware = links[worker.ingress.interface].hardware
            await process.initialize(ring, segment, hardware)
        except WorkerError as error:
            await process.stop()
            self._starting.discard(process)
            self._fail(worker, str(error))
            return
        self._starting.discard(process)
        self.workers[worker] = process
        self._failures.pop(worker, None)
        log.info(
            "%s: pid %d, ring of %d frames, without: %s",
            worker,
            process.pid,
            ring.geometry.frames,
            ", ".join(process.layers),
        )

    def _worker_ended(self, process: WorkerProcess, how: str) -> None:
        worker = Worker(process.ingress)
        if self.workers.get(worker) is not process:
            return  # it never became ready, and whoever started it knows
        del self.workers[worker]
        self._relays = {key: r for key, r in self._relays.items() if key.worker != worker}
        interface = process.ingress.interface
        self.restarts[interface] = self.restarts.get(interface, 0) + 1
        # The first of a row is replaced at once, those that die young after a while.
        row = self._early_ends.get(worker, 0) if process.age < STEADY else 0
        self._early_ends[worker] = row + 1
        wait = backoff(row) if row else 0.0
        log.error("%s: pid %d %s; another starts in %g s", worker, process.pid, how, wait)
        self._failures[worker] = Failure(how, time.monotonic() + wait, row + 1)
        self._changed()

    def _sync_own(self) -> None:
        """Tells every worker what this daemon sends from, so that it is never relayed again."""
        own = set(self._own.values())
        for process in self.workers.values():
            for kind, endpoints in (
                (messages.AddOwn, own - process.own),
                (messages.RemoveOwn, process.own - own),
            ):
                ordered = sorted(endpoints, key=lambda e: (e.address, e.port))
                for at in range(0, len(ordered), OWN_AT_ONCE):
                    _unheard(process.request(kind, ordered[at : at + OWN_AT_ONCE]))
            process.own = own

    async def _change_relays(self, steps: Sequence[Add | Replace | Remove]) -> None:
        under_way = []
        for number, step in enumerate(steps):
            sent = self._send(step)
            if sent is not None:
                under_way.append(sent)
            if number % STEPS_AT_ONCE == 0:
                await asyncio.sleep(0)
        for process in self.workers.values():
            if not process.begun:
                process.begun = True
                _unheard(process.request(messages.Begin))
        for sent in under_way:
            if not await self._answered(*sent) and isinstance(sent[0], Replace):
                # Its old form would keep sockets that the plan is about to close.
                removal = self._remove(sent[0].key)
                if removal is not None:
                    await self._answered(*removal)

    async def _answered(
        self, step: Add | Replace | Remove, future: asyncio.Future[messages.Answer]
    ) -> bool:
        """Waits for the worker's answer and records it: was the step carried out?"""
        try:
            await asyncio.wait_for(future, ANSWER_TIMEOUT)
        except TimeoutError:
            # It hangs. Its end makes the other futures fail, and another worker start.
            if (process := self.workers.get(step.key.worker)) is not None:
                process.kill()
            return False
        except WorkerError as error:
            if step.key.worker in self.workers:
                self._fail(step.key, str(error))
            return False
        self._record(step)
        return True

    def _send(
        self, step: Add | Replace | Remove
    ) -> tuple[Add | Replace | Remove, asyncio.Future[messages.Answer]] | None:
        """Sends a step as far as it can be carried out; returns what was sent, None for nothing.

        A rule that cannot be had in its new form does not stay in its old one.
        """
        process = self.workers.get(step.key.worker)
        if process is None:
            return None
        if isinstance(step, Remove):
            return self._remove(step.key)
        egress = tuple(socket for socket in step.relay.egress if socket in self._egress)
        relay = Relay(step.relay.address, step.relay.port, egress, step.relay.needs)
        if self._relays.get(step.key) == relay:
            return None
        if not egress or not all(self._is_open(need) for need in relay.needs):
            return self._remove(step.key)
        segment = self._ingress[step.key.worker.ingress][1]
        try:
            slot = segment.rule_slot(step.key.rule)
            outputs = [
                messages.RuleOutput(
                    self._hand_over(process, egress),
                    segment.output_slot(egress.rule, egress.target),
                )
                for egress in relay.egress
            ]
        except NoRoomError as error:
            self._fail(step.key, str(error))
            return self._remove(step.key)
        kind = messages.ReplaceRule if isinstance(step, Replace) else messages.AddRule
        destination = messages.Endpoint(relay.address.packed, relay.port)
        return type(step)(step.key, relay), process.request(kind, slot, destination, outputs)

    def _remove(self, key: RelayKey) -> tuple[Remove, asyncio.Future[messages.Answer]] | None:
        process = self.workers.get(key.worker)
        if process is None or key not in self._relays:
            return None
        slot = self._ingress[key.worker.ingress][1].rule_slot(key.rule)
        return Remove(key), process.request(messages.RemoveRule, slot)

    def _hand_over(self, process: WorkerProcess, egress: Egress) -> int:
        place, new = process.place(egress)
        if new:
            descriptor = self._egress[egress].fileno()
            _unheard(process.request(messages.AddSockets, [place], descriptors=[descriptor]))
        return place

    def _record(self, step: Add | Replace | Remove) -> None:
        """A worker has done as it was told."""
        ingress = step.key.worker.ingress
        before = self._relays.pop(step.key, None)
        targets = {egress.target for egress in before.egress} if before else set()
        if isinstance(step, Remove):
            self.ledger.end_rule(ingress, step.key.rule)
        else:
            self._relays[step.key] = step.relay
            self._failures.pop(step.key, None)
            targets -= {egress.target for egress in step.relay.egress}
        for target in targets:
            self.ledger.end_output(ingress, step.key.rule, target)

    async def _close(self, resource: Resource) -> None:
        match resource:
            case Ingress():
                ring, _ = self._ingress.pop(resource)
                self.ledger.detach(resource, ring.ring_full())
                ring.close()
            case Worker():
                process = self.workers.pop(resource, None)
                self._relays = {k: r for k, r in self._relays.items() if k.worker != resource}
                if process is not None:
                    await process.stop()
            case Egress():
                process = self.workers.get(resource.worker)
                place = process.vacate(resource) if process is not None else None
                if process is not None and place is not None:
                    _unheard(process.request(messages.RemoveSockets, [place]))
                self._own.pop(resource, None)
                self._egress.pop(resource).close()
            case Hold():
                sock = self._holds.pop(resource)
                if sock is not None:
                    sock.close()
            case Membership():
                self._joined.discard(resource)
                self._memberships.leave(resource)


def _unheard(future: asyncio.Future[messages.Answer]) -> None:
    """What depends on this request fails with it; nobody waits for the answer itself."""

    def look(done: asyncio.Future[messages.Answer]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            log.debug("a worker refused: %s", error)

    future.add_done_callback(look)


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
    name = errno.errorcode.get(error.errno or 0, "?")
    text = f"{os.strerror(error.errno or 0)} ({name})"
    hint = ""
    match resource, error.errno:
        case (Ingress(), errno.EPERM):
            hint = "packet sockets need CAP_NET_RAW"
        case (Egress(), errno.ENETUNREACH | errno.EHOSTUNREACH):
            hint = f"there is no route to {resource.address} over {resource.interface}"
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
