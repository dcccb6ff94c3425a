"""The cases of the sweep that found something, and some by chance."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.faults import sweep
from tests.faults.__main__ import chosen
from tests.faults.world import World
from tests.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

FOUND = (
    "running:io_uring:newfstatat:ENOMEM:1",  # a traceback; a saved file that was never read
    "running:io_uring:newfstatat:ENOMEM:2+",  # a refused file that was not read again
    "running:io_uring:setsockopt:ENODEV:1",  # a filter that let nothing of a new rule in
    "running:io_uring:mmap:ENOMEM:1",  # a thread that never began, and was waited for; open memory
    "running:io_uring:sendmsg:ENOMEM:4",  # a worker that was given up
    "running:io_uring:getdents64:EIO:8",  # a traceback of a worker's interpreter
    "running:io_uring:ioctl:ENODEV:5+",  # connections of clients that stayed open, and memory
    "running:io_uring:close:EINTR:1",  # a saved file that was not read again
)


@pytest.fixture(scope="module")
def runner() -> Iterator[sweep.Runner]:
    """One daemon for all of them: what stays open adds up."""
    with Lab() as lab, sweep.running(World(lab)) as found:
        yield found


@pytest.mark.root
@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_while_it_runs(runner: sweep.Runner, case: str) -> None:
    how = runner.run(sweep.Case(*case.split(":")))
    assert not how.startswith(sweep.NOT_REACHED)


@pytest.mark.long
@pytest.mark.parametrize("phase", sweep.PHASES)
def test_some_by_chance(lab: Lab, phase: str) -> None:
    """The seed is printed; `make faults` takes all."""
    world, seed = World(lab), random.randrange(1_000_000)
    with sweep.running(world) as runner:
        for case in chosen(world, phase, seed)[:30]:
            print(case)
            print(sweep.start(world, case) if phase == sweep.START else runner.run(case))
