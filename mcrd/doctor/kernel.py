"""The kernel itself: its version, io_uring, its clock, and namespaces for the sandbox."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass, replace

from mcrd.doctor.finding import Finding, setting, unreadable
from mcrd.host.merging import SUPER_FRAMES
from mcrd.host.procfs import Host, Running

NEEDED = (5, 19)
LACKS = {
    (6, 0): "frames that this host sends are kept out by the filter alone",
    (6, 1): "an io_uring is not bound to one thread: a layer of the sandbox less",
    SUPER_FRAMES: "UDP super-frames do not pass packet rings: ring_full counts each as one",
    (6, 3): "memory may become executable: a layer of the sandbox less",
}
"""What there is not before each version."""

IO_URING_SETUP = 425  # of all architectures
PARAMS = 120  # bytes of struct io_uring_params (linux/io_uring.h)
FLAGS_AT = 8
R_DISABLED, SINGLE_ISSUER, DEFER_TASKRUN = 1 << 6, 1 << 12, 1 << 13

CLOCKS = "sys/devices/system/clocksource/clocksource0"
# Those that a program reads without the kernel; one of hpet costs a microsecond.
FAST_CLOCKS = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "xen", "arch_sys_counter")
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "pit", "refined-jiffies")

URING_WHY = "without it, workers send each run of datagrams by a system call of its own"
URING_WANTED = 'the rule file says engine = "io_uring": without it, no rule runs'
NAMESPACES_WHY = (
    "workers that are not root's need one to make their namespaces, and run without if refused"
)


def version(host: Host) -> Finding:
    """Check what the kernel is too old for."""
    has = host.release()
    if has is None:
        return unreadable("kernel", "kernel.osrelease", "no version")
    value = f"Linux {host.lines('proc/sys/kernel/osrelease')[0]}"
    if has < NEEDED:
        why = "mcrd needs 5.19; a distribution may have what it takes in an older one"
        return Finding("kernel", "trouble", value, why, "a newer kernel")
    lacks = [
        f"before {major}.{minor}: {what}"
        for (major, minor), what in LACKS.items()
        if has < (major, minor)
    ]
    return Finding("kernel", "ok", value, "; ".join(lacks), "a newer kernel" if lacks else "")


@dataclass(frozen=True, slots=True)
class Uring:
    """How the system call went, as for this process: an errno, 0 for good.

    `single`: its io_uring could be had for one thread.
    """

    error: int
    single: bool = True


def try_io_uring() -> Uring:
    """Make an io_uring as a worker does, and close it."""
    for flags in (R_DISABLED | SINGLE_ISSUER | DEFER_TASKRUN, R_DISABLED):
        error = _setup(flags)
        if error != errno.EINVAL:
            return Uring(error, flags != R_DISABLED)
    return Uring(errno.EINVAL)


def _setup(flags: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    params = ctypes.create_string_buffer(PARAMS)
    struct.pack_into("I", params, FLAGS_AT, flags)
    descriptor = libc.syscall(ctypes.c_long(IO_URING_SETUP), ctypes.c_uint(8), params)
    if descriptor < 0:
        return ctypes.get_errno()
    os.close(descriptor)
    return 0


def io_uring(host: Host, running: Running, tried: Uring, engine: str = "auto") -> Finding:
    """Check io_uring as a worker would have it: the daemon's user or nobody, no capability.

    `engine` is the key of the rule file. Without an io_uring the rules run all the same, unless it
    says that they need one.
    """
    found = _io_uring(host, running, tried)
    used = sorted(
        {worker.engine for worker in running.status.workers} - {""} if running.status else ()
    )
    if any(used):
        found = replace(found, value=f"{found.value}; the engine of the workers: {', '.join(used)}")
    if engine == "poll":
        return Finding(found.check, "ok", found.value, 'not used: engine = "poll"')
    if engine == "io_uring" and found.why:
        return replace(found, why=URING_WANTED)
    return replace(found, verdict="ok") if found.verdict == "trouble" else found


def _io_uring(host: Host, running: Running, tried: Uring) -> Finding:
    check, why = "io_uring", URING_WHY
    disabled = host.sysctl("kernel.io_uring_disabled")  # since Linux 6.6
    allow = setting("kernel.io_uring_disabled", 0)
    if disabled == 2:
        return Finding(check, "trouble", "kernel.io_uring_disabled = 2", why, allow)
    if disabled == 1:
        return _io_uring_of_group(host, running, allow)
    if tried.error:
        name = errno.errorcode.get(tried.error, str(tried.error))
        remedy = "allow io_uring_setup, io_uring_enter, io_uring_register in the container"
        return Finding(check, "trouble", f"io_uring_setup: {name}", why, remedy)
    return Finding(check, "ok", "allowed" if tried.single else "allowed, not for one thread alone")


def _io_uring_of_group(host: Host, running: Running, allow: str) -> Finding:
    """Check the group: running workers keep their io_uring, but the next one may get none."""
    group, check = host.sysctl("kernel.io_uring_group"), "io_uring"
    value = f"kernel.io_uring_disabled = 1, kernel.io_uring_group = {group}"
    if group is None or group < 0:
        return Finding(check, "trouble", value, URING_WHY, allow)
    groups = host.groups(running.worker) if running.worker is not None else frozenset()
    if group in groups:
        return Finding(check, "ok", f"{value}, that of the workers")
    why = f"{URING_WHY}; that group has to be the workers'"
    return Finding(check, "trouble" if groups else "unknown", value, why, allow)


def packet_sockets(running: Running, error: int) -> list[Finding]:
    """A finding only where there can be none. `error` is that of root's attempt."""
    if error == 0 or running.workers:
        return []
    value = f"socket: {errno.errorcode.get(error, str(error))}"
    why = "mcrd reads packets through them: without them, no rule runs"
    remedy = (
        "give the container CAP_NET_RAW"
        if error == errno.EPERM
        else "a kernel with CONFIG_PACKET; in a container, allow AF_PACKET"
    )
    return [Finding("packet sockets", "trouble", value, why, remedy)]


