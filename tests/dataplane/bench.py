"""A worker process with everything that a supervisor gives it, and no supervisor."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from mcrd.addresses import Target
from mcrd.dataplane import messages
from mcrd.lanes.counts import InterfaceCount, OutputCount
from mcrd.lanes.memory import guard_memory
from mcrd.lanes.process import ARPHRD_ETHER, WorkerProcess, rings_of
from mcrd.lanes.segment import Segment
from mcrd.planning.resources import Egress, Ingress, Ring, Sending, Worker
from mcrd.sockets.egress import EgressSockets
from mcrd.sockets.ingress import IngressSocket, open_ingress
from mcrd.sums import Traffic
from tests.lab import Host, wait_for

T = TypeVar("T")

Output = tuple[str, str, int] | str

SO_RCVBUFFORCE = 33  # asm-generic/socket.h

SOURCES = {"r1": ("10.2.0.1", "fd02::1"), "r2": ("10.3.0.1", "fd03::1")}
"""The relay's addresses in a triangle or a fork."""


def destination(address: str, port: int, **match: Any) -> messages.Match:
    """One address and port, or with `bits` and `last_port` a range of them."""
    packed = ip_address(address).packed
    given = {"bits": 8 * len(packed), "last_port": port, **match}
    return messages.Match(messages.Endpoint(packed, port), **given)


def by_member(name: str) -> Target:
    """What an output that goes by member is called by here."""
    return (name, ip_address("239.0.0.0"), 0)


async def until(predicate: Callable[[], T | None], what: str) -> T:
    """`wait_for` while the event loop goes on."""
    return await asyncio.to_thread(wait_for, predicate, what)


