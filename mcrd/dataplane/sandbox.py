"""The sandbox: a worker gives up what it has, layer by layer, in an order that holds.

Assume that an attacker runs code in a worker afterwards. docs/security.md says what each
layer is for, and which attempts from inside it stops.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Sequence
from functools import partial

import prctl

from mcrd.dataplane import seccomp
from mcrd.dataplane._dataplane import ffi, lib

REQUIRED = frozenset({"uid", "capabilities", "no_new_privs", "io_uring restrictions", "seccomp"})
"""Every system that mcrd runs on has these, as far as the engine needs them.

All others are done without where they cannot be had, unless the rule file wants them all."""

MEMORY = (512 << 20) + lib.MCRD_ORDERED_STREAMS * (9 << 20) + lib.MCRD_BACKLOG_BYTES
"""Bytes that a worker may map beside what it has when it begins: more than all rules and members
that it has room for, and all streams with `delay`."""

# linux/sched.h
_NAMESPACES = {
    "network namespace": 0x40000000,
    "mount namespace": 0x00020000,
    "ipc namespace": 0x08000000,
    "uts namespace": 0x04000000,
    "cgroup namespace": 0x02000000,
}
_USER = 0x10000000
_OF_SERVICE = {"ipc namespace": "ipc", "uts namespace": "uts"}
"""Those that the service may have of its own instead, by what the unit calls them."""
_CAP_SYS_ADMIN = 1 << 21  # linux/capability.h
_MOUNT_POINTS = ("/tmp", "/run", "/dev")  # any directory will do


class SandboxError(Exception):
    """A layer that this worker has to have could not be made."""


class Sandbox:
    """What a worker has given up, by the names of the layers, and what it could not.

    Call everything before any thread exists: most of it is a thread's own.
    """

    def __init__(self) -> None:
        self.held: list[str] = []
        self.missing: dict[str, str] = {}
        self._strict = False
        self._given: Sequence[str] = ()
        self._statm = -1
        self.mounts = -1
        """A descriptor of the mount namespace: whoever lets go of it last waits for all CPUs."""

    def layer(self, name: str, make: Callable[[], None]) -> bool:
        """Make a layer, and return whether it holds. A required layer raises SandboxError."""
        try:
            make()
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            if name in REQUIRED or self._strict:
                why = "" if name in REQUIRED else ', and the rule file says sandbox = "strict"'
                raise SandboxError(f"sandbox: {name}: {reason}{why}") from None
            self.missing[name] = reason
            return False
        self.held.append(name)
        self.missing.pop(name, None)
        return True

    def prepare(self) -> None:
        """Make the namespaces while nobody waits for it: an empty root waits for all CPUs.

        What cannot be had is left to give_up().
        """
        is_admin = bool(lib.sandbox_capabilities() & _CAP_SYS_ADMIN)
        if not is_admin and os.geteuid() == 0:
            return  # a user namespace is that of the user to become
        with contextlib.suppress(OSError):
            self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
            if not is_admin:
                prctl.set_dumpable(True)
            self._isolate(user=not is_admin)
        self.missing.clear()

    def give_up(
        self,
        supervisor: int,
        uid: int | None,
        gid: int | None,
        *,
        strict: bool = False,
        given: Sequence[str] = (),
    ) -> None:
        """Give up all that a process can, but for the engine and system calls.

        `uid` and `gid` are those to become, None where the daemon is not root; `given` are
        namespaces that the service has of its own. `strict`: no layer may be missing, from now on.
        Raises SandboxError, also when the supervisor (its process id) has ended meanwhile.
        """

        self._strict, self._given = strict, given
        size = self._size()

        def become() -> None:
            if uid is not None and gid is not None:
                os.setgroups([])
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
            if 0 in (*os.getresuid(), *os.getresgid()):
                raise PermissionError(0, "the worker is still root, by its user or its group")

        if lib.sandbox_capabilities() & _CAP_SYS_ADMIN:
            self._isolate(user=False)
            self._bound()
            self.layer("uid", become)
        else:
            if uid is not None:
                lib.sandbox_limit_bounding_set(0)  # as far as it goes; below it counts
            self.layer("uid", become)
            prctl.set_dumpable(True)  # or /proc/self/uid_map would be root's
            self._isolate(user=True)
            self._bound()
        # A change of uid clears this and the next, so they come after it.
        prctl.set_pdeathsig(signal.SIGKILL)
        self.layer("non-dumpable", lambda: prctl.set_dumpable(False))
        if os.getppid() != supervisor:
            raise SandboxError("the supervisor has ended")
        self.layer("capabilities", lambda: _check(lib.sandbox_limit_capabilities(0)))
        self.layer("no_new_privs", lambda: prctl.set_no_new_privs(True))
        self.layer("no new code", lambda: _check(lib.sandbox_refuse_code()))
        self.layer("resource limits", lambda: _limit(size + MEMORY))
        self.layer("landlock", lambda: _check(lib.sandbox_landlock()))

    def filter(self, engine: str) -> None:
        """Give up system calls, last of all, but for what the engine needs."""
        program = seccomp.program(seccomp.RULES[engine])
        count = len(program) // ffi.sizeof("uint64_t")
        self.layer("seccomp", lambda: _check(lib.sandbox_filter(program, count)))

    def _isolate(self, user: bool) -> None:
        """Make empty namespaces, one by one, so that the host may refuse one.

        `user`: only a user namespace gives the right to make the others.
        """
        pending = {name: flag for name, flag in _NAMESPACES.items() if name not in self.held}
        alone = user and "user namespace" not in self.held
        if alone and not self._make_user_namespace(pending):
            for name in (*pending, "empty root"):
                self.missing[name] = "there is no user namespace"
            return
        for name, flag in pending.items():
            self.layer(name, partial(_unshare, flag, _OF_SERVICE.get(name) in self._given))
        if "mount namespace" in self.held:
            if "empty root" not in self.held:
                self._keep_mounts()
                self.layer("empty root", _empty_root)
        else:
            self.missing["empty root"] = "there is no mount namespace"

    def _keep_mounts(self) -> None:
        if self.mounts < 0:
            with contextlib.suppress(OSError):  # the end of the worker takes longer then
                self.mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def _make_user_namespace(self, pending: dict[str, int]) -> bool:
        """Make it with another one of those pending: alone, it is useless on some hosts."""
        uid, gid = os.geteuid(), os.getegid()
        for name, flag in pending.items():
            result = lib.sandbox_unshare(flag | _USER)
            if result == 0:
                del pending[name]
                self.held.append(name)
                return self.layer("user namespace", partial(_map, uid, gid))
        self.layer("user namespace", partial(_check, result))
        return False

    def _size(self) -> int:
        """Bytes of address space in use. There may be no /proc any more."""
        if self._statm < 0:
            self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        pages = int(os.pread(self._statm, 100, 0).split()[0])
        os.close(self._statm)
        return pages * resource.getpagesize()

    def _bound(self) -> None:
        self.layer("bounding set", lambda: _check(lib.sandbox_limit_bounding_set(0)))
        self.layer("securebits", lambda: _check(lib.sandbox_lock_securebits()))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def _unshare(flag: int, given: bool) -> None:
    """Make the namespace; if that is refused, a `given` one will do."""
    try:
        _check(lib.sandbox_unshare(flag))
    except PermissionError:
        if not given:
            raise


def _map(uid: int, gid: int) -> None:
    """Map the own ids to themselves in the user namespace, and no others."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "wb", buffering=0) as file:
            file.write(text.encode())


def _empty_root() -> None:
    for number, place in enumerate(_MOUNT_POINTS, 1):
        result = lib.sandbox_empty_root(place.encode())
        if result == 0 or number == len(_MOUNT_POINTS):
            _check(result)
            return


def _limit(memory: int) -> None:
    for what, limit in (
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 0),
    ):
        hard = resource.getrlimit(what)[1]
        lower = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (lower, lower))
