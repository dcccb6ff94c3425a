"""Connections that a socket takes, each with a task of its own.

Not by a server of asyncio's. When that has a connection and the kernel then refuses something, the
connection stays open, and nobody reads it. When it could not accept for a while, and the loop has
no room for its socket then, it accepts nothing any more.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

from mcrd.errors import with_remedy
from mcrd.events import tell
from mcrd.tasks import describe

AGAIN = 1.0  # seconds, until the kernel may grant what it has refused
CHUNK = 64 * 1024  # bytes that are read at once

log = logging.getLogger(__name__)


class Connection:
    """A stream socket that does not block. All raise OSError where the kernel refuses something."""

    def __init__(self, sock: socket.socket, limit: int) -> None:
        """No line may have more bytes than `limit` before its end."""
        self.socket = sock
        self._limit = limit
        self._read = bytearray()

    async def line(self) -> bytes:
        """The next line with its end, or what there is before the end of the stream.

        Raises ValueError for one that is too long.
        """
        seen = 0
        while True:
            await asyncio.sleep(0)  # who says more and more, or much at once, holds up nobody
            end = self._read.find(b"\n", seen)
            if end >= 0 or len(self._read) > self._limit:
                break
            seen = len(self._read)
            data = await asyncio.get_running_loop().sock_recv(self.socket, CHUNK)
            if not data:
                rest, self._read = bytes(self._read), bytearray()
                return rest
            self._read += data
        if not 0 <= end <= self._limit:
            raise ValueError(f"a line of more than {self._limit} bytes")
        line = bytes(self._read[: end + 1])
        del self._read[: end + 1]
        return line

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        await asyncio.get_running_loop().sock_sendall(self.socket, data)


Serve = Callable[[Connection], Awaitable[None]]


class Door:
    """Takes connections from now on. `serve` is called with each, which is closed when it ends."""

    def __init__(self, name: str, sock: socket.socket, serve: Serve, limit: int, most: int) -> None:
        """`sock` listens, and is closed by stop(). At most so many are taken at once.

        `limit` is that of a Connection. Raises OSError.
        """
        self._name, self._socket, self._serve = name, sock, serve
        self._limit, self._most = limit, most
        self._tasks: dict[asyncio.Task[None], socket.socket] = {}
        self._later: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._take)

    async def stop(self) -> None:
        """Take none any more, and end all that there are."""
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        tasks = tuple(self._tasks)
        for task, sock in self._tasks.items():
            _cut(sock)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self) -> None:
        try:
            for _ in range(self._most):
                self._begin(self._socket.accept()[0])
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:  # the connection waits on, and would wake the loop at once
            self._refused(error)
            self._loop.remove_reader(self._socket)
            self._later = self._loop.call_later(AGAIN, self._look)

    def _look(self) -> None:
        try:
            self._loop.add_reader(self._socket, self._take)
        except OSError as error:
            self._refused(error)
            self._later = self._loop.call_later(AGAIN, self._look)

    def _begin(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
        except OSError as error:
            _close(sock)
            self._refused(error)
            return
        task = self._loop.create_task(self._until_it_ends(sock))
        self._tasks[task] = sock
        task.add_done_callback(lambda _: _close(sock))
        task.add_done_callback(self._tasks.pop)

    async def _until_it_ends(self, sock: socket.socket) -> None:
        try:
            await self._serve(Connection(sock, self._limit))
        except Exception as error:  # noqa: BLE001  # the line is what this is for
            text = "%s: a client: %s"
            tell(log, logging.ERROR, "task-failed", text, self._name, describe(error))

    def _refused(self, error: OSError) -> None:
        text = "%s: a client cannot be taken: %s"
        tell(log, logging.ERROR, "unexpected", text, self._name, with_remedy(error))


def _cut(sock: socket.socket) -> None:
    """End a stream both ways. Of wait_for(), a cancel() may be lost up to Python 3.11."""
    with contextlib.suppress(OSError):  # it has gone
        sock.shutdown(socket.SHUT_RDWR)


def _close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed all the same (close(2))
        sock.close()
