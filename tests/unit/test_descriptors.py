"""What is opened before the kernel refuses something is closed again, whoever is told."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mcrd import tasks
from mcrd.daemon.door import Connection, Door
from mcrd.host.routes import Routes
from mcrd.lanes import hostile, memory
from mcrd.lanes.hostile import Words
from mcrd.lanes.segment import Segment
from mcrd.systemd.notify import Manager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GUARD = 10.0  # seconds, of what takes some milliseconds


def descriptors() -> dict[str, str]:
    """What this process has open."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the directory itself
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Without the collector, which is seldom in the daemon."""
    gc.collect()
    gc.disable()
    before = descriptors()
    yield
    after = descriptors()
    gc.enable()
    assert after == before


@pytest.fixture
def no_memory() -> Iterator[None]:
    """The kernel maps no more than a little."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Kernel:
    """What has no room for another descriptor in the loop, so many times."""

    def __init__(self, times: int, method: str = "add_reader") -> None:
        self._loop, self._method = asyncio.get_running_loop(), method
        self._does = getattr(self._loop, method)
        self.left = times
        setattr(self._loop, method, self._add)

    def _add(self, *given: Any) -> None:
        if self.left:
            self.left -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._does(*given)


async def until(predicate: Callable[[], object]) -> None:
    async with asyncio.timeout(GUARD):
        while not predicate():  # noqa: ASYNC110  # what is waited for makes no event
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("no_memory")
def test_a_segment_that_cannot_be_mapped() -> None:
    with pytest.raises(OSError, match="shared memory, mcrd-counters: Cannot allocate memory"):
        Segment()


def test_a_segment_that_is_closed_while_somebody_names_it() -> None:
    before = descriptors()
    segment = Segment()
    segment.close()
    assert descriptors() == before


def test_memory_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refused)
    with pytest.raises(OSError, match="shared memory, mcrd-guard: No space left"):
        memory.guard_memory()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_what_a_callback_holds_that_fails() -> None:
    """The other end hears of it at once."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(tasks.log_uncaught)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        held = [theirs]
        del theirs

        def fails() -> None:
            holding = held.pop()
            raise OSError(holding.fileno(), "refused")

        loop.call_soon(fails)
        with ours:
            assert await asyncio.wait_for(loop.sock_recv(ours, 1), GUARD) == b""

    asyncio.run(scenario())


def test_a_barrier_that_the_loop_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    async def scenario() -> None:
        Kernel(1)
        assert await Manager().barrier() is False

    asyncio.run(scenario())


def test_routes_are_heard_of_again_by_another_socket(caplog: pytest.LogCaptureFixture) -> None:
    """All ways are looked at then: nobody has heard what changed meanwhile."""

    async def scenario() -> None:
        routes = Routes(dict, lambda _: None, lambda *_: None)
        await routes.start()
        first = routes._changes  # noqa: SLF001
        kernel = Kernel(2)
        asyncio.get_running_loop().remove_reader(first.fileno())  # type: ignore[union-attr]
        routes._listen()  # noqa: SLF001
        await until(lambda: routes._changes not in (None, first))  # noqa: SLF001
        await until(lambda: not kernel.left)
        await until(lambda: asyncio.get_running_loop().remove_reader(routes._changes.fileno()))  # type: ignore[union-attr]  # noqa: SLF001
        routes.stop()

    asyncio.run(scenario())
    assert caplog.messages == 2 * ["netlink: cannot hear of routes: No space left on device"]


def test_a_worker_is_heard_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that had said too much."""
    monkeypatch.setattr(hostile, "BYTES", 1)
    monkeypatch.setattr(hostile, "LINES_IN", 0.05)

    async def scenario() -> None:
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        words = Words("worker", "r0", ours)
        kernel = Kernel(1)
        os.write(theirs, b"first\n")
        await until(lambda: not kernel.left)
        os.write(theirs, b"second\n")
        await until(lambda: any("second" in line for line in caplog.messages))
        os.close(theirs)
        words.end()

    asyncio.run(scenario())


