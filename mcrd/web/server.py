"""The server of the page: HTTP by aiohttp, read-only, with a bound on all that clients can cause.

A connection has one request, and few seconds to make it and to read the answer. Only streams of
events stay: there are a few, and one that does not read is dropped.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from mcrd.web.access import Access, RefusedError
from mcrd.web.live import Live
from mcrd.web.programs import FailedError, explain, journal
from mcrd.web.rule import details

CONNECTIONS = 128  # at once
STREAMS = 32  # of events, at once
AGE = 20.0  # seconds that a connection may take, but for streams of events and explain
WRITE_TIMEOUT = 10.0  # seconds in which a client has to take what it is sent
SEND_BUFFER = 256 * 1024  # bytes that wait for a client, here and as many in the kernel
BACKLOG = 256  # connections that wait to be accepted
LOOKS = 2  # at the past of a rule or its journal, at once
WAITING = 16  # requests that wait for that
PER_SECOND, BURST = 50, 200  # requests, of all clients

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "mcrd-web",
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


class Bucket:
    """Requests of all clients: so many a second, after a burst."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left, self._at = float(BURST), clock()

    def take(self) -> bool:
        """Whether there is one left."""
        now = self._clock()
        self._left = min(BURST, self._left + PER_SECOND * (now - self._at))
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


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
        self._bucket = Bucket()
        self._lasting: set[RequestHandler] = set()
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
        runner = web.AppRunner(self.application(), access_log=None, keepalive_timeout=AGE)
        await runner.setup()
        assert runner.server is not None
        make = runner.server
        loop = asyncio.get_running_loop()

        def accept() -> asyncio.Protocol:
            if len(make.connections) >= CONNECTIONS:
                return _Refuse()
            protocol = make()
            loop.call_later(AGE, self._end, protocol)
            return protocol

        sock = _bound(host, port)
        number: int = sock.getsockname()[1]
        self._cookie = f"mcrd-web-{number}"
        return await loop.create_server(accept, sock=sock, backlog=BACKLOG), number

    def _end(self, protocol: RequestHandler) -> None:
        """End a connection that is old; one that lasts is left to its handler."""
        if protocol.transport is not None and protocol not in self._lasting:
            protocol.transport.abort()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if not self._bucket.take():
                raise web.HTTPTooManyRequests(text="too many requests; try again")
            answer: web.StreamResponse | None = self._login(request)
            if answer is None:
                given = request.cookies.get(self._cookie)
                self._access.check(request.remote or "", request.headers, given)
                answer = await handler(request)
        except RefusedError as error:
            answer = web.Response(status=error.status, text=f"{error}\n")
        except FailedError as error:
            answer = web.Response(status=502, text=f"{error}\n")
        except web.HTTPException as error:
            answer = web.Response(status=error.status, text=f"{error.text}\n")
        answer.force_close()
        if not answer.prepared:
            for name, value in HEADERS.items():
                answer.headers.setdefault(name, value)
        return answer

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

    async def _state(self, _: web.Request) -> web.Response:
        return _json(self._live.whole())

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._live.watchers >= STREAMS:
            raise web.HTTPServiceUnavailable(text="too many pages are open")
        protocol = request.protocol
        answer = web.StreamResponse(headers=HEADERS)
        answer.content_type = "text/event-stream"
        answer.force_close()
        self._live.watchers += 1
        self._lasting.add(protocol)
        try:
            await answer.prepare(request)
            if protocol.transport is not None:
                protocol.transport.set_write_buffer_limits(high=SEND_BUFFER)
            number, data = self._live.number, self._live.whole()
            while True:
                async with asyncio.timeout(WRITE_TIMEOUT):
                    await answer.write(b"data: " + data + b"\n\n")
                number, data = await self._live.changed(number)
        except (ConnectionError, TimeoutError):
            if protocol.transport is not None:
                protocol.transport.abort()
        finally:
            self._live.watchers -= 1
            self._lasting.discard(protocol)
        return answer

    async def _rule(self, request: web.Request) -> web.Response:
        name = self._named(request)
        async with self._looks:
            rule, past = self._live.stats.rules[name], self._live.history.of(name)
            return _json(await asyncio.to_thread(lambda: details(name, rule, past)))

    async def _journal(self, request: web.Request) -> web.Response:
        name = self._named(request)
        async with self._looks:
            return _json(msgspec.json.encode(await journal(self._unit, name)))

    async def _explain(self, request: web.Request) -> web.Response:
        name = self._named(request)
        if OWN_HEADER not in request.headers:
            raise web.HTTPForbidden(text=f"the header {OWN_HEADER} is missing")
        self._lasting.add(request.protocol)
        try:
            async with self._explains:
                return web.Response(text=await explain(self._control, name))
        finally:
            self._lasting.discard(request.protocol)
            asyncio.get_running_loop().call_later(AGE, self._end, request.protocol)

    def _named(self, request: web.Request) -> str:
        name = request.match_info["name"]
        if name not in self._live.stats.rules:
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


class _Refuse(asyncio.Protocol):
    """For connections that are too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
