"""`busy_poll`: a worker that never sleeps, and one that does again when the key goes."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import wait_for
from tests.lab.rules import rule

if TYPE_CHECKING:
    from tests.lab import Mcrd, Triangle

pytestmark = pytest.mark.alone

POLLING = "[interfaces.r0]\nbusy_poll = true\n"
A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=4")
TICKS = os.sysconf("SC_CLK_TCK")


def worker(daemon: Mcrd) -> int | None:
    """None while there is none."""
    return next((int(each["pid"]) for each in daemon.stats()["workers"]), None)


def used(pid: int) -> float:
    """CPU time, in seconds (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def waits(pid: int) -> int:
    """How often it has been waiting so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))


def carries(triangle: Triangle) -> None:
    receiver = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=1000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=1000, rate=10_000)
    assert receiver.result()["unique"] == 1000


def test_a_worker_that_never_sleeps(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, POLLING + A)
    first = worker(daemon)
    assert first is not None
    carries(triangle)
    before, began = waits(first), used(first)
    wait_for(lambda: used(first) > began + 0.3, "a worker that works")
    daemon.edit(POLLING + A.replace("ttl = 4", "ttl = 5"))  # it hears messages all the same
    wait_for(lambda: daemon.rules()["a"]["outputs"][0]["ttl"] == 5, "the rule")
    assert worker(daemon) == first
    assert waits(first) < before + 20
    daemon.edit(A)
    second = wait_for(lambda: {worker(daemon)} - {first, None}, "another worker").pop()
    assert second is not None
    carries(triangle)
    before = waits(second)
    triangle.source.send("s0", "239.1.1.1", 5000, count=100, rate=100)
    assert waits(second) > before + 50
