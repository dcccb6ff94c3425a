"""`dedupe` of an input: one stream of two senders is relayed once."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import wait_for
from tests.lab.datagrams import sender, udp
from tests.lab.rules import rule

if TYPE_CHECKING:
    from tests.lab import Triangle

COUNT = 3000


@pytest.mark.parametrize("workers", [1, 2])
def test_one_stream_of_two_senders(triangle: Triangle, workers: int) -> None:
    """Each payload arrives once and in order, and the other one has a counter."""
    daemon = triangle.lab.mcrd(
        triangle.relay,
        f"[interfaces.r0]\nworkers = {workers}\n"
        + rule("a", 'r0 239.1.1.1 5000 dedupe="5s"', "r1 239.2.2.2 6000")
        + rule("b", "r0 239.1.1.2 5000", "r1 239.2.2.3 6000"),
    )
    seen = triangle.sink.capture("k0", "udp port 6000")
    payloads = [struct.pack("!I", number) + os.urandom(200) for number in range(COUNT)]
    with sender(triangle.source, "s0") as first, sender(triangle.source, "s0") as second:
        for number, payload in enumerate(payloads):
            for sock in (first, second) if number % 2 else (second, first):
                sock.sendto(payload, ("239.1.1.1", 5000))
        first.sendto(payloads[0], ("239.1.1.2", 5000))  # of a rule that does not ask for it
        first.sendto(payloads[0], ("239.1.1.2", 5000))

    def stats(name: str) -> dict[str, Any]:
        found: dict[str, Any] = daemon.stats()["rules"][name]
        return found

    def duplicates() -> int:
        return int(stats("a")["dropped"]["duplicate"])

    wait_for(lambda: stats("a")["received"]["packets"] + duplicates() == 2 * COUNT, "all of them")
    wait_for(lambda: stats("b")["outputs"][0]["sent"]["packets"] == 2, "the other rule")
    wait_for(lambda: stats("a")["outputs"][0]["sent"]["packets"] >= COUNT, "what is sent")
    arrived = [d.payload for d in map(udp, seen.stop()) if d.destination == "239.2.2.2"]
    # Two workers may look at both copies at one moment.
    spare = 0 if workers == 1 else COUNT // 100
    assert COUNT <= len(arrived) <= COUNT + spare
    assert set(arrived) == set(payloads)
    if workers == 1:
        assert arrived == payloads
    rings = daemon.stats()["interfaces"]["r0"]["dropped"]
    assert (rings["looped"], rings["cut_off"], rings["ring_full"]) == (0, 0, 0)
    assert rings["duplicate"] == duplicates()
