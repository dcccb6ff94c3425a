"""What a rule file says, as frozen values. No I/O, no policy."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the rule files something stands; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Input:
    """What a rule takes from the network: one destination address and port on one interface."""

    interface: str
    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class Output:
    """Where a rule sends: one destination on one interface.

    `ttl` is the TTL or hop limit. `dscp` is the code point (0 to 63), not the TOS byte.
    `source` None means an address of the interface; `source_port` None, one chosen once.
    `loop`: programs on this host hear the output too (groups only).
    """

    interface: str
    address: Address
    port: int
    ttl: int
    dscp: int = 0
    source: Address | None = None
    source_port: int | None = None
    loop: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One named relay. `place` is where its table stands; it is no part of its identity."""

    name: str
    input: Input
    outputs: tuple[Output, ...]
    enabled: bool = True
    description: str = ""
    place: Place | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Daemon:
    """The daemon's own settings."""

    log_level: str = "info"
    watch: bool = True


@dataclass(frozen=True, slots=True)
class Config:
    """A rule file that passed every check. `warnings` are problems that do not refuse it."""

    daemon: Daemon = field(default_factory=Daemon)
    rules: Mapping[str, Rule] = field(default_factory=lambda: MappingProxyType({}))
    warnings: tuple[str, ...] = field(default=(), compare=False)
