"""The cases of the sweep that found something, and some by chance."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.faults import sweep
from tests.faults.__main__ import chosen
from tests.faults.world import World

if TYPE_CHECKING:
    from tests.lab import Lab

FOUND = (
    "running:io_uring:newfstatat:ENOMEM:1",  # a traceback; a saved file that was never read
    "running:io_uring:newfstatat:ENOMEM:2+",  # a refused file that was not read again
    "running:io_uring:setsockopt:ENODEV:1",  # a filter that let nothing of a new rule in
    "running:io_uring:mmap:ENOMEM:1",  # a thread that never began, for which the loop waited
    "running:io_uring:sendmsg:ENOMEM:4",  # a worker that was given up
    "running:io_uring:getdents64:EIO:8",  # a traceback of a worker's interpreter
)


@pytest.mark.long  # two descriptors more than before, in some runs: not understood yet
def test_what_was_found_while_it_runs(lab: Lab) -> None:
    with sweep.running(World(lab)) as runner:
        for text in FOUND:
            how = runner.run(sweep.Case(*text.split(":")))
            assert not how.startswith(sweep.NOT_REACHED), text


@pytest.mark.long
@pytest.mark.parametrize("phase", sweep.PHASES)
def test_some_by_chance(lab: Lab, phase: str) -> None:
    """The seed is printed; `make faults` takes all."""
    world, seed = World(lab), random.randrange(1_000_000)
    with sweep.running(world) as runner:
        for case in chosen(world, phase, seed)[:30]:
            print(case)
            print(sweep.start(world, case) if phase == sweep.START else runner.run(case))
