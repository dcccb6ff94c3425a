"""Half an hour of traffic while all changes that may: `make soak`.

python -m tests.soak [--minutes N] [--seed N] [--chart FILE]
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from tests.lab import Lab
from tests.soak.watch import Watch, look
from tests.soak.world import World


def main() -> int:
    """Return 1 when something grew, or was lost without a reason."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--chart", type=Path, help="an SVG of what was held, by time")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    dice, watch = random.Random(options.seed), Watch()
    with Lab() as lab:
        world = World(lab, dice)
        began, events, rounds = time.monotonic(), 0, 0
        while time.monotonic() - began < 60 * options.minutes:
            for happening in world.happenings():
                happening()
                world.flows()
                events += 1
            rounds += 1
            watch.add(time.monotonic() - began, look(world.third, world.daemon.pid, "third host"))
            print(f"{time.monotonic() - began:5.0f} s: {events} events", flush=True)
        faults = world.end()
    print(*watch.table(), sep="\n")
    if options.chart:
        options.chart.write_text(watch.chart())
    faults += watch.growing()
    print(*faults, f"{rounds} rounds, {events} events, {len(faults)} faults", sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
