"""This host asks who listens: a switch that snoops sends to members, and to nobody else."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import signal
import struct
import time
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.dataplane.frames import checksum, hardware_address, inject
from tests.lab import wait_for
from tests.lab.rules import rule

if TYPE_CHECKING:
    from tests.lab import Host, Lab, Mcrd

ASKS = (
    rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000 ttl=2")
    + """
[interfaces.r1]
querier = true
"""
)
GROUPS = {"igmp": "239.2.2.2", "mld": "ff15::2"}


def asked(daemon: Mcrd) -> dict[str, dict[str, Any]]:
    """By protocol, what is known of the members on r1."""
    answer = json.loads(daemon.ctl("members", "--json").stdout)
    return {each["protocol"]: each for each in answer["asked"]}


def groups(daemon: Mcrd, protocol: str) -> dict[str, dict[str, Any]]:
    """The groups that somebody wants there."""
    return {each["group"]: each for each in asked(daemon)[protocol]["groups"]}


def sent(daemon: Mcrd) -> int:
    """How many packets the only output has sent."""
    return int(daemon.stats()["rules"]["a"]["outputs"][0]["sent"]["packets"])


def test_members_behind_a_switch_that_snoops_are_asked_and_known(lab: Lab) -> None:
    source, relay, switch, first, second = lab.hosts("source", "relay", "switch", "first", "second")
    lab.link(source, "s0", ["10.1.0.2/24"], relay, "r0", ["10.1.0.5/24"])
    lab.link(switch, "p0", [], relay, "r1", ["10.2.0.5/24", "fd02::5/64"])
    lab.link(switch, "p1", [], first, "k0", ["10.2.0.2/24", "fd02::2/64"])
    lab.link(switch, "p2", [], second, "k0", ["10.2.0.9/24", "fd02::9/64"])
    lab.bridge(switch, "br0", ["p0", "p1", "p2"], snooping=True)
    seen = second.capture("k0", "udp port 6000")
    daemon = lab.mcrd(relay, ASKS)
    wait_for(lambda: len(asked(daemon)) == 2, "the queriers to be open")
    wait_for(lambda: all(each["elected"] for each in asked(daemon).values()), "both to be elected")
    assert asked(daemon)["igmp"]["querier"] == "10.2.0.5"

    received = first.receive("k0", "239.2.2.2", 6000)
    wait_for(lambda: "239.2.2.2" in groups(daemon, "igmp"), "the member to be known")
    found = groups(daemon, "igmp")["239.2.2.2"]
    assert (found["sources"], found["version"]) == (None, 3)
    six = second.receive("k0", "ff15::2", 6000, source="fd02::77")
    wait_for(lambda: "ff15::2" in groups(daemon, "mld"), "the member of IPv6 to be known")
    assert groups(daemon, "mld")["ff15::2"]["sources"] == ["fd02::77"]
    assert "from fd02::77" in daemon.ctl("members").stdout
    six.stop()
    wait_for(lambda: "ff15::2" not in groups(daemon, "mld"), "the leave to be believed")

    # A bridge floods for as long as answers to the first query may take, 10 s.
    def floods() -> bool:
        before = len(seen.frames())
        went = sent(daemon)
        source.send("s0", "239.1.1.1", 5000, count=5, size=100)
        wait_for(lambda: sent(daemon) == went + 5, "the relay to send them")
        return len(seen.frames()) > before

    wait_for(lambda: not floods(), "the switch to withhold the group from who does not want it")
    before, went = len(seen.frames()), sent(daemon)
    source.send("s0", "239.1.1.1", 5000, count=200, size=100)
    wait_for(lambda: sent(daemon) == went + 200, "the relay to send all")
    told = received.stop()
    # Of some fifty senders, two may have one number for their run, of 65,536: then all is twice.
    assert told["unique"] + told["duplicated"] == went + 200
    assert len(seen.frames()) == before
    said = daemon.log()
    assert "IGMP querier on r1: asks who listens, as 10.2.0.5" in said

    # Another one of a lower address wins.
    other = lab.mcrd(first, ASKS.replace("r0", "lo").replace("r1", "k0"))
    wait_for(lambda: not asked(daemon)["igmp"]["elected"], "the lower address to win")
    assert asked(daemon)["igmp"]["querier"] == "10.2.0.2"
    assert json.loads(other.ctl("members", "--json").stdout)["asked"][0]["elected"]
    lower = "10.2.0.2 asks who listens: its address is lower"
    wait_for(lambda: lower in daemon.log(), "the line")
    daemon.edit(ASKS.replace("querier = true", "querier = false"))
    wait_for(lambda: not asked(daemon), "the querier to end")


WANTED = (
    rule("a", "r0 239.1.1.1 5000", 'r1 239.2.2.2 6000 ttl=2 when="members"')
    + """
