"""Which of many claims have a packet in common: sets of destinations and of sources.

Plain claims are found by hash. Networks either nest or have nothing in common, so that of two that
overlap, the wider one is found from the narrower one, by a look-up for each size in use.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, summarize_address_range
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar

from mcrd.model import Address, HostName, Network, PortRange

T = TypeVar("T")

Spans = tuple[tuple[int, int], ...]
"""A set of addresses of one family: first and last of each run, sorted, none touching."""

_EVERYTHING: dict[int, Spans] = {4: ((0, 2**32 - 1),), 6: ((0, 2**128 - 1),)}


class Box(NamedTuple):
    """A set of destinations: those from `low` to `high`, ports `first` to `last`.

    `place` is what has to be equal for two to overlap at all, with the family of the addresses.
    """

    place: Hashable
    low: int
    high: int
    first: int
    last: int

    @property
    def is_plain(self) -> bool:
        """One address and one port: two of them overlap only where they are equal."""
        return self.low == self.high and self.first == self.last

    def overlaps(self, other: Box) -> bool:
        return (
            self.place == other.place
            and self.low <= other.high
            and other.low <= self.high
            and self.first <= other.last
            and other.first <= self.last
        )


class Claim(NamedTuple):
    """A set of packets: to where, and from which addresses."""

    box: Box
    spans: Spans


def box(place: Hashable, address: Address | Network, port: int | PortRange) -> Box:
    """The Box of an address or prefix, and of a port or range of ports.

    A host by its name overlaps itself alone: its addresses are not known here.
    """
    if isinstance(address, HostName):
        place = (place, address.name)
    if isinstance(address, Network):
        low, high = int(address.network_address), int(address.broadcast_address)
    else:
        low = high = int(address)
    first, last = (port.first, port.last) if isinstance(port, PortRange) else (port, port)
    return Box((place, address.version), low, high, first, last)


def everything(version: int) -> Spans:
    """All addresses of a family."""
    return _EVERYTHING[version]


def spans(version: int, sources: Sequence[Network], exclude: Sequence[Network]) -> Spans:
    """The addresses in `sources` (none given: all) that are not in `exclude`."""
    if not sources and not exclude:
        return everything(version)
    left: list[tuple[int, int]] = []
    unwanted = _merged(exclude)
    for low, high in _merged(sources) or everything(version):
        start = low
        for first, last in unwanted[bisect_left(unwanted, low, key=lambda run: run[1]) :]:
            if first > high:
                break
            if first > start:
                left.append((start, first - 1))
            start = last + 1
        if start <= high:
            left.append((start, high))
    return tuple(left)


def is_among(address: int, runs: Spans) -> bool:
    """Whether the address is in one of the runs."""
    at = bisect_left(runs, address, key=itemgetter(1))
    return at < len(runs) and runs[at][0] <= address


def common(one: Spans, other: Spans) -> Iterator[tuple[int, int]]:
    """What two sets have in common, run by run."""
    i = j = 0
    while i < len(one) and j < len(other):
        low, high = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if low <= high:
            yield low, high
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1


def first_network(version: int, run: tuple[int, int]) -> Network:
    """The first of the prefixes that make up a run of addresses."""
    low, high = run
    if version == 4:
        return next(summarize_address_range(IPv4Address(low), IPv4Address(high)))
    return next(summarize_address_range(IPv6Address(low), IPv6Address(high)))


class Overlaps(Generic[T]):
    """Claims, each with an owner, and who owns what has a packet in common with another claim."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Hashable, int, int], _Node[T]] = {}
        self._sizes: dict[Hashable, set[int]] = {}
        self._sorted: dict[Hashable, list[tuple[int, int]]] = {}

    def add(self, claim: Claim, owner: T) -> None:
        """Give the owner a claim, less the sources that others have for the same destinations."""
        place, low, high, first, last = claim.box
        size = high - low
        node = self._nodes.get((place, size, low))
        if node is None:
            node = self._nodes[place, size, low] = _Node()
            self._sizes.setdefault(place, set()).add(size)
            insort(self._sorted.setdefault(place, []), (low, size))
        node.cell(first, last).add(claim.spans, owner)

    def around(self, claim: Claim) -> Iterator[T]:
        """Owners in common with a claim who have all of its destination addresses."""
        place, low, high, _, _ = claim.box
        for size in self._sizes.get(place, ()):
            if size >= high - low:
                yield from self._owners((place, size, low & ~size), claim)

    def within(self, claim: Claim) -> Iterator[T]:
        """Owners in common with a claim who have fewer destination addresses than it."""
        place, low, high, _, _ = claim.box
        nodes = self._sorted.get(place, [])
        for start, size in nodes[bisect_left(nodes, (low,)) :]:
            if start > high:
                break
            if size < high - low:
                yield from self._owners((place, size, start), claim)

    def _owners(self, key: tuple[Hashable, int, int], claim: Claim) -> Iterator[T]:
        if node := self._nodes.get(key):
            for cell in node.cells(claim.box.first, claim.box.last):
                yield from cell.owners(claim.spans)


