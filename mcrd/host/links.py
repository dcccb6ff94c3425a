"""Interfaces and their addresses: what there is, and a word when it changes (rtnetlink(7)).

An event only says that something happened: then everything is read anew, so that an event that was
missed or came twice does no harm.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, RTMGRP_LINK

from mcrd.events import tell
from mcrd.host.netlink import os_errors
from mcrd.model import LIMITED_BROADCAST
from mcrd.planning.links import Link
from mcrd.planning.names import by_name
from mcrd.tasks import Tasks, describe, until_it_can

# linux/if.h, linux/if_addr.h
IFF_UP = 0x1
IFF_BROADCAST = 0x2
IFF_MULTICAST = 0x1000
IFF_LOWER_UP = 0x10000
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40

ABOVE = ("vlan", "macvlan", "macvtap", "ipvlan")  # kinds of link whose frames come by another
LONGEST_WITH_BROADCAST = 30  # bits of a prefix (RFC 3021, 2.2)

SETTLE = 0.005  # seconds; events come in flocks
RETRY = 0.1  # seconds until the next try when the kernel did not answer

log = logging.getLogger(__name__)


class Links:
    """The interfaces of this network namespace, by each of their names."""

    def __init__(self, changed: Callable[[frozenset[str]], None]) -> None:
        self.now: Mapping[str, Link] = {}
        self._changed = changed
        self._dirty = asyncio.Event()
        self._events: AsyncIPRoute | None = None
        self._queries: AsyncIPRoute | None = None
        self._tasks = Tasks()

    async def start(self) -> None:
        """Subscribes, and reads for the first time; raises NeverError when that can never be."""
        await until_it_can("read the interfaces", self._begin)
        self._tasks.endless("hearing of interfaces", self._listen)
        self._tasks.endless("reading interfaces", self._follow)

    async def _begin(self) -> None:
        try:
            with os_errors():
                await self._subscribe()
            self.now = await self._read()
        except OSError:
            self._close()
            raise

    async def stop(self) -> None:
        """Ends the subscription."""
        await self._tasks.stop()
        self._close()

    def _close(self) -> None:
        opened = (self._events, self._queries)
        self._events = self._queries = None
        for sock in opened:
            _shut(sock)

    async def _subscribe(self) -> AsyncIPRoute:
        if self._events is None:
            self._events = AsyncIPRoute()
            await self._events.bind(RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)
        return self._events

    async def _listen(self) -> None:
        """By a new socket after each error: one that has failed may never say anything again."""
        while True:
            try:
                with os_errors():
                    events = await self._subscribe()
                    self._dirty.set()  # what came while nobody listened
                    while True:
                        async for _ in events.get():
                            self._dirty.set()
            except OSError as error:  # ENOBUFS: events were lost
                text = "%s; reading all interfaces anew"
                tell(log, logging.WARNING, "events-lost", text, describe(error))
            finally:
                lost, self._events = self._events, None
                _shut(lost)
            await asyncio.sleep(RETRY)

    async def _follow(self) -> None:
        self._dirty.set()  # what came while nobody followed
        while True:
            await self._dirty.wait()
            await asyncio.sleep(SETTLE)
            self._dirty.clear()
            try:
                links = await self._read()
            except OSError as error:
                text = "cannot read the interfaces: %s"
                tell(log, logging.WARNING, "links-unread", text, describe(error))
                self._dirty.set()
                await asyncio.sleep(RETRY)
                continue
            names = {*links, *self.now}
            changed = frozenset(name for name in names if links.get(name) != self.now.get(name))
            if changed:
                # What did not change stays the same object: nobody has to compare it again.
                self.now = {n: self.now[n] if n not in changed else links[n] for n in links}
                self._changed(changed)

    async def _read(self) -> dict[str, Link]:
        """Raises OSError."""
        if self._queries is None:
            self._queries = AsyncIPRoute()
        try:
            with os_errors():
                return await self._ask(self._queries)
        except BaseException:
            failed, self._queries = self._queries, None
            _shut(failed)
            raise

    @staticmethod
    async def _ask(queries: AsyncIPRoute) -> dict[str, Link]:
        addresses = [message async for message in await queries.get_addr()]
        return by_name(links_of([each async for each in await queries.get_links()], addresses))


def _shut(sock: AsyncIPRoute | None) -> None:
    """Closes it; of one that has failed, even that may fail."""
    if sock is not None:
        try:
            sock.close()
        except Exception as error:  # noqa: BLE001  # pyroute2 raises what it failed by
            log.debug("netlink: %s", describe(error))


def links_of(links: Iterable[Any], addresses: Iterable[Any]) -> list[Link]:
    """The interfaces that some RTM_NEWLINK and RTM_NEWADDR are about."""
    own: dict[int, list[IPv4Interface | IPv6Interface]] = {}
    broadcasts: dict[int, list[IPv4Address]] = {}
    for message in addresses:
        address = address_of(message)
        if address is not None:
            own.setdefault(message["index"], []).append(address)
            broadcasts.setdefault(message["index"], []).extend(broadcasts_of(message))
    return [
        link_of(each, own.get(each["index"], ()), broadcasts.get(each["index"], ()))
        for each in links
    ]


def link_of(
    message: Any,
    addresses: Iterable[IPv4Interface | IPv6Interface],
    broadcasts: Iterable[IPv4Address] = (),
) -> Link:
    """The interface that an RTM_NEWLINK is about."""
    flags = message["flags"]
    properties = message.get("prop_list")
    about = message.get("linkinfo")
    kind = about.get("kind") if about else None
    return Link(
        name=message.get("ifname"),
        index=message["index"],
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        mtu=message.get("mtu"),
        hardware=message["ifi_type"],
        addresses=tuple(addresses),
        alternatives=tuple(properties.get_attrs("IFLA_ALT_IFNAME")) if properties else (),
        multicast=bool(flags & IFF_MULTICAST),
        broadcast=bool(flags & IFF_BROADCAST),
        broadcasts=tuple(dict.fromkeys(broadcasts)),
        master=message.get("master") or 0,
        lower=message.get("link") or 0 if kind in ABOVE else 0,
    )


def address_of(message: Any) -> IPv4Interface | IPv6Interface | None:
    """The address that an RTM_NEWADDR is about, if it can be used."""
    flags = message.get("flags") or 0
    if flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED):
        return None
    # On a point-to-point interface "address" is the peer's.
    text = message.get("local") or message.get("address")
    return ip_interface(f"{text}/{message['prefixlen']}") if text else None


def broadcasts_of(message: Any) -> Iterator[IPv4Address]:
    """The broadcast addresses that the kernel has by an RTM_NEWADDR (fib_add_ifaddr()).

    The one that was given to the address, and the last one of its network, if that has more than
    two addresses.
    """
    given, peer = message.get("broadcast"), message.get("address")
    if given and given not in ("0.0.0.0", str(LIMITED_BROADCAST)):
        yield IPv4Address(given)
    if peer and ":" not in peer and message["prefixlen"] <= LONGEST_WITH_BROADCAST:
        yield IPv4Interface(f"{peer}/{message['prefixlen']}").network.broadcast_address
