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
from packaging.version import Version

from scripts.distribution import choose, depends, upstream

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
    candidates = {name: Version(version) for name, version in had.items()}
    choice = choose(roots, wheels, candidates)
    # `shared` is old enough only for `plain`; `part` is the business of the distribution's `page`.
    assert choice.carried == {"new", "shared"}
    assert depends(choice.taken) == "python3-page (>= 3), python3-plain, python3-small (>= 1.2)"
    del candidates["page"]
    choice = choose(roots, wheels, candidates)
    assert choice.carried == {"new", "shared", "page", "part", "deep"}
    assert depends(choice.taken) == "python3-plain, python3-small (>= 1.2)"
    assert choose(roots, wheels, {}).carried == set(wheels)


def test_versions_of_packages() -> None:
    versions = ("1:2.7.0-1", "0.19.0-1+b2", "3.11.16-1~deb13u1", "2025.1+dfsg-1", "(none)")
    assert [str(upstream(version)) for version in versions] == [
        *("2.7.0", "0.19.0", "3.11.16", "2025.1", "None")
    ]
