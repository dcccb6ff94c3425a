"""5,000 streams through a real daemon, one rule each, with mcrd-web beside it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import resource
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import wait_for
from tests.lab.processes import PATIENCE
from tests.web.serving import Web, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab import Mcrd, Triangle

STREAMS, AT_ONCE = 5000, 2500  # mcrgen has 4096 at most
GROUPS = "abcdefghijklmnopqrstuvwxyz"
RATE = 2  # packets of each in a second
FROM, TO = IPv4Address("239.1.0.0"), IPv4Address("239.2.0.0")
RULE = """
[rules.{name}]
input = {{ interface = "r0", address = "{source}", port = 5000 }}
outputs = [{{ interface = "r1", address = "{to}", port = 6000, ttl = 1 }}]
"""


@dataclass
class Beside:
    """What runs, and how much of a CPU mcrd-web and the daemon had since `begin`."""

    daemon: Mcrd
    web: Web
    begin: float
    before: tuple[float, float]

    def shares(self) -> tuple[float, float]:
        """Of mcrd-web, and of the daemon without its workers; 1 is a whole CPU."""
        took = time.monotonic() - self.begin
        after = (cpu(self.web.process.pid), cpu(self.daemon.pid))
        web, daemon = ((b - a) / took for a, b in zip(self.before, after, strict=True))
        return web, daemon


@contextlib.contextmanager
def flowing(triangle: Triangle, seconds: int) -> Iterator[Beside]:
    """All streams flow for so long; fails unless the sink has each packet once, in order."""
    rules = "".join(RULE.format(name=called(n), source=FROM + n, to=TO + n) for n in range(STREAMS))
    daemon = triangle.lab.mcrd(triangle.relay, rules, ready=False)
    daemon.wait_until_it_answers(timeout=20 * PATIENCE)
    wait_for(lambda: all_active(daemon), "the rules", 20 * PATIENCE)
    parts, count = range(0, STREAMS, AT_ONCE), AT_ONCE * RATE * seconds
    received = [triangle.sink.receive("k0", str(TO + n), 6000, flows=AT_ONCE) for n in parts]
    with serving(daemon.control) as web:
        web.until_it_knows()
        assert len(web.state()["rules"]) == STREAMS
        senders = [
            triangle.source.start_send(
                "s0", str(FROM + n), 5000, count=count, rate=AT_ONCE * RATE, size=200, flows=AT_ONCE
            )
            for n in parts
        ]
        wait_for(lambda: flows(web, 0) and flows(web, STREAMS - 1), "all to flow", PATIENCE)
        yield Beside(daemon, web, time.monotonic(), (cpu(web.process.pid), cpu(daemon.pid)))
        assert senders[0].process.poll() is None, "the streams ended before what was measured"
        for sender in senders:
            assert sender.result(seconds + 20 * PATIENCE)["sent"] == count
        wait_for(lambda: sent(daemon) == len(parts) * count, "the last packet", PATIENCE)
    for got in (receiver.stop() for receiver in received):
        lost = {key: got[key] for key in ("lost", "duplicated", "reordered", "corrupt")}
        assert (got["unique"], lost) == (count, dict.fromkeys(lost, 0)), daemon.stats()[
            "interfaces"
        ]


def all_active(daemon: Mcrd) -> bool:
    found = daemon.rules()
    return len(found) == STREAMS and {each["state"] for each in found.values()} == {"active"}


def sent(daemon: Mcrd) -> int:
    return sum(
        int(output["sent"]["packets"])
        for rule in daemon.stats()["rules"].values()
        for output in rule["outputs"]
    )


def flows(web: Web, number: int) -> bool:
    """Whether mcrd-web knows that it does."""
    past = json.loads(web.get(f"/rule/{called(number)}")[2])
    return bool(past["seconds"]["packets"][-1])


def called(number: int) -> str:
    """The name of a rule."""
    return f"group{GROUPS[number % len(GROUPS)]}-{number}"


def cpu(pid: int) -> float:
    """Seconds that a process has had of a CPU, all its threads."""
    ticks = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            ticks += int((task / "schedstat").read_text().split()[0])
    return ticks / 1e9


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
