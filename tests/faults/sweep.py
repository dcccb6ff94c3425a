"""Each case is a daemon of which one system call fails: at its start, or while it runs."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mcrd.client import ControlError
from tests.faults.calls import ERRORS, NEVER
from tests.faults.world import A, B, World, by_engine
from tests.lab import Mcrd, wait_for
from tests.lab.daemon import console_script
from tests.lab.processes import PATIENCE
from tests.network.test_supervision import WITHOUT_A_SPARE, children, with_a_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# While it runs: a worker that begins is a new process, or the spare one, which is there already.
START, RUNNING, SPARE = PHASES = "start", "running", "spare"
STARTS_WITHIN = 2 * PATIENCE  # seconds
IN_VAIN = 10.0  # seconds after which what is said to have failed may still be tried
# Descriptors: of a client that goes, of what sends reports; of the next worker, which waits.
MORE = {RUNNING: 2, SPARE: 5}
TRIES = 5  # of strace, which ends when one of several processes has
NOT_REACHED = "not reached"  # the call was not made so often: nothing failed
# What wakes asyncio's loop is read again in its next turn.
UNCAUGHT = re.compile(
    r"Traceback|\nException ignored|internal error"
    r"|Exception in callback (?!BaseSelectorEventLoop\._read_from_self)"
)
QUIET = re.compile(r"(\S+ \S+ )?(INFO|DEBUG): ")


class Fault(Exception):  # noqa: N818  # it is the daemon's
    """The daemon did what it must not."""


class Case(NamedTuple):
    """One call fails with one error, in the words of strace(1): `when` is 3, or 3+ for good."""

    phase: str
    engine: str
    call: str
    error: str
    when: str

    def __str__(self) -> str:
        return ":".join(self)

    @property
    def lasting(self) -> bool:
        """Whether it goes on failing."""
        return self.when.endswith("+")

    def options(self, trace: Path) -> tuple[str, ...]:
        """Those of strace, which counts the calls of each thread apart."""
        inject = f"inject={self.call}:error={self.error}:when={self.when}"
        return ("-f", "-qqq", "-o", str(trace), "-e", f"trace={self.call}", "-e", inject)


def cases(
    phase: str,
    engine: str,
    before: Mapping[str, int],
    after: Mapping[str, int],
    dice: random.Random,
) -> Iterator[Case]:
    """All calls that are made `after`, and not only `before`; once and for good."""
    if unknown := after.keys() - ERRORS.keys() - NEVER:
        raise Fault(f"tests/faults/calls.py says nothing of {' '.join(sorted(unknown))}")
    for call, errors in ERRORS.items():
        first, last = before.get(call, 0) + 1, after.get(call, 0)
        if last < first:
            continue
        last = min(last, 8) if phase != START else last
        for error in errors.split():
            if phase != START and error == "EACCES":
                continue  # a permission that comes back is a change of the file
            yield Case(phase, engine, call, error, f"{first}")
            yield Case(phase, engine, call, error, f"{dice.randint(first, last)}")
            # No kernel interrupts a call each time, or fails to close anything.
            if error != "EINTR" and call != "close":
                yield Case(phase, engine, call, error, f"{dice.randint(first, last)}+")


def reached(trace: Path) -> bool:
    """Whether the call failed at all."""
    return "(INJECTED)" in trace.read_text(errors="replace")


def said(daemon: Mcrd) -> list[str]:
    """The lines of the log that are more than news; a traceback is a Fault."""
    log = daemon.log()
    if found := UNCAUGHT.search(log):
        raise Fault(f"{found.group().strip()}:\n{log}")
    return [line for line in log.splitlines() if not QUIET.match(line)]


def ended_well(daemon: Mcrd) -> str:
    """Check what it said at its end."""
    lines = [line for line in said(daemon) if line.startswith("mcrd: ")]
    if daemon.process.returncode != 1 or len(lines) != 1:
        raise Fault(f"ended with {daemon.process.returncode}:\n{daemon.log()}")
    return f"ended: {lines[0]}"


def outcome(daemon: Mcrd) -> str:
    """What became of a start: `active`, `ended`, or `tries`, which it goes on with.

    What fails once does so in each worker.
    """
    began = time.monotonic()

    def found() -> str:
        if daemon.process.poll() is not None:
            return "ended"
        with contextlib.suppress(ControlError):
            status = daemon.status()
            if status["rules"].get("active") == 1 and not status["pending"]:
                return "active"
        if time.monotonic() - began > IN_VAIN and (lines := said(daemon)):
            return "" if lines[-1].startswith("mcrd: ") else "tries"  # else it is about to end
        return ""

    try:
        return wait_for(found, "an end", STARTS_WITHIN, 0.1)
    except TimeoutError:
        return "tries"


def stop(daemon: Mcrd) -> None:
    """End it as an administrator would."""
    try:
        code = daemon.stop(2 * PATIENCE)
    except subprocess.TimeoutExpired:
        daemon.kill()
        raise Fault(f"it does not stop:\n{daemon.log()}") from None
    if code != 0:
        raise Fault(f"stopped, it ended with {code}:\n{daemon.log()}")
    said(daemon)


def start(world: World, case: Case) -> str:
    """It starts and relays; goes on trying, and says so; or ends with a line."""
    trace = world.file("trace")
    program = ("strace", "-D", "--seccomp-bpf", *case.options(trace), console_script("mcrd"))
    daemon = Mcrd(world.relay, by_engine(A, case.engine), (), None, program)
    try:
        how = _started(world, case, daemon)
    except BaseException:
        daemon.kill()  # the next case is not to run beside it
        raise
    if daemon.process.returncode is None:
        stop(daemon)
    return how if reached(trace) else f"{NOT_REACHED}: {how}"


def _started(world: World, case: Case, daemon: Mcrd) -> str:
    how = outcome(daemon)
    if how == "ended":
        return ended_well(daemon)
    if how == "tries":
        lines = said(daemon) or [line for line in ("no log",) if case.call == "write"]
        if not lines:
            raise Fault(f"neither runs nor ends:\n{daemon.log()}")
        return f"tries: {lines[-1]}"
    if case.lasting:
        accounts(world, daemon)
    else:
        flows(world, daemon)
    return how


def flows(world: World, daemon: Mcrd, *groups: str) -> None:
    """All of a stream arrives, for each group."""
    for group in groups or ("239.1.1.1",):
        try:
            world.begins_to_flow(group)
        except TimeoutError as error:
            raise Fault(f"{error}:\n{daemon.log()}") from None
        if lost := world.lost(group):
            raise Fault(f"{lost} packets to {group} lost:\n{daemon.log()}")


def accounts(world: World, daemon: Mcrd) -> None:
    """What does not arrive is in a counter, or a line of the log says what is wrong."""
    lost = world.lost()
    if not lost or said(daemon):
        return
    with contextlib.suppress(ControlError):
        output = daemon.stats()["rules"]["a"]["outputs"][0]
        if sum(output["errors"].values()) >= lost:
            return
    raise Fault(f"{lost} packets lost, and nothing said:\n{daemon.log()}")


class Attached:
    """strace(1) at a daemon that runs, and at its workers: those there are, and new ones."""

    def __init__(self, daemon: Mcrd, case: Case, trace: Path) -> None:
        for _ in range(TRIES):
            pids = [daemon.pid, *children(daemon.pid)]
            at = [word for pid in pids for word in ("-p", str(pid))]
            self._process = subprocess.Popen(("strace", *case.options(trace), *at))
            try:
                wait_for(lambda: self._ended or all(map(_traced, pids)), "strace", interval=0.02)  # noqa: B023
            except TimeoutError:
                self.release()
                raise
            if not self._ended:
                return
        raise TimeoutError("strace ends at once")

    @property
    def _ended(self) -> bool:
        """Whether strace has, as when a process ends before it is there."""
        return self._process.poll() is not None

    def release(self) -> None:
        """Let go: the calls work again."""
        self._process.kill()  # told to end, it may wait for a child that it has stopped itself
        self._process.wait()


def _traced(pid: int) -> bool:
    try:
        texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    except (FileNotFoundError, ProcessLookupError):  # one of its threads has ended: look again
        return False
    return not any("TracerPid:\t0\n" in text for text in texts)


def descriptors(daemon: Mcrd) -> int:
    """How many the supervisor has open."""
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


@contextlib.contextmanager
def running(world: World) -> Iterator[Runner]:
    """For cases while a daemon runs, which is ended with this."""
    runner = Runner(world)
    yield runner
    runner.stop()


class Runner:
    """Cases while a daemon runs; one daemon takes many, as long as nothing is wrong with it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._daemon: Mcrd | None = None
        self._kind = ("", "")  # phase and engine of the daemon
        self._most = 0  # descriptors that it may have

    def stop(self) -> None:
        """End the daemon, if there is one."""
        daemon, self._daemon = self._daemon, None
        if daemon is not None and daemon.process.poll() is None:
            stop(daemon)

    def run(self, case: Case) -> str:
        """It goes on, and all is well when the call works again; or it ends with a line."""
        try:
            return self._run(case)
        except Exception:
            daemon, self._daemon = self._daemon, None
            if daemon is not None and daemon.process.poll() is None:
                daemon.kill()
            raise

    def _run(self, case: Case) -> str:
        if self._daemon is None or self._kind != case[:2]:
            self.stop()
            self._begin(case)
        assert self._daemon is not None
        daemon, world = self._daemon, self._world
        daemon.edit(by_engine(A, case.engine))
        before, mark, trace = self._settled(A), len(daemon.log()), world.file("trace")
        if case.phase == SPARE:
            workers = len(daemon.stats()["workers"])
            wait_for(lambda: len(children(daemon.pid)) > workers, "a spare worker", 5 * PATIENCE)
        attached = Attached(daemon, case, trace)
        try:
            world.happen(daemon, by_engine(A + B, case.engine))
        finally:
            attached.release()
        how = self._judged(case, before, mark)
        return how if reached(trace) else f"{NOT_REACHED}: {how}"

    def _begin(self, case: Case) -> None:
        program = with_a_fault(WITHOUT_A_SPARE) if case.phase == RUNNING else ()
        rules = by_engine(A, case.engine)
        self._daemon = self._world.lab.mcrd(self._world.relay, rules, program=program)
        self._kind = case[:2]
        flows(self._world, self._daemon)
        self._most = self._settled(A) + MORE[case.phase]

    def _judged(self, case: Case, before: int, mark: int) -> str:
        """What became of it, which had so many descriptors and so long a log."""
        daemon, world = self._daemon, self._world
        assert daemon is not None
        if daemon.process.poll() is not None:
            self._daemon = None
            return ended_well(daemon)
        said(daemon)
        self._settled(A + B)  # what was saved meanwhile, too
        flows(world, daemon, "239.1.1.1", "239.1.1.2")
        daemon.edit(by_engine(A, case.engine))
        after = self._settled(A, self._most if case.call != "close" else 0)
        said(daemon)
        if case.call == "close":  # what was not closed is open for good
            self._most += max(0, after - before)
        lines = [line for line in daemon.log()[mark:].splitlines() if not QUIET.match(line)]
        return f"goes on ({after - before:+d}): {lines[0] if lines else ''}"

    def _settled(self, rules: str, most: int = 0) -> int:
        """Wait until the daemon has this file, and at most so many descriptors; return them."""
        daemon = self._daemon
        assert daemon is not None
        names = set(re.findall(r"^\[rules\.(\w+)\]", rules, re.MULTILINE))
        seen = ""

        def settled() -> bool:
            nonlocal seen
            if daemon.process.poll() is not None:
                raise Fault(f"it ended with {daemon.process.returncode}:\n{daemon.log()}")
            with contextlib.suppress(ControlError):
                status, now = daemon.status(), daemon.rules()
                seen = f"{status} {now}"
                return (
                    now.keys() == names
                    and all(entry["state"] == "active" for entry in now.values())
                    and not status["pending"]
                    and (not most or descriptors(daemon) <= most)
                )
            return False

        try:
            wait_for(settled, f"{names}", 3 * PATIENCE, 0.05)
        except TimeoutError:
            count = f"{descriptors(daemon)} descriptors, {most} before"
            raise Fault(f"it does not recover: {count}: {seen}\n{daemon.log()}") from None
        return descriptors(daemon)
