"""The peers: how each relay is started for a cell, and what it says about its losses."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cells import ALONE_CELLS, OUT_PORT, PORT, Cell
from bench.generators import Site, end, wait_for_ready
from bench.programs import PEERS
from bench.topology import SOURCE_ADDRESS
from tests.lab import LabError, wait_for
from tests.lab.processes import terminate

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable

RELAY_ADDRESS = "10.1.0.2"  # of r0
SOCAT_OUTPUTS_MAX = 3


class Running(ABC):
    """A relay at work."""

    @abstractmethod
    def pids(self) -> list[int]:
        """The processes whose CPU time is the relay's."""

    exact = False  # its report has to match the sink to the datagram: drain with patience

    @abstractmethod
    def stop(self) -> int | None:
        """Ends it. Returns how many datagrams it says that it did not send, when it says so."""


class Peer(ABC):
    """A kind of relay."""

    name: str
    label: str
    routed = False  # in the kernel, which leaves the group as it is
    none = False  # no relay at all: what arrives at the relay's interface is the result

    def refused(self, _site: Site) -> str | None:
        """Why it cannot be measured on this machine at all; None when it can."""
        return None

    def missing(self, _site: Site, _cell: Cell) -> str | None:
        """Why it cannot do the cell; None when it can."""
        return None

    @abstractmethod
    def start(self, site: Site, cell: Cell) -> Running:
        """Returns when it relays."""


def descendants(pids: Iterable[int]) -> list[int]:
    """These processes, and all that they have started."""
    found = []
    for pid in pids:
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += descendants(int(word) for word in (task / "children").read_text().split())
    return found


class _Processes(Running):
    """Programs that say nothing about losses."""

    def __init__(self, processes: Iterable[subprocess.Popen[bytes]]) -> None:
        self._processes = list(processes)

    def pids(self) -> list[int]:
        return descendants(process.pid for process in self._processes)

    def stop(self) -> int | None:
        terminate(self._processes)
        for process in self._processes:
            if process.stdout is not None:
                process.stdout.close()
        return None


class _Reporting(_Processes):
    """One program that ends with its losses in JSON."""

    def __init__(self, process: subprocess.Popen[bytes], outputs: int) -> None:
        super().__init__([process])
        self._outputs = outputs

    def stop(self) -> int | None:
        (process,) = self._processes
        answer = end(process)
        if process.returncode != 0:
            raise LabError(f"the relay failed with exit code {process.returncode}")
        if "dropped" not in answer:
            return None
        return int(answer["dropped"]) * self._outputs + int(answer["errors"])


class Program(Peer):
    """A relay of bench/peers."""

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self.label = label

    def start(self, site: Site, cell: Cell) -> Running:
        command = (*self.command(site), "r0", str(PORT), str(self.rules(site, cell)))
        process = site.start(site.network.relay, site.where.relay, *command)
        wait_for_ready(process, self.name)
        return _Reporting(process, cell.outputs)

    def command(self, site: Site) -> list[str]:
        """What precedes the interface, the port and the file of the rules."""
        return [site.programs[self.name]]

    def rules(self, site: Site, cell: Cell) -> Path:
        """A file with a line for each output: see relay.h."""
        path = site.network.lab.file("rules")
        lines = [f"{r.group} {r.interface} {r.source} {r.to}\n" for r in cell.routes()]
        path.write_text("".join(lines))
        return path


class PythonRelay(Program):
    """relay.py."""

    def __init__(self) -> None:
        super().__init__("python", "Python relay")

    def command(self, _site: Site) -> list[str]:
        return [sys.executable, str(PEERS / "relay.py")]


class Socat(Peer):
    """One process for each output; all of them hear the group."""

    name = "socat"
    label = "socat"

    def missing(self, site: Site, cell: Cell) -> str | None:
        if "socat" not in site.programs:
            return "socat is not installed"
        if cell.flows > 1 or cell.outputs > SOCAT_OUTPUTS_MAX:
            return "socat takes a process for each flow and output"
        return None

    def start(self, site: Site, cell: Cell) -> Running:
        relay = site.network.relay
        processes = [
            site.start(
                *(relay, site.where.relay, site.programs["socat"], "-b", "65536", "-u"),
                f"UDP4-RECV:{PORT},bind={route.group},reuseaddr,"
                f"ip-add-membership={route.group}:{RELAY_ADDRESS}",
                f"UDP4-DATAGRAM:{route.to}:{OUT_PORT},"
                f"ip-multicast-if={route.source},ip-multicast-ttl=8,ip-multicast-loop=0",
            )
            for route in cell.routes()
        ]
        sockets = Path(f"/proc/{relay.pid}/net/udp")
        bound = f":{PORT:04X} "
        wait_for(
            lambda: sum(bound in line for line in sockets.read_text().splitlines()) >= cell.outputs,
            "socat to bind",
        )
        return _Processes(processes)


