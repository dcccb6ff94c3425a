"""What a plan opens and closes, as values: two that are equal are the same thing.

An interface is named with its index, so that one that was deleted and made again is another.
They are looked up by the thousand: their hashes are of few fields, which tell almost all apart.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

from mcrd.addresses import Target, endpoint, first_address, first_port
from mcrd.model import (
    BROADCAST,
    DEFAULT_RING_SIZE,
    LIMITED_BROADCAST,
    Address,
    Manner,
    Network,
    PortRange,
)
from mcrd.planning.links import Protocol


@dataclass(frozen=True, slots=True)
class OnInterface:
    """What is on an interface, by its name and index."""

    interface: str
    index: int


@dataclass(frozen=True, slots=True)
class Ingress(OnInterface):
    """The packet sockets of an input interface: for each worker two, with their rings.

    `lane` is what those are called by that have one worker together; "": it has its own. `gro`:
    many frames stand for several datagrams, and the second ring has room for them.
    """

    workers: int = 1
    ring_size: int = DEFAULT_RING_SIZE
    lane: str = ""
    gro: bool = False

    def __hash__(self) -> int:
        return hash((self.index, self.workers))

    @property
    def home(self) -> Ingress:
        """What its workers are called by: itself, or what stands for all of its lane.

        That stays the same whichever of the interfaces are there.
        """
        return Ingress(self.lane, 0, lane=self.lane) if self.lane else self

    def __str__(self) -> str:
        return f"ingress on {self.interface}"


@dataclass(frozen=True, slots=True)
class Worker:
    """The process that reads one of the rings of an ingress; `cpu` None: on any CPU.

    `ingress` is the home of all that it reads. `strict`: with every layer of the sandbox or not at
    all. `busy_poll`: it never sleeps. `engine` is as the rule file has it.
    """

    ingress: Ingress
    number: int = 0
    cpu: int | None = None
    strict: bool = False
    busy_poll: bool = False
    engine: str = "auto"

    def __hash__(self) -> int:
        return hash((self.ingress.index, self.number))

    @property
    def ring(self) -> Ring:
        """The ring pair that its lane is called by: its only one, unless it reads several."""
        return Ring(self.ingress, self.number)

    def __str__(self) -> str:
        which = f" {self.number}" if self.ingress.workers > 1 else ""
        shared = "shared " if self.ingress.lane else ""
        return f"{shared}worker{which} of {self.ingress.interface}"


@dataclass(frozen=True, slots=True)
class Ring:
    """One of the ring pairs of an ingress; workers come and go on it."""

    ingress: Ingress
    number: int = 0

    @property
    def interface(self) -> str:
        """The interface that it is of."""
        return self.ingress.interface


@dataclass(frozen=True, slots=True)
class Membership(OnInterface):
    """A group that the host has joined on an interface, from any source or from one (SSM)."""

    group: Address
    source: Address | None = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        chosen = (self.index, int(self.group), self.source and int(self.source))
        object.__setattr__(self, "_hash", hash(chosen))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        only = f" from {self.source}" if self.source is not None else ""
        return f"membership of {self.group}{only} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Reception(OnInterface):
    """The interface's own filter lets a group in, or all of them (None). No switch hears of it."""

    group: Address | None

    def __hash__(self) -> int:
        return hash((self.index, self.group))

    def __str__(self) -> str:
        return f"reception of {self.group or 'all groups'} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Rejoin(OnInterface):
    """Reports of all memberships on an interface that are sent every so many seconds, unasked.

    `mld` is the version of MLD that the rule file has for it.
    """

    every: float
    mld: int | None = None

    def __str__(self) -> str:
        return f"rejoin on {self.interface}"


@dataclass(frozen=True, slots=True)
class GroupProtocol(OnInterface):
    """A version of IGMP (`version` 4) or MLD (6) that the kernel is to speak on an interface."""

    version: int
    spoken: int

    def __str__(self) -> str:
        name = "IGMP" if self.version == 4 else "MLD"
        return f"{name}v{self.spoken} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Querying(OnInterface):
    """Who listens on an interface, heard in IGMP (`version` 4) or MLD (6), and asked for.

    `asks`: it takes part in the election of the querier. `spoken` is the version of the protocol
    that it asks in; None: the latest.
    """

    version: int
    asks: bool
    spoken: int | None = None

    def __str__(self) -> str:
        return f"{'IGMP' if self.version == 4 else 'MLD'} querier on {self.interface}"


@dataclass(frozen=True, slots=True)
class Hold(OnInterface):
    """A unicast input, held so that the kernel does not answer "port unreachable" for it."""

    address: Address
    port: int
    protocol: Protocol = "udp"

    def __hash__(self) -> int:
        return hash((self.index, self.port, int(self.address)))

    def __str__(self) -> str:
        return f"hold of {endpoint(self.address, self.port)} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Replies:
    """What answers a relayed packet within so many seconds goes back to who asked.

    Askers are on this interface, and get the answers from one of these addresses of it, and from
    this port; None: from one that the kernel chooses. `keeps`: from the address and port of who
    answers.
    """

    seconds: float
    interface: str
    index: int
    sources: tuple[IPv4Interface | IPv6Interface, ...]
    port: int | None = None
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Sending(Manner):
    """How an output sends here and now: what all its sockets have in common, whoever the worker.

    `source` None: the address and port of each packet are kept. `routed`: the sockets are not bound
    to the interface, which is where the routes lead now. `replies`: each asker has its own port,
    but who sends from `source_port` is none. `floating`: the source comes and goes with the role
    of this host, and the sockets are there before it is.
    """

    interface: str
    index: int
    source: Address | None
    protocol: Protocol = "udp"
    routed: bool = False
    replies: Replies | None = None
    floating: bool = False


