"""plan(): what it does step by step, and what holds for any configuration, links and failures."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcrd.model import Config, Input, Output, Rule
from mcrd.plan import (
    Actual,
    Add,
    Close,
    Failure,
    Open,
    Relay,
    RelayKey,
    Remove,
    Replace,
    Step,
    plan,
    wish,
)
from mcrd.resources import Egress, Hold, Ingress, Link, Membership, Resource, Worker

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from mcrd.model import Address

INTERFACES = ("eth0", "eth1", "wg0")
NAMES = ("a", "b", "c", "d")
GROUPS = ("239.1.1.1", "239.1.1.2", "ff15::1", "ff02::5")
HOSTS = ("10.0.0.9", "10.1.0.9", "192.0.2.7", "fd00::9", "fe80::9")
OWN = (
    "10.0.0.1/24",
    "10.1.0.1/24",
    "10.1.0.2/24",
    "169.254.0.1/16",
    "fd00::1/64",
    "fd01::1/64",
    "fe80::1/64",
)
RETRY = 1.0  # seconds

ADDRESSES = st.sampled_from([ip_address(text) for text in GROUPS + HOSTS])
PORTS = st.sampled_from([5000, 5001])
MOSTLY = st.sampled_from([True] * 7 + [False])


# What a rule file and a host may be.


def inputs() -> st.SearchStrategy[Input]:
    """What a rule may take."""
    return st.builds(Input, st.sampled_from(INTERFACES), ADDRESSES, PORTS)


@st.composite
def outputs(draw: st.DrawFn) -> Output:
    """An output with any of its settings."""
    address = draw(ADDRESSES)
    own = [found.ip for found in map(ip_interface, OWN) if found.version == address.version]
    return Output(
        interface=draw(st.sampled_from(INTERFACES)),
        address=address,
        port=draw(PORTS),
        ttl=draw(st.integers(1, 3)),
        dscp=draw(st.sampled_from([0, 34])),
        source=draw(st.sampled_from([None, None, None, *own])),
        source_port=draw(st.none() | st.just(7000)),
        loop=draw(st.booleans()) if address.is_multicast else False,
    )


@st.composite
def rules(draw: st.DrawFn, name: str) -> Rule:
    """A rule whose outputs differ from each other and from its input."""
    source = draw(inputs())
    targets = draw(st.lists(outputs(), min_size=1, max_size=2, unique_by=_target))
    kept = [o for o in targets if _target(o) != (source.interface, source.address, source.port)]
    assume(kept)
    return Rule(name, source, tuple(kept), enabled=draw(MOSTLY))


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """A rule file that passes the checks: no two rules take the same input."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    return _config(draw(rules(name)) for name in names)


@st.composite
def edits(draw: st.DrawFn) -> tuple[Config, Config]:
    """A rule file before and after an edit, with some rules that were left alone."""
    before, other = draw(configs()), draw(configs())
    chosen = [
        draw(st.sampled_from([side[name] for side in (before.rules, other.rules) if name in side]))
        for name in dict.fromkeys((*before.rules, *other.rules))
        if draw(MOSTLY)
    ]
    return before, _config(chosen)


@st.composite
def links(draw: st.DrawFn, name: str) -> Link:
    """An interface: down, without carrier, made anew, with addresses or without."""
    some = st.lists(st.sampled_from(OWN), unique=True)
    return Link(
        name=name,
        index=INTERFACES.index(name) + 1 + 10 * draw(st.integers(0, 1)),
        up=draw(MOSTLY),
        carrier=draw(MOSTLY),
        mtu=1500,
        hardware=1,
        addresses=tuple(map(ip_interface, draw(st.permutations(OWN) | some))),
    )


@st.composite
def hosts(draw: st.DrawFn) -> dict[str, Link]:
    """The interfaces of a host; any of them may be missing."""
    return {name: draw(links(name)) for name in INTERFACES if draw(MOSTLY)}


def _target(output: Output) -> tuple[str, Address, int]:
    return (output.interface, output.address, output.port)


def _config(of: Iterable[Rule]) -> Config:
    taken: set[Input] = set()
    kept: dict[str, Rule] = {}
    for rule in of:
        if rule.input not in taken:
            taken.add(rule.input)
            kept[rule.name] = rule
    return Config(rules=kept)


