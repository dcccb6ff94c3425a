"""plan(config, actual) -> steps. Pure: it looks at values and returns values.

Whatever happens, the supervisor looks at what there is, plans, and applies. Applying a plan and
planning again gives the empty plan. What is new is opened before what is old is closed.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from mcrd.model import (
    BROADCAST,
    LIMITED_BROADCAST,
    MANNER,
    Address,
    Config,
    Input,
    Inspect,
    Interface,
    Network,
    Output,
    PortRange,
    Rule,
)
from mcrd.planning import names, patterns
from mcrd.planning.broadcast import destination, input_here, limit
from mcrd.planning.doubts import doubt
from mcrd.planning.resources import (
    Egress,
    GroupProtocol,
    Hold,
    Ingress,
    Link,
    Lookup,
    Members,
    Membership,
    Nowhere,
    Outlet,
    Reception,
    Rejoin,
    Resource,
    Sending,
    Target,
    Way,
    Worker,
    first_address,
    first_port,
    last_port,
    lookup,
    target,
)

JOINED_AT_MOST = 1024  # groups of one range: a join each costs the kernel and the switches memory
HELD_AT_MOST = 1024  # ports of one range
# Where members of groups, and routers, say so: IGMPv3 and PIM, MLDv2 and PIM (RFC 3376, 4.2.14;
# RFC 3810, 5.2.14; RFC 7761, 4.3.1).
HEARD_ON: Mapping[int, tuple[Address, ...]] = {
    4: (IPv4Address("224.0.0.22"), IPv4Address("224.0.0.13")),
    6: (IPv6Address("ff02::16"), IPv6Address("ff02::d")),
}


@dataclass(frozen=True, slots=True)
class RelayKey:
    """A rule in one worker."""

    worker: Worker
    rule: str

    def __hash__(self) -> int:
        return hash((self.rule, self.worker.number))


@dataclass(frozen=True, slots=True)
class Relay:
    """What a worker does for a rule. `limits` are the outputs' own, in their order.

    `needs` is what has to be open for it. `by_source`: its members differ by source, because
    one of the rule's outputs, be it there or not, keeps that.
    """

    input: Input
    outputs: tuple[Outlet, ...]
    limits: tuple[int | None, ...]
    needs: tuple[Resource, ...] = field(default=(), compare=False)
    by_source: bool = False
    inspect: Inspect | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something could not be done, and when it is tried again (seconds, monotonic)."""

    reason: str
    retry_at: float
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Actual:
    """What there is, at the time `now` (seconds, monotonic).

    `ways` has where the routes lead; of an output to a host that has none there, on an interface of
    its own, it is taken for granted.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    open: frozenset[Resource] = frozenset()
    relays: Mapping[RelayKey, Relay] = field(default_factory=dict)
    failures: Mapping[Resource | RelayKey, Failure] = field(default_factory=dict)
    now: float = 0.0
    ways: Mapping[Lookup, Way] = field(default_factory=dict)

    def blocked(self, what: Resource | RelayKey) -> bool:
        """It failed, and its time to be tried again has not come."""
        failure = self.failures.get(what)
        return failure is not None and failure.retry_at > self.now


@dataclass(frozen=True, slots=True)
class Open:
    """Open a resource."""

    resource: Resource


@dataclass(frozen=True, slots=True)
class Close:
    """Close a resource that nothing uses any more; `anew`: another is to take its place."""

    resource: Resource
    anew: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Add:
    """Give a worker a rule."""

    key: RelayKey
    relay: Relay


@dataclass(frozen=True, slots=True)
class Replace:
    """Give a worker the new form of a rule that it has, in one message."""

    key: RelayKey
    relay: Relay


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a rule from a worker."""

    key: RelayKey


Step = Open | Close | Add | Replace | Remove

