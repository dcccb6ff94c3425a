"""Rules with several inputs: what their file may say, and what becomes of them."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from mcrd.config import ConfigError, parse
from mcrd.config.joined import joined
from mcrd.planning import names
from mcrd.planning.actual import Actual
from mcrd.planning.changes import changes
from mcrd.planning.links import Link
from mcrd.planning.patterns import expand
from mcrd.planning.plan import Add, Close, Open, plan
from mcrd.planning.resources import Egress, Ingress, Relay, RelayKey, Resource, Ring, Worker

A = '{ interface = "eth0", address = "239.1.1.1", port = 5000 }'
B = '{ interface = "eth1", address = "239.1.1.2", port = 5001 }'
OUT = '{ interface = "eth2", address = "239.2.2.2", port = 6000, ttl = 4 }'


def rule(name: str, *inputs: str, outputs: str = OUT, more: str = "") -> str:
    """The text of a rule."""
    return f"[rules.{name}]\ninputs = [{', '.join(inputs)}]\noutputs = [{outputs}]\n{more}"


LINKS = {
    name: Link(name, index, True, True, 1500, 1, (ip_interface(f"10.{index}.0.1/24"),))
    for index, name in enumerate(("eth0", "eth1", "eth2", "eth3"), start=2)
}
LAST = '{ interface = "eth3", address = "239.1.1.3", port = 5000 }'


def test_each_input_becomes_a_rule() -> None:
    again = '{ interface = "eth0", address = "fd01::1", port = 5000, sources = ["fd01::/64"] }'
    config = expand(parse(rule("feed", A, again, B), "f"), LINKS)
    assert list(config.rules) == ["feed@eth0", "feed@eth0/2", "feed@eth1"]
    assert [each.leg for each in config.rules.values()] == [1, 2, 3]
    assert {each.stream for each in config.rules.values()} == {"feed"}
    assert len({each.outputs for each in config.rules.values()}) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (rule("a", A), "f:2:10: rules.a.inputs: expected 2 to 4 inputs, got 1"),
        (
            rule("a", A, B, more=f"input = {LAST}\n"),
            "f:2:1: rules.a.inputs: a rule has either input or inputs",
        ),
        (f"[rules.a]\noutputs = [{OUT}]", "f:1:1: rules.a.input: missing; expected a table"),
        (
            rule("a", A, B.replace("eth1", "eth*")),
            "rules.a.inputs[1].interface: one of several inputs has one interface, no pattern",
        ),
        (
            rule("a", A, B.replace("5001", '"5001-5002"')),
            "rules.a.inputs[1].port: one of several inputs has one port, no range",
        ),
        (
            rule("a", A, B, outputs=OUT.replace("}", ', source = "keep" }')),
            'rules.a.outputs[0].source: "keep" is for rules with one input',
        ),
        (rule("a", A, A), "rules.a.inputs[1]: same input as rules.a (f:2:11)"),
        (
            rule("a", A, B, outputs=A),
            "rules.a.outputs[0]: same interface, address and port as the input of this rule",
        ),
        (
            rule("a", A, B) + "[interfaces.eth1]\nworkers = 2\n",
            "interfaces.eth1.workers: the inputs of rules.a have one worker together",
        ),
    ],
)
def test_what_several_inputs_cannot_have(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert any(told in str(problem) for problem in caught.value.problems)


def test_too_many_interfaces_for_one_worker() -> None:
    chain = "".join(
        rule(
            f"r{at}",
            *(A.replace("eth0", f"v{end}").replace("5000", f"{5000 + at}") for end in (at, at + 1)),
            outputs=OUT.replace("6000", f"{6000 + at}"),
        )
        for at in range(8)
    )
    with pytest.raises(ConfigError, match="one worker would read 9 interfaces"):
        parse(chain, "f")


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([], {}),
        ([["a"], ["b", "b"]], {}),
        ([["a", "b"], ["c"]], {"a": "a", "b": "a"}),
        ([["c", "d"], ["a", "b"], ["b", "d"]], dict.fromkeys("abcd", "c")),
        ([["a"], ["b", "a"]], {"a": "a", "b": "a"}),
    ],
)
def test_interfaces_that_are_read_together(rules: list[list[str]], found: dict[str, str]) -> None:
    assert joined(rules) == found


def test_one_worker_and_one_socket() -> None:
    """Also while an interface is not there, so that both stay when it comes."""
    config = expand(parse(rule("feed", A, B) + rule("b", LAST, LAST.replace("3", "4")), "f"), LINKS)
    two = {"eth0": "eth0", "eth1": "eth0"}
    assert names.lanes(config, LINKS) == {**two, "eth3": "eth3", "eth4": "eth3"}
    config = expand(parse(rule("feed", A, B), "f"), LINKS)
    steps = plan(config, Actual(LINKS))
    opened = [step.resource for step in steps if isinstance(step, Open)]
    rings = [each for each in opened if isinstance(each, Ingress)]
    assert rings == [Ingress("eth0", 2, lane="eth0"), Ingress("eth1", 3, lane="eth0")]
    (worker,) = (each for each in opened if isinstance(each, Worker))
    (egress,) = (each for each in opened if isinstance(each, Egress))
    added = {step.key: step.relay for step in steps if isinstance(step, Add)}
    assert {key.rule: relay.ring for key, relay in added.items()} == {
        "feed@eth0": Ring(rings[0]),
        "feed@eth1": Ring(rings[1]),
    }
    assert all(relay.outputs == (egress,) for relay in added.values())

    without = {name: link for name, link in LINKS.items() if name != "eth0"}
    opened = [step.resource for step in plan(config, Actual(without)) if isinstance(step, Open)]
    assert worker in opened
    assert egress in opened


def test_interfaces_that_get_one_worker_lose_their_own_first() -> None:
    own: list[Resource] = [Ingress("eth0", 2), Worker(Ingress("eth0", 2))]
    config = expand(parse(rule("feed", A, B), "f"), LINKS)
    given = config.rules["feed@eth0"].input
    relays = {RelayKey(Worker(Ingress("eth0", 2)), "x"): Relay(given, (), ())}
    steps = plan(config, Actual(LINKS, frozenset(own), relays))
    assert steps[:2] == (Close(own[1], anew=True), Close(own[0], anew=True))


def test_what_changes_is_said() -> None:
    one = parse(f"[rules.feed]\ninput = {A}\noutputs = [{OUT}]\n", "f")
    two = parse(rule("feed", A, B), "f")
    text = "\n".join(map(str, [changes(one, two)]))
    assert "inputs eth0 239.1.1.1:5000 -> eth0 239.1.1.1:5000, eth1 239.1.1.2:5001" in text
    assert changes(one, two).interfaces == {"eth0": ["worker of its own -> of eth0"]}
