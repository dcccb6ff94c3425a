"""Three hosts in a row: source (s0) -- (r0) relay (r1, r2, r3) -- (k1, k2, k3) sink.

    +--------+ s0          r0 +-------+ r1        k1 +------+
    | source |----------------| relay |--------------| sink |
    +--------+ .1          .2 |       | .1        .2 |      |
               10.1.0.0/24    |       | 10.2.1.0/24  |      |
                              |       |--------------|      |
                              |       | 10.2.2.0/24  |      |
                              |       |--------------|      |
                              +-------+ 10.2.3.0/24  +------+

What arrives is counted by the interfaces. The sink drops it right behind them (nftables, ingress),
so no receiver's cost falls on anybody.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cells import HEADERS, OUT_INTERFACES

if TYPE_CHECKING:
    from bench.cells import Cell
    from tests.lab import Host, Lab

SINK_INTERFACES = ("k1", "k2", "k3")
SOURCE_ADDRESS = "10.1.0.1"
SINK_ADDRESS = "10.2.1.2"  # of k1


@dataclass(frozen=True)
class Counters:
    """What the interfaces have seen since they exist."""

    arrived: int  # frames at the relay
    frames: int  # at the sink; a super-frame is one
    bytes: int
    dropped: int  # by the interfaces themselves, on either side of the relay

    def since(self, before: Counters) -> Counters:
        return Counters(
            self.arrived - before.arrived,
            self.frames - before.frames,
            self.bytes - before.bytes,
            self.dropped - before.dropped,
        )

    def datagrams(self, size: int) -> int:
        """How many of this payload size came to the sink, those of super-frames included."""
        return (self.bytes - self.frames * HEADERS) // size


class Network:
    """The hosts and their cables."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.source, self.relay, self.sink = lab.hosts("source", "relay", "sink")
        lab.link(
            *(self.source, "s0", [f"{SOURCE_ADDRESS}/24"]), *(self.relay, "r0", ["10.1.0.2/24"])
        )
        for number, (near, far) in enumerate(zip(OUT_INTERFACES, SINK_INTERFACES, strict=True), 1):
            net = f"10.2.{number}"
            lab.link(self.relay, near, [f"{net}.1/24"], self.sink, far, [f"{net}.2/24"])
        for host in (self.source, self.relay, self.sink):
            # Nothing but the traffic may be counted: no router solicitations, no MLD.
            for name in ("all", "default"):
                host.sysctl(f"net.ipv6.conf.{name}.disable_ipv6", "1")
        # Some relays join all groups with one socket.
        self.relay.sysctl("net.ipv4.igmp_max_memberships", "1000")
        # The sinks count frames: what mcrd joins to hear members would be reported to them.
        self.relay.sysctl("net.ipv4.igmp_link_local_mcast_reports", "0")
        # The server of iperf answers the sender, which kernel routing does not hide.
        self.sink.run("ip", "route", "add", "10.1.0.0/24", "via", "10.2.1.1")
        # Real frames are to cross the cable, not what UDP_SEGMENT makes them of.
        self.source.run("ethtool", "-K", "s0", "tx-udp-segmentation", "off")
        self._mtu = 1500
        self._offload = True

    def prepare(self, cell: Cell) -> None:
        """Makes the interfaces as the cell wants them."""
        if cell.mtu != self._mtu:
            for host in (self.source, self.relay, self.sink):
                for name in _interfaces(host):
                    host.run("ip", "link", "set", name, "mtu", str(cell.mtu))
            self._mtu = cell.mtu
        if cell.offload != self._offload:
            state = "on" if cell.offload else "off"
            for name in OUT_INTERFACES:
                self.relay.run("ethtool", "-K", name, "tx-udp-segmentation", state)
            self._offload = cell.offload

    def merge(self, state: str) -> None:
        """Switches UDP GRO of the relay's input `on` or `off`."""
        features = ("gro", state, "rx-udp-gro-forwarding", state)
        self.relay.run("ethtool", "-K", "r0", *features)

    def poll_sink(self, state: str) -> None:
        """Switches NAPI of the sink's interfaces `on` or `off`: a veth takes XDP frames with it."""
        for name in SINK_INTERFACES:
            self.sink.run("ethtool", "-K", name, "gro", state)

    def count(self) -> Counters:
        """The counters now."""
        relay, sink = _interfaces(self.relay), _interfaces(self.sink)
        outputs = [relay[name] for name in OUT_INTERFACES]
        arrivals = [sink[name] for name in SINK_INTERFACES]
        return Counters(
            arrived=relay["r0"].received,
            frames=sum(link.received for link in arrivals),
            bytes=sum(link.received_bytes for link in arrivals),
            dropped=relay["r0"].dropped + sum(link.dropped for link in (*outputs, *arrivals)),
        )

    def drop(self, host: Host, *interfaces: str) -> None:
        """What comes in there is counted and goes no further."""
        for name in interfaces:
            host.run("nft", f"add table netdev {name}")
            host.run(
                "nft",
                f"add chain netdev {name} wall"
                f" {{ type filter hook ingress device {name} priority 0; policy drop; }}",
            )

    def drop_groups(self, interface: str) -> None:
        """On the relay: what is sent to the groups goes to packet sockets, and no further."""
        self.relay.run("nft", f"add table netdev {interface}")
        self.relay.run(
            "nft",
            f"add chain netdev {interface} early"
            f" {{ type filter hook ingress device {interface} priority 0; }}",
        )
        self.relay.run(
            "nft",
            f"add rule netdev {interface} early ip daddr 239.1.1.0/24 ip protocol udp drop",
        )

    def let_in(self, host: Host, *interfaces: str) -> None:
        """Ends `drop` and `drop_groups`."""
        for name in interfaces:
            host.run("nft", f"add table netdev {name}; delete table netdev {name}")


@dataclass(frozen=True)
class _Interface:
    received: int
    received_bytes: int
    dropped: int


def _interfaces(host: Host) -> dict[str, _Interface]:
    found = {}
    for line in Path(f"/proc/{host.pid}/net/dev").read_text().splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = [int(word) for word in rest.split()]
        if name.strip() != "lo":
            found[name.strip()] = _Interface(numbers[1], numbers[0], numbers[3] + numbers[11])
    return found
