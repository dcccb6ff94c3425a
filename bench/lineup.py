"""All peers, by the names under which they are measured."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.cells import ALONE_CELLS, BURST_CELLS, CELLS, DETAILED_CELLS
from bench.daemon import Daemon, DaemonAmongOthers
from bench.forwarding import VARIABLE, Bpf, Named, Xdp
from bench.relays import Alone, GeneratorLimit, KernelRouting, Merged, Program, PythonRelay, Socat

if TYPE_CHECKING:
    from bench.relays import Peer

MCRD = Daemon(1)
MCRD_2 = Daemon(2)
MCRD_GRO = Daemon(1, "gro", (*ALONE_CELLS, CELLS[14]))
MCRD_BUSY = Daemon(1, "busy_poll", (*DETAILED_CELLS, *BURST_CELLS))
MCRD_POLL = Daemon(1, cells=(*ALONE_CELLS, CELLS[14]), engine="poll")
REFERENCE = Program("reference", "reference design")
MULTISHOT = Program("multishot", "multishot + send")
KERNEL = KernelRouting()
LIMIT = GeneratorLimit()
SOCAT, PYTHON = Socat(), PythonRelay()
XDP, TC, NAMED = Xdp(), Bpf("tc", "tc, bpf_clone_redirect"), Named()
MCRD_ALONE, REFERENCE_ALONE = Alone(MCRD), Alone(REFERENCE)
MCRD_GRO_ALONE, KERNEL_GRO = Alone(MCRD_GRO), Merged(KERNEL)
FILTERED, LET_IN = DaemonAmongOthers(let_in=False), DaemonAmongOthers(let_in=True)

PEERS_ALL: tuple[Peer, ...] = (
    *(LIMIT, MCRD, MCRD_ALONE, MCRD_GRO, MCRD_GRO_ALONE, MCRD_2, REFERENCE, REFERENCE_ALONE),
    *(MULTISHOT, KERNEL, KERNEL_GRO, MCRD_BUSY, MCRD_POLL, XDP, TC, SOCAT, PYTHON),
)
if VARIABLE in os.environ:
    PEERS_ALL += (NAMED,)
LABELS = {peer.name: peer.label for peer in (*PEERS_ALL, NAMED)}
FOREIGN_LABELS = {peer.name: peer.label for peer in (FILTERED, LET_IN)}
