"""Members that are idle for long: their sockets are given back, a few at a time."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import mmap
import os
import time
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import msgspec
import pytest
from mcrd.dataplane._dataplane import ffi

from mcrd.dataplane import messages
from mcrd.lanes import spawn as workers
from mcrd.lanes.member import ENDS_AFTER
from mcrd.lanes.members import LOOKED_AT, MemberSockets, Wanted
from mcrd.lanes.process import WorkerProcess
from mcrd.lanes.segment import Segment
from mcrd.model import Address, Input
from mcrd.planning import actual as planned
from mcrd.planning.actual import Listeners
from mcrd.planning.portions import ALL
from mcrd.planning.relays import Relay
from mcrd.planning.resources import Ingress, Members, Sending, Worker
from mcrd.sockets.egress import EgressSockets

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from mcrd.planning.resources import Egress

WORKER = Worker(Ingress("lo", 1))
RANGE = ip_network("239.1.0.0/16")
HERE = ip_address("127.0.0.1")
TIMEOUT = 20.0
SOMEBODY = planned.Wanted(True, ())

# In place of a worker: it does as it is told, and notes what that was.
OBEDIENT = """
import socket, msgspec
channel = socket.socket(fileno=0)
log = open({!r}, "ab", buffering=0)
while True:
    data, descriptors, _, _ = socket.recv_fds(channel, 1 << 18, 253)
    if not data:
        break
    asked = msgspec.msgpack.decode(data)
    log.write(msgspec.json.encode([asked["type"], len(descriptors)]) + b"\\n")
    channel.send(msgspec.msgpack.encode(dict(type="Done", sequence=asked["sequence"])))
