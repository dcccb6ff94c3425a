"""python -m bench.zap: receivers zap through groups behind mcrd, and behind igmpproxy.

    source -- switch (snoops, asks) -- r0 relay r1 ... r4 -- a network with five receivers each

Each receiver is a host. It joins a group at random, leaves after a while and joins another one.
What a network gets is seen where it leaves the relay. Both relays see the same joins and leaves.
Each runs as its package starts it: mcrd with Nice=-5.

From a join to its first packet is from the host's call to the time at which its kernel stamped the
datagram: with the wait of that kernel before its report. From a leave to silence is to the last
packet on that network before none came for a while, unless somebody joined again.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
import json
import random
import selectors
import socket
import struct
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from bench.interrupt import end_in_order
from bench.programs import build
from bench.tools import find
from tests.lab import Lab, LabError, wait_for
from tests.lab.daemon import console_script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.lab import Host

GROUPS, NETWORKS, RECEIVERS = 200, 4, 20
FIRST = IPv4Address("239.1.1.1")
PORT = 5000
RATE = 100  # packets in a second, of each group
STAYS = (0.5, 2.5)  # seconds with a group: from, to
SECONDS, ROUNDS = 60.0, 3
SILENT = 0.25  # seconds without a packet
AFTER = 15.0  # seconds that are looked at when all have left

ETH_P_IP, ETH_P_ALL = 0x0800, 3  # a port of a bridge gives no others
SO_TIMESTAMPNS, SO_RCVBUFFORCE, IP_MULTICAST_ALL, IP_PKTINFO = 35, 33, 49, 8
TIME = struct.Struct("@qq")
WHERE = struct.Struct("@i4s4s")  # of IP_PKTINFO: interface, local address, destination
UDP, UDP_AT, GROUP_AT = 17, 23, 30  # in an Ethernet frame with IPv4

MCRD, IGMPPROXY = "mcrd", "igmpproxy"
Key = tuple[int, bytes]
"""A network and a group."""


@dataclass
class Run:
    """What was seen of one relay."""

    wanted: dict[Key, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    sent: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    first: list[float] = field(default_factory=list)  # seconds from a join to its first packet
    missed: int = 0  # joins that got none
    silence: list[float] = field(default_factory=list)  # seconds from a leave to the last packet
    stray: int = 0  # packets that nobody on their network wanted
    packets: int = 0
    source: int = 0  # packets that the source sent

    def judge(self, end: float) -> None:
        """Compare what was sent with what was wanted."""
        for key, sent in self.sent.items():
            self.packets += len(sent)
            joined = list(_union(self.wanted[key]))
            starts = [start for start, _ in joined] + [end]
            self.stray += bisect_left(sent, starts[0])
            for (_, left), until in zip(joined, starts[1:], strict=True):
                tail = sent[bisect_right(sent, left) : bisect_left(sent, until)]
                self.stray += len(tail)
                last = left
                for at in tail:
                    if at - last > SILENT:
                        break
                    last = at
                if until - last > SILENT:  # nobody joined again before
                    self.silence.append(last - left)


def _union(spans: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Spans of time that touch none of the others."""
    spans = sorted(spans)
    start, end = spans[0] if spans else (0.0, 0.0)
    for begins, ends in spans[1:]:
        if begins > end:
            yield start, end
            start = begins
        end = max(end, ends)
    if spans:
        yield start, end


class Receiver:
    """A host with one socket, which is a member of one group at a time."""

    def __init__(self, host: Host, network: int, run: Run, chance: random.Random) -> None:
        self._network, self._run, self._chance = network, run, chance
        self.socket = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        host.lab.close_at_end(self.socket)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
        self.socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self.socket.bind(("", PORT))
        with host.inside():
            self._index = socket.if_nametoindex("k0")
        self._group, self._joined, self._waits = b"", 0.0, False
        self.due = 0.0

    def zap(self, now: float) -> None:
        """Leave, and join another one."""
        self.leave()
        self._group = (FIRST + self._chance.randrange(GROUPS)).packed
        self.due = now + self._chance.uniform(*STAYS)
        self._joined, self._waits = time.time(), True
        self._member(socket.IP_ADD_MEMBERSHIP)

    def leave(self) -> None:
        if not self._group:
            return
        self.read()
        self._member(socket.IP_DROP_MEMBERSHIP)
        left = time.time()
        self._run.wanted[self._network, self._group].append((self._joined, left))
        self._run.missed += self._waits
        self._group = b""

    def _member(self, what: int) -> None:
        request = struct.pack("@4s4si", self._group, bytes(4), self._index)
        self.socket.setsockopt(socket.IPPROTO_IP, what, request)

    def read(self) -> None:
        """Take what came; the first one of the group counts."""
        for at, said, *_ in _read(self.socket, 64):
            group = WHERE.unpack(said[socket.IPPROTO_IP, IP_PKTINFO])[2]
            if self._waits and group == self._group and at >= self._joined:
                self._waits = False
                self._run.first.append(at - self._joined)


