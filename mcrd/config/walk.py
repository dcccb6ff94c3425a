"""Holds a parsed TOML document against the schema and reports all that does not fit."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import difflib
from functools import cache
from typing import Any, Final

import msgspec
import msgspec.inspect as mi

from mcrd.config.elsewhere import ELSEWHERE
from mcrd.config.positions import KeyPath
from mcrd.config.problems import Report, described, quoted

Fields = dict[str, Any]
"""A table as read: a key with a wrong value is missing, an absent optional key is None."""

WRONG: Final = object()


def read(kind: mi.Type, value: object, path: KeyPath, report: Report) -> Any:
    """What a value means by its type in the schema; WRONG, and reported, where it does not fit.

    A table becomes `Fields`, an array a list that holds WRONG for its wrong items.
    """
    match kind:
        case mi.Metadata():
            return _read_meaning(kind, value, path, report)
        case mi.StructType() if isinstance(value, dict):
            return _read_struct(kind, value, path, report)
        case mi.UnionType(types=(mi.Type(), mi.StructType() as table)) if isinstance(value, dict):
            return _read_struct(table, value, path, report)
        case mi.DictType() if isinstance(value, dict):
            return _read_names(kind, value, path, report)
        case mi.ListType() if isinstance(value, list):
            return _read_list(kind, value, path, report)
    fits = False
    match kind:
        case mi.IntType(ge=int() as low, le=int() as high):
            fits = type(value) is int and low <= value <= high
        case mi.BoolType():
            fits = type(value) is bool
        case mi.StrType():
            fits = type(value) is str
        case mi.LiteralType() | mi.UnionType(types=(mi.LiteralType(), mi.StructType())):
            fits = type(value) is str and value in _names(kind)
    if fits:
        return value
    report.value(path, f"expected {_expected(kind)}, got {described(value)}")
    return WRONG


def _names(kind: mi.Type) -> tuple[object, ...]:
    """The strings that a literal may be, or one beside a table."""
    kinds = kind.types if isinstance(kind, mi.UnionType) else (kind,)
    return next(one.values for one in kinds if isinstance(one, mi.LiteralType))


def _read_meaning(kind: mi.Metadata, value: object, path: KeyPath, report: Report) -> object:
    extra = kind.extra or {}
    is_string, is_list = isinstance(kind.type, mi.StrType), isinstance(kind.type, mi.ListType)
    if (is_string and type(value) is not str) or (is_list and type(value) is not list):
        report.value(path, f"expected {_expected(kind)}, got {described(value)}")
        return WRONG
    if "read" not in extra:
        return read(kind.type, value, path, report)
    try:
        return extra["read"](value)
    except ValueError as error:
        report.value(path, str(error))
        return WRONG


def _read_struct(
    kind: mi.StructType, table: dict[str, object], path: KeyPath, report: Report
) -> Fields:
    known, defaults = _keys(kind.cls)
    for name in table.keys() - known.keys():
        report.key((*path, name), f"unknown key{_hint(name, sorted(known))}")
    found = defaults.copy()
    for name, field in known.items():
        if name in table:
            value = read(field.type, table[name], (*path, name), report)
            if value is not WRONG:
                found[name] = value
            else:
                found.pop(name, None)
        elif field.required:
            report.absent((*path, name), f"missing; expected {_expected(field.type)}")
    return found


@cache
def _keys(table: type) -> tuple[dict[str, mi.Field], Fields]:
    """The keys that a table of the schema has, and what those mean that are not required.

    Tables by the thousand share these values: nobody changes one.
    """
    kind = mi.type_info(table)
    assert isinstance(kind, mi.StructType)
    known = {field.encode_name: field for field in kind.fields}
    return known, {name: _default(each) for name, each in known.items() if not each.required}


def _read_names(
    kind: mi.DictType, table: dict[str, object], path: KeyPath, report: Report
) -> Fields:
    found: Fields = {}
    for name, value in table.items():
        here = (*path, name)
        if isinstance(kind.key_type, mi.Metadata) and kind.key_type.extra:
            try:
                kind.key_type.extra["read"](name)
            except ValueError as error:
                report.key(here, str(error))
        entry = read(kind.value_type, value, here, report)
        if entry is not WRONG:
            found[name] = entry
    return found


def _read_list(
    kind: mi.ListType, items: list[object], path: KeyPath, report: Report
) -> list[object]:
    least = kind.min_length or 0
    if len(items) < least:
        report.value(path, f"expected at least {least}, got {len(items) or 'none'}")
    return [read(kind.item_type, item, (*path, index), report) for index, item in enumerate(items)]


def _default(field: mi.Field) -> object:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    if field.default_factory is msgspec.NODEFAULT:
        return None
    if isinstance(field.type, mi.StructType):
        return _keys(field.type.cls)[1]
    return field.default_factory()


def _hint(name: str, known: list[str]) -> str:
    for meant in ELSEWHERE.get(name.lower().replace("-", "_"), ()):
        if meant in known:
            return f'; did you mean "{meant}"?'
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; known here: {', '.join(known)}"


def _expected(kind: mi.Type) -> str:
    match kind:
        case mi.Metadata():
            return (kind.extra or {}).get("expected") or _expected(kind.type)
        case mi.IntType():
            return f"an integer from {kind.ge} to {kind.le}"
        case mi.BoolType():
            return "true or false"
        case mi.StrType():
            return "a string"
        case mi.LiteralType():
            *first, last = (quoted(str(value)) for value in kind.values)
            return f"{', '.join(first)} or {last}" if first else last
        case mi.UnionType(types=(mi.LiteralType() as names, mi.StructType())):
            return f"{', '.join(quoted(str(value)) for value in names.values)} or a table"
        case mi.ListType(item_type=mi.StructType()):
            return "an array of tables"
        case mi.StructType() | mi.DictType():
            return "a table"
        case _:
            raise NotImplementedError(f"no words for {kind}")
