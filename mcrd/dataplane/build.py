"""Builds mcrd.dataplane._dataplane, the worker's loop in C, with cffi in API mode."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path("mcrd/dataplane/src")  # relative: setuptools wants it so, and PEP 517 builds at the top
SOURCES = (
    "counters.c",
    "egress.c",
    "flows.c",
    "limit.c",
    "loop.c",
    "pace.c",
    "packet.c",
    "ring.c",
    "rules.c",
    "table.c",
)


def declarations(header: str) -> str:
    """The header without what cffi's parser does not read: guards and includes."""
    lines = header.splitlines()
    kept = [line for line in lines if not line.startswith(("#ifndef", "#endif", "#include"))]
    return "\n".join(line for line in kept if line != "#define MCRD_SHARED_H")


ffi = FFI()
ffi.cdef(declarations((HERE / "shared.h").read_text(encoding="utf-8")))
ffi.set_source(
    "mcrd.dataplane._dataplane",
    '#include "shared.h"',
    sources=[str(HERE / name) for name in SOURCES],
    include_dirs=[str(HERE)],
    libraries=["uring"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"],
)
