"""The machine that the tests of the service share, with the package installed.

+--------+ s0          r0 +-------------------+ r1          k0 +------+
| source |----------------| machine (systemd) |----------------| sink |
+--------+ .1          .2 +-------------------+ .1          .2 +------+
           10.1.0.0/24                           10.2.0.0/24
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import Lab, Triangle, build_triangle
from tests.system.machine import Machine, why_no_machine
from tests.system.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def package() -> Path:
    """The Debian package, as `make deb` builds it."""
    done = subprocess.run(["scripts/deb"], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (TOP / "dist").glob("mcrd_*.deb")
    return found


@pytest.fixture(scope="session")
def _machine() -> Iterator[tuple[Triangle, Machine]]:
    if reason := why_no_machine():
        if os.environ.get("CI"):
            pytest.fail(f"CI has to run this: {reason}", pytrace=False)
        pytest.skip(reason)
    with Lab() as lab:
        network = build_triangle(lab)
        machine = Machine(network.relay)
        try:
            yield network, machine
        finally:
            machine.close()


@pytest.fixture(scope="session")
def installed(_machine: tuple[Triangle, Machine], package: Path) -> Service:
    """The package is installed, and nothing else was done."""
    network, machine = _machine
    machine.copy(package, "/root/mcrd.deb")
    machine.run("dpkg", "-i", "/root/mcrd.deb")
    return Service(network, machine)


@pytest.fixture
def service(installed: Service) -> Service:
    """The machine as it was left."""
    return installed
