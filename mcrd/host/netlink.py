"""Questions over netlink by pyroute2, and its errors as OSError, which they are not."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def asking() -> Iterator[Any]:
    """A socket of pyroute2's for questions of rtnetlink(7). Raises OSError."""
    from pyroute2 import IPRoute  # noqa: PLC0415  slow, and seldom needed

    with os_errors(), IPRoute() as netlink:
        yield netlink


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
    """Raise as OSError what the kernel, or pyroute2 in its place, refuses."""
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415  as above

    try:
        yield
    except NetlinkError as error:
        # A negative number is pyroute2's own. The kernel may have words that say more.
        code = error.code if error.code and error.code > 0 else errno.EIO
        raise OSError(code, f"netlink: {error.args[-1]}") from error
    except OSError as error:
        if error.errno is None or error.args[1:2] != (None,):
            raise
        raise OSError(error.errno, f"netlink: {os.strerror(error.errno)}") from error
