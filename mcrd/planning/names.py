"""Interfaces by any of their names, and what a rule file says twice by two of them. Pure.

A rule file is checked without knowing the host, so that two names of one interface are known to be
one only here.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from mcrd.addresses import destinations
from mcrd.config.joined import joined
from mcrd.config.overlap import Claim, box, clashes, everything, spans
from mcrd.config.reflect import OF_REFLECT
from mcrd.model import BROADCAST, MARK, Config, Input, Interface, Output, Rule
from mcrd.planning.broadcast import input_here
from mcrd.planning.links import Link

Links = Mapping[str, Link]
"""Interfaces by each of their names."""

DEFAULT: Final = Interface()


def written(rule: str) -> str:
    """What the rule file calls a rule."""
    return rule.partition(MARK)[0]


def reflected(rule: str) -> str | None:
    """The NAME of the [reflect.NAME] that has made a rule; None: none has."""
    name, made, _ = rule.partition(OF_REFLECT)
    return name if made else None


def by_name(links: Iterable[Link]) -> dict[str, Link]:
    """Interfaces by each of their names. A real name wins over an alternative one."""
    found = {link.name: link for link in links}
    for link in list(found.values()):
        for name in link.alternatives:
            found.setdefault(name, link)
    return found


def real(name: str, links: Links) -> str:
    """The interface's own name; `name` itself while no interface has it."""
    link = links.get(name)
    return name if link is None else link.name


def shown(name: str, links: Links) -> str:
    """A name of the rule file, with the interface's own beside it where that is another one."""
    own = real(name, links)
    return name if own == name else f"{name} ({own})"


def used(config: Config) -> frozenset[str]:
    """The names that a rule file has."""
    return frozenset(_used(config, config.rules.values()))


def aliases(names: Iterable[str], links: Links) -> dict[str, str]:
    """Those of the names that are alternative ones now, each with the interface's own."""
    return {name: links[name].name for name in names if name in links and links[name].name != name}


def settings(config: Config, link: Link) -> Interface:
    """How the interface is read: by the table of its own name, else by the first of another."""
    name = _table(config, link)
    return DEFAULT if name is None else config.interfaces[name]


def rejoin(config: Config, rule: Rule, links: Links) -> float | None:
    """How often the memberships of a rule are reported unasked, in seconds; None: never."""
    link = links.get(rule.input.interface)
    return None if link is None else settings(config, link).rejoin


def members(config: Config, links: Links) -> dict[str, int]:
    """How many members a worker may have, by the interface's own name, where a table is for it."""
    found = {link.name: link for name, link in links.items() if name in config.interfaces}
    return {name: settings(config, link).members for name, link in found.items()}


def merging(config: Config, links: Links) -> list[Link]:
    """Inputs with `gro`, and the interfaces that their frames come by: ports, and what is below."""
    if not any(table.gro for table in config.interfaces.values()):
        return []
    inputs = (links.get(r.input.interface) for r in config.rules.values() if r.enabled)
    found = {link.index: link for link in inputs if link and settings(config, link).gro}
    waiting = list(found.values())
    while waiting:
        above = waiting.pop()
        for link in links.values():
            below = link.master == above.index or link.index == above.lower
            if below and link.index not in found:
                found[link.index] = link
                waiting.append(link)
    return list(found.values())


def lanes(config: Config, links: Links) -> Mapping[str, str]:
    """The lanes of interfaces, by their own names, whose rings one worker reads.

    These are the interfaces of the legs of one rule, and those that have one in common with them.
    A lane is called by the name that its first interface has in the rule file, there or not.
    """
    legs: dict[str, list[str]] = {}
    for rule in config.rules.values():
        if rule.leg and rule.enabled:
            legs.setdefault(rule.stream, []).append(rule.input.interface)
    called = {real(name, links): name for names in reversed(legs.values()) for name in names[::-1]}
    own = ([real(name, links) for name in names] for names in legs.values())
    return {name: called[first] for name, first in joined(own).items()}


def rule_here(rule: Rule, links: Links) -> Rule:
    """The rule with the interfaces' own names and broadcasts; the same object where none differ."""
    if rule.input.address == BROADCAST:
        rule = replace(rule, input=input_here(rule.input, links.get(rule.input.interface)))
    if all(real(name, links) == name for name in names_of(rule)):
        return rule
    given = replace(rule.input, interface=real(rule.input.interface, links))
    outputs = (
        each if each.interface is None else replace(each, interface=real(each.interface, links))
        for each in rule.outputs
    )
    return replace(rule, input=given, outputs=tuple(outputs))


def config_here(config: Config, links: Links) -> Config:
    """The rules with the interfaces' own names; the same object where they have no others."""
    if not aliases(used(config), links):
        return config
    rules = {name: rule_here(rule, links) for name, rule in config.rules.items()}
    tables = {
        real(name, links): table
        for name, table in config.interfaces.items()
        if name not in links or _table(config, links[name]) == name
    }
    return replace(config, rules=MappingProxyType(rules), interfaces=MappingProxyType(tables))


