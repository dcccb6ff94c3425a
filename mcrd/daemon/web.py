"""A small HTTP server for scrapes, in the daemon's loop (RFC 9110, RFC 9112).

One request a connection. Whoever is slow holds nobody up: there are a few connections at once, and
the one that was idle longest makes room for a new one.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import NamedTuple

from mcrd.daemon.door import Connection, Door
from mcrd.sockets.common import or_close

CLIENTS = 32  # connections at once: less than what is kept of descriptors for such things
READERS = 8  # of them that are sent an answer: each may hold another one in memory
REQUEST_LARGEST = 16 * 1024  # bytes
REQUEST_TIMEOUT = 5.0  # seconds from the connection to the end of the request
CHUNK = 64 * 1024  # bytes, of which some have to be taken
CHUNK_TIMEOUT = 10.0  # within so many seconds
SEND_BUFFER = 256 * 1024  # bytes that the kernel keeps for a connection
BACKLOG = 1024  # connections that wait for the loop
# That are accepted before others have their turn: so a request is seen before it is old.
AT_ONCE = 4

log = logging.getLogger(__name__)


class Request(NamedTuple):
    """What a client asks for; `headers` by their names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """`status` is a number and words."""

    status: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


Handler = Callable[[Request], Awaitable[Answer]]


class RefusedError(Exception):
    """The request is not understood; the text is the status."""


@dataclass(slots=True, eq=False)
class _Client:
    task: asyncio.Task[None]
    connection: Connection
    stage: str = "asks"  # then "waits", then "reads"
    since: float = 0.0  # when it was last seen to do something
    is_dropped: bool = False  # up to Python 3.11, wait_for() may lose a cancel()


class Server:
    """A server at one address."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._door: Door | None = None
        self._clients: dict[asyncio.Task[None], _Client] = {}

    async def start(self, host: str, port: int) -> None:
        """Listen; raise OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with or_close(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # What is accepted has these as well (tcp(7)).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.bind((host, port))
            sock.listen(BACKLOG)
            self._door = Door("metrics", sock, self._accept, REQUEST_LARGEST, AT_ONCE)

    def stages(self) -> list[str]:
        """What the clients are at: each asks, waits for its answer, or reads it."""
        return [client.stage for client in self._clients.values()]

    async def stop(self) -> None:
        """Listen no more, and drop its clients."""
        door, self._door = self._door, None
        if door is not None:
            await door.stop()

    async def _accept(self, connection: Connection) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not self._has_room():
            return
        self._clients[task] = client = _Client(task, connection, since=time.monotonic())
        try:
            with contextlib.suppress(OSError, EOFError):  # silent for too long, or gone
                await self._serve(client)
        finally:
            self._clients.pop(task, None)

    def _has_room(self) -> bool:
        """Make room for one more: drop clients that have not asked, then those that do not read."""
        if len(self._clients) < CLIENTS:
            return True
        return self._drop_one("asks") or self._drop_one("reads")

    def _drop_one(self, stage: str) -> bool:
        found = [client for client in self._clients.values() if client.stage == stage]
        if found:
            self._drop(min(found, key=lambda client: client.since))
        return bool(found)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.task]
        client.is_dropped = True
        client.task.cancel()

    async def _serve(self, client: _Client) -> None:
        try:
            request = await asyncio.wait_for(_request(client.connection), REQUEST_TIMEOUT)
        except RefusedError as error:
            answer = Answer(str(error))
        else:
            if client.is_dropped:
                return
            client.stage = "waits"
            try:
                answer = await self._handler(request)
            except Exception:
                log.exception("a request over HTTP failed")
                answer = Answer("500 Internal Server Error")
        if sum(other.stage == "reads" for other in self._clients.values()) >= READERS:
            self._drop_one("reads")
        client.stage, client.since = "reads", time.monotonic()
        await _send(client, answer)


async def _request(connection: Connection) -> Request:
    """Raise RefusedError, and EOFError when the client has gone."""
    lines: list[str] = []
    size = 0
    while True:
        try:
            line = await connection.line()
        except ValueError:  # longer than the limit
            line = b"\n" * (REQUEST_LARGEST + 1)
        if not line.endswith(b"\n"):
            raise EOFError
        size += len(line)
        if size > REQUEST_LARGEST:
            raise RefusedError("431 Request Header Fields Too Large")
        text = line.decode("latin-1").rstrip("\r\n")
        if text:
            lines.append(text)
        elif lines:  # RFC 9112, 2.2: empty lines before a request are not of it
            break
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise RefusedError("400 Bad Request")
    path, _, query = words[1].partition("?")
    headers = {}
    for text in lines[1:]:
        name, colon, value = text.partition(":")
        if not colon:
            raise RefusedError("400 Bad Request")
        headers[name.strip().lower()] = value.strip()
    return Request(words[0], path, query, headers)


async def _send(client: _Client, answer: Answer) -> None:
    headers = (
        *answer.headers,
        ("Date", formatdate(usegmt=True)),
        ("Content-Length", str(len(answer.body))),
        ("Connection", "close"),
    )
    lines = (f"HTTP/1.1 {answer.status}", *(f"{name}: {value}" for name, value in headers), "", "")
    head = "\r\n".join(lines).encode("latin-1")
    body = memoryview(answer.body)  # others may send the same one: no copy of all of it
    parts: list[bytes | memoryview] = [head + bytes(body[:CHUNK])]
    parts += [body[at : at + CHUNK] for at in range(CHUNK, len(body), CHUNK)]
    for part in parts:
        await asyncio.wait_for(client.connection.send(part), CHUNK_TIMEOUT)
        if client.is_dropped:
            return
        client.since = time.monotonic()
