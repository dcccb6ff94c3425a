"""Chooses what the Debian package of mcrd need not carry along, because the distribution has it.

    scripts/distribution.py WHEELS

Deletes the wheels of the directory that packages of this distribution stand for. Prints those
packages, as the field Depends has them. A package stands for a wheel if it has a version that mcrd
can do with, and all that is carried along. apt has to know what the distribution has.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TOP = Path(__file__).parents[1]
CALLED = {
    "attrs": "python3-attr",
    "cffi": "python3-cffi-backend",  # the rest of it makes extensions
    "python-prctl": "python3-prctl",
    "markdown-it-py": "python3-markdown-it",
}
"""The packages whose name is not python3- and what the package index calls it."""

Wheels = dict[str, list[Requirement]]
"""What each asks for, by its name."""


@dataclass
class Choice:
    """What is carried along, and what the distribution has of it: from which version on."""

    carried: set[str] = field(default_factory=set)
    asked: dict[str, SpecifierSet] = field(default_factory=dict)

    @property
    def taken(self) -> dict[str, SpecifierSet]:
        """What the distribution has, and what is asked of it."""
        return {name: asked for name, asked in self.asked.items() if name not in self.carried}


def package(name: str) -> str:
    """What Debian and Ubuntu call it."""
    return CALLED.get(name, f"python3-{name}")


def choose(
    roots: Iterable[Requirement], wheels: Wheels, candidates: Mapping[str, Version]
) -> Choice:
    """Of the distribution as much as possible.

    What is carried along asks too. So a version that is too old for it may come to light only when
    something else cannot be taken: then all is looked at again.
    """
    roots = list(roots)
    usable = candidates.keys() & wheels.keys()
    while True:
        choice = Choice()
        waiting = list(roots)
        while waiting:
            requirement = waiting.pop()
            name = canonicalize_name(requirement.name)
            known = choice.asked.get(name)
            choice.asked[name] = (known or SpecifierSet()) & requirement.specifier
            if known is None and name not in usable:
                choice.carried.add(name)
                waiting += wheels[name]
        too_old = {n for n in usable & choice.asked.keys() if candidates[n] not in choice.asked[n]}
        if not too_old:
            return choice
        usable -= too_old


def read(directory: Path) -> tuple[Wheels, dict[str, Path]]:
    """What the wheels there ask for on this machine, and their files."""
    wheels: Wheels = {}
    paths: dict[str, Path] = {}
    for path in directory.glob("*.whl"):
        with zipfile.ZipFile(path) as wheel:
            (inside,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
            headers = HeaderParser().parsestr(wheel.read(inside).decode())
        name = canonicalize_name(headers["Name"])
        asks = [Requirement(text) for text in headers.get_all("Requires-Dist", [])]
        wheels[name] = [r for r in asks if r.marker is None or r.marker.evaluate({"extra": ""})]
        paths[name] = path
    return wheels, paths


def upstream(version: str) -> Version | None:
    """The version that a package of Debian's has of its program; None where it is like no other."""
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return Version(found[1]) if found else None


def candidates(names: Iterable[str]) -> dict[str, Version]:
    """The versions that apt would install."""
    by_package = {package(name): name for name in names}
    asked = subprocess.run(
        ["apt-cache", "policy", *by_package],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (.*)$", asked.stdout, re.MULTILINE)
    versions = {by_package[name]: upstream(version) for name, version in found}
    return {name: version for name, version in versions.items() if version is not None}


def depends(taken: Mapping[str, SpecifierSet]) -> str:
    """The field, with the oldest version that will do."""
    field_ = []
    for name in sorted(taken):
        least = [Version(one.version) for one in taken[name] if one.operator in (">=", "~=", "==")]
        field_.append(package(name) + (f" (>= {max(least)})" if least else ""))
    return ", ".join(field_)


def main() -> None:
    """As the docstring of this file says."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    texts = (*project["dependencies"], *project["optional-dependencies"]["web"])
    wheels, paths = read(Path(sys.argv[1]))
    choice = choose(map(Requirement, texts), wheels, candidates(wheels))
    for name in wheels.keys() - choice.carried - {"mcrd"}:
        paths[name].unlink()
    print(depends(choice.taken))


if __name__ == "__main__":
    main()
