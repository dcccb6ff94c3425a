"""The rules of all files as far as they could be read, in the order of their places."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec.inspect as mi

from mcrd.config.overlap import Box, Spans, box, spans
from mcrd.config.positions import KeyPath
from mcrd.config.problems import Problem, Report, path_of
from mcrd.config.reflect import OF_REFLECT, is_whole, made
from mcrd.config.schema import Rule as RuleTable
from mcrd.config.walk import WRONG, Fields, read
from mcrd.model import Address, Network, Place, PortRange, Rule

_RULE = mi.type_info(RuleTable)
NO_PORT = 0
"""The port of protocols that have none."""


@dataclass
class Document:
    """What a file or a part of it says, as far as it could be read, and the report on it.

    The rest is what was found out about it and stays true when it is met again: `checked`, its
    rules by themselves are without errors; `warnings` that do not depend on any other rule;
    `built`, its rules in the model's values.
    """

    report: Report
    fields: Fields
    checked: bool = False
    warnings: tuple[Problem, ...] | None = None
    begins_with_its_rule: bool = False
    built: dict[str, Rule] = field(default_factory=dict)

    @cached_property
    def rules(self) -> list[FoundRule]:
        """Its rules, sorted by where their inputs stand."""
        report = self.report
        found = [
            rule
            for name, fields in self.fields.get("rules", {}).items()
            for rule in _legs(report, name, ("rules", name), fields)
        ]
        found += [
            _rule(report, name, path, fields, fields["input"], fields["input"])
            for name, (path, fields) in self.made.items()
        ]
        if len(found) > 1:
            places = {rule.input_path: report.place(rule.input_path) for rule in found}
            found.sort(
                key=lambda rule: (places[rule.input_path].line, places[rule.input_path].column)
            )
        return found

    @cached_property
    def made(self) -> dict[str, tuple[KeyPath, Fields]]:
        """The rules that its tables [reflect.NAME] stand for, and which interface each is of."""
        return {
            one.name: (
                ("reflect", name, "interfaces", one.at),
                read(_RULE, one.table, ("reflect", name), self.report),
            )
            for name, fields in self.fields.get("reflect", {}).items()
            if is_whole(fields)
            for one in made(name, fields)
        }

    def place(self, rule: str) -> Place:
        """Where the table that says the rule stands."""
        if self.begins_with_its_rule:
            return Place(self.report.file, self.report.lines_before + 1, 1)
        return self.report.place(path_of(rule))

    def move(self, lines_before: int) -> None:
        """It is met again, with so many lines before it, among others than before."""
        self.report.lines_before = lines_before
        self.report.problems.clear()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What makes two inputs, two outputs, or an input and an output the same.

    The interface is "" for an output that follows the routes.
    """

    interface: str
    address: Address | Network
    port: int | PortRange
    box: Box

    @property
    def keys(self) -> str:
        """The keys that say it."""
        names = ["interface"] if self.interface else []
        names += ["address"] if self.port == NO_PORT else ["address", "port"]
        return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


@dataclass(frozen=True, slots=True)
class FoundOutput:
    """An output. Without an endpoint one of its keys, or of its input's, is wrong or missing.

    `address` is the input's where it has none; None where that cannot be told.
    """

    path: KeyPath
    fields: Fields
    address: Address | Network | None
    endpoint: Endpoint | None


@dataclass(frozen=True, slots=True)
class FoundRule:
    """A rule. Without an input or sources one of the keys that say it is wrong or missing.

    One with `inputs` is here once for each of them: `leg` is which, counted from 1.
    """

    report: Report
    name: str
    path: KeyPath
    input_path: KeyPath
    input_fields: Fields
    fields: Fields
    input: Endpoint | None
    sources: Spans | None
    outputs: tuple[FoundOutput, ...]
    leg: int = 0


def destination(address: Address | Network, port: int | PortRange) -> str:
    """An address and a port, in words."""
    return str(address) if port == NO_PORT else f"{address} port {port}"


def _legs(report: Report, name: str, path: KeyPath, fields: Fields) -> Iterator[FoundRule]:
    """The rule, or one for each of its inputs. Outputs go by the first."""
    if fields.get("inputs") is None:
        given = fields.get("input") or {}
        yield _rule(report, name, (*path, "input"), fields, given, given, 0)
        return
    inputs = [each if isinstance(each, dict) else {} for each in fields["inputs"]]
    for leg, given in enumerate(inputs):
        yield _rule(report, name, (*path, "inputs", leg), fields, given, inputs[0], leg + 1)


def _rule(
    report: Report,
    name: str,
    input_path: KeyPath,
    fields: Fields,
    input_fields: Fields,
    first: Fields,
    leg: int = 0,
) -> FoundRule:
    path = path_of(name)
    given, first = _with_port(input_fields), _with_port(first)
    is_made = OF_REFLECT in name
    outputs = tuple(
        _output(path if is_made else (*path, "outputs", index), output, first)
        for index, output in enumerate(fields.get("outputs", ()))
        if isinstance(output, dict)
    )
    endpoint = _endpoint(given, given.get("address"), given.get("port"), given)
    sources = sources_of(given["address"], given) if "address" in given else None
    return FoundRule(
        *(report, name, path, input_path, input_fields, fields),
        *(endpoint, sources, outputs, leg),
    )


def _with_port(given: Fields) -> Fields:
    return given | {"port": NO_PORT} if given.get("protocol") == "esp" else given


def _output(path: KeyPath, fields: Fields, given: Fields) -> FoundOutput:
    address = _kept("address", fields, given)
    port = NO_PORT if given.get("protocol") == "esp" else _kept("port", fields, given)
    # Outputs leave untagged, whatever the VLAN of the input.
    routed = "interface" in fields and fields["interface"] is None
    endpoint = _endpoint(
        fields | {"interface": ""} if routed else fields, address, port, given | {"vlan": None}
    )
    return FoundOutput(path, fields, address, endpoint)


def _kept(key: str, fields: Fields, given: Fields) -> Any:
    """What an output has, or the input's if it has none."""
    if key not in fields:
        return None
    return given.get(key) if fields[key] is None else fields[key]


def _endpoint(
    fields: Fields,
    address: Address | Network | None,
    port: int | PortRange | None,
    given: Fields,
) -> Endpoint | None:
    if address is None or port is None or not given.keys() >= {"protocol", "vlan"}:
        return None
    interface = fields.get("interface")
    if interface is None:
        return None
    place = (interface, given["protocol"], given["vlan"])
    return Endpoint(interface, address, port, box(place, address, port))


def sources_of(address: Address | Network, given: Fields) -> Spans | None:
    """The sources that an input or output of an address lists; None where a key is wrong."""
    if not given.keys() >= {"sources", "exclude"}:
        return None
    listed = [*given["sources"], *given["exclude"]]
    version = address.version
    if any(each is WRONG or each.version != version for each in listed):
        return None
    return spans(version, given["sources"], given["exclude"])
