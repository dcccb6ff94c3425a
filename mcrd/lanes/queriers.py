"""The queriers of this host: who listens on the interfaces where it asks, or wants to know."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address

from mcrd import looks
from mcrd.addresses import is_source_specific
from mcrd.answers import Asked, Listening
from mcrd.bucket import Bucket
from mcrd.events import tell
from mcrd.model import Address
from mcrd.observe.messages import MalformedError, Query, Record, igmp, mld
from mcrd.planning.actual import NOBODY, Changed, Listeners, Wanted
from mcrd.planning.links import Link
from mcrd.planning.resources import Querying
from mcrd.querying.groups import NONE, Group, Said, Times
from mcrd.querying.interests import RESERVED_AT_MOST, Interests
from mcrd.querying.querier import Ask, Querier
from mcrd.sockets.queries import query
from mcrd.sockets.rejoin import source_for
from mcrd.sockets.reports import LATEST, is_reported
from mcrd.sockets.station import Station
from mcrd.spent import Spent

SHARE = 0.1  # of the time may go into reading,
BURST = 0.05  # and so many seconds at once
AT_ONCE = 20  # changes of sources in a second: each is planned, as a reload is
AGAIN = 0.5  # seconds, until what the loop had no room for is tried again
QUIET = 60.0  # seconds without more reports than there is room for, after which others are told

log = logging.getLogger(__name__)


class Queriers(dict[Querying, "Asking"]):
    """Those that are open.

    `listeners` is what hosts want of the groups that outputs are interested in; `changed` is
    called with what of it is another: at once if a group came or went, or more of its sources are
    wanted, and else with the next look.
    """

    def __init__(self) -> None:
        super().__init__()
        self._about = frozenset[object]()
        self._interests = self._reserved = Interests()
        self._inherited: dict[tuple[int, int], dict[Address, Group]] = {}
        self._at_once = Bucket(AT_ONCE, AT_ONCE)
        self.listeners = NOBODY
        self.changed: Callable[[Changed], None] = lambda _: None

    def begin(self, querying: Querying, links: Mapping[str, Link]) -> None:
        """Ask and listen from now on; raise OSError.

        One that takes the place of another, by other keys of the rule file, knows what that knew.
        """
        where = (querying.index, querying.version)
        before = next((a for q, a in self.items() if (q.index, q.version) == where), None)
        self[querying] = asking = Asking(querying, links[querying.interface], self._heard)
        asking.querier.reserved = self._reserved
        asking.querier.groups = self._inherited.pop(where, {})
        if before is not None:
            asking.querier.follow(before.querier, time.monotonic())

    def heard(self) -> Iterator[tuple[int, Group]]:
        """What hosts want now that outputs are interested in, and on which interface, by index."""
        now = time.monotonic()
        known = [(where.index, asking.querier.groups) for where, asking in self.items()]
        known += [(index, groups) for (index, _), groups in self._inherited.items()]
        for index, groups in known:
            for address, group in groups.items():
                if address in self._interests and not group.is_over(now):
                    yield index, group

    def inherit(self, index: int, group: Group) -> None:
        """Hosts wanted this of a daemon before; they answer when they are asked again.

        It was wanted when that daemon ended, however long ago that was.
        """
        times = Times()
        group.hold(0.0, time.monotonic() + times.query + times.response)
        self._inherited.setdefault((index, group.address.version), {})[group.address] = group

    def about(self, groups: frozenset[object], *, also_old: bool = False) -> None:
        """Outputs are interested in these groups and ranges, and maybe in those before."""
        groups |= self._about if also_old else frozenset()
        if groups == self._about:
            return
        self._about = groups
        self._interests = Interests(groups)
        self._reserved = Interests(groups, RESERVED_AT_MOST)
        for asking in self.values():
            asking.querier.reserved = self._reserved
        self._compare()

    def end(self, querying: Querying) -> None:
        """Ask and listen no more."""
        self.pop(querying).close()
        self._compare()

    def look(self, links: Mapping[str, Link]) -> None:
        """Send what is due, and forget who has not answered."""
        for querying, asking in self.items():
            link = links.get(querying.interface)
            if link is not None and link.index == querying.index:
                asking.look(link)
        self._compare()

    def _heard(self, index: int, groups: Iterable[Address]) -> None:
        """Whether these came or went, or more of their sources are wanted.

        Sources come as others like: those above a bound wait for the next look.
        """
        now, changed = time.monotonic(), set[tuple[int, Address]]()
        found = self.listeners
        for key in ((index, group) for group in groups if group in self._interests):
            wanted, before = self._known(*key, now), found.get(key)
            if wanted is None or before is None:
                if wanted is before:
                    continue
            elif not (wanted.exceeds(before) and self._at_once.take()):
                continue
            if not changed:
                found = Listeners(found)
            changed.add(key)
            if wanted is None:
                del found[key]
            else:
                found[key] = wanted
        if changed:
            self.listeners = found
            self.changed(frozenset(changed))

    def _known(self, index: int, address: Address, now: float) -> Wanted | None:
        """What hosts want of it there; None: nothing."""
        places = [asking.querier.groups for where, asking in self.items() if where.index == index]
        places.append(self._inherited.get((index, address.version), {}))
        for group in filter(None, (groups.get(address) for groups in places)):
            if not group.is_over(now):
                return _wanted(group, now)
        return None

    def _compare(self) -> None:
        now = time.monotonic()
        found, before = Listeners(), self.listeners
        for index, group in self.heard():
            found[index, group.address] = _wanted(group, now)
        if found != before:
            self.listeners = found
            both = found.keys() | before.keys()
            self.changed(frozenset(key for key in both if found.get(key) != before.get(key)))


class Asking:
    """One protocol on one interface."""

    def __init__(
        self, querying: Querying, link: Link, heard: Callable[[int, Iterable[Address]], None]
    ) -> None:
        """`heard` is called with the index of the interface and the groups that were spoken of."""
        self._querying, self._link, self._heard = querying, link, heard
        self._station = Station(querying.interface, querying.index, querying.version)
        self._ears: asyncio.TimerHandle | None = None
        self._credit = (BURST, 0.0)  # seconds that reading may take, at a time
        newest = LATEST[querying.version]
        self.querier = Querier(None, querying.asks, newest)
        self._said = ""
        self._passed_over, self._crowded = 0, -QUIET  # how many, and when that was seen last
        try:
            self._listen()
        except OSError:
            self._station.close()
            raise

    def _listen(self) -> None:
        self._ears = None
        asyncio.get_running_loop().add_reader(self._station.fileno(), self._read)

    def _listen_again(self) -> None:
        try:
            self._listen()
        except OSError:  # the loop has no room for it; what is lost meanwhile is counted
            self._ears = asyncio.get_running_loop().call_later(AGAIN, self._listen_again)

    def _read(self) -> None:
        """Of a flood, what does not fit into a part of the time is lost to it alone."""
        loop = asyncio.get_running_loop()
        spent = Spent()
        now, groups = time.monotonic(), set[Address]()
        for heard in self._station.listen():
            if heard is None:
                self.querier.counts.malformed += 1
                continue
            source, destination, body = heard
            try:
                message = igmp(body) if source.version == 4 else mld(body)
            except MalformedError:
                self.querier.counts.malformed += 1
                continue
            if isinstance(message, Query):
                if message.group is not None and destination != message.group:
                    continue  # members do not hear it
                ask = Ask(message.group, message.sources, message.suppress)
                self.querier.hear_query(source, ask, message.interval, now)
            else:
                for record in message or ():
                    self._take(record, now)
                    groups.add(record.group)
        self._ask(now)
        self._heard(self._querying.index, groups)
        left, since = self._credit
        left = min(BURST, left + (now - since) * SHARE) - spent.seconds()
        self._credit = left, now
        if left < 0:
            loop.remove_reader(self._station.fileno())
            self._ears = loop.call_later(-left / SHARE, self._listen_again)

    def _take(self, record: Record, now: float) -> None:
        querier, group = self.querier, record.group
        if not group.is_multicast or not is_reported(group):
            querier.counts.malformed += 1
            return
        said = None if record.version else Said(record.kind)
        if said is None:
            if record.sources is None:
                querier.hear_old(group, record.version, now)
            else:
                querier.hear(group, Said.TO_IN, NONE, now)
            return
        if said in (Said.IS_EX, Said.TO_EX):
            querier.hear(group, said, record.refused, now)
        elif record.sources is None:  # more than are looked at: any
            if is_source_specific(group):  # of which nobody gets all
                querier.counts.ignored += 1
            else:
                querier.hear(group, Said.IS_EX, NONE, now)
        else:
            querier.hear(group, said, record.sources, now)

    def look(self, link: Link) -> None:
        """Send what is due, and forget who has not answered."""
        self._link, now = link, time.monotonic()
        version = self._querying.version
        source = source_for(link, version) if link.up and link.carrier else None
        self.querier.readdress(source if source and int(source) else None, now)
        self._tell()
        self._ask(now)
        self.querier.expire(now)
        self._tell_crowd(now)

    def _ask(self, now: float) -> None:
        version = self._querying.version
        spoken = self._querying.spoken or LATEST[version]
        for ask in self.querier.due(now):
            address = self.querier.address
            if address is None or (spoken == 1 and version == 4 and ask.group is not None):
                continue  # RFC 1112 has no question about one group
            times = self.querier.times
            self._station.send(query(ask, address, spoken, times), self._link)
            if ask.group is not None:
                loop = asyncio.get_running_loop()
                loop.call_later(times.last_member, self._ask_again, ask.group)

    def _ask_again(self, group: Address) -> None:
        """Ask once more, or believe that nobody is left: each at its time."""
        if self._station.fileno() >= 0:
            self._ask(time.monotonic())
            self._heard(self._querying.index, [group])

    def _tell_crowd(self, now: float) -> None:
        """Say once that there are more reports than anybody reads or remembers."""
        counts = self.querier.counts
        counts.unread += self._station.unread()
        before, self._passed_over = self._passed_over, counts.ignored + counts.unread
        if self._passed_over == before:
            return
        if now - self._crowded >= QUIET:
            text = "%s: more reports than there is time or room for; `mcrctl members` counts them"
            where = {"interface": self._link.name}
            tell(log, logging.WARNING, "reports-unread", text, self._querying, **where)
        self._crowded = now

    def _tell(self) -> None:
        """Say who asks here when it is not this host any more, or is again."""
        if not self._querying.asks:
            return
        querier, link, level = self.querier, self._link, logging.INFO
        if querier.other is not None:
            which = "another"
            text = (
                f"{querier.other[0]} asks who listens: its address is lower, so this host does not"
            )
        elif querier.address is not None:
            which = text = f"asks who listens, as {querier.address}"
        elif not (link.up and link.carrier):
            which = text = "asks nobody: the interface is down"
        else:
            which = text = "cannot ask who listens: the interface has no address"
            level = logging.WARNING
        if which != self._said:
            self._said = which
            tell(log, level, "querier", "%s: %s", self._querying, text, interface=link.name)

    def own_query(self) -> looks.Query | None:
        """What explain is told of the last general query of this host; None: another asks."""
        querier, times = self.querier, self.querier.times
        if not querier.elected or querier.asked_at is None:
            return None
        since = time.monotonic() - querier.asked_at
        return looks.Query(
            address=str(querier.address),
            version=self._querying.spoken or querier.newest,
            ago_s=round(since, 1),
            answered=since > times.response + 1,
        )

    def told(self) -> Asked:
        """What it knows."""
        querier, now = self.querier, time.monotonic()
        other = querier.other
        who = other[0] if other is not None else querier.address if querier.elected else None
        found = [
            Listening(str(address), _sources(group, now), round(now - group.since, 1), spoken)
            for address, group in querier.groups.items()
            if not group.is_over(now) and (spoken := group.speaks(querier.newest))
        ]
        return Asked(
            interface=self._link.name,
            protocol="igmp" if self._querying.version == 4 else "mld",
            querier=str(who) if who is not None else None,
            elected=querier.elected,
            queries=querier.counts.queries,
            reports=querier.counts.reports,
            ignored=querier.counts.ignored,
            unread=querier.counts.unread,
            malformed=querier.counts.malformed,
            groups=found,
        )

    def close(self) -> None:
        """Ask and listen no more."""
        if self._ears is not None:
            self._ears.cancel()
        asyncio.get_running_loop().remove_reader(self._station.fileno())
        self._station.close()


def _wanted(group: Group, now: float) -> Wanted:
    return Wanted(group.until > now, tuple(group.wanted), frozenset(group.refused))


def _sources(group: Group, now: float) -> list[str] | None:
    """Those that the group is wanted from; None: any."""
    if group.until > now:
        return None
    return sorted(str(ip_address(source)) for source in group.wanted)
