"""The JSON5 rules of the Rust program of the same name."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any, TypeVar

import json5

from mcrd.convert.draft import Draft, DraftRule, ForeignError, Value

T = TypeVar("T")

PORTLESS = frozenset({"esp"})
INPUT = {"interface": "interface", "group": "address", "port": "port", "protocol": "protocol"}
OUTPUT = {"interface": "interface", "group": "address", "port": "port", "ttl": "ttl"}
ROUTING = {
    "pim": "mcrd speaks no PIM: it is no router",
    "igmp": "mcrd joins groups as a host does; to be a querier, set `querier` of the interface",
    "msdp": "mcrd speaks no MSDP",
}


def from_json5(text: str, source: str) -> Draft:
    """A draft of what the file says; raises ForeignError."""
    try:
        given = json5.loads(text)
    except (ValueError, RecursionError) as error:
        raise ForeignError(f"{source}: {error}") from None
    if not isinstance(given, dict):
        raise ForeignError(f"{source}: expected an object with rules")
    draft = Draft(source, understood="rules" in given or "pinning" in given)
    ttl = given.pop("multicast_ttl", None)
    for number, rule in enumerate(_as(list, given.pop("rules", []), source, "rules"), 1):
        draft.rules.append(_rule(draft, rule, number, source, ttl))
    for interface, cpus in _as(dict, given.pop("pinning", {}), source, "pinning").items():
        workers = max(1, len(_as(list, cpus, source, "pinning")))
        draft.interfaces[str(interface)] = {"workers": workers, "cpus": cpus}
    for name, section in given.items():
        about = ROUTING.get(name, "there is no such setting")
        draft.remarks.append(f"{name}: {section}: {about}")
    return draft


def _rule(draft: Draft, rule: Any, number: int, source: str, ttl: Any) -> DraftRule:
    where = f"rules[{number - 1}]"
    entry = dict(_as(dict, rule, source, where))
    end = dict(_as(dict, entry.pop("input", None), source, f"{where}.input"))
    remarks: list[str] = []
    called = str(entry.pop("name", f"rule-{number}"))
    name = draft.free_name(called)
    if name != called:
        remarks.append(f"it was called {called!r} there")
    given = _known(end, INPUT, f"{where}.input", remarks)
    made = DraftRule(name, given, [], remarks, where=f"{where} ({called})")
    if made.input.get("protocol") in PORTLESS:
        made.input.pop("port", None)
    for at, output in enumerate(_as(list, entry.pop("outputs", []), source, f"{where}.outputs")):
        of = f"{where}.outputs[{at}]"
        known = _known(dict(_as(dict, output, source, of)), OUTPUT, of, remarks)
        if made.input.get("protocol") in PORTLESS:
            known.pop("port", None)
        if ttl is not None:
            known.setdefault("ttl", ttl)
        made.outputs.append(known)
    for name, value in entry.items():
        remarks.append(f"{where}.{name}: {value}: there is no such setting")
    return made


def _known(
    given: dict[str, Any], names: dict[str, str], where: str, remarks: list[str]
) -> dict[str, Value]:
    unknown = [name for name in given if name not in names]
    remarks += [f"{where}.{name}: {given[name]}: there is no such setting" for name in unknown]
    return {ours: given[theirs] for theirs, ours in names.items() if given.get(theirs) is not None}


def _as(kind: type[T], value: Any, source: str, where: str) -> T:
    if not isinstance(value, kind):
        expected = "an object" if kind is dict else "an array"
        raise ForeignError(f"{source}: {where}: expected {expected}, got {value!r}")
    return value
