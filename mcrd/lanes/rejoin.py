"""When the memberships of an interface are reported again, and in which version."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from mcrd.host.protocols import forced, igmp_spoken
from mcrd.model import Address
from mcrd.planning.links import Link
from mcrd.planning.resources import Membership, Rejoin
from mcrd.sockets.rejoin import Repeater, Said
from mcrd.sockets.reports import LATEST, Wanted

Spoken = Callable[[int], int | None]
"""The version of MLD that somebody queries in on an interface, by its index; None: nobody does."""

log = logging.getLogger(__name__)


class Rejoins(dict[Rejoin, Repeater]):
    """The interfaces on which memberships are reported unasked."""

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
        for rejoin, repeater in self.items():
            link = links.get(rejoin.interface)
            if link is None or link.index != rejoin.index or not (link.up and link.carrier):
                continue
            if repeater.is_due(now):
                joined = [each for each in memberships if each.index == rejoin.index]
                versions = {4: igmp_spoken(link.name) or LATEST[4], 6: _mld(rejoin, spoken)}
                families = [(wanted(joined, number), how) for number, how in versions.items()]
                repeater.begin(families, link, now)
            said = repeater.send(link)
            if any(said):
                yield link.name, said


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


def _mld(rejoin: Rejoin, spoken: Spoken) -> int:
    """The kernel tells of no version, but it goes by these."""
    set_to = forced(rejoin.interface, 6)
    if set_to is None:  # it cannot be read, but somebody may have set it as the rule file asks
        set_to = rejoin.mld
    return set_to or spoken(rejoin.index) or LATEST[6]
