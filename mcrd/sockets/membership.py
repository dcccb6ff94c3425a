"""What makes the network send an input's packets here: memberships and held ports."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
from collections.abc import Iterator, Sequence

from mcrd.addresses import socket_name, storage
from mcrd.errors import words
from mcrd.model import Address
from mcrd.planning.resources import Hold, Membership
from mcrd.sockets.common import check_index, or_close, quiet_socket

# linux/in.h, linux/in6.h
IP_MULTICAST_ALL = 49
IPV6_MULTICAST_ALL = 29
MCAST_JOIN_GROUP = 42
MCAST_LEAVE_GROUP = 45
MCAST_JOIN_SOURCE_GROUP = 46
MCAST_LEAVE_SOURCE_GROUP = 47

_Joined = tuple[int, Address, Address | None]

log = logging.getLogger(__name__)


class Receivers:
    """The ports that programs receive on at any address (/proc/net/udp), as of the last look.

    The kernel lists every socket there is, so it is read once for however many ports.
    """

    def __init__(self) -> None:
        self._ports: dict[str, frozenset[int]] = {}

    def look_anew(self) -> None:
        """Forget what was read."""
        self._ports = {}

    def have(self, address: Address, port: int) -> bool:
        """Whether a program receives what is sent to this port of the address."""
        names = ("udp", "udp6") if address.version == 4 else ("udp6",)
        return any(port in self._of(name) for name in names)

    def _of(self, name: str) -> frozenset[int]:
        if name not in self._ports:
            self._ports[name] = frozenset(_at_any_address(name))
        return self._ports[name]


def _at_any_address(name: str) -> Iterator[int]:
    # Without IPv6, or without /proc: then every port is held.
    with (
        contextlib.suppress(OSError),
        open(f"/proc/thread-self/net/{name}", encoding="ascii") as table,
    ):
        next(table, None)
        for line in table:
            host, _, port = line.split(None, 2)[1].partition(":")
            if not host.strip("0"):
                yield int(port, 16)


def open_hold(hold: Hold, receivers: Receivers) -> socket.socket | None:
    """Take the port of a unicast input, so that the kernel does not answer "port unreachable".

    None when that is not needed: the address is not this host's, or another program has the port.
    """
    if hold.protocol == "udp" and receivers.have(hold.address, hold.port):
        return None  # a socket on the one address would take its datagrams from it
    sock = quiet_socket(hold.protocol, hold.address, hold.interface)
    try:
        sock.bind(socket_name(hold.address, hold.port, hold.index))
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            return None
        raise
    return sock


class Memberships(dict[Membership, socket.socket]):
    """Groups joined any-source (IGMP, MLD), over as many sockets as the kernel's limits take.

    A socket takes net.ipv4.igmp_max_memberships groups, or what net.core.optmem_max has room for.
    One that somebody else keeps open, too, gets no further groups: it would keep them, and nobody
    would know of them, if this process were killed before it could say so.
    """

    def __init__(self) -> None:
        super().__init__()
        self._groups: dict[socket.socket, set[_Joined]] = {}
        self._roomy: dict[int, list[socket.socket]] = {4: [], 6: []}
        self._kept: set[socket.socket] = set()

    def join(self, membership: Membership) -> None:
        """Join the group on the interface; nothing is ever received on the socket."""
        check_index(membership.interface, membership.index)
        roomy = self._roomy[membership.group.version]
        for sock in reversed(roomy.copy()):
            if self._joins(sock, membership):
                break
        else:
            with or_close(_membership_socket(membership.group)) as sock:
                _membership_option(sock, True, membership)
            roomy.append(sock)
        self[membership] = sock
        self._groups.setdefault(sock, set()).add(_of_kernel(membership))

    def _joins(self, sock: socket.socket, membership: Membership) -> bool:
        """Join on that socket, if it has room and the kernel would leave its other groups alone."""
        index, group, source = _of_kernel(membership)
        has = self._groups[sock]
        if source is not None and (index, group, None) in has:
            return False  # the kernel would make one from this source of it (ip_mc_source())
        try:
            _membership_option(sock, True, membership)
        except OSError as error:
            if error.errno in (errno.ENOBUFS, errno.ENOMEM):
                # Of a group that it has, it may only have no room for one more source.
                if all((index, group) != (at, other) for at, other, _ in has):
                    self._roomy[group.version].remove(sock)
            elif error.errno not in (errno.EINVAL, errno.EADDRINUSE):
                raise
            return False
        return True

    def sockets(self) -> dict[socket.socket, list[Membership]]:
        """The groups that each socket has joined."""
        found: dict[socket.socket, list[Membership]] = {}
        for membership, sock in self.items():
            found.setdefault(sock, []).append(membership)
        return found

    def take_over(self, sock: socket.socket, joined: Sequence[Membership]) -> None:
        """Take over a socket that has joined these; those that it cannot have are left out."""
        has = []
        for membership in joined:
            try:
                _membership_option(sock, True, membership)  # it may have left this one since
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    continue
            has.append(membership)
        if not has:
            sock.close()
            return
        self.update(dict.fromkeys(has, sock))
        self._groups[sock] = set(map(_of_kernel, has))
        self._kept.add(sock)

    def hand_on(self) -> None:
        """Note that somebody else keeps what there is, and knows of it."""
        self._roomy = {4: [], 6: []}
        self._kept = set(self._groups)

    def leave(self, membership: Membership) -> None:
        """Leave the group; an interface that has gone has left it already."""
        sock = self.pop(membership)
        try:
            _membership_option(sock, False, membership)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EADDRNOTAVAIL):
                log.warning("%s: cannot leave: %s", membership, words(error))
        roomy = self._roomy[membership.group.version]
        self._groups[sock].remove(_of_kernel(membership))
        if not self._groups[sock]:
            del self._groups[sock]
            if sock in roomy:
                roomy.remove(sock)
            self._kept.discard(sock)
            sock.close()
        elif sock not in roomy and sock not in self._kept:
            roomy.append(sock)


def _of_kernel(membership: Membership) -> _Joined:
    """What the kernel knows of it: an interface may get another name."""
    return membership.index, membership.group, membership.source


def _membership_socket(group: Address) -> socket.socket:
    family = socket.AF_INET if group.version == 4 else socket.AF_INET6
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with or_close(socket.socket(family, kind, socket.IPPROTO_UDP)) as sock:
        if group.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
        return sock


def _membership_option(sock: socket.socket, join: bool, membership: Membership) -> None:
    """Join or leave by a struct group_req or group_source_req (RFC 3678, 5.1 and 5.2)."""
    level = socket.IPPROTO_IP if membership.group.version == 4 else socket.IPPROTO_IPV6
    request = struct.pack("I4x", membership.index) + storage(membership.group, membership.index)
    if membership.source is None:
        option = MCAST_JOIN_GROUP if join else MCAST_LEAVE_GROUP
    else:
        option = MCAST_JOIN_SOURCE_GROUP if join else MCAST_LEAVE_SOURCE_GROUP
        request += storage(membership.source, membership.index)
    sock.setsockopt(level, option, request)
