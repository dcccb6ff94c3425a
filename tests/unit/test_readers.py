"""Readers of what strangers write, beside scapy, and given what is almost right.

What is done to it goes by a seed, which a failure prints.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from scapy.layers.igmp import IGMPv3_MQ, IGMPv3_MR, IGMPv3_MR_Group
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6MLDMultAddrRec,
    ICMPv6MLQuery2,
    ICMPv6MLReport2,
    IPv6,
)

from mcrd.config import ConfigError
from mcrd.config import parse as rules_of
from mcrd.convert import ForeignError, draft_of, fit, toml
from mcrd.observe.heard import Heard
from mcrd.observe.messages import Error, MalformedError, Query, Record, icmp, igmp, mld
from mcrd.observe.returned import Returned
from tests.mutations import ROUNDS, wrong, wrong_text

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from mcrd.config.problems import Problem
    from mcrd.observe.messages import Message

CHANGES = {5: "allow", 6: "block"}  # types of records (RFC 3376, 4.2.12)
HOSTS = {4: ip_address("10.1.0.9"), 6: ip_address("fe80::9")}
READ: dict[int, Callable[[bytes], Message]] = {4: igmp, 6: mld}

RULES = """
[daemon]
watch = true
log_level = "info"
[metrics]
listen = "127.0.0.1:9100"
[interfaces.eth0]
workers = 2
rejoin = "30s"
[rules.a]
input = { interface = "eth0", address = "239.1.1.1", port = 5000, sources = ["10.0.0.0/8"] }
outputs = [
    { interface = "eth1", address = "239.2.2.2", port = 6000, ttl = 8, limit = "10kpps" },
    { address = "10.9.0.5", source_port = 7000 },
]
[rules.b]
inputs = [
    { interface = "eth0", address = "ff15::1", port = "1-5" },
    { interface = "br-*", address = "ff15::1", port = "1-5" },
]
merge = "rtp"
outputs = [{ interface = "eth1", address = "receivers.example.org", sample = 3 }]
[reflect.mdns]
interfaces = ["eth0", "eth1"]
protocol = "mdns"
"""
FOREIGN = (
    "mgroup from eth0 group 225.1.2.3\nmroute from eth0 group 225.1.2.0/24 to eth1 eth2\n",
    "phyint eth0 upstream ratelimit 0\n  altnet 10.0.0.0/8\nphyint eth1 downstream\n"
    "    whitelist 239.1.1.0/28\n",
    "0.0.0.0/0.0.0.0: 10.0.0.9/9996\n10.20.20.20:10.0.0.3/2057 10.0.0.4/9996/5,9\n",
    "udp-broadcast-relay-redux --id 1 --port 1900 --dev eth0 --dev eth1"
    " --multicast 239.255.255.250\n",
    "samplicate -p 2055 -S 10.0.0.9/9996 10.0.0.8\nmdns-repeater eth0 eth1\n",
    "multicast-relay --interfaces eth0 eth1 --relay 239.1.2.3:5000 --noMDNS\n",
    "[{interface: 'eth0', group: '239.1.1.1', port: 5000, outputs: [{interface: 'eth1',"
    " group: '239.2.2.2', port: 6000, ttl: 8}]}]\n",
)


def group(dice: random.Random, version: int) -> str:
    number = dice.randrange(1, 1 << 16)
    return f"239.1.{number >> 8}.{number & 255}" if version == 4 else f"ff15::{number:x}"


def sources(dice: random.Random, version: int) -> list[str]:
    few = dice.sample(range(1, 250), dice.choice((0, 1, 2, 64)))
    return [f"10.1.0.{n}" if version == 4 else f"fd01::{n:x}" for n in few]


def report(dice: random.Random, version: int) -> tuple[bytes, tuple[Record, ...]]:
    """A report as scapy builds it, and what it says."""
    built, expected = [], []
    for _ in range(dice.choice((0, 1, 3))):
        kind, about, listed = dice.randrange(1, 7), group(dice, version), sources(dice, version)
        if version == 4:
            built.append(IGMPv3_MR_Group(rtype=kind, maddr=about, srcaddrs=listed))
        else:
            built.append(ICMPv6MLDMultAddrRec(rtype=kind, dst=about, sources=listed))
        named = frozenset(ip_address(each).packed for each in listed)
        expected.append(
            Record(
                ip_address(about),
                None if kind in (2, 4) else named,
                CHANGES.get(kind, "now"),  # type: ignore[arg-type]
                kind,
                named if kind in (2, 4) else frozenset(),
            )
        )
    made = IGMPv3_MR(records=built) if version == 4 else ICMPv6MLReport2(records=built, cksum=0)
    return bytes(made), tuple(expected)


def query(dice: random.Random, version: int) -> tuple[bytes, Query]:
    """A query as scapy builds it, and what it says; times below those that are floating points."""
    about, listed = group(dice, version), sources(dice, version)
    code, every, suppress = dice.randrange(1, 128), dice.randrange(1, 128), dice.randrange(2)
    if version == 4:
        more = {"srcaddrs": listed, "s": suppress, "qqic": every}
        made = IGMPv3_MQ(mrcode=code, gaddr=about, **more)
    else:
        more = {"sources": listed, "sources_number": len(listed), "S": suppress, "QQIC": every}
        made = ICMPv6MLQuery2(mladdr=about, mrd=code, cksum=0, **more)
    named = frozenset(ip_address(each).packed for each in listed)
    response = code / (10 if version == 4 else 1000)
    newest = 3 if version == 4 else 2
    expected = Query(newest, ip_address(about), response, float(every), named, bool(suppress))
    return bytes(made), expected


def error(dice: random.Random, version: int) -> tuple[bytes, Error]:
    """An ICMP error as scapy builds it, and what it says."""
    code, port, to = dice.randrange(4), dice.randrange(1, 1 << 16), group(dice, version)
    here = str(HOSTS[version])
    about = (IP if version == 4 else IPv6)(src=here, dst=to) / UDP(dport=port) / b"payload"
    made = (
        ICMP(type=3, code=code) if version == 4 else ICMPv6DestUnreach(code=code, cksum=0)
    ) / about
    kind = 3 if version == 4 else 1
    return bytes(made), Error(kind, code, ip_address(here), ip_address(to), port)


def problems_of(text: str) -> tuple[Problem, ...]:
    """Those of a rule file, which may have none."""
    try:
        rules_of(text, "file")
    except ConfigError as refused:
        return refused.problems
    return ()


@pytest.mark.parametrize("version", [4, 6])
def test_what_scapy_builds_is_understood(version: int, dice: random.Random) -> None:
    for _ in range(100):
        for build in (report, query):
            body, expected = build(dice, version)
            assert READ[version](body) == expected, body.hex()
        body, about = error(dice, version)
        assert icmp(body, version) == about, body.hex()


@pytest.mark.parametrize("version", [4, 6])
def test_no_message_of_the_network_does_harm(version: int, dice: random.Random) -> None:
    heard, returned = Heard(), Returned()
    heard.keep({1: frozenset({HOSTS[version]})}, 0.0)
    host = ip_address("10.1.0.8" if version == 4 else "fe80::8")
    right = [build(dice, version)[0] for build in (report, query, error) for _ in range(20)]
    for now in range(2000 * ROUNDS):
        body = wrong(dice.choice(right), dice)
        for read in (READ[version], lambda data: icmp(data, version)):
            with contextlib.suppress(MalformedError):
                read(body)
        heard.take(1, "igmp" if version == 4 else "mld", host, body, float(now))
        heard.take_pim(1, host, body, float(now))
        returned.take(host, body, float(now))
    heard.plain(1, 2000.0 * ROUNDS)
    returned.plain(lambda *_: True, 2000.0 * ROUNDS)


def test_no_rule_file_does_harm(dice: random.Random) -> None:
    for _ in range(400 * ROUNDS):
        assert all(problem.message for problem in problems_of(wrong_text(RULES, dice)))


def test_no_file_of_another_program_does_harm(dice: random.Random, tmp_path: Path) -> None:
    """What is made of it is a rule file, or it is refused."""
    for _ in range(800 * ROUNDS):
        text = wrong_text(dice.choice(FOREIGN), dice)
        try:
            draft = draft_of(text, tmp_path / "f")
        except ForeignError:
            continue
        problems = fit(draft)
        assert problems or not problems_of(toml(draft)), text
