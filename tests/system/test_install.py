"""Other ways onto a system than Debian's: the wheel, and make install."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.system.conftest import TOP

if TYPE_CHECKING:
    from pathlib import Path

# Both ask the package index, and root has to be what places the files.
pytestmark = [pytest.mark.long, pytest.mark.root]


def run(*command: str, **environment: str) -> str:
    """Runs a command in the checkout, and returns what it said."""
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_runs_on_any_linux_of_the_age_of_debian_12(tmp_path: Path) -> None:
    run("make", "wheel")
    (wheel,) = (TOP / "dist").glob("mcrd-*.whl")
    (tags,) = re.findall(r"-cp311-abi3-(.*)\.whl", wheel.name)
    newest = min(tuple(map(int, found)) for found in re.findall(r"manylinux_(\d+)_(\d+)", tags))
    assert newest <= (2, 36)
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
        *("--target", str(tmp_path), str(wheel)),
    )
    for extension in ("dataplane/_dataplane", "traffic/_traffic"):
        needed = run("readelf", "--dynamic", str(tmp_path / f"mcrd/{extension}.abi3.so"))
        assert "liburing" not in needed
    where = run(
        *(sys.executable, "-Pc", "import mcrd.dataplane._dataplane as d; print(d.__file__)"),
        PYTHONPATH=str(tmp_path),
    )
    assert where.startswith(str(tmp_path))


def test_make_install_places_what_runs_and_make_uninstall_takes_it_away(tmp_path: Path) -> None:
    run("make", "install", DESTDIR=str(tmp_path))
    # As it would be without DESTDIR, for this one command.
    script = 'mount --bind "$0/usr/local" /usr/local && exec /usr/local/bin/mcrd --version'
    said = run(
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(tmp_path))
    )
    assert re.fullmatch(r"mcrd \d+\.\d+\.\d+\S*\n", said)
    unit = (tmp_path / "usr/local/lib/systemd/system/mcrd.service").read_text()
    assert "\nExecStart=/usr/local/bin/mcrd\n" in unit
    assert "/usr/bin/mcr" not in unit
    (tmp_path / "etc/mcr.toml").write_text("# mine\n")
    run("make", "install", DESTDIR=str(tmp_path))  # once more, as an upgrade
    assert (tmp_path / "etc/mcr.toml").read_text() == "# mine\n"
    run("make", "uninstall", DESTDIR=str(tmp_path))
    left = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert left == [tmp_path / "etc/mcr.toml"]
