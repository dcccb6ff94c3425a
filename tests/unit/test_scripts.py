"""What goes into packages: a time, a bill of materials, what the distribution has not."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from scripts.distribution import Candidate, candidate, choose, depends, upstream

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).parents[2]
COMMITTED, CHANGED = 1_700_000_000, 1_600_000_000
NOBODY = 65534


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A repository with a commit, and the script; where each user may look."""
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        top.chmod(0o755)
        (top / "scripts").mkdir()
        for script in ("epoch", "as-owner"):
            shutil.copy(TOP / "scripts" / script, top / "scripts")
        (top / "CHANGELOG.md").touch()
        os.utime(top / "CHANGELOG.md", (CHANGED, CHANGED))
        date = f"{COMMITTED} +0000"
        names = {
            f"GIT_{who}_{what}": "x"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        env = {**os.environ, **names, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        for command in ("init --quiet", "add .", "commit --quiet --message x"):
            subprocess.run(["git", *command.split()], cwd=top, env=env, check=True)
        yield top


def epoch(checkout: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs the script."""
    env = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    return subprocess.run(
        [checkout / "scripts/epoch"], env=env | more, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_time_of_a_package(checkout: Path) -> None:
    """Of a checkout of somebody else's too, and never silently another one."""
    assert epoch(checkout).stdout == f"{COMMITTED}\n"
    assert epoch(checkout, SOURCE_DATE_EPOCH="17").stdout == "17\n"
    if os.geteuid() == 0:
        for path in (checkout, *checkout.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        assert epoch(checkout).stdout == f"{COMMITTED}\n"
    (checkout / ".git/HEAD").unlink()
    broken = epoch(checkout)
    assert (broken.returncode, broken.stdout) == (1, "")
    assert "SOURCE_DATE_EPOCH" in broken.stderr
    shutil.rmtree(checkout / ".git")
    assert epoch(checkout).stdout == f"{CHANGED}\n"


def test_the_bill_has_what_nobody_wrote_a_licence_for(tmp_path: Path) -> None:
    """As `make install` meets it; scripts/deb refuses such a package."""
    for name in ("mcrd", "sdnotify", "strange"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        written = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        (tmp_path / f"{name}-1.0.dist-info/METADATA").write_text(written)
    (tmp_path / "status").mkdir()
    (tmp_path / "status/x").write_text("Package: x\nVersion: 1+2\nArchitecture: all\n")
    command = [sys.executable, "scripts/bom.py", str(tmp_path), str(tmp_path / "status")]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parts: dict[str, Any] = {one["name"]: one for one in json.loads(done.stdout)["components"]}
    assert parts["sdnotify"]["licenses"] == [{"expression": "MIT"}]
    assert "licenses" not in parts["strange"]
    system = platform.freedesktop_os_release()["ID"]
    assert parts["x"]["purl"] == f"pkg:deb/{system}/x@1%2B2?arch=all"


def test_what_the_distribution_has_is_not_carried_along() -> None:
    """Only where it is new enough for all that is carried, and with what it then needs itself."""
    roots = [Requirement(text) for text in ("page>=3", "small>=1.2", "new>=7", "plain")]
    wheels = {
        name: [Requirement(text) for text in asked]
        for name, asked in {
            "page": ["part>=2", "small<9"],
            "part": ["deep"],
            "small": [],
            "new": ["shared>=5"],
            "plain": ["shared"],
            "shared": [],
            "deep": [],
        }.items()
    }
    had = {"page": "3.1", "part": "1", "small": "1.10", "new": "6.9", "shared": "4", "plain": "1"}
    candidates = {name: Candidate(Version(version)) for name, version in had.items()}
    choice = choose(roots, wheels, candidates)
    # `shared` is old enough only for `plain`; `part` is the business of the distribution's `page`.
    assert choice.carried == {"new", "shared"}
    assert depends(choice.taken, candidates) == (
        "python3-page (>= 3.0), python3-plain, python3-small (>= 1.2)"
    )
    del candidates["page"]
    choice = choose(roots, wheels, candidates)
    assert choice.carried == {"new", "shared", "page", "part", "deep"}
    assert depends(choice.taken, candidates) == (
        "python3-plain, python3-small (>= 1.2), python3-small (<< 9~)"
    )
    assert choose(roots, wheels, {}).carried == set(wheels)


@pytest.mark.parametrize(
    ("version", "program"),
    [
        ("1:2.7.0-1", "2.7.0"),
        ("0.19.0-1+b2", "0.19.0"),
        ("3.11.16-1~deb13u1", "3.11.16"),
        ("2025.1+dfsg-1", "2025.1"),
        ("3.0.1", "3.0.1"),
        ("2.1~rc1-3", "2.1rc1"),
        ("2.1~beta.2+ds-1", "2.1b2"),
        ("2.1.0b1-1", "2.1b1"),
        ("2024.1.post1-1", "2024.1.post1"),
        ("2.0+really1.9.3-1", "1.9.3"),
        ("1.2~git20240101-1", None),
        ("1.2~dfsg-1", None),
        ("1.2~rc1~dfsg-1", None),
        ("1.2p3-1", None),
        ("(none)", None),
    ],
)
def test_versions_of_packages(version: str, program: str | None) -> None:
    assert upstream(version) == (program and Version(program))


def test_a_pre_release_and_a_version_that_is_too_new() -> None:
    roots = [Requirement(text) for text in ("early>=2.0", "ready>=1.9", "next<2", "not!=1.5")]
    wheels: dict[str, list[Requirement]] = {name: [] for name in ("early", "ready", "next", "not")}
    had = {"early": "2.0rc1", "ready": "2.0rc1", "next": "2.0", "not": "1.5.0"}
    candidates = {name: Candidate(Version(version)) for name, version in had.items()}
    choice = choose(roots, wheels, candidates)
    assert choice.carried == {"early", "next", "not"}


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg, which compares")
@pytest.mark.parametrize("epoch", ["", "1:"])
@pytest.mark.parametrize(
    ("asked", "fit", "unfit"),
    [
        ("", "0.1 9", ""),
        (">=1.20.0", "1.20 1.21", "1.19 1.20~rc1"),
        (">=1.20", "1.20.0 1.20.1", "1.19.9 1.20.0~rc1"),
        (">=1.0rc1", "1.0~rc1 1.0~rc2 1.0 1.1", "1.0~b2 0.9"),
        (">=1.0.dev0", "1.0~a1 1.0", "0.9"),
        (">1.2", "1.2.1 1.3.0", "1.2.0 1.1.9"),
        ("<2.0", "1.9 1.99", "2 2.0 2.0~rc1 2.1"),
        ("<2", "1.9.9", "2.0.0 2.0.0~a1 2.0.1"),
        ("<2.0rc1", "1.9 2.0~b1", "2.0~rc1 2.0"),
        ("<=2.1", "2.1 2.0 2.1+dfsg", "2.2"),
        ("<=2.1", "2.1.0 2.0.5", "2.1.1"),
        ("<=2", "1.9 2.0", "2.1"),
        ("==1.4", "1.4.0", "1.4.1 1.3.9 1.4.0~rc1"),
        ("==1.4.*", "1.4.0 1.4.7 1.4.0~rc1", "1.3.9 1.5.0 1.5.0~rc1"),
        ("~=1.4", "1.4.0 1.9.9", "1.3.9 2.0.0 2.0.0~rc1"),
        ("~=1.4.2", "1.4.2 1.4.9", "1.4.1 1.5.0"),
        (">=1.2,<3,>=1.4,<2.5", "1.4.0 2.4.9", "1.3.9 2.5.0"),
        ("!=1.5", "1.6.0 1.5.1", "1.5.0"),
        ("!=1.5", "1.4.0 1.4.9", "1.5.0"),
        ("!=1.5", "1.5.0~rc1", "1.5.0"),
        ("!=1.5.*", "1.6.0", "1.5.0 1.5.9 1.5.0~rc1"),
        (">=2024.1.post1", "2024.1.post1 2024.2", "2024.1"),
    ],
)
def test_versions_that_the_field_allows(asked: str, fit: str, unfit: str, epoch: str) -> None:
    """By the first of `fit` that the distribution has; each as a package has it."""

    def allowed(version: str) -> bool:
        """As dpkg judges it."""
        return all(
            subprocess.run(
                ["dpkg", "--compare-versions", f"{epoch}{version}-1", *each], check=False
            ).returncode
            == 0
            for each in relations
        )

    first = candidate(f"{epoch}{fit.split(maxsplit=1)[0]}-1")
    assert first is not None
    fields = depends({"x": SpecifierSet(asked)}, {"x": first}).split(", ")
    relations = [each[len("python3-x (") : -1].split() for each in fields if "(" in each]
    for version in fit.split():
        found = upstream(version)
        assert found is not None
        assert SpecifierSet(asked).contains(found, prereleases=True)
        assert allowed(version), (version, fields)
    for version in unfit.split():
        assert not allowed(version), (version, fields)
