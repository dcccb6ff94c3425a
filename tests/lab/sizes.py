"""How much a program remembers: the sizes of all containers in its objects; and mcrd that tells.

`python -m tests.lab.sizes FILE ...` is mcrd, which on SIGUSR1 writes them to FILE as JSON.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from mcrd.cli import mcrd
from mcrd.daemon.supervisor import Supervisor


def sizes(*roots: object) -> dict[str, int]:
    """By class and attribute, how many entries all of them have together."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [(type(root).__name__, root) for root in roots]
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping | AbstractSet | list | deque):
            found[name] += len(value)
            inside = [*value, *value.values()] if isinstance(value, Mapping) else list(value)
            waiting += [(name, one) for one in inside]
        elif isinstance(value, tuple):
            waiting += [(name, one) for one in value]
        elif type(value).__module__.startswith("mcrd."):
            waiting += [(f"{type(value).__name__}.{n}", v) for n, v in _attributes(value)]
    return dict(found)


def _attributes(value: object) -> list[tuple[str, Any]]:
    names = [n for kind in type(value).__mro__ for n in getattr(kind, "__slots__", ())]
    names += list(getattr(value, "__dict__", ()))
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]


def main(file: Path) -> int:
    """Runs mcrd with the other arguments."""
    made: list[Supervisor] = []
    begin = Supervisor.__init__

    def remember(self: Supervisor, *rest: Any) -> None:
        begin(self, *rest)
        made.append(self)

    def tell(_number: int, _frame: object) -> None:
        new = file.with_suffix(".new")
        new.write_text(json.dumps(sizes(*made)))
        os.replace(new, file)

    Supervisor.__init__ = remember  # type: ignore[assignment, method-assign]
    signal.signal(signal.SIGUSR1, tell)
    return mcrd.main()


if __name__ == "__main__":
    told = Path(sys.argv.pop(1))
    sys.exit(main(told))
