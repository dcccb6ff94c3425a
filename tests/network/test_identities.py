"""Every packet is in one counter: against what was captured on both sides of the relay.

source s0 -- r0 relay r1 -- k0 sink      captures on r0 (what comes) and on k0 (what arrives)
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.dataplane.bench import sending
from tests.dataplane.frames import checksum, frame, inject
from tests.lab import wait_for
from tests.sandbox.harness import hush

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.lab import Mcrd, Triangle

UDP_SEGMENT = 103  # linux/udp.h

RULES = """
[interfaces.r0]
ring_size = "2 MiB"

[rules.a]
description = "{round}"
input = {{ interface = "r0", address = "239.1.1.1", port = 5000 }}
outputs = [
    {{ interface = "r1", address = "239.2.2.1", port = 6000, ttl = 4, source_port = 7777 }},
    {{ interface = "r1", address = "239.2.2.9", port = 6000, ttl = 4 }},
]

[rules.picky]
input = {{ interface = "r0", address = "239.1.1.2", port = 5000, sources = ["10.1.0.1"] }}
outputs = [
    {{ interface = "r1", address = "239.2.2.2", port = 6000, ttl = {ttl} }},
    {{ interface = "r1", address = "10.2.0.2", port = 6666 }},
]

[rules.tagged]
input = {{ interface = "r0", address = "239.1.1.3", port = 5000, vlan = 7 }}
outputs = [{{ interface = "r1", address = "239.2.2.3", port = 6000, ttl = 4 }}]

