"""What a plan opens and closes, as values: two that are equal are the same thing.

An interface is named with its index, so that one that was deleted and made again is another.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from mcrd.model import Address


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as it is now; `mtu` in bytes, `hardware` an ARPHRD_ number (linux/if_arp.h).

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


@dataclass(frozen=True, slots=True)
class Ingress:
    """The packet socket of an input interface, with its ring and its counters."""

    interface: str
    index: int

    def __str__(self) -> str:
        return f"ingress on {self.interface}"


@dataclass(frozen=True, slots=True)
class Worker:
    """The process that reads a ring."""

    ingress: Ingress

    def __str__(self) -> str:
        return f"worker of {self.ingress.interface}"


@dataclass(frozen=True, slots=True)
class Membership:
    """A group that the host has joined on an interface."""

    interface: str
    index: int
    group: Address

    def __str__(self) -> str:
        return f"membership of {self.group} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Hold:
    """A unicast input, held so that the kernel does not answer "port unreachable" for it."""

    interface: str
    index: int
    address: Address
    port: int

    def __str__(self) -> str:
        return f"hold of {endpoint(self.address, self.port)} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Egress:
    """A connected UDP socket: one output of one rule, for one worker."""

    worker: Worker
    rule: str
    interface: str
    index: int
    address: Address
    port: int
    ttl: int
    dscp: int
    source: Address
    source_port: int | None
    loop: bool

    @property
    def target(self) -> Target:
        """What an output is called by within its rule."""
        return (self.interface, self.address, self.port)

    def __str__(self) -> str:
        return f"output to {endpoint(self.address, self.port)} on {self.interface}"


Target = tuple[str, Address, int]
Resource = Ingress | Worker | Membership | Hold | Egress


def endpoint(address: Address, port: int) -> str:
    """The address and port as people write them: 239.1.1.1:5000, [ff15::1]:5000."""
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