@dataclass(frozen=True, slots=True)
class Doubles:
    """Rules that repeat others by another name, and why they wait. Later ones lose.

    `inputs` by rule; `outputs` by rule and place; `tables` are of [interfaces.NAME], by NAME.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[tuple[str, int], str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)

    def of(self, rule: Rule) -> tuple[str, ...]:
        """The reasons of the input, then of each output; "" for none."""
        if not self.inputs and not self.outputs:
            return ()
        outputs = (self.outputs.get((rule.name, at), "") for at in range(len(rule.outputs)))
        found = (self.inputs.get(rule.name, ""), *outputs)
        return found if any(found) else ()


NONE = Doubles()


def doubles(config: Config, links: Links) -> Doubles:
    """The doubles that the check of the rule file could not know, among enabled rules."""
    # Who names an interface comes before those that a pattern has led there.
    rules = [rule for rule in config.rules.values() if rule.enabled]
    rules.sort(key=lambda rule: MARK in rule.name)
    by_index: dict[int, list[str]] = {}
    for name in _used(config, rules):
        if name in links:
            by_index.setdefault(links[name].index, []).append(name)
    several = {name: at for at, found in by_index.items() if len(found) > 1 for name in found}
    unseen = {
        rule.input.interface: links[rule.input.interface].index
        for rule in rules
        if (MARK in rule.name or rule.input.address == BROADCAST) and rule.input.interface in links
    }
    if not several and not unseen:
        return NONE
    of_outputs: dict[tuple[str, int], str] = {}
    for rule in rules:
        of_outputs |= _within(rule, several, links)
    for key, why in _source_ports(rules, several):
        of_outputs.setdefault(key, why)
    of_inputs = dict(_inputs(rules, {**unseen, **several}, links))
    return Doubles(of_inputs, of_outputs, dict(_tables(config, links, several)))


Several = Mapping[str, int]
"""Names of interfaces that the rule file calls by more than one name, with their indices."""


def _used(config: Config, rules: Collection[Rule]) -> set[str]:
    """The names in use. A set for each of thousands of rules would take several times as long."""
    ends = (output.interface for rule in rules for output in rule.outputs)
    found = {name for name in ends if name is not None}
    return found.union(config.interfaces, (rule.input.interface for rule in rules))


def names_of(rule: Rule) -> set[str]:
    outputs = (output.interface for output in rule.outputs if output.interface is not None)
    return {rule.input.interface, *outputs}


def _table(config: Config, link: Link) -> str | None:
    if link.name in config.interfaces:
        return link.name
    return next((name for name in config.interfaces if name in link.alternatives), None)


def _one(first: str | None, second: str | None) -> str:
    if first == second:
        return f"both on {first}"
    return f"{first} and {second} are one interface"


def _inputs(rules: Sequence[Rule], several: Several, links: Links) -> Iterator[tuple[str, str]]:
    here = [
        (rule, claim)
        for rule in rules
        if rule.input.interface in several
        for claim in _taken(rule.input, several, links)
    ]
    for later, earlier in clashes([claim for _, claim in here]):
        rule, first = here[later][0], here[earlier][0]
        if rule is first:
            continue
        names = _one(rule.input.interface, first.input.interface)
        same = replace(rule.input, interface=first.input.interface) == first.input
        yield rule.name, f"{'same input as' if same else 'overlaps'} rules.{first.name}: {names}"


def _taken(given: Input, several: Several, links: Links) -> list[Claim]:
    place = (several[given.interface], given.protocol, given.vlan)
    sources = spans(given.address.version, given.sources, given.exclude)
    here = input_here(given, links.get(given.interface))
    return [Claim(box(place, each, given.port), sources) for each in destinations(here)]


def _sent(rule: Rule, output: Output, several: Several, *more: object) -> Claim:
    place = (several[output.interface or ""], rule.input.protocol, None, *more)
    return Claim(box(place, output.address, output.port), everything(output.address.version))


def _within(rule: Rule, several: Several, links: Links) -> dict[tuple[str, int], str]:
    """Outputs that are another output of the rule, or its input."""
    found = {}
    here = [(at, each) for at, each in enumerate(rule.outputs) if each.interface in several]
    claims = [_sent(rule, output, several) for _, output in here]
    for later, earlier in clashes(claims):
        (at, output), (first, other) = here[later], here[earlier]
        why = f"sends where outputs[{first}] does: {_one(output.interface, other.interface)}"
        found[rule.name, at] = why
    if rule.input.interface in several:
        taken = _taken(rule.input, several, links)
        for (at, output), claim in zip(here, claims, strict=True):
            if any(claim.box.overlaps(each.box) for each in taken):
                names = _one(output.interface, rule.input.interface)
                found[rule.name, at] = f"sends where the rule's own input is: {names}"
    return found


def _source_ports(rules: Sequence[Rule], several: Several) -> Iterator[tuple[tuple[str, int], str]]:
    """Outputs of several rules that send the same from the same port."""
    here = [
        (rule, at, output)
        for rule in rules
        for at, output in enumerate(rule.outputs)
        if output.interface in several and output.source_port is not None
    ]
    claims = [
        _sent(rule, output, several, output.source, output.source_port) for rule, _, output in here
    ]
    for later, earlier in clashes(claims):
        rule, at, output = here[later]
        other, _, first = here[earlier]
        if other.stream != rule.stream:
            names = _one(output.interface, first.interface)
            why = f"same source port, source and destination as an output of rules.{other.name}"
            yield (rule.name, at), f"{why}: {names}"


def _tables(config: Config, links: Links, several: Several) -> Iterator[tuple[str, str]]:
    for name in config.interfaces:
        if name in several and (chosen := _table(config, links[name])) not in (name, None):
            yield name, f"has no effect beside interfaces.{chosen}: {_one(name, str(chosen))}"
