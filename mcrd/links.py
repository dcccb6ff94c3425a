"""Interfaces and their addresses: what there is, and a word when it changes (rtnetlink(7)).

An event only says that something happened: then everything is read anew, so that an event that was
missed or came twice does no harm.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, RTMGRP_LINK

from mcrd.resources import Link

# linux/if.h, linux/if_addr.h
IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40

SETTLE = 0.005  # seconds; events come in flocks
RETRY = 0.1  # seconds until the next try when the kernel did not answer

log = logging.getLogger(__name__)


class Links:
    """The interfaces of this network namespace, by name."""

    def __init__(self, changed: Callable[[frozenset[str]], None]) -> None:
        self.now: Mapping[str, Link] = {}
        self._changed = changed
        self._dirty = asyncio.Event()
        self._events = AsyncIPRoute()
        self._queries = AsyncIPRoute()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Subscribes, and reads for the first time."""
        await self._events.bind(RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)
        self.now = await self._read()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._follow())]

    async def stop(self) -> None:
        """Ends the subscription."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._events.close()
        self._queries.close()

    async def _listen(self) -> None:
        while True:
            try:
                async for _ in self._events.get():
                    self._dirty.set()
            except OSError as error:  # ENOBUFS: events were lost
                log.warning("netlink: %s; reading all interfaces anew", error)
                self._dirty.set()
                await asyncio.sleep(RETRY)

    async def _follow(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(SETTLE)
            self._dirty.clear()
            try:
                links = await self._read()
            except OSError as error:
                log.warning("netlink: cannot read the interfaces: %s", error)
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
        addresses: dict[int, list[IPv4Interface | IPv6Interface]] = {}
        async for message in await self._queries.get_addr():
            address = address_of(message)
            if address is not None:
                addresses.setdefault(message["index"], []).append(address)
        links = {}
        async for message in await self._queries.get_links():
            link = link_of(message, addresses.get(message["index"], ()))
            links[link.name] = link
        return links


def link_of(message: Any, addresses: Iterable[IPv4Interface | IPv6Interface]) -> Link:
    """The interface that an RTM_NEWLINK is about."""
    flags = message["flags"]
    return Link(
        name=message.get("ifname"),
        index=message["index"],
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        mtu=message.get("mtu"),
        hardware=message["ifi_type"],
        addresses=tuple(addresses),
    )


def address_of(message: Any) -> IPv4Interface | IPv6Interface | None:
    """The address that an RTM_NEWADDR is about, if it can be used."""
    flags = message.get("flags") or 0
    if flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED):
        return None
    # On a point-to-point interface "address" is the peer's.
    text = message.get("local") or message.get("address")
    return ip_interface(f"{text}/{message['prefixlen']}") if text else None
