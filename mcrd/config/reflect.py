"""[reflect.NAME]: a protocol between several networks, as the rules that it stands for. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from mcrd.config.positions import KeyPath
from mcrd.config.problems import quoted
from mcrd.config.schema import Reflect
from mcrd.config.walk import WRONG, Fields
from mcrd.model import BROADCAST, LIMITED_BROADCAST, is_pattern

OF_REFLECT: Final = "/"
"""What stands in the name of each rule behind that of its table: no rule of a file has it."""

_LIMIT: Final = 1000
"""Packets per second from each network: no discovery needs more, and each wakes all hosts."""
_KEYS: Final = frozenset(Reflect.__struct_fields__)
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


class Protocol(NamedTuple):
    """Where a protocol is spoken, by what rules are called, and what each output has.

    Who has something `tells` it unasked, or answers to all: then packets go both ways.
    """

    places: Mapping[str, tuple[str, int | str]]
    output: Mapping[str, object] = _NOTHING
    tells: bool = True
    limit: int | None = _LIMIT


PROTOCOLS: Final[Mapping[str, Protocol]] = {
    # RFC 6762: addresses, section 3; answers from port 5353, section 6; TTL, section 11. Who asks
    # from another port is answered by unicast, section 6.7.
    "mdns": Protocol(
        {"mdns4": ("224.0.0.251", 5353), "mdns6": ("ff02::fb", 5353)},
        {"source_port": 5353, "ttl": 255, "replies": "10s"},
    ),
    # RFC 4795: addresses, section 2; TTL, section 2.5. Only questions go to the group.
    "llmnr": Protocol(
        {"llmnr4": ("224.0.0.252", 5355), "llmnr6": ("ff02::1:3", 5355)},
        {"ttl": 255, "replies": "10s"},
        tells=False,
    ),
    # UPnP Device Architecture 2.0: 1.3.2 (TTL of 2), 1.3.3 (answers by unicast), annex A (IPv6)
    "ssdp": Protocol(
        {
            "ssdp4": ("239.255.255.250", 1900),
            "ssdp6": ("ff02::c", 1900),
            "ssdp6-site": ("ff05::c", 1900),
        },
        {"ttl": 2, "replies": "30s"},
    ),
    # OASIS WS-Discovery 1.1, ad hoc mode: matches go to who asked, by unicast. TTL: SOAP-over-UDP.
    "ws-discovery": Protocol(
        {"ws-discovery4": ("239.255.255.250", 3702), "ws-discovery6": ("ff02::c", 3702)},
        {"ttl": 1, "replies": "30s"},
    ),
    # RFC 7252: addresses, section 12.8; only requests go to groups, section 8; answers belong
    # to one until NON_LIFETIME is over, section 4.8.2.
    "coap": Protocol(
        {
            "coap4": ("224.0.1.187", 5683),
            "coap6": ("ff02::fd", 5683),
            "coap6-site": ("ff05::fd", 5683),
        },
        {"ttl": 1, "replies": "145s"},
        tells=False,
    ),
    # AMD's magic packet has no port: 9 (discard) and 7 (echo) are what tools send to.
    "wake-on-lan": Protocol(
        {"wake-on-lan-9": ("broadcast", 9), "wake-on-lan-7": ("broadcast", 7)}, tells=False
    ),
    # ASHRAE 135, annex J: hosts go by the source of a broadcast to answer, so it is kept.
    "bacnet": Protocol({"bacnet4": ("broadcast", 47808)}, {"source": "keep"}),
    # ISO 22510 (KNXnet/IP): searches and routing go to the system setup address. The TTL is a
    # property of each device (PID_TTL); routers have 16 (knxd, issue 452).
    "knx": Protocol({"knx4": ("224.0.23.12", 3671)}, {"ttl": 16, "replies": "30s"}),
    # ANSI E1.31-2018, 9.3: a group for each universe. Receivers say nothing. Of IPv6, the bytes of
    # table 9-12 are ff18::8300:0/112, as ETC's library has it; others take "FF18::83:00:hi:lo" for
    # an address.
    "sacn": Protocol(
        {
            "sacn4": ("239.255.0.0/16", 5568),
            "sacn6": ("ff18::8300:0/112", 5568),
            "sacn6-words": ("ff18::83:0:0:0/96", 5568),
        },
        {"ttl": 1},
        tells=False,
        limit=None,
    ),
}

Slip = tuple[bool, KeyPath, str]
"""A problem: whether the key is there, its path in the table, the message."""


class Made(NamedTuple):
    """A rule as a file would have it, of the interface at this place in the list."""

    name: str
    at: int
    table: dict[str, Any]


def slips(fields: Fields) -> list[Slip]:
    """What is wrong between the keys of a table; a wrong key is not there."""
    return [*_slips_of_interfaces(fields), *_slips_of_places(fields)]


def _slips_of_interfaces(fields: Fields) -> Iterator[Slip]:
    interfaces = fields.get("interfaces", [])
    for at, name in enumerate(interfaces):
        if name is not WRONG and name in interfaces[:at]:
            yield True, ("interfaces", at), f"{quoted(name)} is listed twice"
    if len(interfaces) == 1 and interfaces[0] is not WRONG and not is_pattern(interfaces[0]):
        yield True, ("interfaces",), "expected two interfaces or more, or a pattern"
    if not {"interfaces", "ask", "answer", "one_way"} <= fields.keys():
        return
    given = [key for key in ("ask", "answer") if fields[key]]
    strange = False
    for key in given:
        for at, name in enumerate(fields[key]):
            if name is not WRONG and name not in interfaces:
                strange = True
                yield True, (key, at), f"{quoted(name)} is not in interfaces"
    if WRONG in interfaces:
        return
    nobody = not any(_asks(fields, one, other) for one in interfaces for other in interfaces)
    if nobody and given and not strange:
        yield True, (given[0],), "leaves no network that may ask another one"


def _slips_of_places(fields: Fields) -> Iterator[Slip]:
    keys = ("protocol", "address", "port", "family")
    if any(key not in fields for key in keys):
        return
    protocol, address, port, family = (fields[key] for key in keys)
    if protocol is None:
        if address is None and port is None:
            known = ", ".join(map(quoted, PROTOCOLS))
            yield False, ("protocol",), f"missing; expected one of {known}, or address and port"
        elif address is None or port is None:
            key = "address" if address is None else "port"
            yield False, (key,), "missing; without protocol, address and port say what is taken"
        elif not address.is_multicast and address not in (BROADCAST, LIMITED_BROADCAST):
            yield True, ("address",), f'expected a group or "broadcast", got {address}'
    else:
        for key, value in (("address", address), ("port", port)):
            if value is not None:
                yield True, (key,), f"{quoted(protocol)} has its own; leave out this or protocol"
    if family is not None and (protocol or address) and not _places(fields):
        what = protocol or address
        yield True, ("family",), f"{what} has no {'IPv4' if family == 'ipv4' else 'IPv6'} address"


def is_whole(fields: Fields) -> bool:
    """Whether a table has all its keys, and nothing is wrong between them."""
    lists = (fields.get(key) or () for key in ("interfaces", "ask", "answer"))
    whole = fields.keys() >= _KEYS and not any(WRONG in names for names in lists)
    return whole and not slips(fields)


def made(name: str, fields: Fields) -> Iterator[Made]:
    """The rules of a table without errors: one for each interface that packets come from."""
    protocol = PROTOCOLS.get(fields["protocol"], Protocol({}, limit=None))
    output = {**protocol.output, **_given(fields, "ttl", "source")}
    if fields["replies"] is not None:
        output["replies"] = f"{fields['replies']:.9f}s"
    elif fields["source"] is not None:
        output.pop("replies", None)
        output.pop("source_port", None)
    limit = fields["limit"] or (protocol.limit and {"packets_per_second": protocol.limit})
    for place, (address, port) in _places(fields).items():
        for at, came in enumerate(fields["interfaces"]):
            outputs = list(_outputs(fields, protocol, came, output))
            if not outputs:
                continue
            taken = {"interface": came, "address": address, "port": port}
            table = {"input": taken | ({"limit": limit} if limit else {}), "outputs": outputs}
            table |= _given(fields, "enabled", "description")
            if fields["active_with"]:
                table["active_with"] = list(map(str, fields["active_with"]))
            yield Made(f"{name}{OF_REFLECT}{place}:{quote(came, safe='*?[]')}", at, table)


def _outputs(
    fields: Fields, protocol: Protocol, came: str, output: Mapping[str, object]
) -> Iterator[dict[str, object]]:
    """Where what comes by an interface goes."""
    tells = protocol.tells and not fields["one_way"]
    for to in fields["interfaces"]:
        if _asks(fields, came, to):
            yield {"interface": to, **output}
        elif tells and _asks(fields, to, came):
            both = ("replies", "source") if "replies" in output else ()
            unasked = {key: value for key, value in output.items() if key not in both}
            yield {"interface": to, **unasked}


def _asks(fields: Fields, one: str, other: str) -> bool:
    """Whether who is behind one interface may ask who is behind another one."""
    everybody = fields["interfaces"]
    askers = everybody[:1] if fields["one_way"] else everybody
    may = one in (fields["ask"] or askers) and other in (fields["answer"] or everybody)
    return may and (one != other or is_pattern(one))


def _places(fields: Fields) -> Mapping[str, tuple[str, int | str]]:
    """Addresses and ports of the family that is asked for, by what rules are called."""
    if fields["protocol"] is not None:
        found = dict(PROTOCOLS[fields["protocol"]].places)
    else:
        address, port = fields["address"], fields["port"]
        taken = port if isinstance(port, int) else str(port)
        found = {f"udp{address.version}": (str(address), taken)}
    wanted = {None: (4, 6), "ipv4": (4,), "ipv6": (6,)}[fields["family"]]
    return {place: end for place, end in found.items() if _version(end[0]) in wanted}


def _version(address: str) -> int:
    return 4 if address == str(BROADCAST) else ip_address(address.partition("/")[0]).version


def _given(fields: Fields, *keys: str) -> dict[str, Any]:
    return {key: fields[key] for key in keys if fields[key] is not None}
