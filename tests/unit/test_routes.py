"""Which neighbours are silent, and answers of the kernel that are not whole."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, ip_address
from typing import NamedTuple, cast

import pytest

from mcrd.host.neighbours import ASK_AGAIN, PATIENCE, PROBES_AT_ONCE, SELDOM_AFTER, Hop, Neighbours
from mcrd.host.routes import PORTION, Routes
from mcrd.model import Address
from mcrd.planning.links import Link, Lookup, Way
from mcrd.sockets import rtnetlink as routes

HOP: Hop = (7, ip_address("10.0.0.9"))
REACHABLE, STALE = 0x02, 0x04
NAMES = {7: "r1"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds."""
    now = [0.0]
    monkeypatch.setattr("mcrd.host.neighbours.time.monotonic", lambda: now[0])
    return now


class Asked:
    """Who was asked for, instead of asking; `error` is raised, if there is one."""

    def __init__(self) -> None:
        self.hops: list[Hop] = []
        self.error: OSError | None = None

    def __call__(self, interface: str, index: int, hop: Address) -> None:
        assert interface == NAMES[index]
        self.hops.append((index, hop))
        if self.error is not None:
            raise self.error

    def after(self) -> int:
        """How many since the last call."""
        count = len(self.hops)
        self.hops.clear()
        return count


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Instead of ICMP."""
    found = Asked()
    monkeypatch.setattr("mcrd.host.neighbours.probe", found)
    return found


def hops(count: int) -> list[Hop]:
    """So many neighbours."""
    return [(7, IPv4Address("10.0.0.0") + number) for number in range(count)]


def failed(hops: list[Hop]) -> list[int]:
    """What the kernel says of those that do not answer."""
    return [routes.NUD_FAILED] * len(hops)


def forgotten(hops: list[Hop]) -> list[None]:
    """What the kernel says when it does not know them."""
    return [None] * len(hops)


def test_a_neighbour_has_some_time_to_answer(clock: list[float]) -> None:
    known = Neighbours()
    assert known.take({HOP: None}, NAMES)  # to be looked at again
    clock[0] = PATIENCE / 2
    assert known.take({HOP: routes.NUD_INCOMPLETE}, NAMES)
    assert not known.is_silent(HOP)
    clock[0] = PATIENCE
    assert not known.take({HOP: routes.NUD_INCOMPLETE}, NAMES)
    assert known.is_silent(HOP)
    # It is asked for again, which makes it INCOMPLETE, and at last forgotten.
    for state in (routes.NUD_FAILED, routes.NUD_INCOMPLETE, None):
        known.take({HOP: state}, NAMES)
        assert known.is_silent(HOP)
    known.take({HOP: REACHABLE}, NAMES)
    assert not known.is_silent(HOP)


def test_a_neighbour_that_fails_is_silent_at_once(clock: list[float]) -> None:
    known = Neighbours()
    assert not known.take({HOP: STALE}, NAMES)
    known.take({HOP: routes.NUD_FAILED}, NAMES)
    assert known.is_silent(HOP)
    known.keep(set())
    assert not known.silent
    assert clock == [0.0]


def test_one_that_the_kernel_forgot_is_not_asked_for_again(
    clock: list[float], asked: Asked
) -> None:
    known = Neighbours()
    known.take({HOP: STALE}, NAMES)
    assert known.take({HOP: None}, NAMES)
    assert not known.take({HOP: None}, NAMES)
    assert asked.after() == 0
    # What is sent next makes the kernel ask: of that, it is not known whether it arrives.
    assert known.is_doubted(HOP)
    clock[0] = 60
    assert known.take({HOP: routes.NUD_INCOMPLETE}, NAMES)
    assert not known.is_silent(HOP)
    clock[0] += PATIENCE
    known.take({HOP: routes.NUD_INCOMPLETE}, NAMES)
    assert known.is_silent(HOP)
    known.take({HOP: REACHABLE}, NAMES)
    assert not known.is_doubted(HOP)


def test_first_questions_are_asked_in_portions(clock: list[float], asked: Asked) -> None:
    """With 10,000 hosts on a link, as many ARP requests at once would be a storm."""
    known, many = Neighbours(), hops(1000)
    assert known.take(dict.fromkeys(many), NAMES)
    assert asked.after() == PROBES_AT_ONCE
    states = {hop: routes.NUD_INCOMPLETE if hop in known.pending else None for hop in many}
    assert known.take(states, NAMES)  # another look asks for no more
    assert asked.after() == 0
    assert known.is_doubted(many[-1])
    assert not known.is_silent(many[-1])
    portions = 1
    while (wait := known.wait()) is not None:
        clock[0] += wait
        known.ask(NAMES, failed)
        assert asked.after() <= PROBES_AT_ONCE
        portions += 1
    assert portions == -(-1000 // PROBES_AT_ONCE)
    assert len(known.pending) == 1000


def test_silent_ones_wait_for_no_queue(clock: list[float], asked: Asked) -> None:
    known, many = Neighbours(), hops(1000)
    known.take({HOP: routes.NUD_FAILED}, NAMES)
    known.take(dict.fromkeys(hop for hop in many if hop != HOP), NAMES)
    clock[0] = ASK_AGAIN
    asked.after()
    known.ask(NAMES, failed)
    assert HOP in asked.hops
    assert asked.after() == PROBES_AT_ONCE


def test_one_that_cannot_be_asked_for_is_not_silent(
    clock: list[float], asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    """A firewall drops ICMP: only packets of rules could find out that it is back."""
    known = Neighbours()
    asked.error = PermissionError(1, "Operation not permitted")
    for state in (routes.NUD_FAILED, routes.NUD_INCOMPLETE, routes.NUD_FAILED):
        known.take({HOP: state}, NAMES)
    assert known.is_silent(HOP)
    for _ in range(2):
        clock[0] += ASK_AGAIN
        changed = known.ask(NAMES, failed)
        assert changed == ([HOP] if clock[0] == ASK_AGAIN else [])
        known.take({HOP: routes.NUD_FAILED}, NAMES)
        assert not known.is_silent(HOP)
    (said,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "10.0.0.9 on r1: Operation not permitted" in said.getMessage()
    asked.error = None
    clock[0] += ASK_AGAIN
    assert known.ask(NAMES, failed) == [HOP]
    assert known.is_silent(HOP)


def test_one_that_a_question_does_not_reach_is_not_silent(clock: list[float]) -> None:
    """After it, the kernel has no entry: the echo went to somebody else."""
    known = Neighbours()
    known.take({HOP: routes.NUD_FAILED}, NAMES)
    clock[0] = ASK_AGAIN
    assert known.ask(NAMES, forgotten) == [HOP]
    known.take({HOP: None}, NAMES)
    assert not known.is_silent(HOP)


def test_a_few_are_asked_for_each_second(clock: list[float], asked: Asked) -> None:
    """However long they are away; of many, those that are away for long not as often."""
    for count, least, most in ((3, 30, 30), (PROBES_AT_ONCE + 1, 65, 3 * 65)):
        known = Neighbours()
        known.take(dict.fromkeys(hops(count), routes.NUD_FAILED), NAMES)
        clock[0] += SELDOM_AFTER + 1
        known.ask(NAMES, failed)
        asked.after()
        for _ in range(10):
            clock[0] += ASK_AGAIN
            known.ask(NAMES, failed)
        assert least <= asked.after() <= most


def test_what_is_not_used_is_forgotten(clock: list[float]) -> None:
    """Else a router that comes back after an hour would be silent before it could answer."""
    known = Neighbours()
    assert known.take({HOP: routes.NUD_INCOMPLETE}, NAMES)
    known.keep(set())
    clock[0] = 3600
    known.take({HOP: routes.NUD_INCOMPLETE}, NAMES)
    assert not known.is_silent(HOP)


class Kernel:
    """Answers what RouteQueries asks, and counts: each host is reached by one router."""

    def __init__(self) -> None:
        self.asked: list[int] = []  # how many routes, each time
        self.state: int | None = REACHABLE

    def routes(self, questions: Sequence[routes.Question]) -> list[routes.Route]:
        """All by the router."""
        self.asked.append(len(questions))
        return [routes.Route(0, *HOP) for _ in questions]

    def neighbours(self, hops: Sequence[Hop]) -> list[int | None]:
        """The state of the router."""
        return [self.state for _ in hops]

    def close(self) -> None:
        """Nothing is open."""


class Followed(NamedTuple):
    """Ways of 2,000 outputs behind one router."""

    routes: Routes
    kernel: Kernel
    told: list[frozenset[str]]
    doubted: set[Lookup]

    async def is_over(self) -> None:
        """The look that is due is."""
        self.routes._look_at_due()  # noqa: SLF001
        for _ in range(10_000):
            if not self.routes._looking and not self.routes._due:  # noqa: SLF001
                return
            await asyncio.sleep(0.001)
        pytest.fail("the look is not over")


def followed() -> Followed:
    """In a running loop."""
    told: list[frozenset[str]] = []
    doubted: set[Lookup] = set()

    def looked_at(found: Collection[Lookup], certain: Collection[Lookup]) -> None:
        doubted.update(found)
        doubted.difference_update(certain)

    links = {"r1": Link("r1", 7, True, True, 1500, 1)}
    found = Routes(lambda: links, told.append, looked_at)
    kernel = Kernel()
    found._queries = cast("routes.RouteQueries", kernel)  # noqa: SLF001
    found.watch(Lookup(None, IPv4Address("10.1.0.0") + number) for number in range(2000))
    assert len(found.now) == 2000
    told.clear()
    kernel.asked.clear()
    return Followed(found, kernel, told, doubted)


def test_a_look_at_many_is_in_portions() -> None:
    """An event of links concerns all; many of them are one look more, after the pause."""

    async def look() -> None:
        ways = followed()
        for _ in range(20):
            ways.routes.links_changed()
            assert max(ways.kernel.asked) == PORTION
            await asyncio.sleep(0)
        await ways.is_over()
        assert sum(ways.kernel.asked) in (2 * 2000, 3 * 2000)
        assert not ways.told
        ways.routes.stop()

    asyncio.run(look())


def test_of_a_neighbour_only_the_state_is_asked_for() -> None:
    """Of the outputs behind a router, unless it begins or ceases to answer."""

    async def look() -> None:
        ways = followed()
        event = routes.Change(4, int(HOP[1]), 1, HOP[0])
        ways.routes._look_at_states([event])  # noqa: SLF001
        ways.routes._look_at_states([event._replace(over=8)])  # noqa: SLF001
        await ways.is_over()
        assert not ways.kernel.asked
        ways.kernel.state = routes.NUD_INCOMPLETE
        ways.routes._look_at_states([event])  # noqa: SLF001
        assert len(ways.doubted) == 2000
        ways.kernel.state = routes.NUD_FAILED
        ways.routes._look_at_states([event])  # noqa: SLF001
        await ways.is_over()
        assert all(way.trouble for way in ways.routes.now.values())
        assert ways.told == [frozenset({"r1"})]
        ways.kernel.state = REACHABLE
        ways.routes._look_at_states([event])  # noqa: SLF001
        await ways.is_over()
        assert not any(way.trouble for way in ways.routes.now.values())
        assert not ways.doubted
        ways.routes.stop()

    asyncio.run(look())


def test_the_way_is_that_of_the_source_that_was_chosen() -> None:
    """Of two routes of equal cost, the kernel takes one by a hash of the addresses."""
    source, other = ip_address("10.0.0.1"), ip_address("10.0.1.9")

    class Hashing(Kernel):
        def routes(self, questions: Sequence[routes.Question]) -> list[routes.Route]:
            """By another router, from that source."""
            first = routes.Route(0, *HOP, source)
            return [routes.Route(0, 8, other) if one.source else first for one in questions]

    async def look() -> None:
        links = {f"r{index - 6}": Link("r", index, True, True, 1500, 1) for index in (7, 8)}
        found = Routes(lambda: links, lambda _: None, lambda *_: None)
        found._queries = cast("routes.RouteQueries", Hashing())  # noqa: SLF001
        one = Lookup(None, ip_address("10.1.0.5"))
        found.watch([one])
        assert found.now[one] == Way("r", 8, source, other)
        found.stop()

    asyncio.run(look())


def test_a_route_of_a_vrf_leads_over_its_interface() -> None:
    """The kernel is asked for a way over the VRF device, and names the interface in it."""
    body = struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 77, 3, 253, 1, 0)
    body += struct.pack("=HHi", 8, routes.RTA_OIF, 7)
    question = routes.Question(ip_address("10.1.0.5"), over=20)
    assert routes.read_route(question, 24, body).error == errno.ENETUNREACH
    found = routes.read_route(question._replace(enslaved=frozenset({6, 7})), 24, body)
    assert (found.error, found.over, str(found.hop)) == (0, 7, "10.1.0.5")


@pytest.mark.parametrize("length", range(0, 120, 4))
def test_answers_that_are_cut_short(length: int) -> None:
    """The kernel sends none such, but nobody is to fall over one."""
    hop = struct.pack("=HHi", 8, 4, 7) + struct.pack("=HH4s", 8, 5, bytes([10, 0, 0, 9]))
    hops = b"".join(struct.pack("=HBBi", 8 + len(hop[8:]), 0, 0, 7) + hop[8:] for _ in range(2))
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 3, 0, 1, 0)
    body += struct.pack("=HH", 4 + len(hops), 9) + hops
    whole = routes.read_route(routes.Question(ip_address("10.1.0.5")), 24, body)
    assert (whole.error, whole.over, str(whole.hop)) == (0, 7, "10.0.0.9")
    if length >= 12:
        routes.read_route(routes.Question(ip_address("10.1.0.5")), 24, body[:length])
