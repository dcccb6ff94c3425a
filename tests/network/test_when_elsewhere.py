"""`when` where there is no Ethernet, and in IPv6: over a tunnel, and of ranges with sources."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import wait_for
from tests.lab.rules import rule
from tests.lab.tunnel import tunnel_between

if TYPE_CHECKING:
    from tests.lab import Lab, Mcrd

WHEN = 'ttl=2 when="members"'


def asked(daemon: Mcrd) -> dict[str, dict[str, Any]]:
    """By protocol, what is known of the members on the only interface that asks."""
    answer = json.loads(daemon.ctl("members", "--json").stdout)
    return {each["protocol"]: each for each in answer["asked"]}


def sources(daemon: Mcrd, group: str) -> list[str] | None:
    """From which sources the group of IPv6 is wanted; None: nobody wants it."""
    groups = {each["group"]: each for each in asked(daemon)["mld"]["groups"]}
    return groups[group]["sources"] if group in groups else None


def outputs(daemon: Mcrd, key: str) -> list[Any]:
    return [each[key] for each in daemon.rules()["a"]["outputs"]]


def counts(daemon: Mcrd) -> list[tuple[int, int]]:
    """What each output sent, and what it was not to send."""
    found = daemon.stats()["rules"]["a"]["outputs"]
    return [(each["sent"]["packets"], each["not_wanted"]) for each in found]


@pytest.mark.parametrize(
    ("given", "wanted", "to"),
    [
        ("239.1.1.1", "239.2.2.2", "239.2.2.2"),
        ("ff15::1", "ff15::2", "ff15::2"),
        ("239.1.0.0/16", "239.2.0.7", "239.2.0.0/16"),
    ],
)
def test_who_joins_over_a_tunnel_gets_the_stream(
    lab: Lab, given: str, wanted: str, to: str
) -> None:
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(
        source, "s0", ["10.1.0.2/24", "fd01::2/64"], relay, "r0", ["10.1.0.5/24", "fd01::5/64"]
    )
    ours, theirs = ("10.8.0.1/24", "fd08::1/64"), ("10.8.0.2/24", "fd08::2/64")
    with tunnel_between(relay, ours, sink, theirs):
        asks = "[interfaces.tun0]\nquerier = true\n"
        daemon = lab.mcrd(relay, rule("a", f"r0 {given} 5000", f"tun0 {to} 6000 {WHEN}") + asks)
        protocol = "mld" if ":" in to else "igmp"
        wait_for(lambda: asked(daemon)[protocol]["elected"], "the querier to be elected")
        assert outputs(daemon, "state") == ["idle"]
        received = sink.receive("tun0", wanted, 6000)
        wait_for(lambda: outputs(daemon, "state") == ["active"], "the join to be heard")
        group = "239.1.0.7" if "/" in given else given
        source.send("s0", group, 5000, count=50, size=100)
        wait_for(lambda: counts(daemon)[0][0] == 50, "the stream to flow")
        wait_for(lambda: f'"{wanted}"' in daemon.ctl("members", "--json").stdout, "the member")
        got = received.stop()
        assert (got["unique"], got["lost"], got["duplicated"]) == (50, 0, 0)
        wait_for(lambda: outputs(daemon, "state") == ["idle"], "the leave to be believed")
        assert "WARNING" not in daemon.log()


def test_ranges_of_ipv6_go_by_their_sources(lab: Lab) -> None:
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(source, "s0", ["fd01::2/64", "fd01::3/64"], relay, "r0", ["fd01::5/64"])
    lab.link(relay, "r1", ["10.2.0.5/24", "fd02::5/64"], sink, "k0", ["fd02::9/64"])
    keep = f'r1 ff15::8000:0/112 6000 {WHEN} source="keep"'
    asks = "[interfaces.r1]\nquerier = true\n"
    daemon = lab.mcrd(relay, rule("a", "r0 ff15::4000:0/112 5000", keep) + asks)
    wait_for(lambda: outputs(daemon, "state") == ["idle"], "the rule to listen")

    def send(group: str, count: int = 20) -> None:
        """Send, and wait until all is sent, or said to be unwanted."""
        before = sum(counts(daemon)[0])
        source.send("s0", group, 5000, count=count, size=100)
        wait_for(lambda: sum(counts(daemon)[0]) == before + count, "every packet to be counted")

    def joined() -> set[str]:
        words = relay.run("ip", "-6", "maddress", "show", "dev", "r0").split()
        return {word for word in words if word.startswith("ff15")}

    # The kernel chooses from where it sends: one of the two.
    used = source.run("ip", "-6", "route", "get", "ff15::4000:7", "oif", "s0").split("src ")[1]
    here = used.split()[0]
    elsewhere = "fd01::77"
    other = sink.receive("k0", "ff15::8000:7", 6000, source=elsewhere)
    wait_for(lambda: sources(daemon, "ff15::8000:7") == [elsewhere], "the join from elsewhere")
    wait_for(lambda: joined() == {"ff15::4000:7"}, "the group of the input to be joined")
    send("ff15::4000:7")
    assert counts(daemon) == [(0, 20)]
    mine = sink.receive("k0", "ff15::8000:7", 6000, source=here)
    both = sorted([elsewhere, here])
    wait_for(lambda: sources(daemon, "ff15::8000:7") == both, "the join from here")

    def flows() -> bool:
        before = counts(daemon)[0][0]
        send("ff15::4000:7", 1)
        return counts(daemon)[0][0] == before + 1

    wait_for(flows, "what is sent to be wanted")
    before = counts(daemon)[0]
    send("ff15::4000:7")
    send("ff15::4000:9")  # nobody wants that group
    assert counts(daemon)[0] == (before[0] + 20, before[1] + 20)
    told = daemon.ctl("members").stdout
    assert f"from {both[0]}, {both[1]}" in told, told
    assert mine.stop()["unique"] > 20
    # The source is asked about, and the other one stays.
    wait_for(lambda: sources(daemon, "ff15::8000:7") == [elsewhere], "the source to be left")

    def silent() -> bool:
        before = counts(daemon)[0][0]
        send("ff15::4000:7", 1)
        return counts(daemon)[0][0] == before

    wait_for(silent, "what is sent not to be wanted any more")
    other.stop()
    wait_for(lambda: outputs(daemon, "state") == ["idle"], "the leave to be believed")
    wait_for(lambda: joined() == set(), "the group of the input to be left")
    assert "WARNING" not in daemon.log()
