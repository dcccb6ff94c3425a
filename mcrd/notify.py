"""What the service manager is told (sd_notify(3)). Without one, nothing."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import time

import sdnotify


class Notify:
    """Speaks to systemd over $NOTIFY_SOCKET."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        self._status = ""
        self._watchdog = _watchdog()
        self._alive = 0.0

    def ready(self) -> None:
        """The daemon relays what the rule file says, or a reload has ended."""
        self._notifier.notify("READY=1")

    def reloading(self) -> None:
        """A reload has begun; READY ends it."""
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon is about to end."""
        self._notifier.notify("STOPPING=1")

    def alive(self) -> None:
        """All is well; call it often. Without it for WatchdogSec=, the manager starts us anew."""
        now = time.monotonic()
        if self._watchdog is not None and now - self._alive >= self._watchdog / 3:
            self._alive = now
            self._notifier.notify("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        if text != self._status:
            self._status = text
            self._notifier.notify(f"STATUS={text}")


def _watchdog() -> float | None:
    """Seconds within which the manager wants a sign of life; None: none (sd_watchdog_enabled)."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
        return microseconds / 1e6 if microseconds > 0 else None
    return None