# What carrying out a plan comes to, without a single socket.


def carry_out(
    steps: Iterable[Step], actual: Actual, broken: Collection[Resource | RelayKey] = ()
) -> Actual:
    """The state after the steps; what is in `broken` fails, and is to be tried again in RETRY s.

    A relay has what could be opened of its egress sockets. One that cannot be had in its new form
    does not stay in its old one: nobody asks for that any more.
    """
    opened = set(actual.open)
    relays = dict(actual.relays)
    failures = dict(actual.failures)

    def fail(what: Resource | RelayKey) -> None:
        failures[what] = Failure("broken", actual.now + RETRY)

    for step in steps:
        match step:
            case Open(resource):
                assert resource not in opened
                if isinstance(resource, Worker) and resource.ingress not in opened:
                    continue
                if resource in broken:
                    fail(resource)
                else:
                    opened.add(resource)
                    failures.pop(resource, None)
            case Add(key, relay) | Replace(key, relay):
                assert (key in relays) is isinstance(step, Replace)
                egress = tuple(sock for sock in relay.egress if sock in opened)
                if not broken:
                    assert egress == relay.egress
                    assert opened.issuperset(relay.needs)
                before = relays.pop(key, None)
                if not egress or not opened.issuperset(relay.needs):
                    continue
                relay = replace(relay, egress=egress)
                if key in broken and relay != before:
                    fail(key)
                else:
                    relays[key] = relay
                    failures.pop(key, None)
            case Remove(key):
                del relays[key]
            case Close(resource):
                assert resource in opened
                assert not [key for key, relay in relays.items() if _uses(key, relay, resource)]
                opened.remove(resource)
    return replace(actual, open=frozenset(opened), relays=relays, failures=failures)


def _uses(key: RelayKey, relay: Relay, resource: Resource) -> bool:
    return resource in (key.worker, key.worker.ingress, *relay.needs, *relay.egress)


def reach(
    config: Config,
    links: Mapping[str, Link],
    start: Actual | None = None,
    broken: Collection[Resource | RelayKey] = (),
) -> Actual:
    """The state that `config` leads to, from `start` or from nothing."""
    now = replace(start or Actual(), links=links)
    return carry_out(plan(config, now), now, broken)


def resources_of(steps: Iterable[Step]) -> set[Resource]:
    """What the steps open and close."""
    return {step.resource for step in steps if isinstance(step, Open | Close)}


def keys_of(steps: Iterable[Step]) -> set[RelayKey]:
    """The rules, in their workers, that the steps touch."""
    return {step.key for step in steps if isinstance(step, Add | Replace | Remove)}


def wanted_by(rule: Rule, links: Mapping[str, Link]) -> set[Resource]:
    """What has to be open for a rule."""
    if not rule.enabled:
        return set()
    entry = wish(rule, links)
    return {*entry.needs, *entry.egress, *entry.optional} if entry.key else set()


# What always holds.


@given(configs(), configs(), hosts(), hosts())
def test_where_one_comes_from_makes_no_difference(
    a: Config, b: Config, before: dict[str, Link], after: dict[str, Link]
) -> None:
    reached = reach(b, after, reach(a, before))
    fresh = reach(b, after)
    assert reached.open == fresh.open
    assert reached.relays == fresh.relays


@given(configs(), configs(), hosts(), hosts())
def test_planning_again_gives_the_empty_plan(
    a: Config, b: Config, before: dict[str, Link], after: dict[str, Link]
) -> None:
    assert plan(b, reach(b, after, reach(a, before))) == ()


@given(configs(), hosts())
def test_without_rules_nothing_is_left(config: Config, links: dict[str, Link]) -> None:
    ended = reach(Config(), links, reach(config, links))
    assert ended.open == frozenset()
    assert ended.relays == {}


