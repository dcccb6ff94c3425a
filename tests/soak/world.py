"""Two hosts that take over from each other, and a third one to which everything happens."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from mcrd.client import ControlError, ask
from tests.lab import Lab, wait_for
from tests.lab.processes import PATIENCE
from tests.lab.rules import rule
from tests.mutations import wrong_text
from tests.network.test_pair import VIRTUAL, Twin, hosts, ours
from tests.network.test_supervision import children

if TYPE_CHECKING:
    from collections.abc import Callable

STANDBY = "2s"
PAIRED, STEADY = 500, 1000  # packets a second
SIZE = 200  # bytes
STEADILY = rule("steady", "r0 239.1.1.3 5000", "r1 239.2.2.4 6000 ttl=2")
BESIDE = (
    rule("beside", "r0 239.1.1.5 5000", "r2 239.2.2.7 6000 ttl=2")
    + '[rules.members]\ninput = { interface = "r0", address = "239.1.1.4", port = 5000 }\n'
    'outputs = [{ interface = "r2", address = "239.2.2.6", port = 6000, ttl = 2,'
    ' when = "members" }]\n[interfaces.r2]\nquerier = true\n'
)
# What the ring, and a worker that was killed, may have had of the steady stream.
NAMED = ("crashed", "discarded", "ring_full")


class World:
    """All hosts and streams. What happens has a method each, whose name says what."""

    def __init__(self, lab: Lab, dice: random.Random) -> None:
        self._lab, self._dice, self._serial = lab, dice, 0
        source, sink, (one, two, self.third) = hosts(lab, 3)
        (self._beside,) = lab.hosts("beside")
        lab.link(self.third, "r2", ["10.3.0.1/24"], self._beside, "k1", ["10.3.0.2/24"])
        self._first = Twin(one, {VIRTUAL: 200}, ours(STANDBY))
        self._second = Twin(two, {VIRTUAL: 100}, ours(STANDBY))
        self._first.start()
        wait_for(lambda: self._first.state() == "active", "the first to have the address")
        self._second.start()
        self.daemon = lab.mcrd(self.third, self._rules())
        self._wait_until_calm()
        self._received = {
            name: sink.receive("k0", group, 6000)
            for name, group in (("paired", "239.2.2.2"), ("steady", "239.2.2.4"))
        }
        start = partial(source.start_send, "s0", port=5000, size=SIZE)
        self._sent = {
            "paired": start("239.1.1.1", rate=PAIRED),
            "steady": start("239.1.1.3", rate=STEADY),
            "members": start("239.1.1.4", rate=100),
            "beside": start("239.1.1.5", rate=100),
        }

    def _rules(self, more: str = "", interface: str = "") -> str:
        return STEADILY + BESIDE + more + f"[interfaces.r0]\n{interface}\n"

    def _wait_until_calm(self) -> None:
        """All rules but one run, the one for whose group there may be no member."""

        def calm() -> bool:
            with contextlib.suppress(ControlError):
                status = ask(self.daemon.control, "status", 5.0)
                waiting = set(status["rules"]) - {"active", "idle"}
                return not waiting and not status["pending"]
            return False

        wait_for(calm, "all rules to run", 2 * PATIENCE, 0.1)
        # One that relays, or one for each half, and the spare one.
        wait_for(lambda: len(children(self.daemon.pid)) == self._processes(), "the workers", 60)

    def _processes(self) -> int:
        return 1 + len(ask(self.daemon.control, "stats", 5.0)["workers"])

    def _reload(self, rules: str) -> None:
        self.daemon.edit(rules)
        self.daemon.ctl("reload")

    def happenings(self) -> list[Callable[[], None]]:
        """All that happens in a round, in an order by the dice."""
        found = [
            self.rules_come_and_go,
            self.an_interface_goes_down,
            self.an_interface_has_another_name,
            self.a_worker_is_killed,
            self.workers_and_rings_change,
            self.members_come_and_go,
            self.clients_ask,
            self.interfaces_come_and_go,
            self.the_active_host_dies,
        ]
        self._dice.shuffle(found)
        return found

    def rules_come_and_go(self) -> None:
        """A hundred of them, in three reloads."""
        for number in (100, 40, 0):
            more = "".join(
                rule(f"more{n}", f"r0 239.9.0.{n} 5000", f"r2 239.8.0.{n} 6000 ttl=2")
                for n in range(number)
            )
            self._reload(self._rules(more))

    def an_interface_goes_down(self) -> None:
        """The one beside the stream under watch."""
        self.third.run("ip", "link", "set", "r2", "down")
        wait_for(lambda: "waiting" in self.daemon.status()["rules"], "the rule to wait")
        self.third.run("ip", "link", "set", "r2", "up")

    def an_interface_has_another_name(self) -> None:
        """And then its own again; its addresses stay."""
        for old, new in (("r2", "r9"), ("r9", "r2")):
            for words in (("down",), ("name", new)):
                self.third.run("ip", "link", "set", old, *words)
            self.third.run("ip", "link", "set", new, "up")

    def a_worker_is_killed(self) -> None:
        """One that relays."""
        pid = self._dice.choice(self.daemon.status()["workers"])["pid"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

        def another() -> bool:
            workers = self.daemon.status()["workers"]
            return bool(workers) and pid not in {each["pid"] for each in workers}

        wait_for(another, "another worker", 60)

    def workers_and_rings_change(self) -> None:
        """Two workers, a larger ring, and back."""
        for interface in ("workers = 2", 'ring_size = "64MiB"', ""):
            self._reload(self._rules(interface=interface))
            self._wait_until_calm()

    def members_come_and_go(self) -> None:
        """Where the group is relayed while somebody listens."""
        for _ in range(3):
            received = self._beside.receive("k1", "239.2.2.6", 6000, expect=20)
            got = received.result()
            assert got["unique"] >= 20, got

    def clients_ask(self) -> None:
        """Well, badly, and without a word."""
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
                client.connect(str(self.daemon.control))
                text = '{"command": "stats", "arguments": {"name": "steady"}}\n'
                client.sendall(wrong_text(text, self._dice).encode(errors="surrogatepass"))
        for command in ("status", "rules", "members"):
            ask(self.daemon.control, command, 5.0)
        self.daemon.ctl("explain", "steady", "--seconds", "0.2", check=False)

    def interfaces_come_and_go(self) -> None:
        """Ten pairs that have no rule."""
        self._serial += 1
        for number in range(10):
            name = f"v{self._serial % 10}{number}"
            self.third.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
        for number in range(10):
            self.third.run("ip", "link", "delete", f"v{self._serial % 10}{number}")

    def the_active_host_dies(self) -> None:
        """The other one takes over; it comes back as the spare one."""
        wait_for(lambda: self._roles() == {"active", "standby"}, "one active, one standby", 60)
        dying, other = self._first, self._second
        if other.state() == "active":
            dying, other = other, dying
        dying.pull_the_plug()
        wait_for(lambda: other.state() == "active", "the takeover", 60)
        dying.repair()

    def _roles(self) -> set[str]:
        return {self._first.state(), self._second.state()}

    def flows(self) -> None:
        """The steady stream goes on, and all else is as it was; raises TimeoutError."""
        self._wait_until_calm()
        before = self._relayed()
        wait_for(lambda: self._relayed() > before, "the stream to go on", 60)

    def _relayed(self) -> int:
        found: dict[str, Any] = self.daemon.stats()["rules"]["steady"]
        return int(found["outputs"][0]["sent"]["packets"])

    def end(self) -> list[str]:
        """What was lost without a reason, after the end of the streams; the figures are printed."""
        sent = {name: stream.stop()["sent"] for name, stream in self._sent.items()}
        wait_for(self._is_silent, "silence", 60)
        got = {name: stream.stop() for name, stream in self._received.items()}
        dropped = self.daemon.stats()["interfaces"]["r0"]["dropped"]
        counted = {name: dropped[name] for name in dropped if dropped[name]}
        faults = []
        for name, found in got.items():
            lost = sent[name] - found["unique"]
            print(f"{name}: {sent[name]} sent, {lost} lost, {found['duplicated']} twice")
            allowed = sum(dropped.get(each, 0) for each in NAMED) if name == "steady" else 0
            if lost > allowed:
                faults.append(f"{name}: {lost} lost, and {allowed} of all streams in {NAMED}")
        print("counted at the third host:", counted)
        for daemon in (self.daemon, self._first.daemon, self._second.daemon):
            assert daemon is not None
            log = daemon.log()
            faults += [each for each in ("Traceback", "Exception in") if each in log]
        return faults

    def _is_silent(self) -> bool:
        before = self._relayed(), self._heard()
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: (self._relayed(), self._heard()) != before, "a packet", 1.0)
            return False
        return True

    def _heard(self) -> int:
        found = 0
        for twin in (self._first, self._second):
            assert twin.daemon is not None
            stats = twin.daemon.stats()["rules"]["a"]
            found += int(stats["outputs"][0]["sent"]["packets"])
        return found
