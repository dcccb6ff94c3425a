"""The groups that outputs are interested in, single ones and ranges. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mcrd.model import Address

RESERVED_AT_MOST = 1024
"""Groups of a range: there is always room for who joins one of a smaller range."""


class Interests:
    """Whether a group is among them: one look for each length of prefix."""

    def __init__(self, wanted: Iterable[object] = (), largest: int | None = None) -> None:
        """Without ranges of more groups than `largest`."""
        self._single: set[Address] = set()
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        for each in wanted:
            if isinstance(each, IPv4Address | IPv6Address):
                self._single.add(each)
            elif isinstance(each, IPv4Network | IPv6Network) and (
                largest is None or each.num_addresses <= largest
            ):
                bits = each.max_prefixlen - each.prefixlen
                some = self._prefixes.setdefault((each.version, bits), set())
                some.add(int(each.network_address) >> bits)

    def __contains__(self, group: object) -> bool:
        if not isinstance(group, IPv4Address | IPv6Address):
            return False
        return group in self._single or any(
            version == group.version and int(group) >> bits in some
            for (version, bits), some in self._prefixes.items()
        )
