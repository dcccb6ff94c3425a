"""What a rule file says, as frozen values. No I/O, no policy."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import Final, Literal, TypeGuard, get_args

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LIMITED_BROADCAST: Final = IPv4Address("255.255.255.255")


class Broadcast(IPv4Address):
    """What a rule file calls "broadcast": whatever is a broadcast address of the interface now.

    As an input these are 255.255.255.255 and those of its networks; an output sends to that of the
    network of its source. It equals no address but itself, and counts as 255.255.255.255.
    """

    __slots__ = ()

    def __init__(self, _any: object = "broadcast") -> None:
        super().__init__(int(LIMITED_BROADCAST))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Broadcast)

    def __hash__(self) -> int:
        return hash("broadcast")

    def __str__(self) -> str:
        return "broadcast"


BROADCAST: Final = Broadcast()


class HostName(IPv4Address):
    """A host by its name in DNS, whose addresses take its place in an output.

    `why` says why none has. It equals no address, and counts as 0.0.0.0.
    """

    __slots__ = ("name", "why")

    def __init__(self, name: str, why: str = "") -> None:
        super().__init__(0)
        self.name, self.why = name, why

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostName) and (self.name, self.why) == (other.name, other.why)

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[type[HostName], tuple[str, str]]:
        return HostName, (self.name, self.why)


Role = Literal["active", "standby"]
"""What this host does for a rule that others have too: it relays, or it is ready to."""


def is_role(role: object) -> TypeGuard[Role]:
    """Whether it is one of the roles."""
    return role in get_args(Role)


MARK: Final = "@"
"""What stands between a rule and its interface, where it has become several rules.

No rule of a file has it in its name.
"""

INPUTS_AT_MOST: Final = 4
"""Inputs of one rule."""

TOGETHER_AT_MOST: Final = 8
"""Interfaces that one worker reads: MCRD_INTERFACES, segment.h."""


RULES_AT_MOST: Final = 16384
"""Rules of one worker, and so of an interface: MCRD_RULE_SLOTS, segment.h."""

OUTPUTS_AT_MOST: Final = 65536
"""Outputs of these rules, with their answers: MCRD_OUTPUT_SLOTS, segment.h."""


def is_pattern(name: str | None) -> TypeGuard[str]:
    """Whether the name of an interface stands for all that match it, as of glob(7)."""
    return name is not None and not _OF_PATTERNS.isdisjoint(name)


_OF_PATTERNS: Final = frozenset("*?[")

DEFAULT_RING_SIZE: Final = 32 * 2**20
DEFAULT_MEMBERS: Final = 8192


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the rule files something stands; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class PortRange:
    """Consecutive ports, both ends included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Input:
    """What a rule takes from the network: what is sent to certain addresses and ports.

    `address` is a Network only where it has more than one address, `port` a PortRange only where
    it has more than one port; for ESP, which has none, it is 0. Frames of VLAN `vlan` count,
    None: untagged ones. Allowed are the `sources` (none given: any) less those in `exclude`.
    `limit` is in packets per second. The same payload again within `dedupe` seconds is dropped;
    None: it is not. `also` are more destination addresses, those of the networks
    of the interface where `address` is BROADCAST; no rule file says them.
    """

    interface: str
    address: Address | Network
    port: int | PortRange
    protocol: Literal["udp", "esp"] = "udp"
    sources: tuple[Network, ...] = ()
    exclude: tuple[Network, ...] = ()
    vlan: int | None = None
    limit: int | None = None
    dedupe: float | None = None
    also: tuple[IPv4Address, ...] = ()

    @property
    def is_range(self) -> bool:
        """Whether it has more than one member, that is, more than one address or port."""
        return isinstance(self.address, Network) or isinstance(self.port, PortRange)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How an output sends, wherever it sends: its sockets get this as the rule file has it.

    `ttl` is the TTL or hop limit. `dscp` is the code point (0 to 63), not the TOS byte.
    `source_port` None: one chosen once. `loop`: programs on this host hear the output too (groups
    only). A new key needs a default here: a supervisor before did not hand it over.
    """

    ttl: int
    dscp: int = 0
    source_port: int | None = None
    loop: bool = False


MANNER = tuple(each.name for each in fields(Manner))


@dataclass(frozen=True, slots=True)
class Output(Manner):
    """Where a rule sends, on one interface; to a host, None: where the routes of this host lead.

    `address` and `port` are a Network and a PortRange where those of the rule's input are, and of
    the same size: member goes to member. `source` None means an address of the interface, "keep"
    the source address and port of each packet. `limit` is in packets per second. `replies` is in
    seconds: so long does what answers a packet go back to who asked; None: never. Of what the rule
    takes it sends one packet in `sample`, of those from `sources` (none given: any) less `exclude`.
    `keeps_answerer`: such answers bear the address and port of who answers, not of this host.
    `when` is "members" where it sends only while some host on the interface is in its group.
    """

    interface: str | None
    address: Address | Network
    port: int | PortRange
    source: Address | Literal["keep"] | None = None
    limit: int | None = None
    replies: float | None = None
    sources: tuple[Network, ...] = ()
    exclude: tuple[Network, ...] = ()
    sample: int = 1
    when: Literal["members"] | None = None
    keeps_answerer: bool = False


@dataclass(frozen=True, slots=True)
class Inspect:
    """What a rule looks for in its payloads, to tell what was lost before they came here.

    The rest is of the format "sequence": a number of `bytes` bytes at `offset`, counted from 0.
    """

    format: Literal["rtp", "mpeg-ts", "moldudp64", "auto", "sequence"]
    offset: int = 0
    bytes: int = 0
    order: Literal["big", "little"] = "big"

    def __str__(self) -> str:
        if self.format != "sequence":
            return self.format
        return f"{self.bytes} bytes at {self.offset}, {self.order} end first"


@dataclass(frozen=True, slots=True)
class Merge:
    """What makes datagrams of several inputs copies, of which the first alone is relayed.

    They leave in the order of their numbers, where what comes after a gap waits for `delay` seconds
    at most; None: as they come.
    """

    by: Literal["rtp", "sequence", "content"]
    delay: float | None = None

    def __str__(self) -> str:
        delay = f", in order, within {1000 * self.delay:g} ms" if self.delay else ""
        return f"by {self.by}{delay}"


@dataclass(frozen=True, slots=True)
class Switch:
    """When another of several inputs is used, of which one is at a time. Times are in seconds.

    Another takes over from one that is silent for `silence`. An earlier one does when it has been
    steady for `back`; None: it does not. `chosen` is the one that somebody wants used, counted from
    1; 0: as they flow. No rule file says it.
    """

    silence: float
    back: float | None = None
    chosen: int = 0

    def __str__(self) -> str:
        back = "never back" if self.back is None else f"back after {self.back:g} s"
        return f"after {self.silence:g} s of silence, {back}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One named relay. `place` is where its table stands; it is no part of its identity.

    `silence` is in seconds: so long without a packet is worth a warning; None: never. `more` are
    inputs besides the first, as the rule file has them. Such a rule becomes one for each of its
    inputs, its legs: `leg` is which of them this one has, counted from 1. `active_with` are
    addresses of which this host has to have one, or else the rule stands by; none: it never does.
    What came in the last `standby` seconds is sent when it takes over; None: nothing. `role` is
    what somebody wants of it, whatever the addresses; no rule file says it.
    """

    name: str
    input: Input
    outputs: tuple[Output, ...]
    enabled: bool = True
    description: str = ""
    silence: float | None = None
    inspect: Inspect | None = None
    more: tuple[Input, ...] = ()
    merge: Merge | None = None
    switch: Switch | None = None
    leg: int = 0
    active_with: tuple[Address, ...] = ()
    standby: float | None = None
    role: Role | None = None
    place: Place | None = field(default=None, compare=False)

    @property
    def stream(self) -> str:
        """What its legs have in common: the name of the rule that they were. Its own, else."""
        return self.name.partition(MARK)[0] if self.leg else self.name


