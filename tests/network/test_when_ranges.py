"""Ranges with `when`: each group of a range is sent only where somebody has joined it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import socket
from ipaddress import ip_address
from itertools import count
from operator import sub
from typing import TYPE_CHECKING, Any

from mcrd.observe.messages import igmp
from mcrd.planning.resources import Membership
from mcrd.sockets.membership import Memberships
from tests.dataplane.frames import inject
from tests.lab import wait_for
from tests.lab.datagrams import sender
from tests.lab.rules import rule
from tests.network.test_querier import forged
from tests.network.test_rejoin import messages

if TYPE_CHECKING:
    from tests.lab import Host, Lab, Mcrd

IS_IN, IS_EX, TO_IN, TO_EX = 1, 2, 3, 4
IGMP = ("r1", "igmp")
ASKS = "\n".join(f"[interfaces.{name}]\nquerier = true\n" for name in ("r1", "r2"))
WHEN = 'ttl=2 when="members"'
RANGES = (
    rule(
        *("a", "r0 239.0.0.0/8 5000-5001"),
        *(f"r1 238.0.0.0/8 6000-6001 {WHEN}", f'r2 239.0.0.0/8 5000-5001 {WHEN} source="keep"'),
    )
    + ASKS
)


def outputs(daemon: Mcrd) -> list[dict[str, Any]]:
    """The counters of the only rule's outputs."""
    found: list[dict[str, Any]] = daemon.stats()["rules"]["a"]["outputs"]
    return found


def sent(daemon: Mcrd) -> list[int]:
    return [each["sent"]["packets"] for each in outputs(daemon)]


def settled(daemon: Mcrd) -> list[int]:
    """What each output sent and what it was not to send."""
    return [each["sent"]["packets"] + each["not_wanted"] for each in outputs(daemon)]


def states(daemon: Mcrd) -> list[str]:
    return [str(each["state"]) for each in daemon.rules()["a"]["outputs"]]


def joined(relay: Host) -> set[str]:
    """The groups of the range that the relay has joined."""
    words = relay.run("ip", "-4", "maddress", "show", "dev", "r0").split()
    return {word for word in words if word.startswith("239.")}


def wants(daemon: Mcrd, interface: str, group: str) -> bool:
    asked = json.loads(daemon.ctl("members", "--json").stdout)["asked"]
    groups = [each["groups"] for each in asked if each["interface"] == interface]
    return any(each["group"] == group for some in groups for each in some)


def kinds(frames: list[bytes], group: str) -> set[int]:
    """Of the records about that group which were seen (RFC 3376, 4.2.12)."""
    reports = (igmp(body) for _, _, body in messages(frames))
    records = (record for report in reports if isinstance(report, tuple) for record in report)
    return {record.kind for record in records if str(record.group) == group}


def test_a_source_specific_group_stays_joined_from_its_sources(lab: Lab) -> None:
    """A report for any source takes nothing from them: routers ignore such joins (RFC 4604)."""
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(source, "s0", ["10.1.0.2/24"], relay, "r0", ["10.1.0.5/24"])
    lab.link(relay, "r1", ["10.2.0.5/24"], sink, "k0", ["10.2.0.9/24"])
    kept = f'r1 232.0.0.0/8 5000 {WHEN} source="keep"'
    daemon = lab.mcrd(relay, rule("a", "r0 232.0.0.0/8 5000", kept) + ASKS)
    group = "232.0.0.7"

    def of_group() -> list[str] | None:
        asked = json.loads(daemon.ctl("members", "--json").stdout)["asked"]
        (here,) = (each for each in asked if (each["interface"], each["protocol"]) == IGMP)
        found: list[list[str] | None]
        found = [each["sources"] for each in here["groups"] if each["group"] == group]
        return found[0] if found else []

    wait_for(lambda: states(daemon) == ["idle"], "the rule to listen")
    wanted, members = sorted(f"10.1.0.{n}" for n in range(2, 14)), Memberships()
    with sink.inside():
        where = ("k0", socket.if_nametoindex("k0"), ip_address(group))
        for each in wanted:
            members.join(Membership(*where, ip_address(each)))
    wait_for(lambda: of_group() == wanted, "all to be known")

    def from_sources() -> int:
        with relay.inside(), open("/proc/thread-self/net/mcfilter") as table:
            return sum("0xe8000007" in line for line in table)

    wait_for(lambda: from_sources() == 12, "each source to be joined")
    inject(sink, "k0", *forged(range(7, 8), "232.0.0.0"))
    wait_for(lambda: of_group() is None, "the report to be heard")
    source.send("s0", group, 5000, count=20, size=100)
    wait_for(lambda: sent(daemon) == [20], "the stream to flow")
    assert from_sources() == 12
    for membership in list(members):
        members.leave(membership)


