"""Rules that more than one host has, and that one of them relays."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.documents import recipes
from tests.lab import wait_for
from tests.lab.avahi import program
from tests.lab.rules import rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab import Host, Lab, Mcrd, Triangle

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
    # Also here it says whether the stream comes.
    explained = daemon.ctl("explain", "a", "--seconds", "0.2", "--json", check=False).stdout
    (missed,) = (each for each in json.loads(explained)["findings"] if each["stage"] == "frames")
    assert (missed["topic"], missed["answer"]) == ("nothing", "no")

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


KEEPALIVED = """
global_defs {
  vrrp_garp_master_delay 0
  vrrp_version 3
}
"""
# From 2.3 on, it does not start without a file of its package; all else it can do without.
START = """
mkdir -p "$1/keepalived" && touch "$1/keepalived/keepalived.config-opts" &&
mount --bind "$1" /etc && shift && exec "$@"
"""
INSTANCE = """
vrrp_instance of-{number} {{
  state BACKUP
  nopreempt
  interface r1
  virtual_router_id {number}
  priority {priority}
  advert_int 0.1
  virtual_ipaddress {{
    {address}/24 dev r1
  }}
}}
"""


@dataclass
class Twin:
    """One of the hosts that may relay: keepalived of Debian, and mcrd.

    `priorities` are by the virtual address.
    """

    host: Host
    priorities: dict[str, int]
    rules: str
    inputs: tuple[str, ...] = ("r0",)
    daemon: Mcrd | None = None
    router: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts both, and waits until the daemon is ready to take over."""
        lab, name = self.host.lab, self.host.name
        self.daemon = lab.mcrd(self.host, self.rules)
        wait_for(lambda: self.states().keys() <= {"standby", "active"}, "all to be open")
        conf = lab.file(f"{name}.keepalived.conf")
        instances = (
            INSTANCE.format(number=number, priority=priority, address=address)
            for number, (address, priority) in enumerate(self.priorities.items(), 51)
        )
        conf.write_text(KEEPALIVED + "".join(instances))
        etc = str(lab.file(f"{name}.etc"))
        self.router = self.host.start(
            *("unshare", "--mount", "sh", "-c", START, "sh", etc),
            *(program("keepalived", "keepalived"), "--vrrp", "--dont-fork", "--log-console"),
            *("--use-file", str(conf), "--pid", f"{conf}.pid", "--vrrp_pid", f"{conf}.vrrp"),
            stdout=subprocess.DEVNULL,
        )

    def state(self) -> str:
        """That of the rule."""
        assert self.daemon is not None
        return state(self.daemon)[0]

    def states(self) -> dict[str, int]:
        """How many rules are in which state."""
        assert self.daemon is not None
        return dict(self.daemon.status()["rules"])

    def active(self) -> set[str]:
        """The rules that it relays."""
        assert self.daemon is not None
        return {name for name, each in self.daemon.rules().items() if each["state"] == "active"}

    def pull_the_plug(self) -> None:
        """Nothing of it is heard any more; it has no time to say so."""
        assert self.daemon is not None
        assert self.router is not None
        self._set_links("down")
        self.daemon.kill()
        self.router.send_signal(signal.SIGKILL)
        self.router.wait()

    def repair(self) -> None:
        """It comes back, without what it was."""
        for address in self.priorities:
            self.host.run("ip", "address", "flush", "dev", "r1", "to", address)
        self._set_links("up")
        self.start()

    def _set_links(self, state: str) -> None:
        links = (*self.inputs, "r1")
        self.host.run("sh", "-c", "; ".join(f"ip link set {name} {state}" for name in links))


LOSE = """
table netdev lose {{
    chain {port} {{
        type filter hook egress device {port} priority 0;
        meta l4proto udp numgen inc mod 8 == {which} drop
    }}
}}
"""


