"""What no worker took is counted, in datagrams: against what was sent, and what arrives.

source s0 -- r0 relay r1 -- k0 sink
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import os
import random
import re
import signal
import socket
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
from mcrd.dataplane._dataplane import ffi

from mcrd.lanes.holdings import Holdings
from mcrd.planning.links import Link
from mcrd.planning.resources import Ingress
from mcrd.sockets.ingress import IngressSocket, let_in, open_ingress, open_rings
from mcrd.sockets.lost import Taken
from tests.lab import wait_for
from tests.lab.datagrams import sender
from tests.lab.processes import crash_at_the_first_write
from tests.lab.rules import rule
from tests.network.test_supervision import children, executed, flows, with_a_fault
from tests.sandbox.harness import hush

if TYPE_CHECKING:
    from tests.lab import Mcrd, Triangle

UDP_SEGMENT = 103  # linux/udp.h
UNWATCHED = "[daemon]\nwatch = false\n"
SMALL_RINGS = '[interfaces.r0]\nring_size = "1 MiB"\n'
A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=4")
SIZE = 1400  # bytes of a datagram
WHOLE = 44  # datagrams of the largest super-frame


def merged(sock: socket.socket, datagrams: int) -> int:
    """Sends a super-frame of so many datagrams, or one that is none; returns the number."""
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE if datagrams > 1 else 0)
    return sock.sendto(bytes(datagrams * SIZE), ("239.1.1.1", 5000)) // SIZE


def settled(daemon: Mcrd, sent: int, within: float = 0.0) -> dict[str, Any]:
    """The interface's counters, when what was taken and what was lost is what was sent."""

    def found() -> dict[str, Any] | None:
        interface: dict[str, Any] = daemon.stats()["interfaces"]["r0"]
        dropped = interface["dropped"]
        # The MLD reports of a new link pass the filter, and match no rule.
        told = interface["received"]["packets"] - dropped["unmatched"] + dropped["ring_full"]
        return interface if abs(told - sent) <= within else None

    return wait_for(found, f"the counters to say {sent}")


