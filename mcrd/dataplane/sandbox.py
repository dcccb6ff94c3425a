"""A worker gives up what it has, in an order that holds (capabilities(7), prctl(2))."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal

import prctl


class SandboxError(Exception):
    """A layer that every worker has to have could not be made."""


def enter(supervisor: int, uid: int | None, gid: int | None) -> list[str]:
    """Gives up privileges for good; returns the names of the layers that hold.

    Call it before any thread exists: what prctl sets is a thread's own.
    Raises SandboxError when privileges remain or the supervisor has died meanwhile.
    """
    layers = []
    try:
        prctl.capbset.limit()
        layers.append("bounding set")
    except PermissionError:
        pass  # without CAP_SETPCAP it cannot be cut; no_new_privs makes it worthless all the same
    if uid is not None and gid is not None:
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except PermissionError:
            raise SandboxError(
                f"cannot become uid {uid}: a daemon that is root needs CAP_SETUID and CAP_SETGID"
            ) from None
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise SandboxError("the worker is still root, by its user or its group")
    layers.append("uid")
    # A change of uid clears both of these, so they come after it.
    prctl.set_pdeathsig(signal.SIGKILL)
    prctl.set_dumpable(False)
    if os.getppid() != supervisor:
        raise SandboxError("the supervisor has ended")
    # The ambient set goes with the inheritable one.
    prctl.cap_inheritable.limit()
    prctl.cap_effective.limit()
    prctl.cap_permitted.limit()
    _check_capabilities()
    layers.append("capabilities")
    prctl.set_no_new_privs(True)
    layers.append("no_new_privs")
    return layers


def _check_capabilities() -> None:
    # As bytes: a text file would want its codec, which may lie where the new uid cannot read.
    with open("/proc/self/status", "rb") as status:
        for line in status:
            name, _, value = line.partition(b":")
            if name in (b"CapInh", b"CapPrm", b"CapEff", b"CapAmb") and int(value, 16) != 0:
                raise SandboxError(f"capabilities remain: {name.decode()} {value.decode().strip()}")