"""


class Scene:
    """The members of a rule with a range, and a clock that the test sets."""

    def __init__(self, segment: Segment, process: WorkerProcess) -> None:
        self.now = 1e6
        self.announcements: list[int] = []
        self.segment = segment
        self.process = process
        self.opener = EgressSockets()
        self.found = MemberSockets(segment, self.opener)
        sending = Sending("lo", 1, HERE, ttl=1)
        target = ("lo", RANGE, 5000)
        self._output = Members(
            *(WORKER, "a", sending, RANGE, 5000, target, RANGE.network_address, 5000)
        )
        self._relay = Relay(Input("lo", RANGE, 5000), (self._output,), (ALL,))
        self._memory = mmap.mmap(segment.descriptor, 0)
        self._joined: set[tuple[int, Address]] = set()

    def send_only_to_members(self, index: int = 2) -> None:
        """Have two outputs with `when`, the second one on that interface."""
        one = replace(self._output, when=True)
        elsewhere = replace(one, sending=replace(one.sending, index=index), port=6000)
        self._relay = Relay(Input("lo", RANGE, 5000), (one, elsewhere), (ALL, ALL))

    def join(self, *keys: messages.MemberKey, index: int = 1) -> None:
        """Let hosts on that interface want these groups, and no others."""
        groups = {(index, ip_address(key.destination.address)) for key in keys}
        some = Listeners(dict.fromkeys(groups, SOMEBODY))
        changed = frozenset(groups | self._joined)
        self._joined = groups
        self.found.listen(self.process, some, changed, self.announced)

    def wanted(self, count: int) -> list[Wanted]:
        first = RANGE.network_address
        keys = (
            messages.MemberKey(0, messages.Endpoint((first + n).packed, 5000), None)
            for n in range(1, count + 1)
        )
        return [Wanted(key, self._relay, "a") for key in keys]

    def open(self, count: int) -> list[messages.MemberKey]:
        keys = [each.key for each in self.wanted(count)]
        for key in keys:
            self.found.open(self.process, [Wanted(key, self._relay, "a")], self.announced)
        return keys

    def announced(self) -> None:
        """As the executor does, which tells all workers."""
        self.announcements.append(len(self.found.own()))

    def use(self, key: messages.MemberKey, at: int) -> None:
        """As a worker does, which writes the time of a frame."""
        where = ffi.offsetof("struct segment", "members") + 8 * self.segment.members.taken[key]
        self._memory[where : where + 8] = at.to_bytes(8, "little")

    def look(self, times: int = 1) -> bool:
        return sum(self.found.look(self.process, self.announced) for _ in range(times)) > 0

    def keys(self) -> set[messages.MemberKey]:
        return {key for key, _, _ in self.found.all()}

    def opened(self) -> int:
        return len(list(self.found.sockets()))

    async def answered(self) -> None:
        """Until the worker has answered all that it was asked."""
        await asyncio.wait_for(self.process.request(messages.Ping), TIMEOUT)
        await asyncio.sleep(0)


@pytest.fixture
def told(tmp_path: Path) -> Path:
    return tmp_path / "told"


def run(
    scenario: Callable[[Scene], Awaitable[None]], told: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, int]]:
    """What the worker was asked for, and with how many descriptors."""
    told.touch()  # one that is ended at once may never have begun
    monkeypatch.setattr(workers, "PROGRAM", ("-c", OBEDIENT.format(str(told))))

    async def whole() -> None:
        process = WorkerProcess(WORKER, lambda *_: None, lambda *_: None)
        process._room = 1000  # noqa: SLF001  # Initialize would say it
        with closing(Segment()) as segment:
            scene = Scene(segment, process)
            with monkeypatch.context() as patch:
                patch.setattr(time, "monotonic", lambda: scene.now)
                try:
                    await scenario(scene)
                finally:
                    scene.found.end(None)
        await process.stop()

    asyncio.run(whole())
    return [tuple(msgspec.json.decode(line)) for line in told.read_text().splitlines()]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_one_that_is_idle_for_long_ends_and_one_in_use_stays(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        rare, idle, jumped = scene.open(3)
        await scene.answered()
        before = descriptors()
        scene.found.changed = False
        assert not scene.look()
        # The real-time clock goes as it likes: what counts is that a member was used.
        for number, at in enumerate((1, time.time_ns() + 10**15, 5)):
            scene.use(rare, at)
            scene.use(jumped, 7 * 10**18 if number else 0)
            scene.now += ENDS_AFTER * 0.75
            assert not scene.look() or number == 1
        assert scene.keys() == {rare, jumped}
        assert scene.found.changed  # the next supervisor is not told of it
        assert len(scene.found.own()) == 1  # both send from one port
        scene.now += ENDS_AFTER * 0.26
        assert scene.look()
        assert scene.keys() == {rare}
        assert idle not in scene.segment.members.taken
        await scene.answered()
        assert descriptors() == before - 2
        scene.now += ENDS_AFTER
        assert scene.look()
        assert not scene.found.own()
        assert not scene.look()
        # It comes again, as if it had never been there.
        scene.open(1)
        assert scene.keys() == {rare}
        assert not scene.look()
        await scene.answered()

    asked = [kind for kind, _ in run(scenario, told, monkeypatch)]
    # The worker sends nothing more to a socket that it is about to give back.
    ends = ["RemoveMember", "RemoveSockets"]
    assert asked == [
        *(["AddSockets", "AddMember"] * 3 + ["Ping"] + ends * 2 + ["Ping"] + ends),
        *("AddSockets", "AddMember", "Ping"),
    ]


def test_a_look_is_at_a_few(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        seen: list[int] = []
        real = scene.segment.last_used

        def last_used(slot: int) -> int:
            seen.append(slot)
            return real(slot)

        monkeypatch.setattr(scene.segment, "last_used", last_used)
        scene.open(3 * LOOKED_AT)
        scene.look()
        assert len(seen) == LOOKED_AT
        scene.look(2)
        assert len(set(seen)) == 3 * LOOKED_AT  # each has its turn
        scene.now += ENDS_AFTER
        scene.found.end(scene.process, "a")
        assert not scene.look()  # at what has ended otherwise meanwhile
        scene.open(3 * LOOKED_AT)
        scene.now += ENDS_AFTER
        assert scene.look()
        assert len(scene.keys()) == 2 * LOOKED_AT
        scene.look(2)
        assert scene.keys() == set()

    run(scenario, told, monkeypatch)


def test_those_that_no_worker_has_wait_for_one(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        keys = scene.open(2)
        scene.found.rest()
        scene.now += 2 * ENDS_AFTER
        assert not scene.look()
        assert scene.keys() == set(keys)

    run(scenario, told, monkeypatch)


def test_those_that_are_asked_for_together_are_opened_together(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sockets go in one message; what is beyond the limit is refused at once."""

    async def scenario(scene: Scene) -> None:
        scene.found.at_most = 3
        wanted = scene.wanted(4)
        scene.found.open(scene.process, wanted, scene.announced)
        assert scene.keys() == {each.key for each in wanted[:3]}
        assert scene.announcements == [1]  # all of them send from one port, which is new
        await scene.answered()
        # The limit is raised; whoever is there already is told of again.
        scene.found.at_most = 4
        scene.found.open(scene.process, wanted[2:], scene.announced)
        assert len(scene.keys()) == 4
        assert scene.announcements == [1]
        await scene.answered()

    assert run(scenario, told, monkeypatch) == [
        ("RemoveMember", 0),
        ("AddSockets", 3),
        *[("AddMember", 0)] * 3,
        ("Ping", 0),
        ("AddSockets", 1),
        *[("AddMember", 0)] * 2,
        ("Ping", 0),
    ]


