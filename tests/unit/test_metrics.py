"""The metrics over HTTP: a real server and real clients, well-behaved and otherwise."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import _thread
import asyncio
import contextlib
import gzip
import resource
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from msgspec.json import decode as read

from mcrd.daemon import web
from mcrd.daemon.families import Snapshot
from mcrd.daemon.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

GUARD = 10.0  # seconds for what is answered within one
HERE = Path(__file__).parent
LARGE = 4000  # rules, whose metrics are some megabytes


def snapshot(rules: int) -> Snapshot:
    """As Supervisor has it, of so many rules that do nothing."""
    count = {"packets": 0, "bytes": 0}
    rule: dict[str, Any] = {
        "interface": "eth0",
        "state": "active",
        "silent": None,
        "received": count,
        "dropped": {"rate_limited": 0},
        "rate": {"peak": {"second": 0, "minute": 0}},
        "outputs": [],
    }
    made = {
        "version": "1",
        "config_errors": [],
        "config_time": 0.0,
        "rules": {f"r{number}": rule for number in range(rules)},
        "interfaces": {},
        "workers": [],
        "kernel": {},
    }
    return msgspec.convert(made, Snapshot)


class Daemon:
    """What has metrics, at a port."""

    def __init__(self, rules: int = 1) -> None:
        self.given = snapshot(rules)
        self.go = asyncio.Event()
        self.go.set()
        self.asked = self.taken = 0
        self.metrics = Metrics(self._snapshot)
        self.port = 0

    async def _snapshot(self) -> Snapshot:
        self.asked += 1
        await self.go.wait()
        self.taken += 1
        return self.given

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, text: str) -> tuple[str, bytes]:
        """Head and body of the answer."""
        reader, writer = await self.connect()
        writer.write(text.replace("\n", "\r\n").encode())
        try:
            found = await asyncio.wait_for(reader.read(-1), GUARD)
        finally:
            writer.close()
        head, _, body = found.partition(b"\r\n\r\n")
        return head.decode(), body

    async def scrape(self) -> str:
        head, body = await self.ask("GET /metrics HTTP/1.1\nHost: a\n\n")
        assert head.startswith("HTTP/1.1 200 OK\r\n"), head
        assert f"Content-Length: {len(body)}" in head
        return body.decode()


@contextlib.asynccontextmanager
async def serving(rules: int = 1) -> AsyncIterator[Daemon]:
    daemon = Daemon(rules)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        daemon.port = free.getsockname()[1]
    await daemon.metrics.listen(f"127.0.0.1:{daemon.port}")
    try:
        yield daemon
    finally:
        await daemon.metrics.stop()


async def until(predicate: Callable[[], bool]) -> None:
    async with asyncio.timeout(GUARD):
        while not predicate():  # noqa: ASYNC110  what is waited for makes no event
            await asyncio.sleep(0.01)


def run(what: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(what, 60.0))


@contextlib.contextmanager
def many_descriptors() -> Any:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_scrape_beside_a_thousand_idle_connections_is_answered_at_once() -> None:
    """Some of which have begun to ask, and all of which would stay."""

    async def scenario() -> None:
        async with serving() as daemon, contextlib.AsyncExitStack() as stack:
            for number in range(1000):
                _, writer = await daemon.connect()
                stack.callback(writer.close)
                if number % 2:
                    writer.write(b"GET /metrics HTT")
            began = time.monotonic()
            assert "mcrd_build_info" in await daemon.scrape()
            print(f"answered in {time.monotonic() - began:.3f} s")
            assert time.monotonic() - began < GUARD
            assert len(daemon.metrics.server.stages()) <= web.CLIENTS

    with many_descriptors():
        run(scenario())


def test_who_never_reads_a_large_answer_holds_no_other_up() -> None:
    async def scenario() -> None:
        async with serving(LARGE) as daemon, contextlib.AsyncExitStack() as stack:
            whole = await daemon.scrape()
            assert len(whole) > 4 * web.SEND_BUFFER
            for _ in range(web.CLIENTS):
                sock = stack.enter_context(socket.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", daemon.port))
                sock.send(b"GET /metrics HTTP/1.0\r\n\r\n")
            stages = daemon.metrics.server.stages
            await until(lambda: stages() == ["reads"] * web.READERS)
            assert await daemon.scrape() == whole

    run(scenario())


def test_who_does_not_ask_or_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "REQUEST_TIMEOUT", 0.2)
    monkeypatch.setattr(web, "CHUNK_TIMEOUT", 0.2)

    async def scenario() -> None:
        async with serving(LARGE) as daemon:
            reader, writer = await daemon.connect()
            writer.write(b"GET /metrics HTTP/1.1\r\nHost")
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), GUARD) == b""
            writer.close()
            slow, writer = await daemon.connect()
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            await until(lambda: daemon.taken == 1 and not daemon.metrics.server.stages())
            writer.close()
            del slow

    run(scenario())


def test_those_who_wait_for_the_same_share_it() -> None:
    async def scenario() -> None:
        async with serving() as daemon:
            daemon.go.clear()
            first = asyncio.create_task(daemon.scrape())
            await until(lambda: daemon.asked == 1)
            others = [asyncio.create_task(daemon.scrape()) for _ in range(10)]
            await until(lambda: daemon.metrics.server.stages() == ["waits"] * 11)
            daemon.go.set()
            await asyncio.gather(first, *others)
            assert daemon.taken == 2  # the first began before the others came

    run(scenario())


def test_a_thread_that_cannot_start_is_said_and_the_next_scrape_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    called: list[tuple[str, ...]] = []
    call = Metrics._call  # noqa: SLF001

    def counted(metrics: Metrics, *key: str) -> web.Answer:
        called.append(key)
        return call(metrics, *key)

    monkeypatch.setattr(Metrics, "_call", counted)

    async def scenario() -> None:
        async with serving() as daemon:
            with monkeypatch.context() as patch:
                patch.setattr(_thread, "start_new_thread", refuse)
                for _ in range(2 * web.CLIENTS):
                    head, _ = await daemon.ask("GET /metrics HTTP/1.1\n\n")
                    assert head.startswith("HTTP/1.1 503 ")
                    assert daemon.metrics._given is None  # noqa: SLF001
            assert "mcrd_build_info" in await daemon.scrape()
            assert len(called) == 1  # what was refused is not done later

    run(scenario())


def test_the_exposition_stays_as_it_is() -> None:
    """Names, labels, help and order: whoever changes one breaks somebody's dashboard.

    Each family has something to show in snapshot.json.
    """

    async def scenario() -> None:
        async with serving() as daemon:
            daemon.given = read((HERE / "snapshot.json").read_bytes(), type=Snapshot)
            expected = (HERE / "exposition.txt").read_text("utf-8")
            assert (await daemon.scrape()).splitlines() == expected.splitlines()

    run(scenario())


def test_the_formats_are_those_of_prometheus_client() -> None:
    async def scenario() -> None:
        async with serving() as daemon:
            head, body = await daemon.ask("GET / HTTP/1.1\nAccept-Encoding: gzip\n\n")
            assert "Content-Encoding: gzip" in head
            assert b"mcrd_build_info" in gzip.decompress(body)
            accept = "Accept: application/openmetrics-text; version=1.0.0"
            head, body = await daemon.ask(f"GET /metrics HTTP/1.1\n{accept}\n\n")
            assert "Content-Type: application/openmetrics-text" in head
            assert body.endswith(b"# EOF\n")
            _, body = await daemon.ask("GET /metrics?name[]=mcrd_build_info HTTP/1.1\n\n")
            assert b"mcrd_rules" not in body
            head, _ = await daemon.ask("POST /metrics HTTP/1.1\n\n")
            assert head.startswith("HTTP/1.1 405 ")

    run(scenario())


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("nonsense\n\n", 400),
        ("GET /metrics\n\n", 400),
        ("GET /metrics FTP/1.1\n\n", 400),
        ("GET /metrics HTTP/1.1\nno colon\n\n", 400),
        ("\n\nGET /metrics HTTP/1.1\n\n", 200),
        ("GET /metrics HTTP/1.1\nA: " + web.REQUEST_LARGEST * "x" + "\n\n", 431),
        ("GET /metrics HTTP/1.1\n" + (web.REQUEST_LARGEST // 6 + 1) * "A: bc\n" + "\n", 431),
    ],
    ids=["words", "old", "protocol", "colon", "empty", "long", "many"],
)
def test_what_is_no_request_is_answered_so(text: str, status: int) -> None:
    async def scenario() -> None:
        async with serving() as daemon:
            head, _ = await daemon.ask(text)
            assert head.startswith(f"HTTP/1.1 {status} ")
            assert "mcrd_build_info" in await daemon.scrape()

    run(scenario())


def test_a_fault_in_a_scrape_is_that_of_one(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving() as daemon:
            good, daemon.given = daemon.given, Snapshot(rules={"a": cast(Any, None)})
            head, _ = await daemon.ask("GET /metrics HTTP/1.1\n\n")
            assert head.startswith("HTTP/1.1 500 ")
            daemon.given = good
            assert "mcrd_build_info" in await daemon.scrape()

    run(scenario())
    assert "a request over HTTP failed" in caplog.text


def test_stop_drops_whoever_is_there() -> None:
    async def scenario() -> None:
        async with serving() as daemon:
            reader, writer = await daemon.connect()
            await daemon.scrape()
            await daemon.metrics.stop()
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), GUARD) == b""
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await daemon.connect()

    run(scenario())