@dataclass
class Bench:
    """A worker that is Ready, on the relay's `interface`, and what it reads and writes."""

    interface: str
    worker: Worker
    ring: IngressSocket
    segment: Segment
    ended: list[str] = field(default_factory=list)
    wanted: list[messages.MemberKey] = field(default_factory=list)
    egress: dict[Egress, socket.socket] = field(default_factory=dict)
    _sockets: EgressSockets = field(default_factory=EgressSockets)
    process: WorkerProcess = field(init=False)
    guard: int = field(init=False)

    def __post_init__(self) -> None:
        self.guard = guard_memory()
        self.process = WorkerProcess(self.worker, self._ended, self._wanted)

    def _ended(self, _: WorkerProcess, how: str) -> None:
        self.ended.append(how)

    def _wanted(self, _: WorkerProcess, members: Sequence[messages.MemberKey]) -> None:
        self.wanted += members

    async def start(self) -> None:
        """Hands everything over, and waits for Ready."""
        ring = self.worker.ring
        await self.process.initialize(
            {ring: self.ring}, {ring: 0}, self.segment, self.guard, {ring: ARPHRD_ETHER}
        )

    async def end(self) -> None:
        """Ends the worker, and closes everything that it had."""
        await self.process.stop()
        for sock in self.egress.values():
            sock.close()
        self.ring.close()
        self.segment.close()
        os.close(self.guard)

    async def restart(self) -> None:
        """Another worker on the same ring and the same counters."""
        await self.process.stop()
        self.process = WorkerProcess(self.worker, self._ended, self._wanted)
        await self.start()

    async def ask(
        self,
        kind: Callable[..., messages.AnyRequest],
        *rest: object,
        descriptors: Sequence[int] = (),
    ) -> messages.Answer:
        """Sends a request, and waits for the answer; raises WorkerError when it is refused."""
        return await asyncio.wait_for(
            self.process.request(kind, *rest, descriptors=descriptors), 10.0
        )

    async def hand_over(self, rule: str, interface: str, address: str, port: int) -> Egress:
        """Opens an output's socket and gives it to the worker."""
        where = ip_address(address)
        source = ip_address(SOURCES[interface][where.version == 6])
        sending = Sending(interface, socket.if_nametoindex(interface), source, ttl=8)
        egress = Egress(self.worker, rule, sending, where, port)
        if egress not in self.egress:
            self.egress[egress] = self._sockets.open(egress)
        place, new = self.process.place(egress)
        if new:
            descriptor = self.egress[egress].fileno()
            await self.ask(messages.AddSockets, [place], descriptors=[descriptor])
        return egress

    async def relay(
        self,
        address: str,
        port: int,
        *outputs: Output,
        rule: str = "rule",
        kind: Callable[..., messages.AnyRequest] = messages.AddRule,
        limits: Sequence[int] = (),
        **match: Any,
    ) -> None:
        """Adds or replaces a rule; `match` is what else its Match has, `limits` are the outputs'.

        An output is an interface, an address and a port; or, when it goes by member, a name.
        """
        told = []
        for output, limit in zip_longest(outputs, limits, fillvalue=0):
            if isinstance(output, str):
                place, target = None, by_member(output)
            else:
                assert not isinstance(output, int)
                egress = await self.hand_over(rule, *output)
                place, target = self.process.places[egress], egress.target
            told.append(
                messages.RuleOutput(place, self.segment.output_slot(rule, target), limit or 0)
            )
        await self.ask(
            kind, self.segment.rule_slot(rule), destination(address, port, **match), told
        )
        await self.begin()

    async def add_member(self, key: messages.MemberKey, *outputs: Output | None) -> int:
        """Opens sockets of a member, and gives them to the worker; returns its slot."""
        places: list[int | None] = []
        for output in outputs:
            if output is None or isinstance(output, str):
                places.append(None)
            else:
                places.append(self.process.places[await self.hand_over("member", *output)])
        slot = self.segment.member_slot(key, time.time_ns())
        await self.ask(messages.AddMember, key, slot, places)
        return slot

    async def begin(self) -> None:
        """Lets the worker look at its ring."""
        if not self.process.begun:
            self.process.begun = True
            await self.ask(messages.Begin)

    def received(self, rule: str = "rule") -> Traffic:
        """What the rule took."""
        return self.segment.rule(self.segment.rule_slot(rule)).received

    def sent(self, interface: str, address: str, port: int, rule: str = "rule") -> OutputCount:
        """What became of an output's datagrams."""
        return self.sent_to((interface, ip_address(address), port), rule)

    def sent_to(self, target: Target, rule: str = "rule") -> OutputCount:
        """What became of an output's datagrams, by what it is called by."""
        return self.segment.output(self.segment.output_slot(rule, target))

    def taken(self) -> InterfaceCount:
        """What the worker took from the ring."""
        return self.segment.interface(self.ring.ring_full(self.segment.taken()))

    def dropped(self, reason: str) -> int:
        """How many datagrams went no further for this reason."""
        return self.taken().dropped[reason]

    def balances(self) -> bool:
        """interface.received = sum of its rules' received + its drops other than ring_full."""
        taken = self.taken()
        drops = sum(taken.dropped.values()) - taken.dropped["ring_full"]
        slots = self.segment.rules.taken.values()
        rules = sum(self.segment.rule(slot).received.packets for slot in slots)
        return taken.received.packets == rules + drops


def drive(
    host: Host,
    scenario: Callable[[Bench], Awaitable[None]],
    *,
    interface: str = "r0",
    mtu: int = 1500,
) -> None:
    """Runs the scenario with a worker on the host; `mtu` is what its ring's slots hold."""

    async def all_of_it() -> None:
        ingress = Ingress(interface, socket.if_nametoindex(interface))
        (ring,) = open_ingress(ingress, mtu)
        segment = Segment()
        bench = Bench(interface, Worker(ingress), ring, segment)
        try:
            await bench.start()
            await scenario(bench)
        finally:
            await bench.end()

    with host.inside():
        asyncio.run(all_of_it())


