"""Hears what comes, and remembers what it tells."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping

from mcrd import looks
from mcrd.addresses import is_to
from mcrd.model import Address, Output, Rule
from mcrd.observe.heard import Heard, Protocol
from mcrd.observe.raw import IPPROTO_PIM, Ears
from mcrd.observe.returned import Returned
from mcrd.planning.links import Link

HEARD_BY: Mapping[Protocol, tuple[int, int]] = {
    "igmp": (socket.AF_INET, socket.IPPROTO_IGMP),
    "mld": (socket.AF_INET6, socket.IPPROTO_ICMPV6),
}
MLD_FIRST = bytes([128])  # types of ICMPv6 below are errors (RFC 4443, 2.1)


class Listener:
    """What others say about groups on the interfaces of this host, and about what it sent."""

    def __init__(self) -> None:
        self._ears = Ears()
        self._heard = Heard()
        self._returned = Returned()
        self._links: Mapping[str, Link] = {}

    def listen(self, links: Mapping[str, Link]) -> None:
        """Take what has arrived since the last time."""
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
            elif protocol == socket.IPPROTO_ICMPV6 and body[:1] >= MLD_FIRST:
                self._heard.take(index, "mld", source, body, now)
            else:
                self._returned.take(source, body, now)

    def mld(self, index: int) -> int | None:
        """The version of MLD that is queried in on an interface; None: nobody queries there."""
        return self._heard.version(index, "mld", time.monotonic())

    def unasked(self, interfaces: Iterable[str]) -> dict[str, list[str]]:
        """Of these interfaces, where no query was heard for minutes, and of which protocols."""
        now, found = time.monotonic(), dict[str, list[str]]()
        for name in interfaces:
            for protocol, where in HEARD_BY.items():
                link = self._links.get(name)
                if link is None or not self._ears.hears(*where):
                    continue
                if self._heard.is_unasked(link.index, protocol, now):
                    found.setdefault(name, []).append(protocol)
        return found

    def tell(self, rule: Rule) -> tuple[dict[str, dict[str, looks.Heard]], list[looks.Returned]]:
        """What was heard on the interfaces of a rule, and what came back to its outputs."""
        now = time.monotonic()
        outputs = (o.interface for o in rule.outputs if o.interface is not None)
        names = (rule.input.interface, *outputs)
        single: dict[Address, list[Output]] = {}
        ranges = [output for output in rule.outputs if not isinstance(output.address, Address)]
        for output in rule.outputs:
            if isinstance(output.address, Address):
                single.setdefault(output.address, []).append(output)

        def concerns(destination: Address, port: int = 0) -> bool:
            candidates = (*single.get(destination, ()), *ranges)
            return any(is_to(output, destination, port) for output in candidates)

        protocols = [each for each, where in HEARD_BY.items() if self._ears.hears(*where)]
        heard = {
            name: self._heard.plain(self._links[name].index, now, concerns, protocols)
            for name in dict.fromkeys(names)
            if name in self._links
        }
        return heard, self._returned.plain(concerns, now)

    def close(self) -> None:
        """Hear no more."""
        self._ears.close()
