"""What happens in directories, as the kernel tells it: inotify(7), by watchdog's Observer."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import Callable

from watchdog import events
from watchdog.observers.api import BaseObserver, ObservedWatch
from watchdog.observers.inotify import InotifyEmitter, InotifyObserver
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, InotifyFD

from mcrd.host.procfs import Host
from mcrd.threads import NO_MORE

# The kernel is asked for these alone: reading a file is no event.
KINDS: list[type[events.FileSystemEvent]] = [
    *(events.FileClosedEvent, events.FileCreatedEvent),
    *(events.FileDeletedEvent, events.FileMovedEvent),
    *(events.DirCreatedEvent, events.DirDeletedEvent, events.DirMovedEvent),
]


class Saves(events.FileSystemEventHandler):
    """Tells `happened` in the loop of each name that `concerns`, and whether it came or went.

    `concerns` is called in a thread of watchdog's. `lost` is called in the loop when events were
    lost, or a file system was unmounted. Nothing here says anything of files on another host, or
    behind a file system that keeps them elsewhere.
    """

    def __init__(
        self,
        concerns: Callable[[str], bool],
        happened: Callable[[str, bool], None],
        lost: Callable[[], None],
    ) -> None:
        self._concerns = concerns
        self._happened = happened
        self._lost = lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._observer: _Observer | None = None
        self._watches: dict[str, ObservedWatch] = {}

    @property
    def watched(self) -> set[str]:
        """The directories."""
        return set(self._watches)

    @property
    def failed(self) -> bool:
        """Whether a thread has ended that should run."""
        return self._observer is not None and self._observer.failed

    def start(self) -> None:
        """Raise OSError, which names the sysctl where that is in the way."""
        if self._observer is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._observer = _observer(lambda: self._hand_over(self._lost))

    def add(self, directory: str) -> None:
        """Raise OSError, likewise."""
        if self._observer is None:
            raise OSError(errno.EAGAIN, NO_MORE)  # stopped, by the one before
        if not os.access(directory, os.R_OK, effective_ids=True) and os.path.isdir(directory):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))  # watchdog keeps it back
        try:
            self._watches[directory] = self._observer.schedule(
                self, directory, event_filter=KINDS, follow_symlink=True
            )
        except OSError as error:
            raise _refusal(error) from None
        except RuntimeError:
            self.stop()  # the watch is the kernel's already, and watchdog has forgotten it
            raise OSError(errno.EAGAIN, NO_MORE) from None

    def remove(self, directory: str) -> None:
        """Watch it no more."""
        watch = self._watches.pop(directory, None)
        if watch is not None and self._observer is not None:
            self._observer.unschedule(watch)

    def stop(self) -> None:
        """End it."""
        observer, self._observer = self._observer, None
        self._watches.clear()
        if observer is not None:
            observer.end()

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        """Hand an event over to the loop; runs in the observer's thread."""
        came_or_went = not isinstance(event, events.FileClosedEvent)
        for name in filter(None, (os.fsdecode(event.src_path), os.fsdecode(event.dest_path))):
            if self._concerns(name):
                self._hand_over(self._tell, name, came_or_went)

    def _tell(self, name: str, came_or_went: bool) -> None:
        if self._observer is not None:
            self._happened(name, came_or_went)

    def _hand_over(self, call: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(call, *arguments)


class _Instance(InotifyFD):
    """One instance of inotify(7), for all directories; nothing is left of it when it fails."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._inotify_fd = -1
        self._kill_r = self._kill_w = -1
        try:
            super().__init__()
            self.start()
        except OSError as error:
            had = self._inotify_fd >= 0  # then it is another descriptor that could not be
            self._close_resources()
            raise error if had else _refusal(error) from None
        except RuntimeError:
            self._close_resources()
            raise

    def handle_event(self, event: InotifyEvent) -> None:
        """Tell what watchdog tells its log alone, or nobody; other events are its own."""
        if event.is_queue_overflow or event.mask & InotifyConstants.IN_UNMOUNT:
            self._lost()
        else:
            super().handle_event(event)

    def run(self) -> None:
        """End without a traceback when it cannot be read; who looks sees that it has ended."""
        with contextlib.suppress(OSError):
            super().run()

    def end(self) -> None:
        """Stop, wait for the thread, and close whatever it left open."""
        self.stop()
        self.join()
        self._close_resources()

    def _close_resources(self) -> None:
        for descriptor in (self._inotify_fd, self._kill_r, self._kill_w):
            if descriptor >= 0:
                os.close(descriptor)
        self._inotify_fd = self._kill_r = self._kill_w = -1


class _Observer(InotifyObserver):
    """watchdog's Observer, with an instance that was made before.

    Its own is lost with its descriptors where there is no thread to be had.
    """

    def __init__(self, instance: _Instance) -> None:
        self._inotify_fd = self._instance = instance
        BaseObserver.__init__(self, InotifyEmitter, inotify_fd=instance)

    @property
    def failed(self) -> bool:
        """Whether a thread has ended that was not told to."""
        return any(
            not thread.is_alive() and thread.should_keep_running()
            for thread in (self, self._instance, *self.emitters)
        )

    def end(self) -> None:
        """Stop all threads, and wait for them."""
        self.stop()
        if self.is_alive():
            self.join()
        self._instance.end()


def _observer(lost: Callable[[], None]) -> _Observer:
    """One that runs; raises OSError."""
    try:
        instance = _Instance(lost)
        try:
            observer = _Observer(instance)
            observer.start()
        except RuntimeError:
            instance.end()
            raise
    except RuntimeError:
        raise OSError(errno.EAGAIN, NO_MORE) from None
    return observer


def _refusal(error: OSError) -> OSError:
    """What inotify_init(2) or inotify_add_watch(2) said, with what to do about it."""
    number = error.errno or 0
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
    names = (f"fs.inotify.max_user_{what}", f"user.max_inotify_{what}")
    if (lowest := Host().lowest(*names)) is None:
        return names[0]
    limit, name = lowest
    return f"{name} ({limit} now)"