class RawWorker:
    """A worker process of our own, spoken to byte by byte."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-m", "mcrd.dataplane.worker"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={},
                cwd="/",
            )
        self.channel.settimeout(10.0)

    def say(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """One datagram."""
        socket.send_fds(self.channel, [data], list(descriptors))

    def hear(self) -> messages.Answer:
        """One answer."""
        answer: messages.Answer = messages.decode_answer(self.channel.recv(messages.LARGEST))
        return answer

    def initialize(self, interface: str) -> messages.Answer:
        """The whole handshake, with a ring and a segment of which nothing is kept."""
        ingress = Ingress(interface, socket.if_nametoindex(interface))
        (ring,) = open_ingress(ingress, 1500)
        segment, guard, readiness = Segment(), guard_memory(), select.epoll()
        try:
            request = messages.Initialize(
                sequence=1,
                supervisor=os.getpid(),
                rings=[rings_of(Ring(ingress), ring, ARPHRD_ETHER)],
                sockets=16,
                uid=65534,
                gid=65534,
            )
            shared = [readiness.fileno(), segment.descriptor, guard]
            self.say(messages.encode(request), [*shared, ring.socket.fileno(), ring.large.fileno()])
            return self.hear()
        finally:
            ring.close()
            readiness.close()
            segment.close()
            os.close(guard)

    def end(self) -> tuple[int, str]:
        """Waits for it to end by itself: its exit status, and what it wrote to stderr."""
        _, said = self.process.communicate(timeout=10.0)
        return self.process.returncode, said


@contextmanager
def raw_worker() -> Iterator[RawWorker]:
    """A RawWorker, gone at the end whatever it did."""
    worker = RawWorker()
    try:
        yield worker
    finally:
        worker.channel.close()
        worker.process.kill()
        worker.process.communicate()


@contextmanager
def listening(host: Host, interface: str, address: str, port: int) -> Iterator[socket.socket]:
    """A socket of a host that has joined the group, or has the address."""
    where = ip_address(address)
    family = socket.AF_INET if where.version == 4 else socket.AF_INET6
    with host.socket(family, socket.SOCK_DGRAM) as sock:
        with host.inside():
            index = socket.if_nametoindex(interface)
        sock.settimeout(10.0)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
        sock.bind((address, port))
        if where.version == 4 and where.is_multicast:
            request = struct.pack("4s4si", where.packed, bytes(4), index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        elif where.is_multicast:
            request = struct.pack("16sI", where.packed, index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        yield sock


@contextmanager
def sending(host: Host, interface: str, family: int = socket.AF_INET) -> Iterator[socket.socket]:
    """A socket of a host whose multicast leaves by the interface."""
    with host.socket(family, socket.SOCK_DGRAM) as sock:
        with host.inside():
            index = socket.if_nametoindex(interface)
        if family == socket.AF_INET:
            request = struct.pack("4s4si", bytes(4), bytes(4), index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        yield sock


@dataclass(frozen=True)
class Seen:
    """What /proc shows of a process."""

    pid: int

    @property
    def _directory(self) -> Path:
        return Path("/proc") / str(self.pid)

    def status(self) -> dict[str, list[str]]:
        """The fields of /proc/PID/status."""
        lines = (self._directory / "status").read_text().splitlines()
        return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}

    def descriptors(self) -> dict[int, str]:
        """What each descriptor is."""
        found = {}
        for entry in (self._directory / "fd").iterdir():
            found[int(entry.name)] = os.readlink(entry)
        return found

    def command(self) -> list[str]:
        """The command line."""
        return (self._directory / "cmdline").read_bytes().decode().split("\0")[:-1]

    def environment(self) -> bytes:
        """What it was given when it started."""
        return (self._directory / "environ").read_bytes()


def packet_sockets() -> set[str]:
    """The inodes of all packet sockets of the namespace that we are in."""
    lines = Path("/proc/thread-self/net/packet").read_text().splitlines()
    return {line.split()[8] for line in lines[1:]}


def wait_for_end(pidfd: int, timeout: float = 10.0) -> None:
    """Waits until a process that need not be our child has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(timeout * 1000):
        raise TimeoutError(f"the process was still there after {timeout:g} s")
