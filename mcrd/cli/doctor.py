"""`mcrctl doctor`: prints what mcrd/doctor/ finds, troubles first."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from mcrd.answers import Others, Status
from mcrd.cli.mcrd import DEFAULT_CONFIG
from mcrd.client import ControlError, fetch, peer
from mcrd.config.problems import printable
from mcrd.counters import Stats
from mcrd.doctor import Finding, Host, Running, Verdict, examine

TIMEOUT = 10.0  # seconds
ORDER: tuple[Verdict, ...] = ("trouble", "unknown", "ok")
INDENT = " " * 9


def run(path: Path | None, control: Path, as_json: bool) -> int:
    """Return 1 when there is trouble. Without a path: the daemon's rule file, or the default."""
    try:
        status = fetch(control, Status, TIMEOUT)
        stats = fetch(control, Stats, TIMEOUT)
        rates = {name: each.rate.second.packets for name, each in stats.interfaces.items()}
        running = Running(status, seen=peer(control), others=_others(control), rates=rates)
    except ControlError as error:
        running = Running(silence=str(error))
    if path is None:
        path = Path(running.status.config) if running.status else Path(DEFAULT_CONFIG)
    found = examine(Host(), path, running)
    trouble = any(finding.verdict == "trouble" for finding in found)
    if as_json:
        print(json.dumps({"ok": not trouble, "findings": [asdict(f) for f in found]}))
    else:
        for line in _text(found):
            print(printable(line))
    return int(trouble)


def _others(control: Path) -> Others | None:
    """Who else relays what its rules relay; None of a daemon of another version."""
    with contextlib.suppress(ControlError):
        return fetch(control, Others, TIMEOUT)
    return None


def _text(found: Sequence[Finding]) -> Iterator[str]:
    for verdict in ORDER:
        for finding in found:
            if finding.verdict != verdict:
                continue
            yield f"{verdict:<8} {finding.check}: {finding.value}"
            if finding.why:
                yield f"{INDENT}{finding.why}"
            if finding.remedy:
                yield f"{INDENT}-> {finding.remedy}"
    counts = Counter(finding.verdict for finding in found)
    yield ", ".join(f"{counts[verdict]} {verdict}" for verdict in ORDER)
