"""Where a rule that stands by hears what the other host sends in its place. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mcrd.addresses import is_source_specific
from mcrd.model import Address, Config, Network, Rule
from mcrd.planning import names
from mcrd.planning.links import Link
from mcrd.planning.portions import ALL, Portion
from mcrd.planning.relays import Relay
from mcrd.planning.resources import Egress, Membership, Outlet, Sending


class Gated(NamedTuple):
    """Groups, with interfaces, to which some rule sends there only while somebody wants them."""

    groups: frozenset[tuple[str, Address]] = frozenset()
    ranges: frozenset[tuple[str, Network]] = frozenset()

    def has(self, interface: str, group: Address) -> bool:
        """Whether the group is one of them."""
        return (interface, group) in self.groups or any(
            interface == name and group in groups for name, groups in self.ranges
        )


def gated(config: Config, links: Mapping[str, Link]) -> Gated:
    """Those of enabled rules, by the interfaces' own names."""
    found = {
        (names.real(output.interface or "", links), output.address)
        for rule in config.rules.values()
        for output in rule.outputs
        if output.when is not None and rule.enabled
    }
    return Gated(
        frozenset((name, group) for name, group in found if not isinstance(group, Network)),
        frozenset((name, groups) for name, groups in found if isinstance(groups, Network)),
    )


def ear(rule: Rule, outputs: Sequence[tuple[Outlet, Portion]], avoid: Gated) -> Egress | None:
    """The socket for what another host sends by the rule's only output, if that is to a group.

    None: there is none. Of several outputs, one may have sent what another one has not. One with a
    portion does not send all. A source-specific group is not joined without its source, which is
    the other host's (RFC 4604). Of those to `avoid`, this host would be a member. The legs of a
    stream have one ear together: what it hears stands for one datagram, of whichever leg.
    """
    if rule.standby is None or len(rule.outputs) != 1:
        return None
    outlet, portion = outputs[0]
    if not isinstance(outlet, Egress) or outlet.transparent or portion != ALL:
        return None
    how, group = outlet.sending, outlet.address
    if how.protocol != "udp" or not group.is_multicast or is_source_specific(group):
        return None
    if avoid.has(how.interface, group):
        return None
    # All that makes another socket of it: its own source is no part of that.
    where = Sending(how.interface, how.index, group, ttl=0)
    return Egress(outlet.worker, rule.stream, where, group, outlet.port, hears=True)


def joins(relays: Iterable[Relay]) -> tuple[Membership, ...]:
    """The groups without which no switch lets this host hear them."""
    ears = (relay.ear for relay in relays if relay.ear is not None)
    return tuple(
        dict.fromkeys(Membership(e.sending.interface, e.sending.index, e.address) for e in ears)
    )
