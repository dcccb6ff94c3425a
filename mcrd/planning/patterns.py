"""Patterns of interfaces, and names of hosts: as many inputs and outputs as there are now. Pure.

From here on a rule has the names of interfaces alone, and outputs to addresses. One with a pattern
in its input becomes a rule for each interface, called RULE@INTERFACE, and one with several inputs a
rule for each.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import NamedTuple

from mcrd.config.outputs import CHOOSING_AT_MOST, LISTED_AT_MOST
from mcrd.model import (
    MARK,
    Config,
    HostName,
    Interface,
    Output,
    Role,
    Rule,
    Switch,
    is_pattern,
)
from mcrd.planning.hostnames import ADDRESSES_AT_MOST, Resolved, to_hosts
from mcrd.planning.links import Link
from mcrd.planning.names import Links, real, reflected, written
from mcrd.words import few

INPUTS_AT_MOST = 32
"""Interfaces that the pattern of one input stands for: each has a worker and its rings."""
OUTPUTS_AT_MOST = 128
"""Interfaces that the pattern of one output stands for."""
NAMED = 3  # of those that are left out
LOOPBACK = 772  # ARPHRD_LOOPBACK, linux/if_arp.h


def called(name: str, rules: Iterable[str]) -> list[str]:
    """The rules of this name: itself, those that it has become, or those of a [reflect.NAME]."""
    return [rule for rule in rules if name in (rule, written(rule), reflected(rule))]


def several(name: str, rules: Sequence[str]) -> str:
    """Words for who has to say which one is meant."""
    is_one = name != reflected(rules[0])
    what = f"a rule for each of {len(rules)} interfaces" if is_one else f"{len(rules)} rules"
    return f"{name} is {what}; name one: {few(rules, NAMED, ', ...')}"


class _Made(NamedTuple):
    """What has become of a rule, and by which interfaces."""

    rule: Rule
    by: tuple[tuple[str | Resolved | None, ...], ...]
    rules: tuple[Rule, ...]
    left_out: tuple[str, ...]


@dataclass(slots=True)
class Patterns:
    """Puts interfaces in the place of patterns, and addresses in that of names of hosts.

    What did not change stays the same object.
    """

    chosen: dict[str, str] = field(default_factory=dict)
    """The inputs that are used by hand, by rule, as what becomes of them is called."""
    roles: dict[str, Role] = field(default_factory=dict)
    """What is wanted by hand of rules with `active_with`, by rule."""
    resolved: Mapping[str, Resolved] = field(default_factory=dict)
    """The addresses of hosts, by their names."""
    _of: Config = field(default_factory=Config)
    _made: dict[str, _Made] = field(default_factory=dict)
    _last: Config = field(default_factory=Config)

    def expand(self, config: Config, links: Links) -> Config:
        """The rules with the interfaces that there are; the same object where nothing changed.

        `warnings` say what is left out, as there may be too many.
        """
        if config is not self._of:
            self._of = self._last = config
        if not any(map(self._concerns, config.rules.values())) and not any(
            map(is_pattern, config.interfaces)
        ):
            self._made = {}
            return config
        found = _Matches(links)
        made = {
            rule.name: self._rules(rule, found, links)
            for rule in config.rules.values()
            if self._concerns(rule)
        }
        interfaces = _tables(config, found)
        if (
            self._last is not config
            and interfaces == self._last.interfaces
            and made.keys() == self._made.keys()
            and all(made[name] is self._made[name] for name in made)
        ):
            return self._last
        self._made = made
        rules: dict[str, Rule] = {}
        for rule in config.rules.values():
            entry = made.get(rule.name)
            rules.update((each.name, each) for each in (entry.rules if entry else (rule,)))
        left_out = (line for entry in made.values() for line in entry.left_out)
        self._last = replace(
            config,
            rules=MappingProxyType(rules),
            interfaces=MappingProxyType(interfaces),
            warnings=(*config.warnings, *left_out),
        )
        return self._last

    def _concerns(self, rule: Rule) -> bool:
        return _is_several(rule) or (bool(rule.active_with) and rule.name in self.roles)

    def _rules(self, rule: Rule, found: _Matches, links: Links) -> _Made:
        patterns = (rule.input.interface, *(output.interface for output in rule.outputs))
        by: tuple[tuple[str | Resolved | None, ...], ...]
        by = tuple(found.names(name) for name in patterns if is_pattern(name))
        chosen = self.chosen.get(rule.name, "")
        role = self.roles.get(rule.name) if rule.active_with else None
        by += ((chosen, role),)
        hosts = (output.address for output in rule.outputs)
        by += (tuple(self.resolved.get(h.name) for h in hosts if isinstance(h, HostName)),)
        # A literal name may stand for an interface that a pattern matches, too.
        by += (tuple(real(name, links) for name in patterns if name is not None),)
        known = self._made.get(rule.name)
        if known is not None and known.by == by and known.rule is rule:
            return known
        wanted = replace(rule, role=role) if role is not None else rule
        addressed, unsent = _addressed(wanted, links, self.resolved)
        rules = tuple(_become(addressed, found, links, chosen)) if rule.enabled else (rule,)
        if known is not None:
            same = {each.name: each for each in known.rules}
            rules = tuple(same[r.name] if same.get(r.name) == r else r for r in rules)
        left_out = (*_left_out(rule, found), *unsent) if rule.enabled else ()
        return _Made(rule, by, rules, left_out)


class _Matches:
    """The interfaces by the patterns that they match; those that came first stand first."""

    def __init__(self, links: Links) -> None:
        several = {link.index: link for link in links.values() if link.hardware != LOOPBACK}
        self._links = [several[index] for index in sorted(several)]
        self._known: dict[str, tuple[Link, ...]] = {}

    def of(self, pattern: str) -> tuple[Link, ...]:
        """Those that match it."""
        if pattern not in self._known:
            self._known[pattern] = tuple(link for link in self._links if matches(pattern, link))
        return self._known[pattern]

    def names(self, pattern: str) -> tuple[str, ...]:
        """Their own names."""
        return tuple(link.name for link in self.of(pattern))


def matches(pattern: str, link: Link) -> bool:
    """Whether one of the interface's names is of the pattern."""
    return any(fnmatchcase(name, pattern) for name in (link.name, *link.alternatives))


