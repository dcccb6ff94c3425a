"""needs(rule, config, links, ways): what a rule needs of the host as it is now. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Any, NamedTuple

from mcrd.model import (
    Address,
    Config,
    Input,
    Interface,
    Output,
    Rule,
)
from mcrd.planning import names, outlets, overhear, patterns, receptions
from mcrd.planning.actual import NOBODY, Actual, Listeners, Wanted
from mcrd.planning.broadcast import input_here
from mcrd.planning.links import Link, Lookup, Way
from mcrd.planning.portions import portion
from mcrd.planning.relays import Relay, RelayKey
from mcrd.planning.resources import (
    GroupProtocol,
    Ingress,
    Membership,
    Nowhere,
    Outlet,
    Querying,
    Reception,
    Rejoin,
    Resource,
    Ring,
    Worker,
)

# Where members of groups, and routers, say so: IGMPv3 and PIM, MLDv2 and PIM (RFC 3376, 4.2.14;
# RFC 3810, 5.2.14; RFC 7761, 4.3.1).
HEARD_ON: Mapping[int, tuple[Address, ...]] = {
    4: (IPv4Address("224.0.0.22"), IPv4Address("224.0.0.13")),
    6: (IPv6Address("ff02::16"), IPv6Address("ff02::d")),
}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a rule needs here and now. `waits` says what it waits for, "" when it does not.

    `required` has to be open for the rule to run, `optional` is good to have. `relays` has, for
    each worker and each output of the rule, what is to be opened or what it waits for; `waiting`
    the same where there is no worker to be had. `whole` is what the workers do when all of it can
    be opened. `doubts` say of each output why its packets may go nowhere. `moves`: some output
    follows the routes, or leads nowhere now. `idle` are the places of the outputs that wait for
    nothing but members, and what tells of these. `standby` is why another host relays instead; ""
    when this one does. `joins` are the groups of a range that somebody wants, and sources that
    members name: one that cannot be joined is no reason to go without the others.
    """

    waits: str
    required: tuple[Resource, ...] = ()
    optional: tuple[Resource, ...] = ()
    relays: Mapping[RelayKey, tuple[Outlet | str, ...]] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    whole: Mapping[RelayKey, Relay] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    moves: bool = False
    idle: Mapping[int, Querying] = field(default_factory=dict)
    standby: str = ""
    joins: tuple[Membership | Reception, ...] = ()


class _Known(NamedTuple):
    """Needs, what it depends on, and when that was looked at last."""

    look: int
    rule: Rule
    settings: tuple[
        Interface | None, tuple[str, str], tuple[str, ...], str, Interface, overhear.Gated | None
    ]
    lookups: tuple[Lookup, ...]
    seen: tuple[Link | Way | Querying | tuple[tuple[Address, Wanted], ...] | bool | str | None, ...]
    needs: Needs


