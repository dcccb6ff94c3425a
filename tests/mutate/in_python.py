"""Planner, rule file and querier in Python: lines that unit tests run, and these tests."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
import json
import re
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mutate.changes import Result, Spot, change_between
from tests.mutate.copies import PYTEST, TOOLS

if TYPE_CHECKING:
    import random

    from tests.mutate.copies import Copy

PACKAGES = ("mcrd/config", "mcrd/planning", "mcrd/querying")
NAMED = re.compile("|".join(package.replace("/", r"\.") for package in PACKAGES))
SETTINGS = f"""
[cosmic-ray]
module-path = {list(PACKAGES)!r}
timeout = 10.0
test-command = "true"
"""
COVERAGE = f"""
[run]
dynamic_context = test_function
source = {",".join(PACKAGES)}
"""
FEW = 40  # tests of a line that are run before all others: those that run few lines
LIMIT, LIMIT_ALL = 120.0, 1800.0  # seconds, of some five and a hundred
FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/unit/\S+)", re.MULTILINE)
FAILING = 5  # more of them are no accident


class Packages:
    """PACKAGES, by the files of tests/unit that name one."""

    def __init__(self, copy: Copy, directory: Path, only: list[str]) -> None:
        self._only = only
        self._ways: dict[Spot, list[tuple[str, int]]] = defaultdict(list)
        """By line: operators of cosmic-ray, and which place in the file each is for."""
        self._reached: dict[Spot, list[str]] = {}
        """By line: the tests that run it."""
        self._list(copy, directory)
        self._measure(copy, directory)

    def _list(self, copy: Copy, directory: Path) -> None:
        settings, session = directory / "cosmic-ray.toml", directory / "session"
        settings.write_text(SETTINGS)
        done = copy.run(TOOLS / "cosmic-ray", "init", settings, session, limit=300.0)
        assert done.well, done.output
        with closing(sqlite3.connect(session)) as database:
            found = database.execute(
                "select module_path, start_pos_row, operator_name, occurrence from mutation_specs"
            )
            for path, line, operator, occurrence in found:
                self._ways[Spot(path, line)].append((operator, occurrence))

    def _measure(self, copy: Copy, directory: Path) -> None:
        """Which tests run each line."""
        tests = [
            str(file.relative_to(copy.directory))
            for file in sorted(copy.directory.glob("tests/unit/test_*.py"))
            if NAMED.search(file.read_text(encoding="utf-8"))
        ]
        settings, told = directory / "coverage", directory / "coverage.json"
        settings.write_text(COVERAGE)
        # By itself: a requirement beside it hides a module of Python's own.
        (package,) = TOOLS.parent.glob("lib/python3*/site-packages/coverage")
        beside = directory / "tools"
        beside.mkdir()
        (beside / "coverage").symlink_to(package)
        more = {"PYTHONPATH": str(beside), "COVERAGE_FILE": str(directory / "covered")}
        cover = ("-m", "coverage")
        done = copy.python(
            *(*cover, "run", f"--rcfile={settings}", *PYTEST, *tests), limit=LIMIT_ALL, env=more
        )
        # What fails without any change says nothing of one: a machine was busy.
        failing = {found[1].partition("[")[0] for found in FAILED.finditer(done.output)}
        assert done.well or 0 < len(failing) <= FAILING, done.output
        for test in sorted(failing):
            print("left out, as it fails without any change:", test, flush=True)
        done = copy.python(*(*cover, "json", "--show-contexts", "-o", str(told)), env=more)
        assert done.well, done.output
        files = json.loads(told.read_text())["files"]
        ran = Counter(
            test for file in files.values() for tests in file["contexts"].values() for test in tests
        )
        for path, file in files.items():
            every = {test for tests in file["contexts"].values() for test in tests if is_test(test)}
            for line, tests in file["contexts"].items():
                # What runs as the module is imported is there for all of them.
                here = {test for test in tests if is_test(test)} or every
                in_order = sorted(here, key=lambda test: (ran[test], test))
                found = [name for test in in_order if (name := named(test)) not in failing]
                if found:
                    self._reached[Spot(path, int(line))] = found

    def spots(self) -> list[Spot]:
        """All lines that a test runs, and in which something can be changed."""
        return sorted(
            spot
            for spot in self._reached.keys() & self._ways.keys()
            if not self._only or any(name in spot.path for name in self._only)
        )

    def judge(self, copy: Copy, spot: Spot, dice: random.Random) -> Result | None:
        """Change that line, and run the tests that run it."""
        old = copy.read(spot.path)
        for operator, occurrence in dice.sample(self._ways[spot], len(self._ways[spot])):
            apply = (TOOLS / "cosmic-ray", "apply", spot.path, operator, str(occurrence))
            with copy.changed(spot.path, old):
                done = copy.run(*apply)
                assert done.well, done.output
                new = copy.read(spot.path)
                if differs(old, new):
                    change = change_between(spot.path, old, new)
                    return Result(spot, change, self._noticed(copy, spot))
        return None

    def _noticed(self, copy: Copy, spot: Spot) -> str:
        """The tests that fail: the first one, or the file when it cannot be told."""
        reached = self._reached[spot]
        for tests in (reached[:FEW], reached[FEW:]):
            if not tests:
                continue
            done = copy.pytest(*tests, limit=LIMIT)
            if not done.well:
                failed = FAILED.search(done.output)
                return failed[1] if failed else "the end of time" if done.status is None else "all"
        return ""


def is_test(context: str) -> bool:
    """Whether pytest knows it: hypothesis has functions of its own that are called like tests."""
    return context.startswith("tests.unit.test_")


def named(context: str) -> str:
    """The test as pytest calls it: `tests.unit.test_plan.test_x` is of a file."""
    _, _, module, *function = context.split(".")
    return f"tests/unit/{module}.py::{'::'.join(function)}"


class _WithoutTypes(ast.NodeTransformer):
    """Leaves out what is there for a type checker, and what tells people."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def differs(old: str, new: str) -> bool:
    """Whether anything but types is another one, and it is Python: a pattern is no expression."""
    try:
        first, second = (ast.dump(_WithoutTypes().visit(ast.parse(text))) for text in (old, new))
    except SyntaxError:
        return False
    return first != second
