"""Worker processes: spawned by exec, spoken to over one SOCK_SEQPACKET, watched by a pidfd."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mcrd.dataplane import messages
from mcrd.dataplane._dataplane import lib
from mcrd.errors import named, words
from mcrd.events import tell
from mcrd.lanes import hostile
from mcrd.lanes.counts import Segment
from mcrd.lanes.hostile import Demand, ProtocolError, Words, understand
from mcrd.planning.resources import Egress, Worker
from mcrd.sockets import IngressSocket

START_TIMEOUT = 10.0  # seconds; a start takes a tenth of one
END_TIMEOUT = 1.0  # seconds, from closing the channel to SIGKILL
KILL_TIMEOUT = 2.0  # seconds, from SIGKILL to giving up: a system call may not be interrupted
SILENT = 2  # looks in a row without an answer and without progress: it has hung
IN_FLIGHT = 128  # requests; with more answers to give, a worker might have to wait
SOCKETS = 65536  # egress sockets of a worker, as far as the descriptor limit allows
UNPRIVILEGED = ("mcrd-worker", "nobody")  # users: the first that there is

GIVEN = "MCRD_NAMESPACES"
"""The variable by which the unit says which namespaces the service has for itself."""

CRASHES = frozenset(
    (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS)
)
"""Signals that a process draws upon itself."""

PROGRAM: tuple[str, ...] = ("-m", "mcrd.dataplane.worker")
"""What the interpreter runs in a worker."""

# linux/if_arp.h: interfaces whose frames begin with an Ethernet header; all others begin with IP.
ARPHRD_ETHER = 1
ARPHRD_LOOPBACK = 772

log = logging.getLogger(__name__)


class WorkerError(Exception):
    """A worker refused a request, or is not there to take it; the text says why."""


@dataclass(slots=True)
class _Outgoing:
    data: bytes
    descriptors: Sequence[int]


class WorkerProcess:
    """One worker, from exec to its end.

    `ended` is called once, with what to tell the user; `wanted` when packets of members came that
    have no sockets: it raises ProtocolError for those that no worker asks for. `suspect` says that
    a process that has ended did not end by a signal from outside: whatever made it end may still
    stand in its rings.
    """

    def __init__(
        self,
        worker: Worker,
        ended: Callable[[WorkerProcess, str], None],
        wanted: Callable[[WorkerProcess, Sequence[messages.MemberKey]], None],
    ) -> None:
        self.worker = worker
        self._wanted = wanted
        self.cpu = worker.cpu if worker.cpu in os.sched_getaffinity(0) else None
        if worker.cpu is not None and self.cpu is None:
            log.warning(
                "%s: CPU %d does not exist or is not allowed; it runs on any", worker, worker.cpu
            )
        self.layers: list[str] = []
        self.missing: dict[str, str] = {}  # layers of the sandbox, and why
        self.begun = False
        self.places: dict[Egress, int] = {}
        self._room = 0  # places that its table has
        self.own: set[messages.Endpoint] = set()
        self._free_places: list[int] = []
        self._ended = ended
        self._sequence = 0
        self._answers: dict[int, asyncio.Future[messages.Answer]] = {}
        self._outgoing: deque[_Outgoing] = deque()
        self._in_flight = 0
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._expected = False
        self._reason = ""  # why it was ended
        self._killed = 0.0  # when, if it was
        self._ping: asyncio.Future[messages.Answer] | None = None
        self._heard = False  # since the last look
        self._progress = 0
        self._silent = 0
        self._demand = Demand()
        self.suspect = False  # what it has left behind is not to be trusted
        self._first = 0  # the sequence number of Initialize
        self._started = time.monotonic()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._words = Words(str(worker), worker.ingress.interface)
        try:
            with theirs:
                self._process = _spawn(theirs, self._words.writer)
            self._words.started(self.pid)
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._abandon()
            raise
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel, self._receive)
        self._loop.add_reader(self._pidfd, self._reap)

    def _abandon(self) -> None:
        """Clean up after a start that failed half way."""
        self._channel.close()
        self._words.end()
        process = getattr(self, "_process", None)
        if process is not None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_TIMEOUT)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def connected(self) -> bool:
        """Whether it can take requests."""
        return self._channel.fileno() >= 0

    @property
    def gone(self) -> bool:
        """Whether it has ended, or nobody waits for it any more."""
        return self._gone.is_set()

    @property
    def hangs(self) -> bool:
        """Whether it hung, should have been ended, and was not."""
        return self._silent > 2 * SILENT

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    async def initialize(
        self, ring: IngressSocket, segment: Segment, guard: int, hardware: int
    ) -> None:
        """Hand over ring, counters and the guard's memory, and wait until the worker is Ready.

        Raises WorkerError.
        """
        uid, gid = _unprivileged()
        self._first = self._next()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self._room = min(SOCKETS, limit // 2) if limit != resource.RLIM_INFINITY else SOCKETS
        request = messages.Initialize(
            sequence=self._first,
            supervisor=os.getpid(),
            link=link_layer(hardware),
            block_size=ring.geometry.block_size,
            block_count=ring.geometry.block_count,
            frame_size=ring.geometry.frame_size,
            sockets=self._room,
            uid=uid,
            gid=gid,
            interface=self.worker.ingress.index,
            cpu=self.cpu,
            large=messages.Sizes(
                ring.large_geometry.block_size,
                ring.large_geometry.block_count,
                ring.large_geometry.frame_size,
            ),
            strict=self.worker.strict,
            given=tuple(os.environ.get(GIVEN, "").split()),
        )
        descriptors = [
            *(ring.socket.fileno(), ring.epoll.fileno()),
            *(segment.descriptor, guard, ring.large.fileno()),
        ]
        try:
            answer = await asyncio.wait_for(self._send(request, descriptors), START_TIMEOUT)
        except TimeoutError:
            raise WorkerError("it did not become ready") from None
        if isinstance(answer, messages.Ready):
            self.layers, self.missing = answer.held, answer.missing

    def request(
        self,
        kind: Callable[..., messages.AnyRequest],
        *rest: object,
        descriptors: Sequence[int] = (),
    ) -> asyncio.Future[messages.Answer]:
        """Send a request at once; the future raises WorkerError when it is refused."""
        request = kind(self._next(), *rest)
        if isinstance(request, messages.AddMember | messages.RemoveMember):
            self._demand.answer(request.sequence)
        return self._send(request, descriptors)

    def place(self, egress: Egress) -> tuple[int, bool]:
        """The socket's place in the worker's table, and whether it has to be sent there first.

        Raises WorkerError when the table is full.
        """
        if egress in self.places:
            return self.places[egress], False
        if not self._free_places and len(self.places) >= self._room:
            raise WorkerError(
                f"the worker has room for {self._room} sockets; raise the limit on open files"
                " (LimitNOFILE=)"
            )
        place = self._free_places.pop() if self._free_places else len(self.places)
        self.places[egress] = place
        return place, True

    def vacate(self, egress: Egress) -> int | None:
        """Free the socket's place."""
        place = self.places.pop(egress, None)
        if place is not None:
            self._free_places.append(place)
        return place

    def add_sockets(self, sockets: Mapping[Egress, socket.socket]) -> None:
        """Send the sockets that the worker does not have, many in a message.

        Raises WorkerError when one cannot be sent: then those of its message have not gone.
        """
        egresses = [egress for egress in sockets if egress not in self.places]
        for at in range(0, len(egresses), messages.DESCRIPTORS):
            part = egresses[at : at + messages.DESCRIPTORS]
            try:
                places = [self.place(egress)[0] for egress in part]
                descriptors = [sockets[egress].fileno() for egress in part]
                future = self.request(messages.AddSockets, places, descriptors=descriptors)
                if future.done():  # it was not even sent
                    future.result()
            except WorkerError:
                for egress in part:
                    self.vacate(egress)
                raise
            unheard(future)

    def remove_sockets(self, sockets: Iterable[Egress]) -> asyncio.Future[messages.Answer] | None:
        """Ask for those back that the worker has; None when it has none of them."""
        found = [place for place in map(self.vacate, sockets) if place is not None]
        if not found:
            return None
        future = self.request(messages.RemoveSockets, found)
        unheard(future)
        return future

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
        elif self._ping is not None:
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
        tell(
            log,
            logging.ERROR,
            "worker-stays",
            text,
            self.worker,
            self.pid,
            since,
            self.pid,
            **where,
        )

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

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _send(
        self, request: messages.AnyRequest, descriptors: Sequence[int]
    ) -> asyncio.Future[messages.Answer]:
        future: asyncio.Future[messages.Answer] = self._loop.create_future()
        data = messages.encode(request)
        if self._channel.fileno() < 0:
            future.set_exception(WorkerError("the worker has ended"))
        elif len(data) > messages.LARGEST:
            future.set_exception(WorkerError(f"too large for one message: {len(data)} bytes"))
        else:
            self._answers[request.sequence] = future
            # Its own, for the caller may close the socket before the message has gone.
            copies: list[int] = []
            try:
                copies.extend(os.dup(descriptor) for descriptor in descriptors)
            except OSError as error:
                _close_all(copies)
                del self._answers[request.sequence]
                future.set_exception(WorkerError(words(error)))
                return future
            self._outgoing.append(_Outgoing(data, copies))
            self._flush()
        return future

    def _flush(self) -> None:
        while self._outgoing and self._in_flight < IN_FLIGHT and self._channel.fileno() >= 0:
            first = self._outgoing[0]
            try:
                socket.send_fds(self._channel, [first.data], list(first.descriptors))
            except OSError as error:
                # ETOOMANYREFS: descriptors under way count until they are received (unix(7)).
                if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS):
                    self._loop.add_writer(self._channel, self._flush)
                    return
                self._close_channel()
                return
            self._in_flight += 1
            self._outgoing.popleft()
            _close_all(first.descriptors)
        if self._channel.fileno() >= 0:
            self._loop.remove_writer(self._channel)

    def _receive(self) -> bool:
        """Receive one message, if there is one; anything wrong about it ends the worker."""
        if self._channel.fileno() < 0:
            return False
        try:
            # Descriptors that come with it are closed by the kernel, which says so: MSG_CTRUNC.
            data, flags = self._read()
            if not data:
                self._close_channel()
                self._kill_soon()
                return False
            self._hear(understand(data, flags))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM):
                return False  # what is there is read the next time, or the worker taken for hung
            self._close_channel()
            self.kill(f"ended, for it could not be heard: {named(error)}")
        except ProtocolError as error:
            self._distrust(f"it {error}")
        return True

    def _read(self) -> tuple[bytes, int]:
        """Receive a message with its flags; none at the end. Raise OSError."""
        try:
            data, _, flags, _ = self._channel.recvmsg(messages.LARGEST)
        except ConnectionResetError:
            # It ended before it had read all that it was sent. What it said comes after that.
            data, _, flags, _ = self._channel.recvmsg(messages.LARGEST)
        return data, flags

    def _distrust(self, why: str) -> None:
        self.suspect = True
        self._close_channel()
        self.kill(f"killed, for {why}")

    def _hear(self, answer: messages.Answer) -> None:
        self._heard = True
        if isinstance(answer, messages.Wanted):
            self._demand.ask(len(answer.members))
            if len(self._answers) > hostile.UNANSWERED:
                raise ProtocolError("asked and did not listen")
            self._wanted(self, answer.members)
            return
        future = self._answers.get(answer.sequence)
        if future is None:
            raise ProtocolError(f"answered request {answer.sequence}, which nobody made")
        if isinstance(answer, messages.Ready) and answer.sequence != self._first:
            raise ProtocolError(f"said that it was ready in answer to request {answer.sequence}")
        if isinstance(answer, messages.Done) and answer.sequence == self._first:
            raise ProtocolError("did not say that it was ready")
        del self._answers[answer.sequence]
        self._demand.heard(answer.sequence)
        self._in_flight -= 1
        self._flush()
        if future.done():
            return
        if isinstance(answer, messages.Refused):
            future.set_exception(WorkerError(answer.reason))
        else:
            future.set_result(answer)

    def _kill_soon(self) -> None:
        """Kill it soon: a worker that closes its channel is about to end, or is not what it was."""

        def look() -> None:
            if not self.gone:
                self._distrust("it closed its channel and went on")

        if not self._expected:
            self._loop.call_later(END_TIMEOUT, look)

    def _close_channel(self) -> None:
        if self._channel.fileno() < 0:
            return
        self._loop.remove_reader(self._channel)
        self._loop.remove_writer(self._channel)
        self._channel.close()
        for message in self._outgoing:
            _close_all(message.descriptors)
        self._outgoing.clear()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(WorkerError("the worker has ended"))
                future.exception()  # whoever still waits gets it; nobody has to
        self._answers.clear()

    def _reap(self) -> None:
        status = self._process.wait()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._drain()
        self._close_channel()
        self._words.end()
        self.suspect = self.suspect or status >= 0 or -status in CRASHES
        self._gone.set()
        if not self._expected:
            self._ended(self, self._reason or describe_end(status))

    def _drain(self) -> None:
        """Read what a process that has ended said last: why it refused, for one."""
        self._wanted = _nobody_asks
        while self._receive():
            pass


