"""Signs that the packets of an output that sends may go nowhere. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ipaddress import IPv4Network
from typing import NamedTuple

from mcrd.addresses import first_address, is_of_link
from mcrd.model import LIMITED_BROADCAST, Address, Output
from mcrd.planning.broadcast import destination, is_broadcast
from mcrd.planning.links import Link

LINK_GROUPS = IPv4Network("224.0.0.0/24")


class Doubt(NamedTuple):
    """Why packets may go nowhere, and what to do about it."""

    reason: str
    remedy: str


def doubt(output: Output, link: Link, source: Address | None) -> Doubt | None:
    """The doubt about an output to `link` that sends from `source`; None: from kept addresses.

    A tunnel such as WireGuard has no flag IFF_MULTICAST (netdevice(7)): what it does with a group
    is its own affair. Routers pass on nothing with a source of the link's scope (RFC 4291, 2.5.6;
    RFC 3927, 7).
    """
    address = first_address(destination(output, link, source))
    if address.is_multicast and not link.multicast:
        return Doubt(
            f"{link.name} has no flag MULTICAST: it may carry no group, and WireGuard hands"
            f" {address} only to a peer whose AllowedIPs have it",
            f"a host as the output, or AllowedIPs; `ip link set {link.name} multicast on` says"
            " that it does carry groups",
        )
    if is_broadcast(address, link) and not link.broadcast:
        return Doubt(
            f"{link.name} has no flag BROADCAST: it may carry none, and WireGuard hands {address}"
            " only to a peer whose AllowedIPs have it",
            "a host as the output, or AllowedIPs",
        )
    if source is not None and source.is_link_local and output.ttl > 1 and not _on_link(address):
        return Doubt(
            f"no router passes on what is sent from {source}, which is of the link alone",
            f"an address of a larger scope on {link.name}, or `ttl = 1` if no router is to be"
            " crossed",
        )
    return None


def _on_link(address: Address) -> bool:
    """Whether no router passes on what is sent there (RFC 4291, 2.7; RFC 5771, 4; RFC 919, 7)."""
    return address == LIMITED_BROADCAST or address in LINK_GROUPS or is_of_link(address)
