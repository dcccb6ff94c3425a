"""What an output is here and now: what it waits for, where it leaves, what it opens. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from operator import attrgetter
from typing import Any

from mcrd.addresses import Target, first_address, first_port, target
from mcrd.config.overlap import Spans, is_among
from mcrd.model import MANNER, Address, Config, HostName, Input, Output, PortRange, Rule
from mcrd.planning import names, patterns
from mcrd.planning.actual import ANY, Groups, Listeners, Wanted
from mcrd.planning.broadcast import destination
from mcrd.planning.doubts import doubt
from mcrd.planning.links import Link, Lookup, Way, lookup, source_of
from mcrd.planning.portions import sent_from
from mcrd.planning.replies import replies_to
from mcrd.planning.resources import Egress, Members, Nowhere, Outlet, Sending, Worker

ONLY_OTHERS = ", but from others"  # sources that an output does not send from


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


def why_down(name: str, links: Mapping[str, Link]) -> str:
    """Why nothing passes an interface, "" when something can."""
    link = links[name]
    if not link.up:
        return f"{names.shown(name, links)} is down"
    if not link.carrier:
        return f"{names.shown(name, links)} has no carrier"
    return ""


def why_standby(rule: Rule, own: Collection[Address]) -> str:
    """Why the rule stands by while another host relays; "" when this one does."""
    if rule.role is not None:
        by_hand = f"by hand, until `mcrctl follow {names.written(rule.name)}`"
        return by_hand if rule.role == "standby" else ""
    if not rule.active_with or any(address in own for address in rule.active_with):
        return ""
    return f"this host does not have the address {_one_of(rule.active_with)}"


def _one_of(addresses: Sequence[Address]) -> str:
    *first, last = map(str, addresses)
    return f"{', '.join(first)} or {last}" if first else last


def is_floating(rule: Rule, output: Output) -> bool:
    """Whether an output sends from an address that this host need not have yet."""
    return output.interface is not None and output.source in rule.active_with


def _source(rule: Rule, output: Output, link: Link) -> Address | None:
    """What an output sends from on an interface, as source_of()."""
    if is_floating(rule, output) and output.source != "keep":
        return output.source
    return source_of(output, link)


def why_waiting(rule: Rule, output: Output, links: Mapping[str, Link]) -> str:
    """What an output waits for; "" for nothing. One that follows the routes need not: Nowhere."""
    if isinstance(output.address, HostName):
        return f"{output.address}: {output.address.why or 'its addresses are not known yet'}"
    if output.interface is None:
        return ""
    link = links.get(output.interface)
    if link is None:
        return patterns.missing(output.interface, links)
    if down := why_down(output.interface, links):
        return down
    if is_floating(rule, output):
        return ""
    if output.source != "keep" and source_of(output, link) is None:
        name = names.shown(output.interface, links)
        if output.source is not None:
            return f"{name} does not have the address {output.source}"
        return f"{name} has no IPv{output.address.version} address"
    return ""


def wanted_of(
    given: Input, output: Output, links: Mapping[str, Link], listeners: Listeners
) -> Groups:
    """The groups of an output with `when` that somebody has joined, for what its source sends.

    Where it keeps the sources, they are those that members have joined from, as far as it sends
    what they send. Else members cannot name those of the input.
    """
    index, known = _joined(output, links, listeners)
    wanted = {group: listeners[index, group] for group in known}
    if output.source == "keep":
        runs = sent_from(given, output)
        if runs is None:
            return wanted
        of_those = ((group, _within(some, runs)) for group, some in wanted.items())
        return {group: some for group, some in of_those if some.any or some.sources}
    source = None
    if output.interface is not None:
        source = output.source or source_of(output, links[output.interface])
    return {group: ANY for group, some in wanted.items() if some.takes(source)}


def _within(some: Wanted, runs: Spans) -> Wanted:
    sources = tuple(each for each in some.sources if is_among(int.from_bytes(each), runs))
    return some._replace(sources=sources)


def _joined(
    output: Output, links: Mapping[str, Link], listeners: Listeners
) -> tuple[int, list[Address]]:
    """The index of its interface, and those of its groups that somebody has joined there."""
    link, address = links.get(output.interface or ""), output.address
    if link is None or output.when is None:
        return 0, []
    if isinstance(address, IPv4Network | IPv6Network):
        return link.index, listeners.within(link.index, address)
    if isinstance(address, IPv4Address | IPv6Address) and (link.index, address) in listeners:
        return link.index, [address]
    return link.index, []


def said_of(
    output: Output, links: Mapping[str, Link], listeners: Listeners
) -> tuple[tuple[Address, Wanted], ...]:
    """All that hosts say of the groups of an output with `when`."""
    index, known = _joined(output, links, listeners)
    return tuple((group, listeners[index, group]) for group in known)


def why_unwanted(output: Output, links: Mapping[str, Link], listeners: Listeners) -> str:
    """Why an output with `when` has nobody to send to, where wanted_of() has no group."""
    name = names.shown(output.interface or "", links)
    if not isinstance(output.address, IPv4Address | IPv6Address):
        return f"nobody on {name} has joined a group of {output.address}"
    index, known = _joined(output, links, listeners)
    only = ""
    if known and output.source == "keep":
        only = " from a source whose packets it sends"
    elif known:
        only = f" from {output.source or source_of(output, links[output.interface or ''])}"
        if others := listeners[index, known[0]].sources:
            only += f"{ONLY_OTHERS}, such as {ip_address(others[0])}"
    return f"nobody on {name} has joined {output.address}{only}"


def why_unanswered(rule: Rule, output: Output, link: Link | None) -> str:
    """What keeps an output from answering on the input's interface, `link`; "" for nothing."""
    if output.replies is None or link is None:
        return ""
    version = rule.input.address.version
    if replies_to(output, link, version) is not None:
        return ""
    return f"{link.name} has no IPv{version} address to answer from"


