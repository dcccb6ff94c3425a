"""Connected sockets by which outputs send."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Collection, Mapping
from dataclasses import replace

from mcrd.addresses import Target, socket_name
from mcrd.errors import words
from mcrd.model import LIMITED_BROADCAST, Address
from mcrd.planning.replies import back, ear, is_answer, receives
from mcrd.planning.resources import Egress
from mcrd.sockets.common import check_index, or_close, plain_socket, quiet_socket
from mcrd.sockets.netlink import master_of
from mcrd.sockets.overhear import open_overhearing
from mcrd.sockets.rtnetlink import Question, RouteQueries

# linux/in.h, linux/in6.h
IP_MTU_DISCOVER = 10
IP_RECVERR = 11
IP_FREEBIND = 15
IP_TRANSPARENT = 19
IP_PMTUDISC_DONT = 0
IPV6_MTU_DISCOVER = 23
IPV6_RECVERR = 25
IPV6_TRANSPARENT = 75
IPV6_FREEBIND = 78
IPV6_PMTUDISC_DONT = 0


SO_MEMINFO = 55  # asm-generic/socket.h
SK_MEMINFO_DROPS = 8  # linux/sock_diag.h
ANSWERS_WAIT = 256 * 1024  # bytes in the receive buffer of an asker's port
ROUTE_KNOWN = 0.02  # seconds
SOURCES = 8  # addresses of an output's own interface whose ports are remembered


class EgressSockets:
    """Egress sockets: an output keeps the source port that was chosen for it first."""

    def __init__(self) -> None:
        self.ports: dict[tuple[str, Target, Address], int] = {}
        """Chosen so far, by rule, output and source."""
        self._sources: dict[tuple[str, Target], list[Address]] = {}  # as they were chosen
        self._routed: tuple[Question | None, float] = (None, 0.0)  # the last route, and when

    def open(self, egress: Egress) -> socket.socket:
        """Open a non-blocking UDP socket, bound to its source and port, and connected.

        One that follows the routes is not bound to its interface: when they move, the kernel sends
        over the new way, or refuses, from that packet on. One that `hears` is not connected.
        """
        if egress.hears:
            return open_overhearing(egress)
        sending, address = egress.sending, egress.address
        check_index(sending.interface, sending.index)
        interface = None if sending.routed else sending.interface
        make = plain_socket if receives(egress) else quiet_socket
        with or_close(make(sending.protocol, address, interface)) as sock:
            if address.version == 4:
                _set_ipv4(sock, egress)
            else:
                _set_ipv6(sock, egress)
            everywhere = address.is_multicast or address == LIMITED_BROADCAST
            if address.version == 4 and not (everywhere or sending.routed):
                self._check_route(egress)
            # Who asks is a host: a forged broadcast address gets no answer.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, int(not is_answer(egress)))
            if sending.routed and master_of(sending.index):
                _bind_freely(sock, address.version)
            self._bind(sock, egress)
            sock.connect(socket_name(address, egress.port, sending.index))
            return sock

    def open_member(
        self, egress: Egress, have: Mapping[Egress, socket.socket]
    ) -> dict[Egress, socket.socket]:
        """Open the sockets of a member, all of replies.sockets_of(), or none.

        An asker's socket, to which its answers go, is taken from those that there are.
        """
        if egress.sending.replies is None or egress.heard is None:
            return {egress: self.open(egress)}
        with contextlib.ExitStack() as undo:
            answers = back(egress)
            to_asker = have.get(answers)
            if to_asker is None:
                try:
                    to_asker = undo.enter_context(self.open(answers))
                except OSError as error:
                    text = f"{answers.address} asks, and cannot be answered: {words(error)}"
                    raise OSError(error.errno, text) from None
            hearing = undo.enter_context(_open_ear(egress))
            # Both have one port, and nobody else gets it.
            hearing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port = int(hearing.getsockname()[1])
            asking = undo.enter_context(self.open(_from(egress, port)))
            hearing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            undo.pop_all()
        return {egress: asking, ear(egress): hearing, answers: to_asker}

    def forget(self, outputs: Collection[tuple[str, Target]]) -> None:
        """Forget the ports of all outputs but these, by rule."""
        self.ports, before = {}, self.ports
        self._sources = {}
        for key, port in before.items():
            if key[:2] in outputs:
                self._choose(key, port)

    def _choose(self, key: tuple[str, Target, Address], port: int) -> None:
        """Choose a port; if an interface's addresses change, the last ports are remembered."""
        self.ports[key] = port
        sources = self._sources.setdefault(key[:2], [])
        if key[2] not in sources:
            sources.append(key[2])
        if len(sources) > SOURCES:
            del self.ports[(*key[:2], sources.pop(0))]

    def _check_route(self, egress: Egress) -> None:
        # Rules of `ip rule` may go by the source; of another host's, the kernel would not answer.
        own = not (egress.transparent or egress.sending.floating)
        source = egress.source if own else None
        question, now = Question(egress.address, egress.sending.index, source), time.monotonic()
        # New members of an output come in hundreds, and all ask the same.
        if self._routed[0] != question or now - self._routed[1] >= ROUTE_KNOWN:
            self._routed = (None, 0.0)
            _check_route(question)
            self._routed = (question, now)

    def _bind(self, sock: socket.socket, egress: Egress) -> None:
        sending, source = egress.sending, egress.source
        if sending.protocol == "esp":
            sock.bind(socket_name(source, 0, sending.index))
            return
        if egress.transparent:
            # It sends from an address of another host: ip(7), IP_TRANSPARENT; CAP_NET_RAW will do.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(socket_name(source, sending.source_port or 0, sending.index))
            return
        key = (egress.rule, egress.target, source)
        port = sending.source_port or self.ports.get(key, 0)
        if port:
            # The old and the new socket of an output that changes share the port for a moment.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(socket_name(source, port, sending.index))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or sending.source_port:
                    raise
            else:
                return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.bind(socket_name(source, 0, sending.index))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._choose(key, sock.getsockname()[1])


