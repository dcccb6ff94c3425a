"""Messages to the service manager (sd_notify(3)), if there is one.

Nothing waits for the manager: it may be busy or hung, and streams have to flow.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterable

import sdnotify

from mcrd.errors import words

BARRIER = 2.0  # seconds
BUSY = 0.05  # seconds until the next try

log = logging.getLogger(__name__)


class Manager:
    """Its socket, $NOTIFY_SOCKET."""

    def __init__(self) -> None:
        self.path = os.environ.get("NOTIFY_SOCKET", "")
        self.there = self.path[:1] in ("/", "@")  # one to speak to
        self._notifier: sdnotify.SystemdNotifier | None = None

    def connect(self) -> sdnotify.SystemdNotifier:
        """The connection to one that is there; raises OSError when nobody listens."""
        if self._notifier is None:
            # The library leaves its socket open where nobody listens.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                probe.connect(self.path.replace("@", "\0", 1) if self.path[0] == "@" else self.path)
            notifier = sdnotify.SystemdNotifier(debug=True)  # it raises what it could not send
            notifier.socket.setblocking(False)
            self._notifier = notifier
        return self._notifier

    def send(self, text: str, descriptors: Iterable[int] = ()) -> None:
        """Raise BlockingIOError when it has no room for more, and OSError."""
        if not self.there:
            return
        sent = text.encode(errors="replace").decode()
        try:
            _send(self.connect(), sent, descriptors)
        except OSError as error:
            # Not yet, or no more: it may listen anew.
            if error.errno not in (errno.ENOTCONN, errno.ECONNREFUSED, errno.EDESTADDRREQ):
                raise
            self._disconnect()
            _send(self.connect(), sent, descriptors)

    def _disconnect(self) -> None:
        if self._notifier is not None:
            self._notifier.socket.close()
            self._notifier = None

    async def barrier(self) -> bool:
        """Wait until it has done what it was told; False when it has not (BARRIER=1)."""
        loop = asyncio.get_running_loop()
        try:
            ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        closed = asyncio.Event()
        try:
            async with asyncio.timeout(BARRIER):
                try:
                    loop.add_reader(ours, closed.set)
                    await self._send_when_it_may("BARRIER=1", theirs)
                finally:
                    os.close(theirs)
                await closed.wait()
        except OSError:  # and TimeoutError
            return False
        finally:
            loop.remove_reader(ours)
            os.close(ours)
        return True

    async def _send_when_it_may(self, text: str, descriptor: int) -> None:
        while True:
            try:
                return self.send(text, [descriptor])
            except BlockingIOError:
                await asyncio.sleep(BUSY)

    def close(self) -> None:
        """End the conversation."""
        self.there = False
        self._disconnect()


def _send(notifier: sdnotify.SystemdNotifier, text: str, descriptors: Iterable[int]) -> None:
    numbers = list(descriptors)
    if numbers:  # the library sends text alone
        socket.send_fds(notifier.socket, [text.encode()], numbers)
    else:
        notifier.notify(text)


class Notify:
    """Says how the daemon fares.

    What the manager has no room for waits if it is a state, and its last status does; other things
    are said again anyway. Those that never come to be said are counted in `lost`.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._manager = Manager()
        self._waiting: list[str] = []
        self._status = self._said = ""
        self._trouble = ""  # why it cannot be told
        self._watchdog = _watchdog()
        self._alive = 0.0

    def ready(self) -> None:
        """Report that the daemon relays what the rule file says, or that a reload has ended."""
        self._state("READY=1")

    def reloading(self) -> None:
        """Report that a reload has begun; READY ends it."""
        reloads = [at for at, text in enumerate(self._waiting) if text.startswith("RELOADING=1")]
        if reloads:  # of one that has ended meanwhile, it need not hear
            self.lost += len(self._waiting) - reloads[0]
            del self._waiting[reloads[0] :]
        self._state(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the daemon is about to end."""
        self._state("STOPPING=1")

    def alive(self) -> None:
        """Report that all is well; after WatchdogSec= without it, the manager restarts us."""
        now = time.monotonic()
        if self._watchdog is None or now - self._alive < self._watchdog / 3:
            return
        self._alive = now
        if not (self.flush() and self._try("WATCHDOG=1")):
            self.lost += 1

    def status(self, text: str) -> None:
        """Report one line for `systemctl status`."""
        if text == self._status:
            return
        if self._status != self._said:
            self.lost += 1
        self._status = text
        self.flush()

    def flush(self) -> bool:
        """Send what waits; call it now and then. True when nothing waits any more."""
        while self._waiting:
            if not self._try(self._waiting[0]):
                return False
            del self._waiting[0]
        if self._status != self._said:
            if not self._try(f"STATUS={self._status}"):
                return False
            self._said = self._status
        return True

    def close(self) -> None:
        """Say no more."""
        self._manager.close()

    def _state(self, text: str) -> None:
        self._waiting.append(text)
        self.flush()

    def _try(self, text: str) -> bool:
        try:
            self._manager.send(text)
        except OSError as error:
            busy = isinstance(error, BlockingIOError)
            trouble = "it does not read" if busy else words(error)
            if trouble != self._trouble:
                self._trouble = trouble
                log.warning("cannot reach the service manager: %s", trouble)
            return False
        if self._trouble:
            self._trouble = ""
            log.info("the service manager listens again; %d messages were lost so far", self.lost)
        return True


def _watchdog() -> float | None:
    """Seconds within which the manager wants a sign of life; None: none (sd_watchdog_enabled)."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
        return microseconds / 1e6 if microseconds > 0 else None
    return None
