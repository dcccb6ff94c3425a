"""Which tests may run beside which, when pytest has several processes (pytest-xdist, -n).

Not by --dist loadgroup: its marks have no effect with pytest 9.2.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling


class Lanes(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Hands out tests in the order in which they were collected, those of a group together."""

    def _split_scope(self, nodeid: str) -> str:
        """The group of a test: those that share what they make, so one process runs them all."""
        path, *_ = nodeid.partition("::")
        match PurePosixPath(path).parts:
            case ("tests", "system", *_):
                return "tests/system"  # a package and a machine
            case ("tests", "network", *_):
                return nodeid
        return path
