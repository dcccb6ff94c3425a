"""What a worker says, as of somebody who may have taken it over."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time

import msgspec

from mcrd.dataplane import messages

OUTSTANDING = 1000  # members asked for and not answered; of a worker that is well they are 64
MEMBERS_A_SECOND = 2000  # one that is well asks for 1000
MEMBERS_IN_A_BURST = 10_000
UNANSWERED = 100_000  # requests; the largest rule file is a third of it
LINES = 20  # that a worker may write into the log
LINES_IN = 60.0  # seconds
LINE = 1000  # characters

log = logging.getLogger(__name__)


class ProtocolError(Exception):
    """A worker said what no worker says: it is not what it was."""


def understand(data: bytes, flags: int) -> messages.Answer:
    """A message that was received with these flags; raises ProtocolError."""
    if flags & socket.MSG_TRUNC:
        raise ProtocolError(f"sent a message of more than {messages.LARGEST} bytes")
    if flags & socket.MSG_CTRUNC:
        raise ProtocolError("sent descriptors")
    try:
        answer: messages.Answer = messages.decode_answer(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"sent what is no message ({ascii(str(error))[:200]})") from None
    return answer


class Demand:
    """How many members a worker asks for; each costs sockets, and an answer that has to wait."""

    def __init__(self) -> None:
        self._answers: set[int] = set()
        self._outstanding = 0
        self._room = float(MEMBERS_IN_A_BURST)
        self._since = time.monotonic()

    def ask(self, members: int) -> None:
        """Notes a request; raises ProtocolError when they are too many."""
        now = time.monotonic()
        self._room += (now - self._since) * MEMBERS_A_SECOND
        self._room = min(self._room, MEMBERS_IN_A_BURST) - members
        self._since = now
        self._outstanding += members
        if self._room < 0 or self._outstanding > OUTSTANDING:
            raise ProtocolError("asked for members without end")

    def answer(self, sequence: int) -> None:
        """The request of that number is the answer about a member."""
        self._answers.add(sequence)

    def heard(self, sequence: int) -> None:
        """The worker has dealt with the request of that number."""
        if sequence in self._answers:
            self._answers.discard(sequence)
            self._outstanding = max(0, self._outstanding - 1)


class Words:
    """What a worker writes to its stderr, as lines of the log: their form and number are ours.

    The traceback of an interpreter, the last words of the C library, or what the sandbox forbade.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._rest = b""
        self._lines = 0
        self._since = time.monotonic()
        asyncio.get_running_loop().add_reader(self._reader, self._read)

    def started(self, pid: int) -> None:
        """Whoever writes has the other end by now."""
        self._who = f"{self._who} (pid {pid})"
        os.close(self.writer)

    def end(self) -> None:
        """Reads what is left."""
        if self._reader < 0:
            return
        while self._read():
            pass
        self._say(self._rest)
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)
        self._reader = -1

    def _read(self) -> bool:
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._reader, 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._say(line)
        self._rest = self._rest[:LINE]
        if not data:
            asyncio.get_running_loop().remove_reader(self._reader)
        return bool(data)

    def _say(self, line: bytes) -> None:
        if not line.strip():
            return
        now = time.monotonic()
        if now - self._since > LINES_IN:
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES:
            text = "".join(c if " " <= c <= "~" else "?" for c in line[:LINE].decode("latin-1"))
            log.error("%s: %s", self._who, text)
        elif self._lines == LINES + 1:
            log.error("%s: it writes more than %d lines a minute", self._who, LINES)
