"""Peers that are not part of the usual: relays of BPF programs, and one that the caller names."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.cells import ALONE_CELLS, CELLS, PORT, Cell
from bench.relays import Beside, Program

if TYPE_CHECKING:
    from bench.generators import Site
    from bench.relays import Running

VARIABLE = "MCRD_BENCH_PEER"
BPF_CELLS = (*ALONE_CELLS, CELLS[3], CELLS[11])


class Bpf(Program):
    """A relay of BPF programs (forward.c): all of its work is done in softirq."""

    def refused(self, site: Site) -> str | None:
        rules = self.rules(site, Cell(18, 1, 1))
        done = site.network.relay.call(*self.command(site), "r0", str(PORT), str(rules), "check")
        if done.returncode == 0:
            return None
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return f"this kernel refuses it: {said[-1]}"

    def missing(self, _site: Site, cell: Cell) -> str | None:
        return None if cell in BPF_CELLS else "measured in some cells only"

    def command(self, site: Site) -> list[str]:
        return [site.programs["forward"], self.name]


class Xdp(Bpf):
    """XDP: a devmap that broadcasts, and a program at each output."""

    def __init__(self) -> None:
        super().__init__("xdp", "XDP")

    def missing(self, site: Site, cell: Cell) -> str | None:
        interfaces = {route.interface for route in cell.routes()}
        if len(interfaces) < cell.outputs:
            return "a devmap has one program for an interface, which writes one address"
        if cell.mtu > 1500:
            return "XDP redirects no frame of more than one page"
        return super().missing(site, cell)

    def start(self, site: Site, cell: Cell) -> Running:
        network = site.network
        network.poll_sink("on")
        try:
            return Beside(super().start(site, cell), lambda: network.poll_sink("off"))
        except BaseException:
            network.poll_sink("off")
            raise


class Named(Program):
    """A program that the environment names: it is called as those of bench/peers are."""

    def __init__(self) -> None:
        super().__init__("named", f"program of {VARIABLE}")

    def refused(self, _site: Site) -> str | None:
        path = os.environ.get(VARIABLE, "")
        return None if os.access(path, os.X_OK) else f"{VARIABLE}={path} is no program"

    def command(self, _site: Site) -> list[str]:
        return [os.environ[VARIABLE]]
