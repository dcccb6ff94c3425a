"""Addresses and ports, single ones and ranges, and what outputs are called by. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address, ip_network

from mcrd.model import BROADCAST, LIMITED_BROADCAST, Address, Input, Network, Output, PortRange

Target = tuple[str, Address | Network, int | PortRange]
"""What an output is called by within its rule: interface, address, port, as in the file.

The interface is "" for one that follows the routes: it stays the same output when they move.
"""

# What every segment is sent, asked for or not (RFC 4541, 2.1.2 and 3).
NOT_ASKED_FOR = (ip_network("224.0.0.0/24"), ip_network("ff02::1/128"))


def first_address(address: Address | Network) -> Address:
    """The address, or the first one of the network."""
    return address if isinstance(address, Address) else address.network_address


def plain(network: Network) -> Address | Network:
    """The network as people write it: one of a single address, as that address."""
    return network.network_address if network.num_addresses == 1 else network


def covers(address: Address | Network, host: Address) -> bool:
    """Whether it is that address, or in that network."""
    if address == BROADCAST:
        return host == LIMITED_BROADCAST
    return host == address if isinstance(address, Address) else host in address


def destinations(given: Input) -> tuple[Address | Network, ...]:
    """All that an input takes, of broadcasts those of its interface too."""
    first = LIMITED_BROADCAST if given.address == BROADCAST else given.address
    return (first, *given.also)


def allows(given: Input, source: Address) -> bool:
    """Whether an input takes what comes from there."""
    listed = not given.sources or any(source in network for network in given.sources)
    return listed and not any(source in network for network in given.exclude)


def has_port(ports: int | PortRange, port: int) -> bool:
    """Whether it is that port, or in that range."""
    return first_port(ports) <= port <= last_port(ports)


def first_port(port: int | PortRange) -> int:
    """The port, or the first one of the range."""
    return port if isinstance(port, int) else port.first


def last_port(port: int | PortRange) -> int:
    """The port, or the last one of the range."""
    return port if isinstance(port, int) else port.last


def endpoint(address: Address | Network, port: int | PortRange) -> str:
    """As people write it: 239.1.1.1:5000, [ff15::1]:5000; without a port for ESP, which has 0."""
    if port == 0:
        return str(address)
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def written(address: str, port: int | str) -> str:
    """As endpoint(), of what the daemon answers: 239.1.1.1:5000, or 239.1.1.1 esp."""
    if port == 0:
        return f"{address} esp"
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def target(output: Output) -> Target:
    """What the output is called by within its rule."""
    return (output.interface or "", output.address, output.port)


def is_to(output: Output, address: Address, port: int) -> bool:
    """Whether the output sends there, or may, with a range."""
    return covers(output.address, address) and (port == 0 or has_port(output.port, port))


def where(output: Output) -> str:
    """An output as people are told of it: its interface if it has one, address and port."""
    to = endpoint(output.address, output.port)
    return f"{output.interface} {to}" if output.interface is not None else to


def is_of_link(address: Address) -> bool:
    """Link scope; of IPv6 groups, by the scope in the address (RFC 4291, 2.7)."""
    if isinstance(address, IPv6Address) and address.is_multicast:
        return address.packed[1] & 0x0F <= 2
    return address.is_link_local


def socket_name(
    address: Address, port: int, index: int
) -> tuple[str, int] | tuple[str, int, int, int]:
    """The socket address; the interface's index is the zone of link-local addresses (RFC 4007)."""
    if address.version == 4:
        return (str(address), port)
    return (str(address), port, 0, index if is_of_link(address) else 0)


def storage(address: Address, index: int = 0) -> bytes:
    """A struct sockaddr_storage, without a port; `index` is the zone of a link-local address."""
    if address.version == 4:
        name = struct.pack("=HH4s", socket.AF_INET, 0, address.packed)
    else:
        zone = index if address.is_link_local else 0
        name = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, address.packed, zone)
    return struct.pack("128s", name)


def is_asked_for(group: Address | Network) -> bool:
    """Whether a switch that snoops sends it, or some of it, only where somebody has asked."""
    last = group if isinstance(group, Address) else group.broadcast_address
    return not any(first_address(group) in each and last in each for each in NOT_ASKED_FOR)


def is_source_specific(groups: Address | Network) -> bool:
    """Whether they are for source-specific multicast: 232.0.0.0/8, ff3x::/32 (RFC 4607, 1)."""
    packed, is_ipv4 = first_address(groups).packed, groups.version == 4
    if isinstance(groups, Network) and groups.prefixlen < (8 if is_ipv4 else 32):
        return False
    if is_ipv4:
        return packed[0] == 232
    return packed[0] == 0xFF and packed[1] >> 4 == 3 and packed[2:4] == bytes(2)
