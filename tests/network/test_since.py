"""`stats` with a cursor: only what changed, on real packets."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import TYPE_CHECKING

from mcrd.client import fetch
from mcrd.counters import Stats
from tests.lab import wait_for

if TYPE_CHECKING:
    from tests.lab import Mcrd, Triangle

RULES = """
[rules.camera]
input = { interface = "r0", address = "239.1.1.1", port = 5000 }
outputs = [{ interface = "r1", address = "239.2.2.2", port = 6000 }]

[rules.door]
input = { interface = "r0", address = "239.1.1.2", port = 5000, limit = { packets_per_second = 1 } }
outputs = [{ interface = "r1", address = "239.2.2.3", port = 6000 }]
"""


def test_only_what_changed_is_answered(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, RULES)
    daemon.wait_until_it_answers()
    wait_for(lambda: all_active(ask(daemon, 0)), "the rules")
    first = ask(daemon, 0)
    assert (first.since, first.rates, set(first.rules)) == (0, {}, {"camera", "door"})
    assert (first.rules["door"].address, first.rules["door"].port) == ("239.1.1.2", 5000)
    same = ask(daemon, first.cursor)
    assert (same.since, same.rules, same.rates) == (first.cursor, {}, {"camera": [], "door": []})

    sender = triangle.source.start_send("s0", "239.1.1.1", 5000, count=60_000, rate=500, size=500)

    def second() -> list[int | float] | None:
        flow = ask(daemon, first.cursor).rates["camera"]
        return flow if flow and flow[0] > 100 and flow[6] else None

    flow = wait_for(second, "a second of packets")
    packets, size, peak, *_, sent_packets, sent_size = flow
    assert len(flow) == 8
    assert size == packets * 500
    assert peak > 0
    assert sent_size == sent_packets * 500

    before = ask(daemon, first.cursor)
    assert before.rules == {}
    triangle.source.send("s0", "239.1.1.2", 5000, count=9)
    lost = wait_for(lambda: ask(daemon, before.cursor).rules, "a loss")
    assert lost["door"].dropped["rate_limited"] > 0
    assert lost.keys() == {"door"}
    sender.process.terminate()

    daemon.edit(RULES.replace("rules.camera", "rules.hall"))
    wait_for(lambda: "hall" in ask(daemon, 0).rules, "the edit")
    wait_for(lambda: all_active(ask(daemon, 0)), "the new rule")
    now = ask(daemon, before.cursor)
    assert {*now.rules, *now.rates} == {"hall", "door"}
    assert "hall" in now.rules
    settled = ask(daemon, now.cursor)
    triangle.relay.run("ip", "link", "set", "r1", "down")
    changed = wait_for(lambda: ask(daemon, settled.cursor).rules, "the link")
    assert all(rule.state != "active" for rule in changed.values())
    assert ask(daemon, 12345).since == 0


def ask(daemon: Mcrd, since: int) -> Stats:
    return fetch(daemon.control, Stats, 60, since=since)


def all_active(stats: Stats) -> bool:
    return {rule.state for rule in stats.rules.values()} == {"active"}
