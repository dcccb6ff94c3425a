"""A worker process before it is anybody's: from exec on, waiting for its first message.

An interpreter with all that a worker imports takes ten times as long as all that follows. So one is
there before it is needed, for the next worker that has to start.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sized

from mcrd.errors import words

PROGRAM: tuple[str, ...] = ("-m", "mcrd.dataplane.worker")
"""What the interpreter runs in a worker."""

KILL_TIMEOUT = 2.0  # seconds, from SIGKILL to giving up: a system call may not be interrupted

SETTLED = 1.0  # seconds from the start of a worker to that of the spare one
AGAIN = 30.0  # seconds from a spare that could not be had, or ended, to the next

log = logging.getLogger(__name__)


class Spawned:
    """A process that waits for Initialize, with our ends of its channel and of its stderr.

    Raises OSError.
    """

    def __init__(self) -> None:
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

    def end(self) -> None:
        """End it, and close all: nobody has taken it."""
        self.channel.close()
        self._kill()
        os.close(self.errors)
        os.close(self.pidfd)

    def _kill(self) -> None:
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(KILL_TIMEOUT)


class Spare:
    """A process that waits to be the next worker; it has nothing but its channel."""

    def __init__(self) -> None:
        self._spawned: Spawned | None = None
        self._not_before = 0.0

    def look(self, lanes: Sized, ages: Iterable[float]) -> None:
        """Have one while there are lanes and a worker has run for a while, by their ages."""
        if not lanes:
            self.end()
        elif any(age > SETTLED for age in ages):
            self._want()

    def _want(self) -> None:
        now = time.monotonic()
        if self._spawned is not None and not self._spawned.lives:
            self.end()
            self._not_before = now + AGAIN
        if self._spawned is None and now >= self._not_before:
            try:
                self._spawned = Spawned()
            except OSError as error:  # the next worker takes longer to start, and says why
                log.debug("no spare worker: %s", words(error))
                self._not_before = now + AGAIN

    def take(self) -> Spawned | None:
        """It is somebody's from now on; None where there is none."""
        found = self._spawned
        if found is not None and not found.lives:
            self.end()
            return None
        self._spawned = None
        return found

    def end(self) -> None:
        """End it, if there is one."""
        if self._spawned is not None:
            self._spawned.end()
            self._spawned = None


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
