"""Values that mean something: interface names, addresses, ports, sizes, rule names.

Each function returns what the value means, or raises ValueError with the words for the user.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, Literal

from mcrd.config.problems import described, quoted
from mcrd.model import BROADCAST, LIMITED_BROADCAST, Address, HostName, Network, PortRange

OWN_ADDRESSES: Final = "the address of a host, or an array of 1 to 16 of them"
_OWN_AT_MOST: Final = 16
_OF_OWN: Final = ("the address of a host", "active_with", None)
PORTS: Final = 'an integer from 1 to 65535 or a range such as "5000-5099"'

LONGEST_INTERFACE_NAME: Final = 15  # IFNAMSIZ less the final NUL
LONGEST_ALTERNATIVE_NAME: Final = 127  # ALTIFNAMSIZ less the final NUL
# What dev_valid_name() of the kernel refuses. It looks at bytes, and its isspace() holds 0xA0
# for a space, also in the middle of a UTF-8 character.
_NOT_IN_INTERFACE_NAME: Final = frozenset(b"/: \t\n\v\f\r\xa0\0")
_PREFIX_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,2}")
_PORT_RANGE: Final = re.compile(r"([1-9][0-9]{0,4})-([1-9][0-9]{0,4})")
_HIGHEST_PORT: Final = 65535
_HIGHEST_VLAN: Final = 4094
_SIZE: Final = re.compile(r"([0-9]{1,20}) ?([KMG]i?B|B)")
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(ms|s|min|h)")
_SECONDS: Final = {"ms": 0.001, "s": 1, "min": 60, "h": 3600}
_SHARE: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?) ?%")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_UNITS: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_SMALLEST_RING: Final = 2**20
_LARGEST_RING: Final = 4 * 2**30
_GROUPS: Final[dict[int, Network]] = {4: IPv4Network("224.0.0.0/4"), 6: IPv6Network("ff00::/8")}
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_END: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.%/\w]+)\](?P<length>/[0-9]+)?"
    r"|(?P<v4>[0-9.]+(?:/[0-9]+)?|[0-9A-Fa-f:]+/[0-9]+))"
    r"(?::(?P<port>[0-9]+(?:-[0-9]+)?))?"
)
_NAME: Final = re.compile(
    r"(?=.*[A-Za-z])(?!(?:[0-9]+\.)+\w*$)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::[0-9]+)?|localhost"
)
_LABEL: Final = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# With a dot, as "Broadcast" and "eth0" are mistakes; and so are numbers alone but for the end.
_HOST_NAME: Final = re.compile(
    rf"(?=.{{1,253}}$)(?!(?:[0-9]+\.)+[A-Za-z0-9]*$){_LABEL}(?:\.{_LABEL})*(?:\.{_LABEL}|\.)"
)
_WITHOUT_ZONE: Final = "; the key interface says which interface"
_RULE_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def interface_name(text: str) -> str:
    """An interface name as Linux allows it, or an alternative one, which may be longer."""
    name = text.encode()
    fits = 1 <= len(name) <= LONGEST_ALTERNATIVE_NAME and text not in (".", "..")
    if not fits or not _NOT_IN_INTERFACE_NAME.isdisjoint(name):
        what = '1 to 127 bytes; no "/", ":" or white space; not "." or ".."'
        raise _unfit(f"an interface name ({what})", text)
    return text


def rule_name(text: str) -> str:
    """A name for a rule: short, and safe to print and to type anywhere."""
    if not _RULE_NAME.fullmatch(text):
        raise ValueError(
            'a rule name is 1 to 64 of the letters A to Z and a to z, digits, ".", "_", "-" and ":"'
        )
    return text


def address(
    text: str,
    expected: str = "an IPv4 or IPv6 address",
    key: str = "address",
    port: str | None = "port",
) -> Address:
    """The address of a group or of one host. `expected` and the rest are for what is none."""
    bare, zone, _ = text.partition("%")
    try:
        found = ip_address(bare)
    except ValueError:
        raise _unfit(expected, text, _instead(text, key, port)) from None
    if zone:
        raise _unfit('an address without "%"', text, _WITHOUT_ZONE)
    if found.is_unspecified:
        raise _unfit("the address of a group or a host", text)
    if found == LIMITED_BROADCAST:
        raise ValueError(
            f"expected the address of a group or a host, got the broadcast address {found}"
        )
    if isinstance(found, IPv6Address) and found.ipv4_mapped:
        raise _unfit("an IPv4 or IPv6 address", text, f'; write "{found.ipv4_mapped}"')
    return found


def destination(text: str) -> Address | Network:
    """An address, or a prefix with more than one address, all of groups or all of hosts."""
    if text == str(BROADCAST):
        return BROADCAST
    if text == str(LIMITED_BROADCAST):
        return LIMITED_BROADCAST
    if "/" not in text:
        return address(text)
    found = _prefix(text)
    if found.num_addresses == 1:
        return destination(str(found.network_address))
    if not found.is_multicast and found.overlaps(_GROUPS[found.version]):
        raise _unfit("a prefix of groups or one of hosts", text, ", which has both")
    for unfit in (found.network_address, found.broadcast_address):
        if unfit.is_unspecified or unfit == LIMITED_BROADCAST:
            raise _unfit("a prefix of groups or of hosts", text, f", which has {unfit} in it")
    return found


def receiver(text: str) -> Address | Network:
    """As destination(), or a host by its name (RFC 1123, 2.1; names of services have "_")."""
    name, _, port = text.partition(":")
    if not _HOST_NAME.fullmatch(name):
        return destination(text)
    if port:
        more = f'; the port is a key of its own: write address = "{name}" and port = {port}'
        raise _unfit("the name of a host", text, more if port.isdecimal() else "")
    return HostName(name.lower())


def sources(text: str) -> Network:
    """The addresses of some hosts."""
    words = ("an address or a prefix of hosts", "address", None)
    found = _prefix(text, None) if "/" in text else ip_network(host_address(text, *words))
    if found.num_addresses == 1:
        host_address(str(found.network_address))
    if found.is_multicast:
        raise _unfit("a prefix of hosts", text, ", which has groups only")
    return found


def source(text: str) -> Address | Literal["keep"]:
    """What to send from."""
    if text == "keep":
        return "keep"
    return host_address(text, 'the address of a host, or "keep"', "source", "source_port")


def host_address(text: str, *words: Any) -> Address:
    """The address of one host; the words are for address()."""
    found = address(text, *words)
    if found.is_multicast:
        raise ValueError(f"expected the address of a host, got the group {found}")
    return found


def own_addresses(value: object) -> tuple[Address, ...]:
    """Addresses that this host may have, one or several."""
    listed = value if isinstance(value, list) else [value]
    texts = [each for each in listed if isinstance(each, str)]
    if not texts or len(listed) > _OWN_AT_MOST or len(texts) < len(listed):
        raise _unfit(OWN_ADDRESSES, value)
    found = tuple(dict.fromkeys(host_address(each, *_OF_OWN) for each in texts))
    for each in found:
        if each.is_loopback:
            raise ValueError(f"expected an address that moves between hosts; every one has {each}")
    return found


def ports(value: object) -> int | PortRange:
    """A port, or a range of more than one."""
    if type(value) is int:
        if not 1 <= value <= _HIGHEST_PORT:
            raise _unfit(f"an integer from 1 to {_HIGHEST_PORT}", value)
        return value
    found = _PORT_RANGE.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[2]) > _HIGHEST_PORT:
        raise _unfit(PORTS, value)
    first, last = int(found[1]), int(found[2])
    if first > last:
        raise _unfit(PORTS, value, f'; write "{last}-{first}"')
    return first if first == last else PortRange(first, last)


def vlan(value: object) -> int:
    """A VLAN ID."""
    if type(value) is int and 1 <= value <= _HIGHEST_VLAN:
        return value
    reason = ""
    if type(value) is int and value == 0:
        reason = ": VLAN ID 0 counts as untagged; leave the key out"
    raise _unfit(f"an integer from 1 to {_HIGHEST_VLAN}", value, reason)


def ring_size(value: object) -> int:
    """A size in bytes."""
    size = value if type(value) is int else None
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        size = int(found[1]) * _UNITS[found[2]]
    if size is None or not _SMALLEST_RING <= size <= _LARGEST_RING:
        expected = '1 MiB to 4 GiB, as a number of bytes or with a unit, as in "64 MiB"'
        raise _unfit(expected, value)
    return size


DURATIONS: Final = {
    "silence": (1.0, 86400.0, '1 second to 1 day, in ms, s, min or h, as in "2s"'),
    "switch.silence": (0.01, 60.0, '10 ms to 1 minute, in ms or s, as in "200ms"'),
    "merge.delay": (0.0, 1.0, '0 to 1 s, in ms or s, as in "20ms"'),
    "standby": (0.01, 10.0, '10 ms to 10 s, in ms or s, as in "500ms"'),
    "back": (0.1, 3600.0, '100 ms to 1 hour, in ms, s, min or h, as in "5s"'),
    "dedupe": (0.001, 10.0, '1 ms to 10 s, as in "200ms"'),
    # Oftener, reports would be a load on every switch.
    "rejoin": (5.0, 3600.0, '5 seconds to 1 hour, in s, min or h, as in "30s"'),
    # While they last, each asker has a port and three sockets.
    "replies": (1.0, 3600.0, '1 second to 1 hour, in s, min or h, as in "30s"'),
}
"""The shortest and longest, in seconds, of each key, and the words for the user."""


def duration(key: str, text: str) -> float:
    """The value of a key of DURATIONS, in seconds."""
    shortest, longest, expected = DURATIONS[key]
    found = _DURATION.fullmatch(text)
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not (found or text == "0") or not shortest <= seconds <= longest:
        raise _unfit(f'{expected} or "5 min"' if longest >= 300 else expected, text)
    return seconds


def share(text: str) -> float:
    """A part of the whole, from 0 to 1."""
    found = _SHARE.fullmatch(text)
    if not found or not 0 < float(found[1]) <= 100:
        raise _unfit('a percentage, as in "0.1%"', text)
    return float(found[1]) / 100


def listen(text: str) -> str:
    """An address of this host and a TCP port."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = ip_address(bare)
    except ValueError:
        found = None
    right = found is not None and (found.version == 6) == (bare is not host)
    if not right or not _PORT.fullmatch(port) or not 1 <= int(port) <= _HIGHEST_PORT:
        raise _unfit('an address and a port, as in "127.0.0.1:9464" or "[::1]:9464"', text)
    return text


