"""Names of files, and the reading of files that somebody else names."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

LARGEST: Final = 16 << 20
"""Bytes of a file that is read: as many rules and outputs as a worker takes are 7 MiB."""


def absolute(name: str | os.PathLike[str]) -> Path:
    """The absolute name; raises OSError when the working directory has gone.

    Links stay, and so does "..", which is the parent of what a link leads to: os.path.abspath()
    would name another file.
    """
    return Path(name).absolute()


def read_file(name: str) -> bytes:
    """The content of a regular file; raises OSError for others, which could block for ever.

    EFBIG for one that is larger than LARGEST: a mistake, which would take all memory.
    """
    # O_NONBLOCK: opening a FIFO would wait for a writer.
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        mode = found.st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        if found.st_size > LARGEST:
            raise OSError(errno.EFBIG, f"larger than {LARGEST >> 20} MiB", name)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        # What was read is whole, and the descriptor gone, whatever a file server says (close(2)).
        with contextlib.suppress(OSError):
            os.close(descriptor)