def try_packet_socket() -> int:
    """Make one that no packet comes to, and close it; an errno. Not root: 0, as others may."""
    if os.geteuid() != 0:
        return 0
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0).close()
    except OSError as error:
        return error.errno or 0
    return 0


def clock(host: Host) -> Finding:
    """Check the clock, which the kernel reads for every frame in a ring."""
    lines = host.lines(f"{CLOCKS}/current_clocksource")
    if not lines:
        return unreadable("clock", f"/{CLOCKS}/current_clocksource", "not there")
    name = lines[0].strip()
    if name in FAST_CLOCKS:
        return Finding("clock", "ok", name)
    if name not in SLOW_CLOCKS:
        return Finding("clock", "unknown", name, "unknown whether it is fast")
    available = " ".join(host.lines(f"{CLOCKS}/available_clocksource")).split()
    better = next((fast for fast in FAST_CLOCKS if fast in available), None)
    remedy = (
        f"echo {better} > /{CLOCKS}/current_clocksource"
        if better
        else "dmesg | grep -i tsc says why there is no tsc; where it is sound: tsc=reliable on"
        " the kernel's command line"
    )
    why = "the time of every frame is read from it, which takes longer than all else"
    return Finding("clock", "trouble", name, why, remedy)


def namespaces(host: Host, running: Running) -> Finding:
    """Check whether workers get the namespaces of their sandbox; a daemon knows for sure."""
    check = "namespaces"
    if running.workers and not [layer for layer in running.missing if "namespace" in layer]:
        return Finding(check, "ok", "the workers have theirs")
    value = host.sysctl("user.max_user_namespaces")
    if value is None and not host.exists("proc/sys/kernel"):
        return unreadable(check, "user.max_user_namespaces", "no /proc/sys here", NAMESPACES_WHY)
    if value is None:
        return Finding(check, "trouble", "none in this kernel", NAMESPACES_WHY, "CONFIG_USER_NS=y")
    if value == 0:
        remedy = setting("user.max_user_namespaces", 16384)
        return Finding(check, "trouble", "user.max_user_namespaces = 0", NAMESPACES_WHY, remedy)
    name = "kernel.unprivileged_userns_clone"  # Debian's
    if host.sysctl(name) == 0:
        return Finding(check, "trouble", f"{name} = 0", NAMESPACES_WHY, setting(name, 1))
    name = "kernel.apparmor_restrict_unprivileged_userns"  # Ubuntu's
    if host.sysctl(name) == 1:
        if not host.exists("etc/apparmor.d/mcrd"):
            remedy = (
                "in the sources: cp etc/apparmor.d/mcrd /etc/apparmor.d/"
                " && apparmor_parser --replace /etc/apparmor.d/mcrd"
            )
            return Finding(check, "trouble", f"{name} = 1", NAMESPACES_WHY, remedy)
        return Finding(check, "ok", f"{name} = 1, and mcrd has a profile")
    return Finding(check, "ok", f"user.max_user_namespaces = {value}")
