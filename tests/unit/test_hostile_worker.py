"""The supervisor's end of the channel, and at the other end what is no worker any more."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import mmap
import random
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import msgspec
import pytest

from mcrd.dataplane import messages
from mcrd.lanes import spawn as workers
from mcrd.lanes.channel import WorkerError, unheard
from mcrd.lanes.ledger import Ledger
from mcrd.lanes.orders import is_fit, may_have
from mcrd.lanes.process import WorkerProcess
from mcrd.lanes.segment import Segment
from mcrd.model import Input, PortRange
from mcrd.planning.relays import Relay
from mcrd.planning.resources import Ingress, Ring, Worker
from mcrd.sockets.lost import Lost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcrd.model import Address, Network

TIMEOUT = 20.0

# What runs in place of a worker. `channel` is a socket, `first` the sequence number of what it was
# asked first.
EVIL = """
import os, socket, sys, time
import msgspec
channel = socket.socket(fileno=0)
first = msgspec.msgpack.decode(channel.recv(1 << 18))["sequence"]
say = lambda **what: channel.send(msgspec.msgpack.encode(what))
{}
time.sleep(60)
"""

KEY = [0, [b"1234", 1], None]

HOSTILE: dict[str, tuple[str, str]] = {
    "bytes that are no message": ("channel.send(b'\\xc1 hello')", "sent what is no message"),
    "half a message": ("channel.send(b'\\x82\\xa4type')", "sent what is no message"),
    "a message of another type": ("say(type='Overthrow', sequence=first)", "no message"),
    "a request of the supervisor's": ("say(type='Ping', sequence=first)", "no message"),
    "a number that is none": ("say(type='Done', sequence='one')", "no message"),
    "depth without end": ("channel.send(b'\\x91' * 100000)", "no message"),
    "more than a message": ("channel.send(b'x' * 150000)", "more than 131072 bytes"),
    "lines for the log": (
        "say(type='Refused', sequence=first, reason='no\\nmcrd: all is well')",
        "no message",
    ),
    "a line for the log, by its type": ("say(type='a\\nb\\x1b[2J', sequence=first)", "no message"),
    "a reason without end": (
        "say(type='Refused', sequence=first, reason='x' * 100000)",
        "no message",
    ),
    "an answer to nothing": ("say(type='Done', sequence=first + 7)", "which nobody made"),
    "an answer twice": (
        "say(type='Done', sequence=first); say(type='Done', sequence=first)",
        "which nobody made",
    ),
    "an answer to a request of tomorrow": ("say(type='Done', sequence=2**63)", "which nobody made"),
    "ready for the second time": (
        "say(type='Ready', sequence=first, held=[], missing={})",
        "was ready in answer to",
    ),
    "a descriptor": (
        "import msgspec; socket.send_fds(channel, [b'x'], [1])",
        "sent descriptors",
    ),
    "a descriptor with a good answer": (
        "done = msgspec.msgpack.encode(dict(type='Done', sequence=first));"
        "socket.send_fds(channel, [done], [1])",
        "sent descriptors",
    ),
    "253 descriptors": ("socket.send_fds(channel, [b'x'], [1] * 253)", "sent descriptors"),
    "too many members": (
        f"say(type='Wanted', members=[{KEY!r}] * 65)",
        "no message",
    ),
    "members without end": (
        f"while True: say(type='Wanted', members=[{KEY!r}] * 64)",
        "asked for members without end",
    ),
    "a request for no members": ("say(type='Wanted', members=[])", "no message"),
    "a member with an address without end": (
        "say(type='Wanted', members=[[0, [b'x' * 100000, 1], None]])",
        "no message",
    ),
    "a line for the log, of other characters": (
        "say(type='Refused', sequence=first, reason='no\\u2028mcrd: all is well')",
        "no message",
    ),
    "an empty message": ("channel.send(b'')", "closed its channel and went on"),
    "a closed channel": ("channel.close()", "closed its channel and went on"),
    "half a channel": ("channel.shutdown(socket.SHUT_WR)", "closed its channel and went on"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_killed_and_the_reason_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, reason = HOSTILE[name]
    monkeypatch.setattr(workers, "PROGRAM", ("-c", EVIL.format(code)))

    async def scenario() -> str:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        wanted: list[Sequence[messages.MemberKey]] = []
        process = WorkerProcess(
            Worker(Ingress("r0", 1)),
            lambda _, how: ended.set_result(how),
            lambda _, keys: wanted.append(keys),
        )
        try:
            asked = process.request(messages.Ping)
            how = await asyncio.wait_for(ended, TIMEOUT)
            with pytest.raises(WorkerError, match="has ended"):
                await process.request(messages.Ping)
            assert asked.done()  # whoever waited has heard of it
            asked.exception()
            return how
        finally:
            await process.stop()

    how = asyncio.run(scenario())
    assert how.startswith("killed, for it ")
    assert reason in how
    assert how.isprintable()
    assert len(how) < 400


def test_one_that_reads_nothing_holds_no_memory_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks and asks, and never hears an answer: these wait in the supervisor."""
    code = f"while True: say(type='Wanted', members=[{KEY!r}] * 64); time.sleep(0.1)"
    monkeypatch.setattr(workers, "PROGRAM", ("-c", EVIL.format(code)))

    async def scenario() -> str:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def answer(process: WorkerProcess, keys: Sequence[messages.MemberKey]) -> None:
            process.look(len(process.places))  # as the supervisor does, twice a second
            for key in keys:
                unheard(process.request(messages.RemoveMember, key))

        process = WorkerProcess(
            Worker(Ingress("r0", 1)), lambda _, how: ended.set_result(how), answer
        )
        try:
            unheard(process.request(messages.Ping))
            return await asyncio.wait_for(ended, TIMEOUT)
        finally:
            await process.stop()

    assert "asked for members without end" in asyncio.run(scenario())


