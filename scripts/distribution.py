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
    roots: Iterable[Requirement], wheels: Wheels, candidates: Mapping[str, Candidate]
) -> Choice:
    """Of the distribution as much as possible.

    What is carried along asks too. So a version that will not do for it may come to light only when
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
        asked = choice.asked
        # A pre-release is the distribution's to choose; PEP 440 says where it stands.
        unfit = {
            name
            for name in usable & asked.keys()
            if not asked[name].contains(candidates[name].version, prereleases=True)
        }
        if not unfit:
            return choice
        usable -= unfit


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
    """The version that a package of Debian's has of its program; None where that is not certain.

    `~` stands before a pre-release, and `+` before what the distribution did to the sources (Debian
    policy 5.6.12). After `~`, anything else may be older than the number before it, or the same.
    """
    program = re.sub(r"^\d+:|-[^-]*$", "", version)
    program = program.partition("+really")[2] or program
    found = re.match(
        r"(\d+(?:\.\d+)*)(?:[~.+]?((?:a|alpha|b|beta|c|rc|pre|dev|post)\.?\d*)(?![a-z\d]))?(.?)",
        program,
    )
    return Version(found[1] + (found[2] or "")) if found and found[3] in ("", "+", ".") else None


@dataclass(frozen=True)
class Candidate:
    """What apt would install: the version of the program, and what Debian puts before it.

    To dpkg, each version with an epoch, `1:`, is newer than any without (Debian policy 5.6.12).
    """

    version: Version
    epoch: str = ""


def candidate(version: str) -> Candidate | None:
    """That of a package's version; None where the program's is not certain."""
    program = upstream(version)
    epoch = re.match(r"\d+:", version)
    return None if program is None else Candidate(program, epoch[0] if epoch else "")


def candidates(names: Iterable[str]) -> dict[str, Candidate]:
    """Those of all of which the distribution has a package."""
    by_package = {package(name): name for name in names}
    asked = subprocess.run(
        ["apt-cache", "policy", *by_package],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (.*)$", asked.stdout, re.MULTILINE)
    had = {by_package[name]: candidate(version) for name, version in found}
    return {name: one for name, one in had.items() if one is not None}


Bound = tuple[Version, bool]
"""A version, and whether what is meant comes after it and all that equal it."""


def bounds(asked: SpecifierSet, had: Version) -> tuple[Bound | None, Bound | None]:
    """The oldest version that will do, and the one that all that will do are older than (PEP 440).

    Of what `!=` leaves it is the side that the distribution is on. The first development release of
    a version, `.dev0`, comes before its pre-releases.
    """
    least: list[Bound] = []
    below: list[Bound] = []
    for one in asked:
        version = Version(one.version.removesuffix(".*"))
        first, last = (version, False), (version, True)
        start = first if version.is_prerelease else _start(version.release)
        if one.version.endswith(".*"):
            first = start = _start(version.release)
            last = _start(_raised(version.release))
        match one.operator:
            case ">=":
                least.append(first)
            case ">":
                least.append(last)
            case "<":
                below.append(start)
            case "<=":
                below.append(last)
            case "~=":
                least.append(first)
                below.append(_start(_raised(version.release[:-1])))
            case "!=" if had > version:
                least.append(last)
            case "!=":
                below.append(start if had < start[0] else first)
            case _:
                least.append(first)
                below.append(last)
    return max(least, default=None), min(below, default=None)


def _start(release: tuple[int, ...]) -> Bound:
    return Version(".".join(map(str, release)) + ".dev0"), False


def _raised(release: tuple[int, ...]) -> tuple[int, ...]:
    return (*release[:-1], release[-1] + 1)


def spelled(bound: Bound, had: Candidate) -> str:
    """The bound as dpkg compares it with versions that have as many numbers as the one there is.

    To dpkg, 1.2 is older than 1.2.0, and 1.2.0~rc1 is newer than 1.2. The epoch is that of the one
    there is.
    """
    version, after = bound
    release = list(version.release)
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    suffix = ""
    if version.pre is not None:
        suffix = "~{}{}".format(*version.pre) + ("~" if version.is_devrelease else "")
    elif version.is_devrelease:
        return had.epoch + ".".join(map(str, release)) + "~"
    if version.post is not None:
        suffix += f".post{version.post}"
    length = len(had.version.release)
    if after and not suffix:
        length = max(length, 3)  # or 2.0.5 would be before what comes after 2
    release += [0] * (length - len(release))
    return had.epoch + ".".join(map(str, release)) + suffix + (".1~" if after else "")


def depends(taken: Mapping[str, SpecifierSet], candidates: Mapping[str, Candidate]) -> str:
    """The field, with the versions that will do."""
    field_ = []
    for name in sorted(taken):
        had = candidates[name]
        least, below = bounds(taken[name], had.version)
        asked = [(">=", least), ("<<", below)]
        texts = [f"({op} {spelled(one, had)})" for op, one in asked if one is not None]
        field_ += [f"{package(name)} {text}".rstrip() for text in texts or [""]]
    return ", ".join(field_)


def main() -> None:
    """As the docstring of this file says."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    texts = (*project["dependencies"], *project["optional-dependencies"]["web"])
    wheels, paths = read(Path(sys.argv[1]))
    had = candidates(wheels)
    choice = choose(map(Requirement, texts), wheels, had)
    for name in wheels.keys() - choice.carried - {"mcrd"}:
        paths[name].unlink()
    print(depends(choice.taken, had))


if __name__ == "__main__":
    main()
