"""mcrd as a peer: its rules for a cell, its workers, and what it says about its losses."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bench.cells import CELLS, OUT_PORT, PORT, Cell
from bench.generators import Site
from bench.processor import pin
from bench.relays import Peer, Running
from tests.lab import LabError, Mcrd
from tests.lab.daemon import console_script
from tests.lab.rules import rule

if TYPE_CHECKING:
    from collections.abc import Collection

FOREIGN_OF = 10  # one flow in so many is wanted where there is foreign traffic


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
    """mcrd, with so many workers on its input interface; with a key of it, or an engine."""

    def __init__(
        self, workers: int, key: str = "", cells: Collection[Cell] = CELLS, engine: str = ""
    ) -> None:
        self.workers = workers
        self.name = f"mcrd-{key or engine or workers}"
        self.label = "mcrd" if workers == 1 else f"mcrd, {workers} workers"
        self.label += f", {key or engine}" if key or engine else ""
        self._settings = f'[daemon]\nengine = "{engine}"\n' if engine else ""
        self._settings += f"[interfaces.r0]\nworkers = {workers}\n"
        self._settings += f"{key} = true\n" if key else ""
        self._cells = cells
        self._sleepless = key == "busy_poll"

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
            # One that never sleeps has its CPU to itself: the supervisor stays beside
            # the generator, where it was started. Else it takes that CPU away twice a second.
            if not self._sleepless:
                pin(daemon.pid, site.where.relay)
            for number, pid in enumerate(running.workers):
                pin(pid, site.where.relay if number % 2 == 0 else site.where.generator)
        except BaseException:
            daemon.kill()
            raise
        return running


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
