"""Documents without errors, as the model's values."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from mcrd import model
from mcrd.config.rules import NO_PORT, Document
from mcrd.config.walk import Fields

_TTL_TO_GROUP: Final = 1
_TTL_TO_HOST: Final = 64


def build(
    documents: Sequence[Document],
    *,
    warnings: tuple[str, ...],
    files: tuple[str, ...],
    include_patterns: tuple[str, ...],
) -> model.Config:
    """The Config that documents without errors say, the main one first."""
    rules: dict[str, model.Rule] = {}
    interfaces: dict[str, model.Interface] = {}
    # Those of [reflect.NAME] come last, however the files were read.
    tables = [(document, document.fields["rules"]) for document in documents]
    tables += [
        (document, {name: fields for name, (_, fields) in document.made.items()})
        for document in documents
    ]
    for document, named in tables:
        for name, fields in named.items():
            place = document.place(name)
            rule = document.built.get(name)
            if rule is None:
                rule = _rule(name, fields, place)
            elif rule.place != place:
                rule = replace(rule, place=place)
            rules[name] = document.built[name] = rule
    for document in documents:
        for name, fields in document.fields["interfaces"].items():
            interfaces[name] = model.Interface(**_given(fields))
    return model.Config(
        daemon=model.Daemon(**_given(documents[0].fields["daemon"])),
        metrics=model.Metrics(**_given(documents[0].fields["metrics"])),
        rules=MappingProxyType(rules),
        interfaces=MappingProxyType(interfaces),
        warnings=warnings,
        files=files,
        include_patterns=include_patterns,
    )


def _rule(name: str, fields: Fields, place: model.Place) -> model.Rule:
    all_fields = fields["inputs"] or [fields["input"]]
    given, *more = (model.Input(**({"port": NO_PORT} | _given(each))) for each in all_fields)
    return model.Rule(
        name=name,
        input=given,
        outputs=tuple(_output(output, given) for output in fields["outputs"]),
        enabled=fields["enabled"],
        description=fields["description"],
        silence=fields["silence"],
        inspect=_inspect(fields["inspect"]),
        more=tuple(more),
        merge=_merge(fields["merge"]) if fields["merge"] else None,
        switch=model.Switch(**_given(fields["switch"])) if fields["switch"] else None,
        active_with=fields["active_with"] or (),
        standby=fields["standby"],
        place=place,
    )


def _merge(given: Fields) -> model.Merge:
    return model.Merge(given["by"], given["delay"] or None)  # "0" is what it is without the key


def _inspect(given: Any) -> model.Inspect | None:
    if given is None:
        return None
    return model.Inspect("sequence", **given) if isinstance(given, dict) else model.Inspect(given)


def _output(fields: Fields, given: model.Input) -> model.Output:
    output: dict[str, Any] = {
        "interface": None,
        "address": given.address,
        "port": given.port,
        **_given(fields),
    }
    ttl = _TTL_TO_GROUP if output["address"].is_multicast else _TTL_TO_HOST
    # The question leaves from this host, or no answer would come to it; they are kept instead.
    if output.get("replies") is not None and output.get("source") == "keep":
        output |= {"source": None, "keeps_answerer": True}
    return model.Output(**({"ttl": ttl} | output))


def _given(fields: Fields) -> dict[str, Any]:
    """The keys that are there, as the model has them."""
    return {key: _value(value) for key, value in fields.items() if value is not None}


def _value(value: object) -> object:
    if isinstance(value, list):
        return tuple(dict.fromkeys(value))
    if isinstance(value, dict):  # a limit
        return value["packets_per_second"]
    return value
