"""Programs that people receive with, behind a switch that snoops, with mcrd as the only querier."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import wait_for
from tests.lab.avahi import program
from tests.lab.processes import PATIENCE
from tests.lab.rules import rule

if TYPE_CHECKING:
    from tests.lab import Host, Lab, Mcrd

RULES = (
    rule("a", "r0 239.1.0.0/28 5000", 'r1 239.2.0.0/28 5000 ttl=2 when="members"')
    + "[interfaces.r1]\nquerier = true\n"
)
FLOWS_FOR = 600.0  # seconds
RATE = 200  # packets in a second
LARGEST = 200  # bytes in one
HEADERS = 28  # of IPv4 and UDP
JOIN, LEAVE = 4, 3  # CHANGE_TO_EXCLUDE and CHANGE_TO_INCLUDE (RFC 3376, 4.2.12)
JOIN_2, LEAVE_2 = 0x16, 0x17  # of IGMPv2
COUNT = """table ip count {{
    {counters}
    chain in {{
        type filter hook prerouting priority 0
        {rules}
    }}
}}
"""
SECONDS_TO_FLOW = 0.1
SECONDS_TO_END = 2.0  # the last-member query time of RFC 3376, 8.8
TOLERANCE = 50  # times as long, where others use the machine
# A timer of the kernel may be an eighth late, and the second query of a start comes 31 s after the
# first. It says that answers may take 2.5 s, and a bridge floods for as long.
SECONDS_OF_FLOOD = 255 / 8 + 31.25 + 2.5
ENDLESS = str(FLOWS_FOR + 600)
# VLC does not run as root.
AS_NOBODY = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "env",
    "HOME=/nonexistent",
)


def count(host: Host, **groups: str) -> None:
    """Count what comes there for port 5000 of each group, by the names given."""
    rules = host.lab.file("count.nft")
    counters = "\n".join(f"counter {name} {{ }}" for name in groups)
    lines = [f"ip daddr {to} udp dport 5000 counter name {name}" for name, to in groups.items()]
    rules.write_text(COUNT.format(counters=counters, rules="\n".join(lines)))
    host.run("nft", "-f", str(rules))


def counted(host: Host) -> dict[str, int]:
    """Bytes of payload that have come there, by the names of the counters.

    Datagrams of a flow that wait together leave by one write, and come as one packet.
    """
    told = json.loads(host.run("nft", "-j", "list", "counters"))["nftables"]
    each = [entry["counter"] for entry in told if "counter" in entry]
    return {str(it["name"]): int(it["bytes"]) - HEADERS * int(it["packets"]) for it in each}


@dataclass
class Receiver:
    """A program on a host of its own, and all that was seen there."""

    host: Host
    number: int  # of its group
    command: tuple[str, ...]
    leave: tuple[str, ...] = ()  # what makes it leave; without it, it ends
    starter: tuple[str, ...] = ()  # what it is started by
    process: subprocess.Popen[bytes] | None = None
    seen: Path = field(default_factory=Path)

    @property
    def name(self) -> str:
        return Path(self.command[0]).name

    def watch(self) -> subprocess.Popen[bytes]:
        """Have joins, leaves and packets written down, with their times."""
        lab = self.host.lab
        self.seen, errors = lab.file("seen"), lab.file("errors")
        latest = f"(igmp[0] = 0x22 and (igmp[8] = {JOIN} or igmp[8] = {LEAVE}))"
        what = f"{latest} or igmp[0] = {JOIN_2} or igmp[0] = {LEAVE_2} or udp port 5000"
        with self.seen.open("wb") as out, errors.open("wb") as err:
            watching = self.host.start(
                *("tcpdump", "-n", "-tt", "-l", "-p", "-i", "k0", what), stdout=out, stderr=err
            )
        wait_for(lambda: "listening on" in errors.read_text(), "tcpdump")
        return watching

    def times(self, what: str) -> list[float]:
        """When such lines were seen, in seconds."""
        lines = self.seen.read_text().splitlines()
        return [float(line.split()[0]) for line in lines if what in line]

    def has_seen(self, packets: int) -> bool:
        """Whether more packets than so many were seen."""
        return len(self.times("UDP")) > packets

    def counted(self) -> int:
        """How many bytes of its group the switch has sent there; of all, when it joins none."""
        return counted(self.host)["own" if self.number else "every"]

    def is_silent(self) -> bool:
        """Whether nothing comes for a second."""
        before = self.counted()
        time.sleep(1)
        return self.counted() == before

    def begin(self) -> None:
        """Let it receive, within the time that it may take."""
        watching = self.watch()
        with self.host.lab.file("receiver.log").open("wb") as out:
            self.process = self.host.start(*self.starter, *self.command, stdout=out, stderr=out)
        wait_for(partial(self.has_seen, 5), f"{self.name} to receive", timeout=60)
        watching.terminate()
        watching.wait()
        took = self.times("UDP")[0] - self.times("igmp")[0]
        print(f"{self.name}: {1000 * took:.1f} ms from its report to its packet")
        assert took < SECONDS_TO_FLOW * TOLERANCE

    def end(self) -> None:
        """Let it leave; it ends within the time that it may take."""
        watching = self.watch()
        wait_for(partial(self.has_seen, 0), "it to flow")
        if self.leave:
            self.host.run(*self.leave)
        elif self.process is not None:
            self.process.terminate()
            self.process.wait()
        wait_for(self.is_silent, "the stream to end", timeout=60)
        watching.terminate()
        watching.wait()
        took = self.times("UDP")[-1] - self.times("igmp")[0]
        print(f"{self.name}: ends {took:.2f} s after its leave")
        assert took < SECONDS_TO_END * TOLERANCE


@dataclass
class Network:
    """Receivers and others behind a switch."""

    daemon: Mcrd
    relay: Host
    receivers: list[Receiver]
    nobody: Receiver  # who joins nothing
    other: Host  # of a lower address than the relay

    def querier(self) -> str | None:
        """Who asks, of IGMP."""
        told = self.daemon.ctl("members", "--json", timeout=10 * PATIENCE)
        asked = json.loads(told.stdout)["asked"]
        (who,) = (each["querier"] for each in asked if each["protocol"] == "igmp")
        return None if who is None else str(who)

    def is_idle(self) -> bool:
        return [each["state"] for each in self.daemon.rules()["a"]["outputs"]] == ["idle"]

    def missing(self) -> list[int]:
        """How many bytes of each receiver's group came to the relay, and not to it."""
        came = [each.counted() for each in self.receivers]
        to = counted(self.relay)
        pairs = zip(self.receivers, came, strict=True)
        return [to[f"g{each.number}"] - got for each, got in pairs]


