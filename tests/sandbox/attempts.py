"""What somebody who runs code in a worker would try. Each function returns when it got its way.

They run inside a worker, after everything is loaded: no imports in them, and nothing but system
calls by number. What is refused raises OSError, or ends the process.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any

from mcrd.dataplane._dataplane import lib

from mcrd.dataplane import messages

ELSEWHERE = ("10.2.0.2", 7777)
"""The sink, but a port of it that no output of the worker goes to."""

SOCK_DGRAM, SOCK_RAW = socket.SOCK_DGRAM, socket.SOCK_RAW
AF_UNIX, AF_INET, AF_INET6 = socket.AF_UNIX, socket.AF_INET, socket.AF_INET6
AF_NETLINK, AF_PACKET = socket.AF_NETLINK, socket.AF_PACKET
OTHER_FAMILIES = sorted(set(range(64)) - {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET})

RWX = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
RW = mmap.PROT_READ | mmap.PROT_WRITE
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
AT_FDCWD = -100

# linux/io_uring.h
SEND, SENDMSG, SEND_ZC, WRITEV, RECVMSG = 26, 9, 47, 2, 10
FIXED_FILE, IO_DRAIN, IO_LINK, IO_HARDLINK, ASYNC, BUFFER_SELECT, SKIP_SUCCESS = (
    1 << n for n in range(7)
)
OPERATIONS = range(64)
OF_THE_LOOP = (2, 6, 10, 11, 14)  # WRITEV, POLL_ADD, RECVMSG, TIMEOUT, ASYNC_CANCEL
REGISTERS = range(40)
FILES_UPDATE = 6

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass
class Inside:
    """A worker from inside: `worker` is the address of its struct, `parent` the supervisor's id."""

    worker: int
    parent: int
    helper: Any

    @property
    def egress(self) -> int:
        """The descriptor of its egress socket."""
        return int(self.helper.inside_egress(ctypes.c_void_p(self.worker)))

    @property
    def ring(self) -> int:
        """The descriptor of its io_uring."""
        return int(self.helper.inside_ring(ctypes.c_void_p(self.worker)))

    def submit(self, entry: bytes) -> int:
        """The result of one operation of its io_uring: `entry` is a struct io_uring_sqe."""
        return int(self.helper.inside_submit(ctypes.c_void_p(self.worker), entry))

    def register(self, operation: int, argument: bytes = bytes(256), count: int = 1) -> int:
        """io_uring_register() on its io_uring."""
        where = ctypes.create_string_buffer(argument, max(256, len(argument)))
        return int(
            self.helper.inside_register(ctypes.c_void_p(self.worker), operation, where, count)
        )


def call(name: str, *arguments: Any) -> int:
    """A system call; raises OSError."""
    number = lib.sandbox_system_call(name.encode())
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    given += [ctypes.c_long(0)] * (6 - len(given))
    result = int(_libc.syscall(ctypes.c_long(number), *given))
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def _address(address: str, port: int) -> bytes:
    packed = ip_address(address).packed
    return struct.pack("=HH4s8x", AF_INET, socket.htons(port), packed)


THERE = _address(*ELSEWHERE)
NULL = ctypes.c_void_p(None)
_PAYLOAD = ctypes.create_string_buffer(b"stolen", 6)
_NAME = ctypes.create_string_buffer(THERE, len(THERE))
_IOVEC = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(_PAYLOAD), 6), 16)
# struct msghdr of a 64-bit machine.
_MESSAGE = ctypes.create_string_buffer(
    struct.pack(
        "=QI4xQQQQI4x",
        *(ctypes.addressof(_NAME), len(THERE), ctypes.addressof(_IOVEC), 1, 0, 0, 0),
    ),
    56,
)
_MMSG = ctypes.create_string_buffer(_MESSAGE.raw + bytes(8), 64)
_TRUE = ctypes.create_string_buffer(b"/bin/true")
_ARGV = (ctypes.c_char_p * 2)(b"/bin/true", None)
_SPACE = ctypes.create_string_buffer(1 << 16)


def _open(path: str, flags: int = 0) -> Callable[[Inside], None]:
    def attempt(_: Inside) -> None:
        call("openat", AT_FDCWD, path.encode(), flags, 0o600)

    return attempt


def _socket(family: int, kind: int, protocol: int = 0) -> Callable[[Inside], None]:
    def attempt(_: Inside) -> None:
        call("socket", family, kind, protocol)

    return attempt