def test_groups_without_a_source_are_let_in_by_one_socket(lab: Lab) -> None:
    """Who joins a hundred by IGMPv2 takes no hundred descriptors, nor the time to close them."""
    relay, sink = lab.hosts("relay", "sink")
    lab.link(sink, "s0", [], relay, "r0", ["10.1.0.5/24"])
    lab.link(relay, "r1", ["10.2.0.5/24"], sink, "k0", ["10.2.0.9/24"])
    kept = f'r1 232.0.0.0/8 5000 {WHEN} source="keep"'
    daemon = lab.mcrd(relay, rule("a", "r0 232.0.0.0/8 5000", kept) + ASKS)
    wait_for(lambda: states(daemon) == ["idle"], "the rule to listen")

    def let_in() -> int:
        words = relay.run("ip", "maddress", "show", "dev", "r0").split()
        return sum(word.startswith("01:00:5e:07:00:") for word in words)

    def packet_sockets() -> int:
        return len(relay.run("cat", "/proc/net/packet").splitlines()) - 1

    before = packet_sockets()
    inject(sink, "k0", *forged(range(100), "232.7.0.0"))
    wait_for(lambda: let_in() == 100, "all to be let in")
    assert packet_sockets() == before + 1
    daemon.edit(rule("a", "r0 10.1.0.5 5000", "r1 10.2.0.9 5000") + ASKS)
    wait_for(lambda: let_in() == 0, "none to be let in")
    wait_for(lambda: packet_sockets() == before, "their socket to be closed")