class KnownNeeds:
    """Remembers what each rule needs as long as nothing that this depends on has changed.

    With thousands of rules most of planning would else be to find that out anew. It makes no
    difference to any result.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._links: Mapping[str, Link] = {}
        self._ways: Mapping[Lookup, Way] = {}
        self._listeners = NOBODY
        self._interfaces: Mapping[str, Interface] = {}
        self._rules: Mapping[str, Rule] = {}
        self._doubles = names.NONE
        self._lanes: Mapping[str, str] = {}
        self._own: frozenset[Address] = frozenset()
        self._gated = overhear.Gated()
        self._look = 0  # another number whenever links, ways or settings are other ones

    def of(self, rule: Rule, config: Config, actual: Actual) -> Needs:
        """As needs()."""
        links, ways = actual.links, actual.ways
        if (
            links is not self._links
            or config.interfaces is not self._interfaces
            or config.rules is not self._rules
        ):
            self._links, self._interfaces, self._rules = links, config.interfaces, config.rules
            self._doubles = names.doubles(config, links)
            self._lanes = names.lanes(config, links)
            self._own = outlets.own_addresses(links)
            self._gated = overhear.gated(config, links)
            self._look += 1
        if ways is not self._ways or actual.listeners is not self._listeners:
            self._ways, self._listeners = ways, actual.listeners
            self._look += 1
        known = self._known.get(rule.name)
        if known is not None and known.look == self._look and known.rule is rule:
            return known.needs
        link = links.get(rule.input.interface)
        table = names.settings(config, link) if link is not None else None
        double = self._doubles.of(rule)
        lane = self._lanes.get(names.real(rule.input.interface, links), "")
        daemon = (config.daemon.sandbox, config.daemon.engine)
        avoid = self._gated if rule.standby is not None else None
        settings = (table, daemon, double, lane, _reader(config, lane), avoid)
        if known is not None and known.rule is rule:
            lookups = known.lookups
        else:
            lookups = tuple(outlets.lookups_of(rule))
        there = [ways.get(one) for one in lookups]
        seen = (
            links.get(rule.input.interface),
            *(links.get(o.interface or "") for o in rule.outputs),
            *there,
            *(links.get(way.interface) for way in there if way is not None),
            *(o.source in self._own for o in rule.outputs if o.interface is None and o.source),
            *(outlets.said_of(o, links, actual.listeners) for o in rule.outputs if o.when),
            *_asking(rule, config, links),
            outlets.why_standby(rule, self._own),
        )
        # Of tuples, what is the same object is compared no further.
        if known is not None and (known.rule, known.settings, known.seen) == (rule, settings, seen):
            found = known.needs
        else:
            of_all = (self._own, actual.listeners, avoid)
            found = needs(rule, config, links, ways, double, lane, *of_all)
            if known is not None and found == known.needs:
                found = known.needs  # the same object: what was made of it need not be compared
        self._known[rule.name] = _Known(self._look, rule, settings, lookups, seen, found)
        return found

    def keep(self, rules: Mapping[str, Rule]) -> None:
        """Forgets all rules but these."""
        self._known = {name: known for name, known in self._known.items() if name in rules}


def queriers(config: Config, links: Mapping[str, Link]) -> Iterator[Querying]:
    """Those that the rule file asks for, on the interfaces that are there, by whatever name."""
    for name, settings in config.interfaces.items():
        link = links.get(name) if settings.querier else None
        if link is not None:
            yield querying(config, link, 4)
            yield querying(config, link, 6)


def querying(config: Config, link: Link, version: int) -> Querying:
    """Who listens on an interface, in IGMP or MLD, as its table says."""
    table = names.settings(config, link)
    spoken = table.igmp_version if version == 4 else table.mld_version
    return Querying(link.name, link.index, version, table.querier, spoken)


def _asking(rule: Rule, config: Config, links: Mapping[str, Link]) -> Iterator[Querying]:
    """What tells of the members that outputs send to alone."""
    return filter(None, (_tells(output, config, links) for output in rule.outputs))


def _tells(output: Output, config: Config, links: Mapping[str, Link]) -> Querying | None:
    link = links.get(output.interface or "") if output.when is not None else None
    return querying(config, link, output.address.version) if link is not None else None


def needs(
    rule: Rule,
    config: Config,
    links: Mapping[str, Link],
    ways: Mapping[Lookup, Way] = MappingProxyType({}),
    double: Sequence[str] = (),
    lane: str = "",
    own: Collection[Address] | None = None,
    listeners: Listeners = NOBODY,
    avoid: overhear.Gated | None = None,
) -> Needs:
    """What `rule` needs, as the links and the routes are now; `double` as Doubles.of().

    `lane` is that of its input interface, see names.lanes(); `own` as own_addresses(), and `avoid`
    as overhear.gated(), where they are known.
    """
    own = outlets.own_addresses(links) if own is None else own
    link = links.get(rule.input.interface)
    same, *of_outputs = double or ("",) * (1 + len(rule.outputs))
    waiting = tuple(
        twice
        or outlets.why_waiting(rule, output, links)
        or outlets.why_unanswered(rule, output, link)
        for twice, output in zip(of_outputs, rule.outputs, strict=True)
    )
    if link is None:
        missing = patterns.missing(rule.input.interface, links)
        return Needs(missing, waiting=tuple(waits or missing for waits in waiting))
    if same:
        return Needs(same, waiting=tuple(waits or same for waits in waiting))
    wanted = tuple(
        {}
        if waits or output.when is None
        else outlets.wanted_of(rule.input, output, links, listeners)
        for waits, output in zip(waiting, rule.outputs, strict=True)
    )
    unwanted = tuple(
        outlets.why_unwanted(output, links, listeners)
        if output.when is not None and not (waits or groups)
        else ""
        for waits, groups, output in zip(waiting, wanted, rule.outputs, strict=True)
    )
    tells = {at: _tells(rule.outputs[at], config, links) for at, why in enumerate(unwanted) if why}
    idle = {at: querying for at, querying in tells.items() if querying is not None}
    asking = tuple(dict.fromkeys(_asking(rule, config, links)))
    waiting = tuple(waits or why for waits, why in zip(waiting, unwanted, strict=True))
    if all(waiting) and not idle:
        return Needs("; ".join(dict.fromkeys(waiting)), optional=asking, waiting=waiting)
    settings = names.settings(config, link)
    count = 1 if lane else settings.workers
    ingress = _ingress(link.name, link.index, count, settings.ring_size, lane, settings.gro)
    strict, engine = config.daemon.sandbox == "strict", config.daemon.engine
    reader = _reader(config, lane) if lane else settings
    how = (strict, reader.busy_poll, engine)
    workers = _workers(ingress.home, count, reader.cpus or (None,), how)
    if all(waiting):  # the worker is there when somebody joins, and no group is joined until then
        return Needs("", (ingress, *workers), asking, waiting=waiting, idle=idle)
    relays = {
        RelayKey(worker, rule.name): tuple(
            waits or outlets.outlet(worker, rule, output, links, ways, own)
            for waits, output in zip(waiting, rule.outputs, strict=True)
        )
        for worker in workers
    }
    standby = outlets.why_standby(rule, own)
    if avoid is None and rule.standby is not None:
        avoid = overhear.gated(config, links)
    only = receptions.only_wanted(rule, waiting, wanted)
    joins = tuple(receptions.joins(rule.input, link, only)) if only is not None else ()
    reception, optional = receptions.reception(rule.input, link) if only is None else ((), joins)
    whole, manner = {}, rule.merge or rule.switch
    by_source = any(o.source == "keep" or o.replies is not None for o in rule.outputs)
    for key, outputs in relays.items():
        opened = [
            (output, portion(rule.outputs[at], links.get(rule.outputs[at].interface or "")))
            for at, output in enumerate(outputs)
            if not isinstance(output, str)
        ]
        sockets, portions = zip(*opened, strict=True)
        # One worker that cannot be had is no reason to stop the others.
        whole[key] = Relay(
            input_here(rule.input, link),
            sockets,
            portions,
            (ingress, key.worker, *reception),
            by_source,
            rule.inspect,
            Ring(ingress) if lane else None,
            (rule.stream, rule.leg - 1, manner) if manner and rule.leg else None,
            bool(standby),
            rule.standby or 0.0,
            overhear.ear(rule, opened, avoid) if avoid is not None else None,
        )
    required = (ingress, *workers, *reception)
    optional += overhear.joins(whole.values())
    optional += _unasked(rule.input, link, settings, (*reception, *joins))
    heard = tuple(dict.fromkeys(_heard(rule, links, waiting)))
    doubts = tuple(
        ""
        if waits
        else outlets.doubt_of(rule, output, links, ways)
        or receptions.doubt_of(rule.input, output, groups, only)
        for waits, groups, output in zip(waiting, wanted, rule.outputs, strict=True)
    )
    moves = any(
        isinstance(output, Nowhere) or output.sending.routed
        for relay in whole.values()
        for output in relay.outputs
    )
    return Needs(
        outlets.why_down(rule.input.interface, links),
        required,
        optional + heard + asking,
        relays,
        waiting,
        whole=whole,
        doubts=doubts,
        moves=moves,
        idle=idle,
        standby=standby,
        joins=joins,
    )


# The same objects for rules that have the same needs: thousands do.


@lru_cache(maxsize=256)
def _ingress(*fields: Any) -> Ingress:
    return Ingress(*fields)


@lru_cache(maxsize=256)
def _workers(
    home: Ingress, count: int, cpus: tuple[int | None, ...], how: tuple[bool, bool, str]
) -> tuple[Worker, ...]:
    """`how`: whether strict, whether with busy_poll, and the engine."""
    return tuple(Worker(home, number, cpus[number % len(cpus)], *how) for number in range(count))


@lru_cache(maxsize=256)
def _to_all_routers(interface: str, index: int, version: int) -> tuple[Membership, ...]:
    return tuple(Membership(interface, index, group) for group in HEARD_ON[version])


def _reader(config: Config, lane: str) -> Interface:
    """How the worker of a lane runs: as the table of its first interface says."""
    return config.interfaces.get(lane, names.DEFAULT)


def _unasked(
    given: Input, link: Link, settings: Interface, reception: Sequence[Resource]
) -> tuple[Resource, ...]:
    """How its groups are reported, where the rule file says more of that than the kernel does."""
    if not any(isinstance(each, Membership) for each in reception):
        return ()
    where, version = (link.name, link.index), given.address.version
    spoken = settings.igmp_version if version == 4 else settings.mld_version
    found: list[Resource] = []
    if spoken is not None:
        found.append(GroupProtocol(*where, version, spoken))
    if settings.rejoin is not None:
        found.append(Rejoin(*where, settings.rejoin, settings.mld_version))
    return tuple(found)


def _heard(rule: Rule, links: Mapping[str, Link], waiting: Sequence[str]) -> Iterator[Membership]:
    """What makes members and routers heard where groups are sent to: explain tells of them."""
    for output, waits in zip(rule.outputs, waiting, strict=True):
        if output.address.is_multicast and not waits:
            link = links[output.interface or ""]
            yield from _to_all_routers(link.name, link.index, output.address.version)
