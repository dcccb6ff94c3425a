"""What Prometheus scrapes: the counters of mcrctl stats under conventional names.

What they show is put together in the daemon's loop, a few rules at a time, and made into text in a
thread, so that a scrape of thousands of rules holds nothing up.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mcrd import threads
from mcrd.daemon import web
from mcrd.daemon.families import Snapshot, families
from mcrd.daemon.web import Answer, Request
from mcrd.errors import words
from mcrd.events import tell

RETRY = 5.0  # seconds until the next try to listen

log = logging.getLogger(__name__)


class Metrics(Collector):
    """The server, which listens nowhere until told, and what it shows while it is asked."""

    def __init__(self, snapshot: Callable[[], Coroutine[Any, Any, Snapshot]]) -> None:
        self._snapshot = snapshot
        self._given: Snapshot | None = None
        registry = CollectorRegistry()
        registry.register(self)
        self._app = make_wsgi_app(registry)
        self._turn = asyncio.Lock()
        self._waiting: dict[tuple[str, ...], asyncio.Task[Answer]] = {}
        self.server = web.Server(self._answer)
        self._where: str | None = None
        self._retry: asyncio.Task[None] | None = None
        self.error: str | None = None

    async def listen(self, where: str | None) -> None:
        """Listen there only; what cannot be is tried again."""
        if where != self._where:
            await self.stop()
            self._where = where
            if where is not None and not await self._start(where):
                self._retry = asyncio.create_task(self._try_again(where))

    async def stop(self) -> None:
        """Listen no more, and drop whoever is being served."""
        retry, self._retry = self._retry, None
        self.error = self._where = None
        if retry is not None:
            retry.cancel()
            await asyncio.gather(retry, return_exceptions=True)
        await self.server.stop()

    def collect(self) -> Iterator[Metric]:
        """All metrics, of one moment."""
        return families(self._given) if self._given is not None else iter(())

    async def _try_again(self, where: str) -> None:
        listens = False
        while not listens:
            await asyncio.sleep(RETRY)
            listens = await self._start(where)

    async def _start(self, where: str) -> bool:
        host, _, port = where.rpartition(":")
        try:
            await self.server.start(host.strip("[]"), int(port))
        except OSError as error:
            why = words(error)
            if self.error is None:
                text = "metrics: cannot listen at %s: %s; trying again"
                tell(log, logging.ERROR, "metrics-failed", text, where, why)
            self.error = why
            return False
        self.error = None
        tell(log, logging.INFO, "metrics-started", "metrics: at http://%s/metrics", where)
        return True

    async def _answer(self, request: Request) -> Answer:
        """Make one answer at a time; clients that wait for the same share it."""
        accepts = (request.headers.get(name, "") for name in ("accept", "accept-encoding"))
        key = (request.method, request.path, request.query, *accepts)
        task = self._waiting.get(key)
        if task is None:
            task = self._waiting[key] = asyncio.create_task(self._make(key))
        return await asyncio.shield(task)

    async def _make(self, key: tuple[str, ...]) -> Answer:
        async with self._turn:
            del self._waiting[key]  # who comes now wants what is newer
            self._given = await self._snapshot()
            try:
                # An executor would keep what it has no thread for, and do it later.
                return await threads.apart(partial(self._call, *key), or_here=False)
            except OSError as error:  # no thread can be started
                tell(log, logging.WARNING, "metrics-failed", "metrics: %s", words(error))
                return Answer("503 Service Unavailable", (("Retry-After", "1"),))
            finally:
                self._given = None

    def _call(self, method: str, path: str, query: str, accept: str, encoding: str) -> Answer:
        """Ask prometheus-client, which knows the formats; in a thread."""
        told: list[Any] = []
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_ACCEPT": accept,
            "HTTP_ACCEPT_ENCODING": encoding,
        }
        body = b"".join(self._app(environ, lambda *start: told.extend(start)))
        return Answer(told[0], tuple(told[1]), body)
