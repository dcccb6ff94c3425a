"""What a daemon meets while calls of its fail: a stream, saves, interfaces that change, clients."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from mcrd.client import ControlError, ask
from tests.lab import build_triangle, wait_for
from tests.lab.datagrams import sender
from tests.lab.processes import PATIENCE
from tests.lab.rules import rule
from tests.network.test_supervision import children

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.lab import Lab, Mcrd

A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=8")
B = rule("b", "r0 239.1.1.2 5000", "r1 239.2.2.2 6000 ttl=8")
COUNT = 100  # packets of a stream
MAY_HAPPEN = 3.0  # seconds
WHOLE = 5.0  # seconds until all of them are there, tenfold


def by_engine(rules: str, engine: str) -> str:
    """The rules, for workers of this engine."""
    return f'{rules}[daemon]\nengine = "{engine}"\n'


class World:
    """A triangle with a stream whose every packet is another one."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        triangle = build_triangle(lab)
        self._source = triangle.source
        self.relay = triangle.relay
        self._numbers = itertools.count()
        self._sender = sender(triangle.source, "s0")
        lab.close_at_end(self._sender)
        sink = self._sink = triangle.sink.socket(socket.AF_INET, socket.SOCK_DGRAM)
        lab.close_at_end(sink)
        sink.bind(("", 6000))
        here = socket.inet_aton("10.2.0.2")
        for group in ("239.2.2.1", "239.2.2.2"):
            member = struct.pack("4s4s", socket.inet_aton(group), here)
            sink.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)

    def file(self, name: str) -> Path:
        """A path of its own."""
        return self.lab.file(name)

    def send(self, count: int, group: str = "239.1.1.1") -> set[int]:
        """Send so many packets; return their numbers."""
        numbers = {next(self._numbers) for _ in range(count)}
        for number in sorted(numbers):
            self._sender.sendto(struct.pack("!I", number), (group, 5000))
        return numbers

    def arrived(self, seconds: float, sent: set[int]) -> set[int]:
        """Which of these packets arrive until all have, or the time is over."""
        found: set[int] = set()
        deadline = time.monotonic() + seconds
        while found != sent:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._sink], [], [], left)[0]:
                break
            (number,) = struct.unpack("!I", self._sink.recv(64))
            if number in sent:
                found.add(number)
        return found

    def begins_to_flow(self, group: str) -> None:
        """Wait until a packet arrives."""

        def one() -> bool:
            return bool(self.arrived(0.2, self.send(1, group)))

        wait_for(one, f"a packet to {group}", 2 * PATIENCE)

    def lost(self, group: str = "239.1.1.1") -> int:
        """How many packets of a stream the daemon loses, and not the machine."""
        missed = self._missed()
        sent = self.send(COUNT, group)
        lost = len(sent - self.arrived(WHOLE, sent))
        return max(0, lost - (self._missed() - missed)) if lost else 0

    def _missed(self) -> int:
        """Frames for which the machine had no room, on their way to the daemon and from it."""
        return self._source.missed("s0") + self.relay.missed("r1")

    def happen(self, daemon: Mcrd, rules: str) -> None:
        """A stream, a saved file, an address, an interface that changes, somebody who asks.

        All outputs go down until the worker has ended; then another begins.
        """
        run = self.relay.run
        self.send(COUNT)
        daemon.edit(rules)
        run("ip", "address", "add", "10.9.0.1/24", "dev", "r1")
        for command in ("status", "stats", "rules"):
            with contextlib.suppress(ControlError):
                ask(daemon.control, command, 1.0)
        run("ip", "address", "del", "10.9.0.1/24", "dev", "r1")
        before: set[int] = set()
        with contextlib.suppress(FileNotFoundError):  # it may have ended
            before = children(daemon.pid)
        run("ip", "link", "set", "r1", "down")
        _until(lambda: before - children(daemon.pid))
        run("ip", "link", "set", "r1", "up")
        _until(lambda: ask(daemon.control, "status", 1.0)["rules"].keys() == {"active"})
        time.sleep(1.2)  # two looks of the daemon's
        self.send(COUNT)


def _until(happened: Callable[[], object]) -> None:
    """Wait for what may not happen, since calls fail."""

    def tried() -> object:
        with contextlib.suppress(ControlError, FileNotFoundError):
            return happened()
        return None

    with contextlib.suppress(TimeoutError):
        wait_for(tried, "what may not happen", MAY_HAPPEN, 0.05)
