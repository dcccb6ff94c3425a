"""What the supervisor and a worker say to each other.

One SOCK_SEQPACKET datagram is one message, msgpack, of at most LARGEST bytes and DESCRIPTORS
descriptors. Every request has a sequence number, and is answered by Done or Refused with it.
Egress sockets travel ahead of the rule that names them: the rule is what takes effect, whole.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

LARGEST = 128 * 1024
"""Bytes of a message: less than what a socket of the default send buffer takes."""

DESCRIPTORS = 253
"""Descriptors that fit one message: SCM_MAX_FD, include/net/scm.h."""

MEMBERS_AT_ONCE = 64
"""In a Wanted: WANTED_AT_ONCE, rules.h."""

DEBUG = "debug: "
"""How a line on a worker's stderr begins that is worth no more."""

Text = Annotated[str, msgspec.Meta(max_length=1000, pattern=r"^[ -~]*\Z")]
"""What a worker says in words. It may be compromised: a line of the log stays one."""


def printable(text: str) -> str:
    """The text with a question mark for all that Text does not admit."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


Engine = Literal["io_uring", "poll"]
"""What a worker waits and sends with."""

Packed = Annotated[bytes, msgspec.Meta(max_length=16)]


class Endpoint(msgspec.Struct, frozen=True, array_like=True):
    """An address in network order, 4 or 16 bytes, and a UDP port."""

    address: Packed
    port: int


class Request(msgspec.Struct, frozen=True, tag=True):
    """What the supervisor says."""

    sequence: int


class Sizes(msgspec.Struct, frozen=True, array_like=True):
    """Of a packet ring, in bytes."""

    block_size: int
    block_count: int
    frame_size: int


class Rings(msgspec.Struct, frozen=True, array_like=True):
    """The two packet rings of one interface, whose index is `interface`.

    `small` is for frames up to the MTU, `large` for what does not fit the slots of the first.
    `link` is LINK_ETHERNET or LINK_IP. `place` is where the segment has the interface's counters.
    """

    interface: int
    link: int
    small: Sizes
    large: Sizes
    place: int = 0


class Initialize(Request, frozen=True, tag=True):
    """First of all, with descriptors: an epoll that holds the packet sockets, the memory segment,
    and the memory of what was relayed, which all workers of the daemon share; then two packet
    sockets for each of the `rings`, one interface or more.

    `sockets` is how many egress sockets the worker has to have room for. `uid` and `gid` are what
    it becomes; None where the daemon is not root and it stays what it is. `cpu` is where it runs;
    None: anywhere. `strict`: the sandbox is whole, or the worker does not start. `given` are
    namespaces, "ipc" or "uts", that the service has of its own. `busy_poll`: it never sleeps.
    `engine` is "io_uring", "poll", or "auto": the second where the first is not allowed.
    """

    supervisor: int
    rings: list[Rings]
    sockets: int
    uid: int | None
    gid: int | None
    cpu: int | None = None
    strict: bool = False
    given: tuple[str, ...] = ()
    busy_poll: bool = False
    engine: str = "auto"


class Begin(Request, frozen=True, tag=True):
    """The worker has its rules, and may look at the rings: else what waits there would match none.

    What arrived before `since` is another worker's; ns of the real-time clock, 0: no bound. It
    pauses at what arrived from `until` on, or `passes_over` it, which is another worker's then.
    """

    since: int = 0
    until: int = 0
    passes_over: bool = False


class Pause(Request, frozen=True, tag=True):
    """The worker leaves what arrives in its rings until the next Begin, while others change."""


class Ping(Request, frozen=True, tag=True):
    """A request to answer, and no more: a worker that does not answer has hung."""


class SetLevel(Request, frozen=True, tag=True):
    """What the worker writes to stderr: with "debug", a line for each request."""

    level: str


class Network(msgspec.Struct, frozen=True, array_like=True):
    """An address in network order, 4 or 16 bytes, and the length of the prefix in bits."""

    address: bytes
    bits: int


class Inspect(msgspec.Struct, frozen=True, array_like=True):
    """What a rule finds in its payloads: `format` is one of enum inspect_format, segment.h.

    The rest is of INSPECT_SEQUENCE: where the number stands, and of how many bytes it is.
    """

    format: int
    offset: int = 0
    bytes: int = 0
    little: bool = False


class Merge(msgspec.Struct, frozen=True, array_like=True):
    """Which leg of which stream a rule is, from 0, and what makes two datagrams copies.

    `stream` is 64 bits, `by` one of enum merge_by, segment.h. `offset`, `bytes` and `little` are of
    MERGE_SEQUENCE: where the number stands, and of how many bytes it is. `delay` is how long what
    comes after a gap waits, in ns; 0: it does not.
    """

    stream: int
    leg: int
    by: int
    offset: int = 0
    bytes: int = 0
    little: bool = False
    delay: int = 0


class Switch(msgspec.Struct, frozen=True, array_like=True):
    """One leg of several is in use: another takes over when that has been silent for `silence`.

    An earlier one does when it has been steady for `back` (0: never); both in ns. `copies` says
    which leg a rule is, and by what datagrams are told after a switch. `chosen` is the leg that is
    to be in use, from 1; 0: as they flow.
    """

    copies: Merge
    silence: int
    back: int = 0
    chosen: int = 0


class Match(msgspec.Struct, frozen=True):
    """What a rule takes: destinations from `first` on, `bits` of prefix, up to `last_port`.

    `protocol` is 17 (UDP) or 50 (ESP), `vlan` 0 for untagged frames, `limit` in packets per second
    or 0 for none. No sources: any. `dedupe`: the same payload again within so many ms is
    dropped; 0: it is not. `by_source`: its members differ by source too. `also` are
    further destinations; they count as the first one. `interface` is the place of that in the
    segment. `standby`: nothing is sent, since another host does; what came in the last so many ns,
    `backlog`, is sent when that ends. `overhears` is the place of the socket where the other host
    is heard; None: nowhere.
    """

    first: Endpoint
    bits: int
    last_port: int
    protocol: int = 17
    vlan: int = 0
    limit: int = 0
    by_source: bool = False
    dedupe: int = 0
    sources: list[Network] = []
    exclude: list[Network] = []
    also: list[Packed] = []
    inspect: Inspect | None = None
    interface: int = 0
    merge: Merge | None = None
    switches: Switch | None = None
    standby: bool = False
    backlog: int = 0
    overhears: int | None = None


NOWHERE = -1
"""The place of an output without a way to its host: what it should send is counted."""
UNWANTED = -2
"""The place of an output of a member whose group nobody has joined: likewise."""


class SourceRun(msgspec.Struct, frozen=True, array_like=True):
    """Sources from one address to another, both in network order, 4 or 16 bytes."""

    first: bytes
    last: bytes


class RuleOutput(msgspec.Struct, frozen=True, array_like=True):
    """An egress socket by its place (None: each member has its own); slot for counters; limit.

    It sends one datagram in `sample`, 0 or 1: each, of those from `sources`, which are sorted and
    apart from each other; none: from any.
    """

    place: int | None
    counters: int
    limit: int = 0
    sample: int = 0
    sources: list[SourceRun] = []


class MemberKey(msgspec.Struct, frozen=True, array_like=True):
    """A destination that the rule of a slot takes, with the source where the rule goes by that."""

    slot: int
    destination: Endpoint
    source: Endpoint | None


class AddSockets(Request, frozen=True, tag=True):
    """Connected egress sockets, in the order of the descriptors that come with the message."""

    places: list[int]


class RemoveSockets(Request, frozen=True, tag=True):
    """Places whose sockets no rule uses any more."""

    places: list[int]


class AddRule(Request, frozen=True, tag=True):
    """`slot` is the rule's identity in the worker, and its slot in the segment."""

    slot: int
    match: Match
    outputs: list[RuleOutput]