def test_what_it_writes_into_the_log_is_lines_of_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "os.write(2, b'mcrd: all is well\\x1b[2J\\xff\\r\\n' * 500 + b'x' * 30000);"
        "say(type='Done', sequence=first); channel.recv(1); os._exit(3)"
    )
    monkeypatch.setattr(workers, "PROGRAM", ("-c", EVIL.format(code)))

    async def scenario() -> tuple[int, str]:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        process = WorkerProcess(
            Worker(Ingress("r0", 1)), lambda _, how: ended.set_result(how), lambda *_: None
        )
        try:
            await asyncio.wait_for(process.request(messages.Ping), TIMEOUT)
            unheard(process.request(messages.Ping))
            return process.pid, await asyncio.wait_for(ended, TIMEOUT)
        finally:
            await process.stop()

    pid, how = asyncio.run(scenario())
    assert how == "ended with exit status 3"
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:60] == [f"worker of r0 (pid {pid}): mcrd: all is well?[2J??"] * 60
    assert lines[60] == f"worker of r0 (pid {pid}): it writes more than 60 lines a minute"
    assert len(lines) == 61


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("open('/proc/self/mem', 'rb').read(1)", ["OSError: [Errno 5] Input/output error"]),
        ("import mcrd.nothing", ["ModuleNotFoundError: No module named 'mcrd.nothing'"]),
        (
            "{}['a bug']",
            [
                "Traceback (most recent call last):",
                '  File "<string>", line 1, in <module>',
                "KeyError: 'a bug'",
            ],
        ),
        (
            "try: open('/proc/self/mem', 'rb').read(1)\nexcept OSError: {}['a bug']",
            [
                "OSError: [Errno 5] Input/output error",
                "Traceback (most recent call last):",
                '  File "<string>", line 1, in <module>',
                "OSError: [Errno 5] Input/output error",
                "During handling of the above exception, another exception occurred:",
                "Traceback (most recent call last):",
                '  File "<string>", line 2, in <module>',
                "KeyError: 'a bug'",
            ],
        ),
        (
            "try: open('/proc/self/mem', 'rb').read(1)\nexcept OSError as e: raise OSError from e",
            ["OSError: [Errno 5] Input/output error", "OSError"],
        ),
    ],
)
def test_what_the_kernel_refuses_a_worker_is_a_line_and_a_bug_has_its_traceback(
    code: str, said: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PROGRAM", ("-c", code))

    async def scenario() -> int:
        ended = asyncio.Event()
        process = WorkerProcess(Worker(Ingress("r0", 1)), lambda *_: ended.set(), lambda *_: None)
        await asyncio.wait_for(ended.wait(), TIMEOUT)
        return process.pid

    pid = asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"worker of r0 (pid {pid}): {line}" for line in said]