def hosts(lab: Lab, count: int, inputs: tuple[str, ...] = ("r0",)) -> tuple[Host, Host, list[Host]]:
    """source -- switch -- all of them -- switch -- sink.

    The first switch has all their inputs. Each of several loses one packet in eight, another one.
    """
    source, left, right, sink = lab.hosts("source", "left", "right", "sink")
    between = lab.hosts(*(f"relay{number}" for number in range(1, count + 1)))
    lab.link(source, "s0", ["10.1.0.1/24"], left, "p0", [])
    lab.link(sink, "k0", ["10.2.0.2/24"], right, "p0", [])
    ports = [f"p{number}" for number in range(count + 1)]
    ways = []
    for number, host in enumerate(between, 1):
        for at, name in enumerate(inputs):
            ways.append(way := f"p{number}" if at == 0 else f"{name}{number}")
            lab.link(host, name, [f"10.1.{at}.1{number}/24"], left, way, [])
        lab.link(host, "r1", [f"10.2.0.1{number}/24"], right, f"p{number}", [])
    lab.bridge(left, "br0", ["p0", *ways])
    lab.bridge(right, "br0", ports)
    for at, name in enumerate(ways if len(inputs) > 1 else ()):
        left.run("nft", LOSE.format(port=name, which=at))
    return source, sink, list(between)


def pair(lab: Lab, rules: str, inputs: tuple[str, ...] = ("r0",)) -> tuple[Host, Host, Twin, Twin]:
    """Two of them; the first one has the address."""
    source, sink, (one, two) = hosts(lab, 2, inputs)
    first = Twin(one, {VIRTUAL: 200}, rules, inputs)
    second = Twin(two, {VIRTUAL: 100}, rules, inputs)
    first.start()
    wait_for(first.active, "the first to have the address")
    second.start()
    return source, sink, first, second


def ours(standby: str) -> str:
    """The only rule of both, as docs/recipes.md has it."""
    text = recipes()["a pair, both hosts"].replace("10.2.0.100", VIRTUAL)
    for ours, theirs in (("camera", "a"), ("eth0", "r0"), ("eth1", "r1"), ('"1s"', f'"{standby}"')):
        text = text.replace(ours, theirs)
    return text


def has_heard(twin: Twin, packets: int) -> bool:
    """Whether at least so many came to the standby, whether it keeps them or not."""
    assert twin.daemon is not None
    counts = twin.daemon.stats()["rules"]["a"]
    return int(counts["backlog"] + counts["dropped"]["standby"]) >= packets


def has_heard_all(twin: Twin) -> bool:
    """Whether nothing is kept any more."""
    assert twin.daemon is not None
    return bool(twin.daemon.stats()["rules"]["a"]["backlog"] == 0)


def has_sent(twin: Twin, packets: int) -> bool:
    """Whether it has relayed at least so many."""
    assert twin.daemon is not None
    return int(counted(twin.daemon)["sent"]) >= packets


@pytest.mark.parametrize("address", ["239.2.2.2", "10.2.0.2"])
def test_the_plug_of_the_active_host_is_pulled(lab: Lab, address: str) -> None:
    """VRRP moves the address within half a second; what was not sent meanwhile is sent then.

    What is sent to a group, the other host has heard; to a host, some of it comes again.
    """
    rate = 5000
    rules = ours("5s").replace("239.2.2.2", address)
    if address != "239.2.2.2":
        rules = rules.replace(", ttl = 8", "")
    source, sink, active, spare = pair(lab, rules)
    received = sink.receive("k0", address, 6000)
    sender = source.start_send("s0", "239.1.1.1", 5000, rate=rate, size=200)
    wait_for(partial(has_heard, spare, 4000), "the other one to hear the stream")
    active.pull_the_plug()
    wait_for(lambda: spare.state() == "active", "the takeover")
    wait_for(partial(has_heard_all, spare), "the backlog to be sent")
    wait_for(partial(has_sent, spare, 3 * rate), "the stream to go on")
    sender.process.send_signal(signal.SIGINT)
    sent = sender.result()["sent"]
    assert spare.daemon is not None
    wait_for(lambda: _is_still(spare), "silence")
    counts = counted(spare.daemon)
    found = received.stop()
    print(f"repeated {found['duplicated']} of {sent}")
    assert (found["unique"], found["lost"]) == (sent, 0)
    if address == "239.2.2.2":
        assert found["duplicated"] == 0
    else:  # at most what was kept has come before
        assert 0 < found["duplicated"] <= 5 * rate
    with_it = spare.daemon.stats()["interfaces"]["r0"]
    assert with_it["dropped"]["standby"] == counts["standby"]
    assert with_it["received"]["packets"] == counts["relayed"] + counts["standby"]


