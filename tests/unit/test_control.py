"""The control socket: a real server and real clients, well-behaved and otherwise."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import select
import socket
import stat
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from mcrd import client
from mcrd.client import REQUEST_LARGEST, TOO_LONG, ControlError, ask
from mcrd.daemon import control
from mcrd.daemon.audit import Peer
from mcrd.daemon.control import Request, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, None]], None]

TIMEOUT = 5.0  # seconds for what takes milliseconds
SHORT = 0.3  # what clients are given to say something, where that is tested
LARGE = 8 << 20  # bytes: more than any socket buffer


class Unspeakable:
    """What no answer can be made of."""

    def __str__(self) -> str:
        raise ValueError("no words")


class Daemon:
    """What answers: `hang` only once `go` is set; `hanging` says that somebody waits for it."""

    def __init__(self) -> None:
        self.hanging = asyncio.Event()
        self.go = asyncio.Event()
        self.finished = self.echoed = 0

    async def answer(self, request: Request) -> Any:
        match request.command:
            case "echo":
                self.echoed += 1
                return request.arguments
            case "large":
                return "x" * LARGE
            case "addresses":
                return {"host": ip_address("10.0.0.1"), "groups": [ip_address("ff15::1")]}
            case "hang":
                self.hanging.set()
                await self.go.wait()
                self.finished += 1
                return "gone on"
            case "bug":
                raise KeyError("a bug")
            case "out of memory":
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            case "unspeakable":
                return Unspeakable()
            case "problems":
                raise ControlError("one.toml:1:1: wrong", "one.toml:2:1: wrong too")
            case other:
                raise ControlError(f"unknown command: {other}")


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Daemon]:
    """A server that answers there."""
    daemon = Daemon()
    server = Server(path, daemon.answer)
    await server.start()
    try:
        yield daemon
    finally:
        await server.stop()


async def refused(path: Path, why: str) -> None:
    """A server that may not start there, and is stopped all the same."""
    server = Server(path, Daemon().answer)
    try:
        with pytest.raises(ControlError, match=why):
            await server.start()
    finally:
        await server.stop()


async def asked(path: Path, command: str, **arguments: Any) -> Any:
    """What mcrctl would get."""
    return await asyncio.to_thread(ask, path, command, TIMEOUT, **arguments)


class Client:
    """A client that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        """Sends these bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def hear(self) -> Any:
        """The next answer."""
        return msgspec.json.decode(await asyncio.wait_for(self.reader.readline(), TIMEOUT))

    async def ended(self) -> None:
        """Waits until the server has dropped this client."""
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(self.reader.read(1 << 16), TIMEOUT):
                pass


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    """A client of the server there."""
    reader, writer = await asyncio.open_unix_connection(str(path), limit=2 * LARGE)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the control socket is."""
    return tmp_path / "control.sock"


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Run:
    """Runs a coroutine; nothing may be logged that a user would have to worry about."""

    def quietly(what: Coroutine[Any, Any, None]) -> None:
        try:
            asyncio.run(asyncio.wait_for(what, 20.0))
        finally:
            gc.collect()  # asyncio tells of an exception that nobody took when the task goes
        assert [record.getMessage() for record in caplog.records if record.levelno > 20] == []

    return quietly


def test_a_request_gets_its_answer(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path):
            assert await asked(path, "echo", name="camera", depth=[1, None, True]) == {
                "name": "camera",
                "depth": [1, None, True],
            }

    run(scenario())


def test_addresses_are_answered_as_people_write_them(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path):
            found = await asked(path, "addresses")
            assert found == {"host": "10.0.0.1", "groups": ["ff15::1"]}

    run(scenario())