[rules.limited.input]
interface = "r0"
address = "239.1.1.4"
port = 5000
limit = {{ packets_per_second = 50 }}
[[rules.limited.outputs]]
interface = "r1"
address = "239.2.2.4"
port = 6000
ttl = 4
limit = {{ packets_per_second = 20 }}
{more}
"""
MORE = """
[rules.more]
input = { interface = "r0", address = "239.1.1.5", port = 5000 }
outputs = [{ interface = "r1", address = "239.2.2.5", port = 6000, ttl = 4 }]
"""

# The dead outputs: what goes there is refused on its way out.
FIREWALL = """
table ip mcrd {
  chain out {
    type filter hook output priority 0;
    ip daddr 239.2.2.9 drop
    ip daddr 10.2.0.2 udp dport 6666 drop
  }
}
"""
DEAD = {("a", "239.2.2.9"), ("picky", "10.2.0.2")}

# Of each kind one frame a round: the rule that takes it, or why it goes no further.
KINDS: Mapping[str, tuple[str, bytes]] = {
    "good": ("a", frame(b"good")),
    "empty": ("a", frame(b"")),
    "padded": ("a", frame(b"padded") + bytes(30)),
    "right source": ("picky", frame(b"right", destination="239.1.1.2")),
    "right tag": ("tagged", frame(b"tagged", destination="239.1.1.3", tags=[7])),
    "wrong source": (
        "wrong_source",
        frame(b"wrong", destination="239.1.1.2", source="10.1.0.9"),
    ),
    "wrong tag": ("wrong_vlan", frame(b"wrong", destination="239.1.1.3", tags=[8])),
    "no tag": ("wrong_vlan", frame(b"wrong", destination="239.1.1.3")),
    "a tag where none is wanted": ("wrong_vlan", frame(b"wrong", tags=[7])),
    "another port": ("unmatched", frame(b"wrong", ports=(40000, 5001))),
    "UDP checksum": ("bad_checksum", frame(b"wrong", spoil=1)),
    "IPv4 checksum": ("bad_checksum", frame(b"wrong", spoil_header=1)),
    "UDP length too large": ("malformed", frame(b"wrong", udp_length=16)),
    "UDP length too small": ("malformed", frame(b"wrong", udp_length=7)),
    "IPv4 total too large": ("malformed", frame(b"wrong", total=36)),
    "IPv4 total too small": ("malformed", frame(b"wrong", total=19)),
    "own output": ("own_output", frame(b"own", source="10.2.0.1", ports=(7777, 5000))),
}
SUPER, OF = 10, 500  # datagrams of a super-frame, and their bytes
LARGE = 4000  # bytes of a datagram that comes in three fragments
BURST = 80  # datagrams at once to the rule with limits
FLOOD = 4000  # datagrams to a worker that is stopped: its ring has room for a third of them


@dataclass
class Captured:
    """What a capture has: datagrams by destination, and sets of fragments that lack some."""

    datagrams: Counter[tuple[str, int]] = field(default_factory=Counter)
    incomplete: int = 0

    @property
    def total(self) -> int:
        """All datagrams."""
        return sum(self.datagrams.values())


def captured(frames: list[bytes]) -> Captured:
    """Counts datagrams in frames of IPv4, by a reading of its own."""
    found = Captured()
    pieces: dict[tuple[bytes, int], set[tuple[int, int, bool]]] = {}
    begins: dict[tuple[bytes, int], tuple[str, int]] = {}
    for data in frames:
        at = 14
        while data[at - 2 : at] == b"\x81\x00":
            at += 4
        flags = struct.unpack_from("!H", data, at + 6)[0]
        total = struct.unpack_from("!H", data, at + 2)[0]
        where = (socket.inet_ntoa(data[at + 16 : at + 20]), 0)
        if flags & 0x1FFF == 0:
            where = (where[0], struct.unpack_from("!H", data, at + 22)[0])
        if flags & 0x3FFF == 0:
            payload = total - 28
            found.datagrams[where] += payload // OF if payload > 2000 else 1
            continue
        key = (data[at + 12 : at + 20], struct.unpack_from("!H", data, at + 4)[0])
        first = 8 * (flags & 0x1FFF)
        pieces.setdefault(key, set()).add((first, first + total - 20, bool(flags & 0x2000)))
        if first == 0:
            begins[key] = where
    for key, parts in pieces.items():
        end, last = 0, False
        for first, after, more in sorted(parts):
            if first == end:
                end, last = after, not more
        if last and key in begins:
            found.datagrams[begins[key]] += 1
        else:
            found.incomplete += 1
    return found


def large(number: int) -> list[bytes]:
    """Fragments of a datagram, each an Ethernet frame."""
    whole = frame(bytes(LARGE))
    header, datagram = bytearray(whole[14:34]), whole[34:]
    made = []
    for first in range(0, len(datagram), 1480):
        part = datagram[first : first + 1480]
        more = 0x2000 if first + 1480 < len(datagram) else 0
        struct.pack_into("!HHH", header, 2, 20 + len(part), number, more | first // 8)
        header[10:12] = bytes(2)
        struct.pack_into("!H", header, 10, checksum(bytes(header)))
        made.append(whole[:14] + bytes(header) + part)
    return made


def one_round(triangle: Triangle, number: int) -> None:
    """Something of everything."""
    inject(triangle.source, "s0", *(data for _, data in KINDS.values()))
    pieces = large(1000 + number)
    inject(triangle.source, "s0", *pieces)
    inject(triangle.source, "s0", *large(2000 + number)[:2])  # the last one is missing
    inject(triangle.source, "s0", *([frame(b"burst", destination="239.1.1.4")] * BURST))
    with sending(triangle.source, "s0") as source:
        source.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, OF)
        source.sendto(bytes(SUPER * OF), ("239.1.1.1", 5000))


def quiet(daemon: Mcrd) -> dict[str, Any]:
    """The counters, when they stand still and each worker waits for packets."""

    def still() -> dict[str, Any] | None:
        before, after = daemon.stats(), daemon.stats()
        same = before["interfaces"] == after["interfaces"] and _counted(before) == _counted(after)
        workers = after["workers"]
        # One that has no CPU just now counts nothing either, in the middle of a harvest.
        return after if same and workers and all(_waits(w["pid"]) for w in workers) else None

    return wait_for(still, "the counters to stand still")


def _waits(pid: int) -> bool:
    """Whether the process sleeps, and has not merely lost its CPU (proc_pid_stat(5))."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] == "S"


def _counted(stats: dict[str, Any]) -> list[Any]:
    return [
        (rule["received"], [(o["sent"], o["errors"]) for o in rule["outputs"]])
        for rule in stats["rules"].values()
    ]


def everything(stats: dict[str, Any]) -> dict[str, int]:
    """Every counter by its path."""
    found: dict[str, int] = {}

    def walk(path: str, value: object) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name not in ("rate", "uptime_s"):
                    walk(f"{path}.{name}", inner)
        elif isinstance(value, list):
            for at, inner in enumerate(value):
                walk(f"{path}[{at}]", inner)
        elif type(value) is int:
            found[path] = value

    walk("", {name: stats[name] for name in ("rules", "interfaces")})
    return found


