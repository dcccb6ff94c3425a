"""The scripts that make roots, boot machines, try a release: what they leave behind, and say.

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
    for script in ("arm64", "as-owner", "kernels", "machine", "mortal", "release"):
        text = (TOP / "scripts" / script).read_text().replace(CACHE, str(tmp_path / "cache"))
        program(tmp_path / "scripts" / script, text)
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


@pytest.mark.parametrize(
    ("script", "arguments", "slow", "half"),
    [
        ("arm64", [], "setup", "cache/arm64.new"),
        ("kernels", ["trixie"], "root", "cache/trixie.new"),
        ("release", ["tests"], "setup", None),
    ],
)
def test_nothing_is_left_behind_by_sigterm(
    checkout: Path, script: str, arguments: list[str], slow: str, half: str | None
) -> None:
    """No process, no root that is half made; and the lock is the script's alone."""
    pid = checkout / "pid"
    says = f"readlink /proc/$$/fd/9; echo $$ >{pid}.new; mv {pid}.new {pid}"
    program(
        checkout / "scripts" / slow,
        (f"mkdir {checkout}/{half}\n" if half else "") + f"bash -c '{says}; sleep 1000; :'",
    )
    with started(checkout, script, *arguments) as process:
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
    assert half is None or not (checkout / half).exists()
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


def test_what_a_machine_without_io_uring_is_told(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sysctl, and of how slow the machine is where somebody said so."""
    program(checkout / "scripts/root", '[ "$1" != make ] || mkdir "$3"')
    program(checkout / "scripts/machine", 'printf "<%s>" "$@"')
    (checkout / "tests").mkdir()
    shutil.copy(TOP / "tests/core", checkout / "tests")
    for slowness, told in (("", ""), ("40", "<MCRD_SLOWNESS=40>")):
        monkeypatch.setenv("MCRD_SLOWNESS", slowness)
        process = started(checkout, "kernels", "no-io_uring")
        output, _ = process.communicate(timeout=GUARD)
        assert process.returncode == 0, output
        assert f"test_kernels.py>{told}<sysctl.kernel.io_uring_disabled=2>" in output


@pytest.mark.skipif(shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None, reason="e2fsprogs")
@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("exit 3", "qemu-system-x86_64 ended with exit code 3"),
        ("exit 124", "the machine came to no end within 5400 s"),
        ("kill -KILL $$", "the machine came to no end within 5400 s"),
        ("exit 0", "the machine ended before the command did"),
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
    assert f"== {said}\n" in output
    assert output.count("==") == 1
    assert not list(checkout.glob("mcrd-machine-*"))


def test_a_stage_of_a_release_that_fails_is_named_and_so_are_its_tests(checkout: Path) -> None:
    """Those of the first run too, of the two that make starts; and the next stage has its turn."""
    program(checkout / "scripts/setup", "")
    said = (
        "FAILED tests/x.py::y - assert 1\\nSKIPPED [1] tests/z.py:1: no device\\nERROR tests/e.py"
    )
    program(
        checkout / "programs/make",
        f'[ "$*" = test-full ] || exit 0\n[ -n "$CI" ] && echo -e "{said}" && seq 20 && exit 1',
    )
    process = started(checkout, "release", "tests", "lint")
    output, _ = process.communicate(timeout=GUARD)
    assert process.returncode == 1, output
    lines = output.splitlines()
    assert lines[0].startswith("FAILED: tests (")
    assert lines[1:11] == [f"    {number}" for number in range(11, 21)]
    assert lines[11:14] == [
        "    failed: tests/x.py::y - assert 1",
        "    not done: [1] tests/z.py:1: no device",
        "    failed: tests/e.py",
    ]
    assert lines[14].startswith("good: lint (")
    assert lines[15:] == ["release: no version can be made: tests"]
