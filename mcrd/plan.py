"""plan(config, actual) -> steps. Pure: it looks at values and returns values.

Whatever happens, the supervisor looks at what there is, plans, and applies. Applying a plan and
planning again gives the empty plan. What is new is opened before what is old is closed.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from mcrd.model import Address, Config, Output, Rule
from mcrd.resources import Egress, Hold, Ingress, Link, Membership, Resource, Worker


@dataclass(frozen=True, slots=True)
class RelayKey:
    """A rule in one worker."""

    worker: Worker
    rule: str


@dataclass(frozen=True, slots=True)
class Relay:
    """What a worker does for a rule. `needs` is what has to be open for it."""

    address: Address
    port: int
    egress: tuple[Egress, ...]
    needs: tuple[Resource, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something could not be done, and when it is tried again (seconds, monotonic)."""

    reason: str
    retry_at: float
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Actual:
    """What there is, at the time `now` (seconds, monotonic)."""

    links: Mapping[str, Link] = field(default_factory=dict)
    open: frozenset[Resource] = frozenset()
    relays: Mapping[RelayKey, Relay] = field(default_factory=dict)
    failures: Mapping[Resource | RelayKey, Failure] = field(default_factory=dict)
    now: float = 0.0

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
    """Close a resource that nothing uses any more."""

    resource: Resource


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
_ORDER: tuple[type[Resource], ...] = (Ingress, Worker, Egress, Hold, Membership)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a rule needs here and now. `waits` says what it waits for, "" when it does not.

    `outputs` has, for each output of the rule, its egress socket or what it waits for.
    """

    waits: str
    key: RelayKey | None = None
    needs: tuple[Resource, ...] = ()
    optional: tuple[Resource, ...] = ()
    outputs: tuple[Egress | str, ...] = ()

    @property
    def egress(self) -> tuple[Egress, ...]:
        """The outputs that do not wait."""
        return tuple(output for output in self.outputs if isinstance(output, Egress))


def wish(rule: Rule, links: Mapping[str, Link]) -> Wish:
    """What `rule` needs, as the links are now."""
    link = links.get(rule.input.interface)
    if link is None:
        return Wish(
            f"{rule.input.interface} is missing",
            outputs=tuple(_waits(output, links) or "the input" for output in rule.outputs),
        )
    ingress = Ingress(link.name, link.index)
    worker = Worker(ingress)
    key = RelayKey(worker, rule.name)
    outputs = tuple(_egress(key, output, links) for output in rule.outputs)
    needs: tuple[Resource, ...] = (ingress, worker)
    optional: tuple[Resource, ...] = ()
    if rule.input.address.is_multicast:
        needs += (Membership(link.name, link.index, rule.input.address),)
    else:
        optional = (Hold(link.name, link.index, rule.input.address, rule.input.port),)
    waits = _down(link)
    if not any(isinstance(output, Egress) for output in outputs):
        waits = "; ".join(dict.fromkeys(str(output) for output in outputs))
        return Wish(waits, outputs=outputs)
    return Wish(waits, key, needs, optional, outputs)


def wishes(config: Config, links: Mapping[str, Link]) -> Iterator[Wish]:
    """What the enabled rules need, in the order of the file."""
    for rule in config.rules.values():
        if rule.enabled:
            yield wish(rule, links)


def plan(config: Config, actual: Actual) -> tuple[Step, ...]:
    """The steps that lead from `actual` to what `config` asks for, as far as it can be had now."""
    wanted: dict[Resource, None] = {}
    relays: dict[RelayKey, Relay] = {}
    for entry in wishes(config, actual.links):
        if entry.key is None:
            continue
        wanted.update(dict.fromkeys((*entry.needs, *entry.egress, *entry.optional)))
        egress = tuple(socket for socket in entry.egress if not actual.blocked(socket))
        blocked = any(actual.blocked(need) for need in (*entry.needs, entry.key))
        if egress and not blocked:
            address, port = _destination(config.rules[entry.key.rule])
            relays[entry.key] = Relay(address, port, egress, entry.needs)
    steps: list[Step] = []
    for kind in _ORDER:
        steps += [
            Open(resource)
            for resource in wanted
            if type(resource) is kind
            and resource not in actual.open
            and not actual.blocked(resource)
            and not _lacks(resource, actual)
        ]
    for key, relay in relays.items():
        if key not in actual.relays:
            steps.append(Add(key, relay))
        elif actual.relays[key] != relay:
            steps.append(Replace(key, relay))
    steps += [Remove(key) for key in actual.relays if key not in relays]
    for kind in reversed(_ORDER):
        steps += [
            Close(resource)
            for resource in sorted(actual.open - wanted.keys(), key=str)
            if type(resource) is kind
        ]
    return tuple(steps)


def _lacks(resource: Resource, actual: Actual) -> bool:
    """A worker cannot be had while its ring is not."""
    return isinstance(resource, Worker) and actual.blocked(resource.ingress)


def _destination(rule: Rule) -> tuple[Address, int]:
    return rule.input.address, rule.input.port


def _down(link: Link) -> str:
    if not link.up:
        return f"{link.name} is down"
    if not link.carrier:
        return f"{link.name} has no carrier"
    return ""


def _waits(output: Output, links: Mapping[str, Link]) -> str:
    """What an output waits for; "" for nothing."""
    link = links.get(output.interface)
    if link is None:
        return f"{output.interface} is missing"
    if down := _down(link):
        return down
    if _source(output, link) is None:
        if output.source is not None:
            return f"{link.name} does not have the address {output.source}"
        return f"{link.name} has no IPv{output.address.version} address"
    return ""


def _egress(key: RelayKey, output: Output, links: Mapping[str, Link]) -> Egress | str:
    if waits := _waits(output, links):
        return waits
    link = links[output.interface]
    source = _source(output, link)
    assert source is not None
    return Egress(
        worker=key.worker,
        rule=key.rule,
        interface=link.name,
        index=link.index,
        address=output.address,
        port=output.port,
        ttl=output.ttl,
        dscp=output.dscp,
        source=source,
        source_port=output.source_port,
        loop=output.loop,
    )


def _source(output: Output, link: Link) -> Address | None:
    """The address to send from, or None when the interface has none that will do.

    One of the destination's own network comes first, then one of the same scope (RFC 6724, 5),
    then the first.
    """
    family = [address for address in link.addresses if address.version == output.address.version]
    if output.source is not None:
        return next((a.ip for a in family if a.ip == output.source), None)
    local = _is_link_local(output.address)
    best = sorted(
        family,
        key=lambda a: (output.address not in a.network, _is_link_local(a.ip) is not local),
    )
    return best[0].ip if best else None


def _is_link_local(address: Address) -> bool:
    """Link scope; of IPv6 groups, by the scope in the address (RFC 4291, 2.7)."""
    if isinstance(address, IPv6Address) and address.is_multicast:
        return address.packed[1] & 0x0F <= 2
    return address.is_link_local