def test_a_full_ring_is_counted_in_datagrams(triangle: Triangle) -> None:
    """Of frames of one size as many as were lost, of others about as many, within a fourth."""
    # Its MLD reports would be frames that are lost or not, as chance has it.
    triangle.source.sysctl("net.ipv6.conf.s0.disable_ipv6", "1")
    daemon = triangle.lab.mcrd(triangle.relay, SMALL_RINGS + A)
    arrives = triangle.sink.capture("k0", "udp", direction="in")
    chance = random.Random(5)
    with sender(triangle.source, "s0") as sock:
        with daemon.standing_still():
            sent = sum(merged(sock, 1) for _ in range(4000))
        plain = settled(daemon, sent)
        assert plain["dropped"]["ring_full"] == plain["dropped_frames"]["ring_full"] > 1000
        # Both rings are full now, each of another kind.
        with daemon.standing_still():
            sent += sum(merged(sock, 1) + merged(sock, WHOLE) for _ in range(2000))
        both = settled(daemon, sent)
        frames = both["dropped_frames"]["ring_full"] - plain["dropped_frames"]["ring_full"]
        lost = both["dropped"]["ring_full"] - plain["dropped"]["ring_full"]
        assert lost > 10 * frames > 10_000
        arrived = sent - both["dropped"]["ring_full"]
        wait_for(lambda: len(arrives.frames()) >= arrived, "all that was relayed")
        assert len(arrives.stop()) == arrived
        with daemon.standing_still():
            more = sum(merged(sock, chance.randrange(2, WHOLE + 1)) for _ in range(2000))
        settled(daemon, sent + more, within=more // 4)
    text = daemon.ctl("stats").stdout
    told = r"^r0: received .*; dropped: about \d+ ring_full \(\d+ frames\)$"
    assert re.search(told, text, re.MULTILINE)


@pytest.mark.alone
def test_overload_by_super_frames(triangle: Triangle) -> None:
    """A worker that works, and senders that are faster."""
    daemon = triangle.lab.mcrd(triangle.relay, SMALL_RINGS + A)
    sent = 0
    with sender(triangle.source, "s0") as sock:

        def full() -> bool:
            nonlocal sent
            sent += sum(merged(sock, WHOLE) for _ in range(500))
            return bool(daemon.stats()["interfaces"]["r0"]["dropped_frames"]["ring_full"] > 200)

        wait_for(full, "the ring to be full")
    found = settled(daemon, sent)
    assert found["dropped"]["ring_full"] == WHOLE * found["dropped_frames"]["ring_full"]
    (worker,) = daemon.stats()["workers"]
    assert worker["dropped_frames"] == found["dropped_frames"]


def another(daemon: Mcrd, pids: set[int]) -> None:
    """Waits until other workers relay."""

    def there() -> bool:
        found = {worker["pid"] for worker in daemon.stats()["workers"]}
        return bool(found) and not found & pids

    wait_for(there, "other workers")


def pids(daemon: Mcrd) -> set[int]:
    return {worker["pid"] for worker in daemon.stats()["workers"]}


RATE = 5000


def told(daemon: Mcrd) -> int:
    """Packets that no worker took."""
    return sum(count for _, count in no_worker_took(daemon.stats()))


def no_worker_took(stats: dict[str, Any]) -> list[tuple[str, int]]:
    dropped = stats["interfaces"]["r0"]["dropped"]
    return [(reason, dropped[reason]) for reason in ("ring_full", "discarded")]


@pytest.mark.alone
def test_what_a_crash_costs_is_counted(triangle: Triangle) -> None:
    """To the packet. A spare process is the next worker, on the same rings."""
    hush(triangle)
    daemon = triangle.lab.mcrd(triangle.relay, A)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=RATE)

    def rule_a() -> dict[str, Any]:
        found: dict[str, Any] = daemon.stats()["rules"]["a"]
        return found

    taken = 0
    for _ in range(3):
        before = rule_a()["received"]["packets"]
        wait_for(lambda: rule_a()["received"]["packets"] > before + RATE // 10, "the stream")  # noqa: B023
        (worker,) = pids(daemon)
        (spare,) = wait_for(lambda: children(daemon.pid) - {worker}, "a spare process")  # noqa: B023
        os.kill(worker, signal.SIGSEGV)
        # One that has not become ready within 10 s is replaced, on a very busy machine.
        another = wait_for(lambda: pids(daemon) - {worker}, "another worker", timeout=300)  # noqa: B023
        taken += another == {spare}
    came = stream.stop()["sent"] - triangle.source.missed("s0")
    wait_for(lambda: rule_a()["received"]["packets"] + told(daemon) == came, "all to be told")
    found = rule_a()
    (output,) = found["outputs"]
    assert found["received"]["packets"] == output["sent"]["packets"] + output["crashed"]
    unique = received.stop()["unique"]
    assert unique == output["sent"]["packets"] - triangle.relay.missed("r1")
    assert "thrown away" in daemon.log()
    assert taken > 0


@pytest.mark.parametrize(("outputs", "frames"), [(3, [1] * 200), (16, [1, *[WHOLE] * 40])])
def test_a_frame_on_which_a_worker_crashes_is_counted_once(
    triangle: Triangle, outputs: int, frames: list[int]
) -> None:
    """Some of its outputs have the datagram, or some of its datagrams are with all outputs.

    The worker writes when it has 512 runs in hand; each output has a run for each datagram that is
    longer than the one before, or for 46 of the largest.
    """
    hush(triangle)
    there = [f"r1 239.2.2.{number} 6000" for number in range(1, outputs + 1)]
    rules = '[daemon]\nengine = "poll"\n' + rule("a", "r0 239.1.1.1 5000", *there)
    daemon = triangle.lab.mcrd(triangle.relay, rules)
    (worker,) = pids(daemon)
    came = sum(frames)
    with sender(triangle.source, "s0") as sock:

        def send() -> None:
            for number, datagrams in enumerate(frames):
                if outputs == 3:
                    sock.sendto(bytes(100 + number), ("239.1.1.1", 5000))
                else:
                    merged(sock, datagrams)

        crash_at_the_first_write(worker, send)
    # One that has not become ready within 10 s is replaced, on a very busy machine.
    wait_for(lambda: pids(daemon) - {worker}, "another worker", timeout=300)
    found = daemon.stats()["rules"]["a"]
    received = 512 // outputs * (1 if outputs == 3 else 46) + 1
    assert found["received"]["packets"] == received
    for output in found["outputs"]:
        assert (output["sent"]["packets"], output["crashed"]) == (0, received)
    interface = daemon.stats()["interfaces"]["r0"]
    assert interface["received"]["packets"] == received
    assert interface["dropped"]["discarded"] == came - received


def test_while_a_ring_is_emptied_nobody_else_waits(triangle: Triangle) -> None:
    """After a crash: the daemon answers, and the next worker begins when it is done."""
    begun, goes_on = (triangle.lab.file(name) for name in ("begun", "goes-on"))
    fault = f"""
import os, time
from mcrd.sockets import ingress
real = ingress.lib
class Slow:
    def __getattr__(self, name):
        return getattr(real, name)
    def ring_throw_away(self, *rest):
        open({str(begun)!r}, "w").close()
        while not os.path.exists({str(goes_on)!r}):
            time.sleep(0.01)
        return real.ring_throw_away(*rest)
ingress.lib = Slow()
"""
    daemon = triangle.lab.mcrd(triangle.relay, A, program=with_a_fault(fault))
    (worker,) = pids(daemon)
    os.kill(worker, signal.SIGSEGV)
    wait_for(begun.exists, "the ring to be emptied")
    assert pids(daemon) == set()
    goes_on.touch()
    wait_for(lambda: pids(daemon) - {worker}, "another worker", timeout=300)
    flows(triangle)


def test_new_rings_after_a_second_crash_without_a_packet(triangle: Triangle) -> None:
    """What made the first worker crash may stand in the memory that the second one got."""
    hush(triangle)
    daemon = triangle.lab.mcrd(triangle.relay, A)
    renewed = "ingress on r0: what waits in its rings is thrown away"
    for number in range(4):
        assert daemon.log().count(renewed) == (number >= 2), number
        (worker,) = pids(daemon)
        os.kill(worker, signal.SIGSEGV)
        wait_for(lambda: len(pids(daemon) - {worker}) == 1, "another worker", timeout=300)  # noqa: B023
        wait_for(lambda: daemon.log().count(renewed) == (number >= 1), "new rings, once")  # noqa: B023
    received = triangle.sink.receive("k0", "239.2.2.1", 6000)
    wait_for(lambda: daemon.rules()["a"]["state"] == "active", "the rule to be active")
    triangle.source.send("s0", "239.1.1.1", 5000, count=100, rate=1000)
    wait_for(lambda: daemon.stats()["rules"]["a"]["received"]["packets"] == 100, "all")
    assert received.stop()["unique"] == 100
    assert daemon.log().count(renewed) == 1


def test_new_rings_after_a_second_crash_on_the_first_packet(triangle: Triangle) -> None:
    """A worker that crashed on the first frame it took was of no use, though that frame counts."""
    hush(triangle)
    there = [f"r1 239.2.{number // 250}.{1 + number % 250} 6000" for number in range(520)]
    rules = '[daemon]\nengine = "poll"\n' + rule("a", "r0 239.1.1.1 5000", *there)
    daemon = triangle.lab.mcrd(triangle.relay, rules)
    renewed = "ingress on r0: what waits in its rings is thrown away"
    with sender(triangle.source, "s0") as sock:
        for number in (1, 2):
            (worker,) = pids(daemon)
            wait_for(lambda: daemon.rules()["a"]["state"] == "active", "the rule to be active")
            crash_at_the_first_write(worker, lambda: sock.sendto(b"x", ("239.1.1.1", 5000)))
            wait_for(lambda: len(pids(daemon) - {worker}) == 1, "another worker", timeout=300)  # noqa: B023
            found = daemon.stats()["rules"]["a"]
            assert found["received"]["packets"] == number
            assert {output["crashed"] for output in found["outputs"]} == {number}
    wait_for(lambda: daemon.log().count(renewed) == 1, "new rings")


def test_a_spare_process_that_does_not_answer_is_passed_over(triangle: Triangle) -> None:
    """The first is dead when it is told to begin, the second hangs; a new one starts at once."""
    fault = """
import os
from mcrd.lanes.spawn import Spare
take, ended = Spare.take, []
def ending(spare):
    found = take(spare)
    if found is not None:
        found.began -= 10.0
    if found is not None and not ended:
        ended.append(found.process.pid)
        found.process.kill()
        os.waitid(os.P_PID, *ended, os.WEXITED | os.WNOWAIT)
    return found
Spare.take = ending
"""
    daemon = triangle.lab.mcrd(triangle.relay, A, program=with_a_fault(fault))
    for number in (1, 2):
        (worker,) = pids(daemon)
        (spare,) = wait_for(lambda: children(daemon.pid) - {worker}, "a spare process")  # noqa: B023
        if number == 2:
            wait_for(lambda: executed(daemon.pid) == {worker, spare}, "it to wait")  # noqa: B023
            os.kill(spare, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: pids(daemon).isdisjoint({worker, spare, 0}) and pids(daemon), "another")  # noqa: B023
        flows(triangle)
    log = daemon.log()
    assert log.count(f"the spare process, pid {spare}, did not answer") == 1
    assert log.count("another starts at once") == 2
    assert "failed:" not in log


def _taken(daemon: Mcrd, sent: int) -> bool:
    stats = daemon.stats()
    received: int = stats["rules"]["a"]["received"]["packets"]
    return received + sum(count for _, count in no_worker_took(stats)) >= sent - TOLERATED


TOLERATED = RATE // 100
"""Packets of 10 ms: of what comes while old and new rings change places, a few are not known."""


@pytest.mark.alone
def test_what_other_rings_cost_is_counted(triangle: Triangle) -> None:
    """It costs nothing (test_relief.py), unless an old worker ends before it has done its part."""
    hush(triangle)
    fault = """
import os, signal
from mcrd.lanes import relief
relief.LEAD = 0.5
real = relief._agree
async def agree(old):
    found = await real(old)
    os.kill(old[0].process.pid, signal.SIGKILL)
    return found
relief._agree = agree
"""
    program = with_a_fault(fault)
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED + A, program=program)
    arrives = triangle.sink.capture("k0", "udp", direction="in")
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=RATE)
    wait_for(lambda: daemon.stats()["rules"]["a"]["received"]["packets"] > 1000, "the stream")
    before = pids(daemon)
    daemon.edit(f"{UNWATCHED}[interfaces.r0]\nworkers = 2\n" + A)
    daemon.ctl("reload")
    another(daemon, before)
    assert "what waits in the old rings is thrown away: " in daemon.log()
    assert told(daemon) > 0
    sent = stream.stop()["sent"]
    wait_for(lambda: _taken(daemon, sent), "all to be accounted for")
    stats = daemon.stats()
    relayed = stats["rules"]["a"]["received"]["packets"]
    wait_for(lambda: len(arrives.frames()) >= relayed, "all that was relayed")
    arrived = len(arrives.stop())
    assert arrived == relayed
    assert abs(arrived + told(daemon) - sent) <= TOLERATED


