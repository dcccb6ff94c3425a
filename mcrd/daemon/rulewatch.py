"""Notices that the rule file was saved, by whatever means.

The directory is watched, not the file: most editors put a new file in its place. Where the kernel
tells nothing of what happens there, a look now and then finds it.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import glob
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mcrd import threads
from mcrd.daemon.polling import EVERY, Poll
from mcrd.daemon.saves import Saves
from mcrd.errors import words
from mcrd.events import tell

SETTLE = 0.1  # seconds; an editor makes several events of one save
LONGEST = 1.0  # seconds that a flock may last: what is written again and again is read meanwhile
STOP = 1.0  # seconds that the end of a thread may take
AGAIN = 10.0  # seconds until the next try of what could not be had

log = logging.getLogger(__name__)


class Watch:
    """Calls `changed` in the loop, some time after the last of a flock of events.

    Where there is no last one, it calls all the same, LONGEST after the first. A call may come
    of a file whose content is as before: when it was touched. Without inotify(7) it is up to some
    seconds later.
    """

    def __init__(self, changed: Callable[[], None], every: float = EVERY) -> None:
        self._changed = changed
        self._every = every
        self._about = _About()
        self._saves = Saves(self._concerns, self._happened, self._lost)
        self._poll = Poll(self._polled, every)
        self._loop: asyncio.AbstractEventLoop | None = None  # while it watches
        self._settling: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None
        self._latest = 0.0  # in the loop's time
        self._troubles: dict[str, str] = {}  # why there is no inotify, or no poll
        self._retry = 0.0

    def start(self, files: Iterable[str], patterns: Iterable[str] = ()) -> None:
        """Watches these files, and what comes to match these patterns; and no others any more.

        Names are absolute and not resolved: a symlink that is put in a file's place is a change
        too. A directory that is not there yet is watched as soon as it is. What cannot be had is a
        warning, and look() tries again.
        """
        self._loop = asyncio.get_running_loop()
        self._about = _About(frozenset(files), tuple(patterns))
        self._poll.watch(self._about.files, self._about.patterns)
        self._begin()

    def look(self) -> None:
        """Tries again what could not be had, and whether the thread lives; call it now and then."""
        if self._loop is None or time.monotonic() < self._retry:
            return
        ended = self._saves.failed or ("poll" not in self._troubles and not self._poll.runs)
        if not self._troubles and not ended:
            return
        if ended:
            text = "the watch of the rule files has ended; restarting it"
            tell(log, logging.ERROR, "task-ended", text, task="watch")
        if self._saves.failed:
            self._saves.stop()
        self._begin()
        self._noticed()  # who knows what came meanwhile

    def stop(self) -> None:
        """Ends it."""
        self._loop = None
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        self._saves.stop()
        self._poll.stop(STOP)
        self._troubles.clear()
        self._retry = 0.0

    def _begin(self) -> None:
        self._retry = time.monotonic() + AGAIN
        troubles: dict[str, str] = {}
        try:
            self._poll.start()
        except OSError as error:
            troubles["poll"] = words(error)
        try:
            self._saves.start()
        except OSError as error:
            troubles["inotify"] = words(error)
        else:
            self._watch_directories(troubles)
        before, self._troubles = self._troubles, troubles
        if troubles == before:
            return
        if self.trouble:
            tell(log, logging.WARNING, "watch-refused", "%s", self.trouble)
        else:
            log.info("the rule files are watched as they should be")

    @property
    def trouble(self) -> str:
        """Why a save is noticed later than it could be, or not at all; empty when all is well."""
        inotify, poll = self._troubles.get("inotify"), self._troubles.get("poll")
        if inotify is not None:
            then = f"they are checked every {self._every:g} s instead"
            if poll is not None:
                then = "reload with `mcrctl reload`"
            return f"cannot watch the rule files: {inotify}; {then}"
        if poll is not None:
            return (
                f"cannot check the rule files periodically: {poll};"
                " a change made on another host goes unnoticed"
            )
        return ""

    def _watch_directories(self, troubles: dict[str, str]) -> bool:
        """Watches those that are there now; whether any is new."""
        wanted, found, tried = self._about.directories(), False, set[str]()
        for gone in self._saves.watched - wanted:
            self._saves.remove(gone)
        # What is made in a directory between the look and its watch makes no event.
        while new := wanted - self._saves.watched - tried:
            found = True
            tried |= new
            for directory in new:
                try:
                    self._saves.add(directory)
                except (FileNotFoundError, NotADirectoryError):
                    pass  # it has just gone
                except OSError as error:
                    troubles["inotify"] = f"{directory}: {words(error)}"
            wanted = self._about.directories()
        return found

    def _watch_anew(self, lost: bool) -> None:
        """Directories came or went: what is there now may have files already."""
        troubles: dict[str, str] = {}
        found = self._watch_directories(troubles)
        if troubles.keys() - self._troubles.keys():
            self._begin()
        if found or lost:
            self._noticed()

    def _concerns(self, name: str) -> bool:
        """Runs in a thread of watchdog's."""
        about = self._about
        return about.has(name) or about.leads(name)

    def _happened(self, name: str, came_or_went: bool) -> None:
        if came_or_went and self._about.leads(name):
            beneath = [w for w in self._saves.watched if w == name or w.startswith(f"{name}/")]
            for directory in beneath:  # what has such a name now is another
                self._saves.remove(directory)
            self._watch_anew(bool(beneath))
        if self._about.has(name):
            self._noticed()

    def _lost(self) -> None:
        if self._loop is not None:
            for directory in self._saves.watched:  # that they went may be what was lost
                self._saves.remove(directory)
            self._watch_anew(lost=True)

    def _polled(self, number: int) -> None:
        """Runs in the thread."""

        def notice() -> None:
            if number == self._poll.round:  # else whoever was called has seen it
                self._noticed()

        if (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(notice)

    def _noticed(self) -> None:
        if self._loop is None:
            return
        now = self._loop.time()
        if self._settling is None:
            self._latest = now + LONGEST
        else:
            self._settling.cancel()
        self._settling = self._loop.call_at(min(now + SETTLE, self._latest), self._settled)

    def _settled(self) -> None:
        self._settling = None
        if self._loop is None:
            return
        if self._telling is None:
            self._poll.about_to_read()
            self._telling = self._loop.create_task(self._tell())
        else:
            self._noticed()  # the files are looked at still: later

    async def _tell(self) -> None:
        """In a thread: a file server may not answer."""
        try:
            await threads.apart(self._poll.forget)
        finally:
            if self._telling is asyncio.current_task():  # else it was stopped
                self._telling = None
        self._changed()


class _About:
    """What events have to be about."""

    def __init__(self, files: frozenset[str] = frozenset(), patterns: tuple[str, ...] = ()) -> None:
        self.files, self.patterns = files, patterns
        self._leading = {os.path.dirname(name) for name in files} | set(map(_directory, patterns))
        self._around = frozenset(
            str(directory)
            for name in self._leading
            for directory in (Path(name), *Path(name).parents)
        )
        self._levels = tuple(level for pattern in patterns for level in _levels(pattern))

    def has(self, name: str) -> bool:
        """Whether it is a file that is read, or makes another one of it."""
        # Kubernetes swaps a directory symlink, ..data, that the file's own symlink goes through.
        return (
            name in self.files
            or name.endswith("/..data")
            or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)
        )

    def leads(self, name: str) -> bool:
        """Whether it is a directory, or a symlink to one, that leads to such files."""
        return name in self._around or any(fnmatch.fnmatchcase(name, n) for n in self._levels)

    def directories(self) -> set[str]:
        """Those to watch, as far as they are there, and else what is around them."""
        found: set[str] = set()
        for leading in self._leading:
            nearest = _nearest(leading)
            # Another one may be put in its place, or a symlink to one.
            found |= {nearest, os.path.dirname(nearest)} - {"/"}
        for pattern in self.patterns:
            for level in _levels(pattern):
                found |= {name for name in glob.glob(level) if os.path.isdir(name)}
        return found


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