def commands(lab: Lab, hosts: tuple[Host, ...], *, with_vlc: bool) -> list[Receiver]:
    """Each with a group of its own; the heaviest last."""
    socat, iperf = program("socat", "socat"), program("iperf", "iperf")
    ctl, smcrouted = program("smcroutectl", "smcroute"), program("smcrouted", "smcroute")
    conf, ipc = lab.file("smcroute.conf"), lab.file("smcroute.sock")
    conf.write_text("phyint k0 enable\n")
    control = (ctl, "-u", str(ipc))
    pid = str(lab.file("pid"))
    hosts[2].start(smcrouted, "-n", "-f", str(conf), "-P", pid, "-u", str(ipc))
    wait_for(ipc.exists, "smcrouted")
    found = [
        Receiver(
            *(hosts[0], 1),
            (socat, "-u", "UDP4-RECV:5000,ip-add-membership=239.2.0.1:k0", "OPEN:/dev/null"),
        ),
        Receiver(hosts[1], 2, (iperf, "-s", "-u", "-B", "239.2.0.2%k0", "-p", "5000", "-i", "60")),
        Receiver(
            *(hosts[2], 3, (*control, "join", "k0", "239.2.0.3")),
            leave=(*control, "leave", "k0", "239.2.0.3"),
        ),
    ]
    if ffmpeg := shutil.which("ffmpeg"):  # with all its libraries: where it is installed
        quiet = (ffmpeg, "-nostdin", "-loglevel", "error")
        at = "udp://239.2.0.4:5000?localaddr=10.2.0.14&timeout=60000000"
        to = ("-c", "copy", "-f", "mpegts", "-y", "/dev/null")
        found.append(Receiver(hosts[3], 4, (*quiet, "-i", at, *to)))
    if with_vlc:
        nowhere = ("-I", "dummy", "--no-interact", "--vout=dummy", "--aout=adummy")
        here = ("--miface=k0", "udp://@239.2.0.5:5000")
        found.append(
            Receiver(hosts[4], 5, (program("vlc", "vlc-bin"), *nowhere, *here), (), AS_NOBODY)
        )
    return found


def send(source: Host, *, with_vlc: bool) -> None:
    """What is sent does not wait for who wants it."""
    source.run("ip", "route", "add", "224.0.0.0/4", "dev", "s0")
    for number in (1, 3, 15):
        source.start_send("s0", f"239.1.0.{number}", 5000, rate=RATE, size=100 + number, ttl=2)
    to = ("-c", "239.1.0.2", "-u", "-b", f"{RATE}pps", "-l", str(LARGEST), "-T", "2", "-p", "5000")
    nowhere = subprocess.DEVNULL
    source.start(program("iperf", "iperf"), *to, "-t", ENDLESS, stdout=nowhere, stderr=nowhere)
    if ffmpeg := shutil.which("ffmpeg"):
        picture = ("-re", "-f", "lavfi", "-i", "testsrc=size=320x180:rate=25", "-t", ENDLESS)
        muxed = ("-c:v", "mpeg2video", "-b:v", "250k", "-f", "mpegts", "-flush_packets", "1")
        quiet = (ffmpeg, "-nostdin", "-loglevel", "error")
        for number in (4, 5)[: 1 + with_vlc]:
            at = f"udp://239.1.0.{number}:5000?ttl=2&pkt_size=188&localaddr=10.1.0.2"
            source.start(*quiet, *picture, *muxed, at, stderr=nowhere)