def expand(config: Config, links: Links) -> Config:
    """As Patterns.expand(), once."""
    return Patterns().expand(config, links)


def _is_several(rule: Rule) -> bool:
    ends = (rule.input.interface, *(output.interface for output in rule.outputs))
    return (
        bool(rule.more)
        or any(map(is_pattern, ends))
        or any(isinstance(output.address, HostName) for output in rule.outputs)
    )


def _become(rule: Rule, found: _Matches, links: Links, chosen: str) -> Iterator[Rule]:
    """The rule for each interface of its input; as it is while there is none."""
    if rule.more:
        legs = list(_legs(rule))
        switch = _with(rule.switch, legs, chosen)
        yield from legs if switch is rule.switch else (replace(r, switch=switch) for r in legs)
        return
    given, any_came = rule.input, False
    if not is_pattern(given.interface):
        here = real(given.interface, links)
        yield replace(rule, outputs=tuple(_outputs(rule, here, found, links)))
        return
    for name in found.names(given.interface)[:INPUTS_AT_MOST]:
        outputs = tuple(_outputs(rule, name, found, links))
        if outputs:
            any_came = True
            yield replace(
                rule,
                name=f"{rule.name}{MARK}{name}",
                input=replace(given, interface=name),
                outputs=outputs,
            )
    if not any_came:
        yield rule


def _legs(rule: Rule) -> Iterator[Rule]:
    """A rule for each of its inputs. One of an interface that another has is called by its number.

    No interface has a slash in its name.
    """
    taken: set[str] = set()
    for leg, given in enumerate((rule.input, *rule.more), start=1):
        again = f"/{leg}" if given.interface in taken else ""
        taken.add(given.interface)
        name = f"{rule.name}{MARK}{given.interface}{again}"
        yield replace(rule, name=name, input=given, more=(), leg=leg)


def _with(switch: Switch | None, legs: Sequence[Rule], chosen: str) -> Switch | None:
    numbers = [leg.leg for leg in legs if leg.name == chosen]
    return replace(switch, chosen=numbers[0]) if switch is not None and numbers else switch


