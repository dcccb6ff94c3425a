"""The log: what journald gets, what stderr gets, and how often."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import logging
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from mcrd import journal

if TYPE_CHECKING:
    from collections.abc import Iterator
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
def other() -> logging.StreamHandler[io.StringIO]:
    """Where lines go that journald does not take."""
    return logging.StreamHandler(io.StringIO())


@pytest.fixture
def log(
    daemon: socket.socket, other: logging.StreamHandler[io.StringIO]
) -> Iterator[logging.Logger]:
    """A logger of its own, to that socket."""
    made = logging.Logger("mcrd.test")
    handler = journal.JournalHandler(other, daemon.getsockname())
    made.addHandler(handler)
    yield made
    handler.close()


def test_an_event_has_its_fields(daemon: socket.socket, log: logging.Logger) -> None:
    journal.tell(
        log, logging.WARNING, "silence", "rules.%s: %d", "a", 3, rule="a", interface="eth0"
    )
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


def test_what_journald_does_not_take_goes_to_stderr(
    log: logging.Logger, daemon: socket.socket, other: logging.StreamHandler[io.StringIO]
) -> None:
    os.unlink(daemon.getsockname())
    log.error("is it still there?")
    assert other.stream.getvalue() == "is it still there?\n"


@pytest.mark.long
def test_one_that_reads_nothing_holds_nobody_up_for_long(
    log: logging.Logger, other: logging.StreamHandler[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    (handler,) = log.handlers
    assert isinstance(handler, journal.JournalHandler)
    monkeypatch.setattr(handler, "_socket", handler._socket)  # noqa: SLF001
    handler._socket.settimeout(0.01)  # noqa: SLF001
    for number in range(1000):
        log.info("%d", number)
    assert other.stream.getvalue().splitlines()[-1] == "999"


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
            journal.tell(log, logging.INFO, "rule-state", "rules.%s: again", rule, rule=rule)

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
