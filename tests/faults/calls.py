"""Which system calls the daemon makes, and with which errors each is made to fail."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.faults.world import A, B, World, by_engine
from tests.lab import wait_for
from tests.lab.daemon import console_script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEMORY = "ENOMEM"
FULL = "EMFILE ENFILE"
# The errors of their manual pages that a host, a container or a unit may answer with.
ERRORS = {
    "accept4": f"ECONNABORTED ENOBUFS {FULL}",
    "bind": "EACCES EADDRINUSE ENODEV ENOMEM",
    "capget": "EPERM",
    "capset": "EPERM",
    "chdir": "EACCES",
    "clock_gettime": "EPERM",
    "clock_nanosleep": "EINTR",
    "clone3": f"EAGAIN {MEMORY}",
    "close": "EINTR EIO",
    "close_range": "ENOSYS EPERM",
    "connect": "EACCES EAGAIN ECONNREFUSED ENETUNREACH",
    "dup": FULL,
    "dup2": "EMFILE",
    "epoll_create1": f"{FULL} {MEMORY}",
    "epoll_ctl": f"{MEMORY} ENOSPC",
    "epoll_pwait": "EINTR",
    "epoll_wait": "EINTR",
    "faccessat2": "EACCES EIO",
    "fcntl": "EAGAIN EPERM",
    "ftruncate": "ENOSPC EFBIG",
    "getcwd": "ENOENT",
    "getdents64": f"EIO {MEMORY}",
    "getpeername": "ENOBUFS ENOTCONN",
    "getrandom": "ENOSYS",
    "getsockname": "ENOBUFS",
    "getsockopt": f"ENOBUFS {MEMORY} ENOPROTOOPT",
    "inotify_add_watch": f"ENOSPC {MEMORY} EACCES",
    "inotify_init": FULL,
    "inotify_rm_watch": "EINVAL",
    "io_uring_enter": f"EAGAIN EBUSY EINTR {MEMORY}",
    "io_uring_register": f"{MEMORY} EMFILE EPERM EINVAL",
    "io_uring_setup": f"EPERM {FULL} {MEMORY}",
    "ioctl": f"ENODEV {MEMORY} EPERM",
    "kill": "EPERM",
    "landlock_create_ruleset": "ENOSYS EOPNOTSUPP",
    "landlock_restrict_self": "EPERM E2BIG",
    "listen": "EADDRINUSE",
    "lseek": "EOVERFLOW",
    "madvise": MEMORY,
    "memfd_create": f"{FULL} {MEMORY}",
    "mkdir": "EACCES ENOSPC EROFS",
    "mmap": f"{MEMORY} EAGAIN",
    "mount": f"EPERM {MEMORY}",
    "mprotect": MEMORY,
    "newfstatat": f"EACCES EIO {MEMORY}",
    "openat": f"EACCES EIO ENFILE EMFILE {MEMORY}",
    "pidfd_open": f"{FULL} {MEMORY} ENOSYS",
    "pipe2": FULL,
    "pivot_root": "EPERM",
    "poll": f"EINTR {MEMORY}",
    "ppoll": f"EINTR {MEMORY}",
    "prctl": "EPERM EINVAL",
    "pread64": "EIO",
    "prlimit64": "EPERM",
    "pwrite64": "ENOSPC EIO",
    "read": f"EIO EINTR {MEMORY}",
    "readlink": f"EACCES {MEMORY}",
    "readlinkat": f"EACCES {MEMORY}",
    "recvfrom": f"ECONNRESET EINTR ENOBUFS {MEMORY}",
    "recvmsg": f"EINTR ENOBUFS {MEMORY}",
    "rename": "EACCES ENOSPC",
    "sched_getaffinity": "EPERM",
    "sched_setaffinity": "EPERM",
    "seccomp": f"{MEMORY} EACCES",
    "sendmsg": f"EAGAIN ENOBUFS {MEMORY} EPERM",
    "sendto": f"EAGAIN ENOBUFS {MEMORY} EPERM",
    "setgroups": f"EPERM {MEMORY}",
    "setpgid": "EPERM",
    "setresgid": "EPERM",
    "setresuid": "EAGAIN EPERM",
    "setsockopt": f"ENOBUFS {MEMORY} EPERM ENODEV",
    "socket": f"{FULL} ENOBUFS EPERM EAFNOSUPPORT",
    "socketpair": FULL,
    "umount2": "EBUSY EPERM",
    "uname": "EPERM",
    "unlink": "EACCES EROFS",
    "unshare": f"EPERM ENOSPC {MEMORY}",
    "vfork": f"EAGAIN {MEMORY}",
    "wait4": "ECHILD EINTR",
    "write": "EAGAIN EIO ENOSPC EPIPE",
    "writev": f"EAGAIN ENOBUFS ENETUNREACH EPERM {MEMORY}",
}
# What cannot fail, what only a bug makes fail, or what the C library or the interpreter ends for.
NEVER = frozenset(
    (
        *("access", "arch_prctl", "brk", "execve", "exit", "exit_group", "futex", "getegid"),
        *("geteuid", "getgid", "getpid", "getppid", "getresgid", "getresuid", "gettid", "getuid"),
        *("munmap", "restart_syscall", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn"),
        *("sched_yield", "set_robust_list", "set_tid_address", "sigaltstack", "sysinfo", "umask"),
    )
)


def counts(path: Path) -> dict[str, int]:
    """What strace -c has counted: how often each call was made."""
    found = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) == 2 and words[1].isdigit() and words[0] != "total":
            found[words[0]] = int(words[1])
    return found


@contextlib.contextmanager
def counted(path: Path) -> Iterator[tuple[str, ...]]:
    """A program: mcrd, with its calls counted by strace(1), which `path` has at the end."""
    count = ("strace", "-D", "-f", "-c", "-U", "name,calls", "-o", str(path))
    yield (*count, console_script("mcrd"))
    wait_for(lambda: path.exists() and counts(path), "what strace has counted")


def of_the_interpreter(world: World) -> dict[str, int]:
    """The calls before any code of the daemon's runs: nothing can be done about those."""
    path, program = world.file("interpreter"), world.file("begins.py")
    program.write_text("import sys\nfrom mcrd.cli.mcrd import main\n")
    count = ("strace", "-f", "-c", "-U", "name,calls", "-o", str(path))
    subprocess.run([*count, sys.executable, str(program)], check=True)
    return counts(path)


def started(world: World, engine: str) -> dict[str, int]:
    """The calls of a start, of supervisor and worker together."""
    path = world.file("start")
    with counted(path) as program:
        world.lab.mcrd(world.relay, by_engine(A, engine), program=program).stop()
    return counts(path)


def worked(world: World, engine: str) -> dict[str, int]:
    """The calls of a start, and of all that happens while it runs."""
    path = world.file("run")
    with counted(path) as program:
        daemon = world.lab.mcrd(world.relay, by_engine(A, engine), program=program)
        world.happen(daemon, by_engine(A + B, engine))
        daemon.stop()
    return counts(path)
