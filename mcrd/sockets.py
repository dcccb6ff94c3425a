"""Every socket that takes a privilege or names an interface: ingress, egress, memberships, holds.

All functions raise OSError as the kernel gives it.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from mcrd import filters
from mcrd.filters import Instruction
from mcrd.model import Address, Network
from mcrd.resources import Egress, Hold, Ingress, Membership, Protocol, Reception, Target

# linux/if_packet.h
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
PACKET_VNET_HDR = 15
PACKET_FANOUT = 18
PACKET_FANOUT_CBPF = 6
PACKET_FANOUT_DATA = 22
PACKET_FANOUT_FLAG_UNIQUEID = 0x2000
PACKET_FANOUT_FLAG_IGNORE_OUTGOING = 0x4000  # since Linux 6.0; before it the filter does that alone
PACKET_FANOUT_FLAG_DEFRAG = 0x8000
PACKET_MR_MULTICAST = 0
PACKET_MR_ALLMULTI = 2
TPACKET_V2 = 1
TPACKET2_HDRLEN = 52  # struct tpacket2_hdr and struct sockaddr_ll, aligned
TPACKET_ALIGNMENT = 16
ETH_P_ALL = 3

# asm-generic/socket.h, linux/in.h, linux/in6.h, linux/udp.h
SO_ATTACH_FILTER = 26
SO_LOCK_FILTER = 44
IP_MTU_DISCOVER = 10
IP_RECVERR = 11
IP_TRANSPARENT = 19
IP_PMTUDISC_DONT = 0
IP_MULTICAST_ALL = 49
IPV6_MTU_DISCOVER = 23
IPV6_RECVERR = 25
IPV6_MULTICAST_ALL = 29
IPV6_TRANSPARENT = 75
IPV6_PMTUDISC_DONT = 0
MCAST_JOIN_GROUP = 42
MCAST_LEAVE_GROUP = 45
MCAST_JOIN_SOURCE_GROUP = 46
MCAST_LEAVE_SOURCE_GROUP = 47

# linux/netlink.h, linux/rtnetlink.h
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
RTM_GETROUTE = 26
RTA_DST = 1
RTA_OIF = 4
RTM_F_FIB_MATCH = 0x2000

BLOCK_SIZE = 1 << 20
LINK_HEADER = 16  # what the kernel reserves for it, at least
VNET_HEADER = 10  # struct virtio_net_hdr
VLAN_TAG = 4  # one that the kernel leaves in the frame
CACHE_LINE = 64
KEPT = 64  # descriptors that no output gets
# What stands in a slot before the network header: tpacket_rcv(), net/packet/af_packet.c.
SLOT_HEADERS = (
    -(-(TPACKET2_HDRLEN + LINK_HEADER) // TPACKET_ALIGNMENT) * TPACKET_ALIGNMENT + VNET_HEADER
)
LARGEST_PACKET = 65535 + 40  # IPv6, of which only the payload has to be within 16 bits
LARGE_SHARE = 4  # the ring of large frames is that part of the other's size
LARGE_LEAST = 4 << 20

# Classic BPF (linux/filter.h). Negative offsets read what the kernel knows of a frame.
DROP_ALL: Sequence[Instruction] = ((0x06, 0, 0, 0),)


def keep_some(sock: socket.socket) -> None:
    """Raises EMFILE when the last descriptors of the process are reached.

    They are for what it cannot do without: workers, the control socket, the rule file.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and sock.fileno() >= limit - min(KEPT, limit // 2):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def attach_filter(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Puts a classic BPF program on the socket."""
    value, _alive = _program(program)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, value)


def _program(program: Sequence[Instruction]) -> tuple[bytes, ctypes.Array[ctypes.c_char]]:
    """A struct sock_fprog, and what it points to."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    return struct.pack("HP", len(program), ctypes.addressof(buffer)), buffer


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of a packet ring; bytes, and frames by the block."""

    block_size: int
    block_count: int
    frame_size: int

    @property
    def frames(self) -> int:
        """How many frames the ring holds; a frame does not straddle blocks."""
        return self.block_size // self.frame_size * self.block_count

    @property
    def largest(self) -> int:
        """Bytes of the longest frame that a slot holds, without its link header."""
        return self.frame_size - SLOT_HEADERS


