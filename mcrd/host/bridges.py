"""What a bridge of this host knows of groups: rtnetlink(7), which pyroute2 tells a part of."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from mcrd.addresses import covers
from mcrd.model import Address, Network
from mcrd.sockets.netlink import NLM_F_DUMP, ROUTE, ask, attributes

# linux/rtnetlink.h, linux/if_link.h, linux/if_bridge.h
RTM_NEWLINK, RTM_GETLINK, RTM_GETMDB = 16, 18, 86
AF_BRIDGE = 7
IFLA_LINKINFO, IFLA_INFO_DATA, IFLA_BR_MCAST_QUERIER_STATE = 18, 2, 47
QUERIER_ADDRESS = {4: 1, 6: 5}  # BRIDGE_QUERIER_IP_ADDRESS, BRIDGE_QUERIER_IPV6_ADDRESS
MDBA_MDB, MDBA_ROUTER = 1, 2
MDB_ENTRY = struct.Struct("=IBBH16sH2x")  # struct br_mdb_entry
PROTOCOLS = {0x0800: 4, 0x86DD: 16}  # size of an address by EtherType
DEEP = 4  # interfaces upon interfaces


@dataclass(frozen=True, slots=True)
class Bridge:
    """The bridge that an interface is, or belongs to; `own` and `heard`: queriers, if any.

    `groups` are those that somebody behind a port wants; `routers`: a router is behind one.
    """

    name: str
    snooping: bool
    own: bool
    heard: str | None
    groups: frozenset[str] = frozenset()
    routers: bool = False

    def withholds(self, wanted: Address | Network) -> bool:
        """Whether it sends such a group to no port."""
        if not self.snooping or self.routers or not (self.own or self.heard):
            return False
        return not any(covers(wanted, ip_address(group)) for group in self.groups)


def bridge_of(name: str, messages: Mapping[str, Any], version: int) -> Bridge | None:
    """The bridge that an interface is, is a port of, or is a VLAN or the like of.

    `messages` are those of all interfaces, by name. Raises OSError.
    """
    by_index = {message["index"]: message for message in messages.values()}
    message: Any = messages.get(name)
    for _ in range(DEEP):
        if message is None:
            return None
        about: Any = message.get("linkinfo")
        if about and about.get("IFLA_INFO_KIND") == "bridge":
            data: Any = about.get("IFLA_INFO_DATA")
            groups, routers = _database(message["index"])
            return Bridge(
                name=message.get("ifname"),
                snooping=bool(data.get("IFLA_BR_MCAST_SNOOPING")),
                own=bool(data.get("IFLA_BR_MCAST_QUERIER")),
                heard=_querier(message["index"], version),
                groups=groups,
                routers=routers,
            )
        below = message.get("link") if message.get("link_netnsid") is None else None
        message = by_index.get(message.get("master") or below)
    return None


def _querier(index: int, version: int) -> str | None:
    """The querier that a bridge knows, itself too."""
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
    for kind, message in ask(ROUTE, RTM_GETLINK, 0, body):
        if kind != RTM_NEWLINK:
            continue
        found = message[16:]
        for attribute in (IFLA_LINKINFO, IFLA_INFO_DATA, IFLA_BR_MCAST_QUERIER_STATE):
            found = dict(attributes(found)).get(attribute, b"")
        address = dict(attributes(found)).get(QUERIER_ADDRESS[version])
        return str(ip_address(address)) if address else None
    return None


def _all_groups() -> Iterator[tuple[int, bytes]]:
    """All groups, or None where the kernel refuses to tell them."""
    with contextlib.suppress(OSError):
        yield from ask(ROUTE, RTM_GETMDB, NLM_F_DUMP, struct.pack("=B3xI", AF_BRIDGE, 0))


def _database(index: int) -> tuple[frozenset[str], bool]:
    """Which groups the ports of a bridge want, and whether a router is behind one."""
    groups, routers = set(), False
    for _, message in _all_groups():
        if struct.unpack_from("=4xI", message) != (index,):
            continue
        for kind, found in attributes(message[8:]):
            routers = routers or kind == MDBA_ROUTER
            if kind != MDBA_MDB:
                continue
            for _, entry in attributes(found):
                for _, packed in attributes(entry):
                    port, _, _, _, address, protocol = MDB_ENTRY.unpack_from(packed)
                    size = PROTOCOLS.get(socket.ntohs(protocol))
                    if size and port != index:  # that is what the host itself wants
                        groups.add(str(ip_address(address[:size])))
    return frozenset(groups), routers
