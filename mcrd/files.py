"""Names of files, and the reading of files that somebody else names."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path


def absolute(name: str | os.PathLike[str]) -> Path:
    """The absolute name; raises OSError when the working directory has gone.

    Links stay, and so does "..", which is the parent of what a link leads to: os.path.abspath()
    would name another file.
    """
    return Path(name).absolute()


def read_file(name: str) -> bytes:
    """The content of a regular file; raises OSError for others, which could block for ever."""
    # O_NONBLOCK: opening a FIFO would wait for a writer.
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        # What was read is whole, and the descriptor gone, whatever a file server says (close(2)).
        with contextlib.suppress(OSError):
            os.close(descriptor)