def way_of(rule: Rule, output: Output, ways: Mapping[Lookup, Way]) -> Way | None:
    """Where the routes lead for an output; None where they are not asked, or have not answered."""
    asked = lookup(output, rule.input.protocol)
    return ways.get(asked) if asked is not None else None


def doubt_of(
    rule: Rule, output: Output, links: Mapping[str, Link], ways: Mapping[Lookup, Way]
) -> str:
    """Why what an output sends may go nowhere, "" for no reason."""
    if output.interface is not None:
        link = links[output.interface]
        found = doubt(output, link, _source(rule, output, link))
    else:
        way = way_of(rule, output, ways)
        if way is None or way.trouble or way.interface not in links:
            return ""
        found = doubt(output, links[way.interface], _source_by(way, output))
    return found.reason if found else ""


def _source_by(way: Way, output: Output) -> Address | None:
    """What an output that follows the routes sends from; None: from addresses that are kept."""
    return None if output.source == "keep" else output.source or way.source


def own_addresses(links: Mapping[str, Link]) -> frozenset[Address]:
    """The addresses of this host."""
    return frozenset(address.ip for link in links.values() for address in link.addresses)


def _nowhere(
    output: Output, way: Way | None, links: Mapping[str, Link], own: Collection[Address]
) -> str:
    """Why no way leads to the host of an output; "" when one does."""
    source = output.source if output.interface is None else None
    if isinstance(source, Address) and source not in own:
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
    if down := why_down(way.interface, links):
        return down
    if output.source is None and way.source is None:
        return f"{link.name} has no IPv{output.address.version} address"
    return ""


def outlet(
    worker: Worker,
    rule: Rule,
    output: Output,
    links: Mapping[str, Link],
    ways: Mapping[Lookup, Way],
    own: Collection[Address],
) -> Outlet:
    """What the output is in a worker, once it waits for nothing; `own` as own_addresses()."""
    asked = lookup(output, rule.input.protocol)
    way = ways.get(asked) if asked is not None else None
    if asked is not None and (why := _nowhere(output, way, links, own)):
        return Nowhere(worker, rule.stream, target(output), why)
    routed = output.interface is None
    if output.interface is None:
        assert way is not None
        link = links[way.interface]
        source = _source_by(way, output)
    else:
        link = links[output.interface]
        source = _source(rule, output, link)
    replies = None
    if output.replies is not None:
        replies = replies_to(output, links[rule.input.interface], rule.input.address.version)
    floats = is_floating(rule, output)
    leaving = (link.name, link.index, source, rule.input.protocol, routed, replies, floats)
    sending = _sending(leaving, _manner(output))
    address, port, called = destination(output, link, source), output.port, target(output)
    if (
        rule.input.is_range
        or replies is not None
        or source is None
        or not isinstance(address, Address)
        or isinstance(port, PortRange)
    ):
        starts = first_address(rule.input.address), first_port(rule.input.port)
        when = output.when is not None
        return Members(worker, rule.stream, sending, address, port, called, *starts, when)
    of = called if (output.interface, output.address) != (link.name, address) else None
    return Egress(worker, rule.stream, sending, address, port, of=of)


@lru_cache(maxsize=256)
def _sending(leaving: tuple[Any, ...], manner: tuple[Any, ...]) -> Sending:
    """The same object for outputs that send alike: thousands of them often do."""
    return Sending(*leaving, **dict(zip(MANNER, manner, strict=True)))


_manner = attrgetter(*MANNER)
