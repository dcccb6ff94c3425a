"""The filter in front of the rings: foreign traffic stays out, what a rule names comes in."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from tests.lab import Mcrd, Triangle, wait_for
from tests.lab.datagrams import sender
from tests.lab.rules import rule


def received(daemon: Mcrd) -> int:
    """Frames that came into a ring."""
    found: int = daemon.stats()["interfaces"]["r0"]["received"]["packets"]
    return found


def only_ours(triangle: Triangle) -> None:
    """Neighbours say nothing of their own accord."""
    for host, interface in ((triangle.source, "s0"), (triangle.relay, "r0")):
        host.sysctl(f"net.ipv6.conf.{interface}.disable_ipv6", "1")


def test_foreign_traffic_stays_out_and_rules_come_and_go(triangle: Triangle) -> None:
    only_ours(triangle)
    a = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000")
    b = rule("b", "r0 239.1.1.2 5000", "r1 239.2.2.3 6000")
    daemon = triangle.lab.mcrd(triangle.relay, a)
    with sender(triangle.source, "s0") as sock:

        def send(group: str, port: int = 5000) -> None:
            for _ in range(10):
                sock.sendto(b"x", (group, port))

        def handled(name: str, count: int) -> None:
            wait_for(
                lambda: daemon.stats()["rules"][name]["received"]["packets"] == count,
                f"{count} datagrams of rule {name}",
            )

        for group in ("239.1.1.2", "239.9.9.9", "224.0.0.1"):
            send(group)
        send("239.1.1.1")
        handled("a", 10)
        assert received(daemon) == 10
        # What a rule names comes in whatever its port.
        send("239.1.1.1", 5001)
        wait_for(lambda: received(daemon) == 20, "what is unmatched")
        assert daemon.stats()["interfaces"]["r0"]["dropped"]["unmatched"] == 10
        daemon.edit(a + b)
        daemon.ctl("reload")
        send("239.1.1.2")
        handled("b", 10)
        assert received(daemon) == 30
        daemon.edit(b)
        daemon.ctl("reload")
        send("239.1.1.1")
        send("239.1.1.2")
        handled("b", 20)
        assert received(daemon) == 40


def test_many_rules_and_none_is_forgotten(triangle: Triangle) -> None:
    """More addresses than the program has room for."""
    groups = [f"239.{number // 100}.{2 * (number % 100)}.1" for number in range(1000)]
    daemon = triangle.lab.mcrd(
        triangle.relay,
        "".join(
            rule(f"n{n}", f"r0 {to} 5000", "r1 239.250.2.2 6000") for n, to in enumerate(groups)
        ),
    )
    with sender(triangle.source, "s0") as sock:
        for group in groups:
            sock.sendto(b"x", (group, 5000))
    wait_for(
        lambda: {r["received"]["packets"] for r in daemon.stats()["rules"].values()} == {1},
        "a datagram for each rule",
        timeout=20,
    )
    assert daemon.stats()["interfaces"]["r0"]["dropped"]["ring_full"] == 0


def test_a_stream_flows_on_while_other_rules_change(triangle: Triangle) -> None:
    a = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000")
    daemon = triangle.lab.mcrd(triangle.relay, a)
    got = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=30_000)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, count=30_000, rate=5_000)
    for number in range(1, 15):
        daemon.edit(a + rule("b", f"r0 239.1.2.{number} 5000", "r1 239.2.2.3 6000"))
        daemon.ctl("reload")
    stream.result()
    result = got.result()
    assert (result["unique"], result["lost"], result["reordered"]) == (30_000, 0, 0)