def _nobody_asks(_: WorkerProcess, __: Sequence[messages.MemberKey]) -> None:
    """Drop the members that an ended process wanted."""


def end_sockets(process: WorkerProcess | None, sockets: Mapping[Egress, socket.socket]) -> None:
    """Close them once the worker has put them away; after that nobody sends by them any more.

    To close the own descriptor alone would leave a worker that was taken over with its copy.
    """
    held = tuple(sockets.values())

    def close(_: object = None) -> None:
        for sock in held:
            lib.sandbox_disconnect(sock.fileno())
            sock.close()

    future = process.remove_sockets(sockets) if process is not None else None
    if future is None:
        close()
    else:
        future.add_done_callback(close)


def unheard(future: asyncio.Future[messages.Answer]) -> None:
    """Ignore the answer: what depends on this request fails with it."""

    def look(done: asyncio.Future[messages.Answer]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            log.debug("a worker refused: %s", error)

    future.add_done_callback(look)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def describe_end(status: int) -> str:
    """What became of a process, from its return code."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    if status == lib.MCRD_VIOLATION:
        return "ended by its sandbox: the line before names the system call"
    return f"ended with exit status {status}"


def link_layer(hardware: int) -> int:
    """LINK_ETHERNET or LINK_IP, of an ARPHRD_ number."""
    ethernet = hardware in (ARPHRD_ETHER, ARPHRD_LOOPBACK)
    return int(lib.LINK_ETHERNET if ethernet else lib.LINK_IP)


def _unprivileged() -> tuple[int | None, int | None]:
    if os.geteuid() != 0:
        return None, None
    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    return 65534, 65534  # the kernel's own overflow id


def _spawn(channel: socket.socket, errors: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I"]
    if sys.dont_write_bytecode:
        command.append("-B")
    return subprocess.Popen(
        [*command, *PROGRAM],
        stdin=channel.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env={},
        cwd="/",
        process_group=0,  # Ctrl-C in a terminal is the supervisor's to handle
    )
