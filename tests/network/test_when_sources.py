"""`when` of a single group: it is joined from the sources that members name, if they name any."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from mcrd.addresses import storage
from mcrd.observe.messages import igmp, mld
from tests.lab import wait_for
from tests.lab.rules import rule
from tests.network.test_rejoin import messages
from tests.network.test_supervision import with_a_fault
from tests.network.test_when_ranges import IS_EX, IS_IN, TO_EX, outputs, sent, settled, states

if TYPE_CHECKING:
    from collections.abc import Collection

    from mcrd.model import Address
    from tests.lab import Host, Lab, Mcrd

JOIN, BLOCK, JOIN_SOURCE = 42, 43, 46  # MCAST_JOIN_GROUP and so on, of linux/in.h
INTERFACE_OF = {4: socket.IP_MULTICAST_IF, 6: socket.IPV6_MULTICAST_IF}
WHEN = 'ttl=2 when="members"'
ASKS = "[interfaces.r1]\nquerier = true\n"
GROUPS = {4: ("239.1.1.1", "239.2.2.2"), 6: ("ff15::1", "ff15::2")}
SPECIFIC = {4: "232.1.1.1", 6: "ff35::8000:1"}


def sources(daemon: Mcrd, group: str) -> list[str] | None:
    """From which sources the group is wanted on r1; None: from any. It has to be wanted."""
    asked = json.loads(daemon.ctl("members", "--json").stdout)["asked"]
    known = {each["group"]: each["sources"] for some in asked for each in some["groups"]}
    found: list[str] | None = known[group]
    return found


@dataclass
class Member:
    """A socket that has joined a group, and what it got: from whom, how many."""

    host: Host
    group: str
    sources: Collection[str] = ()
    blocked: Collection[str] = ()
    got: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        group = ip_address(self.group)
        is_ipv4 = group.version == 4
        level = socket.IPPROTO_IP if is_ipv4 else socket.IPPROTO_IPV6
        family = socket.AF_INET if is_ipv4 else socket.AF_INET6
        self.sock = self.host.socket(family, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.setblocking(False)
        with self.host.inside():
            index = socket.if_nametoindex("k0")
            self.sock.bind((self.group, 6000))

            def option(name: int, *addresses: Address) -> None:
                stored = b"".join(storage(each, index) for each in addresses)
                self.sock.setsockopt(level, name, struct.pack("I4x", index) + stored)

            for each in self.sources:
                option(JOIN_SOURCE, group, ip_address(each))
            if not self.sources:
                option(JOIN, group)
            for each in self.blocked:
                option(BLOCK, group, ip_address(each))

    def received(self) -> dict[str, int]:
        """How many datagrams have come, by the address that they came from."""
        try:
            while True:
                source = str(self.sock.recvfrom(100)[1][0])
                self.got[source] = self.got.get(source, 0) + 1
        except BlockingIOError:
            return self.got

    def leave(self) -> None:
        """End."""
        self.sock.close()


@dataclass
class Path:
    """source (two addresses) s0 -- r0 relay r1 -- switch -- k0 sink, k0 other."""

    lab: Lab
    version: int
    given: str
    source: Host
    relay: Host
    sink: Host
    other: Host

    @property
    def senders(self) -> list[str]:
        """The addresses of the source."""
        return [("10.1.0.{}" if self.version == 4 else "fd01::{}").format(n) for n in (2, 3)]

    def send(self, daemon: Mcrd, count: int = 20, senders: int = 2) -> None:
        """Send from both, or the first one, and wait until each packet is in a counter."""
        before = settled(daemon)[0]
        for each in self.senders[:senders]:
            with self.source.inside():
                family = socket.AF_INET if self.version == 4 else socket.AF_INET6
                level = socket.IPPROTO_IP if self.version == 4 else socket.IPPROTO_IPV6
                index = socket.if_nametoindex("s0")
                request = struct.pack("i" if self.version == 6 else "8xi", index)
                with socket.socket(family, socket.SOCK_DGRAM) as sock:
                    sock.setsockopt(level, INTERFACE_OF[self.version], request)
                    sock.bind((each, 0))
                    for number in range(count):
                        sock.sendto(b"%d" % number, (self.given, 5000))
        wait_for(
            lambda: settled(daemon)[0] == before + senders * count, "every packet to be counted"
        )

    def joined(self) -> list[str] | None:
        """The sources from which the relay has joined the input's group; None: not joined."""
        group = ip_address(self.given)
        shown = self.relay.run("ip", f"-{self.version}", "maddress", "show", "dev", "r0").split()
        if str(group) not in shown:
            return None
        name = "mcfilter" if self.version == 4 else "mcfilter6"
        with self.relay.inside(), open(f"/proc/thread-self/net/{name}") as table:
            lines = [line.split() for line in table][1:]
        found = []
        for _, _, of, source, *_ in lines:
            if int(of, 16) == int(group):
                found.append(str(type(group)(int(source, 16))))
        return sorted(found)

    def is_said(self, frames: list[bytes], kinds: Collection[int]) -> bool:
        """Whether the relay has reported the group by records of these kinds."""
        read = igmp if self.version == 4 else mld
        reports = (read(body) for _, _, body in messages(frames))
        records = (each for report in reports if isinstance(report, tuple) for each in report)
        return any(r.kind in kinds for r in records if r.group == ip_address(self.given))


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def path(lab: Lab, request: pytest.FixtureRequest) -> Path:
    names = ("source", "relay", "switch", "sink", "other")
    source, relay, switch, sink, other = lab.hosts(*names)
    own = ["10.1.0.2/24", "10.1.0.3/24", "fd01::2/64", "fd01::3/64"]
    lab.link(source, "s0", own, relay, "r0", ["10.1.0.5/24", "fd01::5/64"])
    lab.link(switch, "p0", [], relay, "r1", ["10.2.0.5/24", "fd02::5/64"])
    for number, host in enumerate((sink, other), 8):
        own = [f"10.2.0.{number}/24", f"fd02::{number}/64"]
        lab.link(switch, f"p{number}", [], host, "k0", own)
        for back in ("10.1.0.0/24", "fd01::/64"):
            host.run("ip", "route", "add", back, "dev", "k0")
    lab.bridge(switch, "br0", ["p0", "p8", "p9"], snooping=False)
    return Path(lab, request.param, GROUPS[request.param][0], source, relay, sink, other)


