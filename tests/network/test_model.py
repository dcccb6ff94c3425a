"""A model that says which flows flow, beside a real daemon to which all happens in any order.

    +--------+ s0   r0 +-------+ r1   k0 +------+
    | source |---------| relay |---------| sink |
    +--------+         +-------+         +------+
                         r2 |       k1 +-------+
                            '----------| sink2 |
                                       +-------+

One stream, to sink2, goes on meanwhile. All of it arrives, but for what a counter names.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    run_state_machine_as_test,
)
from hypothesis.stateful import rule as step

from tests.lab import wait_for
from tests.lab.datagrams import sender
from tests.lab.rules import rule
from tests.network.test_relief import Manager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab import Fork, Host, Mcrd

NAMES = st.sampled_from("abc")
GROUPS = (1, 2, 3, 4)  # 239.1.1.GROUP becomes 239.2.2.GROUP
STEADY = 9
SINKS = {"r1": ("sink", "k0"), "r2": ("sink2", "k1")}
OUTPUTS = st.sampled_from((("r1",), ("r2",), ("r1", "r2")))
READ_BY = st.sampled_from(("", "workers = 2", 'ring_size = "16MiB"'))
PROBES = 3  # datagrams of each group in each look
ROOM = 64 << 20  # bytes: a minute of the stream, each datagram with what the kernel adds
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
PACE = 0.004  # seconds from one datagram of the stream to the next
LONG = 60.0  # seconds: a worker that is killed again and again starts later each time
NOT_TAKEN = {"ring_full", "discarded"}


class Flow(NamedTuple):
    """A rule of the file."""

    group: int
    outputs: tuple[str, ...]


class Stream:
    """Numbered datagrams of the group STEADY, one after the other, but while it pauses."""

    def __init__(self, source: Host) -> None:
        self.sent = 0
        self._socket = sender(source, "s0")
        self._goes_on = threading.Event()
        self._stands = threading.Event()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends.wait(PACE):
            if not self._goes_on.is_set():
                self._stands.set()
                self._goes_on.wait()
                continue
            self._socket.sendto(struct.pack("!Q", self.sent), (f"239.1.1.{STEADY}", 5000))
            self.sent += 1

    def go_on(self) -> None:
        self._stands.clear()
        self._goes_on.set()

    def pause(self) -> None:
        self._goes_on.clear()
        assert self._stands.wait(LONG)

    def close(self) -> None:
        self._ends.set()
        self._goes_on.set()
        self._thread.join()
        self._socket.close()


class World:
    """The hosts, what they send, and what they get: sockets by the relay's interface and group."""

    def __init__(self, fork: Fork, manager: Manager, end: ExitStack) -> None:
        self.fork, self.manager = fork, manager
        self.source = sender(fork.source, "s0")
        end.callback(self.source.close)
        self.received: dict[tuple[str, int], socket.socket] = {}
        for interface, (sink, there) in SINKS.items():
            for group in (*GROUPS, STEADY):
                made = listening(getattr(fork, sink), there, group)
                end.callback(made.close)
                self.received[interface, group] = made

    def take(self, interface: str, group: int) -> list[int]:
        """The numbers of the datagrams that have come."""
        found = []
        while True:
            try:
                found.append(struct.unpack("!Q", self.received[interface, group].recv(100))[0])
            except BlockingIOError:
                return found


def listening(host: Host, interface: str, group: int) -> socket.socket:
    """Hears one group at port 6000."""
    made = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
    address = socket.inet_aton(f"239.2.2.{group}")
    with host.inside():
        index = socket.if_nametoindex(interface)
    made.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", address, bytes(4), index)
    )
    made.bind((f"239.2.2.{group}", 6000))
    made.setblocking(False)
    return made


