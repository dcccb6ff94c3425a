"""What streams lost before they came to the relay: counted exactly, said in the log, explained."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.lab import Triangle, wait_for
from tests.lab.daemon import Mcrd
from tests.lab.datagrams import sender
from tests.lab.rules import rule
from tests.network.test_streams import hoard

IN, OUT = "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"
GROUP = ("239.1.1.1", 5000)


def inspecting(triangle: Triangle, what: str, name: str = "cam") -> Mcrd:
    """A relay whose one rule inspects."""
    return triangle.lab.mcrd(triangle.relay, rule(name, IN, OUT, more=f"inspect = {what}"))


def send(triangle: Triangle, datagrams: Iterable[bytes]) -> int:
    """Sends them one by one, no faster than any receiver takes them; returns how many."""
    with sender(triangle.source, "s0") as sock:
        return send_by(sock, datagrams)


def send_by(sock: socket.socket, datagrams: Iterable[bytes]) -> int:
    """The same from one socket, so that all are of one flow."""
    count = 0
    for count, datagram in enumerate(datagrams, 1):
        sock.sendto(datagram, GROUP)
        if count % 50 == 0:
            time.sleep(0.002)
    return count


def found(daemon: Mcrd, inspected: int, name: str = "cam") -> dict[str, Any]:
    """What was found in so many datagrams."""

    def all_came() -> dict[str, Any] | None:
        got: dict[str, Any] = daemon.stats()["rules"][name]["inspect"]
        return got if got["inspected"] >= inspected else None

    answer = wait_for(all_came, f"{inspected} datagrams to be inspected")
    assert answer["inspected"] == inspected
    return answer


def rtp(number: int, payload: bytes = bytes(160), kind: int = 33, ssrc: int = 7) -> bytes:
    """A datagram of RTP; 90 ticks for each."""
    head = bytes((0x80, kind)) + (number % 2**16).to_bytes(2)
    return head + (number * 90 % 2**32).to_bytes(4) + ssrc.to_bytes(4) + payload


def faulty(seed: int, count: int, first: int) -> tuple[list[int], dict[str, int]]:
    """Numbers with faults, and how many of each."""
    chance = random.Random(seed)
    numbers: list[int] = []
    done = {"lost": 0, "repeated": 0, "reordered": 0}
    number = first
    while len(numbers) < count:
        match chance.randrange(100):
            case 0:
                gap = chance.choice((1, 1, 2, 40, 900))
                number += gap
                done["lost"] += gap
            case 1:
                numbers.append(number)
                done["repeated"] += 1
            case 2:
                numbers.append(number + 1)
                numbers.append(number)
                number += 2
                done["reordered"] += 1
        numbers.append(number)
        number += 1
    return numbers, done


def check(got: dict[str, Any], done: dict[str, int]) -> None:
    """The counts are what was done."""
    assert got["lost"] + got["missing"] == done["lost"]
    assert {name: got[name] for name in ("repeated", "reordered")} == {
        name: done[name] for name in ("repeated", "reordered")
    }
    assert (got["resets"], got["stray"], got["other"], got["not_inspected"]) == (0, 0, 0, 0)


STREAMS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "rtp": ('"rtp"', rtp),
    "auto": ('"auto"', rtp),
    "sequence": (
        '{ offset = 3, bytes = 4, order = "little" }',
        lambda number: b"any" + (number % 2**32).to_bytes(4, "little") + bytes(100),
    ),
}


@pytest.mark.parametrize("stream", STREAMS)
def test_what_was_done_to_a_stream_is_counted(triangle: Triangle, stream: str) -> None:
    what, make = STREAMS[stream]
    daemon = inspecting(triangle, what)
    # Over the wrap of both widths.
    numbers, done = faulty(len(stream), 10_000, 2**32 - 5000)
    sent = send(triangle, map(make, numbers))
    check(found(daemon, sent), done)


def test_what_the_receiver_lacks_is_what_was_counted(triangle: Triangle) -> None:
    """Random loss and repeats on the way, by who receives behind the relay."""
    daemon = inspecting(triangle, '"rtp"')
    behind = hoard(triangle.sink, "k0", "239.2.2.2", 6000)
    chance = random.Random(2)
    numbers = [n for n in range(5000) for _ in range(chance.choices((0, 1, 2), (2, 97, 1))[0])]
    send(triangle, map(rtp, [*numbers, 5000, 5001, 5002]))
    came: list[int] = []
    behind.settimeout(1)
    while not came or came[-1] != 5002:
        came.append(int.from_bytes(behind.recv(2000)[2:4]))
    behind.close()
    between = set(range(min(came), 5003))
    got = found(daemon, len(came))
    assert got["lost"] + got["missing"] == len(between - set(came)) > 0
    assert got["repeated"] == len(came) - len(set(came)) > 0
    assert got["gaps"] > 0


def ts_packet(pid: int, counter: int) -> bytes:
    """A packet of MPEG-TS with payload."""
    return (0x47 << 24 | pid << 8 | 0x10 | counter % 16).to_bytes(4) + bytes(184)


def transport_stream(count: int) -> list[list[bytes]]:
    """Datagrams of seven packets of five PIDs and null packets."""
    counters = dict.fromkeys((0, 256, 257, 258, 4096), 0)
    chance = random.Random(188)
    datagrams = []
    for _ in range(count):
        packets = []
        for _ in range(6):
            pid = chance.choice(tuple(counters))
            packets.append(ts_packet(pid, counters[pid]))
            counters[pid] += 1
        datagrams.append([*packets, ts_packet(0x1FFF, chance.randrange(16))])
    return datagrams


@pytest.mark.parametrize("over_rtp", [False, True])
def test_continuity_errors_by_pid(triangle: Triangle, over_rtp: bool) -> None:
    daemon = inspecting(triangle, '"mpeg-ts"')
    stream = transport_stream(1000)
    errors: dict[str, int] = {}
    for at in range(20, 900, 20):
        pid = int.from_bytes(stream[at][3][1:3])
        stream[at][3] = ts_packet(0x1FFF, 0)  # one packet of this PID is lost
        errors[str(pid)] = errors.get(str(pid), 0) + 1
    stream[905][6] = b"\x46" + bytes(187)
    stream[910][2] = b"\x47\x81" + bytes(186)  # a null PID would have been: but it is in error
    pid = int.from_bytes(transport_stream(1000)[910][2][1:3])
    errors[str(pid)] = errors.get(str(pid), 0) + 1
    datagrams = [b"".join(packets) for packets in stream]
    if over_rtp:
        datagrams = [rtp(n, payload) for n, payload in enumerate(datagrams) if n != 950]
        for packets in {int.from_bytes(p[1:3]) for p in stream[950]} - {0x1FFF}:
            errors[str(packets)] = errors.get(str(packets), 0) + 1
    sent = send(triangle, datagrams)
    got = found(daemon, sent)
    ts = got["mpeg_ts"]
    assert ts["by_pid"] == errors
    assert ts["continuity_errors"] == sum(errors.values())
    assert (ts["sync_errors"], ts["transport_errors"], ts["duplicates"]) == (1, 1, 0)
    assert ts["packets"] == 7 * sent - 1
    assert got["lost"] + got["missing"] == int(over_rtp)
    assert got["formats"] == (["mpeg-ts", "rtp"] if over_rtp else ["mpeg-ts"])


def test_moldudp64(triangle: Triangle) -> None:
    """Gaps, a late packet, heartbeats, the end of a session and the next one."""
    daemon = inspecting(triangle, '"moldudp64"')
    chance = random.Random(64)
    packets: list[tuple[bytes, int, int]] = []
    lost = 0
    for session in (b"TODAY00001", b"TODAY00002"):
        number = 1
        for _ in range(2000):
            messages = chance.randrange(1, 20)
            match chance.randrange(100):
                case 0:
                    lost += messages
                case 1:
                    packets.append((session, number, 0))
                    packets.append((session, number, messages))
                case _:
                    packets.append((session, number, messages))
            number += messages
        packets.append((session, number, 0xFFFF))
    sent = send(
        triangle,
        (
            session + number.to_bytes(8) + messages.to_bytes(2) + b"\0\2ab" * (messages % 0xFFFF)
            for session, number, messages in packets
        ),
    )
    got = found(daemon, sent)
    assert got["lost"] + got["missing"] == lost
    assert got["changes"] == 1
    assert got["messages"] == sum(messages % 0xFFFF for _, _, messages in packets)
    assert (got["repeated"], got["reordered"], got["resets"], got["stray"]) == (0, 0, 0, 0)


@pytest.mark.alone
def test_at_50_000_a_second(triangle: Triangle) -> None:
    """The numbers of mcrgen, most of them in super-frames."""
    more = "inspect = { offset = 0, bytes = 4 }"
    daemon = triangle.lab.mcrd(triangle.relay, rule("cam", IN, OUT, more=more))
    received = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=50_000)
    triangle.source.send("s0", *GROUP, count=50_000, rate=50_000, size=1400)
    assert received.result()["unique"] == 50_000
    got = found(daemon, 50_000)
    assert (got["lost"], got["missing"], got["gaps"], got["flows"]) == (0, 0, 0, 1)


def test_it_is_said_when_it_begins_and_when_it_is_over(triangle: Triangle) -> None:
    daemon = inspecting(triangle, '"rtp"')
    send(triangle, map(rtp, (*range(100), *range(112, 1000))))
    found(daemon, 988)
    begun = "rules.cam: 12 packets were lost before they came here (lost_before)"
    wait_for(lambda: begun in daemon.log(), "the line in the log")
    over = "lost_before is over: 12 packets"
    wait_for(lambda: over in daemon.log(), "the line that it is over")
    done = daemon.ctl("explain", "cam", "--seconds", "1", check=False)
    said = " ".join(done.stdout.split())
    assert re.search(r"lost before it came here: 12 packets at \d\d:\d\d:\d\d\b", said)
    text = daemon.ctl("stats").stdout
    assert "lost before it came here (rtp): 12 packets at " in text
    assert "longest_gap 12" in text


def test_what_was_lost_last_is_lost_when_the_stream_has_ended(triangle: Triangle) -> None:
    daemon = inspecting(triangle, '"rtp"')
    send(triangle, map(rtp, (*range(100), 105)))
    assert found(daemon, 101)["lost"] in (0, 5)
    wait_for(lambda: found(daemon, 101)["lost"] == 5, "it to be given up")
    assert found(daemon, 101)["missing"] == 0
    begun = "rules.cam: 5 packets were lost before they came here"
    wait_for(lambda: begun in daemon.log(), "the line in the log")


def test_a_reload_and_another_worker_lose_nothing(triangle: Triangle) -> None:
    """What a rule counted stays, and a stream that goes on is not said to have lost anything."""
    daemon = inspecting(triangle, '"rtp"')
    numbers = iter(range(100_000))
    sock = sender(triangle.source, "s0")
    send_by(sock, (rtp(next(numbers)) for _ in range(500)))
    found(daemon, 500)
    more = 'inspect = "rtp"\nsilence = "10s"'
    daemon.edit(rule("cam", IN, OUT, "r1 239.2.2.3 6000", more=more))
    wait_for(lambda: len(daemon.rules()["cam"]["outputs"]) == 2, "the reload")
    next(numbers)
    send_by(sock, (rtp(next(numbers)) for _ in range(500)))
    got = found(daemon, 1000)
    assert got["lost"] + got["missing"] == 1
    (worker,) = daemon.stats()["workers"]
    triangle.relay.run("kill", "-9", str(worker["pid"]))
    wait_for(
        lambda: [w["pid"] for w in daemon.stats()["workers"]] not in ([], [worker["pid"]]),
        "another worker",
    )
    send_by(sock, (rtp(next(numbers)) for _ in range(600)))
    got = found(daemon, 1600)
    assert got["lost"] + got["missing"] == 1
    daemon.edit(rule("cam", IN, OUT, more='inspect = "auto"'))
    wait_for(lambda: daemon.rules()["cam"]["inspect"] == "auto", "the reload")
    next(numbers)  # nobody knows of it
    send_by(sock, (rtp(next(numbers)) for _ in range(100)))
    got = found(daemon, 1700)
    assert (got["lost"] + got["missing"], got["flows"]) == (1, 1)
    sock.close()
    daemon.edit(rule("cam", IN, OUT))
    wait_for(lambda: daemon.stats()["rules"]["cam"]["inspect"] is None, "the reload")


def test_flows_are_kept_apart(triangle: Triangle) -> None:
    """Senders to one rule, each with its own numbers; more than are kept apart are said to be."""
    daemon = inspecting(triangle, "{ offset = 0, bytes = 4 }")
    socks = [sender(triangle.source, "s0") for _ in range(70)]
    try:
        for number in range(20):
            for at, sock in enumerate(socks):
                if (at, number) != (3, 10):
                    sock.sendto((number + 1000 * at).to_bytes(4), GROUP)
            time.sleep(0.005)
    finally:
        for sock in socks:
            sock.close()

    def all_came() -> dict[str, Any] | None:
        got: dict[str, Any] = daemon.stats()["rules"]["cam"]["inspect"]
        return got if got["inspected"] + got["not_inspected"] >= 70 * 20 - 1 else None

    got = wait_for(all_came, "all datagrams")
    assert (got["inspected"], got["not_inspected"], got["flows"]) == (64 * 20 - 1, 6 * 20, 64)
    assert got["lost"] + got["missing"] == 1