@given(edits(), hosts(), st.data())
def test_what_failed_and_only_that_is_tried_again_when_its_time_has_come(
    edit: tuple[Config, Config], links: dict[str, Link], data: st.DataObject
) -> None:
    a, b = edit
    start = reach(a, links)
    steps = plan(b, start)
    things = [step.resource for step in steps if isinstance(step, Open)]
    things += [step.key for step in steps if isinstance(step, Add | Replace)]  # type: ignore[misc]
    assume(things)
    broken = data.draw(st.sets(st.sampled_from(things), min_size=1))
    now = carry_out(steps, start, broken)

    assert plan(b, now) == ()
    assert plan(b, replace(now, now=RETRY / 2)) == ()

    retry = replace(now, now=RETRY)
    steps, whole = plan(b, retry), reach(b, links, start)
    missing = whole.open - now.open
    assert missing >= {what for what in now.failures if not isinstance(what, RelayKey)}
    unlucky = {Worker(what) for what in now.failures if isinstance(what, Ingress)}
    assert missing <= {*now.failures, *unlucky}
    assert {step.resource for step in steps if isinstance(step, Open)} == missing
    assert keys_of(steps) == {k for k in whole.relays if whole.relays[k] != now.relays.get(k)}
    assert not [step for step in steps if isinstance(step, Close | Remove)]

    mended = carry_out(steps, retry)
    assert (mended.open, mended.relays, mended.failures) == (whole.open, whole.relays, {})


@given(edits(), hosts(), st.data())
def test_what_fails_again_ends_in_the_same_state(
    edit: tuple[Config, Config], links: dict[str, Link], data: st.DataObject
) -> None:
    a, b = edit
    start = reach(a, links)
    steps = plan(b, start)
    things = [step.resource for step in steps if isinstance(step, Open)]
    assume(things)
    broken = data.draw(st.sets(st.sampled_from(things), min_size=1))
    now = carry_out(steps, start, broken)
    later = replace(now, now=RETRY)
    again = carry_out(plan(b, later), later, broken)
    assert (again.open, again.relays) == (now.open, now.relays)
    assert plan(b, again) == ()


@given(edits(), hosts())
def test_an_unchanged_rule_is_in_no_step(
    edit: tuple[Config, Config], links: dict[str, Link]
) -> None:
    a, b = edit
    same = {name for name, rule in b.rules.items() if a.rules.get(name) == rule}
    steps = plan(b, reach(a, links))
    assert same.isdisjoint(key.rule for key in keys_of(steps))
    for name in same:
        assert wanted_by(b.rules[name], links).isdisjoint(resources_of(steps))


@given(configs(), configs(), hosts(), hosts())
def test_make_before_break(
    a: Config, b: Config, before: dict[str, Link], after: dict[str, Link]
) -> None:
    now = replace(reach(a, before), links=after)
    phases = {Open: 0, Add: 1, Replace: 1, Remove: 2, Close: 3}
    order = [phases[type(step)] for step in plan(b, now)]
    assert order == sorted(order)


@given(configs(), hosts())
def test_a_ring_is_opened_before_its_worker_and_closed_after_it(
    config: Config, links: dict[str, Link]
) -> None:
    now = reach(config, links)
    started = [
        s.resource
        for s in plan(config, replace(now, open=frozenset(), relays={}))
        if isinstance(s, Open)
    ]
    ended = [s.resource for s in plan(Config(), now) if isinstance(s, Close)]
    for worker in (found for found in now.open if isinstance(found, Worker)):
        assert started.index(worker.ingress) < started.index(worker)
        assert ended.index(worker) < ended.index(worker.ingress)
    for egress in (found for found in now.open if isinstance(found, Egress)):
        assert started.index(egress.worker) < started.index(egress)
        assert ended.index(egress) < ended.index(egress.worker)


@given(configs(), hosts(), st.sampled_from(INTERFACES), st.data())
def test_a_link_that_changes_touches_only_rules_on_it(
    config: Config, before: dict[str, Link], name: str, data: st.DataObject
) -> None:
    after = {key: link for key, link in before.items() if key != name}
    if (now := data.draw(st.none() | links(name))) is not None:
        after[name] = now
    steps = plan(config, replace(reach(config, before), links=after))
    on_it = {
        rule.name
        for rule in config.rules.values()
        if name in (rule.input.interface, *(output.interface for output in rule.outputs))
    }
    assert {key.rule for key in keys_of(steps)} <= on_it
    theirs: set[Resource] = set()
    for rule in config.rules.values():
        wanted = wanted_by(rule, before) | wanted_by(rule, after)
        if rule.name in on_it:
            theirs |= wanted
        else:
            assert wanted.isdisjoint(resources_of(steps))
    assert resources_of(steps) <= theirs


