"""When the memberships of an interface are reported, but for what the kernel says by itself."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from mcrd.addresses import is_asked_for
from mcrd.host.procfs import Host
from mcrd.host.protocols import forced, igmp_spoken
from mcrd.model import Address
from mcrd.planning.links import Link
from mcrd.planning.needs import HEARD_ON
from mcrd.planning.resources import Membership, OnInterface, Rejoin
from mcrd.sockets.rejoin import AT_ONCE, Mouth, Repeater, Said, source_for
from mcrd.sockets.reports import LATEST, Wanted, reports

LINK_LOCAL_REPORTS = "net/ipv4/igmp_link_local_mcast_reports"

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
        self.queried: Spoken = lambda _: None

    def begin(self, rejoin: Rejoin) -> None:
        """Report from now on; raise OSError."""
        self[rejoin] = Repeater(rejoin, time.monotonic())

    def end(self, rejoin: Rejoin) -> None:
        """Report no more."""
        self.pop(rejoin).close()

    def look(
        self, links: Mapping[str, Link], memberships: Iterable[Membership]
    ) -> Iterator[tuple[str, Said]]:
        """Send what is due; how many that were, by interface. One without carrier waits."""
        now = time.monotonic()
        self._left = AT_ONCE
        for rejoin, repeater in self.items():
            link = _reached(rejoin, links)
            if link is None:
                continue
            if repeater.is_due(now):
                joined = [each for each in memberships if each.index == rejoin.index]
                families = [(_said(joined, one), self._version(link, one)) for one in LATEST]
                repeater.begin(families, link, now)
            said = repeater.send(link)
            if any(said):
                yield link.name, said

    def report_new(
        self,
        joined: Iterable[Membership],
        links: Mapping[str, Link],
        memberships: Iterable[Membership],
    ) -> None:
        """Report what was just joined: the kernel waits for two or three ticks, some 10 ms.

        A report of a group is of all its `memberships`. Of very many, the rest is left to the
        kernel.
        """
        new = {_key(each): each for each in joined if _is_waited_for(each.group)}
        found: dict[int, list[Membership]] = {}
        for each in memberships if new else ():
            if _key(each) in new:
                found.setdefault(each.index, []).append(each)
        where = {each.index: each for each in new.values()}
        try:
            for index, several in found.items():
                if self._left > 0 and (link := _reached(where[index], links)) is not None:
                    self._report(several, link)
        except OSError:
            pass  # there is no socket to be had, and the kernel reports it all the same
        except Exception:
            log.exception("what was joined is not reported at once")

    def _report(self, joined: Sequence[Membership], link: Link) -> None:
        self._first = self._first or Mouth()
        for version in LATEST:
            groups = wanted(joined, version)
            spoken = self._version(link, version) if groups else 0
            if not groups or (version, spoken) == (6, 1):
                continue  # a kernel that speaks MLDv1 waits for nothing (igmp6_group_added())
            said = reports(groups, source_for(link, version), spoken, link.mtu)
            some = list(islice(said, self._left))
            self._left -= len(some)
            self._first.say(some, link)

    def _version(self, link: Link, version: int) -> int:
        """That of IGMP or MLD which an interface speaks."""
        spoken = igmp_spoken(link.name) if version == 4 else self._mld(link)
        return spoken or LATEST[version]

    def _mld(self, link: Link) -> int | None:
        """The kernel tells of no version, but it goes by these."""
        set_to = forced(link.name, 6)
        if set_to is None:  # it cannot be read, but somebody may have set it as the rule file asks
            set_to = next((each.mld for each in self if each.index == link.index), None)
        return set_to or self.queried(link.index)


def _reached(where: OnInterface, links: Mapping[str, Link]) -> Link | None:
    """The interface, where something can be sent there."""
    link = links.get(where.interface)
    if link is None or link.index != where.index or not (link.up and link.carrier):
        return None
    return link


def _key(joined: Membership) -> tuple[int, int]:
    return joined.index, int(joined.group)


def _is_waited_for(group: Address) -> bool:
    """Whether anything comes sooner once the group is reported."""
    return is_asked_for(group) and group not in HEARD_ON[group.version]


def _said(joined: Iterable[Membership], version: int) -> Wanted:
    """What is wanted, without what a kernel is told to keep to itself."""
    groups = wanted(joined, version)
    if version == 4 and Host().sysctl(LINK_LOCAL_REPORTS) == 0:
        return {group: sources for group, sources in groups.items() if is_asked_for(group)}
    return groups


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
