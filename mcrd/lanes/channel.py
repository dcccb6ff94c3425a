"""What the supervisor and a worker say to each other, over one SOCK_SEQPACKET."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from mcrd.dataplane import messages
from mcrd.dataplane._dataplane import lib
from mcrd.errors import named, with_remedy
from mcrd.lanes import hostile
from mcrd.lanes.hostile import Demand, ProtocolError, understand
from mcrd.planning.resources import Egress
from mcrd.sockets.egress import source_port

IN_FLIGHT = 128  # requests; with more answers to give, a worker might have to wait

PASSING = frozenset((errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS))
"""Refusals to send that pass, but not when the channel is writable: it may be already."""
PAUSE = 0.05  # seconds from such a refusal to the next try
TOLD_AFTER = 2.0  # seconds of refusals, after which the log says so: most pass within a hundredth

Answer = asyncio.Future[messages.Answer]

log = logging.getLogger(__name__)


class WorkerError(Exception):
    """A worker refused a request, or is not there to take it; the text says why."""


class _Outgoing(NamedTuple):
    data: bytes
    descriptors: Sequence[int]


class Channel(ABC):
    """Requests to a worker, its answers, and the sockets that it was sent.

    Whoever is at the other end may be compromised: what breaks the protocol ends it.
    """

    def __init__(self, channel: socket.socket) -> None:
        self.places: dict[Egress, int] = {}
        """Where the worker has which socket."""
        self.suspect = False
        """Whether what it leaves behind is not to be trusted."""
        self._room = 0  # places that its table has
        self._free_places: list[int] = []
        self._sequence = 0
        self._first = 0  # the sequence number of Initialize
        self._answers: dict[int, Answer] = {}
        self._outgoing: deque[_Outgoing] = deque()
        self._in_flight = 0
        self._later: asyncio.TimerHandle | None = None  # when to try again what was refused
        self._refused_since: float | None = None
        self._told = False  # that it is refused
        self._heard = False  # since the last look
        self._demand = Demand()
        self._loop = asyncio.get_running_loop()
        self._channel = channel

    @abstractmethod
    def kill(self, reason: str = "") -> None:
        """End the worker at once."""

    @abstractmethod
    def _hung_up(self) -> None:
        """Note that the worker has closed its end."""

    @abstractmethod
    def _want(self, keys: Sequence[messages.MemberKey]) -> None:
        """Take a request for members; raise ProtocolError for those that no worker asks for."""

    @abstractmethod
    def _ask(self, places: Sequence[int]) -> None:
        """Say where the first answers at these places go."""

    def _listen(self) -> None:
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel, self._receive)

    @property
    def connected(self) -> bool:
        """Whether it can take requests."""
        return self._channel.fileno() >= 0

    @property
    def held_up(self) -> bool:
        """Whether it has answered all that it was sent, and the kernel takes no more for it now."""
        return self._later is not None and not self._in_flight

    async def hear(self, future: Answer, seconds: float, waits: Callable[[], None]) -> None:
        """Wait for an answer; raise TimeoutError after so long, unless the request is held up.

        `waits` is called each time that it is.
        """
        while not future.done():
            held_up = self.held_up
            await asyncio.wait([future], timeout=seconds)
            if not future.done() and not held_up and not self.held_up:
                raise TimeoutError
            waits()

    def request(
        self,
        kind: Callable[..., messages.AnyRequest],
        *rest: object,
        descriptors: Sequence[int] = (),
    ) -> Answer:
        """Send a request at once; the future raises WorkerError when it is refused."""
        request = kind(self._next(), *rest)
        if isinstance(request, messages.AddMember | messages.RemoveMember | messages.Answerer):
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

    def remove_sockets(self, sockets: Iterable[Egress]) -> Answer | None:
        """Ask for those back that the worker has; None when it has none of them."""
        found = [place for place in map(self.vacate, sockets) if place is not None]
        if not found:
            return None
        future = self.request(messages.RemoveSockets, found)
        unheard(future)
        return future

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _send(self, request: messages.AnyRequest, descriptors: Sequence[int]) -> Answer:
        future: Answer = self._loop.create_future()
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
                future.set_exception(WorkerError(with_remedy(error)))
                return future
            self._outgoing.append(_Outgoing(data, copies))
            self._flush()
        return future

    def _flush(self) -> None:
        self._try_no_more()
        while self._outgoing and self._in_flight < IN_FLIGHT and self._channel.fileno() >= 0:
            first = self._outgoing[0]
            try:
                socket.send_fds(self._channel, [first.data], list(first.descriptors))
            except OSError as error:
                if error.errno == errno.EAGAIN and self._hears_of_room():
                    return
                # ETOOMANYREFS: descriptors under way count until they are received (unix(7)).
                if error.errno in PASSING or error.errno == errno.EAGAIN:
                    self._note(error)
                    self._later = self._loop.call_later(PAUSE, self._flush)
                    return
                self._close_channel()
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):  # else it has ended itself
                    self.kill(f"ended, because it could not be told anything: {named(error)}")
                return
            self._refused_since, self._told = None, False
            self._in_flight += 1
            self._outgoing.popleft()
            _close_all(first.descriptors)

    def _note(self, error: OSError) -> None:
        """Say once that the kernel takes nothing, when it has not for a while."""
        now = self._loop.time()
        self._refused_since = since = self._refused_since or now
        if now - since >= TOLD_AFTER and not self._told:
            self._told = True
            text = "a worker cannot be told anything: %s; trying again until it can be"
            log.warning(text, named(error))

    def _hears_of_room(self) -> bool:
        """Flush when the channel is writable; False when the loop has no room to look at that."""
        try:
            self._loop.add_writer(self._channel, self._flush)
        except OSError:
            return False
        return True

    def _try_no_more(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
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
                self._hung_up()
                return False
            self._hear(understand(data, flags))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM):
                return False  # what is there is read the next time, or the worker taken for hung
            self._close_channel()
            self.kill(f"ended, because its messages could not be read: {named(error)}")
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
            self._check_demand(len(answer.members))
            self._want(answer.members)
            return
        if isinstance(answer, messages.Unknown):
            self._check_demand(len(answer.places))
            self._ask(answer.places)
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

    def _check_demand(self, count: int) -> None:
        self._demand.ask(count)
        if len(self._answers) > hostile.UNANSWERED:
            raise ProtocolError("sent requests without reading the answers")

    def _close_channel(self) -> None:
        if self._channel.fileno() < 0:
            return
        self._loop.remove_reader(self._channel)
        self._try_no_more()
        self._channel.close()
        for message in self._outgoing:
            _close_all(message.descriptors)
        self._outgoing.clear()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(WorkerError("the worker has ended"))
                future.exception()  # whoever still waits gets it; nobody has to
        self._answers.clear()


def end_sockets(channel: Channel | None, sockets: Mapping[Egress, socket.socket]) -> None:
    """Close them once the worker has put them away; after that nobody sends by them any more.

    To close the own descriptor alone would leave a compromised worker with its copy.
    """
    held = tuple(sockets.values())

    def close(_: object = None) -> None:
        for sock in held:
            lib.sandbox_disconnect(sock.fileno())
            sock.close()

    future = channel.remove_sockets(sockets) if channel is not None else None
    if future is None:
        close()
    else:
        future.add_done_callback(close)


def own_source(egress: Egress, sock: socket.socket) -> messages.Endpoint:
    """The address and port that the socket sends from."""
    return messages.Endpoint(egress.source.packed, source_port(egress, sock))


def own_sources(sockets: Mapping[Egress, socket.socket]) -> list[messages.Endpoint]:
    """Those of this host: a source that is kept is somebody else's."""
    return [own_source(egress, sock) for egress, sock in sockets.items() if not egress.transparent]


def unheard(future: Answer) -> None:
    """Ignore the answer: what depends on this request fails with it."""

    def look(done: Answer) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            log.debug("a worker refused: %s", error)

    future.add_done_callback(look)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
