"""Daemons of a build with sanitizers, where MCRD_SANITIZED names one: `make test-sanitized`."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

BUILD = os.environ.get("MCRD_SANITIZED", "")
REPORTS = Path(BUILD) / "reports"
TOLD = ".told"
TOP = Path(__file__).parents[2]


def command() -> list[str]:
    """What stands before the program of a daemon; nothing for the product."""
    if not BUILD:
        return []
    # Leaks are for tests/dataplane: a worker ends without cleaning up, and the interpreter's own
    # are on the stack of each one. Some tests end a worker by SIGSEGV, which is no fault of it.
    options = f"halt_on_error=1:exitcode=99:log_path={REPORTS}/daemon:print_stacktrace=1"
    return [
        *("env", f"LD_PRELOAD={_runtime()}", f"PYTHONPATH={BUILD}:{TOP}"),
        f"ASAN_OPTIONS={options}:detect_leaks=0:quarantine_size_mb=16:handle_segv=0",
        f"UBSAN_OPTIONS={options}",
    ]


@functools.cache
def _runtime() -> str:
    asked = ("gcc", "-print-file-name=libasan.so")
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def reports() -> list[str]:
    """What the sanitizers of all daemons have said since the last call."""
    found = []
    for path in sorted(REPORTS.iterdir()) if BUILD else ():
        if path.suffix == TOLD:
            continue
        try:
            text = path.read_text(errors="replace")
            if text:
                path.rename(path.with_suffix(f"{path.suffix}{TOLD}"))
        except FileNotFoundError:  # a test beside this one has read it
            continue
        if text:
            found.append(f"{path}:\n{text}")
    return found
