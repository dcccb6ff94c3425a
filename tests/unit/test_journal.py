"""The log: what journald gets, what stderr gets, and how often."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from mcrd.events import counted, tell
from mcrd.systemd import journal, writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def parsed(data: bytes) -> dict[str, str]:
    """A datagram of the native protocol, read as its specification says."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        fields[name.decode()] = value.decode()
        data = rest
    return fields


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[socket.socket]:
    """What journald listens at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "socket"))
        made.settimeout(10.0)
        yield made


@pytest.fixture
def stderr() -> Iterator[tuple[int, int]]:
    """A pipe in its place: the end to read, and the end to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


@pytest.fixture
def handler(daemon: socket.socket, stderr: tuple[int, int]) -> Iterator[journal.Handler]:
    """What writes to that socket."""
    sink = journal.Journal(journal.Lines(stderr[1], priorities=True), daemon.getsockname())
    yield journal.Handler(sink)
    sink.close()


@pytest.fixture
def log(handler: journal.Handler) -> logging.Logger:
    """A logger of its own, to that socket."""
    made = logging.Logger("mcrd.test")
    made.addHandler(handler)
    return made


def test_an_event_has_its_fields(daemon: socket.socket, log: logging.Logger) -> None:
    tell(log, logging.WARNING, "silence", "rules.%s: %d", "a", 3, rule="a", interface="eth0")
    assert parsed(daemon.recv(4096)) == {
        "MESSAGE": "rules.a: 3",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "mcrd",
        "EVENT": "silence",
        "RULE": "a",
        "INTERFACE": "eth0",
    }


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, "7"), (logging.INFO, "6"), (logging.WARNING, "4"), (logging.ERROR, "3")],
)
def test_priorities_are_those_of_syslog(
    daemon: socket.socket, log: logging.Logger, level: int, priority: str
) -> None:
    log.log(level, "text")
    assert parsed(daemon.recv(4096))["PRIORITY"] == priority


@pytest.mark.parametrize(
    "text", ["two\nlines", "ends\n", "a=b", "caf\xe9 \u2028", "x" * 50_000, ""]
)
def test_any_message_is_itself(daemon: socket.socket, log: logging.Logger, text: str) -> None:
    log.error("%s", text)
    got = parsed(daemon.recv(200_000))
    assert got["MESSAGE"] == text
    assert got.keys() == {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"}


@pytest.mark.parametrize("how", ["gone", "too long"])
def test_what_journald_does_not_take_goes_to_stderr(
    log: logging.Logger, daemon: socket.socket, stderr: tuple[int, int], how: str
) -> None:
    text = "is it still there?"
    if how == "gone":
        os.unlink(daemon.getsockname())
    else:
        text = "x" * 60_000
        daemon.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        handler = log.handlers[0]
        assert isinstance(handler, journal.Handler)
        sink = handler._sink  # noqa: SLF001
        assert isinstance(sink, journal.Journal)
        sink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # noqa: SLF001
    log.error("%s", text)
    assert os.read(stderr[0], 100_000).decode() == f"<3>{text}\n"


def test_every_line_on_stderr_has_its_priority(stderr: tuple[int, int]) -> None:
    log = logging.Logger("mcrd.test")
    log.addHandler(journal.Handler(journal.Lines(stderr[1], priorities=True)))
    log.warning("two\nlines")
    log.addHandler(journal.Handler(journal.Lines(None, priorities=True)))  # as with 2>&-
    log.error("caf\xe9 \ud800")
    assert os.read(stderr[0], 1000) == b"<4>two\n<4>lines\n<3>caf\xc3\xa9 \\ud800\n"


FLOOD = 3 * writer.ROOM // 1000  # records of more than 1000 bytes
FLOOD_TAKES = 30.0  # seconds; it takes one, and a reader would be waited for without end
LOST = "records of the log were lost here"


def flood(log: logging.Logger) -> None:
    """Far more than there is room for; returns as if somebody read it."""
    began = time.monotonic()
    for number in range(FLOOD):
        log.info("%d %s", number, "x" * 1000)
    assert time.monotonic() - began < FLOOD_TAKES


def read_again(log: logging.Logger, handler: journal.Handler, read: Callable[[], str]) -> list[str]:
    """All that was logged; some may be missing in several places, where the thread was slow."""
    texts: list[str] = []
    while sum(LOST not in text for text in texts) + handler.writer.lost < FLOOD:
        texts.append(read())
    log.info("%d it reads again", FLOOD)
    while "again" not in texts[-1]:
        texts.append(read())
    return texts


def all_is_accounted_for(handler: journal.Handler, texts: list[str]) -> None:
    """What was read is in order, and where some is missing, a line says how many."""
    assert handler.writer.flush(10.0)
    lost, expected = 0, 0
    for text in texts:
        first = int(text.split()[0])
        if LOST in text:
            lost += first
            expected += first
        else:
            assert first == expected
            expected += 1
    assert expected == FLOOD + 1
    assert lost == handler.writer.lost > 0


def test_a_journald_that_reads_nothing_holds_nobody_up(
    daemon: socket.socket, log: logging.Logger, handler: journal.Handler
) -> None:
    handler.writer.start()
    flood(log)
    assert not handler.writer.flush(0.01)
    all_is_accounted_for(
        handler, read_again(log, handler, lambda: parsed(daemon.recv(4096))["MESSAGE"])
    )


def test_a_stderr_that_nobody_reads_holds_nobody_up(stderr: tuple[int, int]) -> None:
    handler = journal.Handler(journal.Lines(stderr[1], priorities=True))
    log = logging.Logger("mcrd.test")
    log.addHandler(handler)
    handler.writer.start()
    flood(log)
    assert not handler.writer.flush(0.01)
    with os.fdopen(os.dup(stderr[0])) as lines:
        texts = read_again(log, handler, lambda: next(lines)[3:])
    all_is_accounted_for(handler, texts)


def test_an_event_that_comes_again_and_again_is_left_out_and_counted(
    daemon: socket.socket, log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = journal.Limiter()
    log.handlers[0].addFilter(limiter)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    daemon.setblocking(False)

    def heard() -> list[str]:
        found = []
        while True:
            try:
                found.append(parsed(daemon.recv(4096))["MESSAGE"])
            except BlockingIOError:
                return found

    def flap(times: int, rule: str = "a") -> None:
        for _ in range(times):
            tell(log, logging.INFO, "rule-state", "rules.%s: again", rule, rule=rule)

    flap(7)
    assert heard() == ["rules.a: again"] * 7
    flap(30)
    assert heard() == ["rules.a: again"] * 3
    flap(2, "b")  # another rule is another matter
    assert heard() == ["rules.b: again"] * 2
    assert limiter.due() == []
    clock[0] += 61
    for record in limiter.due():
        log.handle(record)
    assert heard() == ["rules.a: again (26 more like it before)"]
    flap(2)
    assert heard() == ["rules.a: again"] * 2
    log.info("no event")  # is never left out
    assert heard() == ["no event"]


@pytest.mark.parametrize(("number", "text"), [(0, "0 rings"), (1, "1 ring"), (2, "2 rings")])
def test_numbers_of_things(number: int, text: str) -> None:
    assert counted(number, "ring") == text