[interfaces.r1]
querier = true
"""
)


BESIDE = rule(
    *("a", "r0 239.1.1.1 5000"),
    *('r1 239.2.2.2 6000 ttl=2 when="members"', "r1 239.3.3.3 6000 ttl=2"),
)


def state(daemon: Mcrd) -> str:
    """The state of the only rule."""
    return str(daemon.rules()["a"]["state"])


def joined(relay: Host) -> bool:
    """Whether the relay has joined the group of the rule's input."""
    return "239.1.1.1" in relay.run("ip", "maddress", "show", "dev", "r0")


def arrived(relay: Host) -> int:
    """How many frames have come to the relay."""
    (link,) = json.loads(relay.run("ip", "-s", "-j", "link", "show", "dev", "r0"))
    return int(link["stats64"]["rx"]["packets"])


def more_arrived(relay: Host, than: int) -> bool:
    return arrived(relay) > than


def has_sent(daemon: Mcrd, packets: int) -> bool:
    return sent(daemon) >= packets


def test_a_rule_flows_only_while_somebody_has_joined(lab: Lab) -> None:
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(source, "s0", ["10.1.0.2/24"], relay, "r0", ["10.1.0.5/24"])
    lab.link(relay, "r1", ["10.2.0.5/24"], sink, "k0", ["10.2.0.9/24"])
    daemon = lab.mcrd(relay, WANTED)
    wait_for(lambda: len(asked(daemon)) == 2, "the queriers to be open")
    assert state(daemon) == "idle"
    assert daemon.rules()["a"]["reason"] == "nobody on r1 has joined 239.2.2.2"
    assert not joined(relay)
    explained = daemon.ctl("explain", "a", "--seconds", "0.2", check=False).stdout
    assert "a: NO: the rule is idle: nobody on r1 has joined 239.2.2.2" in explained
    assert "What to do: join there; `mcrctl members` shows who has" in explained
    stream = source.start_send("s0", "239.1.1.1", 5000, rate=1000, size=100)
    took = []
    for _ in range(5):
        began = time.monotonic()
        receiver = sink.receive("k0", "239.2.2.2", 6000)
        wait_for(lambda: state(daemon) == "active", "the join to be heard")
        took.append(time.monotonic() - began)
        assert joined(relay)
        # The sender is known to be one that the receiver hears.
        wait_for(partial(has_sent, daemon, sent(daemon) + 100), "the stream to flow")
        found = receiver.stop()
        assert found["unique"] > 0
        assert (found["lost"], found["duplicated"]) == (0, 0)
        wait_for(lambda: state(daemon) == "idle", "the leave to be believed")
        wait_for(lambda: not joined(relay), "the group to be left")
        before, came = sent(daemon), arrived(relay)
        wait_for(partial(more_arrived, relay, came + 100), "more to come")
        assert sent(daemon) == before
    stream.process.send_signal(signal.SIGINT)
    stream.result()
    print(f"active after {max(took):.3f} s at most")
    said = daemon.log()
    assert "INFO: rules.a: idle: nobody on r1 has joined 239.2.2.2" in said
    assert "WARNING" not in said

    # Beside one that always sends, it alone is idle; and the network is asked no more.
    daemon.edit(BESIDE)
    wait_for(lambda: state(daemon) == "active", "the other output to send")
    states = [each["state"] for each in daemon.rules()["a"]["outputs"]]
    assert states == ["idle", "active"]
    wait_for(lambda: not asked(daemon)["igmp"]["elected"], "nobody to ask any more")


