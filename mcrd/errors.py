"""What an OSError says, for people."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import os

_REMEDIES = {
    errno.EMFILE: "raise the limit on open files (LimitNOFILE= of the service, or ulimit -n)",
    errno.ENFILE: "raise the sysctl fs.file-max",
    errno.ENOMEM: "there is no memory for it (MemoryMax= of the service, or the host's own)",
    errno.ENOBUFS: "there is no memory for it (MemoryMax= of the service, or the host's own)",
    errno.EAFNOSUPPORT: "look at RestrictAddressFamilies= of the service, or at the seccomp filter"
    " of a container",
    errno.EPERM: "look at the unit of the service, or at the seccomp filter of a container",
    errno.EACCES: "look at the unit of the service, or at its AppArmor or SELinux",
    errno.ENOSYS: "this kernel is too old, or the seccomp filter of a container forbids it",
}

WANTING = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
"""Errors of a host, or of a service, that has no more to give."""


def passes(error: OSError) -> bool:
    """Whether a file may be read a little later, though nobody does anything about it."""
    return error.errno in WANTING or error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


NEVER = frozenset(
    (
        *(errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP),
        *(errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT),
    )
)
"""Errors of system calls that another try does not mend; all others may pass."""


class NeverError(Exception):
    """What the daemon cannot do without, and no other try helps; the text says all of it."""


def words(error: OSError) -> str:
    """The reason that whoever raised it gave, or the system's. Never empty or a bare number.

    Python raises some without a number (if_nametoindex(), a timeout), and then has no `strerror`.
    """
    return error.strerror or str(error) or type(error).__name__


def named(error: OSError) -> str:
    """The words(), followed by the name of errno(3) where there is one."""
    name = errno.errorcode.get(error.errno or 0)
    return f"{words(error)} ({name})" if name is not None else words(error)


def with_remedy(error: OSError) -> str:
    """As named(), with what to do where that can be said."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{named(error)}; {remedy}" if remedy is not None else named(error)


def no_memory() -> OSError:
    """What the kernel said when the interpreter raised a MemoryError."""
    return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