def _other_sockets(_: Inside) -> None:
    failed: OSError | None = None
    for family in OTHER_FAMILIES:
        for kind in (SOCK_DGRAM, SOCK_RAW, socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            try:
                call("socket", family, kind, 0)
            except OSError as error:
                failed = error
            else:
                return
    assert failed is not None
    raise failed


def _reach(_: Inside) -> None:
    call("sendto", call("socket", AF_INET, SOCK_DGRAM, 0), _PAYLOAD, 6, 0, THERE, len(THERE))


def _plain(name: str, *arguments: Any) -> Callable[[Inside], None]:
    def attempt(_: Inside) -> None:
        call(name, *arguments)

    return attempt


def _supervisor(
    name: str, *arguments: Any, before: tuple[Any, ...] = ()
) -> Callable[[Inside], None]:
    def attempt(inside: Inside) -> None:
        call(name, *before, inside.parent, *arguments)

    return attempt


def _option(level: int, option: int, value: bytes) -> Callable[[Inside], None]:
    def attempt(inside: Inside) -> None:
        call("setsockopt", inside.egress, level, option, value, len(value))

    return attempt


def _on_egress(name: str, *arguments: Any) -> Callable[[Inside], None]:
    def attempt(inside: Inside) -> None:
        call(name, inside.egress, *arguments)

    return attempt


def _fork(_: Inside) -> None:
    if call("clone", 17, 0, 0, 0, 0) == 0:  # SIGCHLD
        os._exit(0)


def _clone3(_: Inside) -> None:
    arguments = struct.pack("=8Q", 0, 0, 0, 0, 17, 0, 0, 0)
    if call("clone3", arguments, len(arguments)) == 0:
        os._exit(0)


def _read_supervisor(inside: Inside) -> None:
    remote = struct.pack("=QQ", ctypes.addressof(_SPACE), 8)
    local = struct.pack("=QQ", ctypes.addressof(_SPACE), 8)
    try:
        call("process_vm_readv", inside.parent, local, 1, remote, 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:  # it looked, and this address is not there
            raise


def _steal_descriptor(inside: Inside) -> None:
    call("pidfd_getfd", call("pidfd_open", inside.parent, 0), 0, 0)


def _enter_network(inside: Inside) -> None:
    call("setns", call("pidfd_open", inside.parent, 0), 0x40000000)


def _may(name: str, *arguments: Any, then: int) -> Callable[[Inside], None]:
    """Asks for what makes no sense: `then` is the error of those who may ask."""

    def attempt(_: Inside) -> None:
        try:
            call(name, *arguments)
        except OSError as error:
            if error.errno != then:
                raise

    return attempt


def _create(_: Inside) -> None:
    path = b"/tmp/mcrd-was-here"
    call("openat", AT_FDCWD, path, os.O_CREAT | os.O_WRONLY, 0o600)
    call("unlinkat", AT_FDCWD, path, 0)


def _share_memory(_: Inside) -> None:
    call("shmctl", call("shmget", 0, 4096, 0o1600), 0, 0)


def _descriptors() -> list[int]:
    return list(range(256))


def _find_packet_socket(_: Inside) -> None:
    domain, size = ctypes.create_string_buffer(4), ctypes.create_string_buffer(4)
    refused = errno.ENOENT
    for descriptor in _descriptors():
        size.raw = struct.pack("=i", 4)
        try:
            call("getsockopt", descriptor, socket.SOL_SOCKET, 39, domain, size)  # SO_DOMAIN
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ENOTSOCK):
                refused = error.errno or 0
            continue
        if struct.unpack("=i", domain.raw)[0] == AF_PACKET:
            return
    raise OSError(refused, "no packet socket is held")


def _frame() -> bytes:
    """An Ethernet frame for all, with ten bytes before it that PACKET_VNET_HDR asks for."""
    return bytes(10) + b"\xff" * 6 + bytes.fromhex("020000000001") + b"\x88\xb5" + bytes(46)


def _inject(inside: Inside) -> None:
    """By each descriptor that is nothing else, as nobody need know which it is."""
    frame = _frame()
    failed = OSError(errno.ENOENT, "no packet socket is held")
    for descriptor in _descriptors()[3:]:
        if descriptor == inside.egress:
            continue
        try:
            call("write", descriptor, frame, len(frame))
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EINVAL):
                failed = error
        else:
            return
    raise failed


def _on_packet_socket(option: int, value: bytes) -> Callable[[Inside], None]:
    """By each descriptor as well: SOL_PACKET fits packet sockets alone."""

    def attempt(_: Inside) -> None:
        failed = OSError(errno.ENOENT, "no packet socket is held")
        for descriptor in _descriptors():
            try:
                call("setsockopt", descriptor, 263, option, value, len(value))
            except OSError as error:
                if error.errno not in (errno.EBADF, errno.ENOTSOCK, errno.ENOPROTOOPT):
                    failed = error
            else:
                return
        raise failed

    return attempt


