"""`sources`, `exclude` and `sample` of an output: what it sends of what its rule takes."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import msgspec
import pytest

from mcrd import answers, counters
from mcrd.cli import text
from mcrd.config import ConfigError, parse
from mcrd.config.outputs import CHOOSING_AT_MOST, LISTED_AT_MOST
from mcrd.daemon.index import pack, unpack
from mcrd.dataplane import messages
from mcrd.lanes.counts import OutputCount
from mcrd.lanes.orders import match_of, runs_of
from mcrd.model import Config, Output, Rule
from mcrd.planning.changes import changes
from mcrd.planning.links import Link
from mcrd.planning.needs import needs
from mcrd.planning.portions import ALL, Portion
from mcrd.planning.relays import Relay
from mcrd.planning.resources import Egress, Members
from tests.lab.rules import rule

LINKS = {
    name: Link(name, index, True, True, 1500, 1, (ip_interface(f"10.{index}.0.1/24"),))
    for index, name in enumerate(("r0", "r1"), 1)
}
TRAPS = "r0 10.1.0.1 162"


def given(*outputs: str, source: str = TRAPS) -> Rule:
    return parse(rule("a", source, *outputs), "f").rules["a"]


def wrong(*outputs: str, source: str = TRAPS) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        given(*outputs, source=source)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


def relay(of: Rule) -> Relay:
    (found,) = needs(of, Config(rules={"a": of}), LINKS).whole.values()
    return found


def test_what_the_rule_file_says() -> None:
    one, other = given(
        'r1 10.2.0.9 162 sources=["10.3.0.0/16","10.4.0.1"] exclude=["10.3.9.1"] sample=10',
        "r1 10.2.0.8 162",
    ).outputs
    assert one.sources == (ip_network("10.3.0.0/16"), ip_network("10.4.0.1/32"))
    assert (one.exclude, one.sample) == ((ip_network("10.3.9.1/32"),), 10)
    assert (other.sources, other.exclude, other.sample) == ((), (), 1)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (
            'sources=["fd01::/64"]',
            "rules.a.outputs[0].sources[0]: expected an IPv4 address or prefix, as the address of"
            " the input is, got fd01::/64",
        ),
        (
            'sources=["10.3.0.0/16"] exclude=["10.0.0.0/8"]',
            "rules.a.outputs[0].exclude: leaves no source that this output could send",
        ),
        (
            'sources=["10.9.0.0/16"]',
            "rules.a.outputs[0].sources: the input of this rule takes none of these sources",
        ),
        (
            'exclude=["10.3.0.0/16"]',
            "rules.a.outputs[0].exclude: the input of this rule takes none of these sources",
        ),
        (
            "sample=0",
            "rules.a.outputs[0].sample: expected an integer from 1 to 1000000, got 0",
        ),
        (
            "sampling=10",
            'rules.a.outputs[0].sampling: unknown key; did you mean "sample"?',
        ),
    ],
)
def test_what_is_wrong(output: str, problem: str) -> None:
    source = f'{TRAPS} sources=["10.3.0.0/16"]'
    assert wrong(f"r1 10.2.0.9 162 {output}", source=source) == [problem]


def test_the_family_is_that_of_the_input() -> None:
    (output,) = given('r1 fd02::9 162 sources=["10.3.0.0/16"]').outputs
    assert output.sources == (ip_network("10.3.0.0/16"),)


def test_there_are_bounds() -> None:
    many = [f"r1 10.2.0.9 {1000 + at} sample=2" for at in range(CHOOSING_AT_MOST + 1)]
    assert len(given(*many[:-1], "r1 10.2.0.9 999").outputs) == CHOOSING_AT_MOST + 1
    assert wrong(*many) == [
        "rules.a.outputs[64]: more than 64 outputs have sources, exclude or sample"
    ]
    listed = ",".join(f'"10.3.{at >> 8}.{at & 255}"' for at in range(LISTED_AT_MOST))
    source = "r0 10.1.0.1 162"
    assert given(f"r1 10.2.0.9 162 sources=[{listed}]", source=source)
    assert wrong(f'r1 10.2.0.9 162 sources=[{listed},"10.9.9.9"]') == [
        "rules.a.outputs[0]: the outputs of this rule list more than 2048 sources in all"
    ]


def test_what_a_worker_is_told_fits_a_message() -> None:
    """The most runs, of the longest addresses: every other address, over outputs of two kinds."""
    listed = ",".join(f'"fd03::{at:x}"' for at in range(0, 2 * LISTED_AT_MOST, 2))
    many = [f"r1 10.2.0.9 {1000 + at}" for at in range(CHOOSING_AT_MOST - 1)]
    made = relay(given(f"r1 10.2.0.9 162 sources=[{listed}]", *many, source="r0 fd01::1 162"))
    outputs = [
        messages.RuleOutput(70_000, 70_000, 10**8, 10**6, runs_of(portion, made.input))
        for portion in made.portions
    ]
    assert len(outputs[0].sources) == LISTED_AT_MOST
    request = messages.ReplaceRule(2**31, 16_000, match_of(made), outputs)
    assert len(messages.encode(request)) < messages.LARGEST * 3 / 4


def test_what_outputs_choose_is_in_the_relay_and_opens_nothing() -> None:
    plain = relay(given("r1 10.2.0.9 162", "r1 10.2.0.8 162"))
    assert plain.portions == (ALL, ALL)
    chosen = relay(given('r1 10.2.0.9 162 exclude=["10.1.0.0/16"] sample=3', "r1 10.2.0.8 162"))
    assert (chosen.outputs, chosen.needs) == (plain.outputs, plain.needs)
    low, high = int(ip_address("10.1.0.0")), int(ip_address("10.1.255.255"))
    runs = ((0, low - 1), (high + 1, 2**32 - 1))
    assert chosen.portions == (Portion(None, 3, runs), ALL)
    first = messages.SourceRun(bytes(4), bytes([10, 0, 255, 255]))
    last = messages.SourceRun(bytes([10, 2, 0, 0]), bytes([255] * 4))
    assert runs_of(chosen.portions[0], chosen.input) == [first, last]


def test_one_rule_has_a_kept_source_and_an_own_one() -> None:
    made = relay(given('r1 10.2.0.9 162 source="keep"', "r1 10.2.0.8 162"))
    assert made.by_source
    assert [type(output) for output in made.outputs] == [Members, Egress]


def test_changes_are_told() -> None:
    old, new = given("r1 10.2.0.9 162"), given('r1 10.2.0.9 162 sources=["10.3.0.0/16"] sample=10')
    told = changes(Config(rules={"a": old}), Config(rules={"a": new})).changed
    assert told == {
        "a": ["outputs[0].sources [] -> [10.3.0.0/16]", "outputs[0].sample 1 -> 10"],
    }


def test_the_next_supervisor_understands_them_and_one_before_what_says_nothing() -> None:
    plain = Output("r1", ip_address("10.2.0.9"), 162, ttl=64)
    assert not {"sources", "exclude", "sample"} & pack(plain)[1].keys()
    chosen = replace(plain, exclude=(ip_network("10.1.0.0/16"),), sample=3)
    assert unpack(pack(chosen)) == chosen
    assert "skipped" not in pack(OutputCount())[1]
    counted = OutputCount(skipped={"not_wanted": 3, "not_sampled": 0})
    assert unpack(pack(counted)) == counted


def test_in_words() -> None:
    skips = {"not_wanted": 3, "not_sampled": 9}
    output = {
        "interface": "r1",
        "address": "10.2.0.9",
        "port": 162,
        "sent": {"packets": 1},
        **skips,
    }
    stats = msgspec.convert({"rules": {"a": {"outputs": [output]}}}, counters.Stats)
    assert (
        "    sent 1 packets, 0 bytes to r1 10.2.0.9:162; skipped: 3 not_wanted (not from its"
        " sources, or nobody has joined), 9 not_sampled (not in its sample)" in text.stats(stats)
    )
    chosen = {"interface": "r1", "address": "10.2.0.9", "port": 162, "exclude": ["10.1.0.1"]}
    taken = {"sources": ["10.1.0.2/32", "10.3.0.0/16"]}
    rules = {"rules": {"a": {"input": taken, "outputs": [{**chosen, "sample": 10}]}}}
    told = list(text.rules(msgspec.convert(rules, answers.Rules)))
    assert told[1].endswith("(sources 10.1.0.2, 10.3.0.0/16)")
    assert told[-1].endswith("(exclude 10.1.0.1) (one packet in 10)")
