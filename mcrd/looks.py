"""The answer to `look`: what arrives for a rule and is heard around it, as mcrctl(1) explains."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from msgspec import Struct, field

from mcrd.answers import Answer


class Kind(Struct):
    """Frames that have all in common that stands before `count`, and how many there were.

    `fragment` is "", "first" or "later": what is behind the first has no ports. `detail` says what
    a message of IGMP, MLD or ICMP is about. `other_host`: it was for another hardware address.
    `outgoing`: this host sent it. `inner_vlan`: of a second tag. `largest` is a size of IP packets.
    `rule` is another rule that they are for, and `back` says that it relays the other way.
    """

    vlan: int | None = None
    source: str = ""
    destination: str = ""
    protocol: str = ""
    port: int | None = None
    fragment: str = ""
    wrong_checksum: bool = False
    detail: str = ""
    other_host: bool = False
    outgoing: bool = False
    inner_vlan: int | None = None
    count: int = 0
    largest: int = 0
    ttl_lowest: int = 0
    ttl_highest: int = 0
    rule: str | None = None
    back: bool = False


class Query(Struct):
    """The last general query of IGMP or MLD; `gone`: the next ones did not come."""

    address: str = ""
    version: int = 0
    ago_s: float = 0.0
    answered: bool = False
    gone: bool = False


class Member(Struct):
    """A host that has asked for a group; `sources` None: from any.

    `rule` is one that sends to the group.
    """

    group: str = ""
    host: str = ""
    sources: list[str] | None = None
    ago_s: float = 0.0
    rule: str | None = None


class Heard(Struct):
    """What was heard of IGMP or MLD on an interface."""

    listened_s: float = 0.0
    query: Query | None = None
    forgot: bool = False
    members: list[Member] = []
    routers: list[str] = []


class Returned(Struct):
    """An error of ICMP about what this host sent."""

    host: str = ""
    type: int = 0
    code: int = 0
    protocol: str = ""
    source: str = ""
    destination: str = ""
    port: int = 0
    count: int = 0
    ago_s: float = 0.0


class Look(Answer):
    """What arrived at the input interface of a rule, and what was heard around it.

    `heard` is by interface, then by "igmp" and "mld".
    """

    command = "look"
    interface: str = ""
    seconds: float = 0.0
    ended: str = "time"
    lost: int = 0
    frames: int = 0
    malformed: int = 0
    not_ip: int = 0
    of_more_kinds: int = 0
    kinds: list[Kind] = field(default_factory=list)
    heard: dict[str, dict[str, Heard]] = field(default_factory=dict)
    returned: list[Returned] = field(default_factory=list)
