"""What an OSError says, for people."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno


def words(error: OSError) -> str:
    """Its reason: that of whoever raised it, or the system's. Never empty, never a bare number.

    Python raises some without a number (if_nametoindex(), a timeout), and then has no `strerror`.
    """
    return error.strerror or str(error) or type(error).__name__


def named(error: OSError) -> str:
    """As words(), with the name of errno(3) behind it where there is one."""
    name = errno.errorcode.get(error.errno or 0)
    return f"{words(error)} ({name})" if name is not None else words(error)
