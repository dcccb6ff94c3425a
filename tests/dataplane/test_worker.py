"""The worker process by itself: what it still holds, how it ends, what it refuses."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import resource
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcrd.dataplane import messages
from mcrd.lanes.channel import WorkerError, end_sockets
from mcrd.planning.resources import Egress, Ingress, Sending, Worker
from mcrd.sockets.egress import EgressSockets
from tests.dataplane.bench import (
    Bench,
    Seen,
    destination,
    drive,
    listening,
    packet_sockets,
    raw_worker,
    sending,
    until,
    wait_for_end,
)
from tests.lab import wait_for

if TYPE_CHECKING:
    from mcrd.planning.links import Protocol
    from tests.lab import Host, Lab, Triangle


@pytest.fixture
def host(lab: Lab) -> Host:
    """A host with one end of a cable, r0."""
    host, other = lab.hosts("relay", "source")
    lab.link(host, "r0", ["10.1.0.2/24"], other, "s0", ["10.1.0.1/24"])
    return host


LAYERS = {
    *("network namespace", "mount namespace", "ipc namespace", "uts namespace", "cgroup namespace"),
    *("empty root", "bounding set", "securebits", "uid", "non-dumpable", "capabilities"),
    *("no_new_privs", "no new code", "resource limits", "landlock", "io_uring of one thread"),
    *("io_uring restrictions", "seccomp"),
}
REPOSITORY = Path(__file__).parents[2]


# What it holds


def test_a_ready_worker_is_nobody_and_may_do_nothing(host: Host) -> None:
    async def scenario(bench: Bench) -> None:
        nobody = pwd.getpwnam("nobody")
        status = Seen(bench.process.pid).status()
        assert status["Uid"] == [str(nobody.pw_uid)] * 4
        assert status["Gid"] == [str(nobody.pw_gid)] * 4
        assert status["Groups"] == []
        capabilities = {name: value for name, value in status.items() if name.startswith("Cap")}
        assert capabilities.keys() >= {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
        assert {int(value[0], 16) for value in capabilities.values()} == {0}
        assert status["NoNewPrivs"] == ["1"]
        assert status["Threads"] == ["1"]
        assert bench.process.missing == {}
        assert set(bench.process.layers) == LAYERS

    drive(host, scenario)


def test_a_ready_worker_holds_no_packet_socket(host: Host) -> None:
    async def scenario(bench: Bench) -> None:
        ours = os.fstat(bench.ring.socket.fileno()).st_ino
        worker = Seen(bench.process.pid)
        held = worker.descriptors()
        assert f"socket:[{ours}]" not in held.values()
        inodes = packet_sockets()
        assert str(ours) in inodes  # that is where it would be
        assert not {f"socket:[{inode}]" for inode in inodes} & set(held.values())
        # The channel, and the ring of its own; no epoll, no memory segment.
        rest = {number: what for number, what in held.items() if number not in (1, 2)}
        assert rest.pop(0).startswith("socket:")
        assert list(rest.values()) == ["anon_inode:[io_uring]"]

    drive(host, scenario)


def test_its_root_is_empty_before_it_is_told_anything(host: Host) -> None:
    """It waits for all CPUs for that: as a spare process, while nobody waits for it."""
    with host.inside(), raw_worker() as worker:
        root = Path(f"/proc/{worker.process.pid}/root")
        wait_for(lambda: not list(root.iterdir()), "its root to be empty")
        answer = worker.initialize("r0")
        assert isinstance(answer, messages.Ready)
        assert set(answer.held) == LAYERS


def test_the_kernel_ends_its_mount_namespace_without_it(host: Host) -> None:
    """Its io_uring holds that as well, which is taken down by the kernel after the worker's end.

    Else each end waited until all CPUs had been elsewhere, and a successor with it.
    """

    async def scenario(bench: Bench) -> None:
        process = Path(f"/proc/{bench.process.pid}")
        held = Seen(bench.process.pid).descriptors()
        (ring,) = (number for number, what in held.items() if what == "anon_inode:[io_uring]")
        namespace = os.readlink(process / "ns" / "mnt")
        await until(
            lambda: f": {namespace}\n" in (process / "fdinfo" / str(ring)).read_text(),
            "it in the ring's table",
        )

    drive(host, scenario)


def test_nothing_comes_by_argument_or_environment(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "in the supervisor's environment")

    async def scenario(bench: Bench) -> None:
        worker = Seen(bench.process.pid)
        words = [word for word in worker.command()[1:] if word != "-B"]
        assert words == ["-I", "-m", "mcrd.dataplane.worker"]
        assert worker.environment() == b""
        assert os.readlink(f"/proc/{worker.pid}/cwd") == "/"

    drive(host, scenario)


@pytest.mark.parametrize(
    ("address", "port", "protocol"),
    [
        ("239.2.2.2", 6000, "udp"),
        ("10.1.0.1", 6000, "udp"),
        ("ff15::1", 6000, "udp"),
        ("10.1.0.1", 0, "esp"),
    ],
)
def test_what_a_reload_takes_away_sends_nothing_any_more(
    host: Host, address: str, port: int, protocol: Protocol
) -> None:
    """Not by a copy of the descriptor either, as a compromised worker would keep."""
    where = ip_address(address)
    with host.inside():
        index = socket.if_nametoindex("r0")
        source = "10.1.0.2" if where.version == 4 else "fd01::2"
        if where.version == 6:
            host.run("ip", "address", "add", "fd01::2/64", "dev", "r0", "nodad")
        sending = Sending("r0", index, ip_address(source), protocol, ttl=1)
        egress = Egress(Worker(Ingress("r0", index)), "rule", sending, where, port)
        sock = EgressSockets().open(egress)
        copy = os.dup(sock.fileno())
        try:
            os.write(copy, b"before")
            end_sockets(None, {egress: sock})
            with contextlib.suppress(OSError):  # it may hear what the one before drew
                os.write(copy, b"after")
            with pytest.raises(OSError, match="Destination address required"):
                os.write(copy, b"after")
        finally:
            os.close(copy)


# How it ends


def test_it_ends_when_the_channel_closes(host: Host) -> None:
    with host.inside(), raw_worker() as worker:
        assert isinstance(worker.initialize("r0"), messages.Ready)
        worker.channel.close()
        assert worker.end() == (0, "")


def test_it_ends_when_nothing_is_said_at_all(host: Host) -> None:
    with host.inside(), raw_worker() as worker:
        worker.channel.close()
        assert worker.end() == (0, "")


def test_it_ends_when_told_to_stop(host: Host) -> None:
    async def scenario(bench: Bench) -> None:
        pidfd = os.pidfd_open(bench.process.pid)
        try:
            await bench.process.stop()
            wait_for_end(pidfd)
        finally:
            os.close(pidfd)
        assert bench.ended == []  # expected: nobody is to be told
        with pytest.raises(WorkerError, match="has ended"):
            await bench.ask(messages.RemoveRule, 0)

    drive(host, scenario)


def test_who_waits_for_an_answer_hears_of_the_end(host: Host) -> None:
    async def scenario(bench: Bench) -> None:
        os.kill(bench.process.pid, signal.SIGSTOP)
        answer = bench.process.request(messages.RemoveRule, 0)
        os.kill(bench.process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="has ended"):
            await asyncio.wait_for(answer, 10.0)
        await until(lambda: bench.ended, "the news of the end")
        assert bench.ended == ["killed by SIGKILL"]

    drive(host, scenario)


# Prints the worker's process id. With "holder", another process keeps the channel open.
SUPERVISOR = """
import contextlib, os, signal, sys
from tests.dataplane.bench import drive

