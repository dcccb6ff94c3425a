"""The programs of Debian that are measured as peers."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SEARCH = "/usr/sbin:/sbin"
PACKAGES = (
    ("smcrouted", "smcroute", "usr/sbin"),
    ("iperf", "iperf", "usr/bin"),
    ("igmpproxy", "igmpproxy", "usr/sbin"),
)


def find(directory: Path) -> dict[str, str]:
    """Where they are, of those that can be had."""
    found = {}
    for name in ("socat", "smcrouted", "iperf", "igmpproxy"):
        path = shutil.which(name) or shutil.which(name, path=SEARCH)
        if path is not None:
            found[name] = path
    for name, package, place in PACKAGES:
        if name not in found and (unpacked := _unpack(directory, package)) is not None:
            found[name] = str(unpacked / place / name)
    return {name: path for name, path in found.items() if Path(path).exists()}


def _unpack(directory: Path, package: str) -> Path | None:
    """The files of a package, without installing it: smcroute would start a router here."""
    place = directory / package
    place.mkdir()
    try:
        subprocess.run(
            ["apt-get", "-qq", "download", package], cwd=place, check=True, capture_output=True
        )
        (archive,) = place.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(place)], check=True)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return place