def test_old_rings_count_until_there_are_others(
    triangle: Triangle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is, and when they have had to give their memory back."""
    hush(triangle)
    holdings = Holdings()

    def lost() -> int:
        dropped = holdings.ledger.interfaces(holdings.ring_full())["r0"].dropped
        return dropped["ring_full"] + dropped["discarded"]

    def without_memory(*_: object) -> list[IngressSocket]:
        raise OSError(errno.ENOMEM, "")

    with triangle.relay.inside():
        index = socket.if_nametoindex("r0")
        links = {"r0": Link("r0", index, True, True, 1500, 1)}
        ingress, other = Ingress("r0", index), Ingress("r0", index, workers=2)
        holdings.admit({"r0": frozenset({ip_network("239.1.1.1/32")})}, also_old=False)
        holdings.open(ingress, links)
        with sender(triangle.source, "s0") as sock:

            def send(count: int, expected: int) -> None:
                for _ in range(count):
                    merged(sock, 1)
                wait_for(lambda: lost() == expected, f"{expected} to be lost, {lost()} are")

            send(50, 0)
            holdings.close(ingress, anew=True)
            assert lost() == 50
            send(30, 80)
            with monkeypatch.context() as patch:
                patch.setattr("mcrd.lanes.holdings.open_ingress", without_memory)
                with pytest.raises(OSError, match="Errno 12"):
                    holdings.open(other, links)
            send(20, 100)
            holdings.end_retired({index})  # they are waited for
            send(10, 110)
            holdings.open(other, links)
            send(7, 110)  # these wait in the new ones
            holdings.close(other, anew=True)
            assert lost() == 117
            holdings.end_retired()
            send(5, 117)
    holdings.close_all()
    count = holdings.ledger.interfaces({})["r0"]
    assert sum(count.dropped.values()) == 117
    assert count.dropped["discarded"] >= 80 + 7  # the rest found no ring any more


def test_old_rings_of_an_interface_that_was_renamed_give_way(
    triangle: Triangle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even when the kernel has no memory for a filter that ends them: none is left behind."""
    hush(triangle)
    holdings = Holdings()
    admitted = frozenset({ip_network("239.1.1.1/32")})

    def refuse(_: IngressSocket) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with triangle.relay.inside(), sender(triangle.source, "s0") as sock:
        index = socket.if_nametoindex("r0")
        old, new = Ingress("r0", index), Ingress("r9", index)
        links = {name: Link(name, index, True, True, 1500, 1) for name in ("r0", "r9")}
        holdings.admit({"r0": admitted, "r9": admitted}, also_old=False)
        holdings.open(old, links)
        before = descriptors()
        holdings.close(old, anew=True)
        triangle.relay.run("ip", "link", "set", "r0", "down")
        triangle.relay.run("ip", "link", "set", "r0", "name", "r9", "up")
        monkeypatch.setattr(IngressSocket, "deafen", refuse)
        holdings.open(new, links)
        assert descriptors() == before
        assert "while new rings are opened" in caplog.text
        for _ in range(20):
            merged(sock, 1)
        ((_, ring),) = holdings.rings()
        wait_for(lambda: ring.seen == 20, "the new ring to have them")
        lost = holdings.ledger.interfaces(holdings.ring_full())
        assert sum(sum(count.dropped.values()) for count in lost.values()) == 0
    holdings.close_all()


def test_all_that_waits_is_given_back_whatever_was_counted(triangle: Triangle) -> None:
    """After an upgrade, what waited is not among what has been counted since."""
    hush(triangle)
    with triangle.relay.inside():
        ingress = Ingress("r0", socket.if_nametoindex("r0"), ring_size=1 << 20)
        (ring,) = open_ingress(ingress, 1500, frozenset({ip_network("239.1.1.1/32")}))
    positions, frames = ffi.new("uint64_t[2]"), ffi.new("uint64_t[2]")
    stand = [(positions + which, frames + which) for which in range(2)]
    with sender(triangle.source, "s0") as sock:
        for number in range(5):
            sock.sendto(b"%d" % number, ("239.1.1.1", 5000))
        wait_for(lambda: ring.filled == (5, 0), "five frames")
        ring.forget_seen((0, 0))
        assert [lost.frames for lost in ring.throw_away((Taken(), Taken()), stand)()] == [5, 0]
        sock.sendto(b"more", ("239.1.1.1", 5000))
        wait_for(lambda: ring.filled == (6, 0), "one more")
        assert [lost.frames for lost in ring.throw_away((Taken(5, 5), Taken()), stand)()] == [1, 0]
    assert (list(positions), list(frames)) == ([6, 0], [6, 0])
    ring.close()


def test_what_waits_at_an_upgrade_is_counted(triangle: Triangle) -> None:
    """Else a worker would be done with its ring too soon by that, and what is lost be less."""
    hush(triangle)
    with triangle.relay.inside():
        ingress = Ingress("r0", socket.if_nametoindex("r0"), ring_size=1 << 20)
        (ring,) = open_ingress(ingress, 1500, frozenset({ip_network("239.1.1.1/32")}))

    def waiting(taken: int) -> int:
        return ring.end((Taken(taken, taken), Taken()))[1].frames

    with sender(triangle.source, "s0") as sock:
        for number in range(5):
            sock.sendto(b"%d" % number, ("239.1.1.1", 5000))
        wait_for(lambda: ring.filled == (5, 0), "five frames")
        ring.forget_seen((2, 0))
        assert (waiting(0), waiting(3), ring.filled, ring.seen) == (3, 0, (3, 0), 3)
        sock.sendto(b"more", ("239.1.1.1", 5000))
        wait_for(lambda: ring.filled == (4, 0), "one more")
        assert (waiting(3), ring.seen) == (1, 4)
        # Where it cannot be counted, what more is taken is learned.
        ring.forget_seen((ring.geometry.frames, 0))
        assert (waiting(0), ring.filled) == (0, (0, 0))
        assert (waiting(3), ring.filled) == (0, (3, 0))
    # A worker may say anything.
    assert (waiting(2**64 - 1), waiting(6)) == (0, ring.geometry.frames - 6)
    ring.close()


def test_what_comes_while_it_is_counted_at_an_upgrade(triangle: Triangle) -> None:
    """Under a stream as fast as one process sends: all that is in the ring at the end is known."""
    hush(triangle)
    with triangle.relay.inside():
        ingress = Ingress("r0", socket.if_nametoindex("r0"), ring_size=64 << 20)
        (ring,) = open_ingress(ingress, 1500, frozenset({ip_network("239.1.1.1/32")}))
    positions, frames = ffi.new("uint64_t[2]"), ffi.new("uint64_t[2]")
    stand = [(positions + which, frames + which) for which in range(2)]

    def has_come(least: int) -> bool:
        return ring.filled[0] >= least

    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, count=10_000, rate=10_000)
    for least in range(1000, 9000, 1000):
        wait_for(partial(has_come, least), "frames", interval=0.0001)
        ring.forget_seen((0, 0))
    stream.result()
    known = ring.filled
    assert [lost.frames for lost in ring.throw_away((Taken(), Taken()), stand)()] == [*known]
    ring.close()


def test_fragments_have_room_while_new_rings_are_let_in(
    triangle: Triangle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that comes before their group has its program comes to the ring with few slots.

    Fragments come there alone: the old rings get the rest.
    """
    hush(triangle)
    networks = frozenset({ip_network("239.1.1.1/32")})
    with triangle.relay.inside():
        ingress = Ingress("r0", socket.if_nametoindex("r0"), ring_size=1 << 20)
        old, new = open_ingress(ingress, 1500, networks), open_rings(ingress, 1500)
    with sender(triangle.source, "s0") as sock:
        share = IngressSocket.share

        def late(ring: IngressSocket, workers: int) -> None:
            for _ in range(2 * new[0].large_geometry.frames):
                merged(sock, 1)
            sock.sendto(bytes(3000), ("239.1.1.1", 5000))
            wait_for(lambda: new[0].filled == (0, 1), "what was put together", timeout=5)
            share(ring, workers)

        monkeypatch.setattr(IngressSocket, "share", late)
        let_in(new, networks, beside=True)
        merged(sock, 1)
        wait_for(lambda: new[0].filled == (1, 1), "all that comes then")
    assert old[0].filled == (2 * new[0].large_geometry.frames + 1, 0)
    for ring in (*old, *new):
        ring.close()
