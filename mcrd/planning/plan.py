"""plan(config, actual) -> steps. Pure: it looks at values and returns values.

Whatever happens, the supervisor looks at what there is, plans, and applies. Applying a plan and
planning again gives the empty plan. What is new is opened before what is old is closed.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from mcrd.model import Config
from mcrd.planning.actual import Actual
from mcrd.planning.needs import KnownNeeds, queriers
from mcrd.planning.relays import Relay, RelayKey
from mcrd.planning.resources import (
    Egress,
    GroupProtocol,
    Hold,
    Ingress,
    Members,
    Membership,
    Nowhere,
    Querying,
    Reception,
    Rejoin,
    Resource,
    Worker,
)


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


@dataclass(frozen=True, slots=True)
class Relieve:
    """Let the new rings of an interface, which have workers, take the place of the old ones."""

    resource: Ingress
    old: Ingress


Step = Open | Close | Add | Replace | Remove | Relieve


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
    Querying,
)


def plan(config: Config, actual: Actual, known: KnownNeeds | None = None) -> tuple[Step, ...]:
    """The steps that lead from `actual` to what `config` asks for, as far as it can be had now."""
    known = known or KnownNeeds()
    wanted: dict[Resource, None] = dict.fromkeys(queriers(config, actual.links))
    relays: dict[RelayKey, Relay] = {}
    for rule in config.rules.values():
        if not rule.enabled:
            continue
        entry = known.of(rule, config, actual)
        wanted.update(dict.fromkeys(entry.required + entry.optional))
        for key, whole in entry.whole.items():
            wanted.update(dict.fromkeys(whole.sockets))
            relay = _without_failures(key, whole, actual) if actual.failures else whole
            if relay is not None:
                relays[key] = relay
    gone = actual.open - wanted.keys()
    relieved = _relieved(gone, wanted)
    replaced = _replaced(gone, wanted, relieved)
    # Their rules end with them: removed before, the last packets would match none.
    steps: list[Step] = _closed(replaced, anew=True)
    missing = [
        resource
        for resource in wanted
        if resource not in actual.open
        and not actual.blocked(resource)
        and not _lacks(resource, wanted, actual)
    ]
    missing.sort(key=_place)
    steps += map(Open, missing)
    for key, relay in relays.items():
        has = actual.relays.get(key)
        if has is None:
            steps.append(Add(key, relay))
        elif has is not relay and has != relay:
            steps.append(Replace(key, relay))
    steps += [
        Remove(key)
        for key in actual.relays
        if key not in relays and key.worker not in replaced and key.worker.ingress not in relieved
    ]
    go_on = {old for old, new in relieved.items() if actual.blocked(new)}
    steps += [Relieve(new, old) for old, new in relieved.items() if old not in go_on]
    steps += _closed(r for r in gone - replaced if _read_from(r) not in go_on)
    return tuple(steps)


def _without_failures(key: RelayKey, whole: Relay, actual: Actual) -> Relay | None:
    """What is left of it without what has failed and is not to be tried again yet."""
    if any(actual.blocked(need) for need in (*whole.needs, key)):
        return None
    return whole.only(lambda output: not actual.blocked(output))


def _relieved(gone: Iterable[Resource], wanted: Mapping[Resource, None]) -> dict[Ingress, Ingress]:
    """Rings that relay until others on the same interface do, with those. See Relieve.

    They do so too while those others have failed, until these are tried again.
    Of rings that one worker reads together, no other pair can take the place of one.
    """
    alone = {r.index: r for r in wanted if isinstance(r, Ingress) and not r.lane}
    rings = (r for r in gone if isinstance(r, Ingress) and not r.lane)
    return {old: alone[old.index] for old in rings if old.index in alone}


def _read_from(resource: Resource) -> Ingress | None:
    """The rings, if it is these, a worker that reads them, or an output of that worker."""
    match resource:
        case Ingress():
            return resource
        case Worker():
            return resource.ingress
        case Egress() | Members() | Nowhere():
            return resource.worker.ingress
    return None


def _replaced(
    gone: Iterable[Resource], wanted: Mapping[Resource, None], relieved: Container[Ingress]
) -> frozenset[Resource]:
    """Rings and workers that end before what takes their place begins.

    Both at once would relay every packet twice: another ring on the same interface, another
    worker on the same ring.
    """
    interfaces = {r.index for r in wanted if isinstance(r, Ingress)}  # it may be renamed
    rings = {(r.ingress, r.number) for r in wanted if isinstance(r, Worker)}
    ingresses = {
        r for r in gone if isinstance(r, Ingress) and r.index in interfaces and r not in relieved
    }
    homes = {r.home for r in ingresses}
    workers = {
        r
        for r in gone
        if isinstance(r, Worker) and (r.ingress in homes or (r.ingress, r.number) in rings)
    }
    return frozenset(ingresses | workers)


def _closed(resources: Iterable[Resource], *, anew: bool = False) -> list[Step]:
    by_name = sorted(resources, key=str)
    return [Close(resource, anew) for resource in sorted(by_name, key=_place, reverse=True)]


def _place(resource: Resource) -> int:
    return _ORDER.index(type(resource))


def _lacks(resource: Resource, wanted: Iterable[Resource], actual: Actual) -> bool:
    """A worker cannot be had while none of its rings is."""
    return isinstance(resource, Worker) and all(
        actual.blocked(each)
        for each in wanted
        if isinstance(each, Ingress) and each.home == resource.ingress
    )
