"""Changes an operator of the sources, one at a time, in a copy: `make mutate`.

python -m tests.mutate [--seed N] [--count N] [--language c|python] [--jobs N] [NAME...]

Each language has its COUNT changes, in lines that its quick tests run. NAMEs are parts of the
paths of sources. It ends with status 1 when fewer than 95 % were noticed.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mutate.changes import Change, Result, Spot, Subject, known
from tests.mutate.copies import Copy, Programs, Stopped
from tests.mutate.in_c import DataPlane
from tests.mutate.in_python import Packages

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
WANTED = 0.95  # of the changes that make a difference
SUBJECTS: dict[str, Callable[[Copy, Path, list[str]], Subject]] = {
    "c": DataPlane,
    "python": Packages,
}


def dice(seed: int, spot: Spot) -> random.Random:
    """The dice of one line."""
    return random.Random(f"{seed} {spot}")


class Round:
    """Changes of one language, in an order by the seed, until there are enough."""

    def __init__(self, subject: Subject, seed: int, count: int, ignored: dict[Change, str]) -> None:
        self._subject = subject
        self._seed = seed
        self._count = count
        self._ignored = ignored
        self._lock = threading.Lock()
        # The same ones of a seed, whatever lines tests have come to run since.
        self._spots = sorted(subject.spots(), key=lambda spot: dice(seed, spot).random())
        self.results: list[Result] = []

    def _next(self) -> Spot | None:
        with self._lock:
            enough = len(self.results) >= self._count
            return None if enough or not self._spots else self._spots.pop()

    def work(self, copy: Copy) -> None:
        """Judge one after the other."""
        while (spot := self._next()) is not None:
            began = time.monotonic()
            result = self._subject.judge(copy, spot, dice(self._seed, spot))
            if result is not None:
                self._note(result, time.monotonic() - began)

    def _note(self, result: Result, took: float) -> None:
        how = result.noticed or ("known" if result.change in self._ignored else "NOT NOTICED")
        with self._lock:
            self.results.append(result)
            print(f"{len(self.results)} {result.spot} [{took:.1f} s] {how}", flush=True)
            if how == "NOT NOTICED":
                print(f"- {result.change.before}\n+ {result.change.after}", flush=True)


def tell(language: str, results: list[Result], ignored: dict[Change, str]) -> bool:
    """Say how it went; whether enough of them were noticed."""
    left = [result for result in results if not result.noticed]
    missed = [result for result in left if result.change not in ignored]
    judged = len(results) - len(left) + len(missed)
    share = 1 - len(missed) / judged if judged else 1.0
    print(
        f"\n{language}: {judged - len(missed)} of {judged} noticed ({share:.1%}), "
        f"{len(left) - len(missed)} known to change nothing"
    )
    for result in missed:
        print(f"\n{result.spot}\n{result.change}")
    return share >= WANTED


def stop(_number: int, _frame: FrameType | None) -> None:
    """A signal ends it, and what was made goes; another one does not come between."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def judged(
    language: str,
    options: argparse.Namespace,
    directory: Path,
    copies: list[Copy],
    programs: Programs,
) -> bool:
    """Change sources of one language; whether enough of the changes were noticed."""
    directory.mkdir()
    ignored = known()
    subject = SUBJECTS[language](copies[0], directory, options.names)
    work = Round(subject, options.seed, options.count, ignored)
    with ThreadPoolExecutor(len(copies)) as pool:
        try:
            for done in [pool.submit(work.work, copy) for copy in copies]:
                done.result()
        except BaseException:
            programs.stop()
            raise
    return tell(language, work.results, ignored)


def change_all(options: argparse.Namespace, directory: Path, programs: Programs) -> bool:
    """Change and test all that was asked for; whether enough was noticed."""
    languages = [options.language] if options.language else list(SUBJECTS)
    copies = [Copy(directory / f"copy{n}", programs) for n in range(options.jobs)]
    well = [judged(name, options, directory / name, copies, programs) for name in languages]
    return all(well)


def main() -> int:
    """Change and test; the exit status says whether enough was noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutate")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--language", choices=tuple(SUBJECTS))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    print("seed", options.seed, flush=True)
    with tempfile.TemporaryDirectory(prefix="mcrd-mutate-") as made:
        directory = Path(made)
        temporary = directory / "tmp"
        temporary.mkdir()
        programs = Programs(temporary)
        # A signal interrupts the main thread alone, which only waits; the other one ends in order.
        with ThreadPoolExecutor(1) as pool:
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup(1)
                    signal.signal(number, stop)
            try:
                changes = pool.submit(change_all, options, directory, programs)
                # Python does not see a signal that comes just before it waits, until it waits anew.
                while wait([changes], timeout=1).not_done:
                    pass
                return not changes.result()
            except BaseException:
                programs.stop()
                raise


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, Stopped):
        sys.exit(130)
