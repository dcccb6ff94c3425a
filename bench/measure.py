"""One run: at full speed, at a given rate for latency, or to see whether anything is lost."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.cells import OUT_PORT, PORT
from bench.generators import BurstSink, Generator, LatencySink, Receiver
from bench.results import Backlog, Behind, Bursts, Flood, Foreign, Integrity, Latency
from bench.topology import SOURCE_ADDRESS
from tests.lab import LabError

if TYPE_CHECKING:
    from bench.cells import Cell
    from bench.generators import Site
    from bench.processor import Meter, Usage
    from bench.relays import Peer, Running
    from bench.topology import Counters

SETTLE = 0.25  # seconds of traffic before the measurement
QUIET = 0.08  # seconds without an arrival: everything is through,
PATIENT = 0.3  # even when something else had the relay's CPU for a while
DRAIN_MAX = 10.0  # a full socket buffer, relayed to 50 outputs
EVEN_RATE = 100_000  # datagrams per second, one at a time
IPERF_RATE, IPERF_SIZE = 70_000, 1470
CHECKED, CHECKED_RATE = 100_000, 50_000
SINGLE_MAX = 120_000  # above this rate, sends of one datagram each would take the whole CPU
PACED_BURST = 16
BACKLOG_RATE, BACKLOG_SECONDS = 100_000, 0.1  # what every relay has room for


@dataclass(frozen=True)
class Window:
    """A stretch of traffic: what was counted within it, and from before it to the last packet."""

    usage: Usage
    counted: Counters
    total: Counters


@dataclass(frozen=True)
class Trial:
    """Whether a rate goes without loss."""

    made: float  # frames per second that the generator made
    held: bool
    steal: float
    others: float


class Stand:
    """Runs measurements."""

    def __init__(self, site: Site, meter: Meter) -> None:
        self.site = site
        self._meter = meter

    def flood(self, peer: Peer, cell: Cell, seconds: float) -> Flood:
        """As fast as the generator can."""
        self.site.network.prepare(cell)
        running = peer.start(self.site, cell)
        try:
            window = self._traffic(running, cell, 0.0, cell.burst, seconds)
        except BaseException:
            running.stop()
            raise
        reported = running.stop()
        usage, counted, total = window.usage, window.counted, window.total
        sunk, lost, expected = counted.arrived, 0, total.arrived
        if not peer.none:
            sunk = counted.datagrams(cell.size)
            expected = total.arrived * cell.outputs
            lost = expected - total.datagrams(cell.size)
        return Flood(
            cell=cell.name,
            peer=peer.name,
            rate=sunk / usage.seconds,
            arrived=counted.arrived / usage.seconds,
            lost=lost,
            expected=expected,
            reported=reported,
            interface_drops=total.dropped,
            relay_ns=usage.relay_ns / max(1, sunk),
            generator_ns=usage.generator_ns / max(1, counted.arrived),
            relay_busy=usage.relay_busy,
            steal=usage.steal,
            others=usage.others,
        )

    def latency(
        self, peer: Peer, running: Running, cell: Cell, point: tuple[str, float], seconds: float
    ) -> Latency:
        """At a rate, with the receiver that measures; the sink must let in what comes."""
        name, rate = point
        sink = LatencySink(self.site, cell, rate, peer.routed)
        try:
            burst = 1 if rate <= SINGLE_MAX else min(PACED_BURST, cell.burst)
            window = self._traffic(running, cell, rate, burst, seconds, sink)
        finally:
            found = sink.stop()
        return Latency(
            cell=cell.name,
            peer=peer.name,
            point=name,
            rate=window.counted.arrived / window.usage.seconds,
            p50=found["p50"],
            p99=found["p99"],
            p999=found["p999"],
            p9999=found["p9999"],
            lost=window.total.arrived * cell.outputs - window.total.datagrams(cell.size),
            relay_ns=window.usage.relay_ns / max(1, window.counted.datagrams(cell.size)),
            steal=window.usage.steal,
            others=window.usage.others,
        )

    def bursts(self, peer: Peer, running: Running, cell: Cell, seconds: float) -> Bursts:
        """Evenly paced datagrams, of which the relay may make bursts; the sink drops them."""
        sink = BurstSink(self.site)
        try:
            window = self._traffic(running, cell, EVEN_RATE, 1, seconds, sink)
        finally:
            found = sink.stop()
        return Bursts(
            cell=cell.name,
            peer=peer.name,
            rate=window.counted.datagrams(cell.size) / cell.outputs / window.usage.seconds,
            highest=found["highest"],
            p50=found["p50"],
            p99=found["p99"],
            steal=window.usage.steal,
            others=window.usage.others,
        )

    def behind(self, peer: Peer, running: Running, cell: Cell, seconds: float) -> Behind:
        """What a plain receiver loses of evenly paced datagrams; the sink must let them in."""
        receiver = Receiver(self.site, cell, peer.routed, iperf=False)
        try:
            window = self._traffic(running, cell, EVEN_RATE, 1, seconds, receiver)
        finally:
            read, lost = receiver.stop()
        return self._behind(peer, "100k", window, read, lost)

    def behind_iperf(self, peer: Peer, running: Running, cell: Cell, seconds: float) -> Behind:
        """The same with both ends of iperf 2, and its own pace."""
        network, where, iperf = self.site.network, self.site.where, self.site.programs["iperf"]
        receiver = Receiver(self.site, cell, peer.routed, iperf=True)
        try:
            start, first = network.count(), self._meter.read(running.pids(), [])
            to = ("-c", cell.routes()[0].group, "-B", SOURCE_ADDRESS, "-p", str(PORT), "-T", "8")
            load = ("-u", "-b", f"{IPERF_RATE}pps", "-l", str(IPERF_SIZE), "-t", str(seconds))
            network.source.run("taskset", "-c", str(where.generator), iperf, *to, *load)
            usage = self._meter.usage(first, self._meter.read(running.pids(), []))
            self._drain(QUIET)
            total = network.count().since(start)
        finally:
            read, lost = receiver.stop()
        # Nobody's process here but the relay's is known: all the rest would count as others'.
        return self._behind(
            peer, "iperf", Window(replace(usage, others=0.0), total, total), read, lost
        )

    def _behind(self, peer: Peer, source: str, window: Window, read: int, lost: int) -> Behind:
        return Behind(
            peer=peer.name,
            source=source,
            rate=window.counted.arrived / window.usage.seconds,
            received=read,
            lost=lost,
            steal=window.usage.steal,
            others=window.usage.others,
        )

    def trial(self, running: Running, cell: Cell, rate: float, seconds: float) -> Trial:
        """At a rate: nothing lost, and no backlog that only the end of the traffic hides."""
        # As at full speed: with smaller bursts the generator would be the limit much earlier.
        window = self._traffic(running, cell, rate, cell.burst, seconds)
        lost = window.total.arrived * cell.outputs - window.total.datagrams(cell.size)
        kept_up = (
            window.counted.datagrams(cell.size) >= 0.98 * window.counted.arrived * cell.outputs
        )
        return Trial(
            window.counted.arrived / window.usage.seconds,
            lost == 0 and kept_up,
            window.usage.steal,
            window.usage.others,
        )

    def backlog(self, running: Running, peer: Peer, cell: Cell) -> Backlog:
        """Stops the relay, sends, and lets it work off what waits."""
        network, pids = self.site.network, running.pids()
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            start = network.count()
            generator = Generator(self.site, cell, BACKLOG_RATE, PACED_BURST)
            try:
                time.sleep(BACKLOG_SECONDS)
            finally:
                generator.stop()
            before, first = network.count(), self._meter.read(pids, [])
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self._drain(QUIET)
        usage, sunk = self._meter.usage(first, self._meter.read(pids, [])), network.count()
        expected = before.since(start).arrived * cell.outputs
        if (found := sunk.since(before).datagrams(cell.size)) != expected:
            raise LabError(f"of a backlog of {expected} datagrams, {found} were sent")
        return Backlog(cell.name, peer.name, usage.relay_ns / expected)

    def foreign(self, peer: Peer, cell: Cell, seconds: float) -> Foreign:
        """As fast as the generator can, most of it not for the relay."""
        self.site.network.prepare(cell)
        running = peer.start(self.site, cell)
        try:
            window = self._traffic(running, cell, 0.0, cell.burst, seconds)
        finally:
            reported = running.stop()
        usage, counted = window.usage, window.counted
        return Foreign(
            peer=peer.name,
            arrived=counted.arrived / usage.seconds,
            rate=counted.datagrams(cell.size) / usage.seconds,
            lost=reported or 0,
            relay_ns=usage.relay_ns / max(1, counted.arrived),
            steal=usage.steal,
            others=usage.others,
        )

    def integrity(self, peer: Peer, cell: Cell) -> Integrity:
        """Every datagram of an output followed by mcrgen; the sink must let in what comes."""
        network, route = self.site.network, cell.routes()[0]
        network.prepare(cell)
        running = peer.start(self.site, cell)
        try:
            receiver = network.sink.receive(
                "k1", route.to, OUT_PORT, expect=CHECKED, flows=cell.flows
            )
            network.source.send(
                "s0",
                route.group,
                PORT,
                count=CHECKED,
                rate=CHECKED_RATE,
                size=cell.size,
                flows=cell.flows,
                ttl=8,
            )
            found = receiver.result()
        finally:
            running.stop()
        wrong = {name: int(found[name]) for name in ("lost", "duplicated", "reordered", "corrupt")}
        return Integrity(cell.name, peer.name, int(found["unique"]), **wrong)

    def _traffic(
        self,
        running: Running,
        cell: Cell,
        rate: float,
        burst: int,
        seconds: float,
        sink: LatencySink | BurstSink | Receiver | None = None,
    ) -> Window:
        network = self.site.network
        pids = running.pids()
        start = network.count()
        generator = Generator(self.site, cell, rate, burst)
        try:
            time.sleep(SETTLE)
            if sink is not None:
                sink.begin()
            before, first = network.count(), self._meter.read(pids, [generator.pid])
            time.sleep(seconds)
            after, last = network.count(), self._meter.read(pids, [generator.pid])
        finally:
            generator.stop()
        self._drain(PATIENT if running.exact else QUIET)
        return Window(
            self._meter.usage(first, last), after.since(before), network.count().since(start)
        )

    def _drain(self, quiet: float) -> None:
        """Waits until nothing arrives any more."""
        deadline = time.monotonic() + DRAIN_MAX
        seen, since = self.site.network.count(), time.monotonic()
        while time.monotonic() < min(deadline, since + quiet):
            time.sleep(0.01)
            now = self.site.network.count()
            if now != seen:
                seen, since = now, time.monotonic()
