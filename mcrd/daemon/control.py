"""The daemon's end of the control socket: one JSON object in a line asks, one answers."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import select
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from mcrd.answers import PROTOCOL, Reply
from mcrd.client import CONNECT_TIMEOUT, REQUEST_LARGEST, TOO_LONG, ControlError
from mcrd.daemon.audit import Peer, tell_asked, trusted
from mcrd.daemon.door import Connection, Door
from mcrd.errors import WANTING, with_remedy, words
from mcrd.events import tell
from mcrd.tasks import describe

CLIENT_TIMEOUT = 30.0  # seconds that a client may be silent, or not read its answer
LOOK_AFTER = 0.1  # seconds between two looks whether a client is still there
BACKLOG = 100  # connections that wait for the loop
AT_ONCE = 16  # that are accepted before others have their turn
MODE = 0o660

log = logging.getLogger(__name__)


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a client asks for."""

    command: str
    arguments: dict[str, Any] = {}


Handler = Callable[[Request], Awaitable[Any]]


class Server:
    """Answers any number of clients; one that stays silent holds nobody up and is dropped."""

    def __init__(
        self,
        path: Path,
        handler: Handler,
        guarded: frozenset[str] = frozenset(),
        lasting: frozenset[str] = frozenset(),
    ) -> None:
        """`guarded` are commands for root, the daemon's user and its group alone.

        `lasting` are those that end when their client goes away.
        """
        self._path = path
        self._handler = handler
        self._guarded = guarded
        self._lasting = lasting
        self._door: Door | None = None
        self._made_directory = False

    async def start(self) -> None:
        """Bind the socket; raise ControlError when that cannot be, or another daemon has it."""
        try:
            if not self._path.parent.exists():
                self._path.parent.mkdir(mode=0o755)
                self._made_directory = True
            with contextlib.ExitStack() as undo:
                sock = undo.enter_context(self._bind())
                undo.callback(self._path.unlink, missing_ok=True)
                sock.listen(BACKLOG)
                self._door = Door("control socket", sock, self._accept, REQUEST_LARGEST, AT_ONCE)
                undo.pop_all()
        except OSError as error:
            self._remove_directory()
            why = with_remedy(error) if error.errno in WANTING else words(error)
            raise ControlError(f"control socket {self._path}: {why}") from None

    async def stop(self) -> None:
        """Close the socket and drop its clients."""
        door, self._door = self._door, None
        if door is None:
            return
        await door.stop()
        self._path.unlink(missing_ok=True)
        self._remove_directory()

    def _remove_directory(self) -> None:
        if self._made_directory:
            with contextlib.suppress(OSError):
                self._path.parent.rmdir()

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # The mode counts from the first moment on, hence the mask and not a chmod alone.
        mask = os.umask(0o777 & ~MODE)
        try:
            try:
                sock.bind(str(self._path))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or _is_answered(self._path):
                    raise
                if not stat.S_ISSOCK(self._path.lstat().st_mode):
                    raise OSError(errno.EEXIST, "it exists, and is not a socket") from None
                self._path.unlink()  # what a daemon left that was killed
                sock.bind(str(self._path))
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise OSError(
                    errno.EADDRINUSE, "another mcrd answers there; give this one its own --control"
                ) from None
            raise
        finally:
            os.umask(mask)
        return sock

    async def _accept(self, client: Connection) -> None:
        # Silent for too long, or gone. What it did not read is not kept.
        with contextlib.suppress(TimeoutError, ConnectionError):
            await self._serve(client, Peer.of(client.socket))

    async def _serve(self, client: Connection, peer: Peer) -> None:
        line: bytes | None = b""
        while line is not None:
            try:
                line = await asyncio.wait_for(client.line(), CLIENT_TIMEOUT)
            except ValueError:  # it is not read any further
                line, answer = None, _encode(Reply(errors=[TOO_LONG]))
            else:
                if not line:
                    return
                answer = await self._answer(line, peer, client.socket)
            await asyncio.wait_for(client.send(answer + b"\n"), CLIENT_TIMEOUT)

    async def _answer(self, line: bytes, peer: Peer, client: socket.socket) -> bytes:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return _encode(Reply(errors=[f"not a request: {error}"]))
        if request.command in self._guarded:
            tell_asked(peer, request.command, request.arguments)
            if not peer.is_trusted:
                return _encode(Reply(errors=[f"{request.command} is for {trusted()}"]))
        try:
            if request.command in self._lasting:
                return _encode(Reply(await self._while_asked(request, client)))
            return _encode(Reply(await self._handler(request)))
        except ControlError as error:
            return _encode(Reply(errors=list(error.lines), logged=error.logged))
        except _GoneError:
            raise
        except Exception as error:  # noqa: BLE001  # a bug in one answer must not end the daemon
            text, command = "the request %s failed: %s", repr(request.command)
            tell(log, logging.ERROR, "request-failed", text, command, describe(error), task=command)
            if isinstance(error, OSError):
                return _encode(Reply(errors=[f"{request.command}: {with_remedy(error)}"]))
            return _encode(Reply(errors=[f"internal error: {error!r}"]))

    async def _while_asked(self, request: Request, client: socket.socket) -> Any:
        """End the request, by _GoneError, when nobody is there to read the answer."""
        task = asyncio.ensure_future(self._handler(request))
        try:
            while not (await asyncio.wait({task}, timeout=LOOK_AFTER))[0]:
                if _has_hung_up(client):
                    raise _GoneError
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})


class _GoneError(ConnectionError):
    """The client has closed its end."""


def _has_hung_up(peer: socket.socket) -> bool:
    """Whether both directions are closed: one that sends no more may still wait for the answer."""
    poll = select.poll()
    poll.register(peer.fileno(), 0)  # POLLHUP and POLLERR come unasked
    return bool(poll.poll(0))


def _encode(reply: Reply) -> bytes:
    reply.protocol = PROTOCOL
    return msgspec.json.encode(reply, enc_hook=str)  # addresses


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            return error.errno != errno.ENOTSOCK
    return True
