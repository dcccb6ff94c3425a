"""What came back for packets that this host sent: errors of ICMP, by what they are about. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mcrd import looks
from mcrd.model import Address
from mcrd.observe.latest import remember
from mcrd.observe.messages import Error, MalformedError, icmp

KINDS = 256  # of which those heard longest ago are forgotten
AGE = 600.0  # seconds: some routers send only the first few


@dataclass(slots=True)
class _Heard:
    host: Address
    error: Error
    count: int = 0
    at: float = 0.0


class Returned:
    """Takes messages, and says what they tell: the memory is bounded, whatever is sent."""

    def __init__(self) -> None:
        # By all that tells them apart, with packed addresses: see Record in messages.py.
        self._errors: dict[tuple[bytes | int | str, ...], _Heard] = {}

    def take(self, host: Address, body: bytes, now: float) -> None:
        """Take one message of ICMP that `host` sent; `now` in seconds, monotonic."""
        try:
            error = icmp(body, host.version)
        except MalformedError:
            return
        if error is None:
            return
        ends = host.packed, error.source.packed, error.destination.packed
        key = (*ends, error.kind, error.code, error.port, error.protocol)
        heard = self._errors.get(key) or _Heard(host, error)
        heard.count += 1
        heard.at = now
        remember(self._errors, key, heard, KINDS)

    def plain(self, about: Callable[[Address, int], bool], now: float) -> list[looks.Returned]:
        """The last one first: those about destinations that `about` says yes to."""
        return [
            looks.Returned(
                host=str(heard.host),
                type=heard.error.kind,
                code=heard.error.code,
                protocol=heard.error.protocol,
                source=str(heard.error.source),
                destination=str(heard.error.destination),
                port=heard.error.port,
                count=heard.count,
                ago_s=round(now - heard.at, 1),
            )
            for heard in reversed(self._errors.values())
            if now - heard.at < AGE and about(heard.error.destination, heard.error.port)
        ]
