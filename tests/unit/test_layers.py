"""The layout: which package may know which, and nothing that nobody uses."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mcrd"
# From the ground up. Each knows those of the lines above its own, and nothing of its neighbours'.
FLOORS = [
    {"bucket", "model", "errors", "events", "files"}
    | {"spent", "sums", "threads", "words", "dataplane"},
    {"addresses", "answers"},
    {"client", "counters", "inspected", "looks", "merged", "tasks", "config", "systemd"},
    {"planning", "convert", "querying", "picture"},
    {"sockets"},
    {"host", "observe"},
    {"lanes", "beside", "traffic"},
    {"doctor", "explain", "daemon"},
    {"web"},
    {"cli"},
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}
# What is run, not imported: by pyproject.toml, setup.py or a worker's command line.
RUN = {
    "cli",
    "cli.mcrd",
    "cli.mcrctl",
    "cli.mcrgen",
    "cli.mcrd_web",
    "dataplane.build",
    "dataplane.worker",
}
RUN |= {"traffic.build"}


def modules() -> dict[str, Path]:
    """All modules by their names, without mcrd itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts:
            found[".".join(parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Modules of mcrd that this one imports, wherever in its text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full.removeprefix("mcrd.") in MODULES else node.module)
    return {name.removeprefix("mcrd.") for name in found if name.startswith("mcrd.")}


def test_every_package_has_its_floor() -> None:
    assert {name.partition(".")[0] for name in MODULES} == FLOOR.keys()


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_down_only(name: str) -> None:
    own = name.partition(".")[0]
    for other in imports(MODULES[name]):
        package = other.partition(".")[0]
        assert package == own or FLOOR[package] < FLOOR[own], f"{name} imports {other}"


def test_no_module_is_without_an_importer() -> None:
    used = {other for name, path in MODULES.items() for other in imports(path) if other != name}
    for name in list(used):  # a package is used with what is in it
        used.add(name.partition(".")[0])
    assert MODULES.keys() - used - RUN == set()