def test_a_group_is_joined_from_the_sources_that_members_name(path: Path) -> None:
    """It has another address behind the relay; who excludes a source gets all others."""
    first, second = path.senders
    given, wanted = GROUPS[path.version]
    keep = f'r1 {wanted} 6000 {WHEN} source="keep"'
    daemon = path.lab.mcrd(path.relay, rule("a", f"r0 {given} 5000", keep) + ASKS)
    wait_for(lambda: states(daemon) == ["idle"], "the rule to listen")
    assert path.joined() is None
    seen = path.source.capture("s0", "igmp or icmp6 or (ip6 and ip6[6] = 0)", direction="in")

    one = Member(path.sink, wanted, [first])
    wait_for(lambda: path.joined() == [first], "the source to be joined")
    wait_for(lambda: states(daemon) == ["active"], "the output to be active")
    path.send(daemon)
    assert (sent(daemon), outputs(daemon)[0]["not_wanted"]) == ([20], 20)
    wait_for(lambda: one.received() == {first: 20}, "the receiver to get what it named")

    both = Member(path.sink, wanted, [second])
    wait_for(lambda: path.joined() == [first, second], "the other to be joined as well")
    path.send(daemon)
    wait_for(lambda: both.received() == {second: 20}, "the other receiver to get what it named")
    assert sent(daemon) == [60]
    both.leave()
    wait_for(lambda: path.joined() == [first], "what nobody names to be left")
    path.send(daemon)
    assert sent(daemon) == [80]
    assert not path.is_said(seen.frames(), {IS_EX, TO_EX})

    all_but_one = Member(path.sink, wanted, (), [first])
    wait_for(lambda: path.joined() == [], "the group to be joined from any source")
    path.send(daemon)
    assert sent(daemon) == [120]
    wait_for(lambda: all_but_one.received() == {second: 20}, "all but one to come")
    one.leave()

    def refused() -> bool:
        before = sent(daemon)[0]
        path.send(daemon, 1)
        return sent(daemon)[0] == before + 1

    wait_for(refused, "the one to be refused")
    all_but_one.leave()
    wait_for(lambda: states(daemon) == ["idle"], "nobody to be left")
    wait_for(lambda: path.joined() is None, "the group to be left")
    assert "WARNING" not in daemon.log()


def test_a_source_that_is_added_flows_at_once(path: Path) -> None:
    """And not with the daemon's next look, half a second away at most: here that sees nothing."""
    given, wanted = GROUPS[path.version]
    keep = f'r1 {wanted} 6000 {WHEN} source="keep"'
    blind = "from mcrd.lanes.queriers import Queriers\nQueriers._compare = lambda _: None\n"
    rules = rule("a", f"r0 {given} 5000", keep) + ASKS
    daemon = path.lab.mcrd(path.relay, rules, program=with_a_fault(blind))
    wait_for(lambda: states(daemon) == ["idle"], "the rule to listen")
    first = Member(path.sink, wanted, path.senders[:1])
    wait_for(lambda: path.joined() == path.senders[:1], "the first source to be joined")
    second = Member(path.other, wanted, path.senders[1:])
    wait_for(lambda: path.joined() == path.senders, "the second source to be joined")
    path.send(daemon)
    wait_for(lambda: second.received() == {path.senders[1]: 20}, "the receiver to get it")
    first.leave()
    second.leave()


