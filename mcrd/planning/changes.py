"""What differs between two rule files, in words. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from mcrd.addresses import endpoint, target, where
from mcrd.answers import Changes
from mcrd.config.joined import joined
from mcrd.model import Config, Interface, Output, Rule

IN_A_LINE = 20  # changes that the log names
LONGEST = 200  # characters of each
IN_SECONDS = ("replies", "rejoin", "dedupe", "silence", "standby")


def changes(old: Config, new: Config) -> Changes:
    """What it takes to get from `old` to `new`; its text is what `mcrctl reload` prints."""
    common = [name for name in new.rules if name in old.rules]
    changed = {
        name: list(_rule(old.rules[name], new.rules[name]))
        for name in common
        if old.rules[name] != new.rules[name]
    }
    found = Changes(
        added=[name for name in new.rules if name not in old.rules],
        removed=[name for name in old.rules if name not in new.rules],
        changed=changed,
        unchanged=len(common) - len(changed),
        daemon=list(_fields("", old.daemon, new.daemon)),
        interfaces=_interfaces(old, new),
        metrics=list(_fields("", old.metrics, new.metrics)),
    )
    found.text = [
        *(f"+ rules.{name}" for name in found.added),
        *(f"~ rules.{name}: {'; '.join(what)}" for name, what in changed.items()),
        *(f"- rules.{name}" for name in found.removed),
        *(f"~ daemon.{what}{_daemon_cost(what)}" for what in found.daemon),
        *(f"~ metrics.{what}" for what in found.metrics),
        *(
            f"~ interfaces.{name}: {'; '.join(what)}{_cost(what)}"
            for name, what in found.interfaces.items()
        ),
        f"= {found.unchanged} unchanged",
    ]
    return found


def summary(found: Changes) -> str:
    """One line of bounded length, for the log."""
    lines = found.text
    if len(lines) > IN_A_LINE:
        more = f"... {len(lines) - IN_A_LINE} more"
        lines = [*lines[: IN_A_LINE - 1], more, lines[-1]]
    return ", ".join(line if len(line) <= LONGEST else f"{line[:LONGEST]}..." for line in lines)


_IN_THE_RINGS = "workers are replaced; packets wait in the rings"


def _daemon_cost(what: str) -> str:
    return f" (all {_IN_THE_RINGS})" if what.startswith(("sandbox ", "engine ")) else ""


def _cost(what: list[str]) -> str:
    """What it takes to change the workers of an interface."""
    names = {setting.partition(" ")[0] for setting in what}
    if "worker" in names:
        return " (its workers are replaced: packets that arrive meanwhile are lost)"
    if names & {"workers", "ring_size", "gro"}:
        without = "" if "gro" in names else ", without loss"
        return f" (its rings and workers are replaced{without})"
    return f" (its {_IN_THE_RINGS})" if names & {"cpus", "busy_poll"} else ""


def _interfaces(old: Config, new: Config) -> dict[str, list[str]]:
    """Those that rules use before and after: the others cost nothing."""
    before, after = _lanes(old), _lanes(new)
    default = Interface()
    found = {
        name: [
            *_fields("", old.interfaces.get(name, default), new.interfaces.get(name, default)),
            *_reader(before[name], after[name]),
        ]
        for name in sorted(before.keys() & after.keys())
    }
    return {name: what for name, what in found.items() if what}


def _lanes(config: Config) -> dict[str, str]:
    """The interfaces that rules use, and the first of those that one worker reads together."""
    rules = (rule for rule in config.rules.values() if rule.enabled)
    used = [[each.interface for each in (rule.input, *rule.more)] for rule in rules]
    return {name: "" for names in used for name in names} | joined(used)


def _reader(old: str, new: str) -> Iterator[str]:
    if old != new:
        before, after = (f"of {name}" if name else "of its own" for name in (old, new))
        yield f"worker {before} -> {after}"


def _rule(old: Rule, new: Rule) -> Iterator[str]:
    yield from _fields("input.", old.input, new.input)
    if old.more != new.more:
        yield f"inputs {_inputs(old)} -> {_inputs(new)}"
    yield from _outputs(old.outputs, new.outputs)
    yield from _fields("", old, new, ("input", "more", "outputs", "place"))


def _inputs(rule: Rule) -> str:
    ends = (rule.input, *rule.more)
    return ", ".join(f"{each.interface} {endpoint(each.address, each.port)}" for each in ends)


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:g} s"


def _outputs(old: tuple[Output, ...], new: tuple[Output, ...]) -> Iterator[str]:
    """Pair outputs by destination first, then by their place in the list."""
    before = {target(output): output for output in old}
    gone = {i: o for i, o in enumerate(old) if target(o) not in {target(n) for n in new}}
    for index, output in enumerate(new):
        at = f"outputs[{index}]"
        if target(output) in before:
            yield from _fields(f"{at}.", _written(before[target(output)]), _written(output))
        elif index in gone:
            yield from _fields(f"{at}.", _written(gone.pop(index)), _written(output))
        else:
            yield f"{at} added ({where(output)})"
    for index, output in gone.items():
        yield f"outputs[{index}] removed ({where(output)})"
    if not gone and len(old) == len(new) and old != new and set(old) == set(new):
        yield "outputs in another order"


def _written(output: Output) -> Output:
    """As the rule file has it."""
    if not output.keeps_answerer:
        return output
    return dataclasses.replace(output, source="keep", keeps_answerer=False)


def _fields(prefix: str, old: Any, new: Any, but: Sequence[str] = ()) -> Iterator[str]:
    kind: Any = type(new)
    for name in _names(kind):
        before, after = getattr(old, name), getattr(new, name)
        if before != after and name not in but:
            shown = _seconds if name in IN_SECONDS else _text
            yield f"{prefix}{name} {shown(before)} -> {shown(after)}"


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """The fields of a dataclass, what is inherited last."""
    return tuple(f.name for f in sorted(dataclasses.fields(kind), key=lambda f: bool(f.kw_only)))


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(_text(item) for item in value)}]"
        case str() if not value or not value.isprintable() or " " in value or '"' in value:
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)
