"""The daemon's log: journald with fields, or lines on stderr with priorities (sd-daemon(3)).

The fields make `journalctl -u mcrd RULE=camera-wall` and the like work: EVENT, and where they apply
RULE, INTERFACE, OUTPUT and WORKER.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
SOCKET = "/run/systemd/journal/socket"
AT_ONCE = 10  # lines of one event about one thing
AT_ONCE_IN = 60.0  # seconds
SEND_TIMEOUT = 1.0  # seconds that a journald that is busy may take
BUSY = 10.0  # seconds after that in which it is not waited for again

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


class _Lines(logging.Formatter):
    """<priority>message, every line of it; journald adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_priority(record)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


class JournalHandler(logging.Handler):
    """Records with their fields, as datagrams (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    What journald does not take goes to `other`.
    """

    def __init__(self, other: logging.Handler, path: str = SOCKET) -> None:
        super().__init__()
        self._other = other
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SEND_TIMEOUT)
        self._busy_until = 0.0

    def close(self) -> None:
        """Ends the socket."""
        self._socket.close()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record."""
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(_priority(record)),
            "SYSLOG_IDENTIFIER": "mcrd",
            **getattr(record, "fields", {}),
        }
        data = b"".join(_field(name, value) for name, value in fields.items())
        busy = time.monotonic() < self._busy_until
        try:
            self._socket.sendto(data, socket.MSG_DONTWAIT if busy else 0, self._path)
        except OSError as error:
            if isinstance(error, TimeoutError):
                self._busy_until = time.monotonic() + BUSY
            self._other.emit(record)


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
        """What is to be told now of events that were left out; forgets what is long ago."""
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


_KEY = ("EVENT", "RULE", "INTERFACE", "OUTPUT", "WORKER")
# What a worker says has a limit of its own.
_NEVER_LEFT_OUT = frozenset({"started", "ended", "reload", "reload-refused", "worker-says"})
_limiter = Limiter()


def tell_what_was_left_out() -> None:
    """Call it now and then: the last of a row of like events is not lost."""
    for record in _limiter.due():
        logging.getLogger(record.name).handle(record)


def set_up() -> None:
    """Starts the log; what it lets through is for set_level() to say."""
    lines = logging.StreamHandler(sys.stderr)
    handler: logging.Handler = lines
    if "JOURNAL_STREAM" in os.environ:
        lines.setFormatter(_Lines("%(message)s"))
        if _stderr_is_journald() and os.path.exists(SOCKET):
            handler = JournalHandler(lines)
            handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        lines.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
    handler.addFilter(_limiter)
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    # pyroute2 and watchdog tell their own stories at these levels.
    for name in ("pyroute2", "watchdog", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _stderr_is_journald() -> bool:
    """systemd.exec(5): device and inode of what stderr was when the service started."""
    at = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{at.st_dev}:{at.st_ino}"


def set_level(level: str) -> None:
    """Lets through what is at least this grave: one of LEVELS."""
    logging.getLogger("mcrd").setLevel(level.upper())


def tell(
    log: logging.Logger, level: int, event: str, message: str, *arguments: Any, **fields: object
) -> None:
    """Logs an event. `fields` are rule, interface, output, worker: those that are None are not."""
    given = {name.upper(): str(value) for name, value in fields.items() if value is not None}
    log.log(level, message, *arguments, extra={"fields": {"EVENT": event, **given}})