def _unfilter_packet_socket(inside: Inside) -> None:
    failed = OSError(errno.ENOENT, "no packet socket is held")
    for descriptor in _descriptors():
        if descriptor == inside.egress:
            continue
        try:
            call("setsockopt", descriptor, socket.SOL_SOCKET, 27, bytes(4), 4)  # SO_DETACH_FILTER
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ENOTSOCK, errno.ENOENT):
                failed = error
        else:
            return
    raise failed


def _receive(inside: Inside) -> None:
    try:
        call("recvfrom", inside.egress, _SPACE, 100, socket.MSG_DONTWAIT, NULL, NULL)
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise


def _connect_ring(inside: Inside) -> None:
    """A write by the ring, which is allowed, to where connect(2) has led the socket."""
    call("connect", inside.egress, THERE, len(THERE))
    entry = _entry(WRITEV, fd=_place(inside), address=ctypes.addressof(_IOVEC), length=1)
    _check(inside.submit(entry))


def _place(inside: Inside) -> int:
    return int(inside.helper.inside_place())


def _entry(
    operation: int,
    *,
    flags: int = FIXED_FILE,
    fd: int = 0,
    offset: int = 0,
    address: int = 0,
    length: int = 0,
    options: int = 0,
    address_length: int = 0,
) -> bytes:
    head = struct.pack("=BBHiQQII", operation, flags, 0, fd, offset, address, length, options)
    return (head + struct.pack("=QHHHHQQ", 0, 0, 0, address_length, 0, 0, 0)).ljust(64, b"\0")[:64]


def _send_by_ring(operation: int, flags: int = FIXED_FILE) -> Callable[[Inside], None]:
    def attempt(inside: Inside) -> None:
        if operation == SENDMSG:
            what = {"address": ctypes.addressof(_MESSAGE), "length": 1}
        else:
            what = {
                "address": ctypes.addressof(_PAYLOAD),
                "length": 6,
                "offset": ctypes.addressof(_NAME),
                "address_length": len(THERE),
            }
        fd = _place(inside) if flags & FIXED_FILE else inside.egress
        _check(inside.submit(_entry(operation, flags=flags, fd=fd, **what)))

    return attempt


def _plain_file_by_ring(inside: Inside) -> None:
    entry = _entry(WRITEV, flags=0, fd=inside.egress, address=ctypes.addressof(_IOVEC), length=1)
    _check(inside.submit(entry))


def _is_looked_at(inside: Inside, entry: bytes) -> None:
    """For a place of the table at which there is no file: another error than these will come."""
    result = inside.submit(entry)
    # That it does not like what it is given says that it looked; EINVAL may come before that.
    if result in (-errno.EACCES, -errno.EINVAL, -errno.EPERM):
        raise OSError(-result, "operation")


def _operation(number: int) -> Callable[[Inside], None]:
    return partial(_is_looked_at, entry=_entry(number, fd=1000))


def _flag(flag: int) -> Callable[[Inside], None]:
    what = ctypes.addressof(_MESSAGE)
    entry = _entry(RECVMSG, flags=FIXED_FILE | flag, fd=1000, address=what, length=1)
    return partial(_is_looked_at, entry=entry)


def _register(number: int) -> Callable[[Inside], None]:
    def attempt(inside: Inside) -> None:
        result = inside.register(number)
        if result in (-errno.EACCES, -errno.EPERM, -errno.EINVAL, -errno.EEXIST, -errno.EBADFD):
            raise OSError(-result, "register")

    return attempt


def _second_ring(_: Inside) -> None:
    call("io_uring_setup", 8, ctypes.create_string_buffer(120))


def _map(protection: int) -> int:
    return call("mmap", 0, 4096, protection, ANONYMOUS, -1, 0)


def _executable_memory(_: Inside) -> None:
    _map(RWX)


def _make_executable(_: Inside) -> None:
    call("mprotect", _map(RW), 4096, RWX)


def _exhaust_memory(_: Inside) -> None:
    for _number in range(64):
        call("mmap", 0, 64 << 20, RW, ANONYMOUS | 0x4000, -1, 0)  # MAP_NORESERVE: none is touched


def _grow_down(_: Inside) -> None:
    call("mmap", 0, 1 << 30, RW, ANONYMOUS | 0x100, -1, 0)  # MAP_GROWSDOWN: no data, for the kernel


def _map_nothing_much(_: Inside) -> None:
    call("mmap", 0, 1 << 40, mmap.PROT_READ, ANONYMOUS, -1, 0)  # but page tables


