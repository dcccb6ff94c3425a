"""Patterns of interface names: which rules they become."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_interface
from types import MappingProxyType

import pytest

from mcrd.config import ConfigError, parse
from mcrd.model import Config
from mcrd.planning import names
from mcrd.planning.actual import Actual
from mcrd.planning.links import Link
from mcrd.planning.patterns import INPUTS_AT_MOST, Patterns, called, expand, missing, several
from mcrd.planning.plan import Add, plan
from mcrd.planning.states import states
from tests.lab.rules import rule


def link(name: str, index: int, *others: str, hardware: int = 1) -> Link:
    own = (ip_interface(f"10.{index}.0.1/24"),)
    there = (IPv4Address(f"10.{index}.0.255"),)
    return Link(name, index, True, True, 1500, hardware, own, others, broadcasts=there)


def links(*those: Link) -> names.Links:
    return names.by_name(those)


LO, ETH0, ETH1 = link("lo", 1, hardware=772), link("eth0", 2, "wan"), link("eth1", 3, "br-alias")
BR0, BR1 = link("br-0", 5), link("br-1", 4)  # the second was made first
ALL = links(LO, ETH0, ETH1, BR0, BR1)


def of(text: str) -> Config:
    return parse(text, "f")


def became(text: str, there: names.Links = ALL) -> dict[str, tuple[str, list[str]]]:
    """The rules, each with the interfaces of its input and outputs."""
    found = expand(of(text), there).rules
    return {
        name: (rule.input.interface, [output.interface or "-" for output in rule.outputs])
        for name, rule in found.items()
    }


GROUP = "239.1.1.1 5000"


@pytest.mark.parametrize(
    ("given", "outputs", "rules"),
    [
        # Into all bridges, and those that have such a name besides their own; the oldest first.
        (f"eth0 {GROUP}", ["br-* - -"], {"a": ("eth0", ["eth1", "br-1", "br-0"])}),
        (f"wan {GROUP}", ["br-[0-9] - -"], {"a": ("wan", ["br-1", "br-0"])}),
        # Never back to where it came from, whatever the name.
        (f"wan {GROUP}", ["eth? - -"], {"a": ("wan", ["eth1"])}),
        # No loopback, unless it is named.
        (f"br-0 {GROUP}", ["* - -"], {"a": ("br-0", ["eth0", "eth1", "br-1"])}),
        (f"br-0 {GROUP}", ["lo - -"], {"a": ("br-0", ["lo"])}),
        (f"br-0 {GROUP}", ["l* - -"], {"a": ("br-0", ["l*"])}),
        # A rule for each input.
        (f"br-? {GROUP}", ["eth0 - -"],
         {"a@br-1": ("br-1", ["eth0"]), "a@br-0": ("br-0", ["eth0"])}),
        (f"br-? {GROUP}", ["br-? - -"],
         {"a@br-1": ("br-1", ["br-0"]), "a@br-0": ("br-0", ["br-1"])}),
        # What is named is no exception, nor what is named twice.
        (f"br-? {GROUP}", ["br-0 - -"], {"a@br-1": ("br-1", ["br-0"])}),
        (f"eth0 {GROUP}", ["br-0 - - ttl=9", "br-? - - ttl=8"], {"a": ("eth0", ["br-0", "br-1"])}),
        (f"eth0 {GROUP}", ["br-0 239.2.2.2 -", "br-? - -"],
         {"a": ("eth0", ["br-0", "br-1", "br-0"])}),
        (f"eth0 {GROUP}", ["br-? - -", "*-0 - -"], {"a": ("eth0", ["br-1", "br-0"])}),
        # An output that follows the routes stays.
        (f"br-? {GROUP}", ["- 192.0.2.1 -"],
         {"a@br-1": ("br-1", ["-"]), "a@br-0": ("br-0", ["-"])}),
        # Nothing matches: the rule waits.
        (f"ppp* {GROUP}", ["eth0 - -"], {"a": ("ppp*", ["eth0"])}),
        (f"eth0 {GROUP}", ["ppp* - -", "eth1 - -"], {"a": ("eth0", ["ppp*", "eth1"])}),
        (f"wan* {GROUP}", ["eth0 - -"], {"a": ("wan*", ["eth0"])}),
    ],
)  # fmt: skip
def test_what_a_rule_becomes(
    given: str, outputs: list[str], rules: dict[str, tuple[str, list[str]]]
) -> None:
    assert became(rule("a", given, *outputs)) == rules


def test_the_words_of_what_is_not_there() -> None:
    assert missing("eth7", ALL) == "eth7 is missing"
    assert missing("ppp*", ALL) == 'no interface matches "ppp*"'
    assert missing("wan*", ALL) == 'no other interface matches "wan*"'
    config = expand(of(rule("a", f"eth0 {GROUP}", "ppp* - -")), ALL)
    found = states(config, Actual(links=ALL))["a"]
    assert (found.state, found.reason) == ("waiting", 'no interface matches "ppp*"')


def test_a_plan_has_a_worker_for_each() -> None:
    config = expand(of(rule("a", f"br-? {GROUP}", "br-? - - ttl=4")), ALL)
    steps = plan(config, Actual(links=MappingProxyType(ALL)))
    added = [step for step in steps if isinstance(step, Add)]
    assert {(add.key.worker.ingress.interface, add.key.rule) for add in added} == {
        ("br-0", "a@br-0"),
        ("br-1", "a@br-1"),
    }
    assert [each.interface for add in added for each in add.relay.outputs] == ["br-0", "br-1"]


def test_what_does_not_change_stays_the_same() -> None:
    """The same objects: planning compares them no further."""
    text = rule("a", f"br-? {GROUP}", "br-? - -") + rule("b", "eth0 239.1.1.2 5000", "eth1 - -")
    config, patterns = of(text), Patterns()
    first = patterns.expand(config, ALL)
    assert patterns.expand(config, ALL) is first
    assert patterns.expand(config, links(LO, ETH0, ETH1, BR0, BR1, link("ppp0", 9))) is first
    more = patterns.expand(config, links(LO, ETH0, ETH1, BR0, BR1, link("br-2", 9)))
    assert more is not first
    assert more.rules["b"] is first.rules["b"] is config.rules["b"]
    assert list(more.rules) == ["a@br-1", "a@br-0", "a@br-2", "b"]
    changed = of(text.replace("239.1.1.2", "239.1.1.3"))
    again = patterns.expand(changed, ALL)
    assert again.rules["a@br-0"] == first.rules["a@br-0"]
    plain = of(rule("b", "eth0 239.1.1.2 5000", "eth1 - -"))
    assert patterns.expand(plain, ALL) is plain
    off = of(rule("a", f"br-? {GROUP}", "br-? - -", more="enabled = false"))
    assert list(patterns.expand(off, ALL).rules) == ["a"]


def test_no_more_than_so_many() -> None:
    many = links(ETH0, *(link(f"br-{index}", index) for index in range(10, 50)))
    config = of(rule("a", f"br-* {GROUP}", "eth0 - - ttl=2"))
    found = expand(config, many)
    assert len(found.rules) == INPUTS_AT_MOST
    assert config.warnings == ()
    assert found.warnings == (
        'f:1:1: rules.a.input.interface: 40 interfaces match "br-*", and 32 is the most: '
        "br-42, br-43, br-44 and 5 more left out",
    )
    # Those that were there first stay.
    assert list(expand(config, {**many, "br-9": link("br-9", 60)}).rules) == list(found.rules)


def test_tables_of_patterns() -> None:
    text = rule("a", f"br-? {GROUP}", "eth0 - - ttl=2") + "".join(
        f'[interfaces."{name}"]\nworkers = {workers}\n'
        for name, workers in (("br-*", 2), ("br-0", 3), ("*", 4))
    )
    found = expand(of(text), ALL)
    workers = {
        each.name: names.settings(found, each).workers for each in (BR0, BR1, ETH0, ETH1, LO)
    }
    assert workers == {"br-0": 3, "br-1": 2, "eth0": 4, "eth1": 2, "lo": 1}
    assert of(text).warnings == ()


def test_who_is_named_comes_first() -> None:
    config = expand(
        of(rule("a", f"br-? {GROUP}", "eth0 - -") + rule("b", f"br-0 {GROUP}", "eth1 - -")), ALL
    )
    assert names.doubles(config, ALL).inputs == {"a@br-0": "same input as rules.b: both on br-0"}
    text = rule("a", "br-? 239.1.0.0/16 5000", "eth0 - -") + rule("b", f"b* {GROUP}", "eth1 - -")
    found = names.doubles(expand(of(text), ALL), ALL).inputs
    assert found["b@br-1"] == "overlaps rules.a@br-1: both on br-1"


def test_a_broadcast_that_is_named_twice() -> None:
    text = rule("a", "eth0 broadcast 9", "eth1 - -") + rule("b", "eth0 10.2.0.255 9", "br-0 - -")
    assert names.doubles(of(text), ALL).inputs == {"b": "overlaps rules.a: both on eth0"}
    other = {**ALL, "eth0": replace(ETH0, broadcasts=())}
    assert names.doubles(of(text), other).inputs == {}


def test_what_people_call_them() -> None:
    rules = ["a@br-0", "a@br-1", "ab", "b"]
    assert called("a", rules) == ["a@br-0", "a@br-1"]
    assert called("a@br-1", rules) == ["a@br-1"]
    assert called("b", rules) == ["b"]
    assert called("c", rules) == []
    assert (
        several("a", rules[:2]) == "a is a rule for each of 2 interfaces; name one: a@br-0, a@br-1"
    )


def test_what_the_file_is_told() -> None:
    """One pattern on both sides is no loop; twice the same pattern is an error."""
    assert of(rule("a", f"br-* {GROUP}", "br-* - - ttl=1")).warnings == ()
    for text in (
        rule("a", f"eth0 {GROUP}", "br-* - -", "br-* - -"),
        rule("a", f"br-* {GROUP}", "eth0 - -") + rule("b", f"br-* {GROUP}", "eth1 - -"),
    ):
        with pytest.raises(ConfigError):
            of(text)
