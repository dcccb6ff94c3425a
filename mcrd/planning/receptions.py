"""What lets an input's packets reach the rings: groups joined, ports held. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from ipaddress import ip_address
from itertools import islice

from mcrd.addresses import allows, first_address, first_port, is_source_specific, last_port
from mcrd.model import BROADCAST, LIMITED_BROADCAST, Address, Input, Network, Rule
from mcrd.planning.actual import Groups
from mcrd.planning.links import Link
from mcrd.planning.resources import Hold, Membership, Reception, Resource

JOINED_AT_MOST = 1024  # of one range: a join each costs the kernel and the switches memory
SOURCES_AT_MOST = 10  # of a group, by members; of source-specific ones, as many as there is room
HELD_AT_MOST = 1024  # ports of one range


def reception(given: Input, link: Link) -> tuple[tuple[Resource, ...], tuple[Resource, ...]]:
    """What lets an input's packets reach the rings: needed, and good to have."""
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
    return memberships(given, link, dict.fromkeys(groups)), ()


def memberships(given: Input, link: Link, groups: Groups) -> tuple[Membership, ...]:
    """Those that let in what the input takes of these groups, and members want."""
    return tuple(
        Membership(link.name, link.index, group, source)
        for group, wanted in groups.items()
        for source in _sources(given, wanted)
    )


def _sources(given: Input, wanted: Collection[bytes] | None) -> Iterable[Address | None]:
    """From whom a group is joined; None: from anybody."""
    if wanted is not None:
        return map(ip_address, wanted)
    if given.sources and all(source.num_addresses == 1 for source in given.sources):
        return [source.network_address for source in given.sources]
    return [None]


def only_wanted(rule: Rule, waiting: Sequence[str], wanted: Sequence[Groups]) -> Groups | None:
    """Of a range, the groups of the input that some output wants now; None: all of them."""
    given, found = rule.input, Groups()
    if isinstance(given.address, Address) or not given.address.is_multicast:
        return None
    for waits, output, groups in zip(waiting, rule.outputs, wanted, strict=True):
        if waits:
            continue
        if output.when is None:
            return None
        offset = int(given.address.network_address) - int(first_address(output.address))
        for group, sources in islice(groups.items(), JOINED_AT_MOST):
            where = group + offset
            before = found.get(where, ())
            if sources is None or before is None:
                found[where] = None
            else:
                taken = (each for each in sources if allows(given, ip_address(each)))
                found[where] = tuple(dict.fromkeys((*before, *taken)))
    return _bounded(found)


def is_by_members(rule: Rule) -> bool:
    """Whether the groups of a range are joined from the sources that members name."""
    is_range = isinstance(rule.input.address, Network)
    return is_range and all(o.when is not None and o.source == "keep" for o in rule.outputs)


def _bounded(found: Groups) -> Groups:
    """With as many joins by source as there may be, those first that were named first.

    A group has one before others have more. Where that is not enough, it is joined from any source;
    routers ignore that of source-specific groups (RFC 4604), so these keep some of their sources.
    """
    left = JOINED_AT_MOST - len(found)
    for group, sources in found.items():
        if sources is None:
            continue
        room = max(0, left) + 1
        if is_source_specific(group):
            found[group] = sources[:room]
        elif len(sources) > min(room, SOURCES_AT_MOST):
            found[group] = None
            continue
        left -= max(0, min(room, len(sources)) - 1)
    return found


def too_many(given: Input, groups: Groups) -> str:
    """Why some members of a range may get nothing: "" for no reason."""
    what, count = "groups", len(groups)
    if count <= JOINED_AT_MOST and is_source_specific(given.address):
        what, count = "groups and sources", sum(max(1, len(some or ())) for some in groups.values())
    if count <= JOINED_AT_MOST:
        return ""
    return f"more than {JOINED_AT_MOST} of its {what} are wanted: so many are joined, and no more"


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
