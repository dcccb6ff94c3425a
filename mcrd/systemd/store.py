"""systemd's file descriptor store, which hands what a service leaves to its next start.

See sd_notify(3), FDSTORE=1, and sd_listen_fds(3). Names are of batches: one is stored by one
message and removed as a whole, so a thing that goes takes the others of its batch along for a
moment. Descriptors are told apart by device and inode.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import logging
import os
import struct
from collections.abc import Iterable, Mapping

from mcrd.errors import words
from mcrd.systemd.notify import Manager

Identity = tuple[int, int]
"""Device and inode: what a descriptor is, whatever its number."""

# What is stored anew, because one of a batch went, the manager compares with all that it has.
BATCH = 16
INDEX = "index"
FIRST = 3  # SD_LISTEN_FDS_START
TRIES = 3  # starts that may find the same index: it may be what they end by
HEADER = struct.Struct("QQ")  # of an index: its number, and how many starts have found it

log = logging.getLogger(__name__)


def identity(descriptor: int) -> Identity:
    """The identity of what the descriptor is of."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


class Store:
    """The service manager's store, where there is one: $FDSTORE says how much it takes.

    systemd sets that from version 254 on, and for those before the unit does.
    """

    def __init__(self) -> None:
        self._batches: dict[str, set[Identity]] = {}
        self._index = b""
        self._serial = 0
        room = os.environ.get("FDSTORE", "")
        # Two places are for an index and the one after it.
        self._room = int(room) - 2 if room.isascii() and room.isdigit() else 0
        self._manager = Manager()
        if self._room > 0 and self._manager.there:
            try:
                self._manager.connect()
            except OSError as error:
                log.warning("NOTIFY_SOCKET, %s: %s", self._manager.path, words(error))
                self._manager.close()
        else:
            self._manager.close()
        self.wait = self._manager.barrier

    @property
    def there(self) -> bool:
        """Whether there is a store."""
        return self._manager.there

    def close(self) -> None:
        """End the conversation; the manager keeps what it has."""
        self._manager.close()

    def inherit(self) -> tuple[bytes, dict[Identity, int]]:
        """The index that was left last, and the descriptors; none of them is inherited further."""
        indexes: list[int] = []
        found: dict[Identity, int] = {}
        for descriptor, name in enumerate(_listed(), FIRST):
            try:
                what = identity(descriptor)
            except OSError:
                continue
            os.set_inheritable(descriptor, False)
            self._batches.setdefault(name, set()).add(what)
            if name.startswith(INDEX):
                indexes.append(descriptor)
            elif what in found:
                os.close(descriptor)
            else:
                found[what] = descriptor
        contents = [_content(descriptor) for descriptor in indexes]
        for descriptor in indexes:
            os.close(descriptor)
        self._serial, content = max(contents, default=(0, b""))
        return content, found

    def keep(
        self, index: bytes, units: Iterable[Mapping[Identity, int]], loose: Mapping[Identity, int]
    ) -> bool:
        """Make the store hold just that; False when the manager is too busy: try again later.

        The descriptors of a unit come and go together. What there is no room for, of the `loose`
        ones from the last on, is not kept. Raises OSError.
        """
        units, room = list(units), self._room
        while sum(len(unit) for unit in units) > room:
            units.pop()
        room -= sum(len(unit) for unit in units)
        loose = dict(itertools.islice(loose.items(), room))
        try:
            # First of all, for what it names and is not there does no harm.
            if index != self._index:
                self._replace_index(index)
            known = self._remove_all_but(set(loose).union(*units))
            for unit in units:
                if not unit.keys() <= known:
                    self._add(unit, self._free(""))
            new = [(what, number) for what, number in loose.items() if what not in known]
            for at in range(0, len(new), BATCH):
                self._add(dict(new[at : at + BATCH]), self._free(""))
        except BlockingIOError:
            return False
        return True

    def _remove_all_but(self, wanted: set[Identity]) -> set[Identity]:
        """Remove batches with anything else in them; return what is still there."""
        known: set[Identity] = set()
        for name, batch in list(self._batches.items()):
            if name.startswith(INDEX) or batch <= wanted:
                known |= batch
            else:
                self._remove(name)
        return known

    def _remove(self, name: str) -> None:
        self._manager.send(f"FDSTOREREMOVE=1\nFDNAME={name}")
        del self._batches[name]

    def _add(self, batch: Mapping[Identity, int], name: str) -> None:
        # Without FDPOLL=0 it would drop a packet socket whose link goes down, for instance.
        self._manager.send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", batch.values())
        self._batches[name] = set(batch)

    def _free(self, prefix: str) -> str:
        """A name that is not taken, and short: execve(2) limits all of them together."""
        return next(n for i in itertools.count(1) if (n := f"{prefix}{i}") not in self._batches)

    def _replace_index(self, index: bytes) -> None:
        """Store the new index before the old one goes; whoever finds both takes the later one."""
        descriptor = os.memfd_create("mcrd-index", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(HEADER.pack(self._serial + 1, 0) + index)
            before = [name for name in self._batches if name.startswith(INDEX)]
            self._add({identity(descriptor): descriptor}, self._free(INDEX))
            self._serial += 1
            self._index = index
        finally:
            os.close(descriptor)
        for name in before:
            self._remove(name)


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


def _content(descriptor: int) -> tuple[int, bytes]:
    """The number and content of an index; no content if too many starts have found it so."""
    data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    if len(data) < HEADER.size:
        return 0, b""
    serial, tries = HEADER.unpack_from(data)
    if tries >= TRIES:
        log.warning("what systemd keeps was not used in %d starts, and is closed", tries)
        return serial, b""
    os.pwrite(descriptor, HEADER.pack(serial, tries + 1), 0)
    return serial, data[HEADER.size :]
