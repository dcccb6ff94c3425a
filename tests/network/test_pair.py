"""Rules that more than one host has, and that one of them relays."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.lab import wait_for
from tests.lab.rules import rule

if TYPE_CHECKING:
    from tests.lab import Mcrd, Triangle

VIRTUAL = "10.2.0.77"
OURS = (
    rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000 ttl=2", more=f'active_with = "{VIRTUAL}"')
    + rule(
        *("b", "r0 239.1.1.2 5000", f'r1 239.2.2.3 6000 ttl=2 source="{VIRTUAL}"'),
        more=f'active_with = ["{VIRTUAL}", "10.2.0.78"]',
    )
    + rule("c", "r0 239.1.1.3 5000", "r1 239.2.2.4 6000 ttl=2")
)


def state(daemon: Mcrd, name: str = "a") -> tuple[str, str | None]:
    """The state of a rule, and the reason."""
    found = daemon.rules()[name]
    return found["state"], found["reason"]


def counted(daemon: Mcrd, name: str = "a") -> dict[str, Any]:
    """What the counters of a rule say."""
    found = daemon.stats()["rules"][name]
    return {
        "relayed": found["received"]["packets"],
        "standby": found["dropped"]["standby"],
        "sent": found["outputs"][0]["sent"]["packets"],
    }


def test_a_rule_stands_by_until_this_host_has_the_address(triangle: Triangle) -> None:
    source, relay, sink = triangle.source, triangle.relay, triangle.sink
    daemon = triangle.lab.mcrd(relay, OURS)
    why = f"this host does not have the address {VIRTUAL}"
    assert state(daemon) == ("standby", why)
    assert state(daemon, "b") == ("standby", f"{why} or 10.2.0.78")
    assert state(daemon, "c") == ("active", None)
    assert "239.1.1.1" in relay.run("ip", "maddress", "show", "dev", "r0")
    assert "3 rules, 2 standby: this host does not have" in daemon.status()["summary"]
    explained = daemon.ctl("explain", "a", "--seconds", "0.2", check=False).stdout
    assert f"a: NO: the rule is standby: {why}" in explained
    assert "`mcrctl active` has this one relay" in explained

    received = sink.receive("k0", "239.2.2.2", 6000)
    source.send("s0", "239.1.1.1", 5000, count=200, size=100)
    wait_for(lambda: counted(daemon)["standby"] == 200, "all to be counted")
    assert counted(daemon) == {"relayed": 0, "standby": 200, "sent": 0}
    (interface,) = daemon.stats()["interfaces"].values()
    assert interface["dropped"]["standby"] == 200

    # It starts with the next packet: all is open, also what sends from that address.
    workers = [worker["pid"] for worker in daemon.status()["workers"]]
    other = sink.receive("k0", "239.2.2.3", 6000, source=VIRTUAL)
    relay.run("ip", "address", "add", f"{VIRTUAL}/24", "dev", "r1")
    wait_for(lambda: {state(daemon, "a")[0], state(daemon, "b")[0]} == {"active"}, "the takeover")
    wait_for(lambda: "2 x replace rule" in daemon.log(), "the plan to be applied")
    assert daemon.log().count("plan applied") == 2
    for group in ("239.1.1.1", "239.1.1.2"):
        source.send("s0", group, 5000, count=100, size=100)
    wait_for(lambda: counted(daemon)["sent"] == counted(daemon, "b")["sent"] == 100, "all")
    assert counted(daemon) == {"relayed": 100, "standby": 200, "sent": 100}
    assert [worker["pid"] for worker in daemon.status()["workers"]] == workers

    relay.run("ip", "address", "del", f"{VIRTUAL}/24", "dev", "r1")
    wait_for(lambda: state(daemon) == ("standby", why), "the address to be gone")
    wait_for(lambda: daemon.log().count("2 x replace rule") == 2, "the plan to be applied")
    source.send("s0", "239.1.1.1", 5000, count=100, size=100)
    wait_for(lambda: counted(daemon)["standby"] == 300, "all to be counted")

    # By hand, whatever the addresses; a reload changes nothing of that.
    assert daemon.ctl("active", "a").stdout == "rules.a: active\n"
    assert "rules.a: active by hand; `mcrctl follow a` ends that" in daemon.ctl("status").stdout
    daemon.edit(OURS.replace("239.2.2.4", "239.2.2.5"))
    daemon.ctl("reload")
    assert (state(daemon)[0], state(daemon, "b")[0]) == ("active", "standby")
    source.send("s0", "239.1.1.1", 5000, count=100, size=100)
    wait_for(lambda: counted(daemon)["sent"] == 200, "all")
    told = daemon.ctl("follow", "all").stdout
    assert f"rules.a: standby: {why}\n" in told
    by_hand = "by hand, until `mcrctl follow a`"
    assert daemon.ctl("standby", "a").stdout == f"rules.a: standby: {by_hand}\n"
    relay.run("ip", "address", "add", f"{VIRTUAL}/24", "dev", "r1")
    wait_for(lambda: state(daemon, "b")[0] == "active", "the other rule to be active")
    assert state(daemon) == ("standby", by_hand)
    refused = daemon.ctl("standby", "c", check=False)
    assert refused.returncode == 1
    assert "rules.c has no active_with, or is disabled" in refused.stderr
    assert daemon.ctl("active", "nobody", check=False).returncode == 1

    found = received.stop()
    assert (found["unique"], found["lost"], found["duplicated"]) == (200, 0, 0)
    assert other.stop()["unique"] == 100
    assert "WARNING" not in daemon.log()