class ReplaceRule(Request, frozen=True, tag=True):
    """A new form of the rule of that slot: no frame falls between the old form and the new.

    `kept`: its members stay. For each output that goes by member, which of the old ones it was,
    counting those alone; None: it is new, and so are its sockets. Empty: no member stays.
    """

    slot: int
    match: Match
    outputs: list[RuleOutput]
    kept: list[int | None] = []


class RemoveRule(Request, frozen=True, tag=True):
    """The rule of that slot ends."""

    slot: int


class AddMember(Request, frozen=True, tag=True):
    """Sockets of a member, one for each output that goes by member; None: it could not be had.

    UNWANTED: nobody has joined what the output would send to.

    `last_used` is the slot in the segment where the worker notes when it used the member last.
    """

    member: MemberKey
    last_used: int
    places: list[int | None]


class RemoveMember(Request, frozen=True, tag=True):
    """The member has no sockets, or no more; it is asked for again with its next packet."""

    member: MemberKey


class Listen(Request, frozen=True, tag=True):
    """What comes to the socket at `place` goes to the one at `to`, connected to who asked by it.

    `counters` is the slot of the answers, `last_used` that of the member that asks, both in the
    segment. An answer that comes more than `within` milliseconds after the last question is late.
    It ends with the socket (RemoveSockets). `keeps`: an answer goes by the socket of who sends it.
    """

    place: int
    to: int
    counters: int
    last_used: int
    within: int
    keeps: bool = False


class Answerer(Request, frozen=True, tag=True):
    """What `who` sends to the socket at `place` goes by the one at `to`; NOWHERE: it is counted.

    The answer to Unknown. None: nothing was there.
    """

    place: int
    who: Endpoint | None
    to: int


class AddOwn(Request, frozen=True, tag=True):
    """Addresses and ports that this daemon sends from: frames from them are not relayed again."""

    sources: list[Endpoint]


class RemoveOwn(Request, frozen=True, tag=True):
    """Addresses and ports that this daemon sends from no more."""

    sources: list[Endpoint]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The answer to Initialize: the layers of the sandbox that hold, and why others do not.

    `engine` is the one it has, and `refused` why that is not io_uring, where it was to be had.
    """

    sequence: int
    held: Annotated[list[Text], msgspec.Meta(max_length=100)]
    missing: Annotated[dict[Text, Text], msgspec.Meta(max_length=100)]
    engine: Engine = "io_uring"
    refused: Text = ""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The request took effect."""

    sequence: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The request changed nothing."""

    sequence: int
    reason: Text


class Wanted(msgspec.Struct, frozen=True, tag=True):
    """A request of the worker, not an answer: packets of these members arrived."""

    members: Annotated[list[MemberKey], msgspec.Meta(min_length=1, max_length=MEMBERS_AT_ONCE)]


class Unknown(msgspec.Struct, frozen=True, tag=True):
    """A request of the worker: the first answers at these places are from somebody new."""

    places: Annotated[list[int], msgspec.Meta(min_length=1, max_length=MEMBERS_AT_ONCE)]


AnyRequest = (
    Initialize
    | Begin
    | Pause
    | Ping
    | SetLevel
    | AddSockets
    | RemoveSockets
    | AddRule
    | ReplaceRule
    | RemoveRule
    | AddMember
    | RemoveMember
    | Listen
    | Answerer
    | AddOwn
    | RemoveOwn
)
Answer = Ready | Done | Refused | Wanted | Unknown

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(AnyRequest).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
