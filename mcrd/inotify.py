"""What happens in directories, as the kernel tells it (inotify(7)): one instance, in the loop."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

# linux/inotify.h
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR = 0x4000, 0x8000, 0x1000000
CAME_OR_WENT = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
ROOM = 64 * 1024  # bytes of events that are read at a time

SYSCTLS = Path("/proc/sys")

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Tells `happened` of each name, from the root on, and whether it came or went.

    `lost` is called with a directory that is watched no more, for it has gone; with None when
    events were lost. Nothing here says anything of files on another host, or behind a file system
    that keeps them elsewhere.
    """

    def __init__(
        self, happened: Callable[[str, bool], None], lost: Callable[[str | None], None]
    ) -> None:
        self._happened = happened
        self._lost = lost
        self._descriptor = -1
        self._names: dict[int, set[str]] = {}  # of one directory there may be several

    @property
    def watched(self) -> set[str]:
        """The directories."""
        return {name for names in self._names.values() for name in names}

    def start(self) -> None:
        """Raise OSError, which names the sysctl where that is in the way."""
        if self._descriptor >= 0:
            return
        descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            raise _refusal(ctypes.get_errno())
        try:
            asyncio.get_running_loop().add_reader(descriptor, self._read)
        except OSError:  # epoll_ctl(2)
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def add(self, directory: str) -> None:
        """Raise OSError, likewise."""
        mask = CAME_OR_WENT | IN_CLOSE_WRITE | IN_ONLYDIR
        watch = _libc.inotify_add_watch(self._descriptor, os.fsencode(directory), mask)
        if watch < 0:
            raise _refusal(ctypes.get_errno())
        self._names.setdefault(watch, set()).add(directory)

    def remove(self, directory: str) -> None:
        """Watch it no more."""
        for watch, names in list(self._names.items()):
            if directory in names:
                names.discard(directory)
                if not names:
                    del self._names[watch]
                    _libc.inotify_rm_watch(self._descriptor, watch)  # or it has gone by itself

    def stop(self) -> None:
        """End it."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = -1
        self._names.clear()

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, ROOM)
        except OSError:  # EAGAIN, or none that lasts: what is there is read the next time
            return
        for watch, mask, name in _events(data):
            if mask & IN_Q_OVERFLOW:
                self._lost(None)
            elif mask & IN_IGNORED:
                for directory in self._names.pop(watch, ()):
                    self._lost(directory)
            else:
                for directory in tuple(self._names.get(watch, ())):
                    self._happened(os.path.join(directory, name), bool(mask & CAME_OR_WENT))


def _events(data: bytes) -> Iterator[tuple[int, int, str]]:
    at = 0
    while at < len(data):
        watch, mask, _, length = EVENT.unpack_from(data, at)
        at += EVENT.size
        yield watch, mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length


def _refusal(number: int) -> OSError:
    """What inotify_init1(2) or inotify_add_watch(2) said, with what to do about it."""
    if number == errno.EMFILE and _has_descriptors():
        text = f"no inotify instance is left for this user; raise {_sysctl('instances')}"
    elif number == errno.ENOSPC:
        text = f"no inotify watch is left for this user; raise {_sysctl('watches')}"
    else:
        text = os.strerror(number)
    return OSError(number, text)


def _has_descriptors() -> bool:
    """Whether it is not the limit on open files that is reached."""
    with contextlib.suppress(OSError):
        os.close(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 0))
        return True
    return False


def _sysctl(what: str) -> str:
    """The lower one of the host's and that of the user namespace, of a container for one."""
    found: list[tuple[int, str]] = []
    for name in (f"fs.inotify.max_user_{what}", f"user.max_inotify_{what}"):
        with contextlib.suppress(OSError, ValueError):
            limit = int((SYSCTLS / name.replace(".", "/")).read_text(encoding="ascii"))
            found.append((limit, f"{name} ({limit} now)"))
    return min(found)[1] if found else f"fs.inotify.max_user_{what}"