def test_many_requests_at_once_hold_up_nobody(path: Path, run: Run) -> None:
    async def scenario() -> None:
        line = b'{"command": "echo"}\n'
        async with serving(path) as daemon, connected(path) as busy, connected(path) as other:
            await busy.say(line * (REQUEST_LARGEST // len(line)))
            await busy.hear()
            await other.say(line)
            await other.hear()
            assert daemon.echoed < REQUEST_LARGEST // len(line)

    run(scenario())


def test_an_unknown_command_is_an_error(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path):
            with pytest.raises(ControlError, match="unknown command: dance"):
                await asked(path, "dance")

    run(scenario())


def test_every_problem_is_a_line(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path):
            with pytest.raises(ControlError) as caught:
                await asked(path, "problems")
            assert caught.value.lines == ("one.toml:1:1: wrong", "one.toml:2:1: wrong too")

    run(scenario())


@pytest.mark.parametrize("command", ["bug", "unspeakable"])
def test_a_bug_is_answered_and_logged_and_the_server_lives(
    command: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(path), connected(path) as client:
            await client.say(b'{"command": "%b"}\n' % command.encode())
            (error,) = (await client.hear())["errors"]
            assert error.startswith("internal error: ")
            await client.say(b'{"command": "echo"}\n')
            assert (await client.hear())["errors"] == []

    asyncio.run(scenario())
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "Traceback" in record.getMessage()


def test_what_the_kernel_refuses_is_answered_and_is_no_bug(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(path), connected(path) as client:
            await client.say(b'{"command": "out of memory"}\n')
            (error,) = (await client.hear())["errors"]
            assert error.startswith("out of memory: Cannot allocate memory (ENOMEM); there is no")

    asyncio.run(scenario())
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == "the request 'out of memory' failed: Cannot allocate memory"


def test_an_answer_of_many_megabytes(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path):
            assert await asked(path, "large") == "x" * LARGE

    run(scenario())


def test_many_clients_at_once_get_each_their_own_answer(path: Path, run: Run) -> None:
    async def one(number: int) -> None:
        async with connected(path) as client:
            for turn in range(5):
                await client.say(
                    b'{"command": "echo", "arguments": {"n": [%d, %d]}}\n' % (number, turn)
                )
                assert (await client.hear())["result"] == {"n": [number, turn]}

    async def scenario() -> None:
        async with serving(path):
            await asyncio.gather(*(one(number) for number in range(100)))

    run(scenario())


def test_requests_of_one_client_are_answered_in_their_order(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path), connected(path) as client:
            lines = [b'{"command": "echo", "arguments": {"n": %d}}\n' % n for n in range(50)]
            await client.say(b"".join(lines))
            assert [(await client.hear())["result"]["n"] for _ in lines] == list(range(50))

    run(scenario())


def test_a_slow_answer_holds_no_other_client_up(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path) as daemon, connected(path) as client:
            await client.say(b'{"command": "hang"}\n')
            await asyncio.wait_for(daemon.hanging.wait(), TIMEOUT)
            assert await asked(path, "echo") == {}
            daemon.go.set()
            assert (await client.hear())["result"] == "gone on"

    run(scenario())


def test_a_silent_client_holds_nobody_up_and_is_dropped(
    path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CLIENT_TIMEOUT", SHORT)

    async def scenario() -> None:
        async with serving(path), connected(path) as silent, connected(path) as halfway:
            await halfway.say(b'{"command": ')
            for _ in range(10):
                assert await asked(path, "echo") == {}
            await silent.ended()
            await halfway.ended()
            assert await asked(path, "echo") == {}

    run(scenario())


def test_a_client_is_silent_only_while_it_owes_a_request(
    path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CLIENT_TIMEOUT", SHORT)

    async def scenario() -> None:
        async with (
            serving(path) as daemon,
            connected(path) as patient,
            connected(path) as silent,
        ):
            await patient.say(b'{"command": "hang"}\n')
            await silent.ended()  # the time in which one has to say something is over
            daemon.go.set()
            assert (await patient.hear())["result"] == "gone on"

    run(scenario())


def test_a_client_that_does_not_read_its_answer_is_dropped(
    path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CLIENT_TIMEOUT", SHORT)

    def hung_up(sock: socket.socket) -> bool:
        poll = select.poll()
        poll.register(sock, select.POLLRDHUP)
        return bool(poll.poll(TIMEOUT * 1000))

    async def scenario() -> None:
        async with serving(path):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.sendall(b'{"command": "large"}\n')
                assert await asyncio.to_thread(hung_up, sock)

    run(scenario())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b"null",
        b'{"command": 1}',
        b'{"command": "echo", "surprise": 1}',
        b'{"command": "echo", "arguments": []}',
        b'{"command": "echo"',
        b"\x00\x01\x02",
        b"\xff\xfe",
        b'{"command": "\xff\xfe"}',
        pytest.param(
            b'{"command": "echo", "arguments": {"a": ' + b"[" * 30000 + b"]" * 30000 + b"}}",
            id="deep",
        ),
    ],
)
def test_garbage_is_answered_and_the_client_may_go_on(line: bytes, path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path), connected(path) as client:
            await client.say(line + b"\n")
            reply = await client.hear()
            assert reply["result"] is None
            (error,) = reply["errors"]
            assert error.startswith("not a request: ")
            await client.say(b'{"command": "echo"}\n')
            assert (await client.hear())["errors"] == []

    run(scenario())


def test_a_line_without_end_is_cut_off(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path), connected(path) as client:
            with contextlib.suppress(ConnectionError):
                for _ in range(16):
                    await client.say(b"x" * REQUEST_LARGEST)
            await client.ended()
            assert await asked(path, "echo") == {}

    run(scenario())


def test_a_request_that_is_too_long_is_told_so(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path), connected(path) as client:
            await client.say(b"x" * (REQUEST_LARGEST + 1) + b"\n")
            assert (await client.hear())["errors"] == [TOO_LONG]
            await client.ended()
            with pytest.raises(ControlError, match="a request has at most 65536 bytes"):
                await asked(path, "echo", text="x" * REQUEST_LARGEST)

    run(scenario())


def test_an_answer_that_is_too_long_is_told_of(
    path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with serving(path):
            monkeypatch.setattr(client, "ANSWER_LARGEST", LARGE)
            with pytest.raises(ControlError, match="answered more than 8 MiB; ask for one rule"):
                await asked(path, "large")
            monkeypatch.setattr(client, "ANSWER_LARGEST", LARGE + 1000)
            assert await asked(path, "large") == "x" * LARGE

    run(scenario())


def test_a_request_of_nearly_the_largest_size_is_taken(path: Path, run: Run) -> None:
    text = "x" * (REQUEST_LARGEST - 1000)

    async def scenario() -> None:
        async with serving(path):
            assert await asked(path, "echo", text=text) == {"text": text}

    run(scenario())


def test_a_client_may_leave_in_the_middle_of_anything(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path) as daemon:
            async with connected(path):
                pass
            async with connected(path) as client:
                await client.say(b'{"command": "ec')
            async with connected(path) as client:
                await client.say(b'{"command": "large"}\n')
                assert await client.reader.read(1) == b"{"
            async with connected(path) as client:
                await client.say(b'{"command": "hang"}\n')
                await asyncio.wait_for(daemon.hanging.wait(), TIMEOUT)
            daemon.go.set()
            assert await asked(path, "echo") == {}
            assert daemon.finished == 1

    run(scenario())


def test_what_lasts_ends_with_its_client(path: Path, run: Run) -> None:
    """But not when the client only sends no more: it may wait for the answer."""

    async def body() -> None:
        daemon = Daemon()
        ended = asyncio.Event()

        async def answer(request: Request) -> Any:
            try:
                return await daemon.answer(request)
            finally:
                ended.set()

        server = Server(path, answer, lasting=frozenset({"hang"}))
        await server.start()
        try:
            async with connected(path) as client:
                await client.say(b'{"command": "hang"}\n')
                await asyncio.wait_for(daemon.hanging.wait(), TIMEOUT)
            await asyncio.wait_for(ended.wait(), TIMEOUT)
            assert daemon.finished == 0
            async with connected(path) as client:
                await client.say(b'{"command": "hang"}\n')
                client.writer.write_eof()
                await asyncio.sleep(2 * control.LOOK_AFTER)
                daemon.go.set()
                assert (await client.hear())["result"] == "gone on"
        finally:
            await server.stop()

    run(body())


def test_what_is_guarded_is_not_for_everybody_and_the_log_says_who_asked(
    path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    name = Path("/proc/self/comm").read_text(encoding="ascii").strip()

    def told() -> tuple[str, dict[str, str]]:
        """The last line, and its fields."""
        return caplog.records[-1].getMessage(), caplog.records[-1].__dict__["fields"]

    async def body() -> None:
        server = Server(path, Daemon().answer, guarded=frozenset({"echo"}))
        await server.start()
        try:
            assert await asked(path, "echo", name="a\nb") == {"name": "a\nb"}
            line, fields = told()
            assert line.startswith("control: echo name='a\\nb', asked by ")
            assert line.endswith(f" (process {os.getpid()}, {name})")
            found = [fields[key] for key in ("EVENT", "COMMAND", "BY_UID", "BY_PID", "BY_NAME")]
            assert found == ["asked", "echo", str(os.geteuid()), str(os.getpid()), name]
            monkeypatch.setattr(
                Peer, "of", classmethod(lambda cls, _: cls(2**22 + 1, 65533, False))
            )
            with pytest.raises(ControlError, match="echo is for root"):
                await asked(path, "echo", text="x" * 1000)
            line, fields = told()
            assert line.endswith("x..., refused to 65533 (process 4194305, gone)")
            assert fields["EVENT"] == "asked-refused"
            assert "BY_NAME" not in fields
            caplog.clear()
        finally:
            await server.stop()

    run(body())


def test_stop_drops_the_clients_and_does_not_wait_for_answers(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with serving(path) as daemon:
                silent = await stack.enter_async_context(connected(path))
                waiting = await stack.enter_async_context(connected(path))
                await waiting.say(b'{"command": "hang"}\n')
                await asyncio.wait_for(daemon.hanging.wait(), TIMEOUT)
            await silent.ended()
            await waiting.ended()
            assert daemon.finished == 0

    run(scenario())


# The socket as a file.


def test_nothing_is_left_after_stop(tmp_path: Path, path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path):
            found.extend(os.listdir(tmp_path))

    found: list[str] = []
    run(scenario())
    assert found == [path.name]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_made_and_taken_away_again(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "mcrd" / "control.sock"

    async def scenario() -> None:
        async with serving(path):
            assert await asked(path, "echo") == {}

    run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_there_stays(tmp_path: Path, run: Run) -> None:
    (tmp_path / "mcrd").mkdir()

    async def scenario() -> None:
        async with serving(tmp_path / "mcrd" / "control.sock"):
            pass

    run(scenario())
    assert list((tmp_path / "mcrd").iterdir()) == []


def test_only_owner_and_group_may_ask(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o660

    before = os.umask(0)
    try:
        run(scenario())
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_second_server_refuses_and_harms_not_the_first(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path):
            await refused(path, "another mcrd answers there")
            assert await asked(path, "echo") == {}

    run(scenario())


def test_of_many_servers_that_start_at_once_one_answers(path: Path, run: Run) -> None:
    async def scenario() -> None:
        servers = [Server(path, Daemon().answer) for _ in range(5)]
        results = await asyncio.gather(
            *(server.start() for server in servers), return_exceptions=True
        )
        try:
            assert [result for result in results if result is None] == [None]
            assert await asked(path, "echo") == {}
        finally:
            for server, result in zip(servers, results, strict=True):
                if result is None:
                    await server.stop()

    run(scenario())


def test_the_socket_of_a_daemon_that_was_killed_is_taken_over(path: Path, run: Run) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()

    async def scenario() -> None:
        async with serving(path):
            assert await asked(path, "echo") == {}

    run(scenario())
    assert not path.exists()


def test_a_file_in_the_way_is_refused_and_stays(path: Path, run: Run) -> None:
    path.write_text("precious", encoding="utf-8")

    async def scenario() -> None:
        await refused(path, f"control socket {path}: ")

    run(scenario())
    assert path.read_text(encoding="utf-8") == "precious"


def test_a_directory_in_the_way_is_refused_and_stays(path: Path, run: Run) -> None:
    path.mkdir()

    async def scenario() -> None:
        await refused(path, f"control socket {path}: ")

    run(scenario())
    assert path.is_dir()


def test_a_path_that_is_too_long_is_refused_and_leaves_nothing(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "mcrd" / ("x" * 200)

    async def scenario() -> None:
        await refused(path, "too long")

    run(scenario())
    assert list(tmp_path.iterdir()) == []


# What mcrctl says when nobody answers.


def test_without_a_daemon_it_says_so(path: Path) -> None:
    with pytest.raises(ControlError, match=f"cannot reach mcrd at {path}: .*is mcrd running"):
        ask(path, "status", TIMEOUT)


def test_with_a_daemon_that_was_killed_it_says_so(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    with pytest.raises(ControlError, match="ended without cleaning up"):
        ask(path, "status", TIMEOUT)


def test_an_answer_that_does_not_come_is_an_error(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path):
            with pytest.raises(ControlError, match=r"did not answer within 0\.1 s"):
                await asyncio.to_thread(ask, path, "hang", 0.1)

    run(scenario())


def test_a_daemon_that_ends_before_it_answers_is_an_error(path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with serving(path) as daemon:
            waiting = asyncio.create_task(asked(path, "hang"))
            await asyncio.wait_for(daemon.hanging.wait(), TIMEOUT)
        with pytest.raises(ControlError, match="ended before it answered"):
            await waiting

    run(scenario())
