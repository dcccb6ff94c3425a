"""systemd's file descriptor store: what a service leaves there, its next start is handed.

See sd_notify(3), FDSTORE=1, and sd_listen_fds(3). Names are of batches: one is stored by one
message and removed as a whole, so a thing that goes takes the others of its batch along for a
moment. Descriptors are told apart by device and inode.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import socket
from collections.abc import Iterable, Mapping

Identity = tuple[int, int]
"""Device and inode: what a descriptor is, whatever its number."""

BATCH = 253  # descriptors that fit one message: SCM_MAX_FD, include/net/scm.h
# All of their names come back in one environment variable, which execve(2) limits to 128 KiB.
AT_MOST = 16_000
FIRST = 3  # SD_LISTEN_FDS_START
INDEX = "index"
BARRIER = 1000  # milliseconds

log = logging.getLogger(__name__)


def identity(descriptor: int) -> Identity:
    """What the descriptor is of."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


class Store:
    """The service manager's store, if there is a service manager."""

    def __init__(self) -> None:
        self._batches: dict[str, set[Identity]] = {}
        self._index = b""
        self._last = 0  # number of a batch
        self._socket: socket.socket | None = None
        path = os.environ.get("NOTIFY_SOCKET", "")
        if path[:1] in ("/", "@"):
            flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | flags)
            try:
                manager.connect(path.replace("@", "\0", 1) if path[0] == "@" else path)
            except OSError as error:
                log.warning("NOTIFY_SOCKET, %s: %s", path, error.strerror)
                manager.close()
            else:
                self._socket = manager

    @property
    def there(self) -> bool:
        """Whether there is one to leave things in."""
        return self._socket is not None

    def close(self) -> None:
        """Ends the conversation; the manager keeps what it has."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def inherit(self) -> tuple[bytes, dict[Identity, int]]:
        """The index that was left last, and the descriptors; none of them is inherited further."""
        names = _listed()
        indexes: dict[str, int] = {}
        found: dict[Identity, int] = {}
        for descriptor, name in enumerate(names, FIRST):
            try:
                what = identity(descriptor)
            except OSError:
                continue
            os.set_inheritable(descriptor, False)
            self._batches.setdefault(name, set()).add(what)
            self._last = max(self._last, _number(name))
            if name.startswith(INDEX):
                indexes[name] = descriptor
            elif what in found:
                os.close(descriptor)
            else:
                found[what] = descriptor
        content = b""
        if indexes:
            content = _content(indexes[max(indexes, key=_number)])
        for descriptor in indexes.values():
            os.close(descriptor)
        return content, found

    def keep(
        self, index: bytes, units: Iterable[Mapping[Identity, int]], loose: Mapping[Identity, int]
    ) -> bool:
        """Makes the store hold just that; False when the manager is too busy: try again later.

        The descriptors of a unit come and go together. Of the `loose` ones, there may be too many.
        """
        assert self._socket is not None
        units = list(units)
        room = max(0, AT_MOST - sum(len(unit) for unit in units))
        loose = dict(itertools.islice(loose.items(), room))
        wanted = set(loose).union(*units)
        try:
            known = self._remove_all_but(wanted)
            for unit in units:
                if not unit.keys() <= known:
                    self._add(unit)
            new = [(what, number) for what, number in loose.items() if what not in known]
            for at in range(0, len(new), BATCH):
                self._add(dict(new[at : at + BATCH]))
            if index != self._index:
                self._replace_index(index)
        except BlockingIOError:
            return False
        except OSError as error:
            log.debug("the service manager's store: %s", error)
        return True

    def wait(self) -> None:
        """Until the manager has done what it was told: what was removed is closed (BARRIER=1)."""
        assert self._socket is not None
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                socket.send_fds(self._socket, [b"BARRIER=1"], [theirs])
            os.close(theirs)
            poll = select.poll()
            poll.register(ours, 0)
            poll.poll(BARRIER)
        finally:
            os.close(ours)

    def _remove_all_but(self, wanted: set[Identity]) -> set[Identity]:
        """Removes batches with anything else in them; returns what is still there."""
        known: set[Identity] = set()
        for name, batch in list(self._batches.items()):
            if name.startswith(INDEX) or batch <= wanted:
                known |= batch
            else:
                self._remove(name)
        return known

    def _remove(self, name: str) -> None:
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}", ())
        del self._batches[name]

    def _add(self, batch: Mapping[Identity, int], name: str = "") -> None:
        self._last += 1
        name = f"{name}{self._last}"
        # Without FDPOLL=0 it would drop a packet socket whose link goes down, for instance.
        self._send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", batch.values())
        self._batches[name] = set(batch)

    def _replace_index(self, index: bytes) -> None:
        """The new one is stored before the old one goes; whoever finds both takes the later one."""
        descriptor = os.memfd_create("mcrd-index", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(index)
            before = [name for name in self._batches if name.startswith(INDEX)]
            self._add({identity(descriptor): descriptor}, INDEX)
            self._index = index
        finally:
            os.close(descriptor)
        for name in before:
            self._remove(name)

    def _send(self, text: str, descriptors: Iterable[int]) -> None:
        assert self._socket is not None
        socket.send_fds(self._socket, [text.encode()], list(descriptors))


def _listed() -> list[str]:
    """The names of the descriptors that this process was started with, from the first on."""
    environment = {
        name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    }
    if environment["LISTEN_PID"] != str(os.getpid()):
        return []
    try:
        count = int(environment["LISTEN_FDS"])
    except ValueError:
        return []
    names = environment["LISTEN_FDNAMES"].split(":")
    return (names + [""] * count)[:count]


def _number(name: str) -> int:
    digits = name.removeprefix(INDEX)
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
