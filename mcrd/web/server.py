"""The server of the page: HTTP by aiohttp, read-only, with a bound on all that clients can cause.

A connection has one request, and few seconds to make it and to read the answer. Only streams of
events stay: there are a few, and one that does not read is dropped.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
from aiohttp import web

from mcrd.bucket import Bucket
from mcrd.client import NoAnswerError
from mcrd.web.access import Access, RefusedError
from mcrd.web.connections import HEADERS, Connection, Door
from mcrd.web.live import Live
from mcrd.web.programs import FailedError, explain, journal
from mcrd.web.rule import details

STREAMS = 32  # of events, at once
WRITE_TIMEOUT = 10.0  # seconds in which a client has to take what it is sent
SEND_BUFFER = 256 * 1024  # bytes that wait for a client, here and as many in the kernel
BACKLOG = 256  # connections that wait to be accepted
LOOKS = 2  # at the past of a rule or its journal, at once
WHOLES = 8  # answers with all of the picture, at once
WAITING = 16  # requests that wait for one of these
PER_SECOND, BURST = 50, 200  # requests, of all who have access
FAULTS_PER_SECOND, FAULTS_BURST = 0.1, 10  # faults of mcrd-web itself that it writes about
PIECE = 64 * 1024  # bytes that are written at once

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
OWN_HEADER = "X-Mcrd"  # a page elsewhere cannot send it without being asked for leave (CORS)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """So many at once, and so many that wait for it; raises HTTPServiceUnavailable for more."""

    def __init__(self, most: int, waiting: int) -> None:
        self._semaphore = asyncio.Semaphore(most)
        self._room = most + waiting

    async def __aenter__(self) -> None:
        if self._room == 0:
            raise web.HTTPServiceUnavailable(text="busy; try again")
        self._room -= 1
        try:
            await self._semaphore.acquire()
        except BaseException:
            self._room += 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.release()
        self._room += 1


class Page:
    """Answers requests of whoever has access."""

    def __init__(self, live: Live, access: Access, control: Path, unit: str) -> None:
        self._live = live
        self._access = access
        self._control = control
        self._unit = unit
        self._files = {
            path.name: (path.read_bytes(), TYPES[path.suffix])
            for path in STATIC.iterdir()
            if path.suffix in TYPES
        }
        self._looks = Gate(LOOKS, WAITING)
        self._explains = Gate(1, 0)
        self._wholes = Gate(WHOLES, WAITING)
        self._bucket = Bucket(PER_SECOND, BURST)
        self._faults = Bucket(FAULTS_PER_SECOND, FAULTS_BURST)
        self._door = Door(access.proxies if access.proxy_header else frozenset())
        self._cookie = "mcrd-web"

    def application(self) -> web.Application:
        """All that it answers."""
        application = web.Application(middlewares=[self._guard], client_max_size=1024)
        get = partial(application.router.add_get, allow_head=False)
        get("/", self._index)
        get("/state", self._state)
        get("/events", self._events)
        get("/rule/{name:.+}", self._rule)
        get("/journal/{name:.+}", self._journal)
        application.router.add_post("/explain/{name:.+}", self._explain)
        get("/{file:[a-z.]+}", self._file)
        return application

    async def listen(self, host: str, port: int) -> tuple[asyncio.Server, int]:
        """Listen there; the server and its port, which 0 leaves to the kernel. Raises OSError."""
        runner = web.AppRunner(self.application())
        await runner.setup()
        assert runner.server is not None
        make = partial(Connection, self._door, runner.server)
        sock = _bound(host, port)
        number: int = sock.getsockname()[1]
        self._cookie = f"mcrd-web-{number}"
        loop = asyncio.get_running_loop()
        return await loop.create_server(make, sock=sock, backlog=BACKLOG), number

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            answer = await self._answer(request, handler)
        except RefusedError as error:
            if not self._door.refused.take():
                _connection(request).drop()
            answer = web.Response(status=error.status, text=f"{error}\n")
        except FailedError as error:
            answer = web.Response(status=502, text=f"{error}\n")
        except web.HTTPException as error:
            answer = web.Response(status=error.status, text=f"{error.text}\n")
        except Exception as error:  # noqa: BLE001  # whatever it is, the others are served
            if self._faults.take():
                print(f"mcrd-web has a fault: {error!r}", file=sys.stderr, flush=True)
            answer = web.Response(status=500, text="a fault of mcrd-web; its log has it\n")
        answer.force_close()
        if not answer.prepared:
            for name, value in HEADERS.items():
                answer.headers.setdefault(name, value)
        return answer

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if (logged_in := self._login(request)) is not None:
            return logged_in
        given = request.cookies.get(self._cookie)
        self._access.check(request.remote or "", request.headers, given)
        # Whoever has no access takes nothing away from those who have.
        if not self._bucket.take():
            raise web.HTTPTooManyRequests(text="too many requests; try again")
        return await handler(request)

    def _login(self, request: web.Request) -> web.Response | None:
        """Take the token out of the address, into a cookie that no script can read."""
        if request.path != "/" or not self._access.is_token(request.query.get("token")):
            return None
        answer = web.Response(status=303, headers={"Location": "./"})
        token = self._access.token or ""
        answer.set_cookie(self._cookie, token, path="/", httponly=True, samesite="Strict")
        return answer

    async def _index(self, _: web.Request) -> web.Response:
        return self._of_file("index.html")

    async def _file(self, request: web.Request) -> web.Response:
        return self._of_file(request.match_info["file"])

    def _of_file(self, name: str) -> web.Response:
        if name not in self._files:
            raise web.HTTPNotFound(text="not found")
        body, kind = self._files[name]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _state(self, request: web.Request) -> web.StreamResponse:
        async with self._wholes:
            return await self._written(request, "application/json", self._only(self._live.whole()))

    async def _only(self, data: bytes) -> AsyncIterator[bytes]:
        yield data

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._live.watchers >= STREAMS:
            raise web.HTTPServiceUnavailable(text="too many pages are open")
        self._live.watchers += 1
        _connection(request).last(is_wanted=True)
        try:
            return await self._written(request, "text/event-stream", self._messages())
        finally:
            self._live.watchers -= 1

    async def _messages(self) -> AsyncIterator[bytes]:
        number, data = self._live.number, self._live.whole()
        while True:
            yield b"data: "
            yield data  # as it is: it may be large, and is the same for all
            yield b"\n\n"
            number, data = await self._live.changed(number)

    async def _written(
        self, request: web.Request, kind: str, parts: AsyncIterator[bytes]
    ) -> web.StreamResponse:
        """Write them piece by piece: what waits for a client is no more than SEND_BUFFER."""
        answer = web.StreamResponse(headers=HEADERS)
        answer.content_type = kind
        answer.force_close()
        try:
            await answer.prepare(request)
            if request.transport is not None:
                request.transport.set_write_buffer_limits(high=SEND_BUFFER)
            async for part in parts:
                async with asyncio.timeout(WRITE_TIMEOUT):
                    for begin in range(0, len(part), PIECE):
                        await answer.write(part[begin : begin + PIECE])
        except (ConnectionError, TimeoutError):
            _connection(request).drop()
        return answer

    async def _rule(self, request: web.Request) -> web.Response:
        name, rule, trouble = self._named(request), None, ""
        # A daemon that hangs is waited for out here: others' looks are at what is known.
        try:
            rule = await self._live.counts(name)
        except NoAnswerError as error:
            trouble = str(error)
        async with self._looks:
            past = self._live.history.of(self._named(request))  # it may have gone meanwhile
            return _json(await asyncio.to_thread(details, name, rule, past, trouble))

    async def _journal(self, request: web.Request) -> web.Response:
        name = self._named(request)
        async with self._looks:
            return _json(msgspec.json.encode(await journal(self._unit, name)))

    async def _explain(self, request: web.Request) -> web.Response:
        name = self._named(request)
        if OWN_HEADER not in request.headers:
            raise web.HTTPForbidden(text=f"the header {OWN_HEADER} is missing")
        _connection(request).last(is_wanted=True)
        try:
            async with self._explains:
                return web.Response(text=await explain(self._control, name))
        finally:
            _connection(request).last(is_wanted=False)

    def _named(self, request: web.Request) -> str:
        name = request.match_info["name"]
        if not self._live.has(name):
            raise web.HTTPNotFound(text="there is no such rule")
        return name


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound there; raises OSError. What it accepts has its buffer, and no larger one."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _connection(request: web.Request) -> Connection:
    assert isinstance(request.protocol, Connection)
    return request.protocol


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
