"""The whole rule language through a worker process: who may send, members, limits, VLANs, ESP."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import socket
import time
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from mcrd.dataplane import messages
from mcrd.lanes.channel import WorkerError
from tests.dataplane.bench import Bench, by_member, drive, listening, sending, until
from tests.dataplane.frames import checksum, frame, hardware_address, inject

if TYPE_CHECKING:
    from tests.lab import Triangle

UDP_SEGMENT = 103  # linux/udp.h
IN = ("239.1.1.1", 5000)
OUT = ("r1", "239.2.2.2", 6000)


def networks(*texts: str) -> list[messages.Network]:
    """Prefixes as a Match has them."""
    found = map(ip_network, texts)
    return [messages.Network(net.network_address.packed, net.prefixlen) for net in found]


def key_of(
    bench: Bench, address: str, port: int, source: tuple[str, int] | None = None
) -> messages.MemberKey:
    """A member of the rule."""
    return messages.MemberKey(
        bench.segment.rule_slot("rule"),
        messages.Endpoint(ip_address(address).packed, port),
        messages.Endpoint(ip_address(source[0]).packed, source[1]) if source else None,
    )


async def refused(bench: Bench, triangle: Triangle, reason: str, one: bytes) -> None:
    """Injects a frame, and waits until it has counted for the reason."""
    before, received = bench.dropped(reason), bench.received().packets
    inject(triangle.source, "s0", one)
    await until(lambda: bench.dropped(reason) > before, f"a datagram to count as {reason}")
    assert bench.received().packets == received


def test_who_may_send(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        sources = networks("10.1.0.0/24", "10.9.9.9/32")
        exclude = networks("10.1.0.8/30")
        await bench.relay(*IN, OUT, sources=sources, exclude=exclude)
        with listening(triangle.sink, "k0", *OUT[1:]) as sink:
            for last, allowed in ((1, True), (7, True), (8, False), (11, False), (12, True)):
                one = frame(b"%d" % last, source=f"10.1.0.{last}")
                if allowed:
                    inject(triangle.source, "s0", one)
                    assert sink.recv(100) == b"%d" % last
                else:
                    await refused(bench, triangle, "wrong_source", one)
            inject(triangle.source, "s0", frame(b"host", source="10.9.9.9"))
            assert sink.recv(100) == b"host"
            await refused(bench, triangle, "wrong_source", frame(b"x", source="10.9.9.8"))
            # VLAN comes first, then source, then own output.
            tagged = frame(b"x", source="10.9.9.8", tags=[5])
            await refused(bench, triangle, "wrong_vlan", tagged)
            own = messages.Endpoint(socket.inet_aton("10.9.9.8"), 40000)
            await bench.ask(messages.AddOwn, [own])
            await refused(bench, triangle, "wrong_source", frame(b"x", source="10.9.9.8"))
        assert bench.balances()

    drive(triangle.relay, scenario)


def test_two_rules_of_one_group_with_disjoint_sources(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        other = ("r1", "239.2.2.2", 6001)
        await bench.relay(*IN, OUT, sources=networks("10.1.0.0/25"))
        await bench.relay(*IN, other, rule="other", sources=networks("10.1.0.128/25"))
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            listening(triangle.sink, "k0", *other[1:]) as second,
        ):
            for last, to in ((1, sink), (127, sink), (128, second), (254, second)):
                inject(triangle.source, "s0", frame(b"%d" % last, source=f"10.1.0.{last}"))
                assert to.recv(100) == b"%d" % last
        assert bench.received().packets == bench.received("other").packets == 2

    drive(triangle.relay, scenario)


def test_a_vlan(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        other = ("r1", "239.2.2.2", 6001)
        await bench.relay(*IN, OUT, vlan=5)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            listening(triangle.sink, "k0", *other[1:]) as second,
        ):
            inject(triangle.source, "s0", frame(b"tagged", tags=[5]))
            assert sink.recv(100) == b"tagged"
            await refused(bench, triangle, "wrong_vlan", frame(b"x"))
            await refused(bench, triangle, "wrong_vlan", frame(b"x", tags=[6]))
            # The same destination, untagged, is another rule's.
            await bench.relay(*IN, other, rule="other")
            inject(triangle.source, "s0", frame(b"untagged"), frame(b"priority", tags=[0xE005]))
            assert second.recv(100) == b"untagged"
            assert sink.recv(100) == b"priority"

    drive(triangle.relay, scenario)


def test_members_of_a_range(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay("239.1.0.0", 5000, "members", bits=16, last_port=5009)
        counted = by_member("members")

        def waiting_and_lost() -> tuple[int, int]:
            count = bench.sent_to(counted)
            return count.waiting, count.dropped["new_member"]

        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for _ in range(5):
                source.sendto(b"early", ("239.1.7.7", 5003))
            await until(lambda: bench.sent_to(counted).waiting == 5, "five to wait for a socket")
            await until(lambda: bench.wanted, "the member to be wanted")
            source.sendto(b"another", ("239.1.7.7", 5004))
            await until(lambda: len(bench.wanted) == 2, "another member to be wanted")
            first = key_of(bench, "239.1.7.7", 5003)
            assert bench.wanted == [first, key_of(bench, "239.1.7.7", 5004)]
            slot = await bench.add_member(first, OUT)
            assert [sink.recv(100) for _ in range(5)] == [b"early"] * 5
            used = bench.segment.last_used(slot)
            source.sendto(b"relayed", ("239.1.7.7", 5003))
            assert sink.recv(100) == b"relayed"
            assert bench.segment.last_used(slot) > used
            await until(lambda: bench.sent_to(counted).sent.packets == 6, "six sent")
            assert waiting_and_lost() == (1, 0)
            # What waits for one that cannot be had is given up at once.
            await bench.ask(messages.RemoveMember, bench.wanted[1])
            assert waiting_and_lost() == (0, 1)
            # What is not in the range is not wanted.
            before = bench.dropped("unmatched")
            source.sendto(b"beyond", ("239.2.0.0", 5003))
            source.sendto(b"beyond", ("239.1.7.7", 5010))
            await until(lambda: bench.dropped("unmatched") >= before + 2, "two unmatched")
            assert len(bench.wanted) == 2
            # One that has ended is asked for again.
            await bench.ask(messages.RemoveMember, first)
            source.sendto(b"again", ("239.1.7.7", 5003))
            await until(lambda: len(bench.wanted) == 3, "the member to be wanted again")
            assert bench.wanted[2] == first
        assert bench.balances()

    drive(triangle.relay, scenario)


def test_a_member_with_one_socket_of_two(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay("239.1.0.0", 5000, "none", OUT, "some", bits=16)
        key = key_of(bench, *IN)
        other = ("r1", "239.2.2.2", 6001)
        await bench.add_member(key, None, other)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            listening(triangle.sink, "k0", *other[1:]) as second,
            sending(triangle.source, "s0") as source,
        ):
            source.sendto(b"x", IN)
            assert sink.recv(100) == second.recv(100) == b"x"
        await until(lambda: bench.sent_to(by_member("some")).sent.packets == 1, "one sent")
        assert bench.sent_to(by_member("none")).dropped["new_member"] == 1
        assert bench.sent_to(by_member("some")).dropped["new_member"] == 0
        with pytest.raises(WorkerError, match="EINVAL"):
            await bench.add_member(key, other)

    drive(triangle.relay, scenario)


def test_members_by_source(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, "kept", by_source=True)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for number, (last, port) in enumerate(((1, 40000), (1, 40001), (9, 40000)), start=1):
                one = frame(b"x", source=f"10.1.0.{last}", ports=(port, 5000))
                inject(triangle.source, "s0", one, one)
                count = number
                await until(lambda: len(bench.wanted) == count, "another source")  # noqa: B023
                assert bench.wanted[-1] == key_of(bench, *IN, (f"10.1.0.{last}", port))
            await bench.add_member(bench.wanted[0], OUT)
            inject(triangle.source, "s0", frame(b"third", source="10.1.0.1", ports=(40000, 5000)))
            assert [sink.recv(100) for _ in range(3)] == [b"x", b"x", b"third"]
            source.sendto(b"x", IN)
            await until(lambda: len(bench.wanted) == 4, "a source of another port")
            assert bench.sent_to(by_member("kept")).waiting == 5
            # A worker that takes the place of this one does not know of them.
            await bench.restart()
        counted = bench.sent_to(by_member("kept"))
        assert (counted.waiting, counted.dropped["new_member"], counted.sent.packets) == (0, 5, 3)


def test_what_waits_goes_to_some_outputs_at_once(triangle: Triangle) -> None:
    """Super-frames too, which are cut; and the limit of an output counts what is sent."""

    async def scenario(bench: Bench) -> None:
        other = ("r1", "239.2.2.2", 6001)
        await bench.relay(*IN, "kept", other, "limited", by_source=True, limits=(0, 0, 1))
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            listening(triangle.sink, "k0", *other[1:]) as second,
            sending(triangle.source, "s0") as source,
        ):
            source.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 100)
            sent = bytes(range(250)) * 4
            source.sendto(sent, IN)
            parts = [sent[at : at + 100] for at in range(0, 1000, 100)]
            assert [second.recv(200) for _ in parts] == parts
            await until(lambda: bench.sent_to(by_member("kept")).waiting == 10, "ten to wait")
            await until(lambda: bench.wanted, "the source to be wanted")
            await bench.add_member(bench.wanted[0], OUT, ("r1", "239.2.2.2", 6002))
            assert [sink.recv(200) for _ in parts] == parts
            await until(lambda: bench.sent_to(by_member("kept")).sent.packets == 10, "all")
        limited = bench.sent_to(by_member("limited"))
        assert (limited.sent.packets, limited.dropped["rate_limited"], limited.waiting) == (1, 9, 0)
        assert bench.sent_to(by_member("kept")).waiting == 0

    drive(triangle.relay, scenario)


def test_what_comes_later_does_not_overtake_what_waits(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, "kept", by_source=True)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for number in range(200):
                source.sendto(b"%d" % number, IN)
            await until(lambda: bench.wanted, "the source to be wanted")
            adding = asyncio.ensure_future(bench.add_member(bench.wanted[0], OUT))
            for number in range(200, 1000):
                source.sendto(b"%d" % number, IN)
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await adding
            assert [int(sink.recv(100)) for _ in range(1000)] == list(range(1000))
        assert bench.sent_to(by_member("kept")).dropped["new_member"] == 0

    drive(triangle.relay, scenario)

    drive(triangle.relay, scenario)


def test_what_waits_for_an_answer_that_does_not_come(triangle: Triangle) -> None:
    """It is given up after five seconds, though nothing else happens; an answer may still come."""

    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, "kept", by_source=True)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            began = time.monotonic()
            for _ in range(3):
                source.sendto(b"in vain", IN)
            await until(
                lambda: bench.sent_to(by_member("kept")).dropped["new_member"] == 3, "the end"
            )
            assert time.monotonic() - began >= 5
            assert bench.sent_to(by_member("kept")).waiting == 0
            source.sendto(b"later", IN)
            await until(lambda: bench.sent_to(by_member("kept")).waiting == 1, "another one")
            assert len(bench.wanted) == 1  # it is still asked for
            await bench.add_member(bench.wanted[0], OUT)
            assert sink.recv(100) == b"later"

    drive(triangle.relay, scenario)


def test_a_rule_takes_its_members_with_it(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay("239.1.0.0", 5000, "members", bits=16)
        key = key_of(bench, *IN)
        await bench.add_member(key, OUT)
        await bench.relay("239.1.0.0", 5000, "members", bits=24, kind=messages.ReplaceRule)
        with pytest.raises(WorkerError, match="ENOENT"):
            await bench.ask(messages.RemoveMember, key)
        await bench.add_member(key, OUT)
        await bench.ask(messages.RemoveRule, bench.segment.rule_slot("rule"))
        with pytest.raises(WorkerError, match="ENOENT"):
            await bench.ask(messages.RemoveMember, key)

    drive(triangle.relay, scenario)


@pytest.mark.parametrize("where", ["input", "output"])
def test_a_limit(triangle: Triangle, where: str) -> None:
    async def scenario(bench: Bench) -> None:
        other = ("r1", "239.3.3.3", 6000)
        if where == "input":
            await bench.relay(*IN, OUT, other, limit=1)
        else:
            await bench.relay(*IN, OUT, other, limits=(1,))
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for number in range(200):
                source.sendto(b"%d" % number, IN)
            assert sink.recv(100) == b"0"

        def passed() -> int:
            return bench.sent(*OUT).sent.packets

        if where == "input":
            await until(
                lambda: bench.received().packets + bench.dropped("rate_limited") == 200, "them all"
            )
            await until(lambda: passed() == bench.received().packets, "what passed to be sent")
            assert bench.sent(*other).sent.packets == passed()
            assert bench.sent(*OUT).dropped["rate_limited"] == 0
        else:
            await until(
                lambda: passed() + bench.sent(*OUT).dropped["rate_limited"] == 200, "them all"
            )
            await until(lambda: bench.sent(*other).sent.packets == 200, "the other output")
            assert bench.received().packets == 200
            assert bench.dropped("rate_limited") == 0
        assert 1 <= passed() < 20  # one a second, of a moment's work
        await until(bench.balances, "every frame to be counted")

    drive(triangle.relay, scenario)


def test_the_same_payload_again(triangle: Triangle) -> None:
    """From another sender, within the time; super-frames are told apart by their datagrams."""

    async def scenario(bench: Bench) -> None:
        await bench.relay(*IN, OUT, dedupe=10_000)
        with (
            listening(triangle.sink, "k0", *OUT[1:]) as sink,
            sending(triangle.source, "s0") as source,
        ):
            for last in (1, 7, 7, 9):
                one = (frame(text, source=f"10.1.0.{last}") for text in (b"a", b"b"))
                inject(triangle.source, "s0", *one)
            source.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1)
            source.sendto(b"abcbd", IN)
            assert [sink.recv(100) for _ in range(4)] == [b"a", b"b", b"c", b"d"]
            await until(lambda: bench.dropped("duplicate") == 6 + 3, "what came again")
            assert bench.received().packets == 4
            # Without the key it is all relayed.
            await bench.relay(*IN, OUT, kind=messages.ReplaceRule)
            inject(triangle.source, "s0", frame(b"a"))
            assert sink.recv(100) == b"a"
        assert bench.balances()

    drive(triangle.relay, scenario)


def esp(payload: bytes, *, destination: str = "239.1.1.1", cut: int = 0) -> bytes:
    """An Ethernet frame with an ESP packet of this content."""
    where = ip_address(destination)
    header = bytes([0x45, 0]) + (20 + len(payload) - cut).to_bytes(2) + bytes([0, 1, 0, 0, 8, 50])
    rest = ip_address("10.1.0.1").packed + where.packed
    header += checksum(header + bytes(2) + rest).to_bytes(2) + rest
    link = hardware_address(where) + bytes.fromhex("0200000000010800")
    return link + header + payload


def test_esp_is_a_protocol_of_its_own(triangle: Triangle) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.relay("239.1.1.1", 0, OUT, protocol=50)
        packet = bytes(range(64))
        with listening(triangle.sink, "k0", *OUT[1:]) as sink:
            # Into a UDP socket here: what it carries is the whole ESP packet.
            inject(triangle.source, "s0", esp(packet))
            assert sink.recv(100) == packet
            await refused(bench, triangle, "unmatched", frame(b"x", ports=(0, 0)))
            await refused(bench, triangle, "malformed", esp(bytes(7)))
            await refused(bench, triangle, "malformed", esp(bytes(8), cut=1))
            await refused(bench, triangle, "unmatched", esp(packet, destination="239.1.1.2"))
            inject(triangle.source, "s0", esp(bytes(8)) + bytes(18))
            assert sink.recv(100) == bytes(8)

    drive(triangle.relay, scenario)
