"""What a worker says, read as if an attacker said it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import socket
import time

import msgspec

from mcrd.dataplane import messages
from mcrd.events import tell

OUTSTANDING = 1000  # members asked for and not answered; of a worker that is well they are 64
MEMBERS_A_SECOND = 2000  # one that is well asks for 1000
MEMBERS_IN_A_BURST = 10_000
UNANSWERED = 100_000  # requests; the largest rule file is a third of it
LINES = 60  # that a worker may write into the log; a traceback is less
DEBUG_LINES = 2000
BYTES = 512 * 1024
LINES_IN = 60.0  # seconds
LINE = 1000  # characters
TRACEBACK = "Traceback (most recent call last):"
CHAINED = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)

log = logging.getLogger(__name__)


class ProtocolError(Exception):
    """A worker broke the protocol: it is not what it was."""


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
    """The members that a worker asks for: each costs sockets, and an answer that has to wait."""

    def __init__(self) -> None:
        self._answers: set[int] = set()
        self._outstanding = 0
        self._room = float(MEMBERS_IN_A_BURST)
        self._since = time.monotonic()

    def ask(self, members: int) -> None:
        """Note a request; raise ProtocolError when they are too many."""
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


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_of_the_kernel(line: str) -> bool:
    """Whether the end of a traceback names an error that a call to the kernel had, or led to."""
    kind = getattr(builtins, line.strip().partition(":")[0], None)
    return isinstance(kind, type) and issubclass(kind, OSError | MemoryError | ImportError)


class Words:
    """What a worker writes to its stderr, as lines of the log, of our form and number.

    The traceback of an interpreter, the last words of the C library, or what the sandbox forbade.
    A traceback that ends with what the kernel refused is no bug: its last line is all of it.
    Beyond so many lines or bytes a minute nobody reads: the pipe is full then, and what the
    worker writes is lost.
    """

    def __init__(self, who: str, interface: str, reader: int) -> None:
        """`reader` is our end of the pipe, which is closed here at the end."""
        self._who = who
        self._interface = interface
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._rest = b""
        self._traceback: list[str] = []
        self._cause: list[str] = []  # the last one, if it was dropped: a bug may follow from it
        self._lines = self._debug_lines = self._bytes = 0
        self._resume: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._reader, self._read)

    def end(self) -> None:
        """Read what is left, as far as it may."""
        while self._reader >= 0 and self._bytes < BYTES and self._read():
            pass
        self._hear(self._rest)
        self._say_traceback()
        if self._resume is not None:
            self._resume.cancel()
        if self._reader >= 0:
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
        self._reader = -1

    def _read(self) -> bool:
        data = b""
        try:
            data = os.read(self._reader, 4096)
        except BlockingIOError:
            pass
        except OSError:  # what is there is read the next time
            return False
        self._bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hear(line)
        self._rest = self._rest[:LINE]
        if self._resume is None:
            self._resume = self._loop.call_later(LINES_IN, self._begin_anew)
        if not data or self._bytes >= BYTES:
            self._loop.remove_reader(self._reader)
        return bool(data)

    def _begin_anew(self) -> None:
        self._resume = None
        if self._bytes >= BYTES and self._reader >= 0:
            try:
                self._loop.add_reader(self._reader, self._read)
            except OSError:  # the loop has no room for it
                self._resume = self._loop.call_later(LINES_IN, self._begin_anew)
                return
        self._lines = self._debug_lines = self._bytes = 0

    def _hear(self, line: bytes) -> None:
        text = messages.printable(line[:LINE].decode("latin-1"))
        if not text.strip():
            return
        if self._traceback:
            goes_on = _depth(text) > _depth(self._traceback[0]) or (
                text.strip() == TRACEBACK and self._traceback[-1].strip() in CHAINED
            )
            if goes_on and len(self._traceback) < LINES:
                self._traceback.append(text)
                return
            if _is_of_the_kernel(text):
                self._cause, self._traceback = [*self._traceback, text], []
                self._say(text)
                return
            self._say_traceback()
        cause, self._cause = self._cause, []
        if cause and text.strip() in CHAINED:
            self._traceback = [*cause, text]
        elif text.strip() == TRACEBACK:
            self._traceback = [text]
        else:
            self._say(text)

    def _say_traceback(self) -> None:
        held, self._traceback = self._traceback, []
        for text in held:
            self._say(text)

    def _say(self, text: str) -> None:
        if text.startswith(messages.DEBUG):
            self._debug_lines += 1
            if self._debug_lines <= DEBUG_LINES:
                log.debug("%s: %s", self._who, text.removeprefix(messages.DEBUG))
            return
        self._lines += 1
        if self._lines == LINES + 1:
            text = f"it writes more than {LINES} lines a minute"
        if self._lines <= LINES + 1:
            where = {"interface": self._interface, "worker": self._who}
            tell(log, logging.ERROR, "worker-says", "%s: %s", self._who, text, **where)
