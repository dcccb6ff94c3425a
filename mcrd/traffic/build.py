"""Builds mcrd.traffic._traffic, the C loops of mcrgen, with cffi."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

from cffi import FFI

SOURCE = Path(__file__).parent / "src"


def declarations() -> str:
    """The part of traffic.h that cffi can read: no directives."""
    header = (SOURCE / "traffic.h").read_text(encoding="utf-8")
    _, _, rest = header.partition("From here on also read by cffi (../build.py). */")
    part, _, _ = rest.partition("/* End of what cffi reads. */")
    return part


ffi = FFI()
ffi.cdef(declarations())
ffi.set_source(
    "mcrd.traffic._traffic",
    '#include "traffic.h"',
    # setuptools wants them relative to the root of the repository, where it runs.
    sources=["mcrd/traffic/src/send.c", "mcrd/traffic/src/receive.c"],
    depends=["mcrd/traffic/src/histogram.h", "mcrd/traffic/src/traffic.h"],
    include_dirs=["mcrd/traffic/src"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"],
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
