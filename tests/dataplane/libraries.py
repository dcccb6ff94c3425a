"""C sources as a library that Python calls."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent / "c"
SOURCES = Path(__file__).parents[2] / "mcrd" / "dataplane" / "src"


def build_library(directory: Path, program: str, parts: tuple[str, ...], level: str) -> Path:
    """Builds tests/dataplane/c/PROGRAM.c with parts of the worker; traps what is undefined."""
    made = directory / f"{program}.so"
    command = [
        *("gcc", "-std=gnu11", level, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"),
        *("-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", f"-I{SOURCES}"),
        *(str(HERE / f"{program}.c"), *(str(SOURCES / name) for name in parts), "-o", str(made)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made
