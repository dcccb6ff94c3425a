"""The scripts that make roots and boot machines: what they leave behind, and what they say.

Each runs in a directory of its own, with other programs in the place of those that take long.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab import wait_for

TOP = Path(__file__).parents[2]
CACHE = "/var/cache/mcrd-kernels"
GUARD = 60
"""Seconds for what takes less than one."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Has the scripts, with a cache of roots beside them; and says that this is root."""
    for directory in ("scripts", "cache", "programs"):
        (tmp_path / directory).mkdir()
    for script in ("arm64", "kernels", "machine", "mortal"):
        text = (TOP / "scripts" / script).read_text().replace(CACHE, str(tmp_path / "cache"))
        (tmp_path / "scripts" / script).write_text(text)
    program(tmp_path / "programs/id", "echo 0")
    return tmp_path


def program(path: Path, commands: str) -> None:
    """Writes a shell script."""
    path.write_text(f"#!/bin/bash\n{commands}\n")
    path.chmod(0o755)


def started(checkout: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    path = f"{checkout}/programs:{os.environ['PATH']}:/usr/sbin:/sbin"
    return subprocess.Popen(
        ["bash", checkout / "scripts" / script, *arguments],
        env={**os.environ, "PATH": path, "TMPDIR": str(checkout)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def alive(pid: int) -> bool:
    """Whether it runs: who adopts what is left behind may not wait for it (a zombie)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(") ")[2][0] != "Z"


@pytest.mark.parametrize(("script", "slow"), [("arm64", "setup"), ("kernels", "root")])
def test_nothing_is_left_behind_by_sigterm(checkout: Path, script: str, slow: str) -> None:
    """No process, no root that is half made; and the lock is the script's alone."""
    half = checkout / "cache" / ("arm64.new" if script == "arm64" else "trixie.new")
    pid = checkout / "pid"
    program(
        checkout / "scripts" / slow,
        f"mkdir -p {half}\n"
        f"bash -c 'readlink /proc/$$/fd/9; echo $$ >{pid}.new; mv {pid}.new {pid}; sleep 1000; :'",
    )
    with started(checkout, script, *([] if script == "arm64" else ["trixie"])) as process:
        wait_for(pid.exists, "the process")
        below = int(pid.read_text())
        process.send_signal(signal.SIGTERM)
        process.wait(GUARD)
        left = alive(below)
        if left:
            os.killpg(os.getpgid(below), signal.SIGKILL)
        assert process.stdout is not None
        output = process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert not left
    assert not half.exists()
    assert "lock" not in output


def test_a_root_that_cannot_be_made_leaves_nothing(checkout: Path) -> None:
    """Nor does one that cannot be moved to its place, and no machine boots what is not there."""
    program(
        checkout / "scripts/root",
        '[ "$1" = make ] || exit 7; mkdir "$3"; [ "$2" = trixie ] || exit 1; '
        f"touch {checkout}/cache/trixie",
    )
    process = started(checkout, "kernels", "bookworm", "trixie")
    output, _ = process.communicate(timeout=GUARD)
    assert process.returncode == 1
    assert "failed on: bookworm trixie" in output
    assert "== tests" not in output
    assert {path.name for path in (checkout / "cache").iterdir()} == {"lock", "trixie"}


@pytest.mark.skipif(shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None, reason="e2fsprogs")
@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("exit 3", "qemu-system-x86_64 ended with exit code 3"),
        ("exit 124", "came to no end within 5400 s"),
        ("kill -KILL $$", "came to no end within 5400 s"),
        ("exit 0", ""),
    ],
)
def test_how_a_machine_ended(checkout: Path, ends: str, said: str) -> None:
    """Only a machine that the limit ended is called one that was too slow."""
    program(checkout / "programs/qemu-system-x86_64", ends)
    (checkout / "root/boot").mkdir(parents=True)
    (checkout / "root/boot/vmlinuz-1").touch()
    process = started(checkout, "machine", str(checkout / "root"), "true")
    output, _ = process.communicate(timeout=GUARD)
    assert process.returncode == 1  # its disk has no exit code of the command
    assert said in output
    assert ("==" in output) == bool(said)
    assert not list(checkout.glob("mcrd-machine-*"))
