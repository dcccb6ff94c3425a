"""Which version of IGMP and MLD an interface speaks, and one that the rule file wants there."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from pathlib import Path

from mcrd.errors import words
from mcrd.host.procfs import NET, Host
from mcrd.planning.resources import GroupProtocol
from mcrd.sockets.common import check_index

SYSCTL = {4: "net/ipv4/conf/{}/force_igmp_version", 6: "net/ipv6/conf/{}/force_mld_version"}
NAMES = {4: "igmp_version", 6: "mld_version"}
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)

log = logging.getLogger(__name__)


def forced(interface: str, version: int) -> int | None:
    """What sysctls make of it, 0 for nothing; None where they cannot be read.

    Of IGMP, the older one of both counts; of MLD, that of all interfaces goes before.
    """
    every, own = (Host().sysctl(SYSCTL[version].format(name)) for name in ("all", interface))
    if every is None or own is None:
        return None
    if version == 6:
        return every or own
    return min((value for value in (every, own) if value), default=0)


def igmp_spoken(interface: str) -> int | None:
    """The version that the kernel speaks, forced or as a querier wants it; None: not known."""
    with contextlib.suppress(IndexError, ValueError):
        for line in Host().lines(f"{NET}/igmp"):
            if not line.startswith("\t") and line.split()[1].rstrip(":") == interface:
                return int(line.split()[-1].removeprefix("V"))
    return None


class GroupProtocols(dict[GroupProtocol, int | None]):
    """The versions that were asked for, and what the sysctls said before.

    None: they were not written.
    """

    def written(self) -> dict[GroupProtocol, int]:
        """Those that were set here, with what was there before."""
        return {wanted: before for wanted, before in self.items() if before is not None}

    def set(self, wanted: GroupProtocol) -> None:
        """Set it, or say in the log how; raise OSError when the interface has gone."""
        check_index(wanted.interface, wanted.index)
        path = _path(wanted.interface, wanted)
        try:
            now = _read(path)
            before = self._before_of(wanted)
            if now != wanted.spoken:
                path.write_text(str(wanted.spoken))
                before = now if before is None else before
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            text = "interfaces.%s: no right to set %s (%s): `sysctl -w %s=%d`"
            name = path.relative_to("/proc/sys")
            key = f"{NAMES[wanted.version]} = {wanted.spoken}"
            log.warning(text, wanted.interface, key, words(error), name, wanted.spoken)
            before = None
        self[wanted] = before

    def end(self, wanted: GroupProtocol) -> None:
        """Set it as it was, unless another version is asked for, or somebody else has set it."""
        before = self.pop(wanted)
        if before is None or any(_place(other) == _place(wanted) for other in self):
            return
        try:
            path = _path(socket.if_indextoname(wanted.index), wanted)
            if _read(path) == wanted.spoken:
                path.write_text(str(before))
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENODEV, errno.ENOENT):  # it has gone
                log.warning("%s: cannot be set back: %s", wanted, words(error))

    def _before_of(self, wanted: GroupProtocol) -> int | None:
        """What was there before the first one of this interface, by whatever name."""
        others = (b for other, b in self.items() if _place(other) == _place(wanted))
        return next((before for before in others if before is not None), None)


def _place(wanted: GroupProtocol) -> tuple[int, int]:
    return wanted.index, wanted.version


def _path(interface: str, wanted: GroupProtocol) -> Path:
    if "/" in interface or interface in (".", "..", "all", "default"):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return Path("/proc/sys") / SYSCTL[wanted.version].format(interface)


def _read(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
