"""The keys of a rule file: their types, bounds and defaults.

Adding a key here adds it to the reading, the errors and the hints. A key whose default is UNSET
may be absent. `read` in a Meta turns a string into what it means, or raises ValueError.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from mcrd.config import values

InterfaceName = Annotated[
    str, Meta(extra={"read": values.interface_name, "expected": "an interface name"})
]
Address = Annotated[
    str, Meta(extra={"read": values.address, "expected": "an IPv4 or IPv6 address"})
]
HostAddress = Annotated[
    str, Meta(extra={"read": values.host_address, "expected": "the address of a host"})
]
RuleName = Annotated[str, Meta(extra={"read": values.rule_name})]
Port = Annotated[int, Meta(ge=1, le=65535)]
Ttl = Annotated[int, Meta(ge=1, le=255)]
Dscp = Annotated[int, Meta(ge=0, le=63)]


class Daemon(Struct):
    """The table [daemon]."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    watch: bool = True


class Input(Struct):
    """The table `input` of a rule."""

    interface: InterfaceName
    address: Address
    port: Port


class Output(Struct):
    """One table of `outputs`. Absent: port is the input's, ttl depends on the address."""

    interface: InterfaceName
    address: Address
    port: Port | UnsetType = UNSET
    ttl: Ttl | UnsetType = UNSET
    dscp: Dscp = 0
    source: HostAddress | UnsetType = UNSET
    source_port: Port | UnsetType = UNSET
    loop: bool = False


class Rule(Struct):
    """The table [rules.NAME]."""

    input: Input
    outputs: Annotated[list[Output], Meta(min_length=1)]
    enabled: bool = True
    description: str = ""


class File(Struct):
    """A whole rule file."""

    daemon: Daemon = field(default_factory=Daemon)
    rules: dict[RuleName, Rule] = field(default_factory=dict)
