"""changes(): what `mcrctl reload` and `mcrctl diff` print, word for word."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcrd.answers import Changes
from mcrd.model import Config, Daemon, Input, Inspect, Interface, Metrics, Output, Place, Rule
from mcrd.planning.changes import changes
from tests.unit.test_plan import configs

if TYPE_CHECKING:
    from random import Random

WALL = Output("eth1", ip_address("239.2.2.2"), 6000, ttl=1)
CLOUD = Output("wg0", ip_address("10.100.0.2"), 6000, ttl=64)
RULE = Rule("y", Input("eth0", ip_address("239.1.1.1"), 5000), (WALL, CLOUD))


def lines(before: Rule | None, after: Rule | None) -> list[str]:
    """What is printed when one rule changes."""
    old = Config(rules={before.name: before} if before else {})
    new = Config(rules={after.name: after} if after else {})
    return changes(old, new).text


def about(**change: object) -> str:
    """What is said about a rule of which these keys changed."""
    line, unchanged = lines(RULE, replace(RULE, **change))  # type: ignore[arg-type]
    assert unchanged == "= 0 unchanged"
    return line


def about_first_output(**change: object) -> str:
    """What is said when the first output changes."""
    return about(outputs=(replace(WALL, **change), CLOUD))  # type: ignore[arg-type]


def test_the_words_of_a_reload() -> None:
    same = {f"same-{number}": replace(RULE, name=f"same-{number}") for number in range(41)}
    old = Config(rules={"y": RULE, "z": replace(RULE, name="z"), **same})
    new = Config(
        rules={
            **same,
            "x": replace(RULE, name="x"),
            "y": replace(RULE, outputs=(replace(WALL, ttl=8), CLOUD)),
        }
    )
    assert changes(old, new).text == [
        "+ rules.x",
        "~ rules.y: outputs[0].ttl 1 -> 8",
        "- rules.z",
        "= 41 unchanged",
    ]


def test_an_added_rule() -> None:
    assert lines(None, RULE) == ["+ rules.y", "= 0 unchanged"]


def test_a_removed_rule() -> None:
    assert lines(RULE, None) == ["- rules.y", "= 0 unchanged"]


def test_a_renamed_rule_is_one_removed_and_one_added() -> None:
    assert lines(RULE, replace(RULE, name="x")) == ["+ rules.x", "- rules.y", "= 0 unchanged"]


def test_nothing() -> None:
    assert lines(RULE, RULE) == ["= 1 unchanged"]
    assert lines(None, None) == ["= 0 unchanged"]


def test_a_rule_that_only_moved_in_the_file_is_unchanged() -> None:
    assert lines(RULE, replace(RULE, place=Place("/etc/mcr.toml", 3, 1))) == ["= 1 unchanged"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dscp", 34, "outputs[0].dscp 0 -> 34"),
        ("loop", True, "outputs[0].loop false -> true"),
        ("source", ip_address("10.1.0.1"), "outputs[0].source none -> 10.1.0.1"),
        ("source_port", 7000, "outputs[0].source_port none -> 7000"),
        ("port", 6001, "outputs[0].port 6000 -> 6001"),
        ("interface", "eth2", "outputs[0].interface eth1 -> eth2"),
        ("address", ip_address("239.2.2.3"), "outputs[0].address 239.2.2.2 -> 239.2.2.3"),
        ("address", ip_address("ff15::1"), "outputs[0].address 239.2.2.2 -> ff15::1"),
    ],
)
def test_a_setting_of_an_output(key: str, value: object, words: str) -> None:
    assert about_first_output(**{key: value}) == f"~ rules.y: {words}"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("interface", "eth9", "input.interface eth0 -> eth9"),
        ("address", ip_address("239.1.1.9"), "input.address 239.1.1.1 -> 239.1.1.9"),
        ("port", 5009, "input.port 5000 -> 5009"),
    ],
)
def test_a_setting_of_the_input(key: str, value: object, words: str) -> None:
    change = {key: value}
    assert about(input=replace(RULE.input, **change)) == f"~ rules.y: {words}"  # type: ignore[arg-type]


def test_several_settings_are_in_one_line() -> None:
    assert about_first_output(ttl=8, dscp=34) == (
        "~ rules.y: outputs[0].ttl 1 -> 8; outputs[0].dscp 0 -> 34"
    )


def test_a_rule_switched_off() -> None:
    assert about(enabled=False) == "~ rules.y: enabled true -> false"


def test_a_description_stays_on_its_line_and_shows_where_it_ends() -> None:
    assert about(description="Wall, hall 3") == '~ rules.y: description "" -> "Wall, hall 3"'
    assert about(description="two\nlines") == '~ rules.y: description "" -> "two\\nlines"'


def test_an_added_output() -> None:
    new = Output("eth2", ip_address("ff15::1"), 7000, ttl=1)
    words = "~ rules.y: outputs[2] added (eth2 [ff15::1]:7000)"
    assert about(outputs=(WALL, CLOUD, new)) == words


def test_an_output_added_in_front_of_the_others() -> None:
    new = Output("eth2", ip_address("239.9.9.9"), 7000, ttl=1)
    words = "~ rules.y: outputs[0] added (eth2 239.9.9.9:7000)"
    assert about(outputs=(new, WALL, CLOUD)) == words


def test_a_removed_output_is_called_by_its_old_place() -> None:
    assert about(outputs=(WALL,)) == "~ rules.y: outputs[1] removed (wg0 10.100.0.2:6000)"
    assert about(outputs=(CLOUD,)) == "~ rules.y: outputs[0] removed (eth1 239.2.2.2:6000)"


def test_outputs_in_another_order() -> None:
    assert about(outputs=(CLOUD, WALL)) == "~ rules.y: outputs in another order"


def test_an_output_that_moved_and_changed_is_called_by_its_new_place() -> None:
    assert about(outputs=(CLOUD, replace(WALL, ttl=8))) == "~ rules.y: outputs[1].ttl 1 -> 8"


def test_the_daemon_s_own_settings() -> None:
    loud = Config(daemon=Daemon(log_level="debug", watch=False))
    assert changes(Config(), loud).text == [
        "~ daemon.log_level info -> debug",
        "~ daemon.watch true -> false",
        "= 0 unchanged",
    ]


def test_where_the_metrics_are_and_what_the_sandbox_costs() -> None:
    other = Config(
        metrics=Metrics("127.0.0.1:9464"), daemon=Daemon(sandbox="strict", loss=0.01, engine="poll")
    )
    assert changes(Config(), other).text == [
        "~ daemon.sandbox default -> strict (all workers are replaced; packets wait in the rings)",
        "~ daemon.loss 0.001 -> 0.01",
        "~ daemon.engine auto -> poll (all workers are replaced; packets wait in the rings)",
        "~ metrics.listen none -> 127.0.0.1:9464",
        "= 0 unchanged",
    ]
    assert about(silence=2.0) == "~ rules.y: silence none -> 2 s"
    assert about(inspect=Inspect("rtp")) == "~ rules.y: inspect none -> rtp"
    number = Inspect("sequence", 0, 4, "little")
    assert about(inspect=number).endswith("inspect none -> 4 bytes at 0, little end first")


def test_warnings_are_no_change() -> None:
    assert changes(Config(), Config(warnings=("a TTL of 1",))).text == ["= 0 unchanged"]


@given(configs())
def test_a_rule_file_and_itself_differ_in_nothing(config: Config) -> None:
    same = len(config.rules)
    assert changes(config, config) == Changes(unchanged=same, text=[f"= {same} unchanged"])


@given(configs(), configs(), st.randoms())
def test_the_order_of_the_rules_does_not_matter(old: Config, new: Config, random: Random) -> None:
    def turned(config: Config) -> Config:
        items = list(config.rules.items())
        random.shuffle(items)
        return Config(rules=dict(items))

    def content(found: Changes) -> tuple[object, ...]:
        return set(found.added), set(found.removed), found.changed, found.unchanged

    assert content(changes(turned(old), turned(new))) == content(changes(old, new))


@given(configs(), configs())
def test_every_rule_is_in_exactly_one_place(old: Config, new: Config) -> None:
    found = changes(old, new)
    assert set(found.added) == new.rules.keys() - old.rules.keys()
    assert set(found.removed) == old.rules.keys() - new.rules.keys()
    assert len(found.added) + len(found.changed) + found.unchanged == len(new.rules)


@given(configs(), configs())
def test_a_rule_is_called_changed_when_it_is_and_something_is_said(
    old: Config, new: Config
) -> None:
    found = changes(old, new)
    for name in old.rules.keys() & new.rules.keys():
        assert (name in found.changed) is (old.rules[name] != new.rules[name])
        assert name not in found.changed or all(found.changed[name])
        assert name not in found.changed or found.changed[name]


@given(configs(), configs())
def test_what_is_added_one_way_is_removed_the_other(old: Config, new: Config) -> None:
    there, back = changes(old, new), changes(new, old)
    assert set(there.added) == set(back.removed)
    assert set(there.removed) == set(back.added)
    assert there.changed.keys() == back.changed.keys()
    assert there.unchanged == back.unchanged


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (Interface(rejoin=30.0), "rejoin none -> 30 s"),
        (Interface(igmp_version=2, rejoin=90.0), "igmp_version none -> 2; rejoin none -> 90 s"),
        (Interface(rejoin=30.0, workers=2), "workers 1 -> 2; rejoin none -> 30 s (its rings"),
        (Interface(rejoin=30.0, cpus=(1,)), "cpus [] -> [1]; rejoin none -> 30 s (its workers"),
    ],
)
def test_what_is_reported_costs_no_packet(new: Interface, words: str) -> None:
    old = Config(rules={"y": RULE})
    line, _ = changes(old, replace(old, interfaces={"eth0": new})).text
    assert line.startswith(f"~ interfaces.eth0: {words}")
    assert line.endswith((words, ")"))