def _open_ear(egress: Egress) -> socket.socket:
    """A socket that is not connected, for anybody may answer, on a port that nobody has."""
    sending = egress.sending
    # Into a VRF comes what is bound there (Linux, Documentation/networking/vrf.rst).
    everywhere = sending.routed and not master_of(sending.index)
    interface = None if everywhere else sending.interface
    with or_close(plain_socket(sending.protocol, egress.address, interface)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ANSWERS_WAIT)
        if sending.floating:
            _bind_freely(sock, egress.address.version)
        sock.bind(socket_name(egress.source, 0, sending.index))
        return sock


def lost_by(sock: socket.socket) -> int:
    """How many datagrams the socket had no room for so far."""
    told = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (SK_MEMINFO_DROPS + 1))
    return int(struct.unpack(f"{SK_MEMINFO_DROPS + 1}I", told)[SK_MEMINFO_DROPS])


def _from(egress: Egress, port: int) -> Egress:
    return replace(egress, sending=replace(egress.sending, source_port=port))


def _bind_freely(sock: socket.socket, version: int) -> None:
    """Let it bind to an address that the host does not have yet, or to one of a VRF.

    bind() seeks the latter there for sockets of the VRF alone. Bound to the interface, it would
    send by the routes of the VRF, not by those that led there.
    """
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)


def _check_route(question: Question) -> None:
    """Raise ENETUNREACH if there is no IPv4 route over the interface.

    connect() would not: on a socket that is bound to an interface, the kernel takes a destination
    without a route for a neighbour, and ARP for it is in vain (ip_route_output_key_hash_rcu()).
    """
    with contextlib.closing(RouteQueries()) as queries:
        (found,) = queries.routes([question])
    if found.error in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        if found.over and master_of(found.over) == question.over:
            return  # a VRF device: the kernel names the interface in it
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


def source_port(egress: Egress, sock: socket.socket) -> int:
    """The port that the socket sends from; 0 for ESP, where the kernel would name the protocol."""
    return 0 if egress.sending.protocol == "esp" else int(sock.getsockname()[1])


def _set_ipv4(sock: socket.socket, egress: Egress) -> None:
    level, sending = socket.IPPROTO_IP, egress.sending
    if egress.transparent or sending.floating:
        sock.setsockopt(level, IP_TRANSPARENT, 1)
    if egress.address.is_multicast:
        mreqn = struct.pack("4s4si", bytes(4), bytes(4), sending.index)
        sock.setsockopt(level, socket.IP_MULTICAST_IF, mreqn)
        sock.setsockopt(level, socket.IP_MULTICAST_TTL, sending.ttl)
        sock.setsockopt(level, socket.IP_MULTICAST_LOOP, int(sending.loop))
    else:
        sock.setsockopt(level, socket.IP_TTL, sending.ttl)
    sock.setsockopt(level, socket.IP_TOS, sending.dscp << 2)  # RFC 2474: the upper six bits
    # No one answers "too big" for a group (RFC 1112, 7.2): let routers fragment.
    sock.setsockopt(level, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    # Else a datagram that the queueing discipline drops counts as sent (ip(7), IP_RECVERR). A
    # socket that also receives would be ready for good: nobody reads its queue of errors.
    sock.setsockopt(level, IP_RECVERR, int(not receives(egress)))


def _set_ipv6(sock: socket.socket, egress: Egress) -> None:
    level, sending = socket.IPPROTO_IPV6, egress.sending
    if egress.transparent or sending.floating:
        sock.setsockopt(level, IPV6_TRANSPARENT, 1)
    if egress.address.is_multicast:
        sock.setsockopt(level, socket.IPV6_MULTICAST_IF, sending.index)
        sock.setsockopt(level, socket.IPV6_MULTICAST_HOPS, sending.ttl)
        sock.setsockopt(level, socket.IPV6_MULTICAST_LOOP, int(sending.loop))
    else:
        sock.setsockopt(level, socket.IPV6_UNICAST_HOPS, sending.ttl)
    sock.setsockopt(level, socket.IPV6_TCLASS, sending.dscp << 2)
    sock.setsockopt(level, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT)
    sock.setsockopt(level, IPV6_RECVERR, int(not receives(egress)))
