"""Processes that die with the lab, and waiting for what they do."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

T = TypeVar("T")

# How many times slower than others this machine is: one that is emulated says so.
SLOWNESS = float(os.environ.get("MCRD_SLOWNESS", "1"))
# Seconds for what takes less than one: a machine may have ten times as much to do as CPUs for it.
PATIENCE = 30.0 * SLOWNESS

# The process groups of all that this Python process ever started in a lab.
_groups: set[int] = set()


class LabError(Exception):
    """The lab could not do what it was asked to."""


class CommandError(LabError):
    """A command ended with another exit code than 0."""

    def __init__(self, where: str, command: Sequence[str], done: subprocess.CompletedProcess[str]):
        super().__init__(
            f"on {where}: {shlex.join(command)}: exit code {done.returncode}\n"
            f"{done.stdout}{done.stderr}".rstrip()
        )
        self.exit_code = done.returncode
        self.stdout = done.stdout
        self.stderr = done.stderr


def wait_for(
    predicate: Callable[[], T | None], what: str, timeout: float = PATIENCE, interval: float = 0.01
) -> T:
    """Asks until the answer is true, and returns it; `what` completes "waited in vain for"."""
    deadline = time.monotonic() + timeout
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}; last seen: {answer!r}")
        time.sleep(interval)


def mortal(command: Sequence[str], namespace: int | None = None) -> list[str]:
    """The command line of a process that dies with its parent, in the namespace of a process."""
    enter = [] if namespace is None else ["nsenter", f"--net=/proc/{namespace}/ns/net"]
    # Of a parent that was gone before, there is no signal.
    unless_gone = ["sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid())]
    return ["setpriv", "--pdeathsig", "KILL", *unless_gone, *enter, *command]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of lab processes: `su` without `-` leaves the sbin directories out."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {**os.environ, "PATH": f"{path}:/usr/sbin:/sbin", **(extra or {})}


def spawn(
    command: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process in a group of its own: Ctrl-C reaches the lab alone, which tidies up."""
    process = subprocess.Popen(
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment(env),
        process_group=0,
    )
    _groups.add(process.pid)
    return process


def terminate(processes: Iterable[subprocess.Popen[bytes]], grace: float = 5.0) -> None:
    """SIGTERM to all, latest first; SIGKILL to what is left after the grace; waits for each."""
    every = list(processes)
    running = [process for process in every if process.poll() is None][::-1]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + grace
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for process in every:  # those that ended by themselves as well
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what it no longer read
                    pipe.close()


def leftovers() -> list[str]:
    """What this Python process ever started in a lab, or what descends from it, and still lives.

    Told by process group and session: workers leave the namespace when they enter their sandbox,
    and the number of a namespace that is gone goes to somebody else's. So does that of a process:
    a group that is empty is forgotten.
    """
    session = os.getsid(0)
    found: list[str] = []
    groups = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # gone meanwhile
        group = int(fields[2])
        groups.add(group)
        if fields[0] not in "ZX" and group in _groups and int(fields[3]) == session:
            found.append(f"{entry.name} {shlex.join(words[:-1])}")
    _groups.intersection_update(groups)
    return found


def crash_at_the_first_write(worker: int, send: Callable[[], object]) -> None:
    """Has a worker take what is sent in one harvest, and crash before anything has left.

    By strace(1), when it writes the first of its runs with the engine "poll".
    """
    os.kill(worker, signal.SIGSTOP)
    send()
    inject = "inject=writev:error=EPERM:signal=SIGSEGV:when=1"
    command = ("strace", "-qqq", "-o", "/dev/null", "-e", "trace=writev", "-e", inject)
    tracer = subprocess.Popen([*command, "-p", str(worker)])
    status = Path(f"/proc/{worker}/status")
    wait_for(lambda: f"TracerPid:\t{tracer.pid}" in status.read_text(), "strace to be there")
    os.kill(worker, signal.SIGCONT)
    tracer.wait()