class Wire:
    """What the relay sends into one network."""

    def __init__(self, switch: Host, port: str, network: int, run: Run) -> None:
        self._network, self._run = network, run
        self.socket = switch.socket(socket.AF_PACKET, socket.SOCK_RAW)
        switch.lab.close_at_end(self.socket)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self.socket.bind((port, ETH_P_ALL))

    def read(self) -> None:
        for at, _, frame, where in _read(self.socket, GROUP_AT + 4):
            if where[1:3] == (ETH_P_IP, socket.PACKET_MULTICAST) and frame[UDP_AT] == UDP:
                self._run.sent[self._network, frame[GROUP_AT : GROUP_AT + 4]].append(at)


def _read(
    sock: socket.socket, size: int
) -> Iterator[tuple[float, dict[tuple[int, int], bytes], bytes, tuple[object, ...]]]:
    """What is there: when it came, what the kernel says of it, its first bytes, from where."""
    while True:
        try:
            data, said, _, where = sock.recvmsg(size, 128)
        except BlockingIOError:
            return
        found = {(level, kind): content for level, kind, content in said}
        seconds, ns = TIME.unpack(found[socket.SOL_SOCKET, SO_TIMESTAMPNS])
        yield seconds + ns / 1e9, found, data, where


@dataclass
class Site:
    """The hosts and their cables."""

    lab: Lab
    source: Host
    relay: Host
    switch: Host
    receivers: list[Host]
    programs: dict[str, str]

    def start(self, name: str) -> Callable[[], object]:
        """Start that relay; return what ends it."""
        if name == MCRD:
            as_its_unit = ("nice", "-n", "-5", console_script("mcrd"))
            daemon = self.lab.mcrd(self.relay, rules(), program=as_its_unit)
            wait_for(lambda: daemon.log().count("asks who listens") >= NETWORKS, "the queriers")
            return daemon.stop
        config = self.lab.file("igmpproxy.conf")
        downs = "".join(f"phyint {down} downstream\n" for down in _downs())
        config.write_text(f"quickleave\nphyint r0 upstream\n{downs}")
        log = self.lab.file("igmpproxy.log")
        with log.open("wb") as out:
            command = (self.programs[IGMPPROXY], "-n", "-v", str(config))
            process = self.relay.start(*command, stdout=out, stderr=out)
        routed = Path(f"/proc/{self.relay.pid}/net/ip_mr_vif")
        wait_for(lambda: len(routed.read_text().splitlines()) > NETWORKS, "igmpproxy")

        def end() -> None:
            if process.poll() is not None:
                raise LabError(f"igmpproxy ended by itself:\n{log.read_text()}")
            process.terminate()
            process.wait()

        return end


def _downs() -> list[str]:
    return [f"r{number}" for number in range(1, NETWORKS + 1)]


def rules() -> str:
    """What `mcrctl import` makes of the other's file, for the groups that there are."""
    to = 'address = "239.1.1.0/24", port = 5000'
    outputs = "".join(
        f'    {{ interface = "{down}", {to}, source = "keep", ttl = 7, when = "members" }},\n'
        for down in _downs()
    )
    asks = "".join(f"[interfaces.{down}]\nquerier = true\n" for down in _downs())
    return f'[rules.zap]\ninput = {{ interface = "r0", {to} }}\noutputs = [\n{outputs}]\n{asks}'


