"""Privileges: the supervisor keeps those that its work needs, and gives up all others for good."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import prctl

from mcrd.answers import Privileges
from mcrd.dataplane._dataplane import lib

WORK = {
    "net_raw": 13,  # packet sockets, raw and transparent ones, those bound to a device
    "net_bind_service": 10,  # ports below 1024; only where it was given,
    "net_admin": 12,  # as this: offloads of interfaces with `gro`
}
"""By the names and numbers of linux/capability.h."""

AS_ROOT = {
    "setuid": 7,  # workers become another user,
    "setgid": 6,
    "setpcap": 8,  # give up their bounding set,
    "sys_admin": 21,  # get namespaces of their own,
    "kill": 5,  # and can be ended all the same
    "dac_read_search": 2,  # the interpreter and its modules may lie where only their owner looks
}


def limit() -> None:
    """Give up all but these, before any thread exists; for programs that it executes, too."""
    kept = {**WORK, **(AS_ROOT if os.geteuid() == 0 else {})}
    mask = sum(1 << number for number in kept.values())
    # Without CAP_SETPCAP it stays as it is; no_new_privs makes it worthless all the same.
    lib.sandbox_limit_bounding_set(mask)
    result = lib.sandbox_limit_capabilities(mask)
    if result < 0:
        raise OSError(-result, f"capabilities: {os.strerror(-result)}")
    prctl.set_no_new_privs(True)


def now() -> Privileges:
    """What the daemon may do."""
    mask = lib.sandbox_capabilities()
    known = {number: name for name, number in {**WORK, **AS_ROOT}.items()}
    return Privileges(
        uid=os.geteuid(),
        gid=os.getegid(),
        capabilities=[known.get(n, str(n)) for n in range(64) if mask >> n & 1],
        no_new_privs=bool(prctl.get_no_new_privs()),
    )
