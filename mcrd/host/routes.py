"""Where packets to hosts would leave: looked up for the outputs that there are, and followed.

An event only says whose ways may have changed: these are looked up anew. What this costs is
bounded, whatever a routing daemon does: between two looks there is a pause, longer after a longer
look. A look at many is in portions, between which other work is done. Of a neighbour, only its
state is asked for, unless it begins or ceases to answer.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

from mcrd.errors import words
from mcrd.events import tell
from mcrd.host.neighbours import PATIENCE, Hop, Neighbours
from mcrd.planning.links import Link, Lookup, Way, source_of
from mcrd.sockets.rtnetlink import Change, Question, Route, RouteChanges, RouteQueries
from mcrd.spent import Spent
from mcrd.tasks import until_it_can

SLICE = 0.005  # seconds of reading what changed, at once
PORTION = 500  # ways that are looked up at once
SHARE = 9  # times as long as a look took is the pause after it,
LONGEST_PAUSE = 0.25  # seconds; but no longer than this
RETRY = 0.5  # seconds, when the kernel did not answer

REFUSING = {errno.EINVAL: "blackhole", errno.EACCES: "prohibit", errno.EHOSTUNREACH: "unreachable"}

log = logging.getLogger(__name__)


class Routes:
    """The ways that outputs to hosts go.

    `changed` is called when some are other ones, with the interfaces that they lead over. Before,
    `looked_at` hears of which it is now in doubt whether what is sent there leaves, and of which
    it is certain.
    """

    def __init__(
        self,
        links: Callable[[], Mapping[str, Link]],
        changed: Callable[[frozenset[str]], None],
        looked_at: Callable[[Collection[Lookup], Collection[Lookup]], None],
    ) -> None:
        self.now: Mapping[Lookup, Way] = {}
        self._links = links
        self._changed = changed
        self._looked_at = looked_at
        self._changes: RouteChanges | None = None
        self._queries: RouteQueries | None = None
        self._neighbours = Neighbours()
        self._hosts: dict[int, list[int]] = {}  # sorted, by version
        self._of: dict[tuple[int, int], set[Lookup]] = {}  # by version and host or hop
        self._due: set[Lookup] = set()
        self._looking: set[Lookup] = set()  # those of this look that are left
        self._took = 0.0  # seconds of a CPU, this look so far
        self._next_look = 0.0  # not before this time
        self._moved: set[str] = set()  # interfaces, to be told when this look is over
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    async def start(self) -> None:
        """Hears of changes from now on; raises NeverError when that can never be."""
        await until_it_can("hear of routes", self._begin)

    async def _begin(self) -> None:
        try:
            self._queries = RouteQueries()
            self._changes = RouteChanges()
            asyncio.get_running_loop().add_reader(self._changes.fileno(), self._heard)
        except OSError:
            for opened in (self._changes, self._queries):
                if opened is not None:
                    opened.close()
            self._changes = self._queries = None
            raise

    def stop(self) -> None:
        """Hears of no more."""
        for timer in self._timers.values():
            timer.cancel()
        if self._changes is not None:
            asyncio.get_running_loop().remove_reader(self._changes.fileno())
            self._changes.close()
        if self._queries is not None:
            self._queries.close()
        self._changes = self._queries = None

    def watch(self, lookups: Iterable[Lookup]) -> None:
        """Follows these and no others; `now` has those that are new when it returns."""
        wanted = dict.fromkeys(lookups)
        self.now = {one: way for one, way in self.now.items() if one in wanted}
        self._due &= wanted.keys()
        self._looking &= wanted.keys()
        new = [one for one in wanted if one not in self.now]
        self._index(wanted)
        if new:
            self._look(new)
            self._tell()

    def links_changed(self) -> None:
        """An interface or address came or went, of which routes make no event."""
        self._due.update(self.now)
        self._look_at_due()

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        """Once, at the time that was asked for first."""
        if what not in self._timers:

            def run() -> None:
                del self._timers[what]
                what()

            self._timers[what] = asyncio.get_running_loop().call_later(seconds, run)

    def _index(self, lookups: Collection[Lookup]) -> None:
        hosts: dict[int, set[int]] = {4: set(), 6: set()}
        self._of = {}
        for one in lookups:
            version = one.address.version
            hosts[version].add(int(one.address))
            way = self.now.get(one)
            for address in (one.address, way.hop if way is not None else None):
                if address is not None:
                    self._of.setdefault((address.version, int(address)), set()).add(one)
        self._hosts = {version: sorted(found) for version, found in hosts.items()}
        used = {(way.index, way.hop) for way in self.now.values() if way.hop is not None}
        self._neighbours.keep(used)

    def _is_doubted(self, way: Way) -> bool:
        """Whether its neighbour has neither answered yet nor failed to."""
        return way.hop is not None and self._neighbours.is_doubted((way.index, way.hop))

    def _heard(self) -> None:
        """Something has changed. Events come in flocks: the rest waits until after the pause."""
        if self._changes is None:
            return
        asyncio.get_running_loop().remove_reader(self._changes.fileno())
        spent = Spent()
        try:
            changes = set(self._changes.read(SLICE))
            if None in changes:
                self._due.update(self.now)
            else:
                heard = [change for change in changes if change is not None]
                self._due |= self._concerned(change for change in heard if not change.over)
                self._look_at_states(change for change in heard if change.over)
            self._look_at_due()
        finally:
            pause = min(SHARE * spent.seconds(), LONGEST_PAUSE)
            self._later(pause, self._listen)

    def _listen(self) -> None:
        """Hears of changes again; when the loop has no room for the socket, by a new one later."""
        if self._queries is None:  # stopped
            return
        try:
            if self._changes is None:
                self._changes = RouteChanges()
                self._due.update(self.now)  # nobody has heard what changed meanwhile
            asyncio.get_running_loop().add_reader(self._changes.fileno(), self._heard)
        except OSError as error:
            text = "netlink: cannot hear of routes: %s"
            tell(log, logging.WARNING, "unexpected", text, words(error), task="routes")
            if self._changes is not None:
                self._changes.close()
                self._changes = None
            self._later(RETRY, self._listen)
        else:
            self._look_later(0.0)

    def _concerned(self, changes: Iterable[Change]) -> set[Lookup]:
        """Those whose host is among the addresses that routes lead to, or one that is a hop."""
        found: set[Lookup] = set()
        seen = (0, 0)  # version and address: up to here, all that are sorted before were looked at
        for change in sorted(changes):
            if change.size == 1:
                found |= self._of.get((change.version, change.first), set())
                continue
            hosts = self._hosts.get(change.version, [])
            begin, end = change.first, change.first + change.size
            if seen[0] == change.version:
                begin = max(begin, seen[1])
            at = bisect_left(hosts, begin)
            while at < len(hosts) and hosts[at] < end:
                found |= self._of[change.version, hosts[at]]
                at += 1
            seen = max(seen, (change.version, end))
        return found

    def _look_at_states(self, changes: Iterable[Change]) -> None:
        """Of neighbours that outputs send to; their ways, if one begins or ceases to answer."""
        used = {hop: users for hop in map(_hop, changes) if (users := self._users(hop))}
        if not used or self._queries is None:
            return
        try:
            states = dict(zip(used, self._queries.neighbours(list(used)), strict=True))
        except OSError as error:
            self._could_not_ask("neighbours", error, set().union(*used.values()))
            return
        known = self._neighbours
        before = {hop: (hop in known.silent, known.is_doubted(hop)) for hop in used}
        self._take(states, self._names())
        doubted: set[Lookup] = set()
        certain: set[Lookup] = set()
        for hop, users in used.items():
            if (hop in known.silent) != before[hop][0]:
                self._due |= users
                doubted |= users
            elif known.is_doubted(hop) != before[hop][1]:
                (doubted if known.is_doubted(hop) else certain).update(users)
        self._looked_at(doubted, {one for one in certain if not self.now[one].trouble})

    def _users(self, hop: Hop) -> set[Lookup]:
        """Those that send to this neighbour."""
        index, address = hop
        there = self._of.get((address.version, int(address)), set())
        ways = ((one, self.now.get(one)) for one in there)
        return {one for one, way in ways if way and (way.index, way.hop) == (index, address)}

    def _look_at_due(self) -> None:
        """At a portion of them; what becomes due meanwhile waits until after the pause."""
        if not self._looking:
            wait = self._next_look - time.monotonic()
            if not self._due or wait > 0:
                self._look_later(wait)
                return
            self._looking, self._due, self._took = self._due, set(), 0.0
        spent = Spent()
        self._look([self._looking.pop() for _ in range(min(PORTION, len(self._looking)))])
        if not self._looking:
            self._tell()
        self._took += spent.seconds()
        if not self._looking:
            self._next_look = time.monotonic() + min(SHARE * self._took, LONGEST_PAUSE)
        self._look_later(0.0 if self._looking else self._next_look - time.monotonic())

    def _look_later(self, seconds: float) -> None:
        if self._looking or self._due:
            self._later(seconds, self._look_at_due)

    def _tell(self) -> None:
        """That a look has found other ways."""
        if self._moved:
            moved, self._moved = frozenset(self._moved), set()
            self._index(self.now)
            self._changed(moved)

    def _look(self, lookups: Sequence[Lookup]) -> None:
        """Asks for these ways. When the kernel does not answer, they stay what they were."""
        if self._queries is None:
            return
        try:
            found = self._ways(lookups, self._queries)
        except OSError as error:
            self._could_not_ask("routes", error, lookups)
            return
        new = {one: way for one, way in found.items() if way != self.now.get(one)}
        doubted = {one for one, way in new.items() if way.trouble or self._is_doubted(way)}
        doubted |= {one for one in found if self._is_doubted(found[one])}
        certain = {one for one, way in found.items() if not way.trouble} - doubted
        self._looked_at(doubted, certain)
        if new:
            self.now = {**self.now, **new}
            self._moved.update(way.interface for way in new.values())

    def _could_not_ask(self, what: str, error: OSError, lookups: Iterable[Lookup]) -> None:
        log.warning("netlink: cannot ask for %s: %s", what, words(error))
        self._due.update(lookups)
        self._later(RETRY, self._look_at_due)

    def _names(self) -> dict[int, str]:
        return {link.index: link.name for link in self._links().values()}

    def _ways(self, lookups: Sequence[Lookup], queries: RouteQueries) -> dict[Lookup, Way]:
        links = self._links()
        names = self._names()
        enslaved = _by_master(links.values())
        there = [one for one in lookups if one.interface is None or one.interface in links]
        routes = queries.routes([_question(one, links, enslaved) for one in there])
        found = {one: _way(one, route, names) for one, route in zip(there, routes, strict=True)}
        # Of routes of equal cost, and for rules of ip-rule(8), the source counts that was chosen.
        chosen = [one for one in there if _chooses(one) and found[one].source is not None]
        questions = [
            _question(one, links, enslaved)._replace(source=found[one].source) for one in chosen
        ]
        for one, route in zip(chosen, queries.routes(questions), strict=True):
            if not route.error:
                name = names.get(route.over, "")
                found[one] = Way(name, route.over, found[one].source, route.hop)
        for one in [one for one in there if found[one].trouble and one.interface is not None]:
            (route,) = queries.routes([_question(one, links, enslaved, anywhere=True)])
            found[one] = _instead(one, route, names)
        hops = {(way.index, way.hop) for way in found.values() if way.hop is not None}
        states = dict(zip(hops, queries.neighbours(list(hops)), strict=True))
        self._take(states, names)
        for one, way in found.items():
            if way.hop is not None and self._neighbours.is_silent((way.index, way.hop)):
                how = "ARP" if way.hop.version == 4 else "neighbour discovery"
                trouble = f"{way.hop} does not answer {how} on {way.interface}"
                found[one] = Way(way.interface, way.index, way.source, way.hop, trouble)
        return found

    def _take(self, states: Mapping[Hop, int | None], names: Mapping[int, str]) -> None:
        if self._neighbours.take(states, names):
            self._later(PATIENCE, self._look_at_pending)
        self._ask_later()

    def _look_at_pending(self) -> None:
        self._look_at_hops(self._neighbours.pending)

    def _look_at_hops(self, hops: Iterable[Hop]) -> None:
        for hop in hops:
            self._due |= self._users(hop)
        self._look_at_due()

    def _ask_later(self) -> None:
        if wait := self._neighbours.wait():
            self._later(wait, self._ask)

    def _ask(self) -> None:
        if self._queries is None:
            return
        try:
            changed = self._neighbours.ask(self._names(), self._queries.neighbours)
        except OSError as error:
            self._could_not_ask("neighbours", error, self.now)
        else:
            self._look_at_hops(changed)
        if self._neighbours.pending:
            self._later(PATIENCE, self._look_at_pending)
        self._ask_later()


def _hop(change: Change) -> Hop:
    address = IPv4Address(change.first) if change.version == 4 else IPv6Address(change.first)
    return change.over, address


def _question(
    one: Lookup,
    links: Mapping[str, Link],
    enslaved: Mapping[int, frozenset[int]],
    *,
    anywhere: bool = False,
) -> Question:
    link = links.get(one.interface or "")
    if link is None:
        source = None if one.source == "keep" else one.source
    else:
        # With a source, IPv6 would not hold to the interface (ip6_route_output_flags_noref()).
        source = source_of(one, link) if one.address.version == 4 else None
    return Question(
        address=one.address,
        over=None if link is None or anywhere else link.index,
        source=None if anywhere else source,
        dscp=one.dscp,
        protocol=socket.IPPROTO_UDP if one.protocol == "udp" else socket.IPPROTO_ESP,
        port=one.port,
        source_port=one.source_port,
        enslaved=frozenset() if link is None else enslaved.get(link.index, frozenset()),
    )


def _chooses(one: Lookup) -> bool:
    """Whether the kernel chooses the source."""
    return one.interface is None and one.source is None


def _by_master(links: Iterable[Link]) -> dict[int, frozenset[int]]:
    found: dict[int, set[int]] = {}
    for link in links:
        if link.master:
            found.setdefault(link.master, set()).add(link.index)
    return {master: frozenset(indexes) for master, indexes in found.items()}


def _way(one: Lookup, route: Route, names: Mapping[int, str]) -> Way:
    if route.error:
        if route.error in REFUSING:
            kind = REFUSING[route.error]
            return Way(trouble=f"a route of the type {kind} is in the way to {one.address}")
        over = f" over {one.interface}" if one.interface is not None else ""
        return Way(trouble=f"there is no route to {one.address}{over}")
    name = names.get(route.over, "")
    return Way(name, route.over, route.source, route.hop)


def _instead(one: Lookup, route: Route, names: Mapping[int, str]) -> Way:
    """Where the routes lead, of an output whose own interface they do not lead over.

    Of an interface without a route, IPv4 says "unreachable", be there such a route or not.
    """
    if route.error in REFUSING:
        return _way(one, route, names)
    text = f"there is no route to {one.address} over {one.interface}"
    name = names.get(route.over)
    return Way(trouble=f"{text}; it leads over {name}" if name and not route.error else text)
