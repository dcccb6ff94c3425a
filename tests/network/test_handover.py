"""What one supervisor leaves, the next one has: on real sockets, within one process.

tests/system does the same with systemd and whole supervisors.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import msgspec
import pytest

from mcrd.daemon import heir
from mcrd.daemon.handover import Keeper
from mcrd.daemon.heir import Restarts
from mcrd.daemon.index import pack, unpack
from mcrd.dataplane.messages import Endpoint, MemberKey
from mcrd.lanes.holdings import Holdings
from mcrd.model import Config, Input, Interface, Output, Place, PortRange, Role, Rule
from mcrd.planning.actual import Wanted
from mcrd.planning.hostnames import Resolved
from mcrd.planning.links import Link
from mcrd.planning.resources import (
    Egress,
    GroupProtocol,
    Hold,
    Ingress,
    Membership,
    Reception,
    Resource,
    Ring,
    Sending,
    Worker,
)
from mcrd.querying.groups import Group
from mcrd.sockets.lost import Lost
from mcrd.systemd.store import HEADER
from tests.lab import wait_for
from tests.sandbox.harness import hush
from tests.unit.test_store import Manager, hand_over

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab import Triangle


RESOLVED = {"pods.test": Resolved((ip_address("10.2.0.9"), ip_address("fd02::9")))}
CHOSEN = {"feed": "feed@r0"}
ROLES: dict[str, Role] = {"camera": "standby"}
CONFIG = Config(
    rules={
        "a": Rule(
            "a",
            Input(
                "r0",
                ip_network("239.1.1.0/28"),
                PortRange(1, 9),
                sources=(ip_network("10.0.0.0/8"),),
            ),
            (Output("r1", ip_address("239.2.2.2"), 6000, ttl=4, source="keep"),),
            place=Place("mcr.toml", 1, 2),
        )
    },
    interfaces={"r0": Interface(2, (0, 1))},
    files=("/etc/mcr.toml",),
)


FORCED = "net/ipv4/conf/r0/force_igmp_version"


class Before:
    """A supervisor's holdings on the relay, and what it has left with a manager."""

    def __init__(self, triangle: Triangle, manager: Manager) -> None:
        self.manager = manager
        self.relay = triangle.relay
        with self.relay.inside():
            indexes = {name: socket.if_nametoindex(name) for name in ("r0", "r1")}
            links = {
                name: Link(name, index, True, True, 1500, 1) for name, index in indexes.items()
            }
            self.ingress = Ingress("r0", indexes["r0"])
            worker = Worker(self.ingress)
            sending = Sending("r1", indexes["r1"], ip_address("10.2.0.1"), ttl=4)
            self.egress = egress = Egress(worker, "a", sending, ip_address("239.2.2.2"), 6000)
            sending = Sending("r1", indexes["r1"], ip_address("fd02::1"), ttl=4)
            v6 = Egress(worker, "b", sending, ip_address("ff15::1"), 6000)
            self.joined = joined = [
                Membership("r0", indexes["r0"], ip_address(group), source)
                for group, source in (
                    ("239.1.1.1", None),
                    ("232.1.1.1", ip_address("10.1.0.1")),
                    ("ff15::2", None),
                )
            ]
            self.resources: list[Resource] = [
                self.ingress,
                egress,
                v6,
                *joined,
                Hold("r0", indexes["r0"], ip_address("10.1.0.2"), 5001),
                Reception("r0", indexes["r0"], ip_address("239.9.9.9")),
                GroupProtocol("r0", indexes["r0"], 4, 2),
            ]
            self.holdings = Holdings()
            for resource in self.resources:
                self.holdings.open(resource, links)
        self.ring = Ring(self.ingress)
        self.segment = self.holdings.lanes[self.ring].segment
        self.segment.rule_slot("gone")
        self.segment.rule_slot("a")
        self.segment.rules.give_back("gone")
        self.segment.output_slot("a", egress.target)
        self.segment.output_slot("a", ("r1", ip_network("239.2.2.0/28"), PortRange(1, 9)))
        key = MemberKey(1, Endpoint(bytes(4), 7), None)
        slot = self.segment.member_slot(key, 1)
        self.holdings.lanes[self.ring].members.add(key, "a", slot)
        self.restarts: Restarts = Counter({("r0", 0): 3})

    def leave(self, *, keep: bool = True) -> None:
        """With the manager, as it is now; then it is gone."""
        with self.relay.inside():
            assert not keep or asyncio.run(
                Keeper(self.manager.client()).keep(
                    self.holdings, self.restarts, CONFIG, CHOSEN, ROLES, RESOLVED
                )
            )
        self.manager.look()
        for _, ring in self.holdings.rings():
            ring.close()
        for lane in self.holdings.lanes.values():
            lane.segment.close()
        sockets = [*self.holdings.egress.values(), *set(self.holdings.receptions.values())]
        sockets += [sock for sock in self.holdings.holds.values() if sock is not None]
        sockets += self.holdings.memberships.sockets()
        for sock in sockets:
            sock.close()


