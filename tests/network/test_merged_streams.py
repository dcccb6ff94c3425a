"""Merged streams, many at once and those of exchanges: exactly what some leg brought."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.test_merge import mold
from tests.lab import Triangle, wait_for
from tests.lab.datagrams import sender
from tests.network.test_merge import FEED, A, B, Legs, rtp, second_way
from tests.network.test_streams import hoard

if TYPE_CHECKING:
    import socket

RULES = 200


def drain(sock: socket.socket) -> Counter[bytes]:
    """All that has come."""
    found = Counter[bytes]()
    sock.setblocking(False)
    try:
        while True:
            found[sock.recv(65536)] += 1
    except BlockingIOError:
        return found


@pytest.mark.long
def test_many_merged_rules_at_once(triangle: Triangle) -> None:
    """Each has its own streams, though all have the same numbers."""
    second_way(triangle)
    groups = [f"239.7.{number // 100}.{number % 100 + 1}" for number in range(RULES)]
    rules = (
        FEED.replace("rules.feed", f"rules.f{number}")
        .replace("239.1.1.1", group)
        .replace("239.1.1.2", group)
        + 'merge = { by = "rtp" }\n'
        for number, group in enumerate(groups)
    )
    daemon = triangle.lab.mcrd(triangle.relay, "".join(rules))
    behind = hoard(triangle.sink, "k0", "239.2.2.2", 6000)
    a, b = sender(triangle.source, "s0"), sender(triangle.source, "s1")
    wanted = Counter[bytes]()
    for number in range(20):
        for which, group in enumerate(groups):
            content = rtp(number) + struct.pack("!I", which)
            wanted[content] += 1
            if number % 5 != 1:
                a.sendto(content, (group, 5000))
            if number % 5 != 3:
                b.sendto(content, (group, 5001))
    found = Counter[bytes]()

    def whole() -> bool:
        found.update(drain(behind))
        return found.total() >= wanted.total()

    wait_for(whole, "all streams", 60.0)
    merges = [rule["merge"] for rule in daemon.stats()["rules"].values()]
    assert {found["received"] for found in merges} == {16}
    assert found == wanted
    for each in (a, b, behind):
        each.close()


def test_a_pair_of_moldudp64_with_heartbeats_and_a_new_session(triangle: Triangle) -> None:
    """Bursts of which one leg lost parts; numbers that begin anew in another session."""
    legs = Legs(triangle, f'{FEED}merge = {{ by = "sequence" }}\ninspect = "moldudp64"\n')
    wanted = Counter[bytes]()
    for session in (b"session001", b"session002"):
        burst = [mold(1 + 3 * number, 3, session) for number in range(100)]
        heartbeat = mold(301, 0, session)
        for way, to, keep in ((legs.a, A, burst[:40]), (legs.b, B, burst[30:])):
            for packet in (*keep, heartbeat, heartbeat):
                way.sendto(packet, to)
        wanted.update((*burst, heartbeat, heartbeat))
    wait_for(lambda: legs.arrived() >= wanted, "the stream")
    legs.a.sendto(last := mold(1, 1, b"session003"), A)
    wait_for(lambda: last in legs.arrived(), "the last one")
    assert legs.arrived() == wanted + Counter([last])
    legs.a.close()
    legs.b.close()


def test_a_counter_of_four_bytes_that_wraps(triangle: Triangle) -> None:
    inspect = 'inspect = { offset = 2, bytes = 4, order = "little" }'
    legs = Legs(triangle, f'{FEED}merge = {{ by = "sequence" }}\n{inspect}\n')
    stream = [
        b"ab" + struct.pack("<I", number % 2**32) + b"%d" % number
        for number in range(2**32 - 200, 2**32 + 200)
    ]
    for number, content in enumerate(stream):
        if number % 7 != 0:
            legs.a.sendto(content, A)
        if number % 5 != 0:
            legs.b.sendto(content, B)
    wanted = Counter(each for number, each in enumerate(stream) if number % 35 != 0)
    legs.a.sendto(last := b"ab" + bytes(4) + b"anew", A)  # its sender begins anew
    wait_for(lambda: last in legs.arrived(), "the last one")
    wait_for(lambda: legs.arrived() >= wanted, "the stream")
    assert legs.arrived() == wanted + Counter([last])
    legs.a.close()
    legs.b.close()
