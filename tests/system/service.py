"""The installed service, and a stream through it, as the tests see them."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.lab import Triangle, wait_for
from tests.lab.rules import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.traffic import Receiver, Sender
    from tests.system.machine import Machine

RATE = 5_000  # packets per second
SIZE = 1400
# Enough for machines that take tens of times as long for a restart.
RING = '[interfaces.r0]\nring_size = "128 MiB"\n'
A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=4") + RING
B = rule("b", "r0 239.1.1.2 5000", "r1 239.2.2.2 6000 ttl=4")
BROKEN = A.replace("5000", "70000")


@dataclass(frozen=True)
class Service:
    """A triangle whose relay is a machine on which mcrd is installed."""

    network: Triangle
    machine: Machine

    def rules(self, text: str) -> None:
        """Writes the rule file, and starts the daemon anew with nothing that it knew before."""
        self.machine.run("systemctl", "stop", "mcrd")
        self.machine.run("systemctl", "reset-failed", "mcrd")
        self.machine.write("/etc/mcr.toml", text)
        self.machine.run("systemctl", "start", "mcrd")


class Stream:
    """What is under way from source to sink, and what became of it."""

    def __init__(self, sender: Sender, receiver: Receiver) -> None:
        self._sender = sender
        self._receiver = receiver

    def end(self) -> dict[str, Any]:
        """Ends it; returns what the receiver says, with what was sent."""
        sent = self._sender.stop()["sent"]
        seen = -1

        def quiet() -> bool:
            nonlocal seen
            before, seen = seen, self._received()
            return before == seen

        wait_for(quiet, "the last packets", 60.0, interval=1.0)
        return {**self._receiver.stop(), "sent": sent}

    def _received(self) -> int:
        """Datagrams that came to the sink's interface."""
        table = self._receiver.host.run("cat", "/proc/net/dev")
        (line,) = (line for line in table.splitlines() if line.lstrip().startswith("k0:"))
        return int(line.split(":")[1].split()[1])


def ctl(machine: Machine, command: str) -> dict[str, Any]:
    """`mcrctl COMMAND --json`, run on the machine."""
    answer: dict[str, Any] = json.loads(machine.run("mcrctl", command, "--json"))
    return answer


def received(machine: Machine, name: str = "a") -> int:
    """Packets that a rule has received."""
    return int(ctl(machine, "stats")["rules"][name]["received"]["packets"])


def dropped(machine: Machine) -> dict[str, int]:
    """Frames of r0 that went no further, by reason."""
    counts: dict[str, int] = ctl(machine, "stats")["interfaces"]["r0"]["dropped"]
    return {reason: count for reason, count in counts.items() if count}


@contextmanager
def streaming(service: Service, rate: int = RATE) -> Iterator[Stream]:
    """The stream of rule a, from when it flows on."""
    network = service.network
    before = received(service.machine)
    receiver = network.sink.receive("k0", "239.2.2.1", 6000)
    sender = network.source.start_send("s0", "239.1.1.1", 5000, rate=rate, size=SIZE)
    wait_for(lambda: received(service.machine) > before + rate // 4, "the stream to flow")
    try:
        yield Stream(sender, receiver)
    finally:
        for process in (sender.process, receiver.process):
            process.kill()
            process.wait()


def restarted(machine: Machine, times: int) -> bool:
    """Has systemd started it anew by itself, so many times, and is it ready?"""
    return (machine.show("NRestarts"), machine.show("ActiveState")) == (str(times), "active")


def flows_on(service: Service, packets: int = RATE) -> None:
    """So many more packets have been received."""
    before = received(service.machine)
    wait_for(lambda: received(service.machine) > before + packets, "the stream to go on")


@contextmanager
def drop_in(machine: Machine, settings: str) -> Iterator[None]:
    """Other settings for the service, from its next start on."""
    directory = "/etc/systemd/system/mcrd.service.d"
    machine.run("mkdir", "-p", directory)
    machine.write(f"{directory}/test.conf", f"[Service]\n{settings}\n")
    machine.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        machine.run("rm", "-r", directory)
        machine.run("systemctl", "daemon-reload")
