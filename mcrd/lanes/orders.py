"""What a worker is told of a rule, may ask of it, and which rules change together. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from ipaddress import ip_address, ip_network

from mcrd.addresses import allows, covers, destinations, first_address, first_port, last_port
from mcrd.dataplane import messages
from mcrd.lanes.inspections import FORMATS
from mcrd.lanes.merges import MERGE_BY
from mcrd.model import BROADCAST, Address, Input, Inspect, Merge, Network, Switch
from mcrd.planning.plan import Add, Remove, Replace
from mcrd.planning.portions import Portion
from mcrd.planning.relays import Relay, RelayKey
from mcrd.planning.resources import ELSEWHERE, Egress, Members, Nowhere, Outlet, Worker

Change = Add | Replace | Remove
"""A step that concerns one rule in one worker."""


def match_of(relay: Relay, interface: int = 0, ear: int | None = None) -> messages.Match:
    """What the rule takes; `interface` is the place of that in the segment, `ear` of its socket."""
    given = relay.input
    return messages.Match(
        first=messages.Endpoint(first_address(given.address).packed, first_port(given.port)),
        bits=_bits(given.address),
        last_port=last_port(given.port),
        protocol=socket.IPPROTO_UDP if given.protocol == "udp" else socket.IPPROTO_ESP,
        vlan=given.vlan or 0,
        limit=given.limit or 0,
        by_source=relay.by_source,
        dedupe=round(1000 * given.dedupe) if given.dedupe is not None else 0,
        inspect=_inspect(relay.inspect),
        sources=_networks(given.sources),
        exclude=_networks(given.exclude),
        also=[address.packed for address in given.also],
        interface=interface,
        merge=_merge(relay),
        switches=_switches(relay),
        standby=relay.standby,
        backlog=round(1e9 * relay.backlog),
        overhears=ear,
    )


def _inspect(given: Inspect | None) -> messages.Inspect | None:
    if given is None:
        return None
    number, is_little = FORMATS[given.format], given.order == "little"
    return messages.Inspect(number, given.offset, given.bytes, is_little)


def _merge(relay: Relay) -> messages.Merge | None:
    """Which leg it is, of a merged stream. Of other settings, it would be another stream."""
    stream, leg, merge = relay.leg or ("", 0, None)
    if not isinstance(merge, Merge):
        return None
    by, offset, size, is_little = _number(merge.by, relay.inspect)
    about, delay = _hash(f"{stream} {by} {offset} {size}"), round((merge.delay or 0) * 1e9)
    return messages.Merge(about, leg, by, offset, size, is_little, delay)


def _switches(relay: Relay) -> messages.Switch | None:
    """Which leg it is, of several of which one is in use."""
    stream, leg, switch = relay.leg or ("", 0, None)
    if not isinstance(switch, Switch):
        return None
    tells = relay.inspect.format if relay.inspect is not None else ""
    by = "sequence" if tells == "moldudp64" else tells
    number = _number(by, relay.inspect) if by in MERGE_BY else (0, 0, 0, False)
    return messages.Switch(
        messages.Merge(_hash(stream), leg, *number),
        round(switch.silence * 1e9),
        round((switch.back or 0) * 1e9),
        switch.chosen,
    )


def _number(by: str, inspect: Inspect | None) -> tuple[int, int, int, bool]:
    """What tells datagrams apart: of enum merge_by, with the place of the number and its bytes."""
    if by != "sequence" or inspect is None:
        return MERGE_BY[by], 0, 0, False
    if inspect.format == "moldudp64":
        by = inspect.format
    return MERGE_BY[by], inspect.offset, inspect.bytes, inspect.order == "little"


def _hash(about: str) -> int:
    return int.from_bytes(blake2b(about.encode(), digest_size=8).digest(), "big")


def _bits(address: Address | Network) -> int:
    return address.max_prefixlen if isinstance(address, Address) else address.prefixlen


def _networks(networks: Sequence[Network]) -> list[messages.Network]:
    return [messages.Network(n.network_address.packed, n.prefixlen) for n in networks]


def place_of(output: Outlet, places: Mapping[Egress, int]) -> int | None:
    """Where the worker has the output's socket; None where each member has its own."""
    match output:
        case Egress():
            return places[output]
        case Members():
            return None
        case Nowhere():
            return messages.NOWHERE


def runs_of(portion: Portion, given: Input) -> list[messages.SourceRun]:
    """The sources whose packets of that input the output sends; none: any."""
    size = first_address(given.address).max_prefixlen // 8
    ends = ((first.to_bytes(size), last.to_bytes(size)) for first, last in portion.sources)
    return [messages.SourceRun(*both) for both in ends]


