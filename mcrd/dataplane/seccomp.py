"""What a worker may ask of the kernel: a table, and the program of classic BPF made of it.

seccomp(2). The program runs for every system call; what is in no row ends the worker, with a line
that names the call.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import mmap
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcrd.dataplane._dataplane import lib

ALLOW = 0x7FFF0000  # linux/seccomp.h
TRAP = 0x00030000
REFUSE = 0x00050000 | errno.EPERM  # without a number the call would seem to have succeeded

CHANNEL, STDERR = 0, 2
FILES_UPDATE = 6  # IORING_REGISTER_FILES_UPDATE, linux/io_uring.h
SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h


@dataclass(frozen=True)
class Argument:
    """The call's argument of that number, as far as `mask` goes, is one of `values`."""

    number: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True)
class Row:
    """A system call by name, and what is done about it when all of the arguments are as given.

    Of several rows for one call, the first that fits counts.
    """

    call: str
    action: int = ALLOW
    where: tuple[Argument, ...] = ()


def _is(number: int, *values: int) -> Argument:
    return Argument(number, values)


_NO_CODE = Argument(2, (0,), mmap.PROT_EXEC)
_PRIVATE = _is(3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

_IO_URING = (
    Row("io_uring_enter"),
    Row("io_uring_register", where=(_is(1, FILES_UPDATE),)),
    Row("writev", where=(_is(0, STDERR),)),  # the C library while it aborts
)
_RECEIVES = (0, socket.MSG_PEEK, socket.MSG_CMSG_CLOEXEC)
_POLL = (
    Row("writev"),  # no address can be named
    Row("write", where=(_is(2, 0),)),  # an empty datagram, of which writev() makes none
    Row("ppoll"),
    Row("recvmsg", where=(_is(2, *(socket.MSG_DONTWAIT | more for more in _RECEIVES)),)),
    Row("epoll_ctl"),  # which of its sockets are listened at: answers.h
    Row("epoll_pwait"),
)

_ALL = (
    # The loop, beside its engine.
    Row("setsockopt", where=(_is(1, SOL_UDP), _is(2, UDP_SEGMENT))),
    Row("clock_gettime"),  # where the vDSO has no clock to read: some virtual machines
    # Messages; and what the interpreter says when something is wrong.
    Row("write", where=(_is(0, CHANNEL, STDERR),)),
    Row("close"),
    # Memory, none of which is shared or ever executable.
    Row("brk"),
    Row("mmap", where=(_NO_CODE, _PRIVATE)),
    Row("munmap"),
    Row("mremap"),
    Row("madvise"),
    # Going on after a stop, and ending.
    Row("restart_syscall"),
    Row("rt_sigreturn"),
    Row("exit_group"),
    # The interpreter tries these while it writes a traceback, the C library while it aborts: to
    # end it there would lose what they have to say.
    *(
        Row(call, REFUSE)
        for call in (
            *("openat", "newfstatat", "fstat", "statx", "readlinkat", "faccessat", "faccessat2"),
            *("open", "stat", "lstat", "readlink", "access", "getcwd", "lseek", "getdents64"),
            *("ioctl", "fcntl", "futex", "getrandom", "sysinfo", "sched_yield", "prlimit64"),
            *("rt_sigaction", "rt_sigprocmask", "sigaltstack", "getpid", "gettid", "tgkill"),
        )
    ),
)

RULES = {"io_uring": (*_IO_URING, *_ALL), "poll": (*_POLL, *_ALL)}
"""By the worker's engine."""

# struct sock_filter: code, jump if true, jump if false, k (linux/filter.h).
_LOAD, _AND, _IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
# struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_Instruction = tuple[int, int, int, int]


def program(rules: Iterable[Row]) -> bytes:
    """The table as an array of struct sock_filter.

    Calls that this machine's architecture does not have are left out. Of an argument the lower
    half is looked at, which is all that the kernel takes of those that are named here.
    """
    made: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, lib.sandbox_architecture()),
        (_RETURN, 0, 0, TRAP),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for row in rules:
        number = lib.sandbox_system_call(row.call.encode())
        if number < 0:
            continue
        block = [*_arguments(row.where), (_RETURN, 0, 0, row.action)]
        if row.where:
            block.append((_LOAD, 0, 0, _NUMBER))  # another row may be for the same call
        made += ((_IF_EQUAL, 0, len(block), number), *block)
    made.append((_RETURN, 0, 0, TRAP))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in made)


def _arguments(where: Sequence[Argument]) -> list[_Instruction]:
    """Go on behind the end if all arguments are as given, else one instruction further."""
    made: list[_Instruction] = []
    for argument in reversed(where):
        fails = len(made) + 1  # from behind the last comparison
        compare: list[_Instruction] = [
            (_IF_EQUAL, left, 0 if left else fails, value)
            for left, value in zip(
                range(len(argument.values) - 1, -1, -1), argument.values, strict=True
            )
        ]
        head: list[_Instruction] = [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument.number)]
        if argument.mask != 0xFFFFFFFF:
            head.append((_AND, 0, 0, argument.mask))
        made = [*head, *compare, *made]
    return made