def _outputs(rule: Rule, came: str, found: _Matches, links: Links) -> Iterator[Output]:
    """Those of what comes by `came`. A pattern never leads back there, nor to another output."""
    taken = {
        (real(output.interface, links), output.address, output.port)
        for output in rule.outputs
        if output.interface is not None and not is_pattern(output.interface)
    }
    by_pattern = is_pattern(rule.input.interface)
    for output in rule.outputs:
        if not is_pattern(output.interface):
            back = output.interface is not None and real(output.interface, links) == came
            if not (by_pattern and back):
                yield output
            continue
        names = [name for name in found.names(output.interface) if name != came]
        alone = True
        for name in names[:OUTPUTS_AT_MOST]:
            alone = False
            place = (name, output.address, output.port)
            if place not in taken:
                taken.add(place)
                yield replace(output, interface=name)
        if alone:
            yield output


def _addressed(
    rule: Rule, links: Links, resolved: Mapping[str, Resolved]
) -> tuple[Rule, tuple[str, ...]]:
    """The rule with the addresses of hosts, and a line for each name of which some are left out.

    None is there twice, nor where the rule sends anyhow.
    """
    if not any(isinstance(output.address, HostName) for output in rule.outputs):
        return rule, ()
    outputs = [each for each in rule.outputs if not isinstance(each.address, HostName)]
    taken = {_place(each, links) for each in outputs}
    choosing, listed = sum(map(_chooses, outputs)), sum(map(_lists, outputs))
    outputs, left_out = [], []
    for at, output in enumerate(rule.outputs):
        if not isinstance(output.address, HostName):
            outputs.append(output)
            continue
        left = max(
            0, len(resolved.get(str(output.address), Resolved()).addresses) - ADDRESSES_AT_MOST
        )
        for one in to_hosts(rule, output, resolved):
            if (place := _place(one, links)) in taken:
                continue
            choosing, listed = choosing + _chooses(one), listed + _lists(one)
            if choosing > CHOOSING_AT_MOST or listed > LISTED_AT_MOST:
                left += 1
                continue
            taken.add(place)
            outputs.append(one)
        if left:
            left_out.append(
                f"{rule.place}: rules.{rule.name}.outputs[{at}].address: {output.address} has more"
                f" addresses than a rule can send to; left out: {left}"
            )
    return replace(rule, outputs=tuple(outputs)), tuple(left_out)


def _chooses(output: Output) -> bool:
    """Whether it sends some of what the rule takes alone: a worker knows how for some outputs."""
    return output.sample != 1 or _lists(output) > 0


def _lists(output: Output) -> int:
    return len(output.sources) + len(output.exclude)


def _place(output: Output, links: Links) -> tuple[str, object, object]:
    return real(output.interface or "", links), output.address, output.port


def _left_out(rule: Rule, found: _Matches) -> Iterator[str]:
    """A line for each pattern that more interfaces match than it may stand for."""
    ends: list[tuple[str, str | None, int]] = [("input", rule.input.interface, INPUTS_AT_MOST)]
    ends += [
        (f"outputs[{at}]", output.interface, OUTPUTS_AT_MOST)
        for at, output in enumerate(rule.outputs)
    ]
    for end, pattern, most in ends:
        names = found.names(pattern) if is_pattern(pattern) else ()
        if len(names) > most:
            yield (
                f"{rule.place}: rules.{rule.name}.{end}.interface: {len(names)} interfaces match"
                f' "{pattern}", and {most} is the most: {few(names[most:], NAMED)} left out'
            )


def _tables(config: Config, found: _Matches) -> Mapping[str, Interface]:
    """A pattern of [interfaces.PATTERN] is for those that have no table by a name of theirs."""
    if not any(map(is_pattern, config.interfaces)):
        return config.interfaces
    tables = {name: table for name, table in config.interfaces.items() if not is_pattern(name)}
    for pattern in filter(is_pattern, config.interfaces):
        for link in found.of(pattern):
            if not any(name in tables for name in (link.name, *link.alternatives)):
                tables[link.name] = config.interfaces[pattern]
    return tables


def missing(name: str, links: Links) -> str:
    """Why there is no interface of a name, or of a pattern that could not be replaced."""
    if not is_pattern(name):
        return f"{name} is missing"
    other = "other " if _Matches(links).names(name) else ""
    return f'no {other}interface matches "{name}"'