ELSEWHERE = IPv4Address("0.0.0.0")  # nobody listens there
"""The destination of a member that stands for all that its rule takes besides its first address."""


@dataclass(frozen=True, slots=True)
class Sender:
    """What an output with a way is in one worker, whether or not it has a socket of its own."""

    worker: Worker
    rule: str
    sending: Sending

    @property
    def interface(self) -> str:
        """Where it leaves now."""
        return self.sending.interface


@dataclass(frozen=True, slots=True)
class Egress(Sender):
    """A connected socket: one output of one rule, for one worker; or a member of such an output.

    `transparent`: source and port are those of somebody else's packets. `of` is what the output is
    called by where that is something else: with members, by another name of the interface, or
    without one. `heard` is whose packets a member stands for where members differ by that.
    `beside`: it stands for those that were sent to another address than the first of its rule.
    `hears`: it is not connected, and receives what is sent to the port of an asker.
    """

    address: Address
    port: int
    transparent: bool = False
    of: Target | None = None
    heard: tuple[Address, int] | None = None
    beside: bool = False
    hears: bool = False
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # All that tells the members of one output apart.
        # Packed: of numbers that somebody else may choose, the hashes can be made equal.
        heard = self.heard and (self.heard[0].packed, self.heard[1])
        index, source_port = self.sending.index, self.sending.source_port
        where = (index, self.port, self.address.packed, self.source.packed, source_port)
        chosen = (self.rule, self.worker.number, heard, where)
        object.__setattr__(self, "_hash", hash(chosen))

    def __hash__(self) -> int:
        return self._hash

    @property
    def source(self) -> Address:
        """The address that it sends from."""
        if self.sending.source is None:
            raise TypeError("an egress without a source")
        return self.sending.source

    @property
    def target(self) -> Target:
        """What the output is called by within its rule."""
        return self.of or ("" if self.sending.routed else self.interface, self.address, self.port)

    def __str__(self) -> str:
        return f"output to {endpoint(self.address, self.port)} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Members(Sender):
    """An output whose sockets are made when a member is first seen: of a range, or by source.

    `target` is what the output is called by within its rule. Member goes to member: `input_address`
    and `input_port` are where the rule's own range begins. `when`: a member sends only while some
    host has joined its group, and wants its source.
    """

    address: Address | Network
    port: int | PortRange
    target: Target
    input_address: Address
    input_port: int
    when: bool = False
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        where = (self.sending.index, int(first_address(self.address)), first_port(self.port))
        object.__setattr__(self, "_hash", hash((self.rule, self.worker.number, where)))

    def __hash__(self) -> int:
        return self._hash

    def member(
        self, destination: Address, port: int, source: Address | None, source_port: int | None
    ) -> Egress:
        """The socket for packets from `source` to `destination`.

        What is sent to 255.255.255.255 stays so in an output to "broadcast": where it comes back,
        it is then known. All other destinations of such an input are 0.0.0.0.
        """
        address, kept = first_address(self.address), self.sending.source is None
        if self.target[1] == BROADCAST and destination == LIMITED_BROADCAST:
            address = LIMITED_BROADCAST
        if not isinstance(self.address, Address):
            address += int(destination) - int(self.input_address)
        sending = self.sending
        if kept:
            sending = replace(sending, source=source, source_port=source_port)
        elif sending.replies is not None and sending.source_port is not None:
            if source_port == sending.source_port:
                sending = replace(sending, replies=None)
            else:
                sending = replace(sending, source_port=None)
        offset = port - self.input_port if isinstance(self.port, PortRange) else 0
        return Egress(
            *(self.worker, self.rule, sending, address, first_port(self.port) + offset),
            transparent=kept,
            of=self.target,
            heard=None if source is None or source_port is None else (source, source_port),
            beside=destination == ELSEWHERE,
        )

    def __str__(self) -> str:
        return f"output to {endpoint(self.address, self.port)} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Nowhere:
    """An output to a host that no way leads to now, and why: its packets are counted, not sent."""

    worker: Worker
    rule: str
    target: Target
    reason: str

    @property
    def interface(self) -> str:
        """As in the file; "" where it follows the routes."""
        return self.target[0]

    def __str__(self) -> str:
        return f"no output to {endpoint(*self.target[1:])}"


Outlet = Egress | Members | Nowhere
"""What an output of a rule is in one worker."""

Resource = (
    Ingress | Worker | Membership | Reception | Hold | Outlet | Rejoin | GroupProtocol | Querying
)