class _Node(Generic[T]):
    """What is claimed of one address or prefix, by ports."""

    __slots__ = ("_cells", "_longest", "_sorted")

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], _Cell[T]] = {}
        self._sorted: list[tuple[int, int]] = []
        self._longest = 0

    def cell(self, first: int, last: int) -> _Cell[T]:
        ports = (first, last)
        if ports not in self._cells:
            self._cells[ports] = _Cell()
            insort(self._sorted, ports)
            self._longest = max(self._longest, last - first)
        return self._cells[ports]

    def cells(self, first: int, last: int) -> Iterator[_Cell[T]]:
        for index in range(bisect_left(self._sorted, (first - self._longest,)), len(self._sorted)):
            ports = self._sorted[index]
            if ports[0] > last:
                break
            if ports[1] >= first:
                yield self._cells[ports]


class _Cell(Generic[T]):
    """Who owns which sources of one set of destinations: runs of addresses, sorted."""

    __slots__ = ("_firsts", "_lasts", "_owners")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._owners: list[T] = []

    def owners(self, sources: Spans) -> Iterator[T]:
        for first, last in sources:
            for index in range(bisect_left(self._lasts, first), len(self._lasts)):
                if self._firsts[index] > last:
                    break
                yield self._owners[index]

    def add(self, sources: Spans, owner: T) -> None:
        for first, last in sources:
            start = first
            index = bisect_left(self._lasts, start)
            while index < len(self._lasts) and self._firsts[index] <= last:
                if start < self._firsts[index]:
                    self._insert(index, start, self._firsts[index] - 1, owner)
                    index += 1
                start = self._lasts[index] + 1
                index += 1
            if start <= last:
                self._insert(index, start, last, owner)

    def _insert(self, index: int, first: int, last: int, owner: T) -> None:
        self._firsts.insert(index, first)
        self._lasts.insert(index, last)
        self._owners.insert(index, owner)


def clashes(claims: Sequence[Claim]) -> list[tuple[int, int]]:
    """For each claim that has a packet in common with an earlier one: both their indices.

    Of several earlier ones the first is told, as far as it does not hide behind another.
    """
    overlaps: Overlaps[int] = Overlaps()
    found: dict[int, int] = {}
    among = list(range(len(claims)))
    if all(claim.box.is_plain for claim in claims):
        times = Counter(claim.box for claim in claims)
        among = [i for i in among if times[claims[i].box] > 1]
    widest_first = sorted(among, key=lambda i: claims[i].box.low - claims[i].box.high)
    for index in widest_first:
        claim = claims[index]
        for other in overlaps.around(claim):
            earlier, later = sorted((index, other))
            found[later] = min(found.get(later, earlier), earlier)
        overlaps.add(claim, index)
    return sorted(found.items())


def _merged(networks: Iterable[Network]) -> list[tuple[int, int]]:
    return runs((int(each.network_address), int(each.broadcast_address)) for each in networks)


def runs(bounds: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What lies between these bounds: first and last of each run, sorted, none touching."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(bounds):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found
