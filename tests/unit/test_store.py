"""What the service manager is sent to keep, as a socket in its place hears it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from mcrd.dataplane.messages import DESCRIPTORS
from mcrd.systemd import store
from mcrd.systemd.store import BATCH, HEADER, TRIES, Store, identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Manager:
    """Keeps what it is told to keep: descriptors by the name of their batch."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))
        self.kept: dict[str, list[int]] = {}
        self.messages = 0
        self._clients: list[Store] = []

    def client(self) -> Store:
        """A new process's store."""
        self._clients.append(Store())
        return self._clients[-1]

    def look(self) -> None:
        """Takes all messages that have come."""
        while True:
            try:
                data, descriptors, flags, _ = socket.recv_fds(self.socket, 4096, DESCRIPTORS)
            except BlockingIOError:
                return
            assert flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) == 0
            self.messages += 1
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())
            name = fields["FDNAME"]
            if "FDSTORE" in fields:
                assert fields["FDPOLL"] == "0"
                assert name not in self.kept
                assert 0 < len(descriptors) <= DESCRIPTORS
                self.kept[name] = descriptors
            else:
                assert fields["FDSTOREREMOVE"] == "1"
                for descriptor in self.kept.pop(name):
                    os.close(descriptor)

    def all(self) -> set[store.Identity]:
        """What it has, but for the index."""
        self.look()
        return {
            identity(descriptor)
            for name, descriptors in self.kept.items()
            if not name.startswith("index")
            for descriptor in descriptors
        }

    def index(self) -> bytes:
        """The one index that it has."""
        self.look()
        (name,) = (name for name in self.kept if name.startswith("index"))
        descriptor = self.kept[name][0]
        return os.pread(descriptor, os.fstat(descriptor).st_size, HEADER.size)

    def close(self) -> None:
        """Closes everything."""
        for client in self._clients:
            client.close()
        self.socket.close()
        for descriptors in self.kept.values():
            for descriptor in descriptors:
                os.close(descriptor)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("FDSTORE", "1000")
    yield made
    made.close()


@pytest.fixture
def things() -> Iterator[dict[store.Identity, int]]:
    """Descriptors by what they are, more than one message takes."""
    descriptors = [os.memfd_create(str(number)) for number in range(300)]
    yield {identity(descriptor): descriptor for descriptor in descriptors}
    for descriptor in descriptors:
        os.close(descriptor)


def some(things: dict[store.Identity, int], first: int, last: int) -> dict[store.Identity, int]:
    return dict(list(things.items())[first:last])


def test_without_a_manager_there_is_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("FDSTORE", "1000")
    assert not Store().there
    monkeypatch.setenv("NOTIFY_SOCKET", "/nobody/listens/here")
    assert not Store().there


@pytest.mark.parametrize("room", ["", "0", "2", "many"])
def test_nor_is_there_one_that_takes_nothing(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    monkeypatch.setenv("FDSTORE", room)
    assert not manager.client().there


def test_it_keeps_what_it_is_told_in_few_messages(
    manager: Manager, things: dict[store.Identity, int]
) -> None:
    made = manager.client()
    some_of_them = some(things, 0, 2 * BATCH)
    while not made.keep(b"one", [], some_of_them):
        manager.look()
    assert manager.all() == set(some_of_them)
    assert manager.index() == b"one"
    assert manager.messages == 3  # two batches, and the index
    assert made.keep(b"one", [], some_of_them)
    manager.look()
    assert manager.messages == 3  # nothing is new


def test_what_goes_is_removed_and_its_batch_stored_anew(
    manager: Manager, things: dict[store.Identity, int]
) -> None:
    made = manager.client()
    unit, loose = some(things, 0, 4), some(things, 4, 20)
    made.keep(b"one", [unit], loose)
    manager.look()
    before = {number for numbers in manager.kept.values() for number in numbers}
    gone = next(iter(loose))
    del loose[gone]
    made.keep(b"two", [unit], loose)
    assert manager.all() == {*unit, *loose}
    assert manager.index() == b"two"
    # The unit, which is a batch of its own, was not touched.
    assert {identity(number) for number in before & set(manager.kept["1"])} == set(unit)


def test_there_may_be_too_many_loose_ones_and_units_come_first(
    manager: Manager, things: dict[store.Identity, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FDSTORE", "12")  # two are for indexes
    unit, loose = some(things, 0, 4), some(things, 4, 60)
    assert manager.client().keep(b"one", [unit], loose)
    assert manager.all() == {*unit, *some(things, 4, 10)}
    assert manager.index() == b"one"


def test_a_busy_manager_gets_the_rest_later(
    manager: Manager, things: dict[store.Identity, int]
) -> None:
    made = manager.client()
    units = [{what: number} for what, number in things.items()]
    tries = 0
    while not made.keep(b"index", units, {}):
        manager.look()
        tries += 1
        assert tries < 1000
    assert tries > 0
    assert manager.all() == set(things)
    assert manager.index() == b"index"


def hand_over(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the manager has is this process's, as after exec."""
    manager.look()
    handed = [(name, number) for name, numbers in manager.kept.items() for number in numbers]
    monkeypatch.setattr(store, "FIRST", 900)
    for at, (_, number) in enumerate(handed):
        os.dup2(number, 900 + at, inheritable=True)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(len(handed)))
    monkeypatch.setenv("LISTEN_FDNAMES", ":".join(name for name, _ in handed))


def test_the_next_process_finds_what_was_left(
    manager: Manager, things: dict[store.Identity, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.client().keep(b"one", [some(things, 0, 4)], some(things, 4, 20))
    hand_over(manager, monkeypatch)
    heir = manager.client()
    index, found = heir.inherit()
    assert index == b"one"
    assert found.keys() == some(things, 0, 20).keys()
    assert not any(os.get_inheritable(number) for number in found.values())
    assert "LISTEN_FDS" not in os.environ
    # It knows the batches: to keep less is to remove them.
    assert heir.keep(b"two", [some(things, 0, 4)], {})
    assert manager.all() == some(things, 0, 4).keys()
    assert manager.index() == b"two"
    for number in found.values():
        os.close(number)


def test_names_stay_short_and_the_later_of_two_indexes_counts(
    manager: Manager, things: dict[store.Identity, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or their list would be too long for execve(2), some day."""
    made = manager.client()
    for at in range(0, 200, 2):
        assert made.keep(b"%d" % at, [], some(things, at, at + 2))
        manager.look()
    assert max(map(len, manager.kept)) <= len("index2")
    before = manager.client()  # as one that was killed between the two
    before.keep(b"earlier", [], {})
    manager.look()
    hand_over(manager, monkeypatch)
    index, found = manager.client().inherit()
    assert index == b"198"
    for number in found.values():
        os.close(number)


def test_an_index_that_every_start_ends_by_is_not_found_for_ever(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.client().keep(b"poison", [], {})
    for _ in range(TRIES):
        hand_over(manager, monkeypatch)
        assert manager.client().inherit() == (b"poison", {})
    hand_over(manager, monkeypatch)
    assert manager.client().inherit() == (b"", {})


def test_what_is_for_another_process_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "3")
    assert Store().inherit() == (b"", {})
