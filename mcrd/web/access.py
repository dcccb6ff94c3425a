"""Who may see the page: all of this host, who has the token, or whom a proxy names. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

TOKEN_SHORTEST = 16  # characters


class RefusedError(Exception):
    """The request is refused; `status` is that of HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Access:
    """`proxy_header` names who comes, and only `proxies` may send it. Both are None: anybody.

    `names` are those of the page, besides addresses and localhost.
    """

    token: str | None = None
    proxy_header: str | None = None
    proxies: frozenset[str] = field(default_factory=lambda: frozenset(("127.0.0.1", "::1")))
    names: frozenset[str] = frozenset()

    @property
    def is_open(self) -> bool:
        """Whether neither a token nor a proxy stands in between."""
        return self.token is None and self.proxy_header is None

    def check(self, peer: str, headers: Mapping[str, str], given: str | None) -> None:
        """Raise RefusedError unless the request may pass; `given` is the token in its cookie."""
        if self.proxy_header is not None:
            if plain(peer) not in self.proxies:
                raise RefusedError(403, f"{peer} is not the proxy in front of this page")
            if not headers.get(self.proxy_header):
                raise RefusedError(401, f"the proxy does not say who comes ({self.proxy_header})")
        if self.token is not None:
            kind, _, bearer = headers.get("Authorization", "").partition(" ")
            shown = bearer if kind.lower() == "bearer" else given
            if not self.is_token(shown):
                raise RefusedError(401, "open the page by the address with its token")
        # A page elsewhere could have its name resolved to this host, and read what is answered.
        # An address is no such name; without a proxy, none but those of this host is needed.
        elif not self._is_name(host_of(headers.get("Host", "")).lower()):
            raise RefusedError(403, "this page has no such name; mcrd-web's option --name adds one")

    def _is_name(self, host: str) -> bool:
        return host in self.names or (is_local(host) if self.is_open else is_own(host))

    def is_token(self, shown: str | None) -> bool:
        """Whether it is the token; takes as long, whatever it is."""
        known, given = ((each or "").encode(errors="surrogatepass") for each in (self.token, shown))
        return self.token is not None and hmac.compare_digest(given, known)


def plain(peer: str) -> str:
    """An address of IPv4 that comes by IPv6 (RFC 4291, section 2.5.5.2), as what it is."""
    try:
        address = ip_address(peer)
    except ValueError:
        return peer
    return str(getattr(address, "ipv4_mapped", None) or address)


def host_of(header: str) -> str:
    """The name or address in a Host header (RFC 9110, section 7.2)."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def is_own(host: str) -> bool:
    """Whether it is localhost or an address, which nobody can have resolved to another one."""
    try:
        return host == "localhost" or bool(ip_address(host))
    except ValueError:
        return False


def is_local(host: str) -> bool:
    """Whether it is this host, by its name or an address."""
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