def test_each_group_of_a_range_by_itself(lab: Lab) -> None:
    source, relay, one, two = lab.hosts("source", "relay", "one", "two")
    lab.link(source, "s0", ["10.1.0.2/24"], relay, "r0", ["10.1.0.5/24"])
    lab.link(relay, "r1", ["10.2.0.5/24"], one, "k0", ["10.2.0.9/24"])
    lab.link(relay, "r2", ["10.3.0.5/24"], two, "k0", ["10.3.0.9/24"])
    daemon = lab.mcrd(relay, RANGES)
    wait_for(lambda: states(daemon) == ["idle", "idle"], "the rule to listen")
    nobody = "nobody on r1 has joined a group of 238.0.0.0/8"
    assert nobody in daemon.rules()["a"]["reason"]
    assert joined(relay) == set()

    def send(group: str, count: int = 20, port: int = 5000) -> None:
        """Send, and wait until each output has sent all, or has said that it was not to."""
        before = settled(daemon)
        source.send("s0", group, port, count=count, size=100)
        wait_for(
            lambda: settled(daemon) == [each + count for each in before],
            "every packet to be in a counter",
        )

    # The first one: its group alone is joined, and the other output is idle.
    seen = source.capture("s0", "igmp", direction="in")
    first = one.receive("k0", "238.0.1.7", 6000)
    wait_for(lambda: joined(relay) == {"239.0.1.7"}, "the group of the input to be joined")
    # The daemon says so at once, as what there is; the kernel does later, as a change.
    wait_for(lambda: kinds(seen.frames(), "239.0.1.7") >= {IS_EX, TO_EX}, "both reports")
    wait_for(lambda: states(daemon) == ["active", "idle"], "one output to be active")
    source.send("s0", "239.0.1.7", 5000, count=20, size=100)
    wait_for(lambda: sent(daemon) == [20, 0], "the stream to flow")

    # A second one on another network: what the first wants is not sent there.
    second = two.receive("k0", "239.7.7.7", 5000)
    wait_for(lambda: joined(relay) == {"239.0.1.7", "239.7.7.7"}, "both to be joined")
    wait_for(lambda: states(daemon) == ["active", "active"], "both outputs to be active")
    send("239.0.1.7")
    send("239.7.7.7")
    send("239.9.9.9")  # it comes all the same, and nobody wants it
    assert sent(daemon) == [40, 20]
    explained = daemon.ctl("explain", "a", "--seconds", "0.2", check=False).stdout
    assert "2 groups of 239.0.0.0/8 are joined on r0, for members" in explained

    # Of a group that comes already, a join is enough; and what another source sends is not wanted.
    elsewhere = two.receive("k0", "239.0.1.7", 5000, source="10.1.0.77")
    wait_for(lambda: wants(daemon, "r2", "239.0.1.7"), "the join from elsewhere")
    send("239.0.1.7")
    assert sent(daemon) == [60, 20]
    elsewhere.stop()
    from_here = two.receive("k0", "239.0.1.7", 5000, source="10.1.0.2")
    wait_for(lambda: wants(daemon, "r2", "239.0.1.7"), "the join from here")

    def flows() -> bool:
        before = sent(daemon)[1]
        send("239.0.1.7", 1)
        return sent(daemon)[1] == before + 1

    wait_for(flows, "what is sent to be wanted")

    # Who leaves ends it on that network alone.
    got = first.stop()
    assert (got["lost"], got["duplicated"]) == (0, 0)
    wait_for(lambda: states(daemon) == ["idle", "active"], "the leave to be believed")
    assert joined(relay) == {"239.0.1.7", "239.7.7.7"}
    # Who is left keeps the source, and wants one alone: so does the input by now.
    # The kernel says so. The daemon spoke while the group was joined from any source still.
    wait_for(lambda: TO_IN in kinds(seen.frames(), "239.0.1.7"), "the source to be joined")
    assert IS_IN not in kinds(seen.frames(), "239.0.1.7")
    before = sent(daemon)
    source.send("s0", "239.0.1.7", 5000, count=20, size=100)
    wait_for(lambda: sent(daemon)[1] == before[1] + 20, "the other to flow")
    assert sent(daemon)[0] == before[0]
    from_here.stop()
    wait_for(lambda: joined(relay) == {"239.7.7.7"}, "what nobody wants to be left")
    send_second = sent(daemon)[1]
    source.send("s0", "239.7.7.7", 5000, count=20, size=100)
    wait_for(lambda: sent(daemon)[1] == send_second + 20, "the last one to flow")
    assert second.stop()["unique"] == 40
    wait_for(lambda: states(daemon) == ["idle", "idle"], "nobody to be left")
    wait_for(lambda: joined(relay) == set(), "every group to be left")
    assert "WARNING" not in daemon.log()