def _grow_a_page(_: Inside) -> None:
    call("mremap", _map(RW), 4096, 1 << 30, 1)


def _grow_heap(_: Inside) -> None:
    begin = call("brk", 0)
    if call("brk", begin + (1 << 30)) == begin:
        raise OSError(errno.ENOMEM, "brk")


def _exhaust_descriptors(inside: Inside) -> None:
    for _number in range(100):
        call("dup", inside.ring)


def _again_root(_: Inside) -> None:
    call("setresuid", 0, 0, 0)


def _all_capabilities(_: Inside) -> None:
    header = struct.pack("=Ii", 0x20080522, 0)
    call("capset", header, struct.pack("=6I", *([1 << 13] * 3), 0, 0, 0))  # CAP_NET_RAW


def _read_memory_map(_: Inside) -> None:
    call("read", call("openat", AT_FDCWD, b"/proc/self/maps", 0, 0), _SPACE, 100)


def _read_environment(inside: Inside) -> None:
    path = f"/proc/{inside.parent}/environ".encode()
    call("read", call("openat", AT_FDCWD, path, 0, 0), _SPACE, 100)


_BPF_MAP = struct.pack("=IIII", 2, 4, 8, 1) + bytes(56)  # an array of one
_GROUP = struct.pack("=4s4si", bytes([239, 9, 9, 9]), bytes([10, 2, 0, 1]), 0)
_PERF = struct.pack("=IIQ", 1, 128, 0) + bytes(112)  # the CPU's clock, in software

