"""Builds mcrd.dataplane._dataplane, the worker's loop in C, with cffi in API mode."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path

from cffi import FFI

HERE = Path("mcrd/dataplane/src")  # relative: setuptools wants it so, and PEP 517 builds at the top


def declarations(header: str) -> str:
    """The header without what cffi's parser does not read: guards and includes."""
    lines = header.splitlines()
    kept = [line for line in lines if not line.startswith(("#ifndef", "#endif", "#include"))]
    return "\n".join(line for line in kept if not line.endswith("_H"))


def compiler(*arguments: str) -> str:
    """What the C compiler prints."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout


def liburing() -> list[str]:
    """The way to link liburing: statically where possible, so that the result runs elsewhere.

    Debian has both libraries in one package; some distributions have the shared one alone.
    """
    name = "liburing.a"
    found = compiler(f"-print-file-name={name}").strip() != name  # else it prints a path
    return [f"-l:{name}" if found else "-luring"]


def system_calls() -> str:
    """C text: the names of this machine's system calls by number, for sandbox.c.

    The kernel has them in headers only, as macros whose number another macro may be: the
    preprocessor lists the names, the compiler knows the numbers.
    """
    listed = compiler("-E", "-dM", "-include", "sys/syscall.h", "-x", "c", os.devnull)
    names = set(re.findall(r"^#define __NR_([a-z]\w*) ", listed, re.MULTILINE))
    names -= {"syscalls", "arch_specific_syscall"}  # numbers of no call
    table = "\n".join(f'    [__NR_{name}] = "{name}",' for name in sorted(names))
    return f"""
#include <sys/syscall.h>
#include "sandbox.h"
const char *const mcrd_system_calls[] = {{
{table}
}};
const unsigned int mcrd_system_call_count =
    sizeof(mcrd_system_calls) / sizeof(mcrd_system_calls[0]);
"""


ffi = FFI()
for header in ("segment.h", "shared.h"):
    ffi.cdef(declarations((HERE / header).read_text(encoding="utf-8")))
ffi.set_source(
    "mcrd.dataplane._dataplane",
    '#include "shared.h"\n' + system_calls(),
    sources=[str(path) for path in sorted(HERE.glob("*.c"))],
    include_dirs=[str(HERE)],
    # What one source calls in another is inlined: to inspect a datagram costs a sixth less.
    extra_link_args=[*liburing(), "-O2", "-flto=auto"],
    extra_compile_args=[
        *("-std=gnu11", "-O2", "-flto=auto", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
    ],
)
