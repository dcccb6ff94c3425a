"""The peers: how each relay is started for a cell, and what it says about its losses."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cells import ALONE_CELLS, CELLS, OUT_PORT, PORT, Cell
from bench.generators import Site, end, wait_for_ready
from bench.processor import pin
from bench.programs import PEERS
from bench.topology import SOURCE_ADDRESS
from tests.lab import LabError, Mcrd, wait_for
from tests.lab.daemon import console_script
from tests.lab.processes import terminate
from tests.lab.rules import rule

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Collection, Iterable

RELAY_ADDRESS = "10.1.0.2"  # of r0
SOCAT_OUTPUTS_MAX = 3
FOREIGN_OF = 10  # one flow in so many is wanted where there is foreign traffic


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


class _Daemon(Running):
    """mcrd."""

    exact = True

    def __init__(self, daemon: Mcrd, cell: Cell) -> None:
        self._daemon = daemon
        self._cell = cell
        self._workers = [int(worker["pid"]) for worker in daemon.stats()["workers"]]

    def pids(self) -> list[int]:
        return [self._daemon.pid, *self._workers]

    @property
    def workers(self) -> list[int]:
        return self._workers

    def stop(self) -> int | None:
        lost = self._lost(self._daemon.stats())
        self._daemon.stop()
        return lost

    def _lost(self, stats: dict[str, Any]) -> int:
        """Frames that reached no rule count once for each output; `unmatched` were not ours."""
        dropped = stats["interfaces"]["r0"]["dropped"]
        frames = sum(count for reason, count in dropped.items() if reason != "unmatched")
        errors = sum(
            sum(output["errors"].values())
            for entry in stats["rules"].values()
            for output in entry["outputs"]
        )
        return int(frames) * self._cell.outputs + int(errors)


class Daemon(Peer):
    """mcrd, with so many workers on its input interface."""

    def __init__(self, workers: int, key: str = "", cells: Collection[Cell] = CELLS) -> None:
        self.workers = workers
        self.name = f"mcrd-{key or workers}"
        self.label = "mcrd" if workers == 1 else f"mcrd, {workers} workers"
        self.label += f", {key}" if key else ""
        self._settings = f"[interfaces.r0]\nworkers = {workers}\n"
        self._settings += f"{key} = true\n" if key else ""
        self._cells = cells

    def missing(self, _site: Site, cell: Cell) -> str | None:
        return None if cell in self._cells else "measured in some cells only"

    def rules(self, cell: Cell) -> str:
        """The rule file."""
        text = self._settings
        for group, routes in groupby(cell.routes(), lambda route: route.group):
            outputs = [f"{route.interface} {route.to} {OUT_PORT} ttl=8" for route in routes]
            text += rule(f"flow-{group.rpartition('.')[2]}", f"r0 {group} {PORT}", *outputs) + "\n"
        return text

    def refused(self, site: Site) -> str | None:
        """What `mcrctl check` says against such a rule file; None when it accepts it."""
        path = site.network.lab.file("rules.toml")
        path.write_text(self.rules(Cell(18, 1, 1)))
        done = site.network.relay.call(console_script("mcrctl"), "check", str(path))
        if done.returncode == 0:
            return None
        said = (done.stderr or done.stdout).strip().splitlines() or ["it does not say why"]
        return f"mcrctl check refuses it: {said[0].replace(str(path), 'the rule file')}"

    def start(self, site: Site, cell: Cell) -> Running:
        daemon = site.network.lab.mcrd(site.network.relay, self.rules(cell))
        try:
            stats = daemon.stats()
            idle = [name for name, entry in stats["rules"].items() if entry["state"] != "active"]
            if idle:
                raise LabError(f"mcrd: not active: {', '.join(idle)}\n{daemon.log()}")
            running = _Daemon(daemon, cell)
            # The first worker on the relay's CPU, the second beside the generator: there are no
            # more than two CPUs to be had.
            pin(daemon.pid, site.where.relay)
            for number, pid in enumerate(running.workers):
                pin(pid, site.where.relay if number % 2 == 0 else site.where.generator)
        except BaseException:
            daemon.kill()
            raise
        return running


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


class DaemonAmongOthers(Daemon):
    """mcrd with rules for one flow in ten; the others are foreign.

    With `let_in`, rules for another port of the foreign groups make the filter let them through.
    """

    def __init__(self, *, let_in: bool) -> None:
        super().__init__(1)
        self._let_in = let_in
        self.name = "mcrd-let-in" if let_in else "mcrd-filtered"
        self.label = "foreign frames in the ring" if let_in else "foreign frames filtered"

    def rules(self, cell: Cell) -> str:
        wanted = cell.flows // FOREIGN_OF
        text = super().rules(replace(cell, flows=wanted))
        if self._let_in:
            for flow in range(wanted, cell.flows):
                text += rule(
                    f"foreign-{flow}", f"r0 239.1.1.{flow + 1} 9", f"r1 239.3.1.{flow + 1} 9"
                )
        return text


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
