"""mcrgen: what the command line takes and refuses, and what it prints, without any packet."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

import pytest

from mcrd.addresses import socket_name
from mcrd.cli import mcrgen
from mcrd.traffic import Address, Target, TrafficError
from mcrd.traffic.receive import Ending, Latency, Received
from mcrd.traffic.send import Pattern, Sent

if TYPE_CHECKING:
    from collections.abc import Callable

TO_GROUP = ("--interface", "eth0", "--address", "239.1.1.1", "--port", "5000")
TO_V6 = ("--interface", "eth0", "--address", "ff15::1", "--port", "5000")

SENT = Sent(sent=10, bytes=14000, seconds=0.009, rate=1000.0, late=0, late_seconds=0.0)
RECEIVED = Received(
    unique=9,
    lost=1,
    duplicated=2,
    reordered=3,
    corrupt=4,
    latency_us=Latency(p50=12.5, p99=40.0),
    bytes=12600,
    unsequenced=0,
    sequences=1,
    kernel_dropped=0,
)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Target, Pattern]]:
    """What `mcrgen send` would have sent."""
    calls: list[tuple[Target, Pattern]] = []

    def send(target: Target, pattern: Pattern, _stopped: Callable[[], bool]) -> Sent:
        calls.append((target, pattern))
        return SENT

    monkeypatch.setattr(mcrgen, "send", send)
    return calls


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Target, Address | None, Ending]]:
    """What `mcrgen receive` would have received from."""
    calls: list[tuple[Target, Address | None, Ending]] = []

    def receive(
        target: Target,
        source: Address | None,
        ending: Ending,
        ready: Callable[[int], None],
        _stopped: Callable[[], bool],
    ) -> Received:
        calls.append((target, source, ending))
        ready(1024 * 1024)
        return RECEIVED

    monkeypatch.setattr(mcrgen, "receive", receive)
    return calls


def test_send_has_the_documented_defaults(sent: list[tuple[Target, Pattern]]) -> None:
    assert mcrgen.main(["send", *TO_GROUP]) == 0
    assert sent == [
        (
            Target("eth0", IPv4Address("239.1.1.1"), 5000, 1),
            Pattern(rate=1000.0, size=1400, count=None, ttl=None, source_port=0),
        )
    ]


def test_send_takes_every_option(sent: list[tuple[Target, Pattern]]) -> None:
    options = "--source-port 7 --rate 0.5 --size 65527 --count 3 --flows 4 --ttl 255"
    assert mcrgen.main(["send", *TO_V6, *options.split()]) == 0
    assert sent == [
        (
            Target("eth0", IPv6Address("ff15::1"), 5000, 4),
            Pattern(rate=0.5, size=65527, count=3, ttl=255, source_port=7),
        )
    ]


@pytest.mark.usefixtures("sent")
def test_send_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    mcrgen.main(["send", *TO_GROUP, "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "sent": 10,
        "bytes": 14000,
        "seconds": 0.009,
        "rate": 1000.0,
        "late": 0,
        "late_seconds": 0.0,
    }


def test_receive_takes_every_option(
    received: list[tuple[Target, Address | None, Ending]],
) -> None:
    options = "--source 10.0.0.5 --flows 2 --expect 9 --timeout 1.5"
    assert mcrgen.main(["receive", *TO_GROUP, *options.split()]) == 0
    assert received == [
        (
            Target("eth0", IPv4Address("239.1.1.1"), 5000, 2),
            IPv4Address("10.0.0.5"),
            Ending(expect=9, timeout=1.5),
        )
    ]


@pytest.mark.usefixtures("received")
def test_receive_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    mcrgen.main(["receive", *TO_GROUP, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == {
        "unique": 9,
        "lost": 1,
        "duplicated": 2,
        "reordered": 3,
        "corrupt": 4,
        "latency_us": {"p50": 12.5, "p99": 40.0},
        "bytes": 12600,
        "unsequenced": 0,
        "sequences": 1,
        "kernel_dropped": 0,
    }


@pytest.mark.usefixtures("received")
def test_receive_says_when_it_is_ready_and_when_its_buffer_is_small(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mcrgen.main(["receive", *TO_V6])
    small, ready = capsys.readouterr().err.splitlines()
    assert "1048576 bytes" in small
    assert ready == "mcrgen: receiving on eth0 [ff15::1]:5000"


@pytest.mark.usefixtures("received")
def test_receive_fails_when_fewer_came_than_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert mcrgen.main(["receive", *TO_GROUP, "--expect", "10", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "mcrgen: expected 10 packets, received 9"
    assert json.loads(captured.out)["unique"] == 9


def test_a_failure_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object) -> Sent:
        raise TrafficError("interface eth0: no such interface")

    monkeypatch.setattr(mcrgen, "send", fail)
    assert mcrgen.main(["send", *TO_GROUP, "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "mcrgen: interface eth0: no such interface\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "send|receive"),
        ("count", "invalid choice"),
        ("send --interface eth0 --port 1", "--address"),
        ("send --interface eth0 --address 239.1.1 --port 1", "not an IP address"),
        ("send --interface eth0 --address 0.0.0.0 --port 1", "--address"),
        ("send --interface eth0 --address fe80::1%eth0 --port 1", "scope"),
        (f"send --interface {'x' * 128} --address 239.1.1.1 --port 1", "--interface"),
        ("send --interface eth0 --address 239.1.1.1 --port 0", "--port"),
        ("send --interface eth0 --address 239.1.1.1 --port 65536", "--port"),
        ("send --interface eth0 --address 239.1.1.1 --port 1 --size 65508", "0 to 65507"),
        ("send --interface eth0 --address ff15::1 --port 1 --size 65528", "0 to 65527"),
        ("send --interface eth0 --address 239.1.1.1 --port 1 --ttl 256", "--ttl"),
        ("send --interface eth0 --address 239.1.1.1 --port 1 --rate -1", "--rate"),
        ("send --interface eth0 --address 239.1.1.1 --port 1 --rate nan", "--rate"),
        ("send --interface eth0 --address 239.1.1.1 --port 1 --burst 47", "--burst"),
        ("send --interface eth0 --address 239.1.1.1 --port 1 --burst 2 --size 0", "--burst"),
        ("send --interface eth0 --address 239.255.255.255 --port 1 --flows 2", "fewer than 2"),
        ("send --interface eth0 --address 223.255.255.255 --port 1 --flows 2", "fewer than 2"),
        ("receive --interface eth0 --address 239.1.1.1 --port 1 --source ff15::1", "family"),
        ("receive --interface eth0 --address 239.1.1.1 --port 1 --source 239.1.1.2", "--source"),
        ("receive --interface eth0 --address 239.1.1.1 --port 1 --expect 0", "--expect"),
        ("receive --interface eth0 --address 239.1.1.1 --port 1 --timeout inf", "--timeout"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        mcrgen.main(arguments.split())
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_flows_take_consecutive_addresses() -> None:
    target = Target("eth0", IPv4Address("239.1.1.255"), 5000, 2)
    assert target.addresses == [ip_address("239.1.1.255"), ip_address("239.1.2.0")]


@pytest.mark.parametrize(
    ("address", "scope"),
    [("239.1.1.1", 0), ("ff15::1", 0), ("ff02::1:5", 3), ("fe80::1", 3), ("fd01::1", 0)],
)
def test_link_local_addresses_have_a_scope(address: str, scope: int) -> None:
    name = socket_name(ip_address(address), 5000, 3)
    assert (name[3] if len(name) == 4 else 0) == scope
