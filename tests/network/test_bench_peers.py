"""What the benchmark measures beside mcrd, and with: it relays and counts as it is said."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cells import OUT_INTERFACES, OUT_PORT, PORT, Cell
from bench.forwarding import VARIABLE
from bench.generators import BurstSink, Receiver, Site
from bench.lineup import NAMED, TC, XDP
from bench.processor import placement
from bench.programs import build
from bench.relays import Peer
from bench.topology import Network
from tests.lab import Lab, wait_for

COUNT = 300
UDP_SEGMENT = 103  # linux/udp.h


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The hosts of the benchmark, and its programs."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("the benchmark needs two CPUs")
    with Lab() as lab:
        yield Site(Network(lab), placement(), build(tmp_path_factory.mktemp("programs")))


def check_relaying(site: Site, peer: Peer, cell: Cell) -> None:
    """Each datagram arrives at each output once, whole and in order."""
    if reason := peer.refused(site):
        pytest.skip(reason)
    network, routes = site.network, cell.routes()
    running = peer.start(site, cell)
    try:
        receivers = [
            network.sink.receive(f"k{number}", route.to, OUT_PORT, expect=COUNT, flows=cell.flows)
            for number, route in enumerate(routes[: cell.outputs], 1)
        ]
        network.source.send(
            *("s0", routes[0].group, PORT),
            count=COUNT,
            rate=20_000,
            size=cell.size,
            flows=cell.flows,
            ttl=8,
        )
        found = [receiver.result() for receiver in receivers]
    finally:
        running.stop()
    for result in found:
        assert result["unique"] == COUNT
        wrong = ("lost", "duplicated", "reordered", "corrupt")
        assert [result[name] for name in wrong] == [0, 0, 0, 0]


@pytest.mark.parametrize("cell", [Cell(1400, 1, 1), Cell(18, 3, 3)], ids=lambda cell: cell.name)
@pytest.mark.parametrize("peer", [XDP, TC], ids=lambda peer: peer.name)
def test_bpf_relays_and_leaves_nothing_behind(site: Site, peer: Peer, cell: Cell) -> None:
    check_relaying(site, peer, cell)
    assert "xdp" not in site.network.relay.run("ip", "link", "show", "r0")


def test_bpf_ends_with_its_process(site: Site) -> None:
    if reason := XDP.refused(site):
        pytest.skip(reason)
    running = XDP.start(site, Cell(18, 1, 1))
    relay = site.network.relay
    assert "xdp" in relay.run("ip", "link", "show", "r0")
    os.kill(running.pids()[0], signal.SIGKILL)
    wait_for(lambda: "xdp" not in relay.run("ip", "link", "show", "r0"), "the program to go")


def test_program_of_the_environment(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "relay"
    monkeypatch.setenv(VARIABLE, str(script))
    assert NAMED.refused(site) == f"{VARIABLE}={script} is no program"
    script.write_text(f'#!/bin/sh\nexec {site.programs["reference"]} "$@"\n')
    script.chmod(0o755)
    check_relaying(site, NAMED, Cell(256, 2, 2))


def test_bursts(site: Site) -> None:
    """Ten datagrams in a super-frame are one burst; three with pauses are three."""
    if reason := TC.refused(site):
        pytest.skip(reason)
    network = site.network
    sink = BurstSink(site)
    with network.relay.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.2.1.1"))
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        for size in (1000, 100, 100, 100):
            sender.sendto(bytes(size), ("239.2.1.1", OUT_PORT))
            time.sleep(0.001)  # the wire is idle for more than 1 us
    assert sink.stop() == {"datagrams": 13, "highest": 10, "p50": 10, "p99": 10}

    sink = BurstSink(site)
    with network.relay.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.2.1.1"))
        sender.sendto(b"before", ("239.2.1.1", OUT_PORT))
    sink.begin()
    assert sink.stop()["datagrams"] == 0


def test_receiver_with_a_default_buffer(site: Site) -> None:
    """While it does not read, its buffer fills; what it read and lost is all that came."""
    cell, sent = Cell(1400, 1, 1), 1000
    receiver = Receiver(site, cell, routed=False, iperf=False)
    os.kill(receiver.pid, signal.SIGSTOP)
    with site.network.relay.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.2.1.1"))
        for _ in range(sent):
            sender.sendto(bytes(cell.size), (cell.routes()[0].to, OUT_PORT))
    os.kill(receiver.pid, signal.SIGCONT)
    came = sent - site.network.relay.missed(OUT_INTERFACES[0])
    wait_for(lambda: sum(receiver.counted()) == came, "the receiver to read what waits")
    read, lost = receiver.stop()
    assert read > 0
    assert lost == came - read > 0
