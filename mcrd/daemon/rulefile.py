"""The rule file: read, watched, and compared with what runs by it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import glob
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mcrd import threads
from mcrd.config import Blocks, ConfigError, load
from mcrd.config.problems import Problem
from mcrd.daemon.rulewatch import Watch
from mcrd.events import tell
from mcrd.files import read_file
from mcrd.model import Config
from mcrd.tasks import Tasks

READ_AGAIN = 5.0  # seconds after the host had no more to give
REFUSED_AGAIN = 60.0  # seconds in which the same problems of the rule file are told once

log = logging.getLogger(__name__)


class RuleFile:
    """The rule file at `path`, which is absolute, with those that it includes.

    `errors` says why the file, as it is now, is not what runs. `saved` is called when it has come
    to say something else. Threads read: a file server may not answer.
    """

    def __init__(
        self, path: Path, tasks: Tasks, saved: Callable[[], None], blocks: Blocks | None = None
    ) -> None:
        self.path = path
        self.errors: list[str] = []
        self.watch = Watch(self.changed)
        self._tasks = tasks
        self._tell_saved = saved
        self._blocks = blocks or Blocks()
        self._reading = asyncio.Lock()
        self._running = Config()
        self._refused: tuple[tuple[Problem, ...], float] = ((), 0.0)  # told last, and when
        self._digest = b""
        self._touched = self._comparing = False
        self._follows = True
        self._again: asyncio.TimerHandle | None = None

    def begin(self, start: Config | ConfigError, left: Config | None) -> Config:
        """What to run by: the rule file, or if it is refused, what ran before (`left`).

        Raises the ConfigError when there is neither.
        """
        if isinstance(start, Config):
            return start
        if left is None:
            raise start
        text = "the rule file is refused; continuing with the rules of the daemon before"
        tell(log, logging.ERROR, "reload-refused", text)
        self.errors = [str(problem) for problem in start.problems]
        for problem in self.errors:
            log.error("%s", problem)
        return left

    async def has_been_read(self, config: Config) -> None:
        """Take the files as they are now for what this was read from."""
        _, self._digest = await self._files_now(config)

    def follow(self, running: Config) -> None:
        """Take this for what runs: say its new warnings, and watch its files, if it wants that."""
        told = {_saying(warning) for warning in self._running.warnings}
        for warning in running.warnings:
            if _saying(warning) not in told:
                log.warning("%s", warning)
        self._running = running
        self._follows = running.daemon.watch
        if self._follows:
            self.watch.start(self._files(running), running.include_patterns)
        else:
            self.stop()

    def stop(self) -> None:
        """Follow nothing: what is saved, or could not be read, is not read."""
        self._follows = False
        self._forget_again()
        self.watch.stop()

    async def load(self) -> Config:
        """Read what is to run from now on; raises ConfigError, and keeps its `errors`."""
        self._forget_again()
        files, self._digest = await self._files_now(self._running)
        try:
            new = await self._read()
            now, digest = await self._files_now(new)
            if now != files:  # else what was saved meanwhile is news
                self._digest = digest
        except ConfigError as error:
            self.errors = [str(problem) for problem in error.problems]
            if error.passing and self._follows:
                self._forget_again()  # of a load beside this one
                self._again = asyncio.get_running_loop().call_later(READ_AGAIN, self._tell_saved)
            raise
        if self.errors:
            tell(log, logging.INFO, "config-good", "the rule file is good again")
        self.errors = []
        self._refused = ((), 0.0)
        return new

    async def now(self) -> Config:
        """What the files say; they are only parsed when they have changed. Raises ConfigError."""
        running, known = self._running, self._digest
        if not self.errors:
            _, digest = await self._files_now(running)
            if digest == known:
                return running
        return await self._read()

    def tell_refusal(self, why: str, error: ConfigError) -> None:
        """Once: whoever saves a file and then reloads it has the same problems twice."""
        before, at = self._refused
        now = time.monotonic()
        text = "reload (%s) refused; the rules that run stay as they are"
        if before == error.problems and now < at + REFUSED_AGAIN:
            tell(log, logging.DEBUG, "reload-refused", text, why)
            return
        self._refused = (error.problems, now)
        tell(log, logging.ERROR, "reload-refused", text, why)
        for problem in error.problems:
            log.error("%s", problem)

    def changed(self) -> None:
        """Look whether what was touched says something else; one at a time, the last one after."""
        self._touched = True
        if not self._comparing:
            self._comparing = True
            self._tasks.passing("the look at a saved rule file", self._compare)

    async def _compare(self) -> None:
        try:
            while self._touched:
                self._touched = False
                _, digest = await self._files_now(self._running)
                if digest == self._digest:
                    continue  # a touch, or what a reload has read already
                if await threads.apart(self._has_gone):
                    log.warning("%s has gone; the rules that run stay as they are", self.path)
                    self._digest = digest
                elif self._follows:
                    self._tell_saved()
        finally:
            self._comparing = False

    def _has_gone(self) -> bool:
        """Whether it has surely: else who reads it says why that cannot be."""
        try:
            os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            pass
        return False

    def _forget_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    async def _read(self) -> Config:
        """Only what has changed is read again. Raises ConfigError."""
        async with self._reading:
            return await threads.apart(lambda: load(self.path, self._blocks))

    def _files(self, of: Config) -> set[str]:
        """The files as they are now: the main one, those read, and those that came to match."""
        matching = (name for pattern in of.include_patterns for name in glob.glob(pattern))
        return {str(self.path), *of.files, *matching}

    async def _files_now(self, of: Config) -> tuple[set[str], bytes]:
        """The files, and their digest."""

        def read() -> tuple[set[str], bytes]:
            files = self._files(of)
            return files, digest_of(files)

        return await threads.apart(read)


def _saying(warning: str) -> str:
    """A warning without its place, which an edit elsewhere in the file moves."""
    return warning.partition(": ")[2]


def digest_of(files: Iterable[str]) -> bytes:
    """A hash of the files' names and contents."""
    total = hashlib.sha256()
    for name in sorted(set(files)):
        total.update(name.encode() + b"\0")
        with contextlib.suppress(OSError):
            total.update(hashlib.sha256(read_file(name)).digest())
    return total.digest()
