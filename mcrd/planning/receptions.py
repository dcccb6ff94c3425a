"""What lets an input's packets reach the rings: groups joined, ports held. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from mcrd.addresses import first_address, first_port, last_port
from mcrd.model import BROADCAST, LIMITED_BROADCAST, Address, Input, Network, Rule
from mcrd.planning.actual import Groups
from mcrd.planning.links import Link
from mcrd.planning.resources import Hold, Membership, Reception, Resource

JOINED_AT_MOST = 1024  # of one range: a join each costs the kernel and the switches memory
SOURCES_AT_MOST = 10  # of a group, by members: so many a socket takes (igmp_max_msf of ip-sysctl)
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


def _sources(given: Input, wanted: frozenset[bytes] | None) -> Iterable[Address | None]:
    """From whom a group is joined; None: from anybody."""
    if given.sources and all(source.num_addresses == 1 for source in given.sources):
        hosts = [source.network_address for source in given.sources]
        return [host for host in hosts if wanted is None or host.packed in wanted]
    if wanted is None:
        return [None]
    return [host for host in map(ip_address, sorted(wanted)) if _takes(given, host)]


def _takes(given: Input, host: Address) -> bool:
    among = not given.sources or any(host in network for network in given.sources)
    return among and not any(host in network for network in given.exclude)


def only_wanted(rule: Rule, waiting: Sequence[str], wanted: Sequence[Groups]) -> Groups | None:
    """Of a range, the groups of the input that some output wants now; None: all of them."""
    given, found = rule.input.address, Groups()
    if isinstance(given, Address) or not given.is_multicast:
        return None
    for waits, output, groups in zip(waiting, rule.outputs, wanted, strict=True):
        if waits:
            continue
        if output.when is None:
            return None
        offset = int(given.network_address) - int(first_address(output.address))
        joins = 0
        for group, sources in groups.items():
            joins += _joins(sources)
            if joins > JOINED_AT_MOST:
                break
            where = group + offset
            if sources is None or len(sources) > SOURCES_AT_MOST:
                found[where] = None
            elif (before := found.get(where, sources)) is not None:
                found[where] = before | sources
    return found


def _joins(sources: frozenset[bytes] | None) -> int:
    return 1 if sources is None or len(sources) > SOURCES_AT_MOST else len(sources)


def too_many(groups: Groups) -> str:
    """Why some members of a range may get nothing: "" for no reason."""
    if sum(map(_joins, groups.values())) <= JOINED_AT_MOST:
        return ""
    return f"more than {JOINED_AT_MOST} of its groups are wanted: so many are joined, and no more"


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
