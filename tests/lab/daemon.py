"""A running mcrd, driven as an administrator would: rule file, signals, mcrctl."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcrd.client import ControlError, ask
from tests.lab import sanitized
from tests.lab.processes import PATIENCE, CommandError, LabError, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.lab.network import Host

ANSWER_TIMEOUT = PATIENCE


def console_script(name: str) -> str:
    """The program as installed next to this Python; not resolved, or a venv would be left."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise LabError(f"{path} is missing: run `make setup`")
    return str(path)


def with_engine(rules: str) -> str:
    """The rule file with the engine that MCRD_TEST_ENGINE names, unless it names one itself."""
    engine = os.environ.get("MCRD_TEST_ENGINE")
    if not engine or re.search(r"^engine = ", rules, re.MULTILINE):
        return rules
    line = f'engine = "{engine}"'
    if "[daemon]" in rules:
        return rules.replace("[daemon]", f"[daemon]\n{line}", 1)
    return f"{rules}\n[daemon]\n{line}\n"


class Mcrd:
    """A daemon on a host. Made by `Lab.mcrd`."""

    def __init__(
        self,
        host: Host,
        rules: str,
        options: Sequence[str],
        env: Mapping[str, str] | None,
        program: Sequence[str] = (),
        owner: int = 0,
    ) -> None:
        self.host = host
        self.directory = host.lab.file("mcrd")
        self.directory.mkdir()
        self.config = self.directory / "mcr.toml"
        self.control = self.directory / "control.sock"
        self._log = self.directory / "log"
        self._again: subprocess.Popen[bytes] | None = None
        self.edit(rules)
        if owner:
            host.lab.directory.chmod(0o711)
            os.chown(self.directory, owner, owner)
        with self._log.open("ab") as log:
            self.process = host.start(
                *sanitized.command(),
                *(program or (console_script("mcrd"),)),
                *("--config", str(self.config), "--control", str(self.control)),
                *options,
                stdout=log,
                stderr=log,
                env=env,
            )

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self.process.pid

    def log(self) -> str:
        """All that it wrote to stdout and stderr."""
        return self._log.read_text(errors="replace")

    def edit(self, rules: str) -> None:
        """Saves the rule file as editors do: a new file, renamed over the old one."""
        new = self.config.with_suffix(".new")
        new.write_text(with_engine(rules))
        os.replace(new, self.config)

    def ctl(
        self, *arguments: str, check: bool = True, timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """Runs mcrctl against this daemon, on its host."""
        command = (console_script("mcrctl"), "--control", str(self.control), *arguments)
        done = self.host.call(*command, timeout=timeout)
        if check and done.returncode != 0:
            raise CommandError(self.host.name, command, done)
        return done

    def ctl_again(self, *arguments: str) -> tuple[int, str, str]:
        """As ctl(), without a new process each time: status, stdout and stderr."""
        if self._again is None:
            command = (sys.executable, "-m", "tests.lab.again")
            self._again = self.host.start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._again.stdin is not None
        assert self._again.stdout is not None
        line = json.dumps(["--control", str(self.control), *arguments])
        with contextlib.suppress(BrokenPipeError):
            self._again.stdin.write(line.encode() + b"\n")
            self._again.stdin.flush()
        if not select.select([self._again.stdout], [], [], ANSWER_TIMEOUT)[0]:
            raise TimeoutError(f"mcrctl {shlex.join(arguments)}: no end in {ANSWER_TIMEOUT:g} s")
        answer = self._again.stdout.readline()
        if not answer:
            raise LabError(f"what runs mcrctl has ended with {self._again.wait(10)}")
        status, out, error = json.loads(answer)
        return status, out, error

    def status(self) -> dict[str, Any]:
        """What `mcrctl status --json` prints."""
        return self._ask("status")

    def stats(self) -> dict[str, Any]:
        """What `mcrctl stats --json` prints."""
        return self._ask("stats")

    def rules(self) -> dict[str, Any]:
        """What `mcrctl rules --json` prints: each rule by its name."""
        found: dict[str, Any] = self._ask("rules")["rules"]
        return found

    def _ask(self, command: str) -> dict[str, Any]:
        """As mcrctl asks, without a process for each of the many times that a test asks."""
        answer: dict[str, Any] = ask(self.control, command, ANSWER_TIMEOUT)
        return answer

    def wait_until_it_answers(self, ready: bool = True, timeout: float = 2 * PATIENCE) -> None:
        """Until mcrctl gets an answer; with `ready`, until no plan is pending as well."""

        def answers() -> bool:
            if self.process.poll() is not None:
                raise LabError(f"mcrd ended with {self.process.returncode}:\n{self.log()}")
            try:
                return not (self.status()["pending"] and ready)
            except ControlError:
                return False

        try:
            wait_for(answers, "mcrd to be ready", timeout)
        except TimeoutError as error:
            raise LabError(f"{error}; its log:\n{self.log()}") from error

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[list[int]]:
        """None of its workers, whose pids these are, takes a packet meanwhile.

        Nor does the supervisor run: it would replace them after a second.
        """
        workers = [worker["pid"] for worker in self.stats()["workers"]]
        stopped: list[int] = []
        try:
            for pid in (self.pid, *workers):
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
            yield workers
        finally:
            for pid in reversed(stopped):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Sends the supervisor a signal."""
        self.process.send_signal(number)

    def cpu_seconds(self) -> float:
        """CPU time of the supervisor and its workers, as the scheduler counts it."""
        pids = [self.pid, *(worker["pid"] for worker in self.stats()["workers"])]
        texts = [Path(f"/proc/{pid}/schedstat").read_text() for pid in pids]
        return sum(int(text.split()[0]) for text in texts) / 1e9

    def stop(self, timeout: float = PATIENCE) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer would."""
        self.process.kill()
        self.process.wait()