def pattern(text: str) -> str:
    """The name of a file, or a pattern of names."""
    if not text or "\0" in text:
        raise _unfit("a file name or a pattern of such", text)
    return text


def _unfit(expected: str, got: object, more: str = "") -> ValueError:
    return ValueError(f"expected {expected}, got {described(got)}{more}")


def _instead(text: str, key: str = "address", port: str | None = "port") -> str:
    """What was meant by a text that is no address, where that can be told.

    `key` and `port` are the keys that take an address and its port; `port` None: none does.
    """
    end = _END.fullmatch(text)
    if end is None:
        return "; a name, with a dot, may stand in an output" if _NAME.fullmatch(text) else ""
    host, number = (end["v6"] or end["v4"]) + (end["length"] or ""), end["port"]
    host, zone, _ = host.partition("%")
    try:
        ip_network(host, strict=False)
    except ValueError:
        return ""
    if zone:
        return f'; write "{host}", and the interface as the key interface'
    if number is None:
        if end["v6"]:
            return f'; write "{host}"'
        return ", which is a prefix; one address goes here" if key == "source" else ""
    if port is None:
        return f'; a source has no port here: write "{host}"'
    ports = number if number.isdecimal() else quoted(number)
    return f'; the port is a key of its own: write {key} = "{host}" and {port} = {ports}'


def _prefix(text: str, port: str | None = "port") -> Network:
    bare, _, length = text.partition("/")
    if "%" in text:
        raise _unfit('a prefix without "%"', text, _WITHOUT_ZONE)
    try:
        found = ip_network(text, strict=False) if _PREFIX_LENGTH.fullmatch(length) else None
    except ValueError:
        found = None
    if found is None:
        expected = 'an address or a prefix such as "239.1.0.0/16" or "ff05::/112"'
        raise _unfit(expected, text, _instead(text, port=port))
    if ip_address(bare) != found.network_address:
        raise _unfit("a prefix without host bits", text, f"; the network is {found}")
    if isinstance(found, IPv6Network) and found.subnet_of(_MAPPED):
        inner = IPv4Network((int(found.network_address) & 0xFFFFFFFF, found.prefixlen - 96))
        raise _unfit("a prefix", text, f'; write "{inner}"')
    return found
