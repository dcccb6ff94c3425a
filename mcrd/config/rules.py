"""The rules of a file as far as they could be read, in the order of their places."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mcrd.config.positions import KeyPath
    from mcrd.config.problems import Report
    from mcrd.config.walk import Fields
    from mcrd.model import Address


class Endpoint(NamedTuple):
    """What makes two inputs, two outputs, or an input and an output the same."""

    interface: str
    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class FoundOutput:
    """An output. Without an endpoint one of its keys is wrong or missing."""

    path: KeyPath
    fields: Fields
    endpoint: Endpoint | None


@dataclass(frozen=True, slots=True)
class FoundRule:
    """A rule. Without an input one of its keys is wrong or missing."""

    path: KeyPath
    fields: Fields
    input: Endpoint | None
    outputs: tuple[FoundOutput, ...]

    @property
    def input_path(self) -> KeyPath:
        return (*self.path, "input")


def found_rules(file: Fields, report: Report) -> list[FoundRule]:
    """The rules of a file, sorted by where their inputs stand."""
    rules = [_rule(("rules", name), fields) for name, fields in file.get("rules", {}).items()]
    places = {rule.path: report.place(rule.input_path) for rule in rules}
    return sorted(rules, key=lambda rule: (places[rule.path].line, places[rule.path].column))


def _rule(path: KeyPath, fields: Fields) -> FoundRule:
    given: Fields = fields.get("input", {})
    outputs = tuple(
        FoundOutput((*path, "outputs", index), output, _endpoint(output, given.get("port")))
        for index, output in enumerate(fields.get("outputs", ()))
        if isinstance(output, dict)
    )
    return FoundRule(path, fields, _endpoint(given, None), outputs)


def _endpoint(fields: Fields, default_port: int | None) -> Endpoint | None:
    if not fields.keys() >= {"interface", "address", "port"}:
        return None
    port = default_port if fields["port"] is None else fields["port"]
    return Endpoint(fields["interface"], fields["address"], port) if port else None
