"""What a rule file may say, but its author would want to know."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, ip_address
from typing import Final

from mcrd.addresses import is_source_specific
from mcrd.config.overlap import Claim, Overlaps, everything
from mcrd.config.problems import key_text
from mcrd.config.rules import Document, FoundOutput, FoundRule
from mcrd.config.values import LONGEST_INTERFACE_NAME
from mcrd.config.walk import Fields
from mcrd.model import Address, Network, is_pattern

_LINK_LOCAL_GROUPS = IPv4Network("224.0.0.0/24")
_INTERFACE_SCOPE, _LINK_SCOPE = 1, 2  # of an IPv6 group
_WHOLE_SCOPE = 16  # bits of a prefix whose groups all have one scope
_CHECKED_TTL: Final[dict[object, tuple[str, str]]] = {
    (ip_address(group), port): (name, rfc)
    for name, port, rfc, groups in (
        ("mDNS", 5353, "RFC 6762, section 11", ("224.0.0.251", "ff02::fb")),
        ("LLMNR", 5355, "RFC 4795, section 2.5", ("224.0.0.252", "ff02::1:3")),
    )
    for group in groups
}
"""Protocols whose receivers may ignore what has another TTL, or hop limit, than 255."""
_UNROUTED_TTL: Final = 255


def warn(documents: Sequence[Document]) -> None:
    """Report what is suspicious in files without errors; of rules, in those that are enabled."""
    for document in documents:
        if document.warnings is not None:
            document.report.problems += document.warnings
            continue
        for rule in document.rules:
            if rule.fields["enabled"]:
                _warn_vlan(rule)
                _warn_source_specific(rule)
                for output in rule.outputs if rule.leg < 2 else ():
                    _warn_ttl(rule, output)
        document.warnings = tuple(document.report.problems)
    rules = [rule for document in documents for rule in document.rules]
    _warn_interfaces(documents, rules)
    _warn_feeding([rule for rule in rules if rule.fields["enabled"]])


def _warn_interfaces(documents: Sequence[Document], rules: list[FoundRule]) -> None:
    used = {rule.input.interface for rule in rules if rule.input}
    for document in documents:
        for name, fields in document.fields["interfaces"].items():
            path = ("interfaces", name)
            read = name in used or any(map(is_pattern, (name, *used)))
            if not read and not fields["querier"]:
                message = "no effect, unless this is another name of an interface"
                document.report.key(path, f"no rule has its input here: {message}")
                continue
            _warn_unasked(document, name, fields, rules)
            if (spare := len(fields["cpus"]) - fields["workers"]) > 0:
                message = f"more than there are workers, so that the last {spare} will not be used"
                document.report.value((*path, "cpus"), message)


def _warn_unasked(document: Document, name: str, fields: Fields, rules: list[FoundRule]) -> None:
    """Settings of memberships where there are none."""
    inputs = [rule.input_fields for rule in rules if rule.input and rule.input.interface == name]
    joined = {
        given["address"].version
        for given in inputs
        if given["address"].is_multicast and given["vlan"] is None
    }
    for key, versions in (("rejoin", {4, 6}), ("igmp_version", {4}), ("mld_version", {6})):
        if fields[key] is not None and not joined & versions:
            document.report.key(
                ("interfaces", name, key), "no group is joined on this interface: no effect"
            )


def _warn_vlan(rule: FoundRule) -> None:
    vlan, address = rule.input_fields["vlan"], rule.input_fields["address"]
    everywhere = _within(address, _LINK_LOCAL_GROUPS)  # switches send them so, joined or not
    if vlan is None or not address.is_multicast or everywhere:
        return
    name = f"{rule.input_fields['interface']}.{vlan}"
    example = f", such as {name}," if len(name.encode()) <= LONGEST_INTERFACE_NAME else ""
    rule.report.value(
        (*rule.input_path, "vlan"),
        f"{address} is not joined, because a join would go out untagged: a switch that snoops "
        f"hears none in VLAN {vlan} and may not send the group here; if so, make a VLAN "
        f"interface{example} and take it as the input's, without vlan",
    )


def _warn_source_specific(rule: FoundRule) -> None:
    address, sources = rule.input_fields["address"], rule.input_fields["sources"]
    by_source = sources and all(each.num_addresses == 1 for each in sources)  # as named() has it
    if by_source or not is_source_specific(address):
        return
    fields = [output.fields for output in rule.outputs]
    if all(f["when"] and f["source"] == "keep" for f in fields):
        return  # members say from which sources it is joined
    message = (
        f"{address} is for source-specific multicast: to join it, sources must all be addresses, "
        "not prefixes; routers may send nothing"
    )
    report = rule.report.value if sources else rule.report.absent
    report((*rule.input_path, "sources"), message)


def _warn_ttl(rule: FoundRule, output: FoundOutput) -> None:
    address, ttl, path = output.address, output.fields["ttl"], (*output.path, "ttl")
    if output.endpoint and ttl != _UNROUTED_TTL:
        checked = _CHECKED_TTL.get((output.endpoint.address, output.endpoint.port))
        if checked is not None:
            name, rfc = checked
            report = rule.report.absent if ttl is None else rule.report.value
            given = ttl or "1 by default"
            report(path, f"{given}, but receivers of {name} may ignore all but 255 ({rfc})")
            return
    if ttl is None and address and address.is_multicast and not _stays_on_link(address):
        rule.report.absent(
            path,
            "1 by default, so the first router will drop it; "
            "set a higher ttl to cross routers, or ttl = 1 if none is to be crossed",
        )


def _warn_feeding(rules: list[FoundRule]) -> None:
    inputs = {rule.input.box for rule in rules if rule.input}
    outputs = {each.endpoint.box for rule in rules for each in rule.outputs if each.endpoint}
    if inputs.isdisjoint(outputs) and all(box.is_plain for box in (*inputs, *outputs)):
        return
    listening: Overlaps[FoundRule] = Overlaps()
    for rule in rules:
        if rule.input and rule.sources is not None:
            listening.add(Claim(rule.input.box, rule.sources), rule)
    for rule in rules:
        for output in rule.outputs if rule.leg < 2 else ():
            for fed in _fed(rule, output, listening):
                which = f"{key_text(output.path)} ({rule.report.place(output.path)})"
                why = "what this host sends is not relayed again"
                fed.report.value(fed.input_path, f"never receives what {which} sends: {why}")


def _fed(
    rule: FoundRule, output: FoundOutput, listening: Overlaps[FoundRule]
) -> Iterator[FoundRule]:
    if output.endpoint is None or rule.input is None or rule.sources is None:
        return
    source, version = output.fields["source"], output.endpoint.address.version
    if source is None or (source == "keep" and output.fields["replies"] is not None):
        sources = everything(version)
    elif source == "keep":
        sources = rule.sources
    else:
        sources = ((int(source), int(source)),)
    claim = Claim(output.endpoint.box, sources)
    seen: set[str] = set()
    for fed in (*listening.around(claim), *listening.within(claim)):
        # From an address that is not known here, only what takes any source is surely fed.
        unknown = source is None and fed.input_fields["sources"]
        # Both ways between two networks is how discovery protocols are relayed.
        back = any(
            each.endpoint and each.endpoint.box.overlaps(rule.input.box) for each in fed.outputs
        )
        if fed.name not in seen and not unknown and not back and fed.path != rule.path:
            yield fed
        seen.add(fed.name)


def _stays_on_link(groups: Address | Network) -> bool:
    if groups.version == 4:
        return _within(groups, _LINK_LOCAL_GROUPS)
    first = groups.network_address if isinstance(groups, Network) else groups
    if isinstance(groups, Network) and groups.prefixlen < _WHOLE_SCOPE:
        return False
    return first.packed[1] & 0x0F in (_INTERFACE_SCOPE, _LINK_SCOPE)


def _within(groups: Address | Network, others: Network) -> bool:
    if groups.version != others.version:
        return False
    if isinstance(groups, Network):
        return groups.subnet_of(others)  # type: ignore[arg-type]
    return groups in others
