"""What the supervisor and a worker say to each other.

One SOCK_SEQPACKET datagram is one message, msgpack, of at most LARGEST bytes and DESCRIPTORS
descriptors. Every request has a sequence number, and is answered by Done or Refused with it.
Egress sockets travel ahead of the rule that names them: the rule is what takes effect, whole.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import msgspec

LARGEST = 128 * 1024
"""Bytes of a message: less than what a socket of the default send buffer takes."""

DESCRIPTORS = 253
"""Descriptors that fit one message: SCM_MAX_FD, include/net/scm.h."""


class Endpoint(msgspec.Struct, frozen=True, array_like=True):
    """An address in network order, 4 or 16 bytes, and a UDP port."""

    address: bytes
    port: int


class Request(msgspec.Struct, frozen=True, tag=True):
    """What the supervisor says."""

    sequence: int


class Initialize(Request, frozen=True, tag=True):
    """First of all, with descriptors of the packet socket, an epoll with it, the memory segment.

    The ring's sizes are in bytes. `link` is LINK_ETHERNET or LINK_IP. `sockets` is how many egress
    sockets the worker has to have room for. `uid` and `gid` are what it becomes; None where the
    daemon is not root and it stays what it is.
    """

    supervisor: int
    interface: str
    link: int
    block_size: int
    block_count: int
    frame_size: int
    sockets: int
    uid: int | None
    gid: int | None


class Begin(Request, frozen=True, tag=True):
    """The worker has its rules: it may look at the ring now, and not before.

    What waits there for a worker that replaces another would else match no rule.
    """


class RuleOutput(msgspec.Struct, frozen=True, array_like=True):
    """An egress socket by its place, and the slot in the segment that counts for it."""

    place: int
    counters: int


class AddSockets(Request, frozen=True, tag=True):
    """Connected egress sockets, in the order of the descriptors that come with the message."""

    places: list[int]


class RemoveSockets(Request, frozen=True, tag=True):
    """Places whose sockets no rule uses any more."""

    places: list[int]


class AddRule(Request, frozen=True, tag=True):
    """`slot` is the rule's identity in the worker, and its slot in the segment."""

    slot: int
    destination: Endpoint
    outputs: list[RuleOutput]


class ReplaceRule(Request, frozen=True, tag=True):
    """The rule of that slot, anew: no frame falls between the old form and the new."""

    slot: int
    destination: Endpoint
    outputs: list[RuleOutput]


class RemoveRule(Request, frozen=True, tag=True):
    """The rule of that slot ends."""

    slot: int


class AddOwn(Request, frozen=True, tag=True):
    """Addresses and ports that this daemon sends from: frames from them are not relayed again."""

    sources: list[Endpoint]


class RemoveOwn(Request, frozen=True, tag=True):
    """Addresses and ports that this daemon sends from no more."""

    sources: list[Endpoint]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The answer to Initialize: `layers` names what the worker has given up."""

    sequence: int
    layers: list[str]


class Done(msgspec.Struct, frozen=True, tag=True):
    """The request took effect."""

    sequence: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The request changed nothing."""

    sequence: int
    reason: str


AnyRequest = (
    Initialize
    | Begin
    | AddSockets
    | RemoveSockets
    | AddRule
    | ReplaceRule
    | RemoveRule
    | AddOwn
    | RemoveOwn
)
Answer = Ready | Done | Refused

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(AnyRequest).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
