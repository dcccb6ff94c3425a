"""Errors between the keys of one rule: of its input, and of its outputs against its input."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from mcrd.config.overlap import Claim, clashes, everything
from mcrd.config.problems import key_text
from mcrd.config.rules import Endpoint, FoundOutput, FoundRule, destination
from mcrd.config.values import PORTS
from mcrd.config.walk import WRONG
from mcrd.model import BROADCAST, LIMITED_BROADCAST, Network, PortRange, is_pattern

_NO_PORTS = 'ESP has no ports; leave the key out with protocol = "esp"'


def check_rule(rule: FoundRule) -> None:
    """Report every error between the keys of a rule."""
    _check_input(rule)
    _check_listed_twice(rule)
    for output in rule.outputs:
        _check_interface(rule, output)
        _check_loop_back(rule, output)
        _check_protocol(rule, output)
        _check_address(rule, output)
        _check_ports(rule, output)
        _check_source(rule, output)
        _check_loop(rule, output)
        _check_replies(rule, output)


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
    address = fields.get("address")
    if address is None:
        return
    for key in ("sources", "exclude"):
        for index, each in enumerate(fields.get(key, ())):
            if each is not WRONG and each.version != address.version:
                rule.report.value(
                    (*path, key, index),
                    f"expected an IPv{address.version} address or prefix, "
                    f"as the address of this input is, got {_text(each)}",
                )
    if rule.sources == ():
        rule.report.value((*path, "exclude"), "leaves no source that this input could take")


def _check_listed_twice(rule: FoundRule) -> None:
    listed = [
        (output.path, output.endpoint) for output in rule.outputs if output.endpoint is not None
    ]
    claims = [Claim(each.box, everything(each.address.version)) for _, each in listed]
    for later, earlier in clashes(claims):
        path, endpoint = listed[later]
        first_path, first = listed[earlier]
        where = f"{key_text(first_path)} ({rule.report.place(first_path)})"
        if endpoint == first:
            rule.report.value(path, f"same {endpoint.keys} as {where}")
        else:
            rule.report.value(
                path,
                f"overlaps {where}: both send to {shared(endpoint, first)}"
                + (f" on {first.interface}" if first.interface else ""),
            )


def _check_interface(rule: FoundRule, output: FoundOutput) -> None:
    """Routes lead to one host; to a link-local address, on every link."""
    if output.fields.get("interface", WRONG) is not None:
        return
    address = output.address
    message = "missing; expected an interface name"
    if address is not None:
        if address.is_multicast:
            message += f": the routes do not say where a group is, and {address} is one"
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
    where = f"the input of this rule ({rule.report.place(rule.input_path)})"
    if output.endpoint == rule.input:
        rule.report.value(output.path, f"same {rule.input.keys} as {where}")
    elif output.endpoint.box.overlaps(rule.input.box):
        rule.report.value(
            output.path,
            f"overlaps {where}: both have {shared(output.endpoint, rule.input)} "
            f"on {rule.input.interface}",
        )


def _check_protocol(rule: FoundRule, output: FoundOutput) -> None:
    if rule.input_fields.get("protocol") == "esp":
        for key in ("port", "source_port"):
            if output.fields.get(key) is not None:
                rule.report.value((*output.path, key), _NO_PORTS)


def _check_address(rule: FoundRule, output: FoundOutput) -> None:
    wanted, got = rule.input_fields.get("address"), output.fields.get("address")
    if wanted is None or got is None:
        return
    message = None
    if isinstance(wanted, Network):
        same_size = isinstance(got, Network) and got.prefixlen == wanted.prefixlen
        if not same_size or got.version != wanted.version:
            message = f"expected an IPv{wanted.version} prefix of /{wanted.prefixlen}"
    elif isinstance(got, Network):
        message = "expected one address"
    if message:
        rule.report.value(
            (*output.path, "address"), f"{message}, as the input's {wanted} is, got {got}"
        )


def _check_ports(rule: FoundRule, output: FoundOutput) -> None:
    wanted, got = rule.input_fields.get("port"), output.fields.get("port")
    if wanted is None or got is None or rule.input_fields.get("protocol") != "udp":
        return
    message = None
    if isinstance(wanted, PortRange):
        if not isinstance(got, PortRange) or len(got) != len(wanted):
            message = f"expected a range of {len(wanted)} ports"
    elif isinstance(got, PortRange):
        message = "expected one port"
    if message:
        rule.report.value(
            (*output.path, "port"), f"{message}, as the input's {wanted} is, got {got}"
        )


def _check_source(rule: FoundRule, output: FoundOutput) -> None:
    source = output.fields.get("source")
    if source is None:
        return
    path = (*output.path, "source")
    if source == "keep":
        if output.fields.get("source_port") is not None:
            rule.report.value(
                (*output.path, "source_port"), 'source = "keep" keeps the source port too'
            )
        given = rule.input_fields.get("address")
        if given and output.address and given.version != output.address.version:
            rule.report.value(
                path,
                f"an IPv{given.version} source cannot be kept towards "
                f"the IPv{output.address.version} address {output.address}",
            )
    elif output.address and source.version != output.address.version:
        rule.report.value(
            path,
            f"expected an IPv{output.address.version} address, "
            f"as the address of this output is, got {source}",
        )


def _check_loop(rule: FoundRule, output: FoundOutput) -> None:
    address = output.address
    if output.fields.get("loop") and address and not address.is_multicast:
        hosts = f"{address} has hosts" if isinstance(address, Network) else f"{address} is a host"
        if address in (BROADCAST, LIMITED_BROADCAST):
            hosts = "programs on this host hear every broadcast"
        rule.report.value((*output.path, "loop"), f"applies to groups only; {hosts}")


def _check_replies(rule: FoundRule, output: FoundOutput) -> None:
    if output.fields.get("replies") is None:
        return
    message = None
    if rule.input_fields.get("protocol") == "esp":
        message = (
            'answers come to a port, and ESP has none; leave replies out with protocol = "esp"'
        )
    elif output.fields.get("source_port") is not None:
        message = "each asker has a port of its own; leave source_port out"
    elif output.fields.get("source") == "keep":
        message = 'with source = "keep" answers go to the asker by themselves, if there is a route'
    if message:
        rule.report.value((*output.path, "replies"), message)


def _text(network: Network) -> str:
    return str(network.network_address if network.num_addresses == 1 else network)
