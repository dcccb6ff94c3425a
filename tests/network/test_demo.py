"""The demo: it shows what it says, and leaves nothing behind, not even when it is interrupted."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.demo import RATE
from tests.lab import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).parents[2]
SECONDS = 4  # of stream; enough for the edit to fall into it


@contextmanager
def demo() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A running demo in a session of its own, and the directory for its temporary files."""
    # Not tmp_path: the name of a control socket has at most 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="mcrd-demo-") as directory,
        subprocess.Popen(
            [sys.executable, "-m", "tests.demo", "--seconds", str(SECONDS)],
            cwd=REPOSITORY,
            env={**os.environ, "TMPDIR": directory},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        ) as process,
    ):
        try:
            yield process, Path(directory)
        finally:
            process.kill()


def of_session(session: int) -> list[str]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # no process, or gone meanwhile
        if fields[0] not in "ZX" and int(fields[3]) == session:
            found.append(entry.name)
    return found


def nothing_remains(process: subprocess.Popen[str], directory: Path) -> bool:
    wait_for(lambda: not of_session(process.pid), "the end of every process of the demo")
    return list(directory.iterdir()) == []


@pytest.mark.long  # `make demo` does it, too
def test_the_demo_shows_what_it_says() -> None:
    with demo() as (process, directory):
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, ""), output
        assert nothing_remains(process, directory)
    count = RATE * SECONDS
    flawless = "lost 0, duplicated 0, reordered 0, corrupt 0"
    assert f"source  sent {count}\n" in output
    assert f"sink1   received {count}, {flawless}\n" in output
    assert f"sink2   received {count}, {flawless}\n" in output
    late = re.search(rf"sink3   received (\d+), {flawless}\n", output)
    assert late is not None
    assert 0 < int(late[1]) < count
    assert re.search(rf"sent {late[1]} packets, \d+ bytes to r3 10\.4\.0\.2:7000[ \n]", output)
    assert "Network is unreachable" in output
    assert "~ rules.camera: outputs[2] added (r3 10.4.0.2:7000)" in output
    assert f"check of relay's kernel dropped {count:,} packets" in " ".join(output.split())
    assert output.rstrip().endswith("sudo .venv/bin/mcrd --config my.toml")
    too_wide = [line for line in output.splitlines() if len(line) > 90]
    assert too_wide == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals) -> None:
    with demo() as (process, directory):
        assert process.stdout is not None
        for line in process.stdout:
            if "packets have come in so far" in line:
                break
        assert len(of_session(process.pid)) > 8  # five hosts, the daemon, its worker, a receiver
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 128 + number
        assert errors == "\ndemo: interrupted; everything that it started has ended\n"
        assert nothing_remains(process, directory)