def test_counters_may_say_anything_at_any_time() -> None:
    """The segment is the worker's to write: what is read is numbers, and nothing is believed."""
    segment, ledger = Segment(), Ledger()
    ring = Ring(Ingress("r0", 1))
    ledger.attach(ring, segment)
    target = ("r1", ip_address("239.2.2.2"), 6000)
    chance = random.Random(7)
    memory = mmap.mmap(segment.descriptor, 0)
    rule, output = segment.rule_slot("a"), segment.output_slot("a", target)
    for _ in range(3):
        for start in range(0, len(memory), 1 << 20):
            part = min(1 << 20, len(memory) - start)
            memory[start : start + part] = chance.randbytes(part)
        said = {
            "rule": ledger.rule("a"),
            "output": ledger.output("a", target),
            "interfaces": ledger.interfaces({ring: Lost(3, 3)}),
            "used": segment.last_used(0),
            "received": segment.received,
            "slots": [segment.rule(rule), segment.output(output)],
            "rates": [ledger.rule_rate("a"), ledger.output_rate("a", target)],
            "of interfaces": [ledger.interface_rates(), ledger.ring(ring, Lost(3, 3))],
        }
        assert msgspec.json.decode(msgspec.json.encode(said))["rule"]["received"]["packets"] >= 0
    memory.close()
    before = ledger.output("a", target)
    ledger.end_output(ring, "a", target)
    ledger.detach(ring, Lost(3, 3))
    waited, before.waiting = before.waiting, 0  # in vain
    before.dropped["new_member"] = (before.dropped["new_member"] + waited) % 2**64
    assert ledger.output("a", target) == before


RANGE = ip_network("239.5.0.0/24")
PORTS = PortRange(5000, 5009)


def endpoint(address: str, port: int) -> messages.Endpoint:
    return messages.Endpoint(ip_address(address).packed, port)


def relay(
    address: Address | Network = RANGE,
    port: int | PortRange = PORTS,
    *,
    by_source: bool = False,
    sources: tuple[Network, ...] = (),
    exclude: tuple[Network, ...] = (),
) -> Relay:
    """A rule as a worker has it."""
    given = Input(interface="r0", address=address, port=port, sources=sources, exclude=exclude)
    return Relay(given, (), (), by_source=by_source)


IN = endpoint("239.5.0.7", 5003)
ALLOWED = (ip_network("10.1.0.0/24"),)
BANNED = (ip_network("10.1.0.128/25"),)
KEPT = relay(by_source=True, sources=ALLOWED, exclude=BANNED)

MAY: dict[str, tuple[Relay, messages.MemberKey]] = {
    "in the range": (relay(), messages.MemberKey(0, IN, None)),
    "its first": (relay(), messages.MemberKey(0, endpoint("239.5.0.0", 5000), None)),
    "its last": (relay(), messages.MemberKey(0, endpoint("239.5.0.255", 5009), None)),
    "one address": (
        relay(ip_address("239.5.0.7"), 5003),
        messages.MemberKey(0, IN, None),
    ),
    "a source that is taken": (KEPT, messages.MemberKey(0, IN, endpoint("10.1.0.1", 0))),
    "any source": (relay(by_source=True), messages.MemberKey(0, IN, endpoint("8.8.8.8", 53))),
}
MAY_NOT: dict[str, tuple[Relay, messages.MemberKey]] = {
    "another address": (relay(), messages.MemberKey(0, endpoint("239.5.1.0", 5003), None)),
    "another port": (relay(), messages.MemberKey(0, endpoint("239.5.0.7", 5010), None)),
    "a negative port": (relay(), messages.MemberKey(0, endpoint("239.5.0.7", -1), None)),
    "another family": (relay(), messages.MemberKey(0, endpoint("ff15::7", 5003), None)),
    "an address of 5 bytes": (
        relay(),
        messages.MemberKey(0, messages.Endpoint(b"12345", 5003), None),
    ),
    "no address": (relay(), messages.MemberKey(0, messages.Endpoint(b"", 5003), None)),
    "a source where none counts": (
        relay(),
        messages.MemberKey(0, IN, endpoint("10.1.0.1", 1)),
    ),
    "no source where it counts": (KEPT, messages.MemberKey(0, IN, None)),
    "a source that is not taken": (KEPT, messages.MemberKey(0, IN, endpoint("10.2.0.1", 1))),
    "a source that is excluded": (KEPT, messages.MemberKey(0, IN, endpoint("10.1.0.200", 1))),
    "a source of another family": (
        relay(by_source=True),
        messages.MemberKey(0, IN, endpoint("fd01::1", 1)),
    ),
    "a source port of 65536": (
        relay(by_source=True),
        messages.MemberKey(0, IN, endpoint("10.1.0.1", 65536)),
    ),
}


@pytest.mark.parametrize("source", ["239.1.1.1", "127.0.0.1", "0.0.0.0"])
def test_a_source_that_is_no_host_has_no_socket_and_is_no_crime(source: str) -> None:
    """Anybody may send a packet that says so: its worker is as well as ever."""
    key = messages.MemberKey(0, IN, endpoint(source, 1))
    assert may_have(relay(by_source=True), key)
    assert not is_fit(key)


@pytest.mark.parametrize("name", MAY)
def test_a_rule_has_the_members_of_its_range(name: str) -> None:
    assert may_have(*MAY[name])


@pytest.mark.parametrize("name", MAY_NOT)
def test_a_rule_has_no_other_members(name: str) -> None:
    assert not may_have(*MAY_NOT[name])
