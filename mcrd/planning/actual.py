"""What is open and what failed, as values: a plan leads from there to what the rules need."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from mcrd.model import Address, Network
from mcrd.planning.links import Link, Lookup, Way
from mcrd.planning.relays import Relay, RelayKey
from mcrd.planning.resources import Resource


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something could not be done, and when it is tried again (seconds, monotonic)."""

    reason: str
    retry_at: float
    attempts: int = 1


class Wanted(NamedTuple):
    """Which sources of a group hosts want: these, packed, in the order they came; or any but those
    that are refused.
    """

    any: bool
    sources: tuple[bytes, ...]
    refused: frozenset[bytes] = frozenset()

    def exceeds(self, before: Wanted) -> bool:
        """Whether it has a source that was not wanted before."""
        if self.any and not (before.any and before.refused <= self.refused):
            return True
        more = set(self.sources).difference(before.sources)
        return bool(more & before.refused if before.any else more)

    def takes(self, source: Address | None) -> bool:
        """Whether somebody wants what this source sends; None: some source or other."""
        if source is None:
            return True
        packed = source.packed
        return packed in self.sources or (self.any and packed not in self.refused)


ANY = Wanted(True, ())
Groups = dict[Address, Wanted]
"""Groups that are wanted, and from which sources: what is refused is left out."""


class Listeners(dict[tuple[int, Address], Wanted]):
    """What hosts want, by the index of their interface and the group, in the order it came.

    It does not change once it is made.
    """

    _sorted: dict[tuple[int, int], list[tuple[int, int, Address]]] | None = None

    def within(self, index: int, network: Network) -> list[Address]:
        """The groups of a range that are wanted on an interface, in the order they came."""
        if self._sorted is None:
            self._sorted = {}
            for rank, (where, group) in enumerate(self):
                some = self._sorted.setdefault((where, group.version), [])
                some.append((int(group), rank, group))
            for some in self._sorted.values():
                some.sort()
        known = self._sorted.get((index, network.version), [])
        first = bisect_left(known, (int(network.network_address),))
        last = bisect_left(known, (int(network.broadcast_address) + 1,))
        return [group for _, _, group in sorted(known[first:last], key=itemgetter(1))]


NOBODY = Listeners()
Changed = frozenset[tuple[int, Address]]
"""Groups, by the index of the interface, of which hosts want something else than before."""


@dataclass(frozen=True, slots=True)
class Actual:
    """What there is, at the time `now` (seconds, monotonic).

    `ways` has where the routes lead; of an output to a host that has none there, on an interface of
    its own, it is taken for granted.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    open: frozenset[Resource] = frozenset()
    relays: Mapping[RelayKey, Relay] = field(default_factory=dict)
    failures: Mapping[Resource | RelayKey, Failure] = field(default_factory=dict)
    now: float = 0.0
    ways: Mapping[Lookup, Way] = field(default_factory=dict)
    listeners: Listeners = field(default_factory=Listeners)

    def blocked(self, what: Resource | RelayKey) -> bool:
        """It failed, and its time to be tried again has not come."""
        failure = self.failures.get(what)
        return failure is not None and failure.retry_at > self.now
