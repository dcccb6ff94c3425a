"""mcrctl as a command: where its answer goes, and how it ends."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.lab import wait_for

if TYPE_CHECKING:
    from pathlib import Path

RULE = """[rules.a]
input = { interface = "nowhere0", address = "239.1.1.1", port = 5000 }
outputs = [{ interface = "nowhere1", address = "10.0.0.1", port = 5000 }]
"""
MCRCTL = (sys.executable, "-m", "mcrd.cli.mcrctl")


@pytest.mark.parametrize(
    ("where", "status", "error"),
    [
        ("", 0, ""),
        (">&-", 0, ""),
        ("| true", 0, ""),
        (">/dev/full", 1, "cannot write: No space left on device\n"),
    ],
)
@pytest.mark.parametrize("command", ["check {}", "explain a --config {} || [ $? = 1 ]"])
def test_where_the_answer_goes(
    tmp_path: Path, command: str, where: str, status: int, error: str
) -> None:
    path = tmp_path / "mcr.toml"
    path.write_text(RULE)
    program = f"{' '.join(MCRCTL)} {command.format(path)}"
    if "||" in program:
        status = 0  # it says no, however that is written
    script = f"set -o pipefail; {{ {program}; }} {where}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (status, error)


def test_one_who_interrupts_it_gets_no_answer(tmp_path: Path) -> None:
    """Least of all the 0 that says that all is well."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(tmp_path / "control.sock"))
        sock.listen()
        # A job in the background of a shell, as a whole test run may be, ignores SIGINT.
        whole = ("env", "--default-signal=INT", *MCRCTL)
        command = (*whole, "--control", str(tmp_path / "control.sock"), "explain", "a")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            client, _ = sock.accept()
            with client:
                assert b"status" in client.recv(4096)  # it waits for the answer
                wait_for(lambda: _sleeps(process.pid), "it to wait")
                process.send_signal(signal.SIGINT)
                out, error = process.communicate(timeout=30)
    assert (process.returncode, out, error) == (130, b"", b"")


def _sleeps(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"
