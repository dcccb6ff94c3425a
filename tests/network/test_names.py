"""Alternative names of interfaces (ip-link(8)): they come and go while a stream flows."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import wait_for
from tests.lab.rules import rule

if TYPE_CHECKING:
    from tests.lab import Fork, Host, Mcrd, Triangle

IN = "video-in-" + "i" * 51
OUT = "video-out-" + "o" * 50
RATE = 5000


def name(host: Host, interface: str, altname: str) -> None:
    host.run("ip", "link", "property", "add", "dev", interface, "altname", altname)


def unname(host: Host, interface: str, altname: str) -> None:
    host.run("ip", "link", "property", "del", "dev", interface, "altname", altname)


def shown(daemon: Mcrd, which: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.ctl("rules", which, "--json").stdout)["rules"][which]
    return found


def runs_on(daemon: Mcrd, given: str, output: str) -> bool:
    rule = shown(daemon, "a")
    now = (rule["input"]["interface_now"], rule["outputs"][0]["interface_now"])
    return now == (given, output) and rule["state"] == rule["outputs"][0]["state"] == "active"


@pytest.mark.parametrize("end", ["input", "output"])
def test_a_name_that_moves_takes_the_stream_with_it(fork: Fork, end: str) -> None:
    """r0 and r2 both have a stream, or r1 and r2 both a receiver; one name goes to and fro.

    Each datagram that a ring took comes to a receiver, or is in a counter.
    """
    relay, source, sink, other = fork.relay, fork.source, fork.sink, fork.sink2
    given, output = ("r0", "r2"), ("r1", "r1")
    senders, receivers = [(source, "s0"), (other, "k1")], [(sink, "k0")]
    if end == "output":
        given, output = ("r0", "r0"), ("r1", "r2")
        senders, receivers = [(source, "s0")], [(sink, "k0"), (other, "k1")]
    name(relay, given[0], IN)
    name(relay, output[0], OUT)
    daemon = fork.lab.mcrd(relay, rule("a", f"{IN} 239.1.1.1 5000", f"{OUT} 239.2.2.2 6000"))
    received = [host.receive(end, "239.2.2.2", 6000) for host, end in receivers]
    streams = [host.start_send(end, "239.1.1.1", 5000, rate=RATE) for host, end in senders]

    def sent() -> int:
        return int(daemon.stats()["rules"]["a"]["outputs"][0]["sent"]["packets"])

    def more(than: int) -> bool:
        return sent() > than + 500

    wait_for(partial(more, 0), "a stream")
    altname, ends = (IN, given) if end == "input" else (OUT, output)
    missing = f"rules.a: waiting: {altname} is missing"
    for before, after in ((0, 1), (1, 0)):
        unname(relay, ends[before], altname)
        if before == 0:  # the other time, it may be seen on the other interface at once
            wait_for(lambda: missing in daemon.log(), missing)
        name(relay, ends[after], altname)
        now = (given[after], output[after])
        wait_for(partial(runs_on, daemon, *now), f"the rule from and to {now}")
        wait_for(partial(more, sent()), f"a stream from and to {now}")
    for stream in streams:
        assert stream.process.poll() is None, "the name was to move under traffic"
        stream.stop()
    last: list[int] = []

    def at_rest() -> bool:
        last.append(daemon.stats()["rules"]["a"]["received"]["packets"])
        return len(last) > 3 and len(set(last[-3:])) == 1

    wait_for(at_rest, "the end of what was under way", interval=0.1)
    total = daemon.stats()
    entry = total["rules"]["a"]
    got = [receiver.stop() for receiver in received]
    assert [found["duplicated"] + found["corrupt"] for found in got] == [0] * len(got)
    out = entry["outputs"][0]
    assert (entry["interface"], out["interface"], out["errors"]) == (IN, OUT, {})
    # The counters are the rule's, by the name that it has in the file.
    assert sum(found["unique"] for found in got) == out["sent"]["packets"]
    assert out["sent"]["packets"] == entry["received"]["packets"]
    assert set(total["interfaces"]) == set(given)
    for ring in set(given):
        count = total["interfaces"][ring]
        others = {k: n for k, n in count["dropped"].items() if n and k != "discarded"}
        assert others.keys() <= {"unmatched"}  # queries, and the like
    assert f"{altname} is an alternative name of r2" in daemon.log()


def test_two_names_of_one_interface(triangle: Triangle) -> None:
    """They are one ring, one group joined, one table; and who says the same twice waits."""
    relay = triangle.relay
    for interface, altname in (("r0", IN), ("r1", OUT)):
        name(relay, interface, altname)
    rules = [
        rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=4"),
        rule("b", f"{IN} 239.1.1.2 5000", f"{OUT} 239.2.2.2 6000 ttl=4"),
        rule("c", f"{IN} 239.1.1.1 5000", "r1 239.2.2.3 6000 ttl=4"),
        rule("d", "r0 239.1.1.3 5000", f"{IN} 239.1.1.3 5000 ttl=4", f"{OUT} 239.2.2.4 6000 ttl=4"),
    ]
    daemon = triangle.lab.mcrd(relay, "".join(rules) + f'[interfaces."{IN}"]\nworkers = 2\n')
    stats = daemon.stats()
    assert [(worker["interface"], worker["number"]) for worker in stats["workers"]] == [
        ("r0", 0),
        ("r0", 1),
    ]
    assert {name: entry["state"] for name, entry in stats["rules"].items()} == {
        "a": "active",
        "b": "active",
        "c": "waiting",
        "d": "active",
    }
    same = f"same input as rules.a: {IN} and r0 are one interface"
    assert stats["rules"]["c"]["reason"] == same
    first, second = stats["rules"]["d"]["outputs"]
    assert first["reason"] == f"sends where the rule's own input is: {IN} and r0 are one interface"
    assert second["state"] == "active"
    count = 300
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=2 * count, flows=2)
    triangle.source.send("s0", "239.1.1.1", 5000, count=2 * count, rate=3000, flows=2)
    assert received.result()["unique"] == 2 * count
    assert f"to {OUT} (r1) 239.2.2.2:6000" in daemon.ctl("rules").stdout
    assert f"from {IN} (r0) 239.1.1.2:5000" in daemon.ctl("rules").stdout
    told = daemon.ctl("explain", "b", "--seconds", "0.2", check=False).stdout
    assert f"r0 (altname {IN})" in " ".join(told.split())
    assert "is joined on r0" in told
    found = json.loads(daemon.ctl("explain", "c", "--json", "--seconds", "0.2", check=False).stdout)
    assert same in found["answer"]
    examined = json.loads(daemon.ctl("doctor", "--json", check=False).stdout)["findings"]
    of_names = [each for each in examined if each["check"] == "interface names"]
    assert [each["verdict"] for each in of_names] == ["ok", "trouble"]
    assert f"{IN} is r0" in of_names[0]["value"]
    assert same in of_names[1]["value"]
    unname(relay, "r0", IN)
    wait_for(lambda: daemon.stats()["rules"]["c"]["reason"] == f"{IN} is missing", "no name")
    wait_for(lambda: len(daemon.stats()["workers"]) == 1, "the table to have no effect")


def test_mcrgen_knows_them(triangle: Triangle) -> None:
    name(triangle.source, "s0", OUT)
    name(triangle.relay, "r0", IN)
    received = triangle.relay.receive(IN, "239.1.1.1", 5000, expect=10)
    triangle.source.send(OUT, "239.1.1.1", 5000, count=10)
    assert received.result()["unique"] == 10