def geometry_for(mtu: int, ring_size: int) -> Geometry:
    """A ring of about `ring_size` bytes whose slots hold a frame of `mtu` bytes and its headers."""
    need = SLOT_HEADERS + VLAN_TAG + mtu
    lines = -(-need // CACHE_LINE)
    lines += 1 - lines % 2  # an odd number of cache lines avoids set conflicts
    frame_size = min(lines * CACHE_LINE, BLOCK_SIZE)
    return Geometry(BLOCK_SIZE, max(2, ring_size // BLOCK_SIZE), frame_size)


class IngressSocket:
    """Two packet sockets with their rings, in an epoll descriptor that can be handed on without.

    `socket` takes what fits its slots, `large` the rest: super-frames, and datagrams that the
    kernel has put together from fragments.
    """

    def __init__(self, ingress: Ingress, mtu: int) -> None:
        self.geometry = geometry_for(mtu, ingress.ring_size)
        self.large_geometry = geometry_for(
            LARGEST_PACKET, max(LARGE_LEAST, ingress.ring_size // LARGE_SHARE)
        )
        self._ring_full = 0
        self.socket = _ring_socket(ingress, self.geometry)
        try:
            self.large = _ring_socket(ingress, self.large_geometry)
        except BaseException:
            self.socket.close()
            raise
        self.epoll = select.epoll()
        for sock in self._sockets:
            self.epoll.register(sock, select.EPOLLIN)

    @property
    def _sockets(self) -> tuple[socket.socket, socket.socket]:
        return self.socket, self.large

    def join(self, group: int | None) -> int:
        """Shares the frames with the others of a group; None begins one. Returns it."""
        # One group of its own even for a single worker: only so the kernel tells large frames
        # from small ones, and puts fragments together.
        kind = PACKET_FANOUT_CBPF | PACKET_FANOUT_FLAG_DEFRAG | PACKET_FANOUT_FLAG_IGNORE_OUTGOING
        for sock in self._sockets:
            unique = PACKET_FANOUT_FLAG_UNIQUEID if group is None else 0  # not another program's
            value = struct.pack("I", (group or 0) | (kind | unique) << 16)
            sock.setsockopt(SOL_PACKET, PACKET_FANOUT, value)
            group = sock.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
        assert group is not None
        return group

    def share(self, workers: int) -> None:
        """Says which member of the group takes a frame; one has to say it for all."""
        value, _alive = _program(filters.share(workers, self.geometry.largest))
        self.socket.setsockopt(SOL_PACKET, PACKET_FANOUT_DATA, value)

    def admit(self, networks: frozenset[Network] | None) -> None:
        """Lets in what is sent to these addresses, and what that cannot be said of; None: all."""
        for sock in self._sockets:
            for spans in (filters.SPANS, 200, 0):
                try:
                    attach_filter(sock, filters.ingress(networks, spans))
                except OSError as error:
                    # The sysctl net.core.optmem_max is what old and new program together may take.
                    if error.errno != errno.ENOMEM or spans == 0:
                        raise
                else:
                    break

    def ring_full(self) -> int:
        """Frames lost so far because the rings had no room; clears what the kernel counts."""
        for sock in self._sockets:
            _, drops = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            self._ring_full += drops
        return self._ring_full

    def take_error(self) -> None:
        """Reads the error that a downed link leaves: until then every poll returns at once."""
        for sock in self._sockets:
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        """Closes all descriptors."""
        self.epoll.close()
        for sock in self._sockets:
            sock.close()


def _ring_socket(ingress: Ingress, ring: Geometry) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        # What comes before the socket is in its group would come to its siblings too.
        attach_filter(sock, DROP_ALL)
        request = struct.pack(
            "IIII", ring.block_size, ring.block_count, ring.frame_size, ring.frames
        )
        sock.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        _check_index(ingress.interface, ingress.index)
        sock.bind((ingress.interface, ETH_P_ALL))
    except BaseException:
        sock.close()
        raise
    return sock


def open_ingress(
    ingress: Ingress, mtu: int, networks: frozenset[Network] | None = None
) -> list[IngressSocket]:
    """The packet sockets of each worker; a flow comes to one worker, and in order.

    What is let in is sent to one of the networks; None: all.
    """
    rings: list[IngressSocket] = []
    try:
        group = None
        for _ in range(ingress.workers):
            ring = IngressSocket(ingress, mtu)
            rings.append(ring)
            group = ring.join(group)
        rings[0].share(ingress.workers)
        for ring in rings:
            ring.admit(networks)
    except BaseException:
        for ring in rings:
            ring.close()
        raise
    return rings


def open_reception(reception: Reception) -> socket.socket:
    """Lets a group's frames through the filter of the interface, as long as the socket is open."""
    _check_index(reception.interface, reception.index)
    group = reception.group
    if group is None:
        kind, mac = PACKET_MR_ALLMULTI, b""
    elif group.version == 4:
        mac = b"\x01\x00\x5e" + bytes([group.packed[1] & 0x7F]) + group.packed[2:]  # RFC 1112, 6.4
        kind = PACKET_MR_MULTICAST
    else:
        mac = b"\x33\x33" + group.packed[12:]  # RFC 2464, 7
        kind = PACKET_MR_MULTICAST
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        mreq = struct.pack("iHH8s", reception.index, kind, len(mac), mac)
        sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, mreq)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_index(interface: str, index: int) -> None:
    """The name may have gone to another interface since the plan was made."""
    if socket.if_nametoindex(interface) != index:
        raise OSError(errno.ENODEV, f"{interface} is another interface now")


def _socket(protocol: Protocol, address: Address, interface: str) -> socket.socket:
    """A UDP or raw ESP socket that is bound to an interface, and never receives."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    if protocol == "udp":
        sock = socket.socket(family, socket.SOCK_DGRAM | flags, socket.IPPROTO_UDP)
    else:
        sock = socket.socket(family, socket.SOCK_RAW | flags, socket.IPPROTO_ESP)
    try:
        keep_some(sock)
        attach_filter(sock, DROP_ALL)
        sock.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the kernel makes it its least
        if family == socket.AF_INET6 and protocol == "udp":  # a raw socket is IPv6 alone anyway
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
    except BaseException:
        sock.close()
        raise
    return sock


def _name(address: Address, port: int, index: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """The socket address; the interface's index is the zone of link-local addresses (RFC 4007)."""
    if address.version == 4:
        return (str(address), port)
    local = address.is_link_local or (address.is_multicast and address.packed[1] & 0x0F <= 2)
    return (str(address), port, 0, index if local else 0)


class EgressSockets:
    """Opens egress sockets; an output keeps the source port that was chosen for it first."""

    def __init__(self) -> None:
        self._ports: dict[tuple[str, Target, Address], int] = {}

    def open(self, egress: Egress) -> socket.socket:
        """A non-blocking UDP socket, bound to its interface, source and port, and connected."""
        _check_index(egress.interface, egress.index)
        sock = _socket(egress.protocol, egress.address, egress.interface)
        try:
            if egress.address.version == 4:
                _set_ipv4(sock, egress)
            else:
                _set_ipv6(sock, egress)
            if egress.address.version == 4 and not egress.address.is_multicast:
                _check_route(egress)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            self._bind(sock, egress)
            sock.connect(_name(egress.address, egress.port, egress.index))
        except BaseException:
            sock.close()
            raise
        return sock

    def forget(self, rules: frozenset[str]) -> None:
        """Forgets the ports of all rules but these."""
        self._ports = {key: port for key, port in self._ports.items() if key[0] in rules}

    def _bind(self, sock: socket.socket, egress: Egress) -> None:
        if egress.protocol == "esp":
            sock.bind(_name(egress.source, 0, egress.index))
            return
        if egress.transparent:
            # It sends from an address of another host: ip(7), IP_TRANSPARENT; CAP_NET_RAW will do.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(_name(egress.source, egress.source_port or 0, egress.index))
            return
        key = (egress.rule, egress.target, egress.source)
        port = egress.source_port or self._ports.get(key, 0)
        if port:
            # The old and the new socket of an output that changes share the port for a moment.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(_name(egress.source, port, egress.index))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or egress.source_port:
                    raise
            else:
                return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.bind(_name(egress.source, 0, egress.index))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._ports[key] = sock.getsockname()[1]


def _check_route(egress: Egress) -> None:
    """Raises ENETUNREACH without an IPv4 route over the interface (rtnetlink(7), RTM_GETROUTE).

    connect() would not: on a socket that is bound to an interface, the kernel takes a destination
    without a route for a neighbour, and ARP for it is in vain (ip_route_output_key_hash_rcu()).
    """
    attributes = struct.pack("=HH4s", 8, RTA_DST, egress.address.packed)
    attributes += struct.pack("=HHi", 8, RTA_OIF, egress.index)
    rtmsg = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
    body = rtmsg + attributes
    header = struct.pack("=IHHII", 16 + len(body), RTM_GETROUTE, NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.settimeout(1.0)
        sock.send(header + body)
        answer = sock.recv(65536)
    kind, error = struct.unpack_from("=4xH10xi", answer)
    if kind == NLMSG_ERROR and -error in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        raise OSError(errno.ENETUNREACH, "no route")


def source_port(egress: Egress, sock: socket.socket) -> int:
    """The port that the socket sends from; 0 for ESP, where the kernel would name the protocol."""
    return 0 if egress.protocol == "esp" else int(sock.getsockname()[1])


def _set_ipv4(sock: socket.socket, egress: Egress) -> None:
    level = socket.IPPROTO_IP
    if egress.transparent:
        sock.setsockopt(level, IP_TRANSPARENT, 1)
    if egress.address.is_multicast:
        mreqn = struct.pack("4s4si", bytes(4), bytes(4), egress.index)
        sock.setsockopt(level, socket.IP_MULTICAST_IF, mreqn)
        sock.setsockopt(level, socket.IP_MULTICAST_TTL, egress.ttl)
        sock.setsockopt(level, socket.IP_MULTICAST_LOOP, int(egress.loop))
    else:
        sock.setsockopt(level, socket.IP_TTL, egress.ttl)
    sock.setsockopt(level, socket.IP_TOS, egress.dscp << 2)  # RFC 2474: the upper six bits
    # No one answers "too big" for a group (RFC 1112, 7.2): let routers fragment.
    sock.setsockopt(level, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    # Else a datagram that the queueing discipline drops counts as sent (ip(7), IP_RECVERR).
    sock.setsockopt(level, IP_RECVERR, 1)


def _set_ipv6(sock: socket.socket, egress: Egress) -> None:
    level = socket.IPPROTO_IPV6
    if egress.transparent:
        sock.setsockopt(level, IPV6_TRANSPARENT, 1)
    if egress.address.is_multicast:
        sock.setsockopt(level, socket.IPV6_MULTICAST_IF, egress.index)
        sock.setsockopt(level, socket.IPV6_MULTICAST_HOPS, egress.ttl)
        sock.setsockopt(level, socket.IPV6_MULTICAST_LOOP, int(egress.loop))
    else:
        sock.setsockopt(level, socket.IPV6_UNICAST_HOPS, egress.ttl)
    sock.setsockopt(level, socket.IPV6_TCLASS, egress.dscp << 2)
    sock.setsockopt(level, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT)
    sock.setsockopt(level, IPV6_RECVERR, 1)


def open_hold(hold: Hold) -> socket.socket | None:
    """Takes the port of a unicast input, so that the kernel does not answer "port unreachable".

    None when that is not needed: the address is not this host's, or another program has the port.
    """
    if hold.protocol == "udp" and _has_any_address(hold.address, hold.port):
        return None  # a socket on the one address would take its datagrams from it
    sock = _socket(hold.protocol, hold.address, hold.interface)
    try:
        sock.bind(_name(hold.address, hold.port, hold.index))
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            return None
        raise
    return sock


def _has_any_address(address: Address, port: int) -> bool:
    """Does a program receive what comes to this port of any address (/proc/net/udp)?"""
    found = False
    for name in ("udp", "udp6") if address.version == 4 else ("udp6",):
        try:
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as table:
                for line in table.readlines()[1:]:
                    host, _, number = line.split()[1].partition(":")
                    found = found or (int(number, 16) == port and int(host, 16) == 0)
        except OSError:
            continue  # no IPv6, or no /proc: then the port is held
    return found


class Memberships:
    """Groups joined any-source (IGMP, MLD), over as many sockets as the kernel's limits take.

    A socket takes net.ipv4.igmp_max_memberships groups, or what net.core.optmem_max has room for.
    """

    def __init__(self) -> None:
        self._joined: dict[Membership, socket.socket] = {}
        self._groups: dict[socket.socket, int] = {}
        self._roomy: dict[int, list[socket.socket]] = {4: [], 6: []}

    def join(self, membership: Membership) -> None:
        """Joins the group on the interface; nothing is ever received on the socket."""
        _check_index(membership.interface, membership.index)
        roomy = self._roomy[membership.group.version]
        while True:
            fresh = not roomy
            if fresh:
                roomy.append(_membership_socket(membership.group))
            try:
                _membership_option(roomy[-1], True, membership)
            except OSError as error:
                # EINVAL: the socket has the group from any source, and cannot have it from one too.
                full = error.errno in (errno.ENOBUFS, errno.ENOMEM, errno.EINVAL, errno.EADDRINUSE)
                if fresh or not full:
                    if fresh:
                        roomy.pop().close()
                    raise
                roomy.pop()
            else:
                break
        self._joined[membership] = roomy[-1]
        self._groups[roomy[-1]] = self._groups.get(roomy[-1], 0) + 1

    def leave(self, membership: Membership) -> None:
        """Leaves the group; an interface that has gone has left it already."""
        sock = self._joined.pop(membership)
        try:
            _membership_option(sock, False, membership)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EADDRNOTAVAIL):
                raise
        roomy = self._roomy[membership.group.version]
        self._groups[sock] -= 1
        if self._groups[sock] == 0:
            del self._groups[sock]
            if sock in roomy:
                roomy.remove(sock)
            sock.close()
        elif sock not in roomy:
            roomy.append(sock)


def _membership_socket(group: Address) -> socket.socket:
    family = socket.AF_INET if group.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.IPPROTO_UDP)
    if group.version == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
    return sock


def _membership_option(sock: socket.socket, join: bool, membership: Membership) -> None:
    """Joins or leaves by a struct group_req or group_source_req (RFC 3678, 5.1 and 5.2)."""
    level = socket.IPPROTO_IP if membership.group.version == 4 else socket.IPPROTO_IPV6
    request = struct.pack("I4x", membership.index) + _storage(membership.group, membership.index)
    if membership.source is None:
        option = MCAST_JOIN_GROUP if join else MCAST_LEAVE_GROUP
    else:
        option = MCAST_JOIN_SOURCE_GROUP if join else MCAST_LEAVE_SOURCE_GROUP
        request += _storage(membership.source, membership.index)
    sock.setsockopt(level, option, request)


def _storage(address: Address, index: int) -> bytes:
    """A struct sockaddr_storage."""
    if address.version == 4:
        name = struct.pack("=HH4s", socket.AF_INET, 0, address.packed)
    else:
        zone = index if address.is_link_local else 0
        name = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, address.packed, zone)
    return struct.pack("128s", name)
