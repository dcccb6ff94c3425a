"""What messages say, as the structures of shared.h, and back."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcrd.dataplane import messages
from mcrd.dataplane._dataplane import ffi, lib


class RefusedError(Exception):
    """A request that cannot be carried out, and why."""


def endpoint_of(endpoint: messages.Endpoint) -> Any:
    """An address and port. Raises RefusedError."""
    if len(endpoint.address) not in (4, 16) or not 0 <= endpoint.port <= 65535:
        raise RefusedError(f"not an endpoint: {endpoint}")
    made = ffi.new("struct endpoint *")
    made.address[0 : len(endpoint.address)] = endpoint.address
    made.port = endpoint.port
    made.family = 6 if len(endpoint.address) == 16 else 4
    return made


def place_of(place: int | None) -> int:
    """Where a socket is, or what there is in place of one."""
    if place == messages.NOWHERE:
        return int(lib.MCRD_NOWHERE)
    if place == messages.UNWANTED:
        return int(lib.MCRD_UNWANTED)
    return int(lib.MCRD_BY_MEMBER) if place is None else place


def _leg(leg: messages.Merge) -> tuple[int, ...]:
    return leg.stream, leg.delay, leg.offset, leg.by, leg.leg, leg.bytes, leg.little


def match_of(match: messages.Match) -> tuple[object, object]:
    """What a rule takes, and its networks. Raises RefusedError."""
    made = ffi.new("struct rule_match *")
    made.first = endpoint_of(match.first)[0]
    made.bits = match.bits
    made.last_port = match.last_port
    made.protocol = match.protocol
    made.by_source = match.by_source
    made.vlan = match.vlan
    made.interface = match.interface
    made.standby = match.standby
    made.backlog = match.backlog
    made.overhears = 0 if match.overhears is None else 1 + match.overhears
    made.packets_per_second = match.limit
    made.source_count = len(match.sources)
    made.exclude_count = len(match.exclude)
    made.dedupe = match.dedupe
    made.also_count = len(match.also)
    if match.inspect is not None:
        found = match.inspect
        made.inspect = (found.offset, found.format, found.bytes, found.little)
    if match.merge is not None:
        made.merge = _leg(match.merge)
    if match.switches is not None:
        wanted = match.switches
        made.switches = (_leg(wanted.copies), wanted.silence, wanted.back, wanted.chosen)
    size = len(match.first.address)
    further = [messages.Network(address, 8 * size) for address in match.also]
    listed = (*match.sources, *match.exclude, *further)
    networks = ffi.new("struct network[]", len(listed))
    for at, network in enumerate(listed):
        if len(network.address) != size or not 0 <= network.bits <= 8 * size:
            raise RefusedError(f"not a network of the rule's family: {network}")
        networks[at].address[0:size] = network.address
        networks[at].bits = network.bits
    if not 0 <= match.bits <= 8 * size or match.last_port < match.first.port:
        raise RefusedError(f"not a range: {match}")
    return made, networks


def outputs_of(given: Sequence[messages.RuleOutput], size: int) -> tuple[Any, object]:
    """Outputs, and the runs of sources of all of them, whose addresses have `size` bytes."""
    made = ffi.new(
        "struct rule_output[]",
        [
            (
                place_of(output.place),
                output.counters,
                output.limit,
                output.sample,
                len(output.sources),
            )
            for output in given
        ],
    )
    listed = [run for output in given for run in output.sources]
    runs = ffi.new("struct source_run[]", len(listed))
    for at, run in enumerate(listed):
        if not size == len(run.first) == len(run.last) or run.first > run.last:
            raise RefusedError(f"not sources of the rule's family: {run}")
        runs[at].first[0:size] = run.first
        runs[at].last[0:size] = run.last
    return made, runs


def member_of(member: messages.MemberKey) -> object:
    """A member's name. Raises RefusedError."""
    made = ffi.new("struct member_key *")
    made.slot = member.slot
    made.destination = endpoint_of(member.destination)[0]
    if member.source is not None:
        made.source = endpoint_of(member.source)[0]
    return made


def said_by(endpoint: Any) -> messages.Endpoint:
    """An address and port that the worker names."""
    size = 16 if endpoint.family == 6 else 4
    return messages.Endpoint(bytes(endpoint.address[0:size]), endpoint.port)