@given(configs(), hosts(), st.data())
def test_a_worker_that_died_gets_back_all_it_had(
    config: Config, links: dict[str, Link], data: st.DataObject
) -> None:
    whole = reach(config, links)
    workers = [found for found in whole.open if isinstance(found, Worker)]
    assume(workers)
    dead = data.draw(st.sampled_from(sorted(workers, key=str)))
    left = {key: relay for key, relay in whole.relays.items() if key.worker != dead}
    now = replace(whole, open=whole.open - {dead}, relays=left)
    steps = plan(config, now)
    lost = {key for key in whole.relays if key.worker == dead}
    assert steps[0] == Open(dead)
    assert {step.key for step in steps[1:] if isinstance(step, Add)} == lost
    assert len(steps) == 1 + len(lost)
    assert carry_out(steps, now).relays == whole.relays


# Examples: a rule from eth0 to eth1, step by step.

LINKS = {
    "eth0": Link("eth0", 2, True, True, 1500, 1, (ip_interface("10.0.0.1/24"),)),
    "eth1": Link("eth1", 3, True, True, 1500, 1, (ip_interface("10.1.0.1/24"),)),
}
INPUT = Input("eth0", ip_address("239.1.1.1"), 5000)
OUTPUT = Output("eth1", ip_address("239.2.2.2"), 6000, ttl=8)
CAMERA = Rule("camera", INPUT, (OUTPUT,))

INGRESS = Ingress("eth0", 2)
WORKER = Worker(INGRESS)
JOINED = Membership("eth0", 2, INPUT.address)
KEY = RelayKey(WORKER, "camera")
EGRESS = Egress(
    worker=WORKER,
    rule="camera",
    interface="eth1",
    index=3,
    address=OUTPUT.address,
    port=6000,
    ttl=8,
    dscp=0,
    source=ip_address("10.1.0.1"),
    source_port=None,
    loop=False,
)
RELAY = Relay(INPUT.address, 5000, (EGRESS,), (INGRESS, WORKER, JOINED))


def config_of(*of: Rule) -> Config:
    """A rule file with these rules."""
    return Config(rules={rule.name: rule for rule in of})


RUNNING = reach(config_of(CAMERA), LINKS)


def test_a_first_rule_opens_all_it_needs_and_joins_the_group_last() -> None:
    assert plan(config_of(CAMERA), Actual(LINKS)) == (
        Open(INGRESS),
        Open(WORKER),
        Open(EGRESS),
        Open(JOINED),
        Add(KEY, RELAY),
    )


def test_the_last_rule_of_an_interface_takes_everything_with_it() -> None:
    assert plan(Config(), RUNNING) == (
        Remove(KEY),
        Close(JOINED),
        Close(EGRESS),
        Close(WORKER),
        Close(INGRESS),
    )


def test_a_unicast_input_is_held_and_not_joined() -> None:
    rule = replace(CAMERA, input=Input("eth0", ip_address("10.0.0.1"), 5000))
    hold = Hold("eth0", 2, ip_address("10.0.0.1"), 5000)
    now = reach(config_of(rule), LINKS)
    assert now.open == {INGRESS, WORKER, EGRESS, hold}


def test_a_hold_that_cannot_be_had_does_not_stop_its_rule() -> None:
    rule = replace(CAMERA, input=Input("eth0", ip_address("10.0.0.1"), 5000))
    hold = Hold("eth0", 2, ip_address("10.0.0.1"), 5000)
    now = reach(config_of(rule), LINKS, broken=[hold])
    assert KEY in now.relays
    assert plan(config_of(rule), now) == ()


@pytest.mark.parametrize("missing", ["eth0", "eth1"])
def test_a_rule_on_a_missing_interface_waits_and_nothing_is_opened(missing: str) -> None:
    links = {name: link for name, link in LINKS.items() if name != missing}
    assert wish(CAMERA, links).waits == f"{missing} is missing"
    assert plan(config_of(CAMERA), Actual(links)) == ()