@pytest.mark.parametrize("rounds", [20, pytest.param(100, marks=pytest.mark.long)])
def test_they_add_up(triangle: Triangle, rounds: int) -> None:
    relay, sink = triangle.relay, triangle.sink
    hush(triangle)
    relay.sysctl("net/ipv4/ipfrag_time", "1")
    relay.run("nft", FIREWALL)
    # Its MLD reports would be frames that no capture here counts.
    triangle.source.sysctl("net.ipv6.conf.s0.disable_ipv6", "1")
    daemon = triangle.lab.mcrd(relay, RULES.format(round=0, ttl=4, more=""))
    comes = relay.capture("r0", "(ip and not igmp) or vlan", direction="in", largest=6000)
    arrives = sink.capture("k0", "ip and not igmp", direction="in", largest=6000)
    before: dict[str, int] = {}
    kill_every = rounds // 4 if rounds < 100 else 10
    for number in range(rounds):
        one_round(triangle, number)
        stats = quiet(daemon)
        now = everything(stats)
        back = {path: now.get(path) for path, count in before.items() if now.get(path, 0) < count}
        assert {path for path in back if "rules.more" not in path} == set()
        before = now
        if (number + 1) % kill_every == 0:
            (worker,) = stats["workers"]
            os.kill(worker["pid"], signal.SIGKILL)
            wait_for(partial(_is_another, daemon, worker["pid"]), "another worker")
        more = MORE if number % 2 else ""
        daemon.edit(RULES.format(round=number, ttl=4 + number % 3, more=more))
        daemon.ctl("reload")
    # Overload: more comes than the ring has room for while nobody reads it.
    quiet(daemon)
    with (
        daemon.standing_still(),
        triangle.source.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire,
    ):
        wire.bind(("s0", 0))
        flood = frame(b"flood")
        for _ in range(FLOOD):
            wire.send(flood)
    wait_for(
        lambda: daemon.stats()["kernel"]["ipv4_fragments_lost"] >= 2 * rounds,
        "the fragments' time",
    )
    stats = quiet(daemon)
    (worker,) = stats["workers"]
    assert worker["restarts"] == rounds // kill_every
    check(stats, captured(comes.stop()), captured(arrives.stop()), rounds)


def _is_another(daemon: Mcrd, pid: int) -> bool:
    stats = daemon.stats()
    active = all(rule["state"] == "active" for rule in stats["rules"].values())
    return active and bool(stats["workers"]) and stats["workers"][0]["pid"] != pid


def check(stats: dict[str, Any], comes: Captured, arrives: Captured, rounds: int) -> None:
    """The identities of mcrctl(1), and both captures."""
    interface, rules = stats["interfaces"]["r0"], stats["rules"]
    dropped = interface["dropped"]
    assert dropped["ring_full"] > FLOOD // 3

    # What came is what was taken from the ring, and what found no room there. Sets of fragments
    # that lack one reach no ring: the kernel counts them, for the whole namespace, and twice, for
    # the host's own stack, which has joined the group, puts them together as well.
    assert interface["received"]["packets"] + dropped["ring_full"] == comes.total
    assert stats["kernel"]["ipv4_fragments_lost"] == 2 * comes.incomplete == 2 * rounds

    # What was taken is in a rule, or in a drop with a name.
    of_rules = sum(rule["received"]["packets"] for rule in rules.values())
    others = sum(dropped.values()) - dropped["ring_full"]
    assert interface["received"]["packets"] == of_rules + others
    expected = Counter(where for where, _ in KINDS.values())
    for reason in ("malformed", "bad_checksum", "wrong_vlan", "wrong_source", "own_output"):
        assert dropped[reason] == rounds * expected[reason], reason
    assert dropped["unmatched"] == rounds * expected["unmatched"]
    assert dropped["rate_limited"] == rules["limited"]["dropped"]["rate_limited"] > 0
    assert dropped["fragment"] == dropped["truncated"] == 0
    assert rules["picky"]["received"]["packets"] == rounds * expected["picky"]
    assert rules["tagged"]["received"]["packets"] == rounds * expected["tagged"]
    of_a = rounds * (expected["a"] + SUPER + 1)  # and one in fragments
    assert rules["a"]["received"]["packets"] == of_a + FLOOD - dropped["ring_full"]
    limited = rules["limited"]
    passed = limited["received"]["packets"] + limited["dropped"]["rate_limited"]
    assert passed == rounds * BURST

    # What a rule took, each of its outputs has sent, or says why not; what was sent, arrived.
    for name, rule in rules.items():
        for output in rule["outputs"]:
            sent, errors = output["sent"]["packets"], output["errors"]
            unsent = sum(errors.values()) + output["rate_limited"] + output["new_member"]
            assert rule["received"]["packets"] == sent + unsent, f"{name} {output}"
            arrived = arrives.datagrams[output["address"], output["port"]]
            assert sent == arrived, f"{name} {output}"
            if (name, output["address"]) in DEAD:
                assert errors == {"EPERM": rule["received"]["packets"]}
            else:
                assert errors == {}, (name, output)
    assert arrives.total == sum(
        output["sent"]["packets"] for rule in rules.values() for output in rule["outputs"]
    )
    (worker,) = stats["workers"]
    assert worker["received"] == interface["received"]
    assert worker["dropped"] == dropped
