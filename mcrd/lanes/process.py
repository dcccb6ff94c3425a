"""Worker processes: spawned by exec, watched by a pidfd."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import resource
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from mcrd.dataplane import messages
from mcrd.dataplane._dataplane import lib
from mcrd.events import tell
from mcrd.lanes.channel import Answer, Channel, WorkerError, unheard
from mcrd.lanes.hostile import Words
from mcrd.lanes.segment import Segment
from mcrd.lanes.spawn import KILL_TIMEOUT, Spawned, describe_end
from mcrd.planning.resources import Ring, Worker
from mcrd.sockets.common import kept_of
from mcrd.sockets.ingress import IngressSocket

START_TIMEOUT = 10.0  # seconds; a start takes a tenth of one
SPARE_TIMEOUT = 1.0  # seconds, of a spare process that is as old; it takes a hundredth of one
END_TIMEOUT = 1.0  # seconds, from closing the channel to SIGKILL
SILENT = 2  # checks in a row without an answer and without progress: it has hung
SOCKETS = 65536  # egress sockets of a worker, as far as the descriptor limit allows
UNPRIVILEGED = ("mcrd-worker", "nobody")  # users: the first that there is

GIVEN = "MCRD_NAMESPACES"
"""The variable by which the unit says which namespaces the service has for itself."""

CRASHES = frozenset(
    (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS)
)
"""Signals that a process draws upon itself."""

# linux/if_arp.h: interfaces whose frames begin with an Ethernet header; all others begin with IP.
ARPHRD_ETHER = 1
ARPHRD_LOOPBACK = 772

log = logging.getLogger(__name__)


class WorkerProcess(Channel):
    """One worker, from exec to its end; or from where the one has come to that `spare` gives.

    `ended` is called once, with what to tell the user; `wanted` when packets of members came that
    have no sockets: it raises ProtocolError for those that no worker asks for. `unknown` is called
    with the places of ports where somebody new has answered. `crashed` says that
    a process that has ended did not end by a signal from outside: whatever made it end may still
    wait in its rings. `suspect`: it did what no worker does.
    """

    def __init__(
        self,
        worker: Worker,
        ended: Callable[[WorkerProcess, str], None],
        wanted: Callable[[WorkerProcess, Sequence[messages.MemberKey]], None],
        unknown: Callable[[WorkerProcess, Sequence[int]], None] = lambda *_: None,
        spare: Callable[[], Spawned | None] = lambda: None,
    ) -> None:
        self.worker = worker
        self.cpu = worker.cpu if worker.cpu in os.sched_getaffinity(0) else None
        if worker.cpu is not None and self.cpu is None:
            log.warning(
                "%s: CPU %d does not exist or is not allowed; it runs on any", worker, worker.cpu
            )
        self.layers: list[str] = []
        self.missing: dict[str, str] = {}  # layers of the sandbox, and why
        self.engine = self.refused = ""  # what it has, and why that is not io_uring
        self.begun = False
        self.own: set[messages.Endpoint] = set()
        self._ended = ended
        self._wanted = wanted
        self._unknown = unknown
        self._gone = asyncio.Event()
        self._expected = False
        self._reason = ""  # why it was ended
        self._killed = 0.0  # when, if it was
        self._ping: Answer | None = None
        self._progress = 0
        self._silent = 0
        self.crashed = False
        self._started = time.monotonic()
        found = spare()
        self._was_spare = found is not None
        spawned = found or Spawned()
        self._process, self._pidfd, self._spawned = spawned.process, spawned.pidfd, spawned.began
        super().__init__(spawned.channel)
        who = f"{worker} (pid {self.pid})"
        try:
            self._words = Words(who, worker.ingress.interface, spawned.errors)
            self._listen()
            self._loop.add_reader(self._pidfd, self._reap)
        except OSError:  # the loop has no room for one of them
            for reader in (spawned.errors, spawned.channel):
                self._loop.remove_reader(reader)
            spawned.end()
            raise

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def gone(self) -> bool:
        """Whether it has ended, or nobody waits for it any more."""
        return self._gone.is_set()

    @property
    def is_mute(self) -> bool:
        """Whether it was a spare process, and has not answered: one that is new may do better."""
        return self._was_spare and not self._heard

    @property
    def hangs(self) -> bool:
        """Whether it hung, should have been ended, and was not."""
        return self._silent > 2 * SILENT

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    async def initialize(
        self,
        rings: Mapping[Ring, IngressSocket],
        places: Mapping[Ring, int],
        segment: Segment,
        guard: int,
        hardware: Mapping[Ring, int],
    ) -> None:
        """Hand over rings, counters and the guard's memory, and wait until the worker is Ready.

        `hardware` has an ARPHRD_ number for each, `places` where the segment has its counters.
        Raises WorkerError and OSError.
        """
        segment.end_waiting()  # what the last worker had
        uid, gid = _unprivileged()
        self._first = self._next()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self._room = SOCKETS
        if limit != resource.RLIM_INFINITY:
            self._room = min(SOCKETS, limit - kept_of(limit))
        request = messages.Initialize(
            sequence=self._first,
            supervisor=os.getpid(),
            rings=[
                rings_of(ring, sock, hardware[ring], places[ring]) for ring, sock in rings.items()
            ],
            sockets=self._room,
            uid=uid,
            gid=gid,
            cpu=self.cpu,
            strict=self.worker.strict,
            busy_poll=self.worker.busy_poll,
            engine=self.worker.engine,
            given=tuple(os.environ.get(GIVEN, "").split()),
        )
        with select.epoll() as readiness:  # the worker keeps its copy
            sockets = [
                sock.fileno() for ring in rings.values() for sock in (ring.socket, ring.large)
            ]
            for sock in sockets:
                readiness.register(sock, select.EPOLLIN)
            descriptors = [readiness.fileno(), segment.descriptor, guard, *sockets]
            sent = self._send(request, descriptors)
        age = time.monotonic() - self._spawned  # it may still be about to import what it needs
        patience = max(SPARE_TIMEOUT, START_TIMEOUT - age)
        try:
            answer = await asyncio.wait_for(sent, patience)
        except TimeoutError:
            self.kill()
            if self._was_spare:
                log.warning("%s: the spare process, pid %d, did not answer", self.worker, self.pid)
            raise WorkerError("it did not become ready") from None
        if self.gone:  # it answered, and ended before anybody listened
            raise WorkerError("it ended at once")
        if isinstance(answer, messages.Ready):
            self.layers, self.missing = answer.held, answer.missing
            self.engine, self.refused = answer.engine, answer.refused

    async def stop(self) -> None:
        """End the process: close the channel, and kill it if that is not enough.

        One that not even that has ended in time is left behind; a line says so.
        """
        self._expected = True
        self._close_channel()
        try:
            await asyncio.wait_for(self._gone.wait(), END_TIMEOUT)
        except TimeoutError:
            self.kill()
            try:
                await asyncio.wait_for(self._gone.wait(), KILL_TIMEOUT)
            except TimeoutError:
                self._say_it_stays()
                self._gone.set()

    def look(self, progress: int) -> None:
        """End it if it has hung: if it neither answers nor makes progress, check after check.

        `progress` is any number that changes as it works. Looks are counted and not time, or a
        supervisor that was stopped itself would take its workers for hung.
        """
        if self._heard or progress != self._progress:
            self._silent = 0
        elif self._ping is not None and not self.held_up:
            self._silent += 1
        self._heard, self._progress = False, progress
        if self._silent >= SILENT and not self.gone:
            self.kill("hung: it did not answer, and took no packet")
            if self._silent == 2 * SILENT + 1:  # from now on, hangs() says so
                self._say_it_stays()
        elif self._ping is None or self._ping.done():
            self._ping = self.request(messages.Ping)
            unheard(self._ping)

    def _say_it_stays(self) -> None:
        text = "%s: pid %d was killed %.1f s ago and has not ended; see /proc/%d/stack"
        where = {"interface": self.worker.ingress.interface, "worker": self.worker}
        since = time.monotonic() - self._killed
        what = (self.worker, self.pid, since, self.pid)
        tell(log, logging.ERROR, "worker-stays", text, *what, **where)

    def kill(self, reason: str = "") -> None:
        """End the process at once; `ended` is called when it has, with the reason if given.

        Without CAP_KILL, what has another uid ends only with the supervisor.
        """
        self._reason = self._reason or reason
        self._killed = self._killed or time.monotonic()
        try:
            self._process.kill()
        except PermissionError:
            log.error("%s: no permission to end pid %d", self.worker, self.pid)
            self._gone.set()
            self._close_channel()

    def _want(self, keys: Sequence[messages.MemberKey]) -> None:
        if not self.gone:  # nobody gives members to a process that has ended
            self._wanted(self, keys)

    def _ask(self, places: Sequence[int]) -> None:
        if not self.gone:
            self._unknown(self, places)

    def _hung_up(self) -> None:
        """Kill it soon: a worker that closes its channel is about to end, or is not what it was."""

        def look() -> None:
            if not self.gone:
                self._distrust("it closed its channel and went on")

        if not self._expected:
            self._loop.call_later(END_TIMEOUT, look)

    def _reap(self) -> None:
        status = self._process.wait()
        self._loop.remove_reader(self._pidfd)
        self._gone.set()
        with contextlib.suppress(OSError):  # it is closed all the same (close(2))
            os.close(self._pidfd)
        while self._receive():  # what it said last: why it refused, for one
            pass
        self._close_channel()
        self._words.end()
        self.suspect |= status == lib.MCRD_VIOLATION or -status == signal.SIGSYS
        self.crashed = self.suspect or status >= 0 or -status in CRASHES
        if not self._expected:
            self._ended(self, self._reason or describe_end(status))


def link_layer(hardware: int) -> int:
    """LINK_ETHERNET or LINK_IP, of an ARPHRD_ number."""
    ethernet = hardware in (ARPHRD_ETHER, ARPHRD_LOOPBACK)
    return int(lib.LINK_ETHERNET if ethernet else lib.LINK_IP)


def rings_of(ring: Ring, sock: IngressSocket, hardware: int, place: int = 0) -> messages.Rings:
    """The rings of an interface, as a worker is told of them; `hardware` is an ARPHRD_ number.

    `place` is where the segment has the interface's counters.
    """
    small, large = (
        messages.Sizes(g.block_size, g.block_count, g.frame_size)
        for g in (sock.geometry, sock.large_geometry)
    )
    return messages.Rings(ring.ingress.index, link_layer(hardware), small, large, place)


def _unprivileged() -> tuple[int | None, int | None]:
    if os.geteuid() != 0:
        return None, None
    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    return 65534, 65534  # the kernel's own overflow id