def test_the_interface_that_comes_brings_its_rule() -> None:
    waiting = reach(config_of(CAMERA), {"eth0": LINKS["eth0"]})
    assert reach(config_of(CAMERA), LINKS, waiting).relays == {KEY: RELAY}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"up": False}, "eth1 is down"),
        ({"carrier": False}, "eth1 has no carrier"),
        ({"addresses": ()}, "eth1 has no IPv4 address"),
        ({"addresses": (ip_interface("fd00::1/64"),)}, "eth1 has no IPv4 address"),
    ],
)
def test_a_rule_waits_for_its_only_output(change: dict[str, object], why: str) -> None:
    links = {**LINKS, "eth1": replace(LINKS["eth1"], **change)}  # type: ignore[arg-type]
    assert wish(CAMERA, links).waits == why
    assert plan(config_of(CAMERA), Actual(links)) == ()


def test_an_output_that_waits_does_not_stop_the_others() -> None:
    rule = replace(CAMERA, outputs=(replace(OUTPUT, interface="wg0"), OUTPUT))
    assert reach(config_of(rule), LINKS).relays == {KEY: RELAY}


def test_an_output_that_failed_does_not_stop_the_others() -> None:
    other = replace(OUTPUT, port=6001)
    rule = replace(CAMERA, outputs=(OUTPUT, other))
    broken = replace(EGRESS, port=6001)
    now = reach(config_of(rule), LINKS, broken=[broken])
    assert now.relays == {KEY: RELAY}
    both = replace(RELAY, egress=(EGRESS, broken))
    assert plan(config_of(rule), now) == ()
    assert plan(config_of(rule), replace(now, now=RETRY)) == (Open(broken), Replace(KEY, both))


def test_a_ring_that_failed_is_tried_again_before_its_worker() -> None:
    now = reach(config_of(CAMERA), LINKS, broken=[INGRESS])
    assert now.open == {EGRESS, JOINED}
    assert plan(config_of(CAMERA), now) == ()
    assert plan(config_of(CAMERA), replace(now, now=RETRY)) == (
        Open(INGRESS),
        Open(WORKER),
        Add(KEY, RELAY),
    )


def test_an_interface_made_anew_moves_its_rule() -> None:
    links = {**LINKS, "eth0": replace(LINKS["eth0"], index=7)}
    ingress = Ingress("eth0", 7)
    worker = Worker(ingress)
    joined = Membership("eth0", 7, INPUT.address)
    egress = replace(EGRESS, worker=worker)
    relay = Relay(INPUT.address, 5000, (egress,), (ingress, worker, joined))
    assert plan(config_of(CAMERA), replace(RUNNING, links=links)) == (
        Open(ingress),
        Open(worker),
        Open(egress),
        Open(joined),
        Add(RelayKey(worker, "camera"), relay),
        Remove(KEY),
        Close(JOINED),
        Close(EGRESS),
        Close(WORKER),
        Close(INGRESS),
    )


def test_a_changed_ttl_is_one_open_one_replace_one_close() -> None:
    rule = replace(CAMERA, outputs=(replace(OUTPUT, ttl=9),))
    egress = replace(EGRESS, ttl=9)
    assert plan(config_of(rule), RUNNING) == (
        Open(egress),
        Replace(KEY, replace(RELAY, egress=(egress,))),
        Close(EGRESS),
    )


def test_a_changed_input_keeps_the_output_sockets() -> None:
    rule = replace(CAMERA, input=replace(INPUT, port=5001))
    assert plan(config_of(rule), RUNNING) == (Replace(KEY, replace(RELAY, port=5001)),)


def test_outputs_in_another_order_are_one_message_and_no_socket() -> None:
    other = replace(OUTPUT, port=6001)
    now = reach(config_of(replace(CAMERA, outputs=(OUTPUT, other))), LINKS)
    swapped = config_of(replace(CAMERA, outputs=(other, OUTPUT)))
    assert [type(step) for step in plan(swapped, now)] in ([], [Replace])


def test_a_description_is_no_step() -> None:
    assert plan(config_of(replace(CAMERA, description="the wall")), RUNNING) == ()


def test_a_disabled_rule_has_nothing() -> None:
    disabled = config_of(replace(CAMERA, enabled=False))
    assert plan(disabled, Actual(LINKS)) == ()
    assert reach(disabled, LINKS, RUNNING).open == frozenset()


