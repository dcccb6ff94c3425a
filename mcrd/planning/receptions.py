"""What lets an input's packets reach the rings: groups joined, ports held. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from itertools import islice

from mcrd.addresses import first_address, first_port, is_source_specific, last_port
from mcrd.model import BROADCAST, LIMITED_BROADCAST, Address, Input, Network, Output, Rule
from mcrd.planning.actual import ANY, Groups, Wanted
from mcrd.planning.links import Link
from mcrd.planning.resources import Hold, Membership, Reception, Resource

JOINED_AT_MOST = 1024  # of one range: a join each costs the kernel and the switches memory
SOURCES_AT_MOST = 10  # of a group, by members; of source-specific ones, as many as there is room
HELD_AT_MOST = 1024  # ports of one range
ETHERNET = 1  # ARPHRD_ETHER, linux/if_arp.h


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
    sources = named(given) or (None,)
    return tuple(Membership(*where, group, each) for group in groups for each in sources), ()


def joins(given: Input, link: Link, groups: Groups) -> Iterator[Membership | Reception]:
    """What lets in what the input takes of these groups, and members want.

    Source-specific groups are joined from sources alone: routers ignore other joins (RFC 4604).
    Where a source is neither in the rule file nor named by a member, what comes unasked is let in.
    A tunnel does not filter, and has no hardware addresses to let in.
    """
    where, of_file = (link.name, link.index), named(given)
    has_specific = _has_specific(given.address)
    for group, some in groups.items():
        for source in (of_file if some.any else ()) or map(ip_address, some.sources):
            yield Membership(*where, group, source)
        if some.any and not of_file:
            if not (has_specific and is_source_specific(group)):
                yield Membership(*where, group)
            elif link.hardware == ETHERNET:
                yield Reception(*where, group)


def named(given: Input) -> tuple[Address, ...]:
    """The sources from which the rule file has groups joined; (): from any."""
    if all(source.num_addresses == 1 for source in given.sources):
        return tuple(source.network_address for source in given.sources)
    return ()


def only_wanted(rule: Rule, waiting: Sequence[str], wanted: Sequence[Groups]) -> Groups | None:
    """The groups of the input that some output wants now; None: those of the rule file."""
    given, found = rule.input, Groups()
    if given.address in (BROADCAST, LIMITED_BROADCAST) or not given.address.is_multicast:
        return None
    for waits, output, groups in zip(waiting, rule.outputs, wanted, strict=True):
        if waits:
            continue
        if output.when is None:
            return None
        offset = _offset(given, output)
        for group, some in islice(groups.items(), JOINED_AT_MOST):
            where = group + offset
            before = found.setdefault(where, some)
            if before != some:
                sources = tuple(dict.fromkeys((*before.sources, *some.sources)))
                found[where] = Wanted(before.any or some.any, sources)
    found = _bounded(given, found)
    if isinstance(given.address, Network) or found[given.address] != ANY:
        return found
    return None if named(given) or not is_source_specific(given.address) else found


def _offset(given: Input, output: Output) -> int:
    """From a group of the output to that of the input."""
    return int(first_address(given.address)) - int(first_address(output.address))


def is_by_members(rule: Rule) -> bool:
    """Whether the groups of the input are joined from the sources that members name."""
    if not first_address(rule.input.address).is_multicast:
        return False
    return all(o.when is not None and o.source == "keep" for o in rule.outputs)


def _bounded(given: Input, found: Groups) -> Groups:
    """With as many joins by source as there may be, those first that were named first.

    A group has one before others have more. Where that is not enough, it is joined from any source.
    Source-specific groups keep some of their sources instead.
    """
    left, of_file = JOINED_AT_MOST - len(found), named(given)
    has_specific = _has_specific(given.address)
    for group, some in found.items():
        room = max(0, left) + 1
        is_any = some.any or len(some.sources) > min(room, SOURCES_AT_MOST)
        if is_any and not (
            has_specific and is_source_specific(group) and not (some.any and of_file)
        ):
            found[group] = ANY
        else:
            found[group] = Wanted(some.any, some.sources[:room])
            left -= max(0, min(room, len(some.sources)) - 1)
    return found


def doubt_of(given: Input, output: Output, groups: Groups, joined: Groups | None) -> str:
    """Why some members of an output with `when` may get nothing: "" for no reason.

    `groups` are those that they want, `joined` is as only_wanted(): what all outputs want.
    """
    if joined is None:
        return ""
    offset = _offset(given, output)
    if any(group + offset not in joined for group in islice(groups, JOINED_AT_MOST, None)):
        return _more("groups")
    if not _has_specific(given.address):
        return ""
    of_file = named(given)
    for group, some in groups.items():
        where = group + offset
        if not is_source_specific(where):
            continue
        found = joined[where]
        if found.any and of_file:
            continue
        if found.any and not found.sources:
            return unnamed(where)
        if some.sources != found.sources and not set(some.sources) <= set(found.sources):
            return _more("groups and sources")
    return ""


def _more(what: str) -> str:
    return f"more than {JOINED_AT_MOST} of its {what} are wanted: so many are joined, and no more"


def _has_specific(groups: Address | Network) -> bool:
    """Whether some of them may be source-specific; a quick look, which does not miss any."""
    widest = {4: 8, 6: 32}[groups.version]
    is_wide = isinstance(groups, Network) and groups.prefixlen < widest
    return is_wide or is_source_specific(groups)


def unnamed(group: Address) -> str:
    """Why a source-specific group of an input is not joined: neither file nor member has a source.

    A report of IGMPv1, IGMPv2 or MLDv1 has none. Nor has one for an output that sends from an
    address of this host: members do not see those of the input.
    """
    return (
        f"{group} is source-specific, and no member names a source of it: so it is not joined, and"
        " routers send nothing; `sources` of the input may name some"
    )


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
