"""Hears what comes, and remembers what it tells."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

from mcrd.hearing.heard import Heard
from mcrd.resources import Link
from mcrd.sockets.hearing import IPPROTO_PIM, Ears


class Listener:
    """What is said by others about groups on the interfaces of this host."""

    def __init__(self) -> None:
        self._ears = Ears()
        self._heard = Heard()
        self._links: Mapping[str, Link] = {}

    def listen(self, links: Mapping[str, Link]) -> None:
        """Takes what has come since the last time."""
        now = time.monotonic()
        if links is not self._links:
            self._links = links
            own = {k.index: frozenset(a.ip for a in k.addresses) for k in links.values()}
            self._heard.keep(own, now)
        for index, protocol, source, body in self._ears.listen():
            if protocol == IPPROTO_PIM:
                self._heard.take_pim(index, source, body, now)
            elif protocol == socket.IPPROTO_IGMP:
                self._heard.take(index, "igmp", source, body, now)
            else:
                self._heard.take(index, "mld", source, body, now)

    def tell(self, interfaces: Iterable[str]) -> dict[str, Any]:
        """As JSON, what was heard on each of these that there is."""
        now = time.monotonic()
        return {
            name: self._heard.plain(self._links[name].index, now)
            for name in dict.fromkeys(interfaces)
            if name in self._links
        }

    def close(self) -> None:
        """Hears no more."""
        self._ears.close()
