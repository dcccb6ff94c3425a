"""A document without errors, as the model's values."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mcrd.model import Config, Daemon, Input, Output, Rule

if TYPE_CHECKING:
    from mcrd.config.problems import Report
    from mcrd.config.walk import Fields

_TTL_TO_GROUP: Final = 1
_TTL_TO_HOST: Final = 64


def build(file: Fields, report: Report, warnings: tuple[str, ...]) -> Config:
    """The Config that the fields of a file without errors say."""
    rules = {name: _rule(name, fields, report) for name, fields in file["rules"].items()}
    return Config(Daemon(**file["daemon"]), MappingProxyType(rules), warnings)


def _rule(name: str, fields: Fields, report: Report) -> Rule:
    given = Input(**fields["input"])
    return Rule(
        name=name,
        input=given,
        outputs=tuple(_output(output, given) for output in fields["outputs"]),
        enabled=fields["enabled"],
        description=fields["description"],
        place=report.place(("rules", name)),
    )


def _output(fields: Fields, given: Input) -> Output:
    ttl = _TTL_TO_GROUP if fields["address"].is_multicast else _TTL_TO_HOST
    absent = {"port": given.port, "ttl": ttl}
    present = {key: value for key, value in fields.items() if value is not None}
    return Output(**(absent | present))