def test_other_keys_of_the_interface_forget_no_member(lab: Lab) -> None:
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(source, "s0", ["10.1.0.2/24"], relay, "r0", ["10.1.0.5/24"])
    lab.link(relay, "r1", ["10.2.0.5/24"], sink, "k0", ["10.2.0.9/24"])
    only = rule("a", "r0 239.1.1.1 5000", f"r1 239.2.2.2 6000 {WHEN}")
    asks = only + "[interfaces.r1]\nquerier = true\n"
    daemon = lab.mcrd(relay, asks)
    received = sink.receive("k0", "239.2.2.2", 6000)
    wait_for(lambda: states(daemon) == ["active"], "the join to be heard")
    stream = source.start_send("s0", "239.1.1.1", 5000, rate=1000, size=100)
    wait_for(lambda: sent(daemon)[0] > 100, "the stream to flow")
    # The member stays silent: what was heard of it is all that there is.
    silent = lab.file("silent.nft")
    silent.write_text(
        "table ip silent { chain out { type filter hook output priority 0;"
        " ip protocol igmp drop; }; }"
    )
    sink.run("nft", "-f", str(silent))
    for changed in (asks + "igmp_version = 2\n", asks.replace("true", "false"), asks):
        applied = daemon.log().count("plan applied")
        daemon.edit(changed)
        wait_for(lambda: daemon.log().count("plan applied") > applied, "the reload")  # noqa: B023
        went = sent(daemon)[0]
        wait_for(lambda: sent(daemon)[0] > went + 100, "the stream to flow on")  # noqa: B023
    total = stream.stop()["sent"]
    wait_for(lambda: sent(daemon) == [total], "all to be sent")
    got = received.stop()
    assert (got["unique"], got["lost"]) == (total, 0)


def test_members_send_on_when_an_output_gets_when_or_loses_it(lab: Lab) -> None:
    source, relay, one, two = lab.hosts("source", "relay", "one", "two")
    lab.link(source, "s0", ["10.1.0.2/24"], relay, "r0", ["10.1.0.5/24"])
    lab.link(relay, "r1", ["10.2.0.5/24"], one, "k0", ["10.2.0.9/24"])
    lab.link(relay, "r2", ["10.3.0.5/24"], two, "k0", ["10.3.0.9/24"])

    def form(first: str, second: str) -> str:
        to = f"r1 238.0.0.0/8 6000-6001 {first}", f"r2 238.0.0.0/8 6000-6001 {second}"
        return rule("a", "r0 239.0.0.0/8 5000-5001", *to) + ASKS

    daemon = lab.mcrd(relay, form("ttl=2", "ttl=2"))
    received = [host.receive("k0", "238.0.1.7", 6000) for host in (one, two)]
    for interface in ("r1", "r2"):
        wait_for(lambda: wants(daemon, interface, "238.0.1.7"), "the join to be heard")  # noqa: B023
    stream = source.start_send("s0", "239.0.1.7", 5000, rate=1000, size=100)
    # Nobody joins this one.
    with sender(source, "s0") as sock:

        def not_wanted() -> list[bool]:
            """Of which outputs a packet of that group is not wanted."""
            before = [each["not_wanted"] for each in outputs(daemon)]
            sock.sendto(b"%d" % next(numbers), ("239.9.9.9", 5001))
            went = sent(daemon)
            wait_for(lambda: min(map(sub, sent(daemon), went)) > 100, "the stream to flow on")
            return [each["not_wanted"] > n for each, n in zip(outputs(daemon), before, strict=True)]

        numbers = count()
        assert not_wanted() == [False, False]
        for forms, closed in (
            (("ttl=2", WHEN), [False, True]),
            ((WHEN, "ttl=2"), [True, False]),
            ((WHEN, WHEN), [True, True]),
            (("ttl=2", "ttl=2"), [False, False]),
        ):
            applied = daemon.log().count("plan applied")
            daemon.edit(form(*forms))
            wait_for(lambda: daemon.log().count("plan applied") > applied, "the reload")  # noqa: B023
            wait_for(lambda: not_wanted() == closed, f"{forms} to hold")  # noqa: B023
    total = stream.stop()["sent"]
    others = next(numbers)
    wait_for(lambda: settled(daemon) == 2 * [total + others], "all to be in a counter")
    for each in received:
        got = each.stop()
        assert (got["unique"], got["lost"]) == (total, 0)
    assert [each["new_member"] for each in outputs(daemon)] == [0, 0]
