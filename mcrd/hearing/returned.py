"""What came back for packets that this host sent: errors of ICMP, by what they are about. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mcrd.hearing.latest import remember
from mcrd.hearing.messages import Error, MalformedError, icmp
from mcrd.model import Address

KINDS = 256  # of which those heard longest ago are forgotten
AGE = 600.0  # seconds: some routers send only the first few


class _Key(NamedTuple):
    host: Address
    error: Error


class Returned:
    """Takes messages, and says what they tell: the memory is bounded, whatever is sent."""

    def __init__(self) -> None:
        self._errors: dict[_Key, tuple[int, float]] = {}

    def take(self, host: Address, body: bytes, now: float) -> None:
        """One message of ICMP that `host` sent; `now` in seconds, monotonic."""
        try:
            error = icmp(body, host.version)
        except MalformedError:
            return
        if error is None:
            return
        key = _Key(host, error)
        count, _ = self._errors.get(key, (0, now))
        remember(self._errors, key, (count + 1, now), KINDS)

    def plain(self, about: Callable[[Address, int], bool], now: float) -> list[dict[str, Any]]:
        """As JSON, the last one first: those about destinations that `about` says yes to."""
        return [
            {
                "host": str(host),
                "type": error.kind,
                "code": error.code,
                "protocol": error.protocol,
                "source": str(error.source),
                "destination": str(error.destination),
                "port": error.port,
                "count": count,
                "ago_s": round(now - at, 1),
            }
            for (host, error), (count, at) in reversed(self._errors.items())
            if now - at < AGE and about(error.destination, error.port)
        ]
