"""What is measured: each cell is a traffic and where it goes."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Method = Literal["segment", "frames"]

PORT = 5000
OUT_PORT = PORT + 1000
OUT_INTERFACES = ("r1", "r2", "r3")
HEADERS = 14 + 20 + 8  # Ethernet, IPv4, UDP
MAX_UDP = 65507


@dataclass(frozen=True)
class Cell:
    """Payload size, flows in, outputs of each flow.

    `offload` is tx-udp-segmentation of the relay's outputs. Without it the kernel makes real
    frames before they leave, as on a network card that cannot. By `segment` up to 64 datagrams of
    a flow come in a row, by `frames` the flows take turns.
    """

    size: int
    flows: int
    outputs: int
    offload: bool = True
    method: Method = "segment"

    @property
    def name(self) -> str:
        """Such as 18B-50x3: 18 bytes, 50 flows, 3 outputs."""
        more = ("" if self.offload else "-nooffload") + (
            "-turns" if self.method == "frames" else ""
        )
        return f"{self.size}B-{self.flows}x{self.outputs}{more}"

    @property
    def mtu(self) -> int:
        """Of all interfaces."""
        return 1500 if self.size + HEADERS - 14 <= 1500 else 9000

    @property
    def burst(self) -> int:
        """The most datagrams that one send of the generator makes."""
        return min(64, MAX_UDP // self.size)

    def routes(self) -> list[Route]:
        """All flows and outputs, the outputs of a flow in a row."""
        return [
            Route(
                group=f"239.1.1.{flow + 1}",
                interface=OUT_INTERFACES[output % len(OUT_INTERFACES)],
                source=f"10.2.{output % len(OUT_INTERFACES) + 1}.1",
                to=f"239.2.{output + 1}.{flow + 1}",
            )
            for flow in range(self.flows)
            for output in range(self.outputs)
        ]


@dataclass(frozen=True)
class Route:
    """From a group on r0 to a group on an output interface."""

    group: str
    interface: str
    source: str
    to: str


CELLS = (
    Cell(18, 1, 1),
    Cell(256, 1, 1),
    Cell(1400, 1, 1),
    Cell(8900, 1, 1),
    Cell(18, 1, 3),
    Cell(1400, 1, 3),
    Cell(18, 50, 1),
    Cell(1400, 50, 1),
    Cell(18, 50, 3),
    Cell(1400, 50, 3),
    Cell(18, 1, 50),
    Cell(1400, 1, 50),
    Cell(18, 1, 1, offload=False),
    Cell(1400, 1, 1, offload=False),
    Cell(1400, 50, 3, method="frames"),
)

QUICK_CELLS = (CELLS[0], CELLS[2], CELLS[8], CELLS[9], CELLS[12])

# Where relays are measured without the host's IP stack as well.
ALONE_CELLS = (CELLS[0], CELLS[2], CELLS[8], CELLS[9])

# Without anything that waits or wakes, and with most traffic foreign.
BACKLOG_CELLS = (CELLS[0], CELLS[2], CELLS[8], CELLS[9])
FOREIGN_CELL = CELLS[6]

# Latency and the highest rate without loss are searched for in these.
DETAILED_CELLS = (CELLS[0], CELLS[2])

# Bursts are counted in these; a receiver stands behind the first.
BURST_CELLS = (CELLS[2], CELLS[9])