def test_two_rules_share_the_ring_the_worker_and_the_group() -> None:
    other = Rule("other", replace(INPUT, port=5001), (replace(OUTPUT, port=6001),))
    steps = plan(config_of(CAMERA, other), RUNNING)
    egress = replace(EGRESS, rule="other", port=6001)
    relay = replace(RELAY, port=5001, egress=(egress,))
    assert steps == (Open(egress), Add(RelayKey(WORKER, "other"), relay))


def test_a_renamed_rule_is_added_before_the_old_one_goes() -> None:
    renamed = config_of(replace(CAMERA, name="wall"))
    kinds = [type(step) for step in plan(renamed, RUNNING)]
    assert kinds == [Open, Add, Remove, Close]


# The address that an output is sent from.


@pytest.mark.parametrize(
    ("to", "own", "chosen"),
    [
        # The destination's own network comes first.
        ("10.1.0.9", ["10.0.0.1/24", "10.1.0.1/24"], "10.1.0.1"),
        ("fd01::9", ["fd00::1/64", "fe80::1/64", "fd01::1/64"], "fd01::1"),
        # Then one of the same scope.
        ("ff02::5", ["fd00::1/64", "fe80::1/64"], "fe80::1"),
        ("ff12::5", ["fd00::1/64", "fe80::1/64"], "fe80::1"),
        ("ff15::1", ["fe80::1/64", "fd00::1/64"], "fd00::1"),
        ("2001:db8::1", ["fe80::1/64", "fd00::1/64"], "fd00::1"),
        ("239.1.1.1", ["169.254.0.1/16", "10.0.0.1/24"], "10.0.0.1"),
        # Then the first: the kernel lists primary addresses before others.
        ("239.1.1.1", ["10.1.0.2/24", "10.1.0.1/24"], "10.1.0.2"),
        # One of another scope is better than none.
        ("ff15::1", ["10.0.0.1/24", "fe80::1/64"], "fe80::1"),
        ("192.0.2.7", ["169.254.0.1/16"], "169.254.0.1"),
    ],
)
def test_the_source_is_the_address_that_fits_best(to: str, own: list[str], chosen: str) -> None:
    link = replace(LINKS["eth1"], addresses=tuple(map(ip_interface, own)))
    rule = replace(CAMERA, outputs=(replace(OUTPUT, address=ip_address(to)),))
    (egress,) = wish(rule, {**LINKS, "eth1": link}).egress
    assert egress.source == ip_address(chosen)


def test_a_fixed_source_is_taken_though_another_would_fit_better() -> None:
    link = replace(LINKS["eth1"], addresses=tuple(map(ip_interface, ("10.1.0.1/24", "10.0.0.5/8"))))
    rule = replace(CAMERA, outputs=(replace(OUTPUT, source=ip_address("10.0.0.5")),))
    (egress,) = wish(rule, {**LINKS, "eth1": link}).egress
    assert egress.source == ip_address("10.0.0.5")


def test_an_output_waits_for_its_fixed_source() -> None:
    rule = replace(CAMERA, outputs=(replace(OUTPUT, source=ip_address("10.1.0.7")),))
    assert wish(rule, LINKS).outputs == ("eth1 does not have the address 10.1.0.7",)
    assert plan(config_of(rule), Actual(LINKS)) == ()


def test_an_address_that_goes_moves_the_output_to_the_next() -> None:
    two = replace(LINKS["eth1"], addresses=tuple(map(ip_interface, ("10.1.0.1/24", "10.1.0.2/24"))))
    now = reach(config_of(CAMERA), {**LINKS, "eth1": two})
    one = replace(two, addresses=two.addresses[1:])
    moved = replace(EGRESS, source=ip_address("10.1.0.2"))
    assert plan(config_of(CAMERA), replace(now, links={**LINKS, "eth1": one})) == (
        Open(moved),
        Replace(KEY, replace(RELAY, egress=(moved,))),
        Close(EGRESS),
    )


def test_another_address_that_comes_disturbs_nothing() -> None:
    two = replace(LINKS["eth1"], addresses=tuple(map(ip_interface, ("10.1.0.1/24", "10.1.0.2/24"))))
    assert plan(config_of(CAMERA), replace(RUNNING, links={**LINKS, "eth1": two})) == ()