@pytest.fixture
def network(lab: Lab, request: pytest.FixtureRequest) -> Network:
    """The switch knows mcrd as its querier, everything is sent, and nobody wants any of it.

    VLC takes seconds to start, and a stream to decode: it is there where that is no matter.
    """
    is_long = request.node.get_closest_marker("long") is not None
    with_vlc = is_long and all(map(shutil.which, ("vlc", "ffmpeg")))
    source, relay, switch = lab.hosts("source", "relay", "switch")
    names = ("socat", "iperf", "smcroute", "ffmpeg", "vlc", "nobody", "other")
    hosts = lab.hosts(*(name for name in names if with_vlc or name != "vlc"))
    *_, quiet, other = hosts
    lab.link(source, "s0", ["10.1.0.2/24"], relay, "r0", ["10.1.0.5/24"])
    lab.link(switch, "p0", [], relay, "r1", ["10.2.0.5/24"])
    for at, host in enumerate(hosts, 1):
        address = "10.2.0.2/24" if host is other else f"10.2.0.{10 + at}/24"
        lab.link(switch, f"p{at}", [], host, "k0", [address])
        count(host, own=f"239.2.0.{at}", every="224.0.0.0/4")
    hosts[1].sysctl("net.ipv4.conf.k0.force_igmp_version", "2")  # reports go to routers alone
    count(relay, **{f"g{number}": f"239.1.0.{number}" for number in range(1, 6)})
    lab.bridge(switch, "br0", [f"p{at}" for at in range(len(hosts) + 1)], snooping=True)
    daemon = lab.mcrd(relay, RULES)
    found = Network(
        daemon, relay, commands(lab, hosts, with_vlc=with_vlc), Receiver(quiet, 0, ()), other
    )
    wait_for(lambda: found.querier() == "10.2.0.5", "the querier to be elected")
    # A bridge floods for as long as answers to the first query may take.
    first = hosts[0].receive("k0", "239.2.0.15", 5000)
    send(source, with_vlc=with_vlc)
    wait_for(lambda: counted(hosts[0])["every"] > 0, "the stream to flow")
    wait_for(found.nobody.is_silent, "the switch to know its querier", timeout=60)
    first.stop()
    wait_for(found.is_idle, "nobody to be left")
    return found


def test_each_flows_at_once_and_ends_when_it_leaves(network: Network) -> None:
    quiet = network.nobody.counted()
    for receiver in network.receivers:
        receiver.begin()
    for receiver in network.receivers:
        receiver.end()
    wait_for(network.is_idle, "nobody to be left")
    assert network.nobody.counted() == quiet
    assert "WARNING" not in network.daemon.log()


@pytest.mark.long
def test_each_goes_on_for_long_whoever_asks(network: Network) -> None:
    """A querier of a lower address comes, and goes right after its first query."""
    daemon, nobody = network.daemon, network.nobody
    for receiver in network.receivers:
        receiver.begin()
    before, began = network.missing(), time.monotonic()
    quiet = nobody.counted()
    flows_on(network, began + 60)
    lower = network.other.lab.mcrd(network.other, "[interfaces.k0]\nquerier = true\n")
    wait_for(lambda: network.querier() == "10.2.0.2", "the lower address to win", timeout=60)
    asked = time.monotonic()
    lower.kill()
    assert nobody.counted() == quiet
    wait_for(lambda: network.querier() == "10.2.0.5", "it to be replaced", timeout=600)
    took = time.monotonic() - asked
    print(f"the other querier is replaced after {took:.0f} s")
    assert took < 255 + 10  # RFC 3376, 8.5; and a look
    # A bridge takes no queries of a higher address until its own timer has ended, and then floods
    # until it hears the next one, and for as long as answers to that one may take.
    flows_on(network, time.monotonic() + SECONDS_OF_FLOOD)
    flooded = nobody.counted() - quiet
    print(f"to nobody meanwhile: {flooded} bytes")
    quiet = nobody.counted()
    flows_on(network, max(began + FLOWS_FOR, time.monotonic() + 150))
    assert nobody.counted() == quiet
    lost = [after - held for after, held in zip(network.missing(), before, strict=True)]
    print(f"to no receiver: {lost} bytes")
    assert max(lost) < RATE * LARGEST  # what is under way while they are counted
    assert "WARNING" not in daemon.log()
    for receiver in network.receivers:
        receiver.end()
    wait_for(network.is_idle, "nobody to be left")


def flows_on(network: Network, until: float) -> None:
    """To every receiver, up to that time."""
    counts = [each.counted() for each in network.receivers]
    while time.monotonic() < until:
        time.sleep(5)
        now = [each.counted() for each in network.receivers]
        for receiver, before, after in zip(network.receivers, counts, now, strict=True):
            assert after > before, f"{receiver.name} gets nothing any more"
        counts = now