def test_who_names_a_source_that_the_output_does_not_send_from_is_told(path: Path) -> None:
    """Without `source = "keep"`, the stream comes from the relay."""
    given, wanted = GROUPS[path.version]
    rules = rule("a", f"r0 {given} 5000", f"r1 {wanted} 6000 {WHEN}")
    daemon = path.lab.mcrd(path.relay, rules + ASKS)
    one = Member(path.sink, wanted, path.senders[:1])
    why = f"but from others, such as {path.senders[0]}"
    wait_for(lambda: why in (daemon.rules()["a"]["reason"] or ""), "the reason")
    told = " ".join(daemon.ctl("explain", "a", "--seconds", "0.2", check=False).stdout.split())
    assert why in told
    assert 'What to do: `source` of the output ("keep": that of each packet)' in told
    daemon.edit(rules.replace("ttl = 2", 'ttl = 2, source = "keep"') + ASKS)
    wait_for(lambda: path.joined() == path.senders[:1], "the source to be joined")
    path.send(daemon)
    wait_for(lambda: one.received() == {path.senders[0]: 20}, "the receiver to get it")
    one.leave()


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_a_source_specific_group_for_hosts_that_cannot_name_sources(
    path: Path, *, named: bool
) -> None:
    """By IGMPv2 or MLDv1. It is never joined from any source, which routers ignore (RFC 4604)."""
    group, (first, second) = SPECIFIC[path.version], path.senders
    path.given, old = group, ("igmp", 2) if path.version == 4 else ("mld", 1)
    family = f"ipv{path.version}"
    path.sink.sysctl(f"net.{family}.conf.k0.force_{old[0]}_version", str(old[1]))
    only = f' sources=["{first}"]' if named else ""
    keep = f'r1 {group} 6000 {WHEN} source="keep"'
    daemon = path.lab.mcrd(path.relay, rule("a", f"r0 {group} 5000{only}", keep) + ASKS)
    wait_for(lambda: states(daemon) == ["idle"], "the rule to listen")
    seen = path.source.capture("s0", "igmp or icmp6 or (ip6 and ip6[6] = 0)", direction="in")

    box = Member(path.sink, group)
    wait_for(lambda: states(daemon) == ["active"], "the join to be heard")
    assert f"{group}  for" in daemon.ctl("members").stdout
    reason = daemon.rules()["a"]["outputs"][0]["reason"]
    if named:
        wait_for(lambda: path.joined() == [first], "the source of the rule to be joined")
        assert reason is None
        path.send(daemon, senders=1)
        wait_for(lambda: box.received() == {first: 20}, "the stream to come")
    else:
        told = f"{group} is source-specific, and no member names a source of it"
        assert told in reason
        explained = daemon.ctl("explain", "a", "--seconds", "0.2", check=False)
        assert explained.returncode == 1
        assert f"{told}: so it is not joined" in " ".join(explained.stdout.split())
        assert path.joined() is None
        path.send(daemon)  # what comes all the same is sent
        wait_for(lambda: box.received() == {first: 20, second: 20}, "all to come")

    # Another host names a source: neither takes anything from the other.
    other = Member(path.other, group, [first])
    wait_for(lambda: path.joined() == [first], "the source to be joined")
    wait_for(lambda: daemon.rules()["a"]["outputs"][0]["reason"] is None, "no reason to be left")
    path.send(daemon, senders=1)
    wait_for(lambda: other.received() == {first: 20}, "the source to come to who names it")
    wait_for(lambda: box.received()[first] == 40, "the source to come to the other")
    box.leave()
    wait_for(lambda: sources(daemon, group) == [first], "the leave to be believed")
    assert path.joined() == [first]
    path.send(daemon, senders=1)
    wait_for(lambda: other.received() == {first: 40}, "the source to come as before")
    again = Member(path.sink, group)
    wait_for(lambda: sources(daemon, group) is None, "the join to be heard again")
    other.leave()
    again.leave()
    wait_for(lambda: states(daemon) == ["idle"], "nobody to be left")
    wait_for(lambda: path.joined() is None, "the group to be left")
    assert path.is_said(seen.frames(), {IS_IN})
    assert not path.is_said(seen.frames(), {IS_EX, TO_EX})
