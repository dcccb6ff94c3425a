"""Notices that the rule file was saved, by whatever means (inotify(7)).

The directory is watched, not the file: most editors put a new file in its place.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import glob
import inspect
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from mcrd.errors import words
from mcrd.journal import tell

SETTLE = 0.1  # seconds; an editor makes several events of one save
LONGEST = 1.0  # seconds that a flock may last: what is written again and again is read meanwhile
STOP = 1.0  # seconds that the end of a thread may take

log = logging.getLogger(__name__)

T = TypeVar("T")

# Versions that can leave symlinks alone do, unless they are told.
_FOLLOW: dict[str, Any] = (
    {"follow_symlink": True}
    if "follow_symlink" in inspect.signature(BaseObserver.schedule).parameters
    else {}
)


class Watch:
    """Calls `changed` in the loop, some time after the last of a flock of events.

    Where there is no last one, it calls all the same, LONGEST after the first.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._observer: BaseObserver | None = None
        self._watched: dict[str, ObservedWatch] = {}
        self._handler: _Handler | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._latest = 0.0  # in the loop's time

    def start(self, files: Iterable[str], patterns: Iterable[str] = ()) -> None:
        """Watches these files, and what comes to match these patterns; and no others any more.

        Names are absolute and not resolved: a symlink that is put in a file's place is a change
        too. A directory that is not there yet is watched as soon as it is; one that cannot be
        watched is a warning.
        """
        names, globs = frozenset(files), tuple(patterns)
        if self._observer is None or self._handler is None:
            self._handler = _Handler(
                asyncio.get_running_loop(), self._noticed, self._directories_changed
            )
            self._observer = self._try(Observer, "the rule files")
            if self._observer is None:
                return
            self._try(self._observer.start, "the rule files")
        self._handler.watch(names, globs)
        self._watch_directories()

    def _watch_directories(self) -> bool:
        """Watches those that are there now; whether any is new."""
        assert self._observer is not None
        assert self._handler is not None
        wanted, found, tried = self._directories(), False, set[str]()
        for gone in self._watched.keys() - wanted:
            self._forget(gone)
        # What is made in a directory between the look and its watch makes no event.
        while new := wanted - self._watched.keys() - tried:
            found = True
            tried |= new
            for directory in new:
                schedule = partial(self._observer.schedule, self._handler, directory, **_FOLLOW)
                if (watch := self._try(schedule, directory)) is not None:
                    self._watched[directory] = watch
            wanted = self._directories()
        return found

    def _directories(self) -> set[str]:
        """Those to watch, as far as they are there, and else what is around them."""
        assert self._handler is not None
        files, globs = self._handler.watched()
        found: set[str] = set()
        for leading in {os.path.dirname(name) for name in files} | set(map(_directory, globs)):
            nearest = _nearest(leading)
            # Another one may be put in its place, or a symlink to one.
            found |= {nearest, os.path.dirname(nearest)} - {"/"}
        for pattern in globs:
            for level in _levels(pattern):
                found |= {name for name in glob.glob(level) if os.path.isdir(name)}
        return found

    def _directories_changed(self, names: frozenset[str]) -> None:
        """These came or went: what has such a name now is another, and may have files already."""
        if self._observer is None:
            return
        lost = [
            watched
            for watched in self._watched
            if any(watched == name or watched.startswith(f"{name}/") for name in names)
        ]
        for directory in lost:
            self._forget(directory)
        if self._watch_directories() or lost:
            self._noticed()

    def look(self) -> None:
        """Whether the threads live that hear of events; call it now and then.

        They begin anew if not, and `changed` is called: who knows what they have missed.
        """
        if self._observer is None or self._handler is None or not self._has_ended():
            return
        text = "the watch of the rule files has ended; it begins anew"
        tell(log, logging.ERROR, "task-ended", text, task="watch")
        files, patterns = self._handler.watched()
        self.stop()
        self.start(files, patterns)
        self._noticed()

    def _has_ended(self) -> bool:
        if self._observer is None or self._observer.ident is None:
            return False  # it could not begin, and that was said
        return not self._observer.is_alive() or any(
            not emitter.is_alive() and os.path.isdir(emitter.watch.path)
            for emitter in tuple(self._observer.emitters)
        )

    def stop(self) -> None:
        """Ends it."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if self._observer is not None:
            if self._observer.is_alive():
                self._observer.stop()
                self._observer.join(STOP)
            self._observer = None
            self._watched.clear()

    def _try(self, action: Callable[[], T], what: str) -> T | None:
        try:
            return action()
        except OSError as error:
            log.warning("cannot watch %s: %s; reload with `mcrctl reload`", what, words(error))
            return None

    def _forget(self, directory: str) -> None:
        """The directory is no more to be watched, or no more at all."""
        watch = self._watched.pop(directory, None)
        if watch is not None and self._observer is not None:
            with contextlib.suppress(OSError, KeyError):  # it has ended by itself
                self._observer.unschedule(watch)

    def _noticed(self) -> None:
        if self._observer is None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._settling is None:
            self._latest = now + LONGEST
        else:
            self._settling.cancel()
        self._settling = loop.call_at(min(now + SETTLE, self._latest), self._settled)

    def _settled(self) -> None:
        self._settling = None
        self._changed()


def _nearest(directory: str) -> str:
    """The directory, or the nearest around it that is there."""
    while not os.path.isdir(directory) and directory != os.path.dirname(directory):
        directory = os.path.dirname(directory)
    return directory


def _levels(pattern: str) -> list[str]:
    """Patterns of the directories that lead to files that match, from the first wildcard on."""
    levels: list[str] = []
    level, fixed = os.path.dirname(pattern), _directory(pattern)
    while glob_unescape(level) != fixed:
        levels.insert(0, level)
        level = os.path.dirname(level)
    return levels


def _directory(pattern: str) -> str:
    """The last directory before any wildcard."""
    directory = os.path.dirname(pattern)
    while glob.has_magic(directory.replace("[[]", "").replace("[*]", "").replace("[?]", "")):
        directory = os.path.dirname(directory)
    return glob_unescape(directory)


def glob_unescape(name: str) -> str:
    """The inverse of glob.escape()."""
    for special in "*?[":
        name = name.replace(f"[{special}]", special)
    return name


_COME_OR_GO = (
    *(DirCreatedEvent, DirDeletedEvent, DirMovedEvent),
    *(FileCreatedEvent, FileDeletedEvent, FileMovedEvent),
)


class _Handler(FileSystemEventHandler):
    """Runs in watchdog's own thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        noticed: Callable[[], None],
        moved: Callable[[frozenset[str]], None],
    ) -> None:
        self._moved = moved
        self._around: frozenset[str] = frozenset()  # directories that lead to files
        self._levels: tuple[str, ...] = ()  # and patterns of such
        self._files: frozenset[str] = frozenset()
        self._patterns: tuple[str, ...] = ()
        self._loop = loop
        self._noticed = noticed

    def watch(self, files: frozenset[str], patterns: tuple[str, ...]) -> None:
        """What events have to be about."""
        self._files, self._patterns = files, patterns
        leading = {os.path.dirname(name) for name in files} | set(map(_directory, patterns))
        self._around = frozenset(
            str(directory) for name in leading for directory in (Path(name), *Path(name).parents)
        )
        self._levels = tuple(level for pattern in patterns for level in _levels(pattern))

    def watched(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """What watch() was told."""
        return self._files, self._patterns

    def on_any_event(self, event: FileSystemEvent) -> None:
        if isinstance(event, _COME_OR_GO) and (names := self._leading(event)):
            self._loop.call_soon_threadsafe(self._moved, names)
        # Reading the file makes events too: those would be a reload that never ends.
        kinds = (FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileMovedEvent)
        if isinstance(event, kinds) and self._is_about(event):
            self._loop.call_soon_threadsafe(self._noticed)

    def _leading(self, event: FileSystemEvent) -> frozenset[str]:
        """Which directories, or symlinks to such, lead to files to watch, of those it is about."""
        return frozenset(
            name
            for name in (os.fsdecode(event.src_path), os.fsdecode(event.dest_path))
            if name in self._around
            or any(fnmatch.fnmatchcase(name, level) for level in self._levels)
        )

    def _is_about(self, event: FileSystemEvent) -> bool:
        # Kubernetes swaps a directory symlink, ..data, that the file's own symlink goes through.
        names = (os.fsdecode(event.src_path), os.fsdecode(event.dest_path))
        return any(
            name in self._files
            or name.endswith("/..data")
            or any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns)
            for name in names
        )