@dataclass(frozen=True, slots=True)
class Interface:
    """How an input interface is read. Worker i runs on CPU `cpus[i % len(cpus)]`, if any is given.

    `ring_size` is in bytes, for each worker. `members` is how many members of ranges and kept
    sources a worker has sockets for. `rejoin` is in seconds: so often are memberships reported
    unasked; None: never. Versions None: those that the kernel chooses. `gro`: the kernel is to
    merge datagrams of a flow before they reach the rings. `busy_poll`: a worker never sleeps.
    `querier`: this host asks who listens there.
    """

    workers: int = 1
    cpus: tuple[int, ...] = ()
    ring_size: int = DEFAULT_RING_SIZE
    members: int = DEFAULT_MEMBERS
    igmp_version: int | None = None
    mld_version: int | None = None
    rejoin: float | None = None
    gro: bool = False
    busy_poll: bool = False
    querier: bool = False


@dataclass(frozen=True, slots=True)
class Daemon:
    """The daemon's own settings. `include` has the patterns as they are written.

    `sandbox` is "strict" where workers without all of its layers are not to run. `loss` is the
    part of all packets whose loss is worth a warning. `engine` is what workers wait and send with:
    "io_uring", "poll", or "auto", the second where the first is not allowed.
    """

    log_level: str = "info"
    watch: bool = True
    include: tuple[str, ...] = ()
    sandbox: str = "default"
    loss: float = 0.001
    engine: str = "auto"


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where Prometheus finds the metrics: "ADDRESS:PORT"; None: nowhere."""

    listen: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """Rule files that passed every check. `warnings` are problems that do not refuse them.

    `files` has the absolute path of every file that was read, the main one first.
    `include_patterns` are those of `Daemon.include` as absolute patterns for glob(3): a file that
    begins or ceases to match one changes what the Config should be.
    """

    daemon: Daemon = field(default_factory=Daemon)
    metrics: Metrics = field(default_factory=Metrics)
    rules: Mapping[str, Rule] = field(default_factory=lambda: MappingProxyType({}))
    warnings: tuple[str, ...] = field(default=(), compare=False)
    interfaces: Mapping[str, Interface] = field(default_factory=lambda: MappingProxyType({}))
    files: tuple[str, ...] = field(default=(), compare=False)
    include_patterns: tuple[str, ...] = field(default=(), compare=False)
