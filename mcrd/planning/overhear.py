"""Where a rule that stands by hears what the other host sends in its place. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mcrd.model import Rule
from mcrd.planning.portions import ALL, Portion
from mcrd.planning.relays import Relay
from mcrd.planning.resources import Egress, Membership, Outlet, Sending


def ear(rule: Rule, outputs: Sequence[tuple[Outlet, Portion]]) -> Egress | None:
    """The socket for what another host sends by the first output that this host can listen to.

    That is one to a group on an interface, which sends all that its rule relays. One with `when`
    is not: this host would be one of those who want the group. None: there is no such output.
    """
    if rule.standby is None:
        return None
    asks = {output.address for output in rule.outputs if output.when is not None}
    for outlet, portion in outputs:
        if (
            isinstance(outlet, Egress)
            and not outlet.transparent
            and outlet.sending.protocol == "udp"
            and outlet.address.is_multicast
            and outlet.address not in asks
            and portion == ALL
        ):
            how = outlet.sending
            # All that makes another socket of it: its own source is no part of that.
            where = Sending(how.interface, how.index, outlet.address, ttl=0)
            return Egress(outlet.worker, rule.name, where, outlet.address, outlet.port, hears=True)
    return None


def joins(relays: Iterable[Relay]) -> tuple[Membership, ...]:
    """The groups without which no switch lets this host hear them."""
    ears = (relay.ear for relay in relays if relay.ear is not None)
    return tuple(
        dict.fromkeys(Membership(e.sending.interface, e.sending.index, e.address) for e in ears)
    )
