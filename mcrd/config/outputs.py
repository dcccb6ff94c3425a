"""Errors between the keys of one rule: of its input, and of its outputs against its input."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

from mcrd.addresses import plain
from mcrd.config.legs import check_input_of_standby, check_legs
from mcrd.config.overlap import Claim, clashes, common, everything
from mcrd.config.positions import KeyPath
from mcrd.config.problems import key_text
from mcrd.config.rules import Endpoint, FoundOutput, FoundRule, destination, sources_of
from mcrd.config.values import PORTS
from mcrd.config.walk import WRONG, Fields
from mcrd.model import BROADCAST, LIMITED_BROADCAST, HostName, Network, PortRange, is_pattern

Wrong = Iterator[tuple[str, str]]
"""Keys of an output, and what is wrong with each."""

OUTPUTS_AT_MOST = 7168
"""Outputs of a rule: a worker is told of them in one message, which has room for so many, whatever
each says but for `sample`."""

SOURCES_AT_MOST = 4096
"""Sources that an input lists, those in `exclude` with them: of IPv6, a message has room for 6000.
A worker compares the first packet of each flow with all of them."""

CHOOSING_AT_MOST = 64
"""Outputs of a rule with `sources`, `exclude` or `sample`: CHOICES of choice.h."""

LISTED_AT_MOST = 2048
"""Sources that all outputs of a rule list: a worker is told of them in one message."""

_NO_PORTS = 'ESP has no ports; leave the key out with protocol = "esp"'


def check_rule(rule: FoundRule) -> None:
    """Report every error between the keys of a rule, or of one of its legs."""
    _check_input(rule)
    check_input_of_standby(rule)
    if rule.leg > 1:
        for output in rule.outputs:
            _check_loop_back(rule, output)
        return
    check_legs(rule)
    if len(rule.outputs) > OUTPUTS_AT_MOST:
        rule.report.value(
            rule.outputs[OUTPUTS_AT_MOST].path, f"more than {OUTPUTS_AT_MOST} outputs of one rule"
        )
    _check_listed_twice(rule)
    for output in rule.outputs:
        _check_interface(rule, output)
        _check_loop_back(rule, output)
        for wrong in (
            _wrong_for_esp,
            _wrong_sizes,
            _wrong_source,
            _wrong_loop,
            _wrong_when,
            _wrong_replies,
        ):
            for key, message in wrong(rule, output):
                rule.report.value((*output.path, key), message)
    _check_choices(rule)


def shared(one: Endpoint, other: Endpoint) -> str:
    """The addresses and ports that two which overlap have in common."""
    address = max(one, other, key=lambda each: each.box.low - each.box.high).address
    first = max(one.box.first, other.box.first)
    last = min(one.box.last, other.box.last)
    return destination(address, first if first == last else PortRange(first, last))


def _check_input(rule: FoundRule) -> None:
    fields, path = rule.input_fields, rule.input_path
    protocol = fields.get("protocol")
    if protocol == "udp" and fields.get("port", WRONG) is None:
        rule.report.absent((*path, "port"), f"missing; expected {PORTS}")
    if protocol == "esp" and fields.get("port") is not None:
        rule.report.value((*path, "port"), _NO_PORTS)
    many = [len(fields.get(key, ())) for key in ("sources", "exclude")]
    if sum(many) > SOURCES_AT_MOST:
        key = "sources" if many[0] > SOURCES_AT_MOST else "exclude"
        message = f"more than {SOURCES_AT_MOST} sources of one input, excluded ones included"
        rule.report.value((*path, key), message)
    address = fields.get("address")
    if address is None:
        return
    _check_families(rule, path, fields, address.version)
    if rule.sources == ():
        rule.report.value((*path, "exclude"), "leaves no source that this input could take")


def _check_families(rule: FoundRule, path: KeyPath, fields: Fields, version: int) -> None:
    """Sources of an input, or of an output, are of the family of what the rule takes."""
    of = "this input" if path == rule.input_path else "the input"
    for key in ("sources", "exclude"):
        for index, each in enumerate(fields.get(key, ())):
            if each is not WRONG and each.version != version:
                expected = f"an IPv{version} address or prefix"
                message = f"expected {expected}, as the address of {of} is, got {plain(each)}"
                rule.report.value((*path, key, index), message)


def _check_choices(rule: FoundRule) -> None:
    """What outputs are to send of what the input takes has to be something, and not too long."""
    address = rule.input_fields.get("address")
    choosing, listed = 0, 0
    for output in rule.outputs:
        fields, path = output.fields, output.path
        many = sum(len(fields.get(key, ())) for key in ("sources", "exclude"))
        choosing += many > 0 or fields.get("sample") not in (1, WRONG, None)
        listed += many
        if choosing > CHOOSING_AT_MOST:
            rule.report.value(
                path, f"more than {CHOOSING_AT_MOST} outputs have sources, exclude or sample"
            )
            return
        if listed > LISTED_AT_MOST:
            rule.report.value(
                path, f"the outputs of this rule list more than {LISTED_AT_MOST} sources in all"
            )
            return
        if address is None or not many:
            continue
        _check_families(rule, path, fields, address.version)
        found = sources_of(address, fields)
        key = "exclude" if fields.get("exclude") else "sources"
        if found == ():
            rule.report.value((*path, key), "leaves no source that this output could send")
        elif found and rule.sources and not any(common(found, rule.sources)):
            rule.report.value((*path, key), "the input of this rule takes none of these sources")


def _check_listed_twice(rule: FoundRule) -> None:
    if len(rule.outputs) < 2:
        return
    listed = [
        (output.path, output.endpoint) for output in rule.outputs if output.endpoint is not None
    ]
    claims = [Claim(each.box, everything(each.address.version)) for _, each in listed]
    for later, earlier in clashes(claims):
        path, endpoint = listed[later]
        first_path, first = listed[earlier]
        where = f"{key_text(first_path)} ({rule.report.place(first_path)})"
        on = f" on {first.interface}" if first.interface else ""
        message = f"overlaps {where}: both send to {shared(endpoint, first)}{on}"
        if endpoint == first:
            message = f"same {endpoint.keys} as {where}"
        rule.report.value(path, message)


def _check_interface(rule: FoundRule, output: FoundOutput) -> None:
    """Routes lead to one host; to a link-local address, on every link."""
    if output.fields.get("interface", WRONG) is not None:
        return
    address = output.address
    message = "missing; expected an interface name"
    if address is not None:
        if address.is_multicast:
            message += f": {address} is a group, and routes to hosts do not tell where it goes"
        elif address in (BROADCAST, LIMITED_BROADCAST):
            message += ": the routes do not say where a broadcast goes"
        elif isinstance(address, Network):
            message += f": the routes may lead to the hosts of {address} over several"
        elif address.version == 6 and address.is_link_local:
            message += f": {address} is link-local, and there is such an address on every link"
        else:
            return
    rule.report.absent((*output.path, "interface"), message)


def _check_loop_back(rule: FoundRule, output: FoundOutput) -> None:
    if output.endpoint is None or rule.input is None:
        return
    if not output.endpoint.interface:
        box = rule.input.box._replace(place=output.endpoint.box.place)
        address = output.endpoint.address
        of_a_link = address.is_multicast or address in (BROADCAST, LIMITED_BROADCAST)
        if output.endpoint.box.overlaps(box) and not of_a_link:
            both = shared(output.endpoint, rule.input)
            rule.report.value(output.path, f"would come back to the input of this rule: {both}")
        return
    if is_pattern(output.endpoint.interface) or is_pattern(rule.input.interface):
        return  # no pattern leads back to where a packet came from
    if not output.endpoint.box.overlaps(rule.input.box):
        return
    where = f"the input of this rule ({rule.report.place(rule.input_path)})"
    if output.endpoint == rule.input:
        rule.report.value(output.path, f"same {rule.input.keys} as {where}")
    else:
        both = f"{shared(output.endpoint, rule.input)} on {rule.input.interface}"
        rule.report.value(output.path, f"overlaps {where}: both have {both}")


def _wrong_for_esp(rule: FoundRule, output: FoundOutput) -> Wrong:
    if rule.input_fields.get("protocol") == "esp":
        for key in ("port", "source_port"):
            if output.fields.get(key) is not None:
                yield key, _NO_PORTS


def _wrong_sizes(rule: FoundRule, output: FoundOutput) -> Wrong:
    """A range goes to a range of the same size, and one to one."""
    given, fields = rule.input_fields, output.fields
    wanted, got = given.get("address"), fields.get("address")
    fits, expected = not isinstance(got, Network), "one address"
    if isinstance(wanted, Network):
        family = IPv4Network if wanted.version == 4 else IPv6Network
        fits = isinstance(got, family) and got.prefixlen == wanted.prefixlen
        expected = f"an IPv{wanted.version} prefix of /{wanted.prefixlen}"
    if wanted is not None and got is not None and not fits:
        yield "address", f"expected {expected}, as the input's {wanted} is, got {got}"
    wanted, got = given.get("port"), fields.get("port")
    fits, expected = not isinstance(got, PortRange), "one port"
    if isinstance(wanted, PortRange):
        fits = isinstance(got, PortRange) and len(got) == len(wanted)
        expected = f"a range of {len(wanted)} ports"
    if wanted is not None and got is not None and given.get("protocol") == "udp" and not fits:
        yield "port", f"expected {expected}, as the input's {wanted} is, got {got}"


def _wrong_source(rule: FoundRule, output: FoundOutput) -> Wrong:
    source, address = output.fields.get("source"), output.address
    if isinstance(address, HostName):
        address = None  # of its addresses those that fit are taken
    if source == "keep":
        asks = output.fields.get("replies") is not None
        if output.fields.get("source_port") is not None and not asks:
            yield "source_port", 'source = "keep" keeps the source port too'
        given = rule.input_fields.get("address")
        if given and address and given.version != address.version:
            if asks:
                yield (
                    "source",
                    f"IPv{address.version} answers cannot keep theirs over IPv{given.version}",
                )
                return
            towards = f"towards the IPv{address.version} address {address}"
            yield "source", f"an IPv{given.version} source cannot be kept {towards}"
    elif source and address and source.version != address.version:
        expected = f"an IPv{address.version} address, as the address of this output is"
        yield "source", f"expected {expected}, got {source}"


def _wrong_loop(_rule: FoundRule, output: FoundOutput) -> Wrong:
    address = output.address
    if output.fields.get("loop") and address and not address.is_multicast:
        hosts = f"{address} has hosts" if isinstance(address, Network) else f"{address} is a host"
        if address in (BROADCAST, LIMITED_BROADCAST):
            hosts = "programs on this host hear every broadcast"
        yield "loop", f"applies to groups only; {hosts}"


def _wrong_when(rule: FoundRule, output: FoundOutput) -> Wrong:
    address = output.address
    if output.fields.get("when") is None or address is None:
        return
    if not address.is_multicast:
        yield "when", f"there are members of groups only, and {address} is none"
    elif rule.input_fields.get("vlan") is not None:
        yield "when", "not possible with a VLAN: no group of it is joined"


def _wrong_replies(rule: FoundRule, output: FoundOutput) -> Wrong:
    key, fields = "replies", output.fields
    if fields.get(key) is None:
        return
    if rule.input_fields.get("protocol") == "esp":
        esp = 'ESP has none; leave replies out with protocol = "esp"'
        yield key, f"answers come to a port, and {esp}"