def test_what_nobody_wants_has_no_socket_until_somebody_does(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.send_only_to_members()
        before = descriptors()
        keys = scene.open(2)
        await scene.answered()
        assert scene.keys() == set(keys)
        assert (descriptors(), scene.announcements) == (before, [])
        scene.join(keys[0])
        await scene.answered()
        assert (descriptors(), scene.announcements) == (before + 1, [1])
        for wanted in ([], keys[:1]):  # it comes and goes, and the socket stays
            scene.join(*wanted)
        await scene.answered()
        assert (descriptors(), scene.announcements) == (before + 1, [1])
        scene.found.end(scene.process)

    assert run(scenario, told, monkeypatch) == [
        *[("AddMember", 0)] * 2,
        ("Ping", 0),
        ("AddSockets", 1),
        *[("AddMember", 0), ("Ping", 0)],
        *[("AddMember", 0)] * 2,
        *[("Ping", 0), ("RemoveSockets", 0)],
    ]


def test_what_many_join_at_once_is_opened_some_at_a_time(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sockets go in few messages, and who reads the joins is not kept from it for long."""

    async def scenario(scene: Scene) -> None:
        scene.send_only_to_members()
        keys = scene.open(3 * LOOKED_AT)
        await scene.answered()
        scene.join(*keys)
        assert scene.opened() == LOOKED_AT
        scene.join(*keys)  # who joins again meanwhile is no reason to open more of them now
        assert scene.opened() == LOOKED_AT
        await asyncio.sleep(0)
        assert scene.opened() == 2 * LOOKED_AT
        await scene.answered()
        assert (scene.opened(), scene.announcements) == (3 * LOOKED_AT, [1])
        scene.join()  # a worker that ends is not told the rest: the next one is told all
        scene.found.rest()
        await scene.answered()
        assert scene.keys() == set(keys)

    asked = run(scenario, told, monkeypatch)
    assert [each for each in asked if each[0] == "AddSockets"] == [("AddSockets", LOOKED_AT)] * 3
    adds = 3 + 4 + 1  # parts of LOOKED_AT: unwanted, joined (the first one twice), and at the end
    assert sum(kind == "AddMember" for kind, _ in asked) == adds * LOOKED_AT


def test_what_could_not_be_opened_at_a_join_is_tried_again(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {5000, 6000}

    async def scenario(scene: Scene) -> None:
        really = scene.opener.open

        def refuse(egress: Egress) -> socket.socket:
            if egress.port in refused:
                raise OSError(24, "no")
            return really(egress)

        monkeypatch.setattr(scene.opener, "open", refuse)
        scene.send_only_to_members(1)
        before = descriptors()
        keys = scene.open(1)
        scene.join(*keys)
        assert scene.keys() == set()  # the worker asks again when a packet comes
        refused.remove(5000)
        scene.open(1)
        scene.look()
        await scene.answered()
        assert (descriptors(), scene.announcements) == (before + 1, [1])
        refused.clear()
        scene.look(2)
        await scene.answered()
        assert (descriptors(), scene.announcements) == (before + 2, [1])

    assert run(scenario, told, monkeypatch) == [
        *[("AddMember", 0), ("RemoveMember", 0)],
        *[("AddSockets", 1), ("AddMember", 0), ("AddMember", 0), ("Ping", 0)],
        *[("AddSockets", 1), ("AddMember", 0), ("Ping", 0)],
    ]


def test_what_cannot_be_opened_takes_no_place(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        def refuse(_: object) -> None:
            raise OSError(24, "no")

        with monkeypatch.context() as patch:
            patch.setattr(scene.opener, "open", refuse)
            scene.open(5)
        assert scene.keys() == set()
        assert not scene.segment.members.taken
        assert not scene.announcements
        await scene.answered()

    assert run(scenario, told, monkeypatch) == [*[("RemoveMember", 0)] * 5, ("Ping", 0)]
