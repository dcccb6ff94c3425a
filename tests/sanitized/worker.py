"""A worker of a build with sanitizers, in its sandbox but for what these need.

They map memory with two flags more, and write a report to a file that is opened here.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ctypes
import mmap
import os

from mcrd.dataplane import seccomp, worker
from mcrd.dataplane.seccomp import Argument, Row

MAP_NORESERVE, MAP_FIXED = 0x4000, 0x10  # asm-generic/mman.h


def main() -> int:
    """Run a worker to its end; return the exit status, for os._exit()."""
    name = os.path.join(os.environ["MCRD_SANITIZED"], "reports", f"worker.{os.getpid()}")
    report = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    set_report = getattr(ctypes.CDLL(None), "__sanitizer_set_report_fd")
    set_report(ctypes.c_void_p(report))
    private, more_flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, MAP_NORESERVE | MAP_FIXED
    flags = Argument(3, (private,), 0xFFFFFFFF & ~more_flags)
    more = (
        Row("futex"),
        Row("getpid"),  # who has another number is another process, which may not have the file
        Row("write", where=(Argument(0, (report,)),)),
        Row("mmap", where=(Argument(2, (0,), mmap.PROT_EXEC), flags)),
    )
    for engine, rows in seccomp.RULES.items():
        seccomp.RULES[engine] = (*more, *rows)
    return worker.main()


if __name__ == "__main__":
    os._exit(main())
