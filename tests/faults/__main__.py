"""Makes system calls of the daemon fail, one at a time: `make faults`.

python -m tests.faults [--seed N] [--count N] [--phase start|running|spare] [--call NAME]
python -m tests.faults CASE...     runs cases again, as they were printed
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.faults import calls, sweep
from tests.faults.world import World
from tests.lab import Lab

ENGINES = ("io_uring", "poll")


def chosen(world: World, phase: str, seed: int, call: str = "") -> list[sweep.Case]:
    """All cases, in the order of a seed."""
    dice = random.Random(seed)
    found: list[sweep.Case] = []
    if phase in ("", sweep.START):
        before = calls.of_the_interpreter(world)
        for engine in ENGINES:
            found += sweep.cases(sweep.START, engine, before, calls.started(world, engine), dice)
    for running in (sweep.RUNNING, sweep.SPARE):  # these are of the supervisor, and of workers
        if phase in ("", running):
            engine = dice.choice(ENGINES)
            found += sweep.cases(running, engine, {}, calls.worked(world, engine), dice)
    found = [case for case in found if call in ("", case.call)]
    print(f"{len(found)} cases; seed {seed}", flush=True)
    dice.shuffle(found)
    return found


def main() -> int:
    """Run the cases; return how many daemons did what they must not, as an exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--count", type=int)
    parser.add_argument("--phase", default="", choices=("", *sweep.PHASES))
    parser.add_argument("--call", default="")
    options = parser.parse_args()
    bad: list[str] = []
    with Lab() as lab, sweep.running(world := World(lab)) as runner:
        wanted = [sweep.Case(*text.split(":")) for text in options.cases]
        wanted = wanted or chosen(world, options.phase, options.seed, options.call)
        for case in wanted[: options.count]:
            began = time.monotonic()
            try:
                how = sweep.start(world, case) if case.phase == sweep.START else runner.run(case)
            except (sweep.Fault, TimeoutError) as fault:
                bad.append(str(case))
                how = f"FAULT {fault}"
            print(f"{case} [{time.monotonic() - began:.1f} s] {how}", flush=True)
    if bad:
        print("to run them again: python -m tests.faults", *bad)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