def site(lab: Lab, programs: dict[str, str]) -> Site:
    """Make them."""
    source, relay, switch = lab.hosts("source", "relay", "switch")
    receivers = list(lab.hosts(*(f"receiver-{number}" for number in range(RECEIVERS))))
    lab.link(source, "s0", ["10.1.0.1/24"], switch, "u1", [])
    lab.link(relay, "r0", ["10.1.0.2/24"], switch, "u0", [])
    lab.bridge(switch, "above", ["u0", "u1"], ["10.1.0.3/24"], snooping=True, querier=True)
    version = ("mcast_igmp_version", "3", "mcast_query_use_ifaddr", "1")
    switch.run("ip", "link", "set", "above", "type", "bridge", *version)
    for number, down in enumerate(_downs(), 1):
        lab.link(relay, down, [f"10.2.{number}.1/24"], switch, f"d{number}", [])
        ports = [f"d{number}"]
        for at in range(number - 1, RECEIVERS, NETWORKS):
            address = f"10.2.{number}.{10 + at}/24"
            lab.link(switch, f"p{at}", [], receivers[at], "k0", [address])
            ports.append(f"p{at}")
        lab.bridge(switch, f"down{number}", ports)
    relay.sysctl("net.ipv4.igmp_max_memberships", "1000")  # igmpproxy joins all with one socket
    relay.sysctl("net.ipv4.conf.all.forwarding", "1")
    return Site(lab, source, relay, switch, receivers, programs)


def measure(place: Site, name: str, seconds: float, seed: int) -> Run:
    """Let all receivers zap behind that relay."""
    run = Run()
    end_relay = place.start(name)
    command = (place.programs["generate"], "segment", "s0", "10.1.0.1", str(FIRST), str(PORT))
    how = (str(GROUPS), "100", str(RATE * GROUPS), "1")
    log = place.lab.file("generate.json").open("wb")
    source = place.source.start(*command, *how, stdout=log)
    receivers = [
        Receiver(host, at % NETWORKS, run, random.Random(1000 * seed + at))
        for at, host in enumerate(place.receivers)
    ]
    wires = [Wire(place.switch, f"d{at + 1}", at, run) for at in range(NETWORKS)]
    everybody: list[Receiver | Wire] = [*receivers, *wires]
    with selectors.DefaultSelector() as selector:
        for each in everybody:
            selector.register(each.socket, selectors.EVENT_READ, each.read)
        began = time.monotonic()
        for at, receiver in enumerate(receivers):
            receiver.due = began + at * STAYS[1] / RECEIVERS
        while (now := time.monotonic()) < began + seconds:
            for receiver in receivers:
                if receiver.due <= now:
                    receiver.zap(now)
            _look(selector, min(each.due for each in receivers) - now)
        for receiver in receivers:
            receiver.leave()
        while time.monotonic() < began + seconds + AFTER:
            _look(selector, 0.1)
    ended = time.time()
    for each in everybody:
        each.socket.close()
    source.terminate()
    source.wait()
    log.close()
    run.source = int(json.loads(Path(log.name).read_text())["sent"])
    end_relay()
    run.judge(ended)
    return run


def _look(selector: selectors.BaseSelector, seconds: float) -> None:
    for key, _ in selector.select(max(0.0, seconds)):
        key.data()


def quantile(values: Sequence[float], part: float) -> float:
    """The value that this part of them is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def figures(runs: Sequence[Run]) -> dict[str, float]:
    """Of all runs with one relay."""
    first = [each for run in runs for each in run.first]
    silence = [each for run in runs for each in run.silence]
    return {
        "packets from the source": sum(run.source for run in runs),
        "joins": len(first) + sum(run.missed for run in runs),
        "without a packet": sum(run.missed for run in runs),
        "join to first packet, p50, ms": round(1000 * quantile(first, 0.5), 1),
        "join to first packet, p99, ms": round(1000 * quantile(first, 0.99), 1),
        "last leaves": len(silence),
        "leave to silence, p50, s": round(quantile(silence, 0.5), 2),
        "leave to silence, p99, s": round(quantile(silence, 0.99), 2),
        "packets": sum(run.packets for run in runs),
        "packets to where nobody listens": sum(run.stray for run in runs),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.zap", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=Path, metavar="FILE", help="save the figures there too")
    arguments = parser.parse_args(argv)
    end_in_order()
    runs: dict[str, list[Run]] = {MCRD: [], IGMPPROXY: []}
    with Lab() as lab, tempfile.TemporaryDirectory(prefix="mcrd-bench-") as directory:
        programs = build(Path(directory)) | find(Path(directory))
        if IGMPPROXY not in programs:
            print("bench.zap: there is no igmpproxy, and none to download", file=sys.stderr)
            return 1
        place = site(lab, programs)
        for seed in range(arguments.rounds):
            for name, done in runs.items():
                done.append(measure(place, name, arguments.seconds, seed))
                print(f"{name}: {json.dumps(figures(done[-1:]))}", file=sys.stderr, flush=True)
    found = {name: figures(done) for name, done in runs.items()}
    print(f"| | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for what in found[MCRD]:
        print(f"| {what} | {' | '.join(f'{each[what]:,}' for each in found.values())} |")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
