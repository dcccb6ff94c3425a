"""What lets an input's packets reach the rings: groups joined, ports held. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mcrd.addresses import first_address, first_port, last_port
from mcrd.model import BROADCAST, LIMITED_BROADCAST, Address, Input, Network, Rule
from mcrd.planning.links import Link
from mcrd.planning.resources import Hold, Membership, Reception, Resource

JOINED_AT_MOST = 1024  # groups of one range: a join each costs the kernel and the switches memory
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
    return memberships(given, link, groups), ()


def memberships(given: Input, link: Link, groups: Iterable[Address]) -> tuple[Membership, ...]:
    where = (link.name, link.index)
    if given.sources and all(source.num_addresses == 1 for source in given.sources):
        hosts = [source.network_address for source in given.sources]
        return tuple(Membership(*where, group, host) for group in groups for host in hosts)
    return tuple(Membership(*where, group) for group in groups)


def only_wanted(
    rule: Rule, waiting: Sequence[str], wanted: Sequence[Sequence[Address]]
) -> tuple[Address, ...] | None:
    """Of a range, the groups of the input that some output wants now; None: all of them."""
    given, found = rule.input.address, dict[Address, None]()
    if isinstance(given, Address) or not given.is_multicast:
        return None
    for waits, output, groups in zip(waiting, rule.outputs, wanted, strict=True):
        if waits:
            continue
        if output.when is None:
            return None
        start, first = given.network_address, int(first_address(output.address))
        found |= {start + (int(group) - first): None for group in groups[:JOINED_AT_MOST]}
    return tuple(found)


def too_many(groups: Sequence[Address]) -> str:
    """Why some members of a range may get nothing: "" for no reason."""
    if len(groups) <= JOINED_AT_MOST:
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
