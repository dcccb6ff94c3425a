"""states(): every state that a rule and an output can be in, and the reason that users read."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given

from mcrd.daemon.log_of_states import IN_A_MINUTE, Pace, tell_changes
from mcrd.model import Config, Input, Output, Rule
from mcrd.planning.actual import Actual, Failure
from mcrd.planning.links import Link
from mcrd.planning.names import doubles
from mcrd.planning.needs import needs
from mcrd.planning.plan import Replace, plan
from mcrd.planning.relays import RelayKey
from mcrd.planning.resources import Egress, Members, Nowhere
from mcrd.planning.states import OutputState, RuleState, State, states
from tests.unit.test_plan import carry_out, configs, hosts, reach

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrd.planning.resources import Resource

LINKS = {
    name: Link(name, index, True, True, 1500, 1, (ip_interface(address),))
    for name, index, address in (
        ("eth0", 2, "10.0.0.1/24"),
        ("eth1", 3, "10.1.0.1/24"),
        ("wg0", 4, "10.100.0.1/24"),
    )
}
WALL = Output("eth1", ip_address("239.2.2.2"), 6000, ttl=8)
CLOUD = Output("wg0", ip_address("10.100.0.2"), 6000, ttl=64)
RULE = Rule("camera", Input("eth0", ip_address("239.1.1.1"), 5000), (WALL, CLOUD))
CONFIG = Config(rules={"camera": RULE})
RUNNING = reach(CONFIG, LINKS)
NEEDS = needs(RULE, CONFIG, LINKS)
((KEY, EGRESS),) = NEEDS.relays.items()
ACTIVE = OutputState("active")


def of(actual: Actual, rule: Rule = RULE) -> RuleState:
    """The state of one rule."""
    return states(Config(rules={rule.name: rule}), actual)[rule.name]


def first_output() -> Egress:
    """What has to be open for the first output."""
    assert isinstance(EGRESS[0], Egress)
    return EGRESS[0]


def failing(what: Resource | RelayKey, reason: str = "broken", retry_in: float = 0.5) -> Actual:
    """What comes of the rule when one thing cannot be had."""
    now = carry_out(plan(CONFIG, Actual(LINKS)), Actual(LINKS), [what])
    return replace(now, failures={what: Failure(reason, 100.0 + retry_in)}, now=100.0)


def test_active() -> None:
    assert of(RUNNING) == RuleState("active", None, (ACTIVE, ACTIVE))


def test_disabled() -> None:
    rule = replace(RULE, enabled=False)
    off = OutputState("disabled")
    assert of(RUNNING, rule) == RuleState("disabled", None, (off, off))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda link: None, "eth1 is missing"),  # noqa: ARG005
        (lambda link: replace(link, up=False), "eth1 is down"),
        (lambda link: replace(link, carrier=False), "eth1 has no carrier"),
        (lambda link: replace(link, addresses=()), "eth1 has no IPv4 address"),
    ],
)
def test_an_output_waits_while_its_rule_is_active(
    change: Callable[[Link], Link | None], why: str
) -> None:
    changed = change(LINKS["eth1"])
    links = {**LINKS, "eth1": changed}
    now = reach(CONFIG, {name: link for name, link in links.items() if link is not None})
    assert of(now) == RuleState("active", None, (OutputState("waiting", why), ACTIVE))


def test_a_rule_waits_when_all_its_outputs_do_and_says_what_for() -> None:
    links = {"eth0": LINKS["eth0"], "eth1": replace(LINKS["eth1"], up=False)}
    assert of(reach(CONFIG, links)) == RuleState(
        "waiting",
        "eth1 is down; wg0 is missing",
        (OutputState("waiting", "eth1 is down"), OutputState("waiting", "wg0 is missing")),
    )


def test_one_reason_of_many_outputs_is_said_once() -> None:
    rule = replace(RULE, outputs=tuple(replace(WALL, port=port) for port in (1, 2, 3)))
    assert of(Actual({"eth0": LINKS["eth0"]}), rule).reason == "eth1 is missing"


def test_a_rule_stands_by_where_this_host_has_none_of_the_addresses() -> None:
    pair = replace(RULE, active_with=(ip_address("10.1.0.7"), ip_address("fd00::7")))
    why = "this host does not have the address 10.1.0.7 or fd00::7"
    stands = OutputState("standby", why)
    config = Config(rules={"camera": pair})
    assert of(reach(config, LINKS), pair) == RuleState("standby", why, (stands, stands))
    down = LINKS | {"eth1": replace(LINKS["eth1"], up=False)}
    waits = OutputState("waiting", "eth1 is down")
    assert of(reach(config, down), pair) == RuleState("standby", why, (waits, stands))
    deaf = LINKS | {"eth0": replace(LINKS["eth0"], carrier=False)}
    assert of(reach(config, deaf), pair).state == "waiting"
    failed = replace(reach(config, LINKS), failures={KEY: Failure("broken", 0.5)})
    assert of(failed, pair).state == "failed"
    # It takes one of them, on whatever interface; and what somebody wants goes before that.
    has = replace(LINKS["wg0"], addresses=(*LINKS["wg0"].addresses, ip_interface("fd00::7/64")))
    here = LINKS | {"wg0": has}
    assert of(reach(config, here), pair).state == "active"
    by_hand = replace(pair, role="standby")
    why = "by hand, until `mcrctl follow camera`"
    assert of(reach(Config(rules={"camera": by_hand}), here), by_hand).reason == why
    urged = replace(pair, role="active")
    assert of(reach(Config(rules={"camera": urged}), LINKS), urged).state == "active"


def test_a_takeover_is_one_message_for_each_worker() -> None:
    pair = replace(RULE, active_with=(ip_address("10.1.0.7"),))
    config, wall = Config(rules={"camera": pair}), LINKS["eth1"]
    stands = reach(config, LINKS)
    has = replace(wall, addresses=(*wall.addresses, ip_interface("10.1.0.7/24")))
    (step,) = plan(config, replace(stands, links=LINKS | {"eth1": has}))
    assert isinstance(step, Replace)
    assert not step.relay.standby


def test_a_rule_waits_for_its_input() -> None:
    links = {name: link for name, link in LINKS.items() if name != "eth0"}
    state = of(reach(CONFIG, links))
    assert (state.state, state.reason) == ("waiting", "eth0 is missing")
    assert {output.state for output in state.outputs} == {"waiting"}


@pytest.mark.parametrize(
    ("change", "why"),
    [({"up": False}, "eth0 is down"), ({"carrier": False}, "eth0 has no carrier")],
)
def test_a_rule_waits_for_an_input_that_is_down(change: dict[str, bool], why: str) -> None:
    links = {**LINKS, "eth0": replace(LINKS["eth0"], **change)}  # type: ignore[arg-type]
    state = of(reach(CONFIG, links))
    waits = OutputState("waiting", why)
    assert state == RuleState("waiting", why, (waits, waits))


def test_an_output_that_waits_for_something_else_says_so_under_a_rule_that_waits() -> None:
    links = {
        "eth0": replace(LINKS["eth0"], up=False),
        "eth1": LINKS["eth1"],
        "wg0": replace(LINKS["wg0"], carrier=False),
    }
    assert of(reach(CONFIG, links)).outputs == (
        OutputState("waiting", "eth0 is down"),
        OutputState("waiting", "wg0 has no carrier"),
    )


GROUP6 = Output("eth1", ip_address("ff15::1"), 6000, ttl=8)


@pytest.mark.parametrize(
    ("output", "link", "reason"),
    [
        (WALL, {"multicast": False}, "eth1 has no flag MULTICAST: "),
        (replace(WALL, source="keep"), {"multicast": False}, "eth1 has no flag MULTICAST: "),
        (GROUP6, {"addresses": (ip_interface("fe80::1/64"),)}, "no router passes on "),
        (WALL, {"addresses": (ip_interface("169.254.0.1/16"),)}, "no router passes on "),
        # Nothing is wrong with these.
        (replace(CLOUD, interface="eth1"), {"multicast": False}, None),
        (replace(GROUP6, ttl=1), {"addresses": (ip_interface("fe80::1/64"),)}, None),
        (GROUP6, {"addresses": (ip_interface("fe80::1/64"), ip_interface("fd00::1/64"))}, None),
        (
            replace(GROUP6, address=ip_address("ff02::fb"), ttl=255),
            {"addresses": (ip_interface("fe80::1/64"),)},
            None,
        ),
        (
            replace(WALL, address=ip_address("224.0.0.251"), ttl=255),
            {"addresses": (ip_interface("169.254.0.1/16"),)},
            None,
        ),
    ],
)
def test_an_active_output_says_why_its_packets_may_go_nowhere(
    output: Output, link: dict[str, object], reason: str | None
) -> None:
    rule = replace(RULE, outputs=(output,))
    config = Config(rules={rule.name: rule})
    links = {**LINKS, "eth1": replace(LINKS["eth1"], **link)}  # type: ignore[arg-type]
    state = states(config, reach(config, links))[rule.name]
    assert (state.state, state.reason) == ("active", None)
    (how,) = state.outputs
    assert how.state == "active"
    assert (how.reason or "").startswith(reason or "")
    assert bool(how.reason) is bool(reason)


def test_an_input_needs_no_address() -> None:
    links = {**LINKS, "eth0": replace(LINKS["eth0"], addresses=())}
    assert of(reach(CONFIG, links)).state == "active"


def test_an_output_failed_while_its_rule_is_active() -> None:
    state = of(failing(first_output(), "Permission denied (EACCES)"))
    failed = OutputState("failed", "Permission denied (EACCES)", 0.5)
    assert state == RuleState("active", None, (failed, ACTIVE))


def test_a_rule_failed_when_its_only_usable_output_did() -> None:
    links = {name: link for name, link in LINKS.items() if name != "wg0"}
    egress = first_output()
    now = reach(CONFIG, links, broken=[egress])
    now = replace(now, failures={egress: Failure("no buffers", 2.0)}, now=1.5)
    assert of(now) == RuleState(
        "failed",
        "no buffers",
        (OutputState("failed", "no buffers", 0.5), OutputState("waiting", "wg0 is missing")),
        0.5,
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "ingress on eth0: broken"),
        (1, "worker of eth0: broken"),
        (2, "membership of 239.1.1.1 on eth0: broken"),
    ],
)
def test_a_rule_failed_when_something_that_it_needs_did(number: int, words: str) -> None:
    failed = OutputState("failed", words)
    assert of(failing(NEEDS.required[number])) == RuleState("failed", words, (failed, failed), 0.5)


def test_a_rule_that_hears_no_members_is_not_idle_but_failed() -> None:
    only = replace(WALL, when="members")
    rule = replace(RULE, outputs=(only,))
    assert of(Actual(LINKS), rule).state == "idle"
    (tells,) = needs(rule, CONFIG, LINKS).idle.values()
    deaf = Actual(LINKS, failures={tells: Failure("broken", 100.5)}, now=100.0)
    why = "IGMP querier on eth1: broken"
    assert of(deaf, rule) == RuleState("failed", why, (OutputState("failed", why, 0.5),), 0.5)
    beside = reach(Config(rules={"camera": replace(RULE, outputs=(only, CLOUD))}), LINKS)
    found = of(replace(beside, failures=deaf.failures), replace(RULE, outputs=(only, CLOUD)))
    assert found.state == "active"
    assert [each.state for each in found.outputs] == ["failed", "active"]


def test_members_that_come_and_go_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rule = replace(RULE, outputs=(replace(WALL, when="members"),))
    idle, on = (RuleState(state, None, (OutputState(state),)) for state in ("idle", "active"))
    pace = Pace()
    for _ in range(100):
        tell_changes({"camera": idle}, {"camera": on}, {"camera": rule}, pace)
        tell_changes({"camera": on}, {"camera": idle}, {"camera": rule}, pace)
    assert len(caplog.messages) == IN_A_MINUTE + 1
    assert "members come and go faster than is said here" in caplog.messages[-1]
    caplog.clear()
    doubted = RuleState("active", None, (OutputState("active", "no member names a source"),))
    pace = Pace()
    for _ in range(100):
        tell_changes({"camera": on}, {"camera": doubted}, {"camera": rule}, pace)
        tell_changes({"camera": doubted}, {"camera": on}, {"camera": rule}, pace)
    assert len(caplog.messages) == IN_A_MINUTE + 1
    assert [record.levelname for record in caplog.records][:2] == ["WARNING", "INFO"]
    broken = RuleState("failed", "broken", (OutputState("failed", "broken"),))
    tell_changes({"camera": idle}, {"camera": broken}, {"camera": rule}, pace)
    assert "failed" in caplog.messages[-1]


def test_a_rule_failed_that_its_worker_refused() -> None:
    failed = OutputState("failed", "no memory")
    state = of(failing(KEY, "no memory"))
    assert state == RuleState("failed", "no memory", (failed, failed), 0.5)


def test_a_retry_whose_time_has_come_is_never_in_the_past() -> None:
    state = of(failing(first_output(), retry_in=-3.0))
    assert state.outputs[0].retry_in == 0.0


def test_what_is_under_way_is_said_to_be() -> None:
    opening = OutputState("waiting", "being opened")
    assert of(Actual(LINKS)) == RuleState("waiting", "being opened", (opening, opening))


def test_an_output_just_added_is_under_way_while_the_others_run() -> None:
    before = Config(rules={"camera": replace(RULE, outputs=(WALL,))})
    state = of(reach(before, LINKS))
    assert state == RuleState("active", None, (ACTIVE, OutputState("waiting", "being opened")))


def test_no_rule_is_missing_and_the_order_is_that_of_the_file() -> None:
    config = Config(rules={name: replace(RULE, name=name) for name in ("z", "a", "m")})
    assert list(states(config, Actual(LINKS))) == ["z", "a", "m"]


@given(configs(), hosts())
def test_every_rule_has_a_state_with_a_reason_where_one_is_needed(
    config: Config, links: dict[str, Link]
) -> None:
    now = reach(config, links)
    found = states(config, now)
    relayed = {key.rule for key in now.relays}
    assert list(found) == list(config.rules)
    for name, state in found.items():
        assert len(state.outputs) == len(config.rules[name].outputs)
        every: tuple[RuleState | OutputState, ...] = (state, *state.outputs)
        for what in every:
            assert what.state in get_args(State)
            if what.state in ("waiting", "failed", "standby") or isinstance(what, RuleState):
                assert bool(what.reason) is (what.state in ("waiting", "failed", "standby"))
            assert what.retry_in is None
        assert state.state in ("active", "standby", "waiting", "disabled")
        assert state.state == "active" or "active" not in {each.state for each in state.outputs}
        if state.state in ("active", "standby"):
            assert name in relayed
            assert state.state in {output.state for output in state.outputs}
            assert {r.standby for key, r in now.relays.items() if key.rule == name} == {
                state.state == "standby"
            }
        elif links.get(config.rules[name].input.interface) is None or state.state == "disabled":
            assert name not in relayed


@given(configs(), hosts())
def test_what_failed_is_failed_with_its_time_and_its_reason(
    config: Config, links: dict[str, Link]
) -> None:
    whole = reach(config, links)
    broken = {found for found in whole.open if isinstance(found, Egress | Members)}
    now = reach(config, links, broken=broken)
    clash = doubles(config, links)
    for name, state in states(config, now).items():
        rule = config.rules[name]
        entry = needs(rule, config, links, double=clash.of(rule))
        tried = [o for relay in entry.whole.values() for o in relay.outputs]
        if config.rules[name].enabled and not entry.waits:
            if all(isinstance(output, Nowhere) for output in tried):
                assert state.state == "waiting"
                continue
            assert (state.state, state.reason) == ("failed", "broken")
            assert state.retry_in is not None
            assert state.retry_in > 0