ATTEMPTS: dict[str, Callable[[Inside], None]] = {
    # Files.
    "open a file": _open("/etc/passwd"),
    "open the root directory": _open("/", os.O_DIRECTORY),
    "create a file": _create,
    "stat a file": _plain("newfstatat", AT_FDCWD, b"/etc/passwd", _SPACE, 0),
    "readlink": _plain("readlinkat", AT_FDCWD, b"/proc/self/exe", _SPACE, 100),
    "read its own memory map in /proc": _read_memory_map,
    "read the supervisor's environment in /proc": _read_environment,
    "make a file in memory": _plain("memfd_create", b"x", 0),
    "chroot": _plain("chroot", b"/"),
    # Processes.
    "exec": _plain("execve", _TRUE, _ARGV, NULL),
    "fork": _fork,
    "clone3": _clone3,
    "ptrace the supervisor": _supervisor("ptrace", 0, 0, before=(0x4206,)),  # PTRACE_SEIZE
    "read the supervisor's memory": _read_supervisor,
    "take a descriptor of the supervisor's": _steal_descriptor,
    "kill the supervisor": _supervisor("kill", 23),  # SIGURG: nothing happens
    "kill all that it can": _plain("kill", -1, 0),
    "kill a thread of the supervisor": _supervisor("tkill", 23),
    "change the supervisor's limits": _supervisor("prlimit64", 4, NULL, _SPACE),
    "change its own scheduling": _plain("sched_setscheduler", 0, 3, struct.pack("=i", 0)),
    "handle SIGSYS itself": _plain("rt_sigaction", 31, NULL, _SPACE, 8),
    "be dumpable again": _plain("prctl", 4, 1, 0, 0, 0),
    "be root again": _again_root,
    "have CAP_NET_RAW again": _all_capabilities,
    # Sockets of its own.
    "socket AF_UNIX": _socket(AF_UNIX, SOCK_DGRAM),
    "socket AF_INET": _socket(AF_INET, SOCK_DGRAM),
    "socket AF_INET6": _socket(AF_INET6, SOCK_DGRAM),
    "socket AF_NETLINK": _socket(AF_NETLINK, SOCK_RAW),
    "socket AF_PACKET": _socket(AF_PACKET, SOCK_RAW, socket.htons(3)),
    "socket of any other family": _other_sockets,
    "reach another host by a socket of its own": _reach,
    "socketpair": _plain("socketpair", AF_UNIX, SOCK_DGRAM, 0, _SPACE),
    # Packet sockets.
    "find a packet socket": _find_packet_socket,
    "inject a frame": _inject,
    "remove a packet socket's filter": _unfilter_packet_socket,
    "promiscuous mode": _on_packet_socket(1, struct.pack("=iHH8s", 1, 1, 0, b"")),
    # The egress socket.
    "connect the egress socket elsewhere": _on_egress("connect", THERE, len(THERE)),
    "connect elsewhere and write by the ring": _connect_ring,
    "sendto another address": _on_egress("sendto", _PAYLOAD, 6, 0, THERE, len(THERE)),
    "sendmsg to another address": _on_egress("sendmsg", _MESSAGE, 0),
    "sendmmsg to another address": _on_egress("sendmmsg", _MMSG, 1, 0),
    "send": _on_egress("sendto", _PAYLOAD, 6, 0, NULL, 0),
    "write beside the ring": _on_egress("write", _PAYLOAD, 6),
    "receive from the egress socket": _receive,
    "shut the egress socket down": _on_egress("shutdown", 2),
    "join a group": _option(0, 35, _GROUP),
    "change the TTL": _option(0, 2, struct.pack("=i", 99)),
    "change the multicast TTL": _option(0, 33, struct.pack("=i", 99)),
    "change the TOS": _option(0, 1, struct.pack("=i", 0xB8)),
    "unbind it from its device": _option(1, 25, bytes(16)),
    "remove its filter": _option(1, 27, struct.pack("=i", 0)),
    # io_uring.
    "a second io_uring": _second_ring,
    "io_uring SEND with an address": _send_by_ring(SEND),
    "io_uring SENDMSG with an address": _send_by_ring(SENDMSG),
    "io_uring SEND_ZC with an address": _send_by_ring(SEND_ZC),
    "io_uring SENDMSG on a plain descriptor": _send_by_ring(SENDMSG, 0),
    "io_uring WRITEV on a plain descriptor": _plain_file_by_ring,
    "io_uring flag IO_DRAIN": _flag(IO_DRAIN),
    "io_uring flag IO_HARDLINK": _flag(IO_HARDLINK),
    "io_uring flag ASYNC": _flag(ASYNC),
    "io_uring flag BUFFER_SELECT": _flag(BUFFER_SELECT),
    "io_uring flag CQE_SKIP_SUCCESS": _flag(SKIP_SUCCESS),
    # Memory.
    "executable memory": _executable_memory,
    "make memory executable": _make_executable,
    "exhaust memory": _exhaust_memory,
    "exhaust memory by brk": _grow_heap,
    "exhaust memory by mremap": _grow_a_page,
    "exhaust memory by what grows down": _grow_down,
    "exhaust page tables": _map_nothing_much,
    "lock memory": _plain("mlockall", 2),
    "exhaust descriptors": _exhaust_descriptors,
    "eventfd": _plain("eventfd2", 0, 0),
    "pipe": _plain("pipe2", _SPACE, 0),
    "shared memory of System V": _share_memory,
    # Namespaces and the kernel at large.
    "a user namespace": _plain("unshare", 0x10000000),
    "a network namespace": _plain("unshare", 0x40000000),
    "enter the supervisor's network namespace": _enter_network,
    "mount": _may("mount", b"none", b"/", b"mcrd-no-such", 0, NULL, then=errno.ENODEV),
    "set the host name": _may("sethostname", b"", 1000, then=errno.EINVAL),
    "bpf": _plain("bpf", 0, _BPF_MAP, len(_BPF_MAP)),
    "keyctl": _plain("keyctl", 0, -3, 1),  # its session's keyring
    "add a key": _plain("add_key", b"user", b"x", b"y", 1, -2),
    "perf_event_open": _plain("perf_event_open", _PERF, 0, -1, -1, 0),
    "userfaultfd": _plain("userfaultfd", 0),
    "read the kernel's log": _plain("syslog", 3, _SPACE, 100),
    "another personality": _plain("personality", 0x0040000),
    "asynchronous I/O of the old kind": _plain("io_setup", 1, ctypes.create_string_buffer(8)),
}


IN_A_ROW: dict[str, Callable[[Inside], None]] = {
    f"io_uring operation {n}": _operation(n) for n in OPERATIONS if n not in OF_THE_LOOP
}
"""Those that can follow each other in one worker."""


def _ask_for_a_member(_: Inside) -> None:
    os.write(0, _MEMBER)


_MEMBER = messages.encode(
    messages.Wanted(
        [messages.MemberKey(0, messages.Endpoint(ip_address(ELSEWHERE[0]).packed, 7777), None)]
    )
)

OF_THE_SUPERVISOR: dict[str, Callable[[Inside], None]] = {
    "ask for a member that is none": _ask_for_a_member,
}
"""Those that only a supervisor can refuse."""

ALONE: dict[str, Callable[[Inside], None]] = {
    **ATTEMPTS,
    **{f"io_uring register {n}": _register(n) for n in REGISTERS if n != FILES_UPDATE},
}
"""Those that each need a worker of their own."""

WITHOUT_RING = [
    name for name in ALONE if not name.startswith(("io_uring flag", "io_uring S", "io_uring W"))
]
"""Those that a worker without an io_uring can make: the others would not even find one."""

ALL = {**ALONE, **IN_A_ROW}
