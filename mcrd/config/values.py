"""Strings that mean something: interface names, addresses, rule names.

Each function returns what the string means, or raises ValueError with the words for the user.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Final

from mcrd.config.problems import quoted

if TYPE_CHECKING:
    from mcrd.model import Address

_LONGEST_INTERFACE_NAME: Final = 15  # IFNAMSIZ less the final NUL
# What dev_valid_name() of the kernel refuses. It looks at bytes, and its isspace() holds 0xA0
# for a space, also in the middle of a UTF-8 character.
_NOT_IN_INTERFACE_NAME: Final = frozenset(b"/: \t\n\v\f\r\xa0\0")
_RULE_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def interface_name(text: str) -> str:
    """An interface name as Linux allows it."""
    name = text.encode()
    if (
        not 1 <= len(name) <= _LONGEST_INTERFACE_NAME
        or not _NOT_IN_INTERFACE_NAME.isdisjoint(name)
        or text in (".", "..")
    ):
        raise ValueError(
            'expected an interface name (1 to 15 bytes; no "/", ":" or white space; '
            f'not "." or ".."), got {quoted(text)}'
        )
    return text


def rule_name(text: str) -> str:
    """A name for a rule: short, and safe to print and to type anywhere."""
    if not _RULE_NAME.fullmatch(text):
        raise ValueError(
            'a rule name is 1 to 64 of the letters A to Z and a to z, digits, ".", "_", "-" and ":"'
        )
    return text


def address(text: str) -> Address:
    """The address of a group or of one host."""
    bare, zone, _ = text.partition("%")
    try:
        found = ip_address(bare)
    except ValueError:
        raise ValueError(f"expected an IPv4 or IPv6 address, got {quoted(text)}") from None
    if zone:
        raise ValueError(
            f'expected an address without "%", got {quoted(text)}; '
            "the key interface says which interface"
        )
    if found.is_unspecified:
        raise ValueError(f"expected the address of a group or a host, got {quoted(text)}")
    if isinstance(found, IPv4Address):
        if found == IPv4Address(0xFFFFFFFF):
            raise ValueError(
                f"expected the address of a group or a host, got the broadcast address {found}"
            )
    elif found.ipv4_mapped:
        raise ValueError(
            f'expected an IPv4 or IPv6 address, got {quoted(text)}; write "{found.ipv4_mapped}"'
        )
    return found


def host_address(text: str) -> Address:
    """The address of one host."""
    found = address(text)
    if found.is_multicast:
        raise ValueError(f"expected the address of a host, got the group {found}")
    return found
