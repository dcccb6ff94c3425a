"""What the service manager is told (sd_notify(3)). Without one, nothing."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time

import sdnotify


class Notify:
    """Speaks to systemd over $NOTIFY_SOCKET."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        self._status = ""

    def ready(self) -> None:
        """The daemon relays what the rule file says, or a reload has ended."""
        self._notifier.notify("READY=1")

    def reloading(self) -> None:
        """A reload has begun; READY ends it."""
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon is about to end."""
        self._notifier.notify("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        if text != self._status:
            self._status = text
            self._notifier.notify(f"STATUS={text}")
