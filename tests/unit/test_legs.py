"""Rules with several inputs: what their file may say, and what becomes of them."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
from ipaddress import ip_interface

import pytest

from mcrd.client import ControlError
from mcrd.config import ConfigError, parse
from mcrd.config.joined import joined
from mcrd.daemon.switches import Inputs, Switches, drop_choices, wanted
from mcrd.lanes.counts import RuleCount, SwitchCount
from mcrd.lanes.ledger import Ledger
from mcrd.lanes.merges import MERGE_BY
from mcrd.lanes.orders import match_of
from mcrd.planning import names
from mcrd.planning.actual import Actual
from mcrd.planning.changes import changes
from mcrd.planning.links import Link
from mcrd.planning.patterns import Patterns, expand
from mcrd.planning.plan import Add, Close, Open, plan
from mcrd.planning.relays import Relay, RelayKey
from mcrd.planning.resources import Egress, Ingress, Resource, Ring, Worker

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
        (
            rule("a", A, B, more='switch = { silence = "1ms" }\n'),
            "f:4:22: rules.a.switch.silence: expected 10 ms to 1 minute",
        ),
        (
            rule("a", A, B, more='switch = { silence = "1s", back = "2h" }\n'),
            "f:4:35: rules.a.switch.back: expected 100 ms to 1 hour",
        ),
        (rule("a", A, B, more="switch = {}\n"), "rules.a.switch.silence: missing"),
        (
            rule("a", A, B, more='switch = { silence = "1s" }\nmerge = { by = "rtp" }\n'),
            "f:4:1: rules.a.switch: a rule has either switch or merge",
        ),
        (
            f'[rules.a]\ninput = {A}\noutputs = [{OUT}]\nswitch = {{ silence = "1s" }}\n',
            "f:4:1: rules.a.switch: is for a rule with several inputs",
        ),
        (
            rule("a", A, B, more='merge = { by = "rtp", delay = "2s" }\n'),
            'f:4:31: rules.a.merge.delay: expected 0 to 1 s, in ms or s, as in "20ms"',
        ),
        (
            rule("a", A, B, more='merge = { by = "content", delay = "20ms" }\n'),
            "f:4:35: rules.a.merge.delay: contents have no order",
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
    assert changes(two, one).interfaces == {"eth0": ["worker of eth0 -> of its own"]}


SWITCH = 'switch = { silence = "200ms", back = "5s" }\n'


@pytest.mark.parametrize(
    ("inspect", "by"),
    [
        ("", (0, 0, 0)),
        ('inspect = "auto"\n', (0, 0, 0)),
        ('inspect = "rtp"\n', (MERGE_BY["rtp"], 0, 0)),
        ('inspect = "moldudp64"\n', (MERGE_BY["moldudp64"], 0, 0)),
        ("inspect = { offset = 4, bytes = 2 }\n", (MERGE_BY["sequence"], 4, 2)),
    ],
)
def test_what_a_worker_is_told_of_a_switch(inspect: str, by: tuple[int, int, int]) -> None:
    patterns = Patterns({"feed": "feed@eth1"})
    written = parse(rule("feed", A, B, more=SWITCH + inspect), "f")
    config = patterns.expand(written, LINKS)
    steps = plan(config, Actual(LINKS))
    relays = {step.key.rule: step.relay for step in steps if isinstance(step, Add)}
    told = [match_of(relays[name]).switches for name in ("feed@eth0", "feed@eth1")]
    for leg, switch in enumerate(told):
        assert switch is not None
        assert (switch.silence, switch.back, switch.chosen) == (200_000_000, 5_000_000_000, 2)
        copies = switch.copies
        assert (copies.leg, copies.by, copies.offset, copies.bytes) == (leg, *by)
    assert match_of(relays["feed@eth0"]).merge is None
    # The same objects while the choice is the same, and others when it is not.
    assert patterns.expand(written, LINKS) is config
    patterns.chosen.clear()
    after = patterns.expand(written, LINKS).rules["feed@eth0"].switch
    assert after is not None
    assert after.chosen == 0


def test_an_input_is_chosen_by_any_name() -> None:
    again = B.replace("5001", "5002")
    rules = expand(parse(rule("feed", A, B, again, more=SWITCH), "f"), LINKS).rules
    for text, name in (("1", "feed@eth0"), ("eth0", "feed@eth0"), ("feed@eth1/3", "feed@eth1/3")):
        found = wanted("feed", text, rules)
        assert found is not None
        assert found.name == name
    assert wanted("feed", "auto", rules) is None
    for text, told in (("eth1", "several inputs of that"), ("4", "no input '4'; say one of 1 ")):
        with pytest.raises(ControlError, match=told):
            wanted("feed", text, rules)
    with pytest.raises(ControlError, match="has no switch"):
        wanted("b", "1", rules)
    chosen = {"feed": "feed@eth9"}
    drop_choices(chosen, rules)
    assert not chosen


def test_switches_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """The last one of several, once; how it came to it is in the answers."""
    rules = expand(parse(rule("feed", A, B, more=SWITCH), "f"), LINKS).rules
    counts = {
        "feed@eth0": SwitchCount(since=10.0, why="first", last=19.0),
        "feed@eth1": SwitchCount(True, 1, 20.0, "silent", 1, 0.25, 20.0),
    }
    ledger = Ledger()
    ledger.take_over(({name: RuleCount(switch=each) for name, each in counts.items()}, {}, {}, {}))
    switches = Switches()
    caplog.set_level(logging.INFO)
    switches.look(rules, ledger)
    switches.look(rules, ledger)
    told = "rules.feed: input 2 (eth1) is in use now: input 1 (eth0) was silent for 250 ms"
    assert caplog.messages == [told]
    first, second = (Inputs(rules, ledger).of(rules[name]) for name in counts)
    assert first is not None
    assert second is not None
    assert (first.used, first.in_use, second.used, second.switches) == (False, "feed@eth1", True, 1)
    assert first.why == "input 1 (eth0) was silent for 250 ms"
    counts["feed@eth0"].add(SwitchCount(True, 3, 30.0, "steady", 2))
    counts["feed@eth1"].used = False
    switches.look(rules, ledger)
    assert caplog.messages[1:] == [
        "rules.feed: input 1 (eth0) is in use now: it has been steady for 5 s"
        " (3 switches since the last look)"
    ]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (SWITCH, "switch after 0.2 s of silence, back after 5 s -> none"),
        ('merge = { by = "rtp" }\n', "merge by rtp -> none"),
    ],
)
def test_that_legs_do_something_else_is_said_once(key: str, told: str) -> None:
    one, two = (parse(rule("feed", A, B, more=more), "f") for more in (key, ""))
    assert changes(one, two).changed["feed"] == [told]
