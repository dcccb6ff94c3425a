"""What the kernel says of ways to hosts: routes and neighbours, asked and heard of (rtnetlink(7)).

Read by hand: a routing daemon may change ten thousand routes in a second.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from mcrd.model import Address
from mcrd.sockets.common import or_close
from mcrd.sockets.netlink import attributes
from mcrd.spent import Spent

# linux/netlink.h, linux/rtnetlink.h, linux/neighbour.h
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_F_FIB_MATCH = 0x2000
RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_MULTIPATH = 1, 2, 4, 5, 7, 9
RTA_VIA, RTA_IP_PROTO, RTA_SPORT, RTA_DPORT = 18, 27, 28, 29
RTN_UNICAST, RTN_LOCAL = 1, 2
RTN_REFUSING = {6: errno.EINVAL, 7: errno.EHOSTUNREACH, 8: errno.EACCES, 9: errno.ENETUNREACH}
"""Types of routes that nothing is sent to, and what a program is told that sends there."""
NDA_DST = 1
NUD_INCOMPLETE, NUD_FAILED = 0x01, 0x20

# Groups of changes: neighbours, routes and rules of both versions of IP, next hops.
_GROUPS = 0x4 | 0x40 | 0x400 | 0x80 | 1 << 18 | 1 << 31
_ROOM = 1 << 20  # bytes that wait to be read; the kernel may give less
_AT_ONCE = 64  # questions in one message: their answers have to wait in the socket
_VERSIONS: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}


class Question(NamedTuple):
    """What the kernel is asked for: the way of a datagram that is sent from here.

    `over` is the index of an interface; None: over any. `source` None: the kernel chooses. Ports
    are None where they are not known; rules of `ip rule` may go by them. `enslaved` are the
    interfaces of `over`, if that is a VRF device: routes of the VRF lead over them.
    """

    address: Address
    over: int | None = None
    source: Address | None = None
    dscp: int = 0
    protocol: int = socket.IPPROTO_UDP
    port: int | None = None
    source_port: int | None = None
    enslaved: frozenset[int] = frozenset()


class Route(NamedTuple):
    """The answer. `error` is an errno, 0 for none; `over` the index of an interface.

    With ENETUNREACH, `over` is the one that the route leads over instead; 0: there is no route.

    `hop` is the neighbour that comes next: a router, or the host; None where there is none.
    """

    error: int = 0
    over: int = 0
    hop: Address | None = None
    source: Address | None = None


class Change(NamedTuple):
    """What changed: routes to `size` addresses from `first` on, or a neighbour.

    `over` is the index of the interface of the neighbour `first`; 0: it is about routes.
    """

    version: int
    first: int
    size: int
    over: int = 0


class _Netlink:
    """A socket for routes and neighbours, which never waits."""

    def __init__(self) -> None:
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class RouteQueries(_Netlink):
    """Asks. The kernel has answered when it has taken the question: nothing waits."""

    def __init__(self) -> None:
        super().__init__()
        self._sequence = 0

    def routes(self, questions: Sequence[Question]) -> Iterator[Route]:
        """The answer to each question, in their order; raises OSError."""
        bodies = [(RTM_GETROUTE, _route_question(question)) for question in questions]
        for question, (kind, body) in zip(questions, self._ask(bodies), strict=True):
            yield read_route(question, kind, body)

    def neighbours(self, hops: Sequence[tuple[int, Address]]) -> Iterator[int | None]:
        """The state of each neighbour, NUD_ of ip-neighbour(8); None: it is not known.

        Each is the index of an interface and an address. Raises OSError.
        """
        bodies = [(RTM_GETNEIGH, _neighbour_question(index, hop)) for index, hop in hops]
        for kind, body in self._ask(bodies):
            yield _STATE.unpack_from(body)[0] if kind == RTM_NEWNEIGH else None

    def _ask(self, bodies: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        for at in range(0, len(bodies), _AT_ONCE):
            some = bodies[at : at + _AT_ONCE]
            first = self._sequence
            self._sequence = first + len(some) & 0x3FFFFFFF
            questions = b"".join(
                _HEADER.pack(16 + len(body), kind, NLM_F_REQUEST, first + number, 0) + body
                for number, (kind, body) in enumerate(some)
            )
            with contextlib.suppress(BlockingIOError):  # what an interrupted look has left
                while self._socket.recv(16):
                    pass
            self._socket.send(questions)
            for number in range(len(some)):
                answer = self._socket.recv(8192)
                _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
                if sequence != first + number:
                    raise OSError(errno.EPROTO, "an answer to something else")
                yield kind, answer[16:]


class RouteChanges(_Netlink):
    """Hears of changes; what there was no room for is a change of who knows what."""

    def __init__(self) -> None:
        super().__init__()
        with or_close(self._socket):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
            self._socket.bind((0, _GROUPS))
        self._overrun = False

    def fileno(self) -> int:
        """To be watched: readable when something has changed."""
        return self._socket.fileno()

    def read(self, seconds: float) -> Iterator[Change | None]:
        """What has changed, as far as it is read in so many seconds of a CPU; None: any way."""
        spent = Spent()
        while spent.seconds() < seconds:
            try:
                data = self._socket.recv(8192)
            except BlockingIOError:
                if self._overrun:
                    self._overrun = False
                    yield None
                return
            except OSError:  # ENOBUFS: some were lost
                self._overrun = True
                continue
            # Until all is read, the kernel drops what is new, and does not say so again
            # (netlink_overrun()): so what stands here tells less than what is lost.
            if not self._overrun:
                yield _change(data)
        if self._overrun:
            yield None


_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_STATE = struct.Struct("=8xH")
_ATTRIBUTE = struct.Struct("=HH")


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _route_question(question: Question) -> bytes:
    address, source = question.address, question.source
    version = address.version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    # Without an IPv4 route over an interface that is asked for, the kernel would take any host for
    # a neighbour there (ip_route_output_key_hash_rcu()): so it is asked for the route itself.
    flags = RTM_F_FIB_MATCH if version == 4 and question.over is not None else 0
    bits = address.max_prefixlen
    of_source = 0 if source is None else bits
    body = _RTMSG.pack(family, bits, of_source, question.dscp << 2, 0, 0, 0, 0, flags)
    body += _attribute(RTA_DST, address.packed)
    if source is not None:
        body += _attribute(RTA_SRC, source.packed)
    if question.over is not None:
        body += _attribute(RTA_OIF, struct.pack("=i", question.over))
    if question.protocol == socket.IPPROTO_UDP:  # of ESP, older kernels want to hear nothing
        body += _attribute(RTA_IP_PROTO, bytes([question.protocol]))
        for kind, port in ((RTA_SPORT, question.source_port), (RTA_DPORT, question.port)):
            if port is not None:
                body += _attribute(kind, port.to_bytes(2, "big"))
    return body


def _neighbour_question(index: int, hop: Address) -> bytes:
    family = socket.AF_INET if hop.version == 4 else socket.AF_INET6
    return _NDMSG.pack(family, index, 0, 0, 0) + _attribute(NDA_DST, hop.packed)


def read_route(question: Question, kind: int, body: bytes) -> Route:
    """The answer to a question: a message of this kind, without its header."""
    if kind == NLMSG_ERROR:
        return Route(error=-struct.unpack_from("=i", body)[0] or errno.EPROTO)
    of = body[7]
    if of in RTN_REFUSING:
        return Route(error=RTN_REFUSING[of])
    found = dict(attributes(body[12:]))
    index, gateway = _hop(found)
    for some in hops(found.get(RTA_MULTIPATH, b"")):
        index, gateway = some
        if _is_over(question, index):
            break
    if question.over is not None and not _is_over(question, index) and of != RTN_LOCAL:
        return Route(error=errno.ENETUNREACH, over=index)
    hop = (gateway or question.address) if of == RTN_UNICAST else None
    return Route(0, index, hop, _address(found.get(RTA_PREFSRC)))


def _is_over(question: Question, index: int) -> bool:
    return index == question.over or index in question.enslaved


def hops(multipath: bytes) -> Iterator[tuple[int, Address | None]]:
    """Those of a route that has several (struct rtnexthop)."""
    at = 0
    while at + 8 <= len(multipath):
        length, index = struct.unpack_from("=Hxxi", multipath, at)
        if length < 8:
            return
        _, gateway = _hop(dict(attributes(multipath[at : at + length][8:])))
        yield index, gateway
        at += length + 3 & ~3


def _hop(found: dict[int, bytes]) -> tuple[int, Address | None]:
    index = struct.unpack_from("=i", found[RTA_OIF])[0] if RTA_OIF in found else 0
    via = found.get(RTA_VIA)  # an IPv4 route by an IPv6 router
    return index, _address(found.get(RTA_GATEWAY) or (via[2:] if via else None))


def _address(packed: bytes | None) -> Address | None:
    return None if packed is None else ip_address(packed)


def _change(data: bytes) -> Change | None:
    """What the first event of a message is about; there is one in each."""
    _, kind, _, _, _ = _HEADER.unpack_from(data)
    if kind in (RTM_NEWROUTE, RTM_DELROUTE):
        bits, of, index = data[17], RTA_DST, 0
    elif kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
        bits, of, index = 128, NDA_DST, _NDMSG.unpack_from(data, 16)[1]
    else:
        return None
    version = _VERSIONS.get(data[16])
    if version is None:
        return Change(0, 0, 0)  # of a bridge, or of MPLS
    size = 32 if version == 4 else 128
    for attribute, value in attributes(data[28:]):
        if attribute == of:
            first = int.from_bytes(value, "big")
            return Change(version, first, 1 << size - min(bits, size), index)
    return Change(version, 0, 1 << size)
