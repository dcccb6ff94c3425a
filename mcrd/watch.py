"""Notices that the rule file was saved, by whatever means (inotify(7)).

The directory is watched, not the file: most editors put a new file in its place.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

SETTLE = 0.1  # seconds; an editor makes several events of one save

log = logging.getLogger(__name__)


class Watch:
    """Calls `changed` in the loop, some time after the last of a flock of events."""

    def __init__(self, file: Path, changed: Callable[[], None]) -> None:
        # Not resolved: a symlink that is put in the file's place is a change too.
        self._file = Path(os.path.abspath(file))
        self._changed = changed
        self._observer: BaseObserver | None = None
        self._settling: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins; a directory that cannot be watched is a warning."""
        if self._observer is not None:
            return
        observer = Observer()
        handler = _Handler(str(self._file), asyncio.get_running_loop(), self._noticed)
        try:
            observer.schedule(handler, str(self._file.parent))
            observer.start()
        except OSError as error:
            log.warning(
                "cannot watch %s: %s; reload with `mcrctl reload`",
                self._file.parent,
                error.strerror,
            )
            return
        self._observer = observer

    def stop(self) -> None:
        """Ends it."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None

    def _noticed(self) -> None:
        if self._observer is None:
            return
        if self._settling is not None:
            self._settling.cancel()
        self._settling = asyncio.get_running_loop().call_later(SETTLE, self._changed)


class _Handler(FileSystemEventHandler):
    """Runs in watchdog's own thread."""

    def __init__(
        self, file: str, loop: asyncio.AbstractEventLoop, noticed: Callable[[], None]
    ) -> None:
        self._file = file
        self._loop = loop
        self._noticed = noticed

    def on_any_event(self, event: FileSystemEvent) -> None:
        # Reading the file makes events too: those would be a reload that never ends.
        kinds = (FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileMovedEvent)
        if isinstance(event, kinds) and self._is_about(event):
            self._loop.call_soon_threadsafe(self._noticed)

    def _is_about(self, event: FileSystemEvent) -> bool:
        # Kubernetes swaps a directory symlink, ..data, that the file's own symlink goes through.
        names = (os.fsdecode(event.src_path), os.fsdecode(event.dest_path))
        return any(name == self._file or name.endswith("/..data") for name in names)
