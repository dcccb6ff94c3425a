"""`make mutate` ends in order when it is told to."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.lab import wait_for

if TYPE_CHECKING:
    from pathlib import Path

# A change that takes for ever: a program in a process group of its own, with a file.
RUN = """
import signal, sys
from tests.mutate import __main__ as mutate

for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)  # whoever runs this may ignore some

def change_all(options, directory, programs):
    command = 'echo $$ >"$TMPDIR/pid"; sleep 1000 & wait'
    programs.run("sh", "-c", command, cwd=directory, limit=1000.0, env={})

mutate.change_all = change_all
try:
    mutate.main()
except KeyboardInterrupt:
    sys.exit(130)
"""


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", RUN], env=environment)

    def begun() -> list[int]:
        return [int(file.read_text() or 0) for file in tmp_path.glob("mcrd-mutate-*/tmp/pid")]

    try:
        wait_for(lambda: any(begun()), "a program that runs")
        (group,) = begun()
        process.send_signal(number)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.iterdir()) == []
    wait_for(lambda: not alive(group), "the end of all that it ran")  # init sees them end
