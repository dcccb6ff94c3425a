"""What was heard of queriers, members and routers, for each interface. Pure.

It says who wants a group only where the answers come past this host: switches that snoop keep
reports from all but queriers, and answers to older versions go to the group itself.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

from mcrd import looks
from mcrd.model import Address
from mcrd.observe.latest import remember
from mcrd.observe.messages import SOURCES, MalformedError, Query, Record, igmp, mld

Protocol = Literal["igmp", "mld"]
PROTOCOLS: tuple[Protocol, ...] = ("igmp", "mld")
MEMBERS = 512  # hosts in groups, of one interface, of which those heard longest ago are forgotten
OTHERS = 64
ROUTERS = 16
MEMBER_AGE = 260.0  # seconds, RFC 3376, 8.4
ROUTER_AGE = 105.0  # seconds, RFC 7761, 4.11
MARGIN = 1.0  # seconds that answers may be late
QUERIER_AGE = 255.0  # seconds without a query until there is no querier (RFC 3376, 8.5)
Sources = frozenset[bytes] | None
"""Those that a member wants, packed; None: any."""
PIM_HELLO = 0x20  # version 2, type 0


@dataclass(slots=True)
class _Segment:
    """What was heard on one interface in one protocol; times are seconds, monotonic."""

    since: float
    query: tuple[Address, Query, float] | None = None
    # By group and host, and routers by host, all packed: see Record in messages.py.
    members: dict[tuple[bytes, bytes], tuple[Sources, float]] = field(default_factory=dict)
    routers: dict[bytes, float] = field(default_factory=dict)
    forgot: float | None = None  # when members were forgotten last, for lack of room


class Heard:
    """Takes messages, and says what they tell: the memory is bounded, whatever is sent."""

    def __init__(self) -> None:
        self._segments: dict[tuple[int, Protocol], _Segment] = {}
        self._addressed: Mapping[int, bool] = {}
        self._own: frozenset[Address] = frozenset()

    def keep(self, interfaces: Mapping[int, frozenset[Address]], now: float) -> None:
        """Forget all interfaces but these, by index; what is new is listened to from now on.

        With the addresses of this host on each: the kernel lets a host hear its own reports.
        """
        self._own = frozenset().union(*interfaces.values())
        self._addressed = {
            index: any(address.version == 4 for address in own) for index, own in interfaces.items()
        }
        keys = [(index, protocol) for index in interfaces for protocol in PROTOCOLS]
        self._segments = {key: self._segments.get(key) or _Segment(now) for key in keys}

    def take(
        self, index: int, protocol: Protocol, source: Address, body: bytes, now: float
    ) -> None:
        """Take one message that arrived on an interface."""
        segment = self._segments.get((index, protocol))
        if segment is None:
            return
        try:
            message = igmp(body) if protocol == "igmp" else mld(body)
        except MalformedError:
            return
        if protocol == "mld" and not source.is_link_local:
            return  # RFC 3810, 5.1.14 and 5.2.13: the kernel takes no other, either
        if isinstance(message, Query):
            if message.group is None:
                segment.query = (source, message, now)
            return
        # Without an address, this host's own reports come from 0.0.0.0, as those of proxies do.
        if source in self._own or (source.is_unspecified and not self._addressed[index]):
            return
        for record in message or ():
            key = (record.group.packed, source.packed)
            before = segment.members.pop(key, None)
            sources = _sources(record, before[0] if before else frozenset())
            if (sources is None or sources) and remember(
                segment.members, key, (sources, now), MEMBERS
            ):
                segment.forgot = now

    def take_pim(self, index: int, source: Address, body: bytes, now: float) -> None:
        """Take one message of PIM that arrived on an interface (RFC 7761, 4.9)."""
        segment = self._segments.get((index, "igmp" if source.version == 4 else "mld"))
        if segment is None or body[:1] != bytes([PIM_HELLO]):
            return
        remember(segment.routers, source.packed, now, ROUTERS)

    def version(self, index: int, protocol: Protocol, now: float) -> int | None:
        """The version that is queried in on an interface; None when nobody does, or not any more.

        Of an older one, as long as hosts go by it (RFC 3376, 8.12; RFC 3810, 9.12).
        """
        segment = self._segments.get((index, protocol))
        if segment is None or segment.query is None or _gone(segment.query, now):
            return None
        return segment.query[1].version

    def is_unasked(self, index: int, protocol: Protocol, now: float) -> bool:
        """Whether nobody queries on an interface: for as long as one who did would have to."""
        segment = self._segments.get((index, protocol))
        if segment is None or now - segment.since <= QUERIER_AGE:
            return False
        return segment.query is None or _gone(segment.query, now)

    def plain(
        self,
        index: int,
        now: float,
        about: Callable[[Address], bool] = lambda _: True,
        protocols: Iterable[Protocol] = PROTOCOLS,
    ) -> dict[str, looks.Heard]:
        """For IGMP and MLD who queried last, who is a member, who routes.

        Of groups that `about` says no to, only the members heard last are told.
        """
        return {
            protocol: _plain(self._segments[index, protocol], now, about)
            for protocol in protocols
            if (index, protocol) in self._segments
        }


def _sources(record: Record, before: Sources) -> Sources:
    """The sources that a member wants by now; empty when it has left."""
    if record.change == "now" or record.sources is None:
        return record.sources
    if before is None:  # it wants any already; or some that it names no longer, which is rare
        return None
    changed = before | record.sources if record.change == "allow" else before - record.sources
    return changed if len(changed) <= SOURCES else None


def _plain(segment: _Segment, now: float, about: Callable[[Address], bool]) -> looks.Heard:
    query = None
    if segment.query is not None:
        source, asked, at = segment.query
        query = looks.Query(
            address=str(source),
            version=asked.version,
            ago_s=round(now - at, 1),
            answered=now - at > asked.response + MARGIN,
            gone=_gone(segment.query, now),
        )
    members = enumerate(reversed(segment.members.items()))
    return looks.Heard(
        listened_s=round(now - segment.since, 1),
        query=query,
        forgot=segment.forgot is not None and now - segment.forgot < MEMBER_AGE,
        members=[
            looks.Member(
                group=_text(group),
                host=_text(host),
                sources=None if sources is None else sorted(map(_text, sources)),
                ago_s=round(now - at, 1),
            )
            for number, ((group, host), (sources, at)) in members
            if now - at < MEMBER_AGE and (number < OTHERS or about(ip_address(group)))
        ],
        routers=[_text(host) for host, at in segment.routers.items() if now - at < ROUTER_AGE],
    )


def _gone(query: tuple[Address, Query, float], now: float) -> bool:
    """RFC 3376, 8.5: whether who queried does so no more."""
    _, asked, at = query
    return now - at > 2 * asked.interval + asked.response / 2


def _text(packed: bytes) -> str:
    return str(ip_address(packed))
