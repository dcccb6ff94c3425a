"""Links and ways to hosts as they are now, as values, and where one sends from. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Literal

from mcrd.addresses import first_address, is_of_link
from mcrd.model import BROADCAST, LIMITED_BROADCAST, Address, HostName, Output

Protocol = Literal["udp", "esp"]


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as it is now; `mtu` in bytes, `hardware` an ARPHRD_ number (linux/if_arp.h).

    `name` is its own; it can have alternative ones as well (ip-link(8), property add altname).
    `addresses` are those that can be used: an IPv6 address still under duplicate address detection
    is not among them. The kernel's order is kept: primary addresses first.
    """

    name: str
    index: int
    up: bool
    carrier: bool
    mtu: int
    hardware: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    alternatives: tuple[str, ...] = ()
    multicast: bool = True  # IFF_MULTICAST
    broadcast: bool = True  # IFF_BROADCAST
    broadcasts: tuple[IPv4Address, ...] = ()  # of its networks, in the order of the addresses
    master: int = 0  # the index of the VRF device or bridge that it belongs to; 0: to none
    lower: int = 0  # that of the interface below a VLAN or macvlan; 0: it is not such a one


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is asked of the routes of this host for an output to a host; `interface` as there.

    For `source` "keep" it is not known, and neither is `source_port` where it is None.
    """

    interface: str | None
    address: Address
    source: Address | Literal["keep"] | None = None
    dscp: int = 0
    protocol: Protocol = "udp"
    port: int | None = None
    source_port: int | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """Where packets to a host leave, as the routes are now: an interface, and from which address.

    `hop` is the neighbour that they go to, None where there is none to be found. `trouble` is why
    they would go nowhere, in words. `source` is what the kernel would choose.
    """

    interface: str = ""
    index: int = 0
    source: Address | None = None
    hop: Address | None = None
    trouble: str = ""


def lookup(output: Output, protocol: Protocol) -> Lookup | None:
    """What is asked of the routes for an output; None unless it is to one host."""
    address, port = output.address, output.port
    if not isinstance(address, Address) or address.is_multicast or isinstance(address, HostName):
        return None
    if address in (BROADCAST, LIMITED_BROADCAST):
        return None
    return Lookup(
        interface=output.interface,
        address=address,
        source=output.source,
        dscp=output.dscp,
        protocol=protocol,
        port=port if isinstance(port, int) and protocol == "udp" else None,
        source_port=output.source_port,
    )


def source_of(output: Output | Lookup, link: Link) -> Address | None:
    """The address to send from, or None when the interface has none that will do, or is not asked.

    One of the destination's own network comes first, then one of the same scope (RFC 6724, 5),
    then the first.
    """
    if output.source == "keep":
        return None
    family = [address for address in link.addresses if address.version == output.address.version]
    if output.source is not None:
        return next((a.ip for a in family if a.ip == output.source), None)
    return nearest(first_address(output.address), family)


def nearest(address: Address, own: Sequence[IPv4Interface | IPv6Interface]) -> Address | None:
    """Of these, one of the address's network; else of the same scope; else the first."""
    if len(own) < 2:
        return own[0].ip if own else None
    local = is_of_link(address)
    best = min(
        own,
        key=lambda a: (address not in a.network, is_of_link(a.ip) is not local),
    )
    return best.ip