async def scenario(bench):
    held = 0
    if "holder" in sys.argv:
        held = os.fork()
        if held == 0:
            signal.pause()
    print(bench.process.pid, held, flush=True)
    signal.pause()

class Here:
    inside = contextlib.nullcontext

drive(Here(), scenario)
"""


@pytest.mark.parametrize("arguments", [[], ["holder"]], ids=["channel closes", "channel is held"])
def test_it_ends_when_the_supervisor_is_killed(host: Host, arguments: list[str]) -> None:
    log = host.lab.file("supervisor.log")
    with log.open("wb") as output:
        supervisor = host.start(
            *(sys.executable, "-c", SUPERVISOR, *arguments),
            stdout=output,
            stderr=output,
            env={"PYTHONPATH": str(REPOSITORY)},
        )

    def said() -> re.Match[str] | None:
        assert supervisor.poll() is None, log.read_text()
        return re.fullmatch(r"(\d+) (\d+)\n", log.read_text())

    worker, holder = map(int, wait_for(said, "the worker to be ready").groups())
    pidfd = os.pidfd_open(worker)
    try:
        supervisor.kill()
        wait_for_end(pidfd)
    finally:
        os.close(pidfd)
        if holder:
            os.kill(holder, signal.SIGKILL)


# What it refuses

HERE = messages.Endpoint(ip_address("239.1.1.1").packed, 5000)
THERE = destination("239.1.1.1", 5000)
Refusal = tuple[Callable[..., messages.AnyRequest], tuple[object, ...], int, str]

# The request, how many descriptors go with it, and what the answer has to say.
REFUSALS: dict[str, Refusal] = {
    "unknown rule": (messages.RemoveRule, (7,), 0, "rule 7: ENOENT"),
    "rule beyond all slots": (messages.RemoveRule, (1 << 20,), 0, "ENOENT"),
    "slot out of range": (messages.AddRule, (16384, THERE, []), 0, "rule: EINVAL"),
    "replacement out of range": (messages.ReplaceRule, (16384, THERE, []), 0, "rule: EINVAL"),
    "output's place out of range": (
        messages.AddRule,
        (0, THERE, [messages.RuleOutput(1 << 20, 0)]),
        0,
        "rule: EINVAL",
    ),
    "output's counters out of range": (
        messages.AddRule,
        (0, THERE, [messages.RuleOutput(0, 65536)]),
        0,
        "rule: EINVAL",
    ),
    "number of 9 bytes": (
        messages.AddRule,
        (0, destination("239.1.1.1", 5000, inspect=messages.Inspect(4, 0, 9)), []),
        0,
        "rule: EINVAL",
    ),
    "number of no bytes": (
        messages.AddRule,
        (0, destination("239.1.1.1", 5000, inspect=messages.Inspect(4, 0, 0)), []),
        0,
        "rule: EINVAL",
    ),
    "number beyond any datagram": (
        messages.AddRule,
        (0, destination("239.1.1.1", 5000, inspect=messages.Inspect(4, 1 << 16, 1)), []),
        0,
        "rule: EINVAL",
    ),
    "unknown format": (
        messages.AddRule,
        (0, destination("239.1.1.1", 5000, inspect=messages.Inspect(6)), []),
        0,
        "rule: EINVAL",
    ),
    "address of 5 bytes": (
        messages.AddRule,
        (0, messages.Match(messages.Endpoint(b"12345", 1), 32, 1), []),
        0,
        "not an endpoint",
    ),
    "no address": (
        messages.AddRule,
        (0, messages.Match(messages.Endpoint(b"", 1), 0, 1), []),
        0,
        "not an endpoint",
    ),
    "port of 65536": (
        messages.AddRule,
        (0, messages.Match(messages.Endpoint(bytes(4), 65536), 32, 65536), []),
        0,
        "not an endpoint",
    ),
    "negative port": (
        messages.AddRule,
        (0, messages.Match(messages.Endpoint(bytes(4), -1), 32, 5), []),
        0,
        "not an endpoint",
    ),
    "prefix of 33 bits": (
        messages.AddRule,
        (0, destination("239.1.1.1", 5000, bits=33), []),
        0,
        "not a range",
    ),
    "negative prefix": (
        messages.AddRule,
        (0, destination("239.1.1.1", 5000, bits=-1), []),
        0,
        "negative",
    ),
    "ports that end before they begin": (
        messages.AddRule,
        (0, destination("239.1.1.1", 5000, last_port=4999), []),
        0,
        "not a range",
    ),
    "source of the other family": (
        messages.AddRule,
        (0, destination("239.1.1.1", 5000, sources=[messages.Network(bytes(16), 0)]), []),
        0,
        "not a network of the rule's family",
    ),
    "source of 33 bits": (
        messages.AddRule,
        (0, destination("239.1.1.1", 5000, sources=[messages.Network(bytes(4), 33)]), []),
        0,
        "not a network of the rule's family",
    ),
    "excluded network of 5 bytes": (
        messages.AddRule,
        (0, destination("239.1.1.1", 5000, exclude=[messages.Network(bytes(5), 0)]), []),
        0,
        "not a network of the rule's family",
    ),
    "excluded network of -1 bits": (
        messages.ReplaceRule,
        (0, destination("ff15::1", 5000, exclude=[messages.Network(bytes(16), -1)]), []),
        0,
        "not a network of the rule's family",
    ),
    "member of no rule": (
        messages.AddMember,
        (messages.MemberKey(7, HERE, None), 0, []),
        0,
        "member: ENOENT",
    ),
    "member beyond all slots": (
        messages.AddMember,
        (messages.MemberKey(1 << 20, HERE, None), 0, []),
        0,
        "member: ENOENT",
    ),
    "member of a rule that has none": (
        messages.AddMember,
        (messages.MemberKey(0, HERE, None), 0, [0]),
        0,
        "member: EINVAL",
    ),
    "member's counter out of range": (
        messages.AddMember,
        (messages.MemberKey(0, HERE, None), 65536, []),
        0,
        "member: EINVAL",
    ),
    "member's place out of range": (
        messages.AddMember,
        (messages.MemberKey(0, HERE, None), 0, [1 << 20]),
        0,
        "member: EINVAL",
    ),
    "member with an address of 5 bytes": (
        messages.AddMember,
        (messages.MemberKey(0, messages.Endpoint(b"12345", 1), None), 0, []),
        0,
        "not an endpoint",
    ),
    "member with a source of 3 bytes": (
        messages.AddMember,
        (messages.MemberKey(0, HERE, messages.Endpoint(b"123", 1)), 0, []),
        0,
        "not an endpoint",
    ),
    "unknown member": (
        messages.RemoveMember,
        (messages.MemberKey(0, HERE, None),),
        0,
        "member: ENOENT",
    ),
    "own address of 15 bytes": (
        messages.AddOwn,
        ([messages.Endpoint(bytes(15), 1)],),
        0,
        "not an endpoint",
    ),
    "unknown own source": (messages.RemoveOwn, ([HERE],), 0, "own source: ENOENT"),
    "socket beyond all places": (
        messages.AddSockets,
        ([1 << 20],),
        1,
        "place 1048576 is not in the table",
    ),
    "removal beyond all places": (messages.RemoveSockets, ([1 << 20],), 0, "is not in the table"),
    "socket missing": (messages.AddSockets, ([0],), 0, "1 places for 0 sockets"),
    "socket too many": (messages.AddSockets, ([0],), 2, "1 places for 2 sockets"),
    "sockets for nothing": (messages.AddSockets, ([],), 253, "0 places for 253 sockets"),
    "second Initialize": (
        messages.Initialize,
        (1, [], 1, None, None),
        0,
        "already initialized",
    ),
}


def test_it_refuses_what_makes_no_sense_and_goes_on(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay("239.1.1.1", 5000, ("r1", "239.2.2.2", 6000))
        before = Seen(bench.process.pid).descriptors()
        with (
            listening(triangle.sink, "k0", "239.2.2.2", 6000) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for number, (kind, arguments, count, reason) in enumerate(REFUSALS.values()):
                with pytest.raises(WorkerError, match=reason):
                    await bench.ask(kind, *arguments, descriptors=[0] * count)
                source.sendto(b"%d" % number, ("239.1.1.1", 5000))
                assert sink.recv(100) == b"%d" % number
        assert Seen(bench.process.pid).descriptors() == before
        assert bench.ended == []

    drive(triangle.relay, scenario)


TOO_LARGE: dict[str, Refusal] = {
    "negative place": (messages.RemoveSockets, ([-1],), 0, ""),
    "place of 2**32": (messages.AddSockets, ([1 << 32],), 1, ""),
    "negative slot": (messages.RemoveRule, (-1,), 0, ""),
    "slot of 2**32": (messages.AddRule, (1 << 32, THERE, []), 0, ""),
    "output's place of 2**32": (
        messages.AddRule,
        (0, THERE, [messages.RuleOutput(1 << 32, 0)]),
        0,
        "",
    ),
    "output's limit of 2**32": (
        messages.AddRule,
        (0, THERE, [messages.RuleOutput(0, 0, 1 << 32)]),
        0,
        "",
    ),
    "negative limit": (messages.AddRule, (0, destination("10.0.0.1", 1, limit=-1), []), 0, ""),
    "limit of 2**32": (messages.AddRule, (0, destination("10.0.0.1", 1, limit=1 << 32), []), 0, ""),
    "VLAN of 2**16": (messages.AddRule, (0, destination("10.0.0.1", 1, vlan=1 << 16), []), 0, ""),
    "protocol of 256": (
        messages.AddRule,
        (0, destination("10.0.0.1", 1, protocol=256), []),
        0,
        "",
    ),
    "last port of 2**16": (
        messages.AddRule,
        (0, destination("10.0.0.1", 1, last_port=1 << 16), []),
        0,
        "",
    ),
    "member's slot of 2**32": (
        messages.AddMember,
        (messages.MemberKey(1 << 32, HERE, None), 0, []),
        0,
        "",
    ),
    "member's place of 2**32": (
        messages.AddMember,
        (messages.MemberKey(0, HERE, None), 0, [1 << 32]),
        0,
        "",
    ),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_it_refuses_numbers_that_c_cannot_hold(host: Host, name: str) -> None:
    kind, arguments, count, _ = TOO_LARGE[name]

    async def scenario(bench: Bench) -> None:
        with pytest.raises(WorkerError):
            await bench.ask(kind, *arguments, descriptors=[0] * count)
        with pytest.raises(WorkerError, match="ENOENT"):
            await bench.ask(messages.RemoveRule, 7)

    drive(host, scenario)


def test_a_refused_request_changes_nothing(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        with (
            listening(triangle.sink, "k0", "10.2.0.2", 6000) as sink,
            sending(triangle.relay, "r1") as ours,
        ):
            ours.connect(sink.getsockname())
            with pytest.raises(WorkerError, match="not in the table"):
                await bench.ask(messages.AddSockets, [0, 1 << 20], descriptors=[ours.fileno()] * 2)
            slot = bench.segment.rule_slot("rule")
            await bench.ask(messages.AddRule, slot, THERE, [messages.RuleOutput(0, 0)])
            await bench.begin()
            with sending(triangle.source, "s0") as source:
                source.sendto(b"x", ("239.1.1.1", 5000))
            await until(lambda: bench.received().packets, "the datagram")
            assert bench.segment.output(0).errors == {"EBADF": 1}

    drive(triangle.relay, scenario)


def test_the_first_message_has_to_be_initialize(host: Host) -> None:
    with host.inside(), raw_worker() as worker:
        worker.say(messages.encode(messages.RemoveRule(5, 0)))
        assert worker.hear() == messages.Refused(5, "the first message has to be Initialize")
        assert worker.end() == (1, "")


def test_initialize_needs_its_descriptors(host: Host) -> None:
    with host.inside(), raw_worker() as worker:
        worker.say(messages.encode(initialize(1)), [0])
        assert worker.hear() == messages.Refused(3, "Initialize takes 5 descriptors here, got 1")
        assert worker.end() == (1, "")


@pytest.mark.parametrize("count", [0, 9])
def test_a_worker_reads_so_many_interfaces(host: Host, count: int) -> None:
    with host.inside(), raw_worker() as worker:
        worker.say(messages.encode(initialize(count)), [0])
        why = f"a worker reads 1 to 8 interfaces, not {count}"
        assert worker.hear() == messages.Refused(3, why)
        assert worker.end() == (1, "")


def initialize(count: int) -> messages.Initialize:
    """As to a worker with the rings of so many interfaces."""
    sizes = messages.Sizes(1, 1, 1)
    rings = [messages.Rings(2 + number, 0, sizes, sizes) for number in range(count)]
    return messages.Initialize(3, os.getpid(), rings, 1, 65534, 65534)


def test_a_worker_of_another_supervisor_does_not_start(host: Host) -> None:
    with host.inside(), raw_worker() as worker:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            answer = worker.initialize("r0")
        assert answer == messages.Refused(1, "the supervisor has ended")
        assert worker.end() == (1, "")


def test_without_memory_for_its_sockets_no_other_engine_is_tried(host: Host) -> None:
    """An io_uring was to be had: only that it was not leads to the other engine.

    What a worker has when it is ready is measured, and others may have that much less. The largest
    of what it takes last are the 2 MiB for answers, and so one of these limits is met there.
    """
    with host.inside(), raw_worker() as worker:
        assert isinstance(worker.initialize("r0"), messages.Ready)
        had = int(Seen(worker.process.pid).status()["VmData"][0]) * 1024
    why = set()
    for less in (1, 2, 3):
        with host.inside(), raw_worker() as worker:
            most = had - (less << 20)
            resource.prlimit(worker.process.pid, resource.RLIMIT_DATA, (most, most))
            answer = worker.initialize("r0")
            assert isinstance(answer, messages.Refused)
            why.add(answer.reason)
            assert worker.end() == (1, "")
    assert "the table of sockets: ENOMEM (Cannot allocate memory)" in why


@pytest.mark.parametrize("initialized", [False, True])
def test_a_message_that_is_none_ends_it_aloud(host: Host, initialized: bool) -> None:
    with host.inside(), raw_worker() as worker:
        if initialized:
            assert isinstance(worker.initialize("r0"), messages.Ready)
        worker.say(b"\xc1\xc1\xc1")  # 0xc1 is in no msgpack
        status, said = worker.end()
        assert status == 1
        assert "DecodeError" in said


def test_an_unknown_message_ends_it_aloud(host: Host) -> None:
    with host.inside(), raw_worker() as worker:
        assert isinstance(worker.initialize("r0"), messages.Ready)
        worker.say(messages.encode(messages.Done(1)))
        status, said = worker.end()
        assert status == 1
        assert "ValidationError" in said


# What it does not keep


def test_a_thousand_sockets_come_and_go(host: Host) -> None:
    async def scenario(bench: Bench) -> None:
        worker = Seen(bench.process.pid)
        before = worker.descriptors()
        with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            three = [sock.fileno()] * 3
            for _ in range(10):
                await asyncio.gather(
                    *(
                        bench.ask(messages.AddSockets, [place, place + 1, 9], descriptors=three)
                        for place in range(100)
                    )
                )
                refused = [
                    bench.ask(messages.AddSockets, [place], descriptors=three)
                    for place in range(100)
                ]
                answers = await asyncio.gather(*refused, return_exceptions=True)
                assert all(isinstance(answer, WorkerError) for answer in answers)
                await asyncio.gather(
                    *(bench.ask(messages.RemoveSockets, [place, place + 1]) for place in range(100))
                )
        assert worker.descriptors() == before

    drive(host, scenario)


@pytest.mark.parametrize("how", ["removed", "replaced", "refused"])
def test_a_socket_is_let_go(host: Host, how: str) -> None:
    async def scenario(bench: Bench) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, host.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            with theirs:
                add = partial(bench.ask, messages.AddSockets, descriptors=[theirs.fileno()])
                if how == "refused":
                    with pytest.raises(WorkerError):
                        await add([0, 1])
                else:
                    await add([0])
            if how == "removed":
                await bench.ask(messages.RemoveSockets, [0])
            elif how == "replaced":
                await bench.ask(messages.AddSockets, [0], descriptors=[other.fileno()])
            # The end of the stream comes when the worker has let go of the other side.
            ours.settimeout(10.0)
            assert await asyncio.to_thread(ours.recv, 1) == b""

    drive(host, scenario)
