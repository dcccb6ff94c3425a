"""The keys of a rule file: their types, bounds and defaults.

Adding a key here adds it to the reading, the errors and the hints. A key whose default is UNSET
may be absent. `read` in a Meta turns a value into what it means, or raises ValueError; a string or
an array is held against its type before.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from mcrd.config import values
from mcrd.model import DEFAULT_MEMBERS, DEFAULT_RING_SIZE


def _means(read: Callable[[Any], object], expected: str) -> Meta:
    return Meta(extra={"read": read, "expected": expected})


def _lasts(key: str, example: str) -> Meta:
    return _means(partial(values.duration, key), f'a duration, as in "{example}"')


InterfaceName = Annotated[str, _means(values.interface_name, "an interface name")]
InterfaceNames = Annotated[
    list[InterfaceName], Meta(min_length=1, extra={"expected": "an array of interface names"})
]
Destination = Annotated[str, _means(values.destination, 'an IPv4 or IPv6 address, or "broadcast"')]
Receiver = Annotated[
    str, _means(values.receiver, 'an IPv4 or IPv6 address, the name of a host, or "broadcast"')
]
OwnAddresses = Annotated[str | list[str], _means(values.own_addresses, values.OWN_ADDRESSES)]
Source = Annotated[str, _means(values.source, 'the address of a host, or "keep"')]
Sources = Annotated[
    list[Annotated[str, _means(values.sources, "an address or a prefix of hosts")]],
    Meta(extra={"expected": "an array of addresses and prefixes"}),
]
RuleName = Annotated[str, Meta(extra={"read": values.rule_name})]
Ports = Annotated[int | str, _means(values.ports, values.PORTS)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Ttl = Annotated[int, Meta(ge=1, le=255)]
Dscp = Annotated[int, Meta(ge=0, le=63)]
Vlan = Annotated[int, Meta(extra={"read": values.vlan})]
Offset = Annotated[int, Meta(ge=0, le=65_000)]
Width = Annotated[int, Meta(ge=1, le=8)]
Rate = Annotated[int, Meta(ge=1, le=100_000_000)]
Sample = Annotated[int, Meta(ge=1, le=1_000_000)]
Workers = Annotated[int, Meta(ge=1, le=64)]
Cpus = Annotated[
    list[Annotated[int, Meta(ge=0, le=4095)]], Meta(extra={"expected": "an array of CPU numbers"})
]
MemberCount = Annotated[int, Meta(ge=1, le=65_536)]  # slots in the segment of a worker
Size = Annotated[int | str, Meta(extra={"read": values.ring_size})]
Pattern = Annotated[str, Meta(extra={"read": values.pattern})]
Patterns = Annotated[list[Pattern], Meta(extra={"expected": "an array of file names and patterns"})]
Duration = Annotated[str, _lasts("silence", "2s")]
Switches = Annotated[str, _lasts("switch.silence", "200ms")]
Back = Annotated[str, _lasts("back", "5s")]
Delay = Annotated[str, _lasts("merge.delay", "20ms")]
Dedupe = Annotated[str, _lasts("dedupe", "200ms")]
Standby = Annotated[str, _lasts("standby", "500ms")]
Rejoin = Annotated[str, _lasts("rejoin", "30s")]
Replies = Annotated[str, _lasts("replies", "30s")]
IgmpVersion = Annotated[int, Meta(ge=2, le=3)]  # the first has no leave
MldVersion = Annotated[int, Meta(ge=1, le=2)]
Share = Annotated[str, _means(values.share, 'a percentage, as in "0.1%"')]
Listen = Annotated[str, _means(values.listen, 'an address and a port: "127.0.0.1:9464"')]


DiscoveryProtocol = Literal[
    "mdns", "llmnr", "ssdp", "ws-discovery", "coap", "wake-on-lan", "bacnet", "knx", "sacn"
]


class Daemon(Struct):
    """The table [daemon]."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    watch: bool = True
    include: Patterns = field(default_factory=list)
    sandbox: Literal["default", "strict"] = "default"
    loss: Share | UnsetType = UNSET
    engine: Literal["auto", "io_uring", "poll"] = "auto"


class Metrics(Struct):
    """The table [metrics]."""

    listen: Listen | UnsetType = UNSET