KEPT_FOR = 5  # seconds: ten times what the takeover takes
MEMBERS = {
    "groups": ("r0 239.1.1.0/28 5000", "r1 239.2.2.0/28 6000 ttl=8"),
    "ports": ("r0 239.1.1.1 5000-5015", "r1 239.2.2.1 6000-6015 ttl=8"),
    "sources": ("r0 239.1.1.1 5000", 'r1 239.2.2.1 6000 ttl=8 source="keep"'),
}


def connected(twin: Twin) -> int:
    """How many UDP sockets of that host send to a group of its outputs."""
    return len(twin.host.run("ss", "-Hun", "dst", "239.2.2.0/24").splitlines())


@pytest.mark.parametrize("kind", MEMBERS)
def test_the_plug_of_the_active_host_of_a_range_is_pulled(lab: Lab, kind: str) -> None:
    """Nothing is lost: the other host has the sockets of members before it relays.

    It has not heard what the first one sent, so that is repeated; but no more than was kept.
    """
    rate = 5_000
    more = f'active_with = "{VIRTUAL}"\nstandby = "{KEPT_FOR}s"'
    source, sink, active, spare = pair(lab, rule("a", *MEMBERS[kind], more=more))
    groups = 4 if kind == "groups" else 1
    ports = [5000 + number for number in range(2 if kind == "ports" else 1)]
    received = [sink.receive("k0", "239.2.2.1", port + 1000, flows=groups) for port in ports]
    senders = [
        source.start_send("s0", "239.1.1.1", port, rate=rate // 2, flows=groups, size=200)
        for port in (ports * 2)[:2]
    ]
    wait_for(partial(has_heard, spare, rate), "the other one to hear the stream")
    wait_for(lambda: connected(spare) == max(groups, len(senders)), "the sockets of members")
    active.pull_the_plug()
    wait_for(lambda: spare.state() == "active", "the takeover")
    wait_for(partial(has_heard_all, spare), "the backlog to be sent")
    assert spare.daemon is not None
    wait_for(partial(has_sent, spare, counted(spare.daemon)["sent"] + 1000), "the stream to go on")
    for sender in senders:
        sender.process.send_signal(signal.SIGINT)
    sent = sum(sender.result()["sent"] for sender in senders)
    wait_for(lambda: _is_still(spare), "silence")
    (output,) = spare.daemon.stats()["rules"]["a"]["outputs"]
    assert (output["waiting"], output["new_member"]) == (0, 0)
    found = [receiver.stop() for receiver in received]
    repeated = sum(each["duplicated"] for each in found)
    print(f"repeated {repeated} of {sent}")
    assert sum(each["unique"] for each in found) == sent
    assert sum(each["lost"] for each in found) == 0
    assert 0 < repeated <= KEPT_FOR * rate


LEGS = f"""
[rules.a]
active_with = "{VIRTUAL}"
standby = "5s"
inputs = [
    {{ interface = "r0", address = "239.1.1.1", port = 5000 }},
    {{ interface = "q0", address = "239.1.1.1", port = 5000 }},
]
outputs = [{{ interface = "r1", address = "239.2.2.2", port = 6000, ttl = 8 }}]
merge = {{ by = "content" }}
"""


@pytest.mark.parametrize("by", ["plug", "hand"])
def test_two_hosts_with_two_inputs(lab: Lab, by: str) -> None:
    """Nothing is lost or comes twice, although each input loses some of it."""
    rate = 5_000
    source, sink, active, spare = pair(lab, LEGS, ("r0", "q0"))
    received = sink.receive("k0", "239.2.2.2", 6000)

    def legs(twin: Twin) -> list[dict[str, Any]]:
        assert twin.daemon is not None
        return list(twin.daemon.stats()["rules"].values())

    def sent_by(twin: Twin) -> int:
        return sum(leg["outputs"][0]["sent"]["packets"] for leg in legs(twin))

    def kept_by(twin: Twin) -> int:
        return sum(leg["backlog"] for leg in legs(twin))

    sender = source.start_send("s0", "239.1.1.1", 5000, rate=rate, size=200)
    wait_for(lambda: sent_by(active) > rate, "the stream to flow")
    wait_for(lambda: all(leg["overheard"] > 1000 for leg in legs(spare)), "it to be heard")
    if by == "plug":
        active.pull_the_plug()
    else:
        _standby_then_active(active, spare)
    wait_for(lambda: spare.states() == {"active": 2}, "the takeover")
    wait_for(lambda: kept_by(spare) == 0, "the backlog to be sent")
    so_far = sent_by(spare)
    wait_for(lambda: sent_by(spare) > so_far + 1000, "the stream to go on")
    sender.process.send_signal(signal.SIGINT)
    sent = sender.result()["sent"]

    def is_still() -> bool:
        before = sent_by(spare)
        return kept_by(spare) == 0 and sent_by(spare) == before

    wait_for(is_still, "silence")
    assert all(leg["outputs"][0]["sent"]["packets"] > rate // 100 for leg in legs(spare))
    found = received.stop()
    print(f"lost {found['lost']}, twice {found['duplicated']} of {sent}: {found}")
    assert (found["unique"], found["lost"]) == (sent, 0)
    # What a dead host had under way was not heard.
    assert found["duplicated"] <= (sent // 1000 if by == "plug" else 0)


@pytest.mark.long
def test_fifty_failovers_back_and_forth(lab: Lab) -> None:
    """At 20,000/s nothing is lost, and nothing that the other host has heard comes again."""
    rate = 20_000
    source, sink, active, spare = pair(lab, ours("1500ms"))
    received = sink.receive("k0", "239.2.2.2", 6000)
    sender = source.start_send("s0", "239.1.1.1", 5000, rate=rate, size=200)
    for number in range(50):
        wait_for(partial(has_heard, spare, 1000), f"the stream, {number}")
        active.pull_the_plug()
        wait_for(lambda: spare.state() == "active", f"the takeover, {number}")  # noqa: B023
        wait_for(partial(has_heard_all, spare), f"the backlog to be sent, {number}")
        active, spare = spare, active
        spare.repair()
    sender.process.send_signal(signal.SIGINT)
    sent = sender.result()["sent"]
    wait_for(lambda: _is_still(active), "silence")
    found = received.stop()
    print(f"repeated {found['duplicated']} of {sent}, lost {found['lost']}")
    assert (found["unique"], found["lost"]) == (sent, 0)
    # What the dead host had under way was not heard: a thousandth would be 20 in each.
    assert found["duplicated"] <= sent // 1000


def _is_still(twin: Twin) -> bool:
    assert twin.daemon is not None
    before = counted(twin.daemon)
    time.sleep(0.3)  # it may wait for a CPU
    return has_heard_all(twin) and not has_sent(twin, before["sent"] + 1)


def test_both_are_active_where_neither_hears_the_other(lab: Lab) -> None:
    """Receivers get all twice, and nothing more: no storm."""
    source, sink, active, spare = pair(lab, ours("100ms"))
    wait_for(lambda: spare.state() == "standby", "the second to stand by")
    spare.host.run("nft", "add table ip split")
    hook = "{ type filter hook input priority 0; }"
    spare.host.run("nft", f"add chain ip split input {hook}")
    spare.host.run("nft", "add rule ip split input ip protocol 112 drop")
    wait_for(lambda: spare.state() == "active", "the second to hear nobody")
    assert active.state() == "active"
    received = sink.receive("k0", "239.2.2.2", 6000)
    source.send("s0", "239.1.1.1", 5000, count=500, rate=1000, size=100)
    wait_for(lambda: has_sent(active, 500) and has_sent(spare, 500), "both to send all")
    spare.host.run("nft", "delete table ip split")
    wait_for(lambda: spare.state() == "standby", "the second to hear the first again")
    source.send("s0", "239.1.1.1", 5000, count=500, rate=1000, size=100)
    wait_for(lambda: has_sent(active, 1000), "the first to send all")
    found = received.stop()
    assert (found["unique"], found["duplicated"]) == (1000, 500)


@pytest.mark.long
def test_four_hosts_share_a_thousand_rules(lab: Lab) -> None:
    """Each rule is active on exactly one, also when one of them dies and comes back."""
    source, sink, found = hosts(lab, 4)
    addresses = [f"10.2.0.10{number}" for number in range(4)]
    names = [f"r{number}" for number in range(1000)]
    rules = "".join(
        rule(
            name,
            f"r0 239.1.{at // 250}.{at % 250 + 1} 5000",
            f"r1 239.2.{at // 250}.{at % 250 + 1} 6000 ttl=2",
            more=f'active_with = "{addresses[at % 4]}"',
        )
        for at, name in enumerate(names)
    )
    twins = [
        Twin(host, {a: 200 - 10 * ((at - mine) % 4) for at, a in enumerate(addresses)}, rules)
        for mine, host in enumerate(found)
    ]
    for twin in twins:
        twin.host.sysctl("net.ipv4.igmp_max_memberships", "2000")
        twin.start()

    def is_shared(between: list[Twin]) -> bool:
        relayed = [name for twin in between for name in twin.active()]
        return sorted(relayed) == sorted(names)

    wait_for(lambda: is_shared(twins), "each rule to be active on one host")
    dead, *others = sorted(twins, key=lambda twin: len(twin.active()), reverse=True)
    dead.pull_the_plug()
    wait_for(lambda: is_shared(others), "the others to relay all")
    received = sink.receive("k0", "239.2.0.1", 6000)
    source.send("s0", "239.1.0.1", 5000, count=200, rate=1000, size=100)
    wait_for(lambda: sum(counted(t.daemon, "r0")["sent"] for t in others if t.daemon) == 200, "all")
    dead.repair()
    wait_for(lambda: is_shared(twins), "each rule to be active on one host again")
    found_there = received.stop()
    assert (found_there["unique"], found_there["duplicated"]) == (200, 0)


def _stop_keepalived(active: Twin, _: Twin) -> None:
    assert active.router is not None
    active.router.send_signal(signal.SIGTERM)
    active.router.wait()


def _standby_then_active(active: Twin, spare: Twin) -> None:
    assert active.daemon is not None
    assert spare.daemon is not None
    active.daemon.ctl("standby", "all")
    spare.daemon.ctl("active", "all")


def _active_then_standby(active: Twin, spare: Twin) -> None:
    assert active.daemon is not None
    assert spare.daemon is not None
    spare.daemon.ctl("active", "all")
    active.daemon.ctl("standby", "all")


SWITCHES = [_stop_keepalived, _standby_then_active, _active_then_standby]


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: str(switch.__name__[1:]))
def test_a_planned_switch_loses_and_repeats_nothing(
    lab: Lab, switch: Callable[[Twin, Twin], None]
) -> None:
    """At 20,000/s, whichever host is told first; receivers get each packet once."""
    rate = 20_000
    source, sink, active, spare = pair(lab, ours("3s"))
    received = sink.receive("k0", "239.2.2.2", 6000)
    sender = source.start_send("s0", "239.1.1.1", 5000, rate=rate, size=200)
    wait_for(partial(has_sent, active, rate), "the stream to flow")
    switch(active, spare)
    wait_for(lambda: spare.state() == "active", "the other host to take over")
    wait_for(partial(has_sent, spare, 2 * rate), "the stream to go on")
    sender.process.send_signal(signal.SIGINT)
    sent = sender.result()["sent"]
    wait_for(lambda: _is_still(spare), "silence")
    found = received.stop()
    print(f"lost {found['lost']}, twice {found['duplicated']} of {sent}: {found}")
    assert (found["unique"], found["lost"], found["duplicated"]) == (sent, 0, 0)


def test_a_switch_of_a_stream_with_gaps_while_both_are_told_to_send(lab: Lab) -> None:
    """Each gap is longer than a host is silent before it is taken for gone."""
    source, sink, active, spare = pair(lab, ours("8s"))
    received = sink.receive("k0", "239.2.2.2", 6000)
    sender = source.start_send("s0", "239.1.1.1", 5000, rate=3, size=200)
    wait_for(partial(has_sent, active, 3), "the stream to flow")
    assert active.daemon is not None
    assert spare.daemon is not None
    spare.daemon.ctl("active", "all")
    so_far = counted(active.daemon)["sent"]
    wait_for(partial(has_sent, active, so_far + 4), "both to be active for over a second")
    active.daemon.ctl("standby", "all")
    wait_for(partial(has_sent, spare, 4), "the other host to take over")
    sender.process.send_signal(signal.SIGINT)
    sent = sender.result()["sent"]

    def is_all() -> bool:
        both = [counted(twin.daemon)["sent"] for twin in (active, spare) if twin.daemon]
        return bool(sum(both) >= sent)

    wait_for(is_all, "all to be sent")
    found = received.stop()
    assert (found["unique"], found["lost"], found["duplicated"]) == (sent, 0, 0)
