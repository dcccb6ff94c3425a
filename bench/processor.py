"""Where CPU time went: to processes, to the kernel's network threads, to the host of a machine."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Placement:
    """Which CPU does what."""

    generator: int
    relay: int


def placement() -> Placement:
    """The first two CPUs that we may use."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise RuntimeError("the benchmark needs two CPUs: one for the generator, one for the relay")
    return Placement(cpus[0], cpus[1])


def pin(pid: int, cpu: int) -> None:
    """All threads of a process to one CPU; those that it starts later follow."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {cpu})


def process_ns(pids: Iterable[int]) -> int:
    """What these have run on a CPU so far, all threads. Includes interrupts that came meanwhile.

    From the scheduler, in ns: utime and stime add up to the same, but in ticks.
    """
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                total += int((task / "schedstat").read_text().split()[0])
    return total


@dataclass(frozen=True)
class CpuTime:
    """Of one CPU since boot, in ns."""

    idle: int
    steal: int
    softirq: int  # of the kernel's ksoftirqd thread


@dataclass(frozen=True)
class Reading:
    """All at one moment."""

    at: int
    relay: int
    generator: int
    cpus: dict[int, CpuTime]


@dataclass(frozen=True)
class Usage:
    """Between two readings. Shares are of the time between them."""

    seconds: float
    relay_ns: int  # its processes, and ksoftirqd of its CPU
    generator_ns: int  # the same of the generator
    relay_busy: float  # the share of the relay's CPU that was not idle
    steal: float  # the larger one of the two CPUs
    others: float  # what ran there besides, as a share of both


class Meter:
    """Reads it all."""

    def __init__(self, where: Placement) -> None:
        self._where = where
        self._threads = {
            cpu: pid
            for cpu in (where.generator, where.relay)
            if (pid := _pid_of(f"ksoftirqd/{cpu}")) is not None
        }

    def read(self, relay: Iterable[int], generator: Iterable[int]) -> Reading:
        """Now."""
        cpus = {}
        for line in Path("/proc/stat").read_text().splitlines():
            name, *numbers = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in self._cpus:
                ticks = [int(number) * _TICK_NS for number in numbers]
                thread = self._threads.get(int(name[3:]))
                softirq = 0 if thread is None else process_ns([thread])
                # Waiting in io_uring counts as waiting for a disk.
                cpus[int(name[3:])] = CpuTime(ticks[3] + ticks[4], ticks[7], softirq)
        return Reading(time.monotonic_ns(), process_ns(relay), process_ns(generator), cpus)

    def usage(self, before: Reading, after: Reading) -> Usage:
        """What happened between two readings."""
        took = after.at - before.at
        relay, generator = self._where.relay, self._where.generator

        def softirq(cpu: int) -> int:
            return after.cpus[cpu].softirq - before.cpus[cpu].softirq

        def share(ns: int) -> float:
            return min(1.0, max(0.0, ns / took))

        idle = {cpu: after.cpus[cpu].idle - before.cpus[cpu].idle for cpu in self._cpus}
        steal = {cpu: after.cpus[cpu].steal - before.cpus[cpu].steal for cpu in self._cpus}
        relay_ns = after.relay - before.relay + softirq(relay)
        generator_ns = after.generator - before.generator + softirq(generator)
        known = relay_ns + generator_ns + sum(idle.values()) + sum(steal.values())
        return Usage(
            seconds=took / 1e9,
            relay_ns=relay_ns,
            generator_ns=generator_ns,
            relay_busy=1.0 - share(idle[relay]),
            steal=max(share(ns) for ns in steal.values()),
            others=share((2 * took - known) // 2),
        )

    @property
    def _cpus(self) -> set[int]:
        return {self._where.relay, self._where.generator}


def _pid_of(name: str) -> int | None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "comm").read_text().strip() == name:
                    return int(entry.name)
    return None
