"""Copies of the checkout, in which sources are changed and tests run: the checkout never is."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHECKOUT = Path(__file__).parents[2]
TOOLS = CHECKOUT / "build" / "mutate" / "bin"
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
MEMORY = 16 << 30  # bytes of address space: a change may make a list that grows for ever


NOTHING: Mapping[str, str] = {}


class Stopped(Exception):  # noqa: N818  # it is no error
    """Nothing is run any more."""


class Done(NamedTuple):
    """How a program ended."""

    status: int | None  # None: its time was over
    output: str

    @property
    def well(self) -> bool:
        """Whether it ended with 0."""
        return self.status == 0


class Programs:
    """Runs programs, each in a process group of its own; ends them all.

    What they leave for a while is in `directory`, whose end is the caller's business.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, *command: str | Path, cwd: Path, limit: float, env: Mapping[str, str]) -> Done:
        """Run it for `limit` seconds at most, with `env` besides ours.

        Raises Stopped.
        """
        with self._lock:
            if self._stopped:
                raise Stopped
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **self._common(), **env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        try:
            output, _ = process.communicate(timeout=limit)
            status = None if self._stopped else process.returncode
        except subprocess.TimeoutExpired:
            _kill(process)
            output, _ = process.communicate()
            status = None
        except BaseException:
            _kill(process)
            process.wait()
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        if self._stopped:
            raise Stopped
        return Done(status, output)

    def _common(self) -> dict[str, str]:
        return {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self._directory)}

    def stop(self) -> None:
        """End all, and start none any more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class Copy:
    """One copy, with an interpreter of its own that finds mcrd there."""

    def __init__(self, directory: Path, programs: Programs) -> None:
        self.directory = directory
        self._programs = programs
        subprocess.run([CHECKOUT / "scripts" / "copy-source", directory], check=True)
        for built in CHECKOUT.glob("mcrd/*/*.so"):
            shutil.copy2(built, directory / built.relative_to(CHECKOUT))
        self._make_venv()
        # By their contents: a change may leave size and second of the file as they were.
        compiled = self.python("-m", "compileall", "-q", "--invalidation-mode=checked-hash", "mcrd")
        assert compiled.well, compiled.output

    def _make_venv(self) -> None:
        """A venv whose modules are those of the checkout, but for mcrd, which a worker imports."""
        ours = self.directory / ".venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", ours], check=True)
        (site,) = (ours / "lib").glob("python3*/site-packages")
        theirs = CHECKOUT / ".venv" / site.relative_to(ours)
        (site / "mutate.pth").write_text(f"{self.directory}\n{theirs}\n")
        for program in (CHECKOUT / ".venv" / "bin").iterdir():
            made = ours / "bin" / program.name
            if made.exists():
                continue
            if program.name.startswith("mcr"):
                _, _, rest = program.read_text().partition("\n")
                made.write_text(f"#!{ours}/bin/python\n{rest}")
                made.chmod(0o755)
            else:
                made.symlink_to(program)

    def read(self, path: str) -> str:
        """The text of a file."""
        return (self.directory / path).read_text(encoding="utf-8")

    @contextlib.contextmanager
    def changed(self, path: str, text: str) -> Iterator[None]:
        """The file has another text meanwhile."""
        before, file = self.read(path), self.directory / path
        file.write_text(text, encoding="utf-8")
        try:
            yield
        finally:
            file.write_text(before, encoding="utf-8")

    def run(
        self, *command: str | Path, limit: float = 60.0, env: Mapping[str, str] = NOTHING
    ) -> Done:
        """Run a program at the top of the copy."""
        return self._programs.run(*command, cwd=self.directory, limit=limit, env=env)

    def python(
        self, *arguments: str, limit: float = 60.0, env: Mapping[str, str] = NOTHING
    ) -> Done:
        """Run the copy's interpreter."""
        interpreter = self.directory / ".venv" / "bin" / "python"
        return self.run("prlimit", f"--as={MEMORY}", interpreter, *arguments, limit=limit, env=env)

    def pytest(self, *arguments: str, limit: float) -> Done:
        """Run tests until one fails."""
        return self.python(*PYTEST, "-x", *arguments, limit=limit)
