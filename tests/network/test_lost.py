"""What no worker took is counted, in datagrams: against what was sent, and what arrives.

source s0 -- r0 relay r1 -- k0 sink
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import random
import re
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.lab import wait_for
from tests.lab.datagrams import sender
from tests.lab.rules import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab import Mcrd, Triangle

UDP_SEGMENT = 103  # linux/udp.h
SMALL_RINGS = '[interfaces.r0]\nring_size = "1 MiB"\n'
A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=4")
SIZE = 1400  # bytes of a datagram
WHOLE = 44  # datagrams of the largest super-frame


@contextmanager
def stopped(daemon: Mcrd) -> Iterator[None]:
    """The worker takes nothing meanwhile."""
    (worker,) = daemon.stats()["workers"]
    os.kill(worker["pid"], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker["pid"], signal.SIGCONT)


def merged(sock: socket.socket, datagrams: int) -> int:
    """Sends a super-frame of so many datagrams, or one that is none; returns the number."""
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE if datagrams > 1 else 0)
    return sock.sendto(bytes(datagrams * SIZE), ("239.1.1.1", 5000)) // SIZE


def settled(daemon: Mcrd, sent: int, within: float = 0.0) -> dict[str, Any]:
    """The interface's counters, when what was taken and what was lost is what was sent."""

    def found() -> dict[str, Any] | None:
        interface: dict[str, Any] = daemon.stats()["interfaces"]["r0"]
        told = interface["received"]["packets"] + interface["dropped"]["ring_full"]
        return interface if abs(told - sent) <= within else None

    return wait_for(found, f"the counters to say {sent}")


def test_a_full_ring_is_counted_in_datagrams(triangle: Triangle) -> None:
    """Of frames of one size as many as were lost, of others about as many, within a fourth."""
    daemon = triangle.lab.mcrd(triangle.relay, SMALL_RINGS + A)
    arrives = triangle.sink.capture("k0", "udp", direction="in")
    chance = random.Random(5)
    with sender(triangle.source, "s0") as sock:
        with stopped(daemon):
            sent = sum(merged(sock, 1) for _ in range(4000))
        plain = settled(daemon, sent)
        assert plain["dropped"]["ring_full"] == plain["dropped_frames"]["ring_full"] > 1000
        # Both rings are full now, each of another kind.
        with stopped(daemon):
            sent += sum(merged(sock, 1) + merged(sock, WHOLE) for _ in range(2000))
        both = settled(daemon, sent)
        frames = both["dropped_frames"]["ring_full"] - plain["dropped_frames"]["ring_full"]
        lost = both["dropped"]["ring_full"] - plain["dropped"]["ring_full"]
        assert lost > 10 * frames > 10_000
        assert len(arrives.stop()) == sent - both["dropped"]["ring_full"]
        with stopped(daemon):
            more = sum(merged(sock, chance.randrange(2, WHOLE + 1)) for _ in range(2000))
        settled(daemon, sent + more, within=more // 4)
    text = daemon.ctl("stats").stdout
    told = r"^r0: received .*; dropped: about \d+ ring_full \(\d+ frames\)$"
    assert re.search(told, text, re.MULTILINE)


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