class Interface(Struct):
    """The table [interfaces.NAME]."""

    workers: Workers = 1
    cpus: Cpus = field(default_factory=list)
    ring_size: Size = DEFAULT_RING_SIZE
    members: MemberCount = DEFAULT_MEMBERS
    rejoin: Rejoin | UnsetType = UNSET
    igmp_version: IgmpVersion | UnsetType = UNSET
    mld_version: MldVersion | UnsetType = UNSET
    gro: bool = False
    querier: bool = False
    busy_poll: bool = False


class Limit(Struct):
    """The table `limit` of an input or output."""

    packets_per_second: Rate


class Input(Struct):
    """The table `input` of a rule. Without port only where the protocol has none."""

    interface: InterfaceName
    address: Destination
    port: Ports | UnsetType = UNSET
    protocol: Literal["udp", "esp"] = "udp"
    sources: Sources = field(default_factory=list)
    exclude: Sources = field(default_factory=list)
    vlan: Vlan | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET
    dedupe: Dedupe | UnsetType = UNSET


class Output(Struct):
    """One table of `outputs`. Absent: address and port are the input's, ttl depends on them.

    Without `interface`, which a host alone may do, the routes lead to one.
    """

    interface: InterfaceName | UnsetType = UNSET
    address: Receiver | UnsetType = UNSET
    port: Ports | UnsetType = UNSET
    ttl: Ttl | UnsetType = UNSET
    dscp: Dscp = 0
    source: Source | UnsetType = UNSET
    source_port: Port | UnsetType = UNSET
    loop: bool = False
    limit: Limit | UnsetType = UNSET
    replies: Replies | UnsetType = UNSET
    sources: Sources = field(default_factory=list)
    exclude: Sources = field(default_factory=list)
    sample: Sample = 1
    when: Literal["members"] | UnsetType = UNSET


class Number(Struct):
    """The table `inspect` of a rule: a number that each datagram has, and that counts up."""

    offset: Offset
    bytes: Width
    order: Literal["big", "little"] = "big"


class Merge(Struct):
    """The table `merge` of a rule with several inputs."""

    by: Literal["rtp", "sequence", "content"]
    delay: Delay | UnsetType = UNSET


class Switch(Struct):
    """The table `switch` of a rule with several inputs."""

    silence: Switches
    back: Back | UnsetType = UNSET


class Rule(Struct, kw_only=True):
    """The table [rules.NAME]. It has either `input` or `inputs`."""

    input: Input | UnsetType = UNSET
    inputs: Annotated[list[Input], Meta(min_length=1)] | UnsetType = UNSET
    outputs: Annotated[list[Output], Meta(min_length=1)]
    enabled: bool = True
    description: str = ""
    silence: Duration | UnsetType = UNSET
    merge: Merge | UnsetType = UNSET
    switch: Switch | UnsetType = UNSET
    inspect: Literal["rtp", "mpeg-ts", "moldudp64", "auto"] | Number | UnsetType = UNSET
    active_with: OwnAddresses | UnsetType = UNSET
    standby: Standby | UnsetType = UNSET


class Reflect(Struct):
    """The table [reflect.NAME]. Either protocol, or address and port."""

    interfaces: InterfaceNames
    protocol: DiscoveryProtocol | UnsetType = UNSET
    address: Destination | UnsetType = UNSET
    port: Ports | UnsetType = UNSET
    family: Literal["ipv4", "ipv6"] | UnsetType = UNSET
    ask: InterfaceNames | UnsetType = UNSET
    answer: InterfaceNames | UnsetType = UNSET
    one_way: bool = False
    ttl: Ttl | UnsetType = UNSET
    source: Literal["keep"] | UnsetType = UNSET
    replies: Replies | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET
    active_with: OwnAddresses | UnsetType = UNSET
    enabled: bool = True
    description: str = ""


class Included(Struct):
    """A rule file that another one includes."""

    interfaces: dict[InterfaceName, Interface] = field(default_factory=dict)
    rules: dict[RuleName, Rule] = field(default_factory=dict)
    reflect: dict[RuleName, Reflect] = field(default_factory=dict)


class File(Included):
    """A whole rule file."""

    daemon: Daemon = field(default_factory=Daemon)
    metrics: Metrics = field(default_factory=Metrics)


OF_THE_MAIN_FILE = ("daemon", "metrics")
"""Tables that an included file may not have."""
