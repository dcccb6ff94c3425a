"""Writes the bill of materials of what scripts/install or scripts/image put together.

    scripts/bom.py SITE_PACKAGES [STATUS_DIRECTORY]

It is CycloneDX 1.6, in JSON. Of each Python package it names the version that is there, and the
licence, if packaging/debian/copyright has one for it. STATUS_DIRECTORY has what dpkg says of each
Debian package. The same contents give the same bytes.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[1]
COPYRIGHT = next(TOP.glob("debian/copyright"), TOP / "packaging/debian/copyright")
OF_DEBIAN = {"Expat": "MIT", " or ": " OR ", " and ": " AND "}
"""What SPDX calls it."""

Component = dict[str, Any]


def licences() -> dict[str, str]:
    """SPDX expressions by the normalized names of packages, and "*" for mcrd itself."""
    found = {}
    for paragraph in COPYRIGHT.read_text().split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if files := fields["Files"]:
            expression = fields["License"].split("\n")[0]
            for debian, spdx in OF_DEBIAN.items():
                expression = expression.replace(debian, spdx)
            found[normalized(files.removesuffix("/*"))] = expression
    return found


def normalized(name: str) -> str:
    """The name as the package index has it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def component(name: str, version: str, purl: str, licence: str | None) -> Component:
    """A library of the bill."""
    made: Component = {"type": "library", "name": name, "version": version, "purl": purl}
    made["bom-ref"] = purl
    if licence is not None:
        made["licenses"] = [{"expression": licence}]
    return made


def of_python(site_packages: str) -> list[Component]:
    """mcrd, all that lies beside it, and liburing, which is linked into it."""
    known = licences()
    found = []
    for each in distributions(path=[site_packages]):
        name = normalized(each.metadata["Name"])
        licence = known.get("*" if name == "mcrd" else name)
        found.append(component(name, each.version, f"pkg:pypi/{name}@{each.version}", licence))
    asked = ["pkg-config", "--modversion", "liburing"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    purl = f"pkg:github/axboe/liburing@liburing-{version}"
    return [*found, component("liburing", version, purl, known["liburing"])]


def of_debian(directory: str) -> list[Component]:
    """The packages of this distribution; their licences are in /usr/share/doc."""
    found, distribution = [], platform.freedesktop_os_release()["ID"]
    for path in Path(directory).iterdir():
        fields = HeaderParser().parsestr(path.read_text())
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/{distribution}/{name}@{version}?arch={fields['Architecture']}"
        if name != "mcrd":
            found.append(component(name, version, purl.replace("+", "%2B"), None))
    return found


def main() -> None:
    """Print the bill."""
    components = of_python(sys.argv[1])
    for directory in sys.argv[2:]:
        components += of_debian(directory)
    components.sort(key=lambda one: str(one["purl"]))
    (mcrd,) = (one for one in components if one["name"] == "mcrd")
    components.remove(mcrd)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or COPYRIGHT.stat().st_mtime)
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {**mcrd, "type": "application"},
        },
        "components": components,
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bill))
    print(json.dumps({"serialNumber": f"urn:uuid:{serial}", **bill}, indent=1))


if __name__ == "__main__":
    main()
