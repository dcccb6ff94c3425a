"""A worker process before it is anybody's: from exec on, waiting for its first message.

An interpreter with all that a worker imports takes ten times as long as all that follows. So one is
there before it is needed, for the next worker that has to start.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sized
from functools import partial

from mcrd.dataplane import messages
from mcrd.dataplane._dataplane import lib
from mcrd.errors import words
from mcrd.lanes.hostile import LINE

PROGRAM: tuple[str, ...] = ("-m", "mcrd.dataplane.worker")
"""What the interpreter runs in a worker."""

KILL_TIMEOUT = 2.0  # seconds, from SIGKILL to giving up: a system call may not be interrupted

SETTLED = 1.0  # seconds from the start of a worker to that of the spare one
AGAIN = 30.0  # seconds from a spare that could not be had, or ended, to the next
PIPE = 65536  # bytes: all that a pipe holds

log = logging.getLogger(__name__)


class Spawned:
    """A process that waits for Initialize, with our ends of its channel and of its stderr.

    Raises OSError.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.gone = asyncio.Event()
        """Set after end(), when it has ended."""
        with contextlib.ExitStack() as undo:
            self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self.channel.close)
            self.errors, errors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, self.errors)
            try:
                self.process = _spawn(theirs, errors)
            finally:
                theirs.close()
                os.close(errors)
            undo.callback(self._kill)
            self.pidfd = os.pidfd_open(self.process.pid)
            undo.pop_all()

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def last_words(self) -> str:
        """How it ended, and the last line that it wrote."""
        said = b""
        with contextlib.suppress(OSError):
            said = os.read(self.errors, PIPE)
        line = said.strip().rpartition(b"\n")[2][:LINE].decode("latin-1")
        how = describe_end(self.process.returncode)
        return f"{how}: {messages.printable(line)}" if line else how

    def end(self) -> None:
        """Kill it, and close all: nobody has taken it. It ends when the kernel lets it."""
        for close in (self.channel.close, partial(os.close, self.errors)):
            with contextlib.suppress(OSError):  # it is closed all the same (close(2))
                close()
        with contextlib.suppress(PermissionError):  # it ends with its channel
            self.process.kill()
        try:
            asyncio.get_running_loop().add_reader(self.pidfd, self._reap)
        except OSError:  # the loop has no room: the next process that is started reaps it
            self._reap()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self.pidfd)
        self.process.poll()
        self.gone.set()
        with contextlib.suppress(OSError):  # it is closed all the same (close(2))
            os.close(self.pidfd)

    def _kill(self) -> None:
        with contextlib.suppress(PermissionError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait(KILL_TIMEOUT)


class Spare:
    """A process that waits to be the next worker; it has nothing but its channel."""

    def __init__(self) -> None:
        self._spawned: Spawned | None = None
        self._not_before = 0.0
        self._said = ""  # why the last one ended that ended by itself

    def look(self, lanes: Sized, ages: Iterable[float]) -> None:
        """Have one while there are lanes and a worker has run for a while, by their ages."""
        if not lanes:
            self.end()
        elif any(age > SETTLED for age in ages):
            self._want()

    def _want(self) -> None:
        self._look_at_it()
        now = time.monotonic()
        if self._spawned is None and now >= self._not_before:
            try:
                self._spawned = Spawned()
            except OSError as error:  # the next worker takes longer to start, and says why
                log.debug("no spare worker: %s", words(error))
                self._not_before = now + AGAIN

    def _look_at_it(self) -> None:
        """Say why it ended, if it did, unless that is what the last one ended of."""
        if self._spawned is None or self._spawned.lives:
            return
        why = self._spawned.last_words()
        if why != self._said:
            self._said = why
            log.warning("the spare process, pid %d, %s", self._spawned.process.pid, why)
        self._not_before = time.monotonic() + AGAIN
        self.end()

    def take(self) -> Spawned | None:
        """It is somebody's from now on; None where there is none."""
        self._look_at_it()
        found, self._spawned = self._spawned, None
        return found

    def end(self) -> None:
        """End it, if there is one."""
        spawned, self._spawned = self._spawned, None
        if spawned is not None:
            spawned.end()

    async def stop(self) -> None:
        """End it, and wait until it has ended, though not for ever."""
        spawned = self._spawned
        self.end()
        if spawned is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(spawned.gone.wait(), KILL_TIMEOUT)


def describe_end(status: int) -> str:
    """What became of a process, from its return code."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    if status == lib.MCRD_VIOLATION:
        return "ended by its sandbox: the line before names the system call"
    return f"ended with exit status {status}"


def _spawn(channel: socket.socket, errors: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I"]
    if sys.dont_write_bytecode:
        command.append("-B")
    return subprocess.Popen(
        [*command, *PROGRAM],
        stdin=channel.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env={},
        cwd="/",
        process_group=0,  # Ctrl-C in a terminal is the supervisor's to handle
    )
