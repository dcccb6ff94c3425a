"""The traffic of the benchmark, and the receiver that measures latency. Both on one CPU."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cells import OUT_PORT, PORT
from bench.topology import SINK_ADDRESS, SINK_INTERFACES, SOURCE_ADDRESS
from tests.lab import LabError, wait_for
from tests.lab.processes import terminate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.cells import Cell
    from bench.processor import Placement
    from bench.topology import Network
    from tests.lab import Host

SAMPLED_MAX = 25_000  # packets per second that the latency receiver keeps


@dataclass(frozen=True)
class Site:
    """Where it all happens, and with which programs."""

    network: Network
    where: Placement
    programs: Mapping[str, str]

    def start(self, host: Host, cpu: int, *command: str) -> subprocess.Popen[bytes]:
        """A command pinned to a CPU, its stdout a pipe."""
        return host.start("taskset", "-c", str(cpu), *command, stdout=subprocess.PIPE)


def wait_for_ready(process: subprocess.Popen[bytes], what: str) -> None:
    """Until the program has written its first line."""
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise LabError(f"{what} did not start; exit code {process.wait()}")


def end(process: subprocess.Popen[bytes], timeout: float = 10.0) -> dict[str, Any]:
    """SIGTERM; returns the JSON that the program ends with."""
    process.terminate()
    try:
        text, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    answer: dict[str, Any] = json.loads(text) if text.strip() else {}
    return answer


class Generator:
    """Sends from the moment it is made; rate 0 is as fast as possible."""

    def __init__(self, site: Site, cell: Cell, rate: float, burst: int) -> None:
        self._process = site.start(
            *(site.network.source, site.where.generator, site.programs["generate"], cell.method),
            *("s0", SOURCE_ADDRESS, "239.1.1.1", str(PORT), str(cell.flows), str(cell.size)),
            *(f"{rate:.0f}", str(burst)),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> int:
        """Returns how many datagrams it sent."""
        answer = end(self._process)
        if "sent" not in answer:
            raise LabError(f"the generator failed with exit code {self._process.returncode}")
        return int(answer["sent"])


class LatencySink:
    """Receives the first output of the first flow, or the flow itself when it is routed."""

    def __init__(self, site: Site, cell: Cell, rate: float, routed: bool) -> None:
        every = 1
        while rate / cell.flows / every > SAMPLED_MAX:
            every *= 2
        route = cell.routes()[0]
        group, port = (route.group, PORT) if routed else (route.to, OUT_PORT)
        self._process = site.start(
            *(site.network.sink, site.where.generator, site.programs["sink"]),
            *(SINK_ADDRESS, group, str(port), str(every)),
        )
        wait_for_ready(self._process, "the latency receiver")

    def begin(self) -> None:
        """Forgets what it has measured."""
        self._process.send_signal(signal.SIGUSR1)

    def stop(self) -> dict[str, float]:
        """p50, p99, p999, p9999 in microseconds, and how many were measured."""
        return {name: float(value) for name, value in end(self._process).items()}


class BurstSink:
    """Counts what comes back to back to the first output's interface (bursts.c)."""

    def __init__(self, site: Site) -> None:
        command = (site.programs["bursts"], SINK_INTERFACES[0])
        self._process = site.start(site.network.sink, site.where.generator, *command)
        wait_for_ready(self._process, "the program that counts bursts")

    def begin(self) -> None:
        """Forgets what it has counted."""
        self._process.send_signal(signal.SIGUSR1)

    def stop(self) -> dict[str, int]:
        """highest, p50 and p99: sizes of bursts, the last two of so many of the datagrams."""
        return {name: int(value) for name, value in end(self._process).items()}


class Receiver:
    """A program of the sink's that reads the first flow through a socket with a default buffer.

    Nothing else is to come before it on its CPU, as if it had that for itself: SCHED_FIFO.
    """

    def __init__(self, site: Site, cell: Cell, routed: bool, iperf: bool) -> None:
        route = cell.routes()[0]
        group, port = (route.group, PORT) if routed else (route.to, OUT_PORT)
        if iperf:
            to = f"{group}%{SINK_INTERFACES[0]}"
            command = [site.programs["iperf"], "-s", "-u", "-B", to, "-p", str(port)]
        else:
            command = [site.programs["receive"], SINK_ADDRESS, group, str(port)]
        sink = site.network.sink
        self._proc = Path(f"/proc/{sink.pid}/net")
        self._process = site.start(sink, site.where.generator, "chrt", "-f", "1", *command)
        bound = f":{port:04X} "
        wait_for(lambda: bound in (self._proc / "udp").read_text(), "the receiver to bind")
        self.begin()

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self) -> None:
        """Forgets what it has counted."""
        self._before = self._count()

    def stop(self) -> tuple[int, int]:
        """What `counted` returns in the end."""
        found = self.counted()
        terminate([self._process])
        assert self._process.stdout is not None
        self._process.stdout.close()
        return found

    def counted(self) -> tuple[int, int]:
        """How many datagrams it read, and how many its socket had no room for."""
        read, lost = self._count()
        return read - self._before[0], lost - self._before[1]

    def _count(self) -> tuple[int, int]:
        """What the host's sockets have read, and had no room for: no other one gets anything."""
        names, values = (
            line.split()
            for line in (self._proc / "snmp").read_text().splitlines()
            if line.startswith("Udp:")
        )
        found = dict(zip(names, values, strict=True))
        return int(found["InDatagrams"]), int(found["RcvbufErrors"])
