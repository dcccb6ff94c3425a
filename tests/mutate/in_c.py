"""The data plane in C: lines that its quick tests run, and these tests, as small programs."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.dataplane import test_inspect, test_merge, test_switch
from tests.dataplane.test_c import BUILDS, READERS, SUBJECTS
from tests.mutate.changes import Result, Spot, change_between
from tests.mutate.copies import TOOLS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from tests.mutate.copies import Copy

SOURCES, TESTS = "mcrd/dataplane/src", "tests/dataplane/c"
# Other warnings are not of interest here: what they refuse is one more change.
REFUSED = (
    *("implicit-function-declaration", "incompatible-pointer-types", "int-conversion"),
    *("return-type", "uninitialized", "maybe-uninitialized"),
)
COMPILE = (
    "gcc",
    "-std=gnu11",
    *(f"-Werror={name}" for name in REFUSED),
    f"-I{SOURCES}",
    f"-I{TESTS}",
)
CHECKED = ("-g1", *BUILDS["sanitizers"])
COVERED = ("-O0", "--coverage")
# Two of one code are one program: the compiler has seen that nothing differs.
PLAIN = ("-O2", "-g0")

# Tests in Python that build some of the sources themselves.
BUILDERS = {
    "test_dissected.py": ("packet.c",),
    "test_inspect.py": test_inspect.PARTS,
    "test_merge.py": test_merge.PARTS,
    "test_order.py": ("order.c", "waiting.c"),
    "test_switch.py": test_switch.PARTS,
}
BUILDERS_LIMIT = 120.0  # seconds, of some 10


class Program(NamedTuple):
    """A test that is a program."""

    name: str
    sources: tuple[str, ...]
    arguments: tuple[str, ...] = ()

    @property
    def objects(self) -> list[str]:
        """The files that it is made of."""
        return [f"{TESTS}/{self.name}.c", *(f"{SOURCES}/{name}" for name in self.sources)]


# "receive" is not of the data plane. Those that try at random do it less often than elsewhere.
PROGRAMS = {
    program.name: program
    for program in (
        *(Program(f"test_{name}", made) for name, made in SUBJECTS.items() if name != "receive"),
        Program("fuzz_packet", ("packet.c",), ("100000",)),
        Program("fuzz_readers", READERS, ("tests/dataplane/corpus.txt", "20000")),
    )
}


class DataPlane:
    """mcrd/dataplane/src, by the programs of tests/dataplane/c."""

    def __init__(self, copy: Copy, directory: Path, only: list[str]) -> None:
        self._directory = directory
        self._only = only
        self._reads: dict[str, set[str]] = defaultdict(set)
        """By object: the files that code of it is from."""
        self._reached: dict[Spot, set[str]] = defaultdict(set)
        """By line: the programs that run it."""
        self._seconds: dict[str, float] = {}
        self._objects = {name for program in PROGRAMS.values() for name in program.objects}
        began = time.monotonic()
        self._measure(copy)
        print(f"measured in {time.monotonic() - began:.0f} s", flush=True)
        for name in self._objects:
            self._compile(copy, name, CHECKED, self._built(name, "checked"))
            self._compile(copy, name, PLAIN, self._built(name, "plain"))
        for program in PROGRAMS.values():
            began = time.monotonic()
            done = self._run(copy, program, {}, limit=300.0)
            assert done, f"{program.name} fails without any change"
            self._seconds[program.name] = time.monotonic() - began

    def _built(self, name: str, how: str) -> Path:
        made = self._directory / how / f"{name}.o"
        made.parent.mkdir(parents=True, exist_ok=True)
        return made

    def _compile(self, copy: Copy, name: str, flags: tuple[str, ...], into: Path) -> None:
        done = copy.run(*COMPILE, *flags, "-c", name, "-o", into)
        assert done.well, done.output

    def _measure(self, copy: Copy) -> None:
        """Which lines each program runs, by gcov(1)."""
        for name in self._objects:
            self._compile(copy, name, COVERED, self._built(name, "covered"))
        for program in PROGRAMS.values():
            counts = self._directory / "counts" / program.name
            objects = [self._built(name, "covered") for name in program.objects]
            made = self._directory / "covered" / program.name
            done = copy.run("gcc", "--coverage", *objects, "-o", made, "-luring")
            assert done.well, done.output
            copy.run(made, *program.arguments, limit=300.0, env={"GCOV_PREFIX": str(counts)})
            for name, object_ in zip(program.objects, objects, strict=True):
                data = counts / object_.relative_to("/").with_suffix(".gcda")
                if data.exists():
                    os.symlink(object_.with_suffix(".gcno"), data.with_suffix(".gcno"))
                    told = copy.run("gcov", "--json-format", "--stdout", data)
                    self._note(program, name, told.output)

    def _note(self, program: Program, name: str, told: str) -> None:
        for file in json.loads(told)["files"]:
            path = os.path.normpath(file["file"])
            if not path.startswith(SOURCES):
                continue
            self._reads[name].add(path)
            for line in file["lines"]:
                if line["count"]:
                    self._reached[Spot(path, line["line_number"])].add(program.name)

    def spots(self) -> list[Spot]:
        """All lines that a program runs."""
        return sorted(
            spot
            for spot in self._reached
            if not self._only or any(name in spot.path for name in self._only)
        )

    def judge(self, copy: Copy, spot: Spot, dice: random.Random) -> Result | None:
        """Change that line, and run the tests that run it, the quick ones first."""
        old = copy.read(spot.path)
        for new in shuffled(changed_lines(copy, spot), dice):
            with copy.changed(spot.path, new), tempfile.TemporaryDirectory() as made:
                if self._differs(copy, spot, Path(made)):
                    noticed = self._noticed(copy, spot, Path(made))
                    return Result(spot, change_between(spot.path, old, new), noticed)
        return None

    def _differs(self, copy: Copy, spot: Spot, made: Path) -> bool:
        """Whether it can be compiled, and the code is another one."""
        name = spot.path
        if name not in self._objects:  # a header
            name = min(name for name in self._objects if spot.path in self._reads[name])
        done = copy.run(*COMPILE, *PLAIN, "-c", name, "-o", made / "plain.o")
        before = self._built(name, "plain")
        return done.well and (made / "plain.o").read_bytes() != before.read_bytes()

    def _noticed(self, copy: Copy, spot: Spot, made: Path) -> str:
        """The first test that fails."""
        others: dict[str, Path] = {}
        for program in sorted(self._reached[spot], key=self._seconds.__getitem__):
            for name in PROGRAMS[program].objects:
                if name not in others and (name == spot.path or spot.path in self._reads[name]):
                    others[name] = made / f"{len(others)}.o"
                    done = copy.run(*COMPILE, *CHECKED, "-c", name, "-o", others[name])
                    if not done.well:
                        return f"the compiler, of {name}"
            limit = 3 + 10 * self._seconds[program]
            if not self._run(copy, PROGRAMS[program], others, limit):
                return program
        source = Path(spot.path).name
        for test, sources in BUILDERS.items():
            if source in sources:
                arguments = (f"tests/dataplane/{test}", "-m", "not alone")
                if not copy.pytest(*arguments, limit=BUILDERS_LIMIT).well:
                    return test
        return ""

    def _run(self, copy: Copy, program: Program, others: dict[str, Path], limit: float) -> bool:
        objects = [others.get(name) or self._built(name, "checked") for name in program.objects]
        with tempfile.TemporaryDirectory() as directory:
            made = Path(directory) / program.name
            linked = copy.run("gcc", *CHECKED, *objects, "-o", made, "-luring")
            # An inline function that a change has made one of every file's is there twice.
            return linked.well and copy.run(made, *program.arguments, limit=limit).well


def changed_lines(copy: Copy, spot: Spot) -> Iterator[str]:
    """The text of the file, with each change of that line that universalmutator knows."""
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory)
        (made / "lines").write_text(f"{spot.line}\n")
        source = copy.directory / spot.path
        done = copy.run(
            *("env", "-C", made, TOOLS / "mutate", source, "c", "--noCheck"),
            *("--lines", made / "lines", "--mutantDir", made),
        )
        assert done.well, done.output
        for file in sorted(made.glob(f"{source.stem}.mutant.*")):
            yield file.read_text(encoding="utf-8")


def shuffled(texts: Iterator[str], dice: random.Random) -> list[str]:
    """In an order by dice."""
    found = list(texts)
    dice.shuffle(found)
    return found
