"""What really was on the wire: a packet socket, with a filter in the language of tcpdump.

Not tcpdump itself. It opens its ring before it has its filter, so what arrives in between is
counted as received and never written: nobody can tell from its counts when it has written all. And
it has to be waited for. Here the filter is there before the first frame, and what the kernel has
seen is in the socket, whether anybody reads or not.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Literal

from tests.lab.processes import PATIENCE, LabError

if TYPE_CHECKING:
    from tests.lab.network import Host

Direction = Literal["in", "out", "inout"]

HOPS = 3  # cables and bridges between who sends and who captures
ROOM = 128 << 20  # bytes: 100,000 small frames and more

# linux/if_packet.h, asm-generic/socket.h
ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP, PACKET_STATISTICS, PACKET_AUXDATA = 1, 6, 8
PACKET_MR_PROMISC = 1
AUXDATA = struct.Struct("=IIIHHHH")  # status, length, kept, link, network, tag, its EtherType
VLAN_VALID, VLAN_TYPE_VALID = 0x10, 0x40


class Capture:
    """A running capture on an interface of a host. Made by `Host.capture`."""

    def __init__(
        self, host: Host, interface: str, filter_: str, direction: Direction, largest: int
    ) -> None:
        self._host = host
        self._where = f"{interface} of {host.name}"
        self._direction = direction
        self._largest = largest
        self._frames: list[bytes] = []
        program = _compile(host, interface, filter_)
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW)  # of no protocol: deaf
        host.lab.close_at_end(self._socket)
        _attach(self._socket, program)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        with host.inside():
            index = socket.if_nametoindex(interface)
        everything = struct.pack("=iHH8s", index, PACKET_MR_PROMISC, 0, b"")
        self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, everything)
        self._socket.bind((interface, ETH_P_ALL))

    def frames(self) -> list[bytes]:
        """All frames that the kernel has seen up to now, in order, from the Ethernet header on."""
        if self._socket.fileno() >= 0:
            self._read()
        return list(self._frames)

    def stop(self) -> list[bytes]:
        """As frames(), with what was sent and is still on its way; ends the capture."""
        _let_arrive(self._host)
        frames = self.frames()
        self._socket.close()
        return frames

    def _read(self) -> None:
        while True:
            try:
                frame, said, flags, where = self._socket.recvmsg(
                    self._largest, socket.CMSG_SPACE(AUXDATA.size)
                )
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # it may come up again
                    raise
                continue
            if flags & socket.MSG_TRUNC:
                raise LabError(
                    f"a frame on {self._where} has more than {self._largest} bytes:"
                    " capture with largest="
                )
            if self._direction == "inout" or (
                (where[2] == socket.PACKET_OUTGOING) == (self._direction == "out")
            ):
                self._frames.append(_with_tag(frame, said))
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        if dropped := struct.unpack("=II", statistics)[1]:
            raise LabError(f"the capture on {self._where} had no room for {dropped} frames")


def _let_arrive(host: Host) -> None:
    """Returns when the kernel has delivered what had been sent before.

    A cable puts a frame into a queue of the CPU that sends, which another thread of the kernel may
    be the one to empty. So does the loopback interface: what is behind it there comes after it.
    """
    cpus = os.sched_getaffinity(0)
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        sock.settimeout(PATIENCE)
        try:
            for cpu in list(cpus) * HOPS:
                os.sched_setaffinity(0, {cpu})
                sock.send(b"")
                sock.recv(1)
        finally:
            os.sched_setaffinity(0, cpus)


def _compile(host: Host, interface: str, filter_: str) -> bytes:
    """The program of a filter, for this interface: where its tags are depends on that."""
    text = host.run("tcpdump", "-ddd", "-p", "-i", interface, filter_)
    lines = [[int(number) for number in line.split()] for line in text.splitlines()]
    return b"".join(struct.pack("=HBBI", *line) for line in lines[1:])


def _attach(sock: socket.socket, program: bytes) -> None:
    kept = ctypes.create_string_buffer(program, len(program))
    where = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, where)


def _with_tag(frame: bytes, said: list[tuple[int, int, bytes]]) -> bytes:
    """The frame with the VLAN tag that the kernel has taken out of it."""
    for level, kind, data in said:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, *_, tag, ether_type = AUXDATA.unpack(data)
            if status & VLAN_VALID:
                known = ether_type if status & VLAN_TYPE_VALID else 0x8100
                return frame[:12] + struct.pack("!HH", known, tag) + frame[12:]
    return frame
