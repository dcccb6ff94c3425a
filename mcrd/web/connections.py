"""Connections of the page: how many, of whom, for how long, and those that do not speak HTTP."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from mcrd.bucket import Bucket
from mcrd.web.access import is_local, plain

CONNECTIONS = 128  # at once
OF_ONE = 48  # of these of one peer, unless it is of this host or a proxy
AGE = 20.0  # seconds that a connection may take, but for streams of events and explain
REFUSED_PER_SECOND, REFUSED_BURST = 20, 100  # that get an answer
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

_QUIET = logging.getLogger("mcrd.web.connections")  # what others send amiss is not worth a line
_QUIET.disabled = True


class Door:
    """Who is in: so many connections at once. `proxies` bring many people by one address."""

    def __init__(self, proxies: frozenset[str]) -> None:
        self.refused = Bucket(REFUSED_PER_SECOND, REFUSED_BURST)
        self._proxies = proxies
        self._peers: Counter[str] = Counter()

    def enter(self, peer: str) -> bool:
        """Count a connection of this address; False: there are enough."""
        is_one_of_many = self._peers[peer] >= OF_ONE and not self._is_of_many(peer)
        if is_one_of_many or self._peers.total() >= CONNECTIONS:
            return False
        self._peers[peer] += 1
        return True

    def leave(self, peer: str) -> None:
        """Forget one."""
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]

    def _is_of_many(self, peer: str) -> bool:
        return peer in self._proxies or is_local(peer)


class Connection(RequestHandler):
    """Has one request, and AGE seconds for it unless it lasts."""

    def __init__(self, door: Door, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=AGE,
            logger=_QUIET,
            access_log=None,  # type: ignore[arg-type]  # as web.AppRunner takes it
        )
        self._door = door
        self._peer: str | None = None
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if there is room."""
        peer = plain((transport.get_extra_info("peername") or ("",))[0])
        if self._door.enter(peer):
            self._peer = peer
            super().connection_made(transport)
            self.last(is_wanted=False)
        else:
            assert isinstance(transport, asyncio.Transport)
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Hold nothing any more."""
        self.last(is_wanted=True)
        if self._peer is not None:
            self._door.leave(self._peer)
            super().connection_lost(exc)

    def last(self, *, is_wanted: bool) -> None:
        """Last as long as it takes; otherwise no longer than AGE from now."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if not is_wanted and self.transport is not None:
            self._end = self._loop.call_later(AGE, self.drop)

    def drop(self) -> None:
        """End it, whatever waits to be written."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answer what is no request; not all of many."""
        if not self._door.refused.take() or request.writer.output_size > 0:
            raise ConnectionError("not worth an answer")
        answer = web.Response(status=status, text="not understood\n", headers=HEADERS)
        answer.force_close()
        return answer
