"""Broadcasts: what "broadcast" means on an interface as it is now. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace

from mcrd.model import BROADCAST, LIMITED_BROADCAST, Address, Input, Network, Output
from mcrd.planning.links import Link

DEFAULT_LIMIT = 1000
"""Packets per second of an output to a broadcast address whose rule file gives it no limit.

Each wakes every host of the network, and wireless networks send them at their lowest rate.
"""

NETWORKS_AT_MOST = 1024
"""Broadcast addresses of one interface that an input takes: all have to fit one message."""


def is_broadcast(address: Address | Network, link: Link | None) -> bool:
    """Whether all hosts of the link get what is sent there."""
    return address in (BROADCAST, LIMITED_BROADCAST) or (
        link is not None and address in link.broadcasts
    )


def input_here(given: Input, link: Link | None) -> Input:
    """The input with the broadcast addresses of the link, if it is to take these."""
    if given.address != BROADCAST or link is None:
        return given
    return replace(given, also=link.broadcasts[:NETWORKS_AT_MOST])


def destination(output: Output, link: Link, source: Address | None) -> Address | Network:
    """Where the output sends on the link, from `source`; None: from addresses that are kept.

    To "broadcast" means to the network of the source, or to the first of the link for kept ones.
    Where that has no such address (a /31, a /32), it is 255.255.255.255.
    """
    if output.address != BROADCAST:
        return output.address
    if source is None:
        return next(iter(link.broadcasts), LIMITED_BROADCAST)
    around = [own.network for own in link.addresses if own.ip == source]
    fitting = (each for each in link.broadcasts if any(each in network for network in around))
    return next(fitting, LIMITED_BROADCAST)


def limit(output: Output, link: Link | None) -> int | None:
    """Packets per second; None: no limit."""
    if output.limit is None and is_broadcast(output.address, link):
        return DEFAULT_LIMIT
    return output.limit
