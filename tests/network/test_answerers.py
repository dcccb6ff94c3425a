"""Answers that keep their source: how many hosts may answer, and what becomes of the others."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.lab import Mcrd, Triangle, wait_for
from tests.lab.rules import rule
from tests.network.test_replies import GROUP, Device, answers, asker, kept

if TYPE_CHECKING:
    from collections.abc import Iterator

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
ONE, LANE, A_SECOND = 256, 4096, 900  # of an asker, of a worker, new in a second: mcr.toml(5)
LATER = ("239.1.1.1", 1900)
KEPT = (
    rule("a", "r0 239.255.255.250 1900", 'r1 - - replies="60s" source="keep"')
    + rule("b", "r0 239.1.1.1 1900", 'r1 239.255.255.250 - replies="5s" source="keep"')
    + rule("there", "r0 239.1.1.2 5000", "r1 239.2.2.3 6000")
)
COUNT, RATE = 2000, 500

Name = tuple[str, int]


def answerers(triangle: Triangle, count: int) -> list[socket.socket]:
    """As many ports of the sink, each of which is a host of its own to the relay."""
    made = []
    for _ in range(count):
        made.append(kept(triangle.sink, triangle.sink.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        with triangle.sink.inside():
            made[-1].bind(("10.2.0.2", 0))
    return made


class Asker:
    """Asks once; `where` is where its answers have to go."""

    def __init__(self, triangle: Triangle, device: Device, group: Name = GROUP) -> None:
        self.sock = asker(triangle.source, "s0")
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        self.sock.setblocking(False)
        self.device, self.group = device, group
        self.where: Name = ("", 0)
        self.ask()

    def ask(self) -> None:
        question = b"asks at %d" % time.monotonic_ns()
        self.sock.sendto(question, self.group)
        heard = b""
        while heard != question:
            heard, self.where = self.device.hears.recvfrom(100)

    def is_answered(self, by: list[socket.socket]) -> None:
        for each in by:
            each.sendto(b"%d" % each.getsockname()[1], self.where)

    def heard(self) -> list[int]:
        """The ports that it has had answers from, as they came; each says whose it is."""
        ports: list[int] = []
        while True:
            try:
                text, name = self.sock.recvfrom(100)
            except BlockingIOError:
                return ports
            assert name == ("10.2.0.2", int(text))
            ports.append(name[1])


def counted(daemon: Mcrd, name: str = "a") -> dict[str, int]:
    """What became of answers; what never happened is left out."""
    found = answers(daemon, name)
    others = {each: found[each] for each in ("refused", "late", "lost", "new_member")}
    told = {"sent": found["sent"]["packets"]} | others | found["errors"]
    return {each: number for each, number in told.items() if number}


def settled(daemon: Mcrd, total: int, name: str = "a") -> dict[str, int]:
    """What became of so many answers, when all of them are in some counter."""

    def all_counted() -> bool:
        return sum(counted(daemon, name).values()) == total

    wait_for(all_counted, f"{total} answers to be counted", timeout=60)
    return counted(daemon, name)


@contextmanager
def nothing_else_is_lost(triangle: Triangle, daemon: Mcrd) -> Iterator[None]:
    """A rule beside it relays all it gets meanwhile, and its worker is the same."""
    before = [each["pid"] for each in daemon.stats()["workers"]]
    received = triangle.sink.receive("k0", "239.2.2.3", 6000, expect=COUNT, timeout=120)
    stream = triangle.source.start_send("s0", "239.1.1.2", 5000, count=COUNT, rate=RATE)
    yield
    stream.result()
    result = received.result()
    assert (result["unique"], result["lost"], result["duplicated"]) == (COUNT, 0, 0)
    found = daemon.stats()
    assert [each["pid"] for each in found["workers"]] == before
    dropped = found["interfaces"]["r0"]["dropped"]
    del dropped["unmatched"]  # what hosts say of their own accord, such as MLD reports
    assert not any(dropped.values())
    assert found["rules"]["a"]["outputs"][0]["new_member"] == 0


def test_so_many_answer_one_asker(triangle: Triangle) -> None:
    """Those that answer first; each asker has its own, and others are in one counter."""
    daemon = triangle.lab.mcrd(triangle.relay, KEPT)
    device, hosts = Device(triangle.sink, "k0"), answerers(triangle, ONE + 44)
    ports = [each.getsockname()[1] for each in hosts]
    with nothing_else_is_lost(triangle, daemon):
        askers = [Asker(triangle, device) for _ in range(2)]
        for each in askers:
            each.is_answered(hosts)
        assert settled(daemon, 2 * len(hosts)) == {"sent": 2 * ONE, "new_member": 2 * 44}
        assert [each.heard() for each in askers] == [ports[:ONE]] * 2
        # Those that have a socket go on.
        askers[0].is_answered(hosts)
        found = settled(daemon, 3 * len(hosts))
        assert found == {"sent": 3 * ONE, "new_member": 3 * 44}
        assert askers[0].heard() == ports[:ONE]


def test_a_thousand_new_hosts_answer_at_once(triangle: Triangle) -> None:
    """Each is passed on or counted, and none is refused for good."""
    daemon = triangle.lab.mcrd(triangle.relay, KEPT)
    device, hosts = Device(triangle.sink, "k0"), answerers(triangle, 200)
    wanted = {each.getsockname()[1] for each in hosts}
    with nothing_else_is_lost(triangle, daemon):
        askers = [Asker(triangle, device) for _ in range(6)]
        total, began = 0, time.monotonic()
        missing = [set(wanted) for _ in askers]
        while any(missing):
            for each in askers:
                each.is_answered(hosts)
            total += len(askers) * len(hosts)
            found = settled(daemon, total)
            assert found.keys() <= {"sent", "new_member"}
            for each, rest in zip(askers, missing, strict=True):
                rest.difference_update(each.heard())
            had = sum(len(wanted) - len(rest) for rest in missing)
            assert had <= A_SECOND * (time.monotonic() - began + 1)


@pytest.mark.long
def test_so_many_answer_all_askers(triangle: Triangle) -> None:
    """More than there may be sockets for; when an asker ends, those that got none have room."""
    daemon = triangle.lab.mcrd(triangle.relay, KEPT)
    device, hosts = Device(triangle.sink, "k0"), answerers(triangle, ONE)
    wanted = {each.getsockname()[1] for each in hosts}

    def fill(one: Asker) -> None:
        missing = set(wanted)

        def all_answered() -> bool:
            one.is_answered(hosts)
            missing.difference_update(one.heard())
            return not missing

        wait_for(all_answered, "all to have answered", timeout=60)

    with nothing_else_is_lost(triangle, daemon):
        for _ in range(LANE // ONE - 1):
            fill(Asker(triangle, device))
        last = Asker(triangle, device)
        ends = Asker(triangle, device, LATER)
        fill(ends)
        before = counted(daemon).get("new_member", 0)
        last.is_answered(hosts[:2])
        wait_for(lambda: counted(daemon).get("new_member", 0) == before + 2, "two to be refused")
        assert last.heard() == []
        assert "rules.a: " in daemon.log()
        assert f"has more than {LANE} hosts that answer at once" in daemon.log()
        # Who has a socket already is not disturbed, and who is refused is tried again.
        wait_for(lambda: answers(daemon, "b")["askers"] == 0, "an asker to end")

        def answered() -> bool:
            last.is_answered(hosts[:1])
            return bool(last.heard())

        wait_for(answered, "another try")
    assert answers(daemon, "a")["askers"] == LANE // ONE
