"""When the memberships of an interface are reported, but for what the kernel says by itself."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from mcrd.host.protocols import forced, igmp_spoken
from mcrd.model import Address
from mcrd.planning.links import Link
from mcrd.planning.resources import Membership, OnInterface, Rejoin
from mcrd.sockets.rejoin import AT_ONCE, Mouth, Repeater, Said, source_for
from mcrd.sockets.reports import LATEST, Wanted, reports

Spoken = Callable[[int], int | None]
"""The version of MLD that somebody queries in on an interface, by its index; None: nobody does."""

log = logging.getLogger(__name__)


class Rejoins(dict[Rejoin, Repeater]):
    """The interfaces on which memberships are reported again and again, unasked.

    Those that are new are reported on every interface, as soon as they are joined.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first: Mouth | None = None
        self._left = AT_ONCE  # reports of new ones until the next look
        self._queried: Spoken = lambda _: None
        self._versions: dict[tuple[int, int], int] = {}  # since the last look, by interface

    def begin(self, rejoin: Rejoin) -> None:
        """Report from now on; raise OSError."""
        self[rejoin] = Repeater(rejoin, time.monotonic())

    def end(self, rejoin: Rejoin) -> None:
        """Report no more."""
        self.pop(rejoin).close()

    def look(
        self, links: Mapping[str, Link], memberships: Iterable[Membership], spoken: Spoken
    ) -> Iterator[tuple[str, Said]]:
        """Send what is due; how many that were, by interface. One without carrier waits."""
        now = time.monotonic()
        self._left, self._queried = AT_ONCE, spoken
        self._versions.clear()
        for rejoin, repeater in self.items():
            link = _reached(rejoin, links)
            if link is None:
                continue
            if repeater.is_due(now):
                joined = [each for each in memberships if each.index == rejoin.index]
                families = [(wanted(joined, one), self._version(link, one)) for one in LATEST]
                repeater.begin(families, link, now)
            said = repeater.send(link)
            if any(said):
                yield link.name, said

    def report_new(self, joined: Iterable[Membership], links: Mapping[str, Link]) -> None:
        """Report what was just joined: the kernel waits for two or three ticks, some 10 ms.

        Of very many, the rest is left to the kernel.
        """
        found: dict[str, list[Membership]] = {}
        for each in joined:
            found.setdefault(each.interface, []).append(each)
        for several in found.values():
            link = _reached(several[0], links)
            if link is None or self._left <= 0:
                continue
            try:
                self._first = self._first or Mouth()
            except OSError:
                return
            for version in LATEST:
                if groups := wanted(several, version):
                    spoken = self._version(link, version)
                    said = reports(groups, source_for(link, version), spoken, link.mtu)
                    some = list(islice(said, self._left))
                    self._left -= len(some)
                    self._first.say(some, link)

    def _version(self, link: Link, version: int) -> int:
        """That of IGMP or MLD which an interface speaks."""
        key = (link.index, version)
        if key not in self._versions:
            spoken = igmp_spoken(link.name) if version == 4 else self._mld(link)
            self._versions[key] = spoken or LATEST[version]
        return self._versions[key]

    def _mld(self, link: Link) -> int | None:
        """The kernel tells of no version, but it goes by these."""
        set_to = forced(link.name, 6)
        if set_to is None:  # it cannot be read, but somebody may have set it as the rule file asks
            set_to = next((each.mld for each in self if each.index == link.index), None)
        return set_to or self._queried(link.index)


def _reached(where: OnInterface, links: Mapping[str, Link]) -> Link | None:
    """The interface, where something can be sent there."""
    link = links.get(where.interface)
    if link is None or link.index != where.index or not (link.up and link.carrier):
        return None
    return link


def wanted(joined: Iterable[Membership], version: int) -> Wanted:
    """By group of a family, from whom it is wanted, all joins together (RFC 3376, 3.2)."""
    found: dict[Address, frozenset[Address] | None] = {}
    for each in joined:
        if each.group.version != version:
            continue
        before = found.get(each.group, frozenset())
        if each.source is None or before is None:
            found[each.group] = None
        else:
            found[each.group] = before | {each.source}
    return found