class KernelRouting(Peer):
    """The kernel's own multicast routing, set up by smcroute."""

    name = "kernel"
    label = "kernel routing"
    routed = True

    def missing(self, site: Site, cell: Cell) -> str | None:
        if "smcrouted" not in site.programs:
            return "smcroute is not installed, and could not be downloaded"
        interfaces = {route.interface for route in cell.routes()}
        if len(interfaces) < cell.outputs:
            return "the kernel routes a group to an interface once"
        return None

    def start(self, site: Site, cell: Cell) -> Running:
        lab, relay = site.network.lab, site.network.relay
        routes = cell.routes()
        interfaces = sorted({route.interface for route in routes})
        lines = [f"phyint {name} enable" for name in ("r0", *interfaces)]
        for group, outputs in groupby(routes, lambda route: route.group):
            names = " ".join(route.interface for route in outputs)
            # A router joins nothing by itself: without this a switch would send it nothing.
            lines.append(f"mgroup from r0 group {group}")
            lines.append(f"mroute from r0 source {SOURCE_ADDRESS} group {group} to {names}")
        config = lab.file("smcroute.conf")
        config.write_text("\n".join(lines) + "\n")
        process = site.start(
            *(relay, site.where.relay, site.programs["smcrouted"], "-n", "-N", "-l", "err"),
            *("-f", str(config)),
            *("-P", str(lab.file("smcroute.pid")), "-u", str(lab.file("smcroute.sock"))),
        )
        cache = Path(f"/proc/{relay.pid}/net/ip_mr_cache")
        wait_for(
            lambda: len(cache.read_text().splitlines()) > cell.flows,
            "the kernel's multicast routes",
        )
        return _Processes([process])


class Alone(Peer):
    """A relay that reads frames below the IP stack, where the host's own does not see the groups.

    One rule of nftables behind it, which performance.md advises for high rates.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.name = f"{peer.name}-alone"
        self.label = f"{peer.label} + nftables"

    def missing(self, _site: Site, cell: Cell) -> str | None:
        return None if cell in ALONE_CELLS else "measured in some cells only"

    def start(self, site: Site, cell: Cell) -> Running:
        def undo() -> None:
            site.network.let_in(site.network.relay, "r0")

        try:
            site.network.drop_groups("r0")
            return Beside(self._peer.start(site, cell), undo)
        except BaseException:
            undo()
            raise


class Beside(Running):
    """Undoes with the relay what was set up for it."""

    def __init__(self, running: Running, undo: Callable[[], None]) -> None:
        self._running = running
        self._undo = undo
        self.exact = running.exact

    def pids(self) -> list[int]:
        return self._running.pids()

    def stop(self) -> int | None:
        try:
            return self._running.stop()
        finally:
            self._undo()


class Merged(Peer):
    """A relay that knows nothing of it, where the interface merges datagrams (UDP GRO)."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.name = f"{peer.name}-gro"
        self.label = f"{peer.label}, gro"
        self.routed = peer.routed

    def missing(self, site: Site, cell: Cell) -> str | None:
        if cell not in ALONE_CELLS:
            return "measured in some cells only"
        return self._peer.missing(site, cell)

    def start(self, site: Site, cell: Cell) -> Running:
        site.network.merge("on")
        try:
            return Beside(self._peer.start(site, cell), lambda: site.network.merge("off"))
        except BaseException:
            site.network.merge("off")
            raise


class _Wall(Running):
    """Drops what arrives."""

    def __init__(self, site: Site) -> None:
        self._site = site
        site.network.drop(site.network.relay, "r0")

    def pids(self) -> list[int]:
        return []

    def stop(self) -> int | None:
        self._site.network.let_in(self._site.network.relay, "r0")
        return None


class GeneratorLimit(Peer):
    """No relay: what the generator can make into a peer that drops."""

    name = "limit"
    label = "generator's limit"
    none = True

    def start(self, site: Site, _cell: Cell) -> Running:
        return _Wall(site)
