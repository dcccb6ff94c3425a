"""The daemon's log: journald with fields, or lines on stderr with priorities (sd-daemon(3)).

The fields make `journalctl -u mcrd RULE=camera-wall` and the like work: EVENT, and where they apply
RULE, INTERFACE, OUTPUT, WORKER and TASK.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import os
import select
import socket
import stat
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

from mcrd.errors import words
from mcrd.systemd.writer import Writer

LEVELS = ("debug", "info", "warning", "error")
SOCKET = "/run/systemd/journal/socket"
AT_ONCE = 10  # lines of one event about one thing
AT_ONCE_IN = 60.0  # seconds
FLUSH = 1.0  # seconds that the end waits for who reads the log

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}

log = logging.getLogger(__name__)


class Lines:
    """Lines on stderr: after the time, or for journald after <priority>, every line of them."""

    def __init__(self, descriptor: int | None, *, priorities: bool) -> None:
        """Write to the descriptor; without one, nowhere."""
        self._descriptor = descriptor
        # Nobody has to read what is in a file before there is room for more.
        self._is_file = descriptor is None or stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._priorities = priorities
        self._format = logging.Formatter(
            "%(message)s" if priorities else "%(asctime)s %(levelname)s: %(message)s"
        ).format

    def encode(self, record: logging.LogRecord) -> bytes:
        """The record as write() takes it."""
        text = self._format(record)
        if self._priorities:
            prefix = f"<{_priority(record)}>"
            text = "\n".join(prefix + line for line in text.split("\n"))
        return text.encode(errors="backslashreplace") + b"\n"

    def write_now(self, data: bytes) -> bool:
        """Write it all if no reader has to be waited for; return whether it did."""
        if self._is_file:
            self.write(data)
        return self._is_file

    def write(self, data: bytes) -> None:
        """Write it all, however long that takes; nobody can be told that it failed."""
        if self._descriptor is None:
            return
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # whoever started us has made it so
                    select.select([], [self._descriptor], [])
        except OSError:
            pass


class Journal:
    """Records with their fields, as datagrams (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    What journald does not take, because it is too long or journald is missing, goes to `other`.
    """

    def __init__(self, other: Lines, path: str = SOCKET) -> None:
        self._other = other
        self._path = path
        self._format = logging.Formatter("%(message)s").format
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def encode(self, record: logging.LogRecord) -> tuple[bytes, bytes]:
        """The record as write() takes it: for journald, and for `other`."""
        fields = {
            "MESSAGE": self._format(record),
            "PRIORITY": str(_priority(record)),
            "SYSLOG_IDENTIFIER": "mcrd",
            **getattr(record, "fields", {}),
        }
        data = b"".join(_field(name, value) for name, value in fields.items())
        return data, self._other.encode(record)

    def write_now(self, record: tuple[bytes, bytes]) -> bool:
        """Send it if journald has room for it at once; return whether it did."""
        data, lines = record
        try:
            self._socket.sendto(data, socket.MSG_DONTWAIT, self._path)
        except BlockingIOError:
            return False
        except OSError:
            return self._other.write_now(lines)
        return True

    def write(self, record: tuple[bytes, bytes]) -> None:
        """Send it, when journald has room for it."""
        data, lines = record
        try:
            self._socket.sendto(data, self._path)
        except OSError:
            self._other.write(lines)

    def close(self) -> None:
        """End the socket."""
        self._socket.close()


class Handler(logging.Handler):
    """A handler that never waits for a reader: a thread writes what cannot be written at once."""

    def __init__(self, sink: Lines | Journal) -> None:
        super().__init__()
        self._sink = sink
        self.writer: Writer[Any] = Writer(sink.write, sink.write_now, self._lost)

    def emit(self, record: logging.LogRecord) -> None:
        """Have it written, or count it as lost."""
        encoded = self._sink.encode(record)
        size = len(encoded) if isinstance(encoded, bytes) else sum(map(len, encoded))
        self.writer.put(encoded, size)

    def _lost(self, number: int) -> bytes | tuple[bytes, bytes]:
        text = "%d records of the log were lost here: nobody read them"
        fields = {"fields": {"EVENT": "log-lost"}}
        record = log.makeRecord(
            log.name, logging.WARNING, __file__, 0, text, (number,), None, extra=fields
        )
        return self._sink.encode(record)


def _field(name: str, value: str) -> bytes:
    text = value.encode(errors="replace")
    if b"\n" in text:
        return name.encode() + b"\n" + struct.pack("<Q", len(text)) + text + b"\n"
    return name.encode() + b"=" + text + b"\n"


def _priority(record: logging.LogRecord) -> int:
    return _PRIORITIES.get(record.levelno, 2)


@dataclass(slots=True)
class _Said:
    """How often an event was told since a time; the last one that was left out, and how many."""

    since: float
    count: int = 0
    left_out: int = 0
    last: logging.LogRecord | None = None


class Limiter(logging.Filter):
    """Keeps an event that comes again and again from filling the log.

    The last of those that were left out is told in the end, and how many they were.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, ...], _Said] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be logged."""
        fields: dict[str, str] = getattr(record, "fields", {})
        event = fields.get("EVENT")
        if event is None or event in _NEVER_LEFT_OUT or record.__dict__.get("told"):
            return True
        said = self._said.setdefault(
            tuple(fields.get(name, "") for name in _KEY), _Said(time.monotonic())
        )
        said.count += 1
        if said.count <= AT_ONCE:
            return True
        said.left_out += 1
        said.last = record
        return False

    def due(self) -> list[logging.LogRecord]:
        """The lines that are due for events that were left out; old ones are forgotten."""
        now, found = time.monotonic(), []
        for key in [key for key, said in self._said.items() if now - said.since >= AT_ONCE_IN]:
            said = self._said.pop(key)
            if said.last is not None:
                text = said.last.getMessage()
                if said.left_out > 1:
                    text += f" ({said.left_out - 1} more like it before)"
                said.last.msg, said.last.args = text, ()
                said.last.__dict__["told"] = True
                found.append(said.last)
        return found


_KEY = ("EVENT", "RULE", "INTERFACE", "OUTPUT", "WORKER", "TASK")
# What a worker says has a limit of its own.
_NEVER_LEFT_OUT = frozenset(
    {"started", "ended", "reload", "reload-refused", "asked", "worker-says"}
)
_limiter = Limiter()


_handlers: list[Handler] = []
_threadless = False  # that should have one


def set_up() -> None:
    """Start the log; what it lets through is for set_level() to say."""
    to_journald = "JOURNAL_STREAM" in os.environ
    # What is closed at the start is another file by now.
    lines = Lines(2 if sys.stderr is not None else None, priorities=to_journald)
    journald = to_journald and stderr_is_journald() and os.path.exists(SOCKET)
    handler = Handler(Journal(lines) if journald else lines)
    handler.addFilter(_limiter)
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    _handlers.append(handler)
    # They tell their own stories at these levels.
    for name in ("pyroute2", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # What it calls an error is an event that came while a watch was ended.
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)


def go_on_in_a_thread() -> None:
    """Let a thread write from now on: nothing that logs waits for a reader.

    Where there is no thread to be had, what cannot be written at once waits until look() finds one.
    """
    global _threadless  # noqa: PLW0603
    try:
        for handler in _handlers:
            handler.writer.start()
    except OSError as error:
        if not _threadless:
            logging.getLogger(__name__).warning("the log: %s; trying again", words(error))
        _threadless = True
    else:
        _threadless = False


def look() -> None:
    """Call it now and then: the last of a row of like events is not lost, nor what waits."""
    for record in _limiter.due():
        logging.getLogger(record.name).handle(record)
    if _threadless:
        go_on_in_a_thread()


def flush() -> None:
    """Wait until all is written, if somebody reads it; for the end."""
    for handler in _handlers:
        handler.writer.flush(FLUSH)


def lost() -> int:
    """The number of records that were lost because nobody read them."""
    return sum(handler.writer.lost for handler in _handlers)


def stderr_is_journald() -> bool:
    """Whether it still is what it was when the service started, by systemd.exec(5)."""
    at = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{at.st_dev}:{at.st_ino}"


def set_level(level: str) -> None:
    """Log what is at least this grave: one of LEVELS."""
    logging.getLogger("mcrd").setLevel(level.upper())