class Life(RuleBasedStateMachine):
    """What happens to a daemon, and what is so after each of it."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.flows: dict[str, Flow] = {}
        self.up = True  # r1
        self.read_by = ""
        self.kills = 0
        self.number = 0  # of the last probe
        self.came: list[int] = []  # of the stream
        self.relay = self.world.fork.relay
        self.missed_before = 0  # in the lives before
        self.missed_before = self.missed()
        self.stream = Stream(self.world.fork.source)
        self.daemon: Mcrd = self.world.manager.start(self.text())

    def teardown(self) -> None:
        self.stream.close()
        self.daemon.stop()
        self.world.manager.forget()
        if not self.up:
            self.set_r1("up")
        for interface, group in self.world.received:
            self.world.take(interface, group)

    def text(self) -> str:
        """The rule file of the model."""
        flows = {**self.flows, "steady": Flow(STEADY, ("r2",))}
        rules = [
            rule(
                name,
                f"r0 239.1.1.{flow.group} 5000",
                *(f"{where} 239.2.2.{flow.group} 6000 ttl=4" for where in flow.outputs),
            )
            for name, flow in flows.items()
        ]
        return f"[daemon]\nwatch = false\n{''.join(rules)}[interfaces.r0]\n{self.read_by}\n"

    def reload(self, hangup: bool) -> None:
        self.daemon.edit(self.text())
        if not hangup:
            self.daemon.ctl("reload", timeout=LONG)
            return
        before = self.daemon.log().count("reload (")
        self.daemon.signal(signal.SIGHUP)
        wait_for(lambda: self.daemon.log().count("reload (") > before, "the reload", LONG)

    def set_r1(self, word: str) -> None:
        self.relay.run("ip", "link", "set", "r1", word)
        state = word.upper()

        def done() -> bool:
            return any(
                link["ifname"] == "r1" and link["operstate"] == state for link in self.relay.links()
            )

        wait_for(done, f"r1 to be {word}")
        self.up = word == "up"

    @step(name=NAMES, group=st.sampled_from(GROUPS), outputs=OUTPUTS, hangup=st.booleans())
    def add_or_change(self, name: str, group: int, outputs: tuple[str, ...], hangup: bool) -> None:
        others = {flow.group for other, flow in self.flows.items() if other != name}
        if group in others:
            group = next(each for each in GROUPS if each not in others)
        self.flows[name] = Flow(group, outputs)
        self.reload(hangup)

    @precondition(lambda self: self.flows)
    @step(at=st.integers(0, 2), hangup=st.booleans())
    def remove(self, at: int, hangup: bool) -> None:
        del self.flows[sorted(self.flows)[at % len(self.flows)]]
        self.reload(hangup)

    @precondition(lambda self: len(self.flows) > 1)
    @step(hangup=st.booleans())
    def swap(self, hangup: bool) -> None:
        """The inputs of two rules, which keep their outputs' interfaces."""
        one, two = sorted(self.flows)[:2]
        first, second = self.flows[one], self.flows[two]
        self.flows[one] = Flow(second.group, first.outputs)
        self.flows[two] = Flow(first.group, second.outputs)
        self.reload(hangup)

    @step(read_by=READ_BY, hangup=st.booleans())
    def other_rings(self, read_by: str, hangup: bool) -> None:
        self.read_by = read_by
        self.reload(hangup)

    @step()
    def refused_file(self) -> None:
        """All stays as it is."""
        self.daemon.edit(self.text() + "[rules.a]\n")
        assert self.daemon.ctl("reload", check=False, timeout=LONG).returncode != 0
        self.daemon.edit(self.text())

    @step()
    def interface_down_or_up(self) -> None:
        self.set_r1("down" if self.up else "up")

    @step(which=st.integers(0, 1))
    def worker_killed(self, which: int) -> None:
        workers = [int(each["pid"]) for each in self.daemon.stats()["workers"]]
        pid = workers[which % len(workers)]
        self.kills += 1
        os.kill(pid, signal.SIGKILL)

        def another() -> bool:
            now = {each["pid"] for each in self.daemon.stats()["workers"]}
            return pid not in now and len(now) == len(workers)

        wait_for(another, "another worker", LONG)

    @step(kill=st.booleans())
    def supervisor_restarts(self, kill: bool) -> None:
        """With what the service manager has kept for it."""
        if kill:
            self.kills += 1
            self.daemon.kill()
        else:
            assert self.daemon.stop() == 0
        self.daemon = self.world.manager.start(self.text())

    def sends(self, where: str) -> bool:
        return where == "r2" or self.up

    def settled(self) -> bool:
        """Whether rules and outputs are in the states that the model says."""
        if self.daemon.status()["pending"]:
            return False
        expected = {
            name: ["active" if self.sends(where) else "waiting" for where in flow.outputs]
            for name, flow in {**self.flows, "steady": Flow(STEADY, ("r2",))}.items()
        }
        rules = self.daemon.stats()["rules"]
        return expected == {
            name: [output["state"] for output in found["outputs"]] for name, found in rules.items()
        }

    @invariant()
    def flows_as_the_model_says(self) -> None:
        wait_for(self.settled, "the states of the model", LONG)
        self.stream.pause()
        self.all_of_the_stream_came()
        before = self.daemon.stats()
        sent: dict[int, list[int]] = {}
        for group in GROUPS * PROBES:
            self.number += 1
            sent.setdefault(group, []).append(self.number)
            self.world.source.sendto(struct.pack("!Q", self.number), (f"239.1.1.{group}", 5000))
        for interface in SINKS:
            for group in GROUPS:
                flows = any(
                    flow.group == group and interface in flow.outputs and self.sends(interface)
                    for flow in self.flows.values()
                )
                self.came_as_sent(interface, group, sent[group] if flows else [])
        wait_for(partial(self.adds_up, before), "counters that add up")
        self.stream.go_on()

    def came_as_sent(self, interface: str, group: int, sent: list[int]) -> None:
        """No more, no less, and in order."""
        came: list[int] = []

        def all_came() -> bool:
            came.extend(self.world.take(interface, group))
            return len(came) >= len(sent)

        wait_for(all_came, f"{sent} of {group} at {interface}")
        assert came == sent, f"of {group} at {interface}"

    def adds_up(self, before: dict[str, Any]) -> bool:
        """What the interface took is what its rules took and dropped, and outputs had all of it."""
        after = self.daemon.stats()
        taken = grown(before, after, "interfaces", "r0", "received", "packets")
        dropped = sum(
            grown(before, after, "interfaces", "r0", "dropped", reason)
            for reason in after["interfaces"]["r0"]["dropped"].keys() - NOT_TAKEN
        )
        for name, flow in self.flows.items():
            received = grown(before, after, "rules", name, "received", "packets")
            taken -= received
            if any(self.sends(where) for where in flow.outputs) and received != PROBES:
                return False
            for at, where in enumerate(flow.outputs):
                sent = grown(before, after, "rules", name, "outputs", at, "sent", "packets")
                if sent != (received if self.sends(where) else 0):
                    return False
        return taken == dropped

    def missed(self) -> int:
        """What came to no host, for which a cable's other end had no room."""
        missed = self.world.fork.source.missed("s0") + self.relay.missed("r2")
        return missed - self.missed_before

    def all_of_the_stream_came(self) -> None:
        """But for what counters name after a kill; and nothing twice without one."""

        def named() -> int:
            stats = self.daemon.stats()
            dropped = stats["interfaces"]["r0"]["dropped"]
            crashed = stats["rules"]["steady"]["outputs"][0]["crashed"]
            return int(crashed + sum(dropped.get(each, 0) for each in NOT_TAKEN)) + self.missed()

        def came() -> bool:
            self.came += self.world.take("r2", STEADY)
            return len(set(self.came)) + named() >= self.stream.sent

        try:
            wait_for(came, "the stream")
        except TimeoutError as error:
            missing = set(range(self.stream.sent)) - set(self.came)
            raise AssertionError(f"{sorted(missing)} of {self.stream.sent}: {error}") from error
        if self.kills == 0:
            assert self.came == sorted(set(self.came))
            assert named() == self.missed()
            received = self.daemon.stats()["rules"]["steady"]["received"]["packets"]
            assert len(self.came) <= received <= self.stream.sent


def grown(before: Any, after: Any, *path: str | int) -> int:
    """By how much a number of two answers has."""
    for each in path:
        before, after = before[each], after[each]
    return int(after - before)


@pytest.fixture
def world(fork: Fork) -> Iterator[None]:
    manager = Manager(fork)
    with ExitStack() as end:
        end.callback(manager.close)
        Life.world = World(fork, manager, end)
        yield


def lives(examples: int, steps: int) -> None:
    """Each with a daemon of its own; a failure prints all that happened to it."""
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            phases=[Phase.generate],  # to make a failure shorter would take longer than a test may
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.usefixtures("world")
def test_flows_flow_as_a_model_says() -> None:
    lives(examples=3, steps=10)


@pytest.mark.long
@pytest.mark.usefixtures("world")
def test_flows_flow_as_a_model_says_for_long() -> None:
    lives(examples=10, steps=30)