# What is opened first is closed last.
_ORDER: tuple[type[Resource], ...] = (
    Ingress,
    Worker,
    Egress,
    Members,
    Nowhere,
    Hold,
    Reception,
    GroupProtocol,
    Membership,
    Rejoin,
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a rule needs here and now. `waits` says what it waits for, "" when it does not.

    `relays` has, for each worker and each output of the rule, what is to be opened or what it
    waits for; `waiting` the same where there is no worker to be had. `whole` is what the workers
    do when all of it can be opened. `doubts` say of each output why its packets may go nowhere.
    `moves`: some output follows the routes, or leads nowhere now.
    """

    waits: str
    needs: tuple[Resource, ...] = ()
    optional: tuple[Resource, ...] = ()
    relays: Mapping[RelayKey, tuple[Outlet | str, ...]] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    whole: Mapping[RelayKey, Relay] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    moves: bool = False


class _Known(NamedTuple):
    """A wish, what it depends on, and when that was looked at last."""

    look: int
    rule: Rule
    settings: tuple[Interface | None, str, tuple[str, ...]]
    lookups: tuple[Lookup, ...]
    seen: tuple[Link | Way | bool | None, ...]
    wish: Wish


class Wishes:
    """Remembers what each rule needs as long as nothing that this depends on has changed.

    With thousands of rules most of planning would else be to find that out anew. It makes no
    difference to any result.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._links: Mapping[str, Link] = {}
        self._ways: Mapping[Lookup, Way] = {}
        self._interfaces: Mapping[str, Interface] = {}
        self._rules: Mapping[str, Rule] = {}
        self._doubles = names.NONE
        self._own: frozenset[Address] = frozenset()
        self._look = 0  # another number whenever links, ways or settings are other ones

    def of(self, rule: Rule, config: Config, actual: Actual) -> Wish:
        """As wish()."""
        links, ways = actual.links, actual.ways
        if (
            links is not self._links
            or config.interfaces is not self._interfaces
            or config.rules is not self._rules
        ):
            self._links, self._interfaces, self._rules = links, config.interfaces, config.rules
            self._doubles = names.doubles(config, links)
            self._own = _own(links)
            self._look += 1
        if ways is not self._ways:
            self._ways = ways
            self._look += 1
        known = self._known.get(rule.name)
        if known is not None and known.look == self._look and known.rule is rule:
            return known.wish
        link = links.get(rule.input.interface)
        table = names.settings(config, link) if link is not None else None
        double = self._doubles.of(rule)
        settings = (table, config.daemon.sandbox, double)
        if known is not None and known.rule is rule:
            lookups = known.lookups
        else:
            lookups = tuple(lookups_of(rule))
        there = [ways.get(one) for one in lookups]
        seen = (
            links.get(rule.input.interface),
            *(links.get(o.interface or "") for o in rule.outputs),
            *there,
            *(links.get(way.interface) for way in there if way is not None),
            *(o.source in self._own for o in rule.outputs if o.interface is None and o.source),
        )
        # Of tuples, what is the same object is compared no further.
        if known is not None and (known.rule, known.settings, known.seen) == (rule, settings, seen):
            found = known.wish
        else:
            found = wish(rule, config, links, ways, double)
            if known is not None and found == known.wish:
                found = known.wish  # the same object: what was made of it need not be compared
        self._known[rule.name] = _Known(self._look, rule, settings, lookups, seen, found)
        return found

    def keep(self, rules: Mapping[str, Rule]) -> None:
        """Forgets all rules but these."""
        self._known = {name: known for name, known in self._known.items() if name in rules}


def lookups_of(rule: Rule) -> Iterator[Lookup]:
    """What has to be known of the routes for a rule."""
    for output in rule.outputs:
        one = lookup(output, rule.input.protocol)
        if one is not None:
            yield one


def outputs_by_lookup(config: Config) -> dict[Lookup, list[tuple[str, Target]]]:
    """What has to be known of the routes for the rules that are enabled, and for which outputs."""
    found: dict[Lookup, list[tuple[str, Target]]] = {}
    for rule in config.rules.values():
        for output in rule.outputs if rule.enabled else ():
            one = lookup(output, rule.input.protocol)
            if one is not None:
                found.setdefault(one, []).append((rule.name, target(output)))
    return found


def wish(
    rule: Rule,
    config: Config,
    links: Mapping[str, Link],
    ways: Mapping[Lookup, Way] = MappingProxyType({}),
    double: Sequence[str] = (),
) -> Wish:
    """What `rule` needs, as the links and the routes are now; `double` as Doubles.of()."""
    link = links.get(rule.input.interface)
    same, *of_outputs = double or ("",) * (1 + len(rule.outputs))
    waiting = tuple(
        twice or _waits(output, links)
        for twice, output in zip(of_outputs, rule.outputs, strict=True)
    )
    if link is None:
        missing = patterns.missing(rule.input.interface, links)
        return Wish(missing, waiting=tuple(waits or missing for waits in waiting))
    if same:
        return Wish(same, waiting=tuple(waits or same for waits in waiting))
    if all(waiting):
        return Wish("; ".join(dict.fromkeys(waiting)), waiting=waiting)
    settings = names.settings(config, link)
    ingress = Ingress(link.name, link.index, settings.workers, settings.ring_size)
    strict = config.daemon.sandbox == "strict"
    cpus = settings.cpus or (None,)
    workers = tuple(
        Worker(ingress, number, cpus[number % len(cpus)], strict)
        for number in range(settings.workers)
    )
    relays = {
        RelayKey(worker, rule.name): tuple(
            waits or _output(worker, rule, output, links, ways)
            for waits, output in zip(waiting, rule.outputs, strict=True)
        )
        for worker in workers
    }
    reception, optional = _reception(rule.input, link)
    whole = {}
    by_source = any(output.source == "keep" for output in rule.outputs)
    for key, outputs in relays.items():
        opened = [
            (output, limit(rule.outputs[at], links.get(rule.outputs[at].interface or "")))
            for at, output in enumerate(outputs)
            if not isinstance(output, str)
        ]
        sockets, limits = zip(*opened, strict=True)
        # One worker that cannot be had is no reason to stop the others.
        whole[key] = Relay(
            input_here(rule.input, link),
            sockets,
            limits,
            (ingress, key.worker, *reception),
            by_source,
            rule.inspect,
        )
    needs = (ingress, *workers, *reception)
    optional += _unasked(rule.input, link, settings, reception)
    heard = tuple(dict.fromkeys(_heard(rule, links, waiting)))
    doubts = tuple(
        "" if waits else _doubt(output, links, _way(rule, output, ways))
        for waits, output in zip(waiting, rule.outputs, strict=True)
    )
    moves = any(
        isinstance(output, Nowhere) or output.sending.routed
        for relay in whole.values()
        for output in relay.outputs
    )
    return Wish(
        _down(rule.input.interface, links),
        needs,
        optional + heard,
        relays,
        whole=whole,
        doubts=doubts,
        moves=moves,
    )


def plan(config: Config, actual: Actual, wishes: Wishes | None = None) -> tuple[Step, ...]:
    """The steps that lead from `actual` to what `config` asks for, as far as it can be had now."""
    wishes = wishes or Wishes()
    wanted: dict[Resource, None] = {}
    relays: dict[RelayKey, Relay] = {}
    for rule in config.rules.values():
        if not rule.enabled:
            continue
        entry = wishes.of(rule, config, actual)
        wanted.update(dict.fromkeys(entry.needs))
        wanted.update(dict.fromkeys(entry.optional))
        for key, whole in entry.whole.items():
            wanted.update(dict.fromkeys(whole.outputs))
            relay = _without_failures(key, whole, actual) if actual.failures else whole
            if relay is not None:
                relays[key] = relay
    replaced = _replaced(actual, wanted)
    # Their rules end with them: removed before, the last packets would match none.
    steps: list[Step] = _closed(replaced, anew=True)
    missing = [
        resource
        for resource in wanted
        if resource not in actual.open
        and not actual.blocked(resource)
        and not _lacks(resource, actual)
    ]
    for kind in _ORDER:
        steps += [Open(resource) for resource in missing if type(resource) is kind]
    for key, relay in relays.items():
        has = actual.relays.get(key)
        if has is None:
            steps.append(Add(key, relay))
        elif has is not relay and has != relay:
            steps.append(Replace(key, relay))
    steps += [
        Remove(key) for key in actual.relays if key not in relays and key.worker not in replaced
    ]
    steps += _closed(actual.open - wanted.keys() - replaced)
    return tuple(steps)


def _without_failures(key: RelayKey, whole: Relay, actual: Actual) -> Relay | None:
    """What is left of it without what has failed and is not to be tried again yet."""
    if any(actual.blocked(need) for need in (*whole.needs, key)):
        return None
    pairs = zip(whole.outputs, whole.limits, strict=True)
    usable = [pair for pair in pairs if not actual.blocked(pair[0])]
    if not usable:
        return None
    if len(usable) == len(whole.outputs):
        return whole
    outputs, limits = zip(*usable, strict=True)
    return replace(whole, outputs=outputs, limits=limits)


def _replaced(actual: Actual, wanted: Mapping[Resource, None]) -> frozenset[Resource]:
    """Rings and workers that end before what takes their place begins.

    Both at once would relay every packet twice: another ring on the same interface, another
    worker on the same ring.
    """
    interfaces = {r.index for r in wanted if isinstance(r, Ingress)}  # it may be renamed
    rings = {(r.ingress, r.number) for r in wanted if isinstance(r, Worker)}
    gone = actual.open - wanted.keys()
    ingresses = {r for r in gone if isinstance(r, Ingress) and r.index in interfaces}
    workers = {
        r
        for r in gone
        if isinstance(r, Worker) and (r.ingress in ingresses or (r.ingress, r.number) in rings)
    }
    return frozenset(ingresses | workers)


def _closed(resources: Iterable[Resource], *, anew: bool = False) -> list[Step]:
    ordered = sorted(resources, key=str)
    return [
        Close(resource, anew)
        for kind in reversed(_ORDER)
        for resource in ordered
        if type(resource) is kind
    ]


def _lacks(resource: Resource, actual: Actual) -> bool:
    """A worker cannot be had while its ring is not."""
    return isinstance(resource, Worker) and actual.blocked(resource.ingress)


def _reception(given: Input, link: Link) -> tuple[tuple[Resource, ...], tuple[Resource, ...]]:
    """What lets an input's packets reach the ring: needed, and good to have."""
    where = (link.name, link.index)
    if given.address in (BROADCAST, LIMITED_BROADCAST):
        return (), ()  # nobody answers a broadcast with "port unreachable" (RFC 1122, 3.2.2)
    if not given.address.is_multicast:
        return (), _holds(given, link)
    groups = _members(given.address)
    if given.vlan is not None:
        # A join would go out untagged, to the wrong VLAN.
        return tuple(Reception(*where, group) for group in groups or (None,)), ()
    if groups is None:
        return (Reception(*where, None),), ()
    if given.sources and all(source.num_addresses == 1 for source in given.sources):
        hosts = [source.network_address for source in given.sources]
        return tuple(Membership(*where, group, host) for group in groups for host in hosts), ()
    return tuple(Membership(*where, group) for group in groups), ()


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
            for group in HEARD_ON[output.address.version]:
                yield Membership(link.name, link.index, group)


def _members(address: Address | Network) -> tuple[Address, ...] | None:
    """All addresses of a range; None when they are too many to join."""
    if isinstance(address, Address):
        return (address,)
    return tuple(address) if address.num_addresses <= JOINED_AT_MOST else None


def _holds(given: Input, link: Link) -> tuple[Resource, ...]:
    """The kernel answers for addresses of this host only, so only those of a range are held."""
    if isinstance(given.address, Address):
        addresses: list[Address] = [given.address]
    else:
        addresses = [own.ip for own in link.addresses if own.ip in given.address]
    ports = range(first_port(given.port), last_port(given.port) + 1)
    if len(addresses) * len(ports) > HELD_AT_MOST:
        return ()
    return tuple(
        Hold(link.name, link.index, address, port, given.protocol)
        for address in addresses
        for port in ports
    )


def _down(name: str, links: Mapping[str, Link]) -> str:
    link = links[name]
    if not link.up:
        return f"{names.shown(name, links)} is down"
    if not link.carrier:
        return f"{names.shown(name, links)} has no carrier"
    return ""


def _waits(output: Output, links: Mapping[str, Link]) -> str:
    """What an output waits for; "" for nothing. One that follows the routes need not: Nowhere."""
    if output.interface is None:
        return ""
    link = links.get(output.interface)
    if link is None:
        return patterns.missing(output.interface, links)
    if down := _down(output.interface, links):
        return down
    if output.source != "keep" and source_of(output, link) is None:
        name = names.shown(output.interface, links)
        if output.source is not None:
            return f"{name} does not have the address {output.source}"
        return f"{name} has no IPv{output.address.version} address"
    return ""


def _way(rule: Rule, output: Output, ways: Mapping[Lookup, Way]) -> Way | None:
    asked = lookup(output, rule.input.protocol)
    return ways.get(asked) if asked is not None else None


def _doubt(output: Output, links: Mapping[str, Link], way: Way | None) -> str:
    if output.interface is not None:
        link = links[output.interface]
        found = doubt(output, link, source_of(output, link))
    elif way is None or way.trouble or way.interface not in links:
        return ""
    else:
        found = doubt(output, links[way.interface], _source_by(way, output))
    return found.reason if found else ""


def _source_by(way: Way, output: Output) -> Address | None:
    """What an output that follows the routes sends from; None: from addresses that are kept."""
    return None if output.source == "keep" else output.source or way.source


def _own(links: Mapping[str, Link]) -> frozenset[Address]:
    """The addresses of this host."""
    return frozenset(address.ip for link in links.values() for address in link.addresses)


def _nowhere(output: Output, way: Way | None, links: Mapping[str, Link]) -> str:
    """Why no way leads to the host of an output; "" when one does."""
    source = output.source if output.interface is None else None
    if isinstance(source, Address) and source not in _own(links):
        # The kernel finds no route from such a source, whatever the routes are.
        return f"this host does not have the address {source}"
    if way is not None and way.trouble:
        return way.trouble
    if output.interface is not None:
        return ""
    if way is None:
        return f"the route to {output.address} is not known"
    link = links.get(way.interface)
    if link is None:
        return f"{way.interface} is missing"
    if down := _down(way.interface, links):
        return down
    if output.source is None and way.source is None:
        return f"{link.name} has no IPv{output.address.version} address"
    return ""


def _output(
    worker: Worker,
    rule: Rule,
    output: Output,
    links: Mapping[str, Link],
    ways: Mapping[Lookup, Way],
) -> Outlet:
    way = _way(rule, output, ways)
    if lookup(output, rule.input.protocol) and (why := _nowhere(output, way, links)):
        return Nowhere(worker, rule.name, target(output), why)
    routed = output.interface is None
    if output.interface is None:
        assert way is not None
        link = links[way.interface]
        source = _source_by(way, output)
    else:
        link = links[output.interface]
        source = source_of(output, link)
    leaving = (link.name, link.index, source, rule.input.protocol, routed)
    sending = _sending(leaving, _manner(output))
    address, port, called = destination(output, link, source), output.port, target(output)
    if (
        rule.input.is_range
        or source is None
        or not isinstance(address, Address)
        or isinstance(port, PortRange)
    ):
        starts = first_address(rule.input.address), first_port(rule.input.port)
        return Members(worker, rule.name, sending, address, port, called, *starts)
    of = called if (output.interface, output.address) != (link.name, address) else None
    return Egress(worker, rule.name, sending, address, port, of=of)


@lru_cache(maxsize=256)
def _sending(leaving: tuple[Any, ...], manner: tuple[Any, ...]) -> Sending:
    """The same object for outputs that send alike: thousands of them often do."""
    return Sending(*leaving, **dict(zip(MANNER, manner, strict=True)))


_manner = attrgetter(*MANNER)


def source_of(output: Output | Lookup, link: Link) -> Address | None:
    """The address to send from, or None when the interface has none that will do, or is not asked.

    One of the destination's own network comes first, then one of the same scope (RFC 6724, 5),
    then the first.
    """
    family = [address for address in link.addresses if address.version == output.address.version]
    if output.source == "keep":
        return None
    if output.source is not None:
        return next((a.ip for a in family if a.ip == output.source), None)
    address = first_address(output.address)
    local = is_of_link(address)
    best = sorted(
        family,
        key=lambda a: (address not in a.network, is_of_link(a.ip) is not local),
    )
    return best[0].ip if best else None


def is_of_link(address: Address) -> bool:
    """Link scope; of IPv6 groups, by the scope in the address (RFC 4291, 2.7)."""
    if isinstance(address, IPv6Address) and address.is_multicast:
        return address.packed[1] & 0x0F <= 2
    return address.is_link_local