def test_a_rule_whose_members_cannot_be_heard_says_why_and_tries_again(lab: Lab) -> None:
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(source, "s0", ["10.1.0.2/24"], relay, "r0", ["10.1.0.5/24"])
    lab.link(relay, "r1", ["10.2.0.5/24"], sink, "k0", ["10.2.0.9/24"])
    daemon = lab.mcrd(relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000 ttl=2"))
    try:
        room = relay.sysctl("net.core.optmem_max")
        relay.sysctl("net.core.optmem_max", "0")
    except OSError:
        pytest.skip("on older kernels, net.core.optmem_max is the whole machine's")
    daemon.edit(WANTED)
    wait_for(lambda: state(daemon) == "failed", "the rule to say that it hears nobody")
    found = daemon.rules()["a"]
    assert found["reason"].startswith("IGMP querier on r1: Cannot allocate memory (ENOMEM)")
    assert "net.core.optmem_max" in found["reason"]
    assert found["retry_in_s"] is not None
    assert found["outputs"][0]["state"] == "failed"
    receiver = sink.receive("k0", "239.2.2.2", 6000)
    relay.sysctl("net.core.optmem_max", room)
    wait_for(lambda: state(daemon) == "active", "the next try")
    source.send("s0", "239.1.1.1", 5000, count=20, size=100)
    wait_for(partial(has_sent, daemon, 20), "the stream to flow")
    assert receiver.stop()["unique"] == 20
    assert "WARNING: rules.a: failed: IGMP querier on r1" in daemon.log()


def forged(numbers: range, first: str = "238.0.0.0") -> list[bytes]:
    """Frames with joins of IGMPv2, each of another group from the first one on."""
    host, frames = IPv4Address("10.2.0.9").packed, []
    for number in numbers:
        group = IPv4Address(first) + number
        body = struct.pack("!BBH4s", 0x16, 0, 0, group.packed)
        body = body[:2] + checksum(body).to_bytes(2) + body[4:]
        header = struct.pack("!BBHHHBBH4s4s", 0x46, 0xC0, 32, 1, 0, 1, 2, 0, host, group.packed)
        header += bytes((0x94, 4, 0, 0))  # Router Alert (RFC 2113)
        header = header[:10] + checksum(header).to_bytes(2) + header[12:]
        to = hardware_address(group)
        frames.append(to + bytes.fromhex("0200000000090800") + header + body)
    return frames


FORGED = 100_000


def memory(daemon: Mcrd) -> int:
    """Of the supervisor, in KiB."""
    text = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def test_forged_reports_are_bounded_counted_and_said_once(lab: Lab) -> None:
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(source, "s0", ["10.1.0.2/24"], relay, "r0", ["10.1.0.5/24"])
    lab.link(relay, "r1", ["10.2.0.5/24"], sink, "k0", ["10.2.0.9/24"])
    daemon = lab.mcrd(relay, WANTED + rule("b", "r0 239.1.1.2 5000", "r1 239.2.2.3 6000 ttl=2"))
    wait_for(lambda: len(asked(daemon)) == 2, "the queriers to be open")
    other = sink.receive("k0", "239.2.2.3", 6000)
    wait_for(lambda: "239.2.2.3" in groups(daemon, "igmp"), "the member to be known")
    stream = source.start_send("s0", "239.1.1.2", 5000, rate=2000, size=100)
    wait_for(lambda: more_arrived(relay, 200), "the stream to come")
    before, had = asked(daemon)["igmp"]["reports"], memory(daemon)
    frames = forged(range(FORGED))
    began = time.monotonic()
    inject(sink, "k0", *frames)
    took = time.monotonic() - began

    def counted() -> int:
        found = asked(daemon)["igmp"]
        assert found["malformed"] == 0
        return int(found["reports"] + found["unread"] - before)

    wait_for(lambda: counted() >= FORGED, "every report to be in a counter")
    found = asked(daemon)["igmp"]
    assert counted() <= FORGED + 10  # the receivers' own
    assert len(found["groups"]) <= 4096
    assert memory(daemon) - had < 16 * 1024
    print(f"{FORGED} in {took:.1f} s: {found['unread']} unread, {memory(daemon) - had} KiB more")
    # There is room for who is wanted.
    receiver = sink.receive("k0", "239.2.2.2", 6000)
    wait_for(lambda: state(daemon) == "active", "the join to be heard")
    source.send("s0", "239.1.1.1", 5000, count=20, size=100)
    wait_for(partial(has_sent, daemon, 20), "the stream to flow")
    assert receiver.stop()["unique"] == 20
    stream.process.send_signal(signal.SIGINT)
    went = stream.result()["sent"]
    wait_for(
        lambda: daemon.stats()["rules"]["b"]["outputs"][0]["sent"]["packets"] == went,
        "the other rule to send all",
    )
    got = other.stop()
    assert (got["unique"], got["lost"]) == (went, 0)
    many = "more reports than there is time or room for"
    wait_for(lambda: many in daemon.log(), "the line")
    assert daemon.log().count(many) == 1
    assert len(daemon.log().splitlines()) < 40
