"""Outputs to hosts by their names: one for each address that DNS has now. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv6Address
from typing import NamedTuple

from mcrd.addresses import covers, first_port, has_port
from mcrd.model import LIMITED_BROADCAST, Address, Config, HostName, Output, Rule

ADDRESSES_AT_MOST = 128
"""Of one name: each is an output."""
NAMES_AT_MOST = 256
"""Names of all rules: each is asked for again and again."""
NAMED = 3  # addresses that cannot be sent to


class Resolved(NamedTuple):
    """The addresses of a name, in the order in which they came; `trouble` is why there are none.

    Where DNS does not answer, the last addresses stay.
    """

    addresses: tuple[Address, ...] = ()
    trouble: str = ""


def names_of_hosts(config: Config) -> list[str]:
    """The names whose addresses the enabled rules need, in the order of the file."""
    names = {
        output.address.name: None
        for rule in config.rules.values()
        if rule.enabled
        for output in rule.outputs
        if isinstance(output.address, HostName)
    }
    return list(names)


def to_hosts(rule: Rule, output: Output, resolved: Mapping[str, Resolved]) -> Iterator[Output]:
    """An output for each address that it can send to; itself where there is none.

    Those of one family get it, as a host may have an address of each: that of its source, else that
    of the rule's input, else the other one.
    """
    assert isinstance(output.address, HostName)
    found = resolved.get(name := output.address.name)
    if found is None:
        yield output
        return
    usable = [each for each in found.addresses if _is_usable(rule, output, each)]
    source = output.source if isinstance(output.source, Address) else None
    version = (source or rule.input.address).version
    kept = output.source == "keep" or output.keeps_answerer
    if source is None and not kept and all(a.version != version for a in usable):
        chosen = usable
    else:
        chosen = [each for each in usable if each.version == version]
    for address in chosen[:ADDRESSES_AT_MOST]:
        yield replace(output, address=address)
    if not chosen:
        which = ", ".join(map(str, found.addresses[:NAMED]))
        why = f"it cannot be sent to {which}" if found.addresses else found.trouble
        yield replace(output, address=HostName(name, why))


def _is_usable(rule: Rule, output: Output, address: Address) -> bool:
    """Whether it is a host, that can be found, and not what the rule itself takes."""
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        return False
    if address == LIMITED_BROADCAST:
        return False
    if isinstance(address, IPv6Address) and (
        address.ipv4_mapped or (address.is_link_local and output.interface is None)
    ):
        return False
    port = first_port(output.port)
    return not any(
        covers(given.address, address) and has_port(given.port, port)
        for given in (rule.input, *rule.more)
    )