def is_fit(key: messages.MemberKey) -> bool:
    """Whether its source is a host: anybody may send packets that say otherwise."""
    if key.source is None:
        return True
    source = ip_address(key.source.address)
    return not (source.is_multicast or source.is_loopback or source.is_unspecified)


def may_have(relay: Relay, key: messages.MemberKey) -> bool:
    """Whether it is a member of the relay's range, from a source that the relay takes.

    A worker asks for no others.
    """
    given = relay.input
    ports = range(first_port(given.port), last_port(given.port) + 1)
    if (key.source is not None) != relay.by_source:
        return False
    try:
        destination = ip_address(key.destination.address)
        source = ip_address(key.source.address) if key.source is not None else None
    except ValueError:
        return False
    elsewhere = given.address == BROADCAST and destination == ELSEWHERE
    within = elsewhere or covers(given.address, destination)
    if not within or key.destination.port not in ports:
        return False
    if key.source is None or source is None:
        return True
    return (
        source.version == destination.version
        and 0 <= key.source.port < 65536
        and allows(given, source)
    )


def members_of(relay: Relay) -> Sequence[Members]:
    """The outputs of a relay that go by member."""
    return [output for output in relay.outputs if isinstance(output, Members)]


def egress_of(output: Members, key: messages.MemberKey) -> Egress:
    """The socket of a member that the output has for it."""
    source = key.source
    return output.member(
        ip_address(key.destination.address),
        key.destination.port,
        ip_address(source.address) if source is not None else None,
        source.port if source is not None else None,
    )


def kept(before: Relay, relay: Relay) -> list[int | None]:
    """Of each output that goes by member, which of those before it was; [] when no member stays.

    One whose way has moved is the same: its sockets send over the new one too, until others come.
    So is one with another `when`, until the worker is told which of its members may send.
    """
    old, new = members_of(before), members_of(relay)
    known = {replace(output, when=False): at for at, output in enumerate(old)}
    moved = {output.target: at for at, output in enumerate(old) if output.sending.routed}
    found = [
        known.get(
            replace(output, when=False),
            moved.get(output.target) if output.sending.routed else None,
        )
        for output in new
    ]
    if before.by_source != relay.by_source or all(at is None for at in found):
        return []
    return found


def handed_on(
    steps: Sequence[Change], relays: Mapping[RelayKey, Relay]
) -> dict[RelayKey, Add | Replace]:
    """The steps by which an input goes from one rule to another that a worker has meanwhile.

    Where a rule goes after another has its input, as a removal does, no packet is missed.
    """
    given_up: dict[tuple[Worker, tuple[object, ...]], RelayKey] = {}
    ranges: list[tuple[RelayKey, Input]] = []
    for step in steps:
        before = relays.get(step.key) if isinstance(step, Replace) else None
        if before is not None and isinstance(step, Replace) and before.input != step.relay.input:
            given_up[step.key.worker, _place(before.input)] = step.key
            if before.input.is_range:
                ranges.append((step.key, before.input))
    found: dict[RelayKey, Add | Replace] = {}
    if not given_up:
        return found
    by_key = {step.key: step for step in steps if isinstance(step, Add | Replace)}
    for key, step in by_key.items():
        wanted = step.relay.input
        givers = {given_up.get((key.worker, _place(wanted)))}
        others = (
            ((giver, relays[giver].input) for giver in given_up.values())
            if wanted.is_range
            else ranges
        )
        givers |= {
            giver for giver, old in others if giver.worker == key.worker and _overlap(old, wanted)
        }
        givers -= {None, key}
        if givers:
            found |= {one: by_key[one] for one in (key, *givers) if one is not None}
    return found


def _place(given: Input) -> tuple[object, ...]:
    return given.address, given.also, given.port, given.protocol, given.vlan


def _overlap(one: Input, other: Input) -> bool:
    """Whether a packet may be for both, whoever sends it."""
    return (
        (one.protocol, one.vlan) == (other.protocol, other.vlan)
        and any(
            first.version == second.version and first.overlaps(second)
            for first in _destinations(one)
            for second in _destinations(other)
        )
        and first_port(one.port) <= last_port(other.port)
        and first_port(other.port) <= last_port(one.port)
    )


def _destinations(given: Input) -> list[Network]:
    return [ip_network((first_address(each).packed, _bits(each))) for each in destinations(given)]
