"""A look at files now and then, for what raises no event: NFS, FUSE, a host without inotify."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import glob
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mcrd import threads
from mcrd.spent import Spent

EVERY = 1.5  # seconds
SHARE = 100  # a look that takes much time of a CPU is followed by so many times as much
SETTLE = 0.1  # seconds without a change, and then it has been written
LONGEST = 1.0  # seconds to wait for that
MOUNTS = Path("/proc/self/mountinfo")
# Clients of these believe for up to a minute what they knew of a file, but ask when it is opened.
REMOTE = ("nfs", "cifs", "smb", "ceph", "9p", "afs", "lustre", "gfs", "ocfs")

Seen = dict[str, tuple[int, ...]]
"""By names: what tells one state of a file from the next."""


class Poll:
    """Calls `changed`, in a thread of its own, when a file is another than it was.

    The thread is there because a file server that does not answer would else hold up the loop.
    """

    def __init__(self, changed: Callable[[int], None], every: float = EVERY) -> None:
        self._changed = changed
        self._every = every
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._ended: threading.Event | None = None  # while one was started
        self._files: tuple[str, ...] = ()
        self._patterns: tuple[str, ...] = ()
        self._known: Seen = {}
        self._remote: dict[int, bool] = {}  # by devices
        self._forgetting = False
        self.round = 0

    @property
    def runs(self) -> bool:
        """Whether files are looked at."""
        return self._ended is not None and not self._ended.is_set()

    def start(self) -> None:
        """Raise OSError when there is no thread to be had."""
        if not self.runs:
            self._ending = ending = threading.Event()
            self._ended = threads.start(lambda: self._run(ending))

    def watch(self, files: Iterable[str], patterns: Iterable[str]) -> None:
        """Watch these from now on, and those that match."""
        with self._lock:
            self._files, self._patterns = tuple(files), tuple(patterns)
            before = self._known
        now = self._look()
        with self._lock:
            # One that was known is not taken for read: it may have changed since.
            self._known = {name: before.get(name, state) for name, state in now.items()}
            self._known |= {name: before[name] for name in self._files if name in before}
            self._forgetting = False
            self.round += 1

    def about_to_read(self) -> None:
        """Tell of no change from now until forget(), which is to follow.

        What `changed` was told of before has an earlier `round`.
        """
        with self._lock:
            self._forgetting = True
            self.round += 1

    def forget(self) -> None:
        """Forget changes so far; the files are read after that. It may wait for a file server."""
        seen = self._look()
        with self._lock:
            self._known = seen
            self._forgetting = False
            self.round += 1

    def stop(self, seconds: float) -> None:
        """End it; wait for so long at most."""
        self._ending.set()
        if self._ended is not None:
            self._ended.wait(seconds)
            self._ended = None

    def _run(self, ending: threading.Event) -> None:
        pause = self._every
        while not ending.wait(pause):
            spent = Spent()
            with self._lock:
                number = self.round
            seen = self._look_until_written(ending)
            pause = max(self._every, SHARE * spent.seconds())
            with self._lock:
                if ending.is_set() or self._forgetting:
                    continue
                if number != self.round or seen == self._known:
                    continue
                self._known = seen
            self._changed(number)

    def _look_until_written(self, ending: threading.Event) -> Seen:
        seen, until = self._look(), time.monotonic() + LONGEST
        if seen != self._known:
            while time.monotonic() < until and not ending.wait(SETTLE):
                before, seen = seen, self._look()
                if before == seen:
                    break
        return seen

    def _look(self) -> Seen:
        names = {name for pattern in self._patterns for name in glob.glob(pattern)}
        found: Seen = {}
        for name in names.union(self._files):
            with contextlib.suppress(OSError, ValueError):
                found[name] = self._state(name)
        return found

    def _state(self, name: str) -> tuple[int, ...]:
        status = os.stat(name)
        remote = self._remote.get(status.st_dev)
        if remote is None:
            remote = self._remote[status.st_dev] = _is_remote(status.st_dev)
        if remote:
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        return (
            *(status.st_dev, status.st_ino, status.st_size),
            *(status.st_mtime_ns, status.st_ctime_ns),
        )


def _is_remote(device: int) -> bool:
    """Whether files of this device, as of stat(2), are on another host."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            if before.split()[2] == number and after.startswith(REMOTE):
                return True
    return False