@pytest.fixture
def before(triangle: Triangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Before]:
    manager = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("FDSTORE", "1000")
    yield Before(triangle, manager)
    manager.close()


def take_over(before: Before, monkeypatch: pytest.MonkeyPatch) -> tuple[Holdings, Restarts]:
    """As the process that systemd starts next."""
    hand_over(before.manager, monkeypatch)
    holdings, restarts = Holdings(), Restarts()
    with before.relay.inside():
        left = heir.take_over(before.manager.client(), holdings, restarts)
    if left.config is not None:
        assert left.config == CONFIG
        assert (left.chosen, left.roles, left.resolved) == (CHOSEN, ROLES, RESOLVED)
    return holdings, restarts


def test_all_of_it_is_there_again(before: Before, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [dict(slots.taken) for slots in (before.segment.rules, before.segment.outputs)]
    ports = dict(before.holdings.opener.ports)
    members = list(before.holdings.lanes[before.ring].members.all())
    own, descriptors = before.holdings.own(), _descriptors()
    geometry = before.holdings.lanes[before.ring].rings[before.ring].geometry
    before.leave()
    holdings, restarts = take_over(before, monkeypatch)
    assert set(holdings.all()) == set(before.resources)
    segment = holdings.lanes[before.ring].segment
    assert [dict(slots.taken) for slots in (segment.rules, segment.outputs)] == taken
    assert segment.rule_slot("new") == 0  # the place of the one that has gone
    assert holdings.opener.ports == ports
    assert holdings.own() == own
    assert holdings.lanes[before.ring].rings[before.ring].geometry == geometry
    assert restarts == {("r0", 0): 3}
    assert list(holdings.lanes[before.ring].members.all()) == members
    # The membership is the socket's own: to leave works, and nobody else had to join.
    groups = before.relay.run("ip", "maddress", "show", "dev", "r0")
    assert "239.1.1.1" in groups
    assert "ff15::2" in groups
    assert before.relay.sysctl(FORCED) == "2"
    with before.relay.inside():
        holdings.close_all()
    assert before.relay.sysctl(FORCED) == "0"  # as the one before had found it
    for descriptors_of in before.manager.kept.values():
        for descriptor in descriptors_of:
            os.close(descriptor)
    before.manager.kept.clear()
    groups = before.relay.run("ip", "maddress", "show", "dev", "r0")
    assert "239.1.1.1" not in groups
    assert "ff15::2" not in groups
    assert len(before.relay.run("cat", "/proc/net/packet").splitlines()) == 1
    assert _descriptors() < descriptors


def test_who_has_joined_stays_known_until_it_can_have_answered(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, group, index = time.monotonic(), ip_address("239.2.2.2"), before.egress.sending.index
    source, other = (ip_address(f"10.9.0.{n}") for n in (1, 2))
    queriers = before.holdings.queriers
    queriers.about(frozenset({group}))
    found = Group(group, now - 100, now + 1, {source.packed: now + 1}, {other.packed}, {2: now + 5})
    queriers.inherit(index, found)
    queriers.inherit(index, Group(group + 1, now, now + 1))  # no output sends to it
    before.leave()
    holdings, _ = take_over(before, monkeypatch)
    holdings.queriers.about(frozenset({group, group + 1}))
    assert holdings.queriers.listeners.keys() == {(index, group)}
    assert not holdings.queriers.listeners[index, group].takes(other)
    ((where, kept),) = holdings.queriers.heard()
    assert where == index
    assert kept == replace(found, until=kept.until, wanted={source.packed: kept.until})
    assert kept.until > now + 130
    with before.relay.inside():
        holdings.close_all()


def test_a_timer_that_has_run_out_does_not_run_again(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a source-specific group, whose sources somebody wants still."""
    now, group, index = time.monotonic(), ip_address("232.2.2.2"), before.egress.sending.index
    source = ip_address("10.9.0.1").packed
    queriers = before.holdings.queriers
    queriers.about(frozenset({group}))
    queriers.inherit(index, found := Group(group, now - 300, 0.0, {source: now + 9}))
    found.until = now - 40  # since somebody wanted it from any source
    before.leave()
    holdings, _ = take_over(before, monkeypatch)
    holdings.queriers.about(frozenset({group}))
    assert holdings.queriers.listeners == {(index, group): Wanted(False, (source,))}
    with before.relay.inside():
        holdings.close_all()


def test_rings_that_one_worker_reads_stay_together(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    with before.relay.inside():
        rings = [Ingress(name, socket.if_nametoindex(name), lane="r0") for name in ("r1", "r0")]
        for ingress in rings:
            link = Link(ingress.interface, ingress.index, True, True, 1500, 1)
            before.holdings.open(ingress, {ingress.interface: link})
    home = Ring(rings[0].home)
    segment = before.holdings.lanes[home].segment
    slot = segment.rule_slot("feed@r1")
    for place, packets in enumerate((3, 4)):
        segment._view.interfaces[place].traffic.packets = packets  # noqa: SLF001
        segment._view.positions[2 * place] = packets  # noqa: SLF001
    before.leave()
    holdings, _ = take_over(before, monkeypatch)
    lane = holdings.lanes[home]
    assert lane.places == {Ring(rings[0]): 0, Ring(rings[1]): 1}
    assert lane.segment.rules.taken == {"feed@r1": slot}
    assert list(lane.segment._view.positions)[:4] == [3, 0, 4, 0]  # noqa: SLF001
    found = [lane.segment.interface(Lost(), place).received.packets for place in (0, 1)]
    assert found == [3, 4]
    holdings.close_all()


def test_a_group_joined_just_before_a_kill_is_left_by_it(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would know of it: neither what was left nor, later, a rule."""
    late = Membership("r0", before.ingress.index, ip_address("239.1.1.7"))
    with before.relay.inside():
        keeper = Keeper(before.manager.client())
        assert asyncio.run(
            keeper.keep(before.holdings, before.restarts, CONFIG, CHOSEN, ROLES, RESOLVED)
        )
        before.holdings.open(late, {})
    assert "239.1.1.7" in before.relay.run("ip", "maddress", "show", "dev", "r0")
    before.leave(keep=False)
    groups = before.relay.run("ip", "maddress", "show", "dev", "r0")
    assert "239.1.1.7" not in groups
    assert "239.1.1.1" in groups
    holdings, _ = take_over(before, monkeypatch)
    assert set(before.joined) <= set(holdings.all())
    with before.relay.inside():
        holdings.open(late, {})
    holdings.close_all()


def test_what_is_let_in_is_what_was_known(before: Before, monkeypatch: pytest.MonkeyPatch) -> None:
    """All have one socket. What it let in later ends with it, and what it did not is there again.

    Of two groups with one hardware address, the second stays when the first goes.
    """
    first, late, *twins = (
        Reception("r0", before.ingress.index, ip_address(group))
        for group in ("239.9.9.9", "239.9.9.7", "232.9.9.8", "232.137.9.8")
    )

    def let_in() -> set[str]:
        words = before.relay.run("ip", "maddress", "show", "dev", "r0").split()
        return {word[-2:] for word in words if word.startswith("01:00:5e:09:09:")}

    with before.relay.inside():
        for each in twins:
            before.holdings.open(each, {})
        keeper = Keeper(before.manager.client())
        assert asyncio.run(
            keeper.keep(before.holdings, before.restarts, CONFIG, CHOSEN, ROLES, RESOLVED)
        )
        before.manager.look()
        assert len(set(before.holdings.receptions.values())) == 1
        assert let_in() == {"08", "09"}
        before.holdings.open(late, {})
        before.holdings.close(first)
    assert let_in() == {"07", "08"}
    before.leave(keep=False)
    holdings, _ = take_over(before, monkeypatch)
    for descriptors_of in before.manager.kept.values():
        for descriptor in descriptors_of:
            os.close(descriptor)
    before.manager.kept.clear()
    assert set(holdings.receptions) == {first, *twins}
    assert let_in() == {"08", "09"}
    with before.relay.inside():
        holdings.close(twins[0])
        assert let_in() == {"08", "09"}
        holdings.close(twins[1])
        assert let_in() == {"09"}
        holdings.close_all()
    assert let_in() == set()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_of_counters_that_do_not_fit_the_place_in_the_ring_remains(
    before: Before, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version of mcrd, after an upgrade: what waits in the ring is relayed all the same."""
    os.pwrite(before.segment.descriptor, (99).to_bytes(8, "little"), 0)
    os.pwrite(before.segment.descriptor, (1234).to_bytes(8, "little"), 8)
    before.leave()
    holdings, _ = take_over(before, monkeypatch)
    segment = holdings.lanes[before.ring].segment
    assert int.from_bytes(os.pread(segment.descriptor, 8, 8), "little") == 1234
    assert segment.rules.taken == {}
    assert list(holdings.lanes[before.ring].members.all()) == []
    assert "counters of another version (1)" in caplog.text
    assert before.egress in holdings.egress
    holdings.close_all()


def test_of_counters_that_do_not_fit_what_waits_in_the_ring_is_counted(
    before: Before, triangle: Triangle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So other rings, which take the place of this one, wait for it; and what is lost is told."""
    hush(triangle)
    with before.relay.inside():
        before.holdings.admit({"r0": frozenset({ip_network("239.1.1.1/32")})}, also_old=False)
    triangle.source.send("s0", "239.1.1.1", 5000, count=9)
    ((_, ring),) = before.holdings.rings()
    wait_for(lambda: ring.filled == (9, 0), "nine frames")
    os.pwrite(before.segment.descriptor, (99).to_bytes(8, "little"), 0)
    os.pwrite(before.segment.descriptor, (4).to_bytes(8, "little"), 8)
    before.leave()
    holdings, _ = take_over(before, monkeypatch)
    lane = holdings.lanes[before.ring]
    assert lane.filled == [(5, 0)]
    assert not lane.has_taken(lane.filled)
    with before.relay.inside():
        holdings.close(before.ingress)
    (count,) = holdings.ledger.interfaces(holdings.ring_full()).values()
    assert count.dropped["discarded"] == 5
    holdings.close_all()


@pytest.mark.parametrize(
    ("change", "lost", "reason"),
    [
        ({"egress": [[["Egress", {"port": 3}], (0, 0)]]}, 2, "Egress: "),
        ({"joined": [((0, 0), [["Membership", {}]])]}, 3, "Membership: "),
        ({"counts": 17}, 0, "counts: "),
        ({"ports": [[1]]}, 0, "ports: "),
        ({"holds": [(["Unheard", {}], None)]}, 1, "Hold: "),
    ],
)
def test_one_thing_that_does_not_fit_does_not_take_the_others_along(
    before: Before,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, object],
    lost: int,
    reason: str,
) -> None:
    before.leave()
    _change_index(before.manager, change)
    holdings, _ = take_over(before, monkeypatch)
    assert len(holdings.all()) == len(before.resources) - lost
    assert reason in caplog.text
    with before.relay.inside():
        holdings.close_all()


@pytest.mark.parametrize("change", [{"format": 0}, {"rings": "none"}, {"network": 1}])
def test_of_another_format_nothing_is_taken_and_everything_closed(
    before: Before,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, object],
) -> None:
    before.leave()
    count = _descriptors()
    _change_index(before.manager, change)
    holdings, _ = take_over(before, monkeypatch)
    assert holdings.all() == ()
    assert "cannot be used" in caplog.text
    # The connection to the manager, and the memory of what came back.
    assert _descriptors() <= count + 2


def _change_index(manager: Manager, change: dict[str, object]) -> None:
    (name,) = (name for name in manager.kept if name.startswith("index"))
    index = msgspec.msgpack.decode(manager.index())
    content = msgspec.msgpack.encode({**index, **change})
    descriptor = manager.kept[name][0]
    os.ftruncate(descriptor, HEADER.size)
    os.pwrite(descriptor, content, HEADER.size)


def test_what_changed_after_the_index_was_made_is_as_it_is_now(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that was killed between the two: an output closed, a group left."""
    with before.relay.inside():
        keeper = Keeper(before.manager.client())
        assert asyncio.run(
            keeper.keep(before.holdings, before.restarts, CONFIG, CHOSEN, ROLES, RESOLVED)
        )
        before.manager.look()
        before.holdings.close(before.egress)
        before.holdings.close(before.joined[0])
        before.holdings.close(before.joined[1])
    before.leave(keep=False)
    holdings, _ = take_over(before, monkeypatch)
    assert before.egress not in holdings.egress  # it would send nothing
    groups = before.relay.run("ip", "maddress", "show", "dev", "r0")
    assert "239.1.1.1" in groups  # it was joined again, as the index says
    assert "232.1.1.1" in groups
    assert holdings.has(before.joined[0])
    with before.relay.inside():
        holdings.close_all()


def test_a_later_version_may_have_more_to_say() -> None:
    hold = Hold("r0", 3, ip_address("10.1.0.2"), 5001)
    packed = msgspec.msgpack.decode(msgspec.msgpack.encode(pack(hold)))
    assert unpack(packed) == hold
    del packed[1]["protocol"]  # a field with a default that an earlier one did not have
    assert unpack(packed) == hold
    packed[1]["colour"] = "red"
    with pytest.raises(TypeError, match="colour"):
        unpack(packed)


def test_drops_of_an_output_that_were_fields_of_their_own_are_not_lost() -> None:
    found = unpack(["OutputCount", {"refused": 1, "new_member": 5, "unanswered": 2}])
    assert (found.refused, found.dropped["new_member"], found.unanswered) == (1, 5, 2)