class Echo:
    """A door that says each line again."""

    def __init__(self) -> None:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        self.port = sock.getsockname()[1]
        self.door = Door("echo", sock, self._serve, 100, 4)

    async def _serve(self, client: Connection) -> None:
        with contextlib.suppress(ConnectionError, ValueError):
            while line := await client.line():
                await client.send(line)

    async def ask(self, data: bytes) -> bytes:
        """All that it answers."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(GUARD):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"", b""),
        (b"one\n", b"one\n"),
        (b"one\ntwo\n\nthree", b"one\ntwo\n\nthree"),
        (b"one\n" + 100 * b"x" + b"\n", b"one\n" + 100 * b"x" + b"\n"),
        (b"one\n" + 101 * b"x", b"one\n"),
        (b"one\n" + 20_000 * b"x\n", b"one\n" + 20_000 * b"x\n"),
    ],
)
def test_lines_are_read_as_they_come(said: bytes, answer: bytes) -> None:
    async def scenario() -> None:
        echo = Echo()
        try:
            with contextlib.suppress(ConnectionError):  # it was not read to its end
                assert await echo.ask(said) == answer
        finally:
            await echo.door.stop()

    asyncio.run(scenario())


def test_a_client_that_cannot_be_taken_hears_of_it_and_others_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first is refused by ioctl(2), as by a filter of system calls."""
    does, refused = socket.socket.setblocking, list[int]()

    def setblocking(sock: socket.socket, flag: bool) -> None:
        if not refused:
            refused.append(sock.fileno())
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        does(sock, flag)

    async def scenario() -> None:
        echo = Echo()
        try:
            with socket.socket() as client:
                client.connect(("127.0.0.1", echo.port))
                client.setblocking(False)
                monkeypatch.setattr(socket.socket, "setblocking", setblocking, raising=False)
                heard = asyncio.get_running_loop().sock_recv(client, 1)
                assert await asyncio.wait_for(heard, GUARD) == b""
            assert await echo.ask(b"one\n") == b"one\n"
        finally:
            await echo.door.stop()

    asyncio.run(scenario())
    assert refused
    assert caplog.messages == ["echo: a client cannot be taken: No such device (ENODEV)"]


def test_clients_that_are_gone_again_do_not_keep_the_loop_busy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However often the kernel says so (ECONNABORTED)."""
    monkeypatch.setattr("mcrd.daemon.door.AGAIN", 0.01)
    left, does = [3], socket.socket.accept

    def accept(sock: socket.socket) -> tuple[socket.socket, Any]:
        if left[0]:
            left[0] -= 1
            raise ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
        return does(sock)

    monkeypatch.setattr(socket.socket, "accept", accept)

    async def scenario() -> None:
        echo = Echo()
        try:
            assert await echo.ask(b"one\n") == b"one\n"
        finally:
            await echo.door.stop()

    asyncio.run(scenario())
    assert len(caplog.messages) == 3
    assert "ECONNABORTED" in caplog.text


def test_a_door_opens_again_when_there_are_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And when the loop has had no room for it then."""
    monkeypatch.setattr("mcrd.daemon.door.AGAIN", 0.05)

    async def scenario() -> None:
        echo = Echo()
        with socket.socket() as client:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
            fill: list[int] = []
            try:
                with contextlib.suppress(OSError):
                    while True:
                        fill.append(os.dup(client.fileno()))
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", echo.port))
                await until(lambda: "EMFILE" in caplog.text)
                kernel = Kernel(2)
                await until(lambda: not kernel.left)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for number in fill:
                    os.close(number)
            await asyncio.get_running_loop().sock_sendall(client, b"one\n")
            heard = asyncio.get_running_loop().sock_recv(client, 100)
            assert await asyncio.wait_for(heard, GUARD) == b"one\n"
        await echo.door.stop()

    asyncio.run(scenario())
