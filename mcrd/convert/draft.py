"""A rule file in the making: what was found, and a remark for what has no equivalent."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

Value = str | int | bool | list[str] | list[int]


class ForeignError(Exception):
    """A file that is not what it should be; the text says where and why."""


@dataclass
class DraftRule:
    """A rule as it will stand in the file; `enabled` False where it needs a hand first.

    `where` is what it was made of, for remarks.
    """

    name: str
    input: dict[str, Value]
    outputs: list[dict[str, Value]]
    remarks: list[str] = field(default_factory=list)
    enabled: bool = True
    where: str = ""


@dataclass
class DraftReflect:
    """A table [reflect.NAME] as it will stand in the file; `where` as of a rule."""

    name: str
    settings: dict[str, Value]
    remarks: list[str] = field(default_factory=list)
    where: str = ""


@dataclass
class Draft:
    """All of a file. `remarks` are about no rule; `understood`: it is such a file."""

    source: str
    rules: list[DraftRule] = field(default_factory=list)
    reflects: list[DraftReflect] = field(default_factory=list)
    interfaces: dict[str, dict[str, Value]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    understood: bool = False

    @property
    def has_rules(self) -> bool:
        """Whether there is something to relay."""
        return bool(self.rules or self.reflects)

    def free_name(self, wanted: str) -> str:
        """A name for a rule or table that no other has, as near to the wanted one as can be."""
        name = re.sub(r"[^A-Za-z0-9._:]+", "-", wanted).strip("-")[:60] or "rule"
        taken = {rule.name for rule in self.rules} | {each.name for each in self.reflects}
        others = (f"{name}-{number}" for number in itertools.count(2))
        return next(n for n in itertools.chain((name,), others) if n not in taken)


def toml(draft: Draft) -> str:
    """The text of a rule file."""
    return "\n".join(_lines(draft)) + "\n"


def _lines(draft: Draft) -> Iterator[str]:
    yield f"# Made by `mcrctl import` of {_printable(draft.source)}. Look at every remark."
    for remark in draft.remarks:
        yield from _remark(remark)
    for name, settings in draft.interfaces.items():
        yield from _settings(f"interfaces.{_key(name)}", settings)
    for reflect in draft.reflects:
        yield from _settings(f"reflect.{_key(reflect.name)}", reflect.settings, reflect.remarks)
    for rule in draft.rules:
        yield ""
        for remark in rule.remarks:
            yield from _remark(remark)
        yield f"[rules.{_key(rule.name)}]"
        if not rule.enabled:
            yield "enabled = false"
        yield f"input = {_table(rule.input)}"
        yield "outputs = ["
        yield from (f"    {_table(output)}," for output in rule.outputs)
        yield "]"


def _settings(table: str, settings: dict[str, Value], remarks: Iterable[str] = ()) -> Iterator[str]:
    yield ""
    for remark in remarks:
        yield from _remark(remark)
    yield f"[{table}]"
    yield from (f"{key} = {_value(value)}" for key, value in settings.items())


def _remark(text: str) -> Iterable[str]:
    return (f"# ! {_printable(line)}" for line in text.splitlines() or [""])


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _table(values: dict[str, Value]) -> str:
    return "{ " + ", ".join(f"{key} = {_value(value)}" for key, value in values.items()) + " }"


def _value(value: Value) -> str:
    # What JSON writes of these is TOML as well, but for DEL.
    return json.dumps(value).replace("\x7f", "\\u007f")
