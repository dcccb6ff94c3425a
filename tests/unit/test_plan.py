"""plan(): what it does step by step, and what holds for any configuration, links and failures."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, ip_address, ip_interface, ip_network
from itertools import takewhile
from typing import TYPE_CHECKING, Literal, TypeVar

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcrd.addresses import Target, first_address, first_port, last_port
from mcrd.config import parse
from mcrd.model import (
    BROADCAST,
    LIMITED_BROADCAST,
    Address,
    Config,
    Input,
    Interface,
    Network,
    Output,
    PortRange,
    Rule,
)
from mcrd.planning import names
from mcrd.planning.actual import Actual, Failure, Listeners, Wanted
from mcrd.planning.links import Link, Lookup, Way
from mcrd.planning.names import doubles
from mcrd.planning.needs import KnownNeeds, Needs, needs
from mcrd.planning.outlets import own_addresses
from mcrd.planning.patterns import expand
from mcrd.planning.plan import Add, Close, Open, Relieve, Remove, Replace, Step, plan
from mcrd.planning.portions import ALL, Portion
from mcrd.planning.relays import Relay, RelayKey
from mcrd.planning.resources import (
    Egress,
    GroupProtocol,
    Hold,
    Ingress,
    Members,
    Membership,
    Nowhere,
    Outlet,
    Reception,
    Rejoin,
    Resource,
    Ring,
    Sending,
    Worker,
)
from mcrd.planning.states import states

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


End = TypeVar("End", Input, Output)
World = tuple[Config, dict[str, Link]]
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
RANGES = (
    "239.1.0.0/30",
    "239.0.0.0/8",
    "ff15::/126",
    "ff15::/32",
    "10.0.0.0/24",
    "192.0.2.0/30",
    "fd00::/64",
)
SOURCES = ("10.0.0.7/32", "10.0.0.8/32", "10.0.0.0/8", "fd00::7/128", "fd00::8/128", "fd00::/16")
RETRY = 1.0  # seconds

EVERYONE: list[Address] = [BROADCAST, LIMITED_BROADCAST]
ADDRESSES = st.sampled_from([ip_address(text) for text in GROUPS + HOSTS] + EVERYONE)
PORTS = st.sampled_from([5000, 5001])
MOSTLY = st.sampled_from([True] * 7 + [False])


# What a rule file and a host may be.


# Made once: making a strategy costs more than drawing from it.
INTERFACE = st.sampled_from(INTERFACES)
INPUT_ADDRESSES = ADDRESSES | st.sampled_from([ip_network(text) for text in RANGES])
INPUT_PORTS = PORTS | st.just(PortRange(5000, 5003))
OUTPUT_RANGES = (PortRange(5000, 5003), PortRange(6000, 6003))
BASES = {
    version: st.sampled_from([a for a in map(ip_address, GROUPS + HOSTS) if a.version == version])
    for version in (4, 6)
}
ALLOWED = {
    version: st.just(())
    | st.lists(
        st.sampled_from([n for n in map(ip_network, SOURCES) if n.version == version]),
        unique=True,
        max_size=2,
    ).map(tuple)
    for version in (4, 6)
}
Chosen = Address | Literal["keep"] | None
NOTHING: list[Chosen] = [None, None, None]
KEEP: list[Chosen] = ["keep"]
CHOSEN = {
    (version, keep): st.sampled_from(
        NOTHING
        + [own.ip for own in map(ip_interface, OWN) if own.version == version]
        + (KEEP if keep else [])
    )
    for version in (4, 6)
    for keep in (False, True)
}
SELDOM = st.sampled_from([False] * 5 + [True])
VLANS = st.sampled_from([None, None, None, 5])
LIMITS = st.sampled_from([None, None, 10, 1000])
TTLS, DSCPS = st.integers(1, 3), st.sampled_from([0, 34])
SOURCE_PORTS = st.none() | st.just(7000)
SETTINGS = st.dictionaries(
    INTERFACE,
    st.builds(
        Interface,
        workers=st.integers(1, 3),
        cpus=st.sampled_from([(), (0,), (0, 1)]),
        ring_size=st.sampled_from([2**20, 2**25]),
        rejoin=st.sampled_from([None, 30.0]),
        gro=st.booleans(),
        busy_poll=st.booleans(),
        igmp_version=st.sampled_from([None, 2]),
        mld_version=st.sampled_from([None, 1]),
    ),
)


@st.composite
def inputs(draw: st.DrawFn) -> Input:
    """What a rule may take."""
    address: Address | Network = draw(INPUT_ADDRESSES)
    esp = draw(SELDOM)
    return Input(
        interface=draw(INTERFACE),
        address=address,
        port=0 if esp else draw(INPUT_PORTS),
        protocol="esp" if esp else "udp",
        sources=draw(ALLOWED[address.version]),
        exclude=draw(ALLOWED[address.version]),
        vlan=draw(VLANS),
        limit=draw(LIMITS),
    )


@st.composite
def outputs(draw: st.DrawFn, source: Input) -> Output:
    """An output that fits the input, with any of its settings."""
    address: Address | Network = draw(ADDRESSES)
    if isinstance(source.address, Network):
        base = draw(BASES[source.address.version])
        address = ip_network((base, source.address.prefixlen), strict=False)
    port: int | PortRange = 0
    if isinstance(source.port, PortRange):
        port = draw(st.sampled_from(OUTPUT_RANGES))
    elif source.protocol == "udp":
        port = draw(PORTS)
    chosen = draw(CHOSEN[address.version, address.version == source.address.version])
    everywhere = address.is_multicast or address in EVERYONE
    is_host = isinstance(address, Address) and not everywhere
    return Output(
        interface=None if is_host and draw(SELDOM) else draw(INTERFACE),
        address=address,
        port=port,
        ttl=draw(TTLS),
        dscp=draw(DSCPS),
        source=chosen,
        source_port=None if chosen == "keep" else draw(SOURCE_PORTS),
        loop=draw(st.booleans()) if address.is_multicast else False,
        limit=draw(LIMITS),
    )


@st.composite
def rules(draw: st.DrawFn, name: str) -> Rule:
    """A rule whose outputs differ from each other and from its input."""
    source = draw(inputs())
    targets = draw(st.lists(outputs(source), min_size=1, max_size=2, unique_by=_target))
    kept = [o for o in targets if _target(o) != (source.interface, source.address, source.port)]
    assume(kept)
    ours = draw(st.sampled_from([(), (), (ip_address("10.0.0.1"),), (ip_address("10.9.9.9"),)]))
    return Rule(name, source, tuple(kept), enabled=draw(MOSTLY), active_with=ours)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """A rule file that passes the checks: no two rules take the same input."""
    chosen = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    return _config((draw(rules(name)) for name in chosen), draw(SETTINGS))


@st.composite
def edits(draw: st.DrawFn) -> tuple[Config, Config]:
    """A rule file before and after an edit, with some rules that were left alone."""
    before, other = draw(configs()), draw(configs())
    chosen = [
        draw(st.sampled_from([side[name] for side in (before.rules, other.rules) if name in side]))
        for name in dict.fromkeys((*before.rules, *other.rules))
        if draw(MOSTLY)
    ]
    return before, _config(chosen, before.interfaces)


@st.composite
def links(draw: st.DrawFn, name: str) -> Link:
    """An interface: down, without carrier, made anew, with addresses or without."""
    some = st.lists(st.sampled_from(OWN), unique=True)
    addresses = tuple(map(ip_interface, draw(st.permutations(OWN) | some)))
    return Link(
        name=name,
        index=INTERFACES.index(name) + 1 + 10 * draw(st.integers(0, 1)),
        up=draw(MOSTLY),
        carrier=draw(MOSTLY),
        mtu=1500,
        hardware=1,
        addresses=addresses,
        broadcasts=tuple(
            each.network.broadcast_address for each in addresses if isinstance(each, IPv4Interface)
        ),
    )


@st.composite
def hosts(draw: st.DrawFn) -> dict[str, Link]:
    """The interfaces of a host; any of them may be missing."""
    return {name: draw(links(name)) for name in INTERFACES if draw(MOSTLY)}


@st.composite
def other_names(draw: st.DrawFn) -> World:
    """Rules of which some have another name of eth0, which it has on most hosts."""

    def end(it: End) -> End:
        return replace(it, interface="video") if it.interface == "eth0" and draw(MOSTLY) else it

    config, host = draw(configs()), draw(hosts())
    changed = {
        rule.name: replace(rule, input=end(rule.input), outputs=tuple(map(end, rule.outputs)))
        for rule in config.rules.values()
    }
    where = draw(st.sampled_from(["eth0", "eth0", "eth1", None]))
    named = (
        replace(link, alternatives=("video",) if link.name == where else ())
        for link in host.values()
    )
    return replace(config, rules=changed), names.by_name(named)


@st.composite
def patterns(draw: st.DrawFn) -> World:
    """Rules of which some have a pattern, and what these have become."""

    def end(it: End) -> End:
        eth = it.interface in ("eth0", "eth1") and draw(MOSTLY)
        return replace(it, interface="eth*") if eth else it

    config, host = draw(configs()), draw(hosts())
    changed = {
        rule.name: replace(rule, input=end(rule.input), outputs=tuple(map(end, rule.outputs)))
        for rule in config.rules.values()
    }
    return expand(replace(config, rules=changed), host), host


WORLDS = st.tuples(configs(), hosts()) | other_names() | patterns()


def _target(output: Output) -> Target:
    return (output.interface or "", output.address, output.port)


def _config(of: Iterable[Rule], interfaces: Mapping[str, Interface]) -> Config:
    taken: set[Input] = set()
    kept: dict[str, Rule] = {}
    for rule in of:
        if rule.input not in taken:
            taken.add(rule.input)
            kept[rule.name] = rule
    return Config(rules=kept, interfaces=interfaces)


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

    steps = tuple(steps)
    old = {each.old for each in steps if isinstance(each, Relieve)}

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
                    nothing_comes_twice(opened - old)
            case Add(key, relay) | Replace(key, relay):
                assert (key in relays) is isinstance(step, Replace)
                pairs = zip(relay.outputs, relay.portions, strict=True)
                usable = [pair for pair in pairs if pair[0] in opened]
                if not broken:
                    assert len(usable) == len(relay.outputs)
                    assert opened.issuperset(relay.needs)
                before = relays.pop(key, None)
                if not usable or not opened.issuperset(relay.needs):
                    continue
                if len(usable) < len(relay.outputs):
                    sockets, portions = zip(*usable, strict=True)
                    relay = replace(relay, outputs=sockets, portions=portions)
                if key in broken and relay != before:
                    fail(key)
                else:
                    relays[key] = relay
                    failures.pop(key, None)
            case Remove(key):
                del relays[key]
            case Relieve(resource, before):
                assert before in opened
                assert resource in opened | set(broken)
                relays = {key: r for key, r in relays.items() if key.worker.ingress != before}
            case Close(resource):
                assert resource in opened
                if isinstance(resource, Worker):  # its rules end with it
                    relays = {key: r for key, r in relays.items() if key.worker != resource}
                assert not [key for key, relay in relays.items() if _uses(key, relay, resource)]
                opened.remove(resource)
    return replace(actual, open=frozenset(opened), relays=relays, failures=failures)


def nothing_comes_twice(opened: Iterable[Resource]) -> None:
    """No two rings are open on one interface, and no two workers on one ring."""
    rings = [found.index for found in opened if isinstance(found, Ingress)]
    assert len(rings) == len(set(rings))
    workers = [found.ring for found in opened if isinstance(found, Worker)]
    assert len(workers) == len(set(workers))


def _uses(key: RelayKey, relay: Relay, resource: Resource) -> bool:
    return resource in (key.worker, key.worker.ingress, *relay.needs, *relay.outputs)


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


def wanted_by(rule: Rule, config: Config, links: Mapping[str, Link]) -> set[Resource]:
    """What has to be open for a rule."""
    if not rule.enabled:
        return set()
    entry = needs(rule, config, links)
    outputs = [output for found in entry.relays.values() for output in found]
    return {
        *entry.required,
        *entry.optional,
        *(output for output in outputs if not isinstance(output, str)),
    }


# What always holds.


@given(st.lists(WORLDS, min_size=2, max_size=4))
def test_what_is_remembered_makes_no_difference(
    world: list[World],
) -> None:
    known, actual = KnownNeeds(), Actual()
    for config, now in world:
        actual = replace(actual, links=now)
        for _ in range(2):  # once more with the same, and what was done meanwhile
            assert plan(config, actual, known) == plan(config, actual)
            assert states(config, actual, known) == states(config, actual)
            actual = carry_out(plan(config, actual, known), actual)
        known.keep(config.rules)


def test_what_is_looked_up_by_the_thousand_has_hashes_of_its_own() -> None:
    """Or members that senders choose would make every look-up a search."""
    ingress = Ingress("eth0", 1)
    base = Egress(
        worker=Worker(ingress),
        rule="a",
        sending=Sending("eth1", 2, ip_address("10.0.0.1"), ttl=1),
        address=GROUP,
        port=5000,
    )
    numbers = range(1000)
    hosts = [ip_address("10.0.0.0") + number for number in numbers]
    for different in (
        [replace(base, address=host) for host in hosts],
        [replace(base, sending=replace(base.sending, source=host)) for host in hosts],
        [replace(base, port=1 + number) for number in numbers],
        [replace(base, rule=str(number)) for number in numbers],
        [replace(base, heard=(host, 5000)) for host in hosts],
        [replace(base, worker=Worker(ingress, number)) for number in numbers],
        [Membership("eth0", 1, host) for host in hosts],
        [Membership("eth0", 1, GROUP, host) for host in hosts],
    ):
        assert len({hash(entry) for entry in different}) > 990


def test_what_is_remembered_is_not_found_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noted(
        rule: Rule,
        config: Config,
        links: Mapping[str, Link],
        ways: Mapping[Lookup, Way],
        double: object,
        lane: str,
        own: Collection[Address],
        listeners: object,
        avoid: None,
    ) -> object:
        assert (double, lane, listeners, avoid) == ((), "", {}, None)
        assert own == own_addresses(links)
        asked.append(rule.name)
        return needs(rule, config, links, ways)

    monkeypatch.setattr("mcrd.planning.needs.needs", noted)
    known = KnownNeeds()
    other = replace(CAMERA, name="other", input=replace(CAMERA.input, port=5001))
    config, actual = Config(rules={"camera": CAMERA, "other": other}), Actual(links=LINKS)
    plan(config, actual, known)
    assert asked == ["camera", "other"]
    asked.clear()
    changed = replace(CAMERA, outputs=(replace(CAMERA.outputs[0], ttl=99),))
    again = Config(rules={"camera": changed, "other": replace(other)})
    plan(again, Actual(links=dict(LINKS)), known)
    assert asked == ["camera"]
    asked.clear()
    with_two = Config(rules=again.rules, interfaces={INPUT.interface: Interface(workers=2)})
    steps = plan(with_two, actual, known)
    assert asked == ["camera", "other"]
    assert len([s for s in steps if isinstance(s, Open) and isinstance(s.resource, Worker)]) == 2


@given(WORLDS, WORLDS)
def test_where_one_comes_from_makes_no_difference_and_the_next_plan_is_empty(
    before: World, after: World
) -> None:
    reached = reach(*after, reach(*before))
    fresh = reach(*after)
    assert reached.open == fresh.open
    assert reached.relays == fresh.relays
    assert plan(after[0], reached) == ()


@given(other_names())
def test_by_whatever_name_there_are_the_same_rings_and_groups(
    world: World,
) -> None:
    config, links = world
    assume(names.doubles(config, links) == names.NONE)
    kinds = Ingress | Worker | Membership | Reception | Hold | Rejoin | GroupProtocol
    by_other, by_own = reach(config, links), reach(names.config_here(config, links), links)
    assert {r for r in by_other.open if isinstance(r, kinds)} == {
        r for r in by_own.open if isinstance(r, kinds)
    }
    targets = {
        (key.rule, output.target) for key, r in by_other.relays.items() for output in r.outputs
    }
    assert targets <= {
        (rule.name, _target(output)) for rule in config.rules.values() for output in rule.outputs
    }


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
    unlucky = {w for w in missing if isinstance(w, Worker) and w.ingress in now.failures}
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
    # Of a rule that clashes with another one here and now, an edit of that one is a change.
    clash = [doubles(config, links) for config in edit]
    same = {
        name
        for name, rule in b.rules.items()
        if a.rules.get(name) == rule and not any(any(each.of(rule)) for each in clash)
    }
    steps = plan(b, reach(a, links))
    assert same.isdisjoint(key.rule for key in keys_of(steps))
    for name in same:
        assert wanted_by(b.rules[name], b, links).isdisjoint(resources_of(steps))


@given(configs(), configs(), hosts(), hosts())
def test_make_before_break(
    a: Config, b: Config, before: dict[str, Link], after: dict[str, Link]
) -> None:
    now = replace(reach(a, before), links=after)
    phases = {Open: 0, Add: 1, Replace: 1, Remove: 2, Relieve: 3, Close: 4}
    steps = plan(b, now)
    if {type(step) for step in steps} <= {Remove, Close}:
        return
    # Nothing but rings and workers is broken before what takes its place is made.
    first = list(takewhile(lambda step: isinstance(step, Remove | Close), steps))
    made = [step.resource for step in steps if isinstance(step, Open)]
    rings = {found.index for found in made if isinstance(found, Ingress)}
    read = {found.ring for found in made if isinstance(found, Worker)}
    ended = {step.resource for step in first if isinstance(step, Close)}
    for gone in ended:
        assert isinstance(gone, Ingress | Worker)
        if isinstance(gone, Ingress):
            assert gone.index in rings
        else:
            assert gone.ring in read or gone.ingress in ended
    assert {step.key.worker for step in first if isinstance(step, Remove)} <= ended
    order = [phases[type(step)] for step in first]
    assert order == sorted(order)
    order = [phases[type(step)] for step in steps[len(first) :]]
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
    for egress in (found for found in now.open if isinstance(found, Egress | Members)):
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
        # One that follows the routes is on each: its source may be an address of any. So is one
        # that goes by an address of the host.
        if rule.active_with
        or {name, None} & {rule.input.interface, *(output.interface for output in rule.outputs)}
    }
    assert {key.rule for key in keys_of(steps)} <= on_it
    theirs: set[Resource] = set()
    for rule in config.rules.values():
        wanted = wanted_by(rule, config, before) | wanted_by(rule, config, after)
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
GROUP, TARGET = ip_address("239.1.1.1"), ip_address("239.2.2.2")
INPUT = Input("eth0", GROUP, 5000)
OUTPUT = Output("eth1", TARGET, 6000, ttl=8)
CAMERA = Rule("camera", INPUT, (OUTPUT,))

INGRESS = Ingress("eth0", 2)
WORKER = Worker(INGRESS)
JOINED = Membership("eth0", 2, GROUP)
HEARD = tuple(Membership("eth1", 3, ip_address(f"224.0.0.{last}")) for last in (22, 13))
KEY = RelayKey(WORKER, "camera")
EGRESS = Egress(
    worker=WORKER,
    rule="camera",
    sending=Sending("eth1", 3, ip_address("10.1.0.1"), ttl=8),
    address=TARGET,
    port=6000,
)
RELAY = Relay(INPUT, (EGRESS,), (ALL,), (INGRESS, WORKER, JOINED))


def config_of(*of: Rule) -> Config:
    """A rule file with these rules."""
    return Config(rules={rule.name: rule for rule in of})


def outputs_of(
    rule: Rule, links: Mapping[str, Link] = LINKS, settings: Interface | None = None
) -> tuple[Outlet | str, ...]:
    """What is to be opened for the outputs of a rule, in its first worker."""
    interfaces = {rule.input.interface: settings} if settings else {}
    return next(iter(needs(rule, Config(interfaces=interfaces), links).relays.values()))


RUNNING = reach(config_of(CAMERA), LINKS)

HOST = ip_address("192.0.2.7")
TO_HOST = replace(CAMERA, outputs=(Output(None, HOST, 6000, ttl=64),))
ASKED = Lookup(None, HOST, port=6000)
OVER_ETH1 = Way("eth1", 3, ip_address("10.1.0.1"), ip_address("10.1.0.9"))


def with_ways(ways: Mapping[Lookup, Way], before: Actual = RUNNING) -> Actual:
    """What there is once an output to a host is done, with these ways."""
    now = replace(before, ways=ways)
    return carry_out(plan(config_of(TO_HOST), now), now)


def test_an_output_that_follows_the_routes_is_replaced_when_they_move() -> None:
    first = with_ways({ASKED: OVER_ETH1}, Actual(LINKS))
    (relay,) = first.relays.values()
    (egress,) = relay.outputs
    assert isinstance(egress, Egress)
    assert egress.sending == Sending("eth1", 3, OVER_ETH1.source, routed=True, ttl=64)
    assert egress.target == ("", HOST, 6000)
    assert states(config_of(TO_HOST), first)["camera"].outputs[0].interface == "eth1"
    moved = replace(first, ways={ASKED: Way("eth0", 2, ip_address("10.0.0.1"))})
    steps = plan(config_of(TO_HOST), moved)
    other = replace(egress, sending=Sending("eth0", 2, ip_address("10.0.0.1"), routed=True, ttl=64))
    assert steps == (
        Open(other),
        Replace(KEY, replace(relay, outputs=(other,))),
        Close(egress),
    )
    assert other.target == egress.target  # and so it has the same counters


@pytest.mark.parametrize(
    ("way", "why"),
    [
        (None, "the route to 192.0.2.7 is not known"),
        (Way(trouble="there is no route to 192.0.2.7"), "there is no route to 192.0.2.7"),
        (replace(OVER_ETH1, trouble="10.1.0.9 is silent"), "10.1.0.9 is silent"),
        (replace(OVER_ETH1, interface="eth7"), "eth7 is missing"),
        (replace(OVER_ETH1, source=None), "eth1 has no IPv4 address"),
    ],
)
def test_what_no_way_leads_to_is_counted_and_said(way: Way | None, why: str) -> None:
    now = with_ways({} if way is None else {ASKED: way}, Actual(LINKS))
    (relay,) = now.relays.values()
    assert relay.outputs == (Nowhere(WORKER, "camera", ("", HOST, 6000), why),)
    state = states(config_of(TO_HOST), now)["camera"]
    assert (state.state, state.reason) == ("waiting", why)
    # With one more output that has a way, the rule is active.
    both = config_of(replace(TO_HOST, outputs=(*TO_HOST.outputs, OUTPUT)))
    now = carry_out(plan(both, now), now)
    assert [o.state for o in states(both, now)["camera"].outputs] == ["waiting", "active"]
    assert states(both, now)["camera"].state == "active"


@pytest.mark.parametrize("trouble", ["", "there is no route to 192.0.2.7"])
def test_a_source_that_this_host_does_not_have_is_said_whatever_the_routes_say(
    trouble: str,
) -> None:
    source = ip_address("198.51.100.9")
    given = replace(CAMERA, outputs=(Output(None, HOST, 6000, ttl=64, source=source),))
    ways = {Lookup(None, HOST, source=source, port=6000): replace(OVER_ETH1, trouble=trouble)}
    actual = Actual(LINKS, ways=ways)
    now = carry_out(plan(config_of(given), actual), actual)
    state = states(config_of(given), now)["camera"]
    assert state.reason == "this host does not have the address 198.51.100.9"
    known = KnownNeeds()
    known.of(given, config_of(given), actual)
    third = Link("eth7", 7, True, True, 1500, 1, (ip_interface(f"{source}/24"),))
    later = replace(actual, links={**LINKS, "eth7": third})
    assert known.of(given, config_of(given), later) == needs(
        given, config_of(given), later.links, ways
    )


def test_an_output_with_an_interface_is_counted_where_the_routes_do_not_lead_over_it() -> None:
    config = config_of(replace(CAMERA, outputs=(Output("eth1", HOST, 6000, ttl=64),)))
    asked = Lookup("eth1", HOST, port=6000)
    granted = carry_out(plan(config, Actual(LINKS)), Actual(LINKS))
    assert [type(output) for relay in granted.relays.values() for output in relay.outputs] == [
        Egress
    ]
    gone = replace(granted, ways={asked: Way(trouble="it leads over eth0")})
    steps = plan(config, gone)
    assert [type(step) for step in steps] == [Open, Replace, Close]
    back = replace(carry_out(steps, gone), ways={asked: OVER_ETH1})
    assert carry_out(plan(config, back), back).relays == granted.relays


def test_a_first_rule_opens_all_it_needs_and_joins_the_group_last() -> None:
    assert plan(config_of(CAMERA), Actual(LINKS)) == (
        Open(INGRESS),
        Open(WORKER),
        Open(EGRESS),
        Open(JOINED),
        *map(Open, HEARD),
        Add(KEY, RELAY),
    )


def test_the_last_rule_of_an_interface_takes_everything_with_it() -> None:
    assert plan(Config(), RUNNING) == (
        Remove(KEY),
        *map(Close, sorted(HEARD, key=str)),
        Close(JOINED),
        Close(EGRESS),
        Close(WORKER),
        Close(INGRESS),
    )


def test_members_and_routers_are_heard_where_a_group_is_sent_to() -> None:
    to_host = replace(CAMERA.outputs[0], address=ip_address("10.2.0.2"))
    assert not needs(replace(CAMERA, outputs=(to_host,)), Config(), LINKS).optional
    assert needs(CAMERA, Config(), LINKS).optional == HEARD
    gone = {name: link for name, link in LINKS.items() if name != "eth1"}
    assert not needs(CAMERA, Config(), gone).optional
    deaf = reach(config_of(CAMERA), LINKS, broken=HEARD)
    assert KEY in deaf.relays


def test_a_unicast_input_is_held_and_not_joined() -> None:
    rule = replace(CAMERA, input=Input("eth0", ip_address("10.0.0.1"), 5000))
    hold = Hold("eth0", 2, ip_address("10.0.0.1"), 5000)
    now = reach(config_of(rule), LINKS)
    assert now.open == {INGRESS, WORKER, EGRESS, hold, *HEARD}


def test_a_unicast_input_is_held_and_not_joined_for_members_either() -> None:
    given = Input("eth0", ip_address("10.0.0.1"), 5000)
    output = replace(OUTPUT, when="members", source="keep")
    rule = replace(CAMERA, input=given, outputs=(output,))
    members = Listeners({(3, TARGET): Wanted(False, (ip_address("10.0.0.9").packed,))})
    found = needs(rule, Config(), LINKS, listeners=members)
    assert Hold("eth0", 2, ip_address("10.0.0.1"), 5000) in found.optional
    assert found.joins == ()


def test_a_hold_that_cannot_be_had_does_not_stop_its_rule() -> None:
    rule = replace(CAMERA, input=Input("eth0", ip_address("10.0.0.1"), 5000))
    hold = Hold("eth0", 2, ip_address("10.0.0.1"), 5000)
    now = reach(config_of(rule), LINKS, broken=[hold])
    assert KEY in now.relays
    assert plan(config_of(rule), now) == ()


@pytest.mark.parametrize("missing", ["eth0", "eth1"])
def test_a_rule_on_a_missing_interface_waits_and_nothing_is_opened(missing: str) -> None:
    links = {name: link for name, link in LINKS.items() if name != missing}
    found = needs(CAMERA, Config(), links)
    assert found.waits == f"{missing} is missing"
    assert not found.moves
    assert plan(config_of(CAMERA), Actual(links)) == ()


def test_outputs_of_an_input_that_is_there_twice_wait_for_that_or_for_more() -> None:
    rule = replace(CAMERA, outputs=(OUTPUT, replace(OUTPUT, interface="wg0")))
    twice = ("the same input as another's", "", "")
    found = needs(rule, Config(), LINKS, double=twice)
    assert found.waits == twice[0]
    assert found.waiting == (twice[0], "wg0 is missing")


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
    assert needs(CAMERA, Config(), links).waits == why
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
    both = replace(RELAY, outputs=(EGRESS, broken), portions=(ALL, ALL))
    assert plan(config_of(rule), now) == ()
    assert plan(config_of(rule), replace(now, now=RETRY)) == (Open(broken), Replace(KEY, both))


def test_a_ring_that_failed_is_tried_again_before_its_worker() -> None:
    now = reach(config_of(CAMERA), LINKS, broken=[INGRESS])
    assert now.open == {EGRESS, JOINED, *HEARD}
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
    joined = Membership("eth0", 7, GROUP)
    egress = replace(EGRESS, worker=worker)
    relay = Relay(INPUT, (egress,), (ALL,), (ingress, worker, joined))
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
    egress = replace(EGRESS, sending=replace(EGRESS.sending, ttl=9))
    assert plan(config_of(rule), RUNNING) == (
        Open(egress),
        Replace(KEY, replace(RELAY, outputs=(egress,))),
        Close(EGRESS),
    )


def test_a_changed_input_keeps_the_output_sockets() -> None:
    rule = replace(CAMERA, input=replace(INPUT, port=5001))
    assert plan(config_of(rule), RUNNING) == (Replace(KEY, replace(RELAY, input=rule.input)),)


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
    relay = replace(RELAY, input=other.input, outputs=(egress,))
    assert steps == (Open(egress), Add(RelayKey(WORKER, "other"), relay))


def test_a_renamed_rule_is_added_before_the_old_one_goes() -> None:
    renamed = config_of(replace(CAMERA, name="wall"))
    kinds = [type(step) for step in plan(renamed, RUNNING)]
    assert kinds == [Open, Add, Remove, Close]


# Several workers, and what replaces what.


def read_by(workers: int, cpus: tuple[int, ...] = (), ring_size: int = 2**25) -> Config:
    """The rule, with its interface read in another way."""
    settings = Interface(workers, cpus, ring_size)
    return Config(rules={"camera": CAMERA}, interfaces={"eth0": settings})


def reporting(rejoin: float | None = None, igmp_version: int | None = None) -> Config:
    """The rule, with an interface that says how its groups are reported."""
    settings = Interface(rejoin=rejoin, igmp_version=igmp_version, mld_version=1)
    return Config(rules={"camera": CAMERA}, interfaces={"eth0": settings})


def test_a_version_is_forced_before_the_first_join_and_until_the_last_leave() -> None:
    config = reporting(rejoin=30.0, igmp_version=2)
    forced, again = GroupProtocol("eth0", 2, 4, 2), Rejoin("eth0", 2, 30.0, 1)
    opened = [step.resource for step in plan(config, Actual(LINKS)) if isinstance(step, Open)]
    assert opened.index(forced) < opened.index(JOINED) < opened.index(again)
    assert not [each for each in opened if isinstance(each, GroupProtocol) and each != forced]
    steps = plan(Config(), reach(config, LINKS))
    closed = [step.resource for step in steps if isinstance(step, Close)]
    assert closed.index(again) < closed.index(JOINED) < closed.index(forced)


@pytest.mark.parametrize(
    ("after", "steps"),
    [
        (
            reporting(rejoin=60.0),
            (Open(Rejoin("eth0", 2, 60.0, 1)), Close(Rejoin("eth0", 2, 30.0, 1))),
        ),
        (reporting(), (Close(Rejoin("eth0", 2, 30.0, 1)),)),
    ],
)
def test_how_groups_are_reported_is_of_no_concern_to_rules(
    after: Config, steps: tuple[Step, ...]
) -> None:
    now = reach(reporting(rejoin=30.0), LINKS)
    assert plan(after, now) == steps
    failed = Actual(
        LINKS,
        open=now.open - {Rejoin("eth0", 2, 30.0, 1)},
        relays=now.relays,
        failures={Rejoin("eth0", 2, 30.0, 1): Failure("no", 99.0)},
    )
    assert plan(reporting(rejoin=30.0), failed) == ()
    assert states(reporting(rejoin=30.0), failed)["camera"].state == "active"


def test_where_nothing_is_joined_nothing_is_reported() -> None:
    tagged = replace(CAMERA, input=replace(INPUT, vlan=7))
    settings = Interface(rejoin=30.0, igmp_version=2)
    config = Config(rules={"camera": tagged}, interfaces={"eth0": settings})
    opened = resources_of(plan(config, Actual(LINKS)))
    assert not [each for each in opened if isinstance(each, GroupProtocol | Rejoin)]


def test_each_worker_has_the_rule_and_sockets_of_its_own() -> None:
    now = reach(read_by(3, cpus=(4, 5)), LINKS)
    ingress = Ingress("eth0", 2, 3)
    workers = [Worker(ingress, 0, 4), Worker(ingress, 1, 5), Worker(ingress, 2, 4)]
    sockets = [replace(EGRESS, worker=worker) for worker in workers]
    assert now.open == {ingress, *workers, *sockets, JOINED, *HEARD}
    assert now.relays == {
        RelayKey(worker, "camera"): Relay(INPUT, (sock,), (ALL,))
        for worker, sock in zip(workers, sockets, strict=True)
    }


@pytest.mark.parametrize(
    "after", [read_by(2), read_by(1, ring_size=2**20), read_by(3)], ids=["2", "ring", "3"]
)
def test_another_ring_relieves_the_old_one_when_its_workers_have_all(after: Config) -> None:
    steps = plan(after, RUNNING)
    kinds = [type(step) for step in steps]
    workers = len([s for s in steps if isinstance(s, Add)])
    new = next(s.resource for s in steps if isinstance(s, Open) and isinstance(s.resource, Ingress))
    assert kinds[: 1 + 2 * workers] == [Open] * (1 + 2 * workers)
    assert kinds[1 + 2 * workers : -4] == [Add] * workers
    assert steps[-4:] == (Relieve(new, INGRESS), Close(EGRESS), Close(WORKER), Close(INGRESS))
    assert JOINED not in resources_of(steps)


def test_the_old_rings_go_on_while_the_new_ones_wait_for_another_try() -> None:
    config = read_by(2)
    new = next(s.resource for s in plan(config, RUNNING) if isinstance(s, Open))
    failed = replace(RUNNING, failures={new: Failure("no memory", 99.0)})
    steps = plan(config, failed)
    assert not [step for step in steps if isinstance(step, Relieve | Close | Remove)]


def test_a_worker_on_another_cpu_comes_when_the_old_one_has_gone() -> None:
    worker = Worker(INGRESS, 0, 1)
    egress = replace(EGRESS, worker=worker)
    assert plan(read_by(1, cpus=(1,)), RUNNING) == (
        Close(WORKER),
        Open(worker),
        Open(egress),
        Add(RelayKey(worker, "camera"), replace(RELAY, outputs=(egress,))),
        Close(EGRESS),
    )


def test_only_the_workers_whose_cpu_changes_are_replaced() -> None:
    now = reach(read_by(2, cpus=(0, 1)), LINKS)
    steps = plan(read_by(2, cpus=(0, 2)), now)
    assert {key.worker.number for key in keys_of(steps)} == {1}
    changed = resources_of(steps)
    assert not [r for r in changed if isinstance(r, Ingress | Membership)]
    assert {w.ring for w in changed if isinstance(w, Worker)} == {Ring(Ingress("eth0", 2, 2), 1)}


@given(configs(), configs(), hosts(), st.data())
def test_nothing_comes_twice_though_things_fail(
    a: Config, b: Config, links: dict[str, Link], data: st.DataObject
) -> None:
    # carry_out() looks at it with everything that is opened.
    start = reach(a, links)
    steps = plan(b, start)
    things = [step.resource for step in steps if isinstance(step, Open)]
    assume(things)
    broken = data.draw(st.sets(st.sampled_from(things), min_size=1))
    now = carry_out(steps, start, broken)
    nothing_comes_twice(now.open)
    later = replace(now, now=RETRY)
    mended = carry_out(plan(b, later), later)
    nothing_comes_twice(mended.open)
    back = reach(a, links, mended)
    assert (back.open, back.relays) == (start.open, start.relays)


# What lets an input in: sources, VLANs, ranges, ESP.


def needs_of(
    given: Input, links: Mapping[str, Link] = LINKS
) -> tuple[set[Resource], set[Resource]]:
    """What an input needs besides ring and worker, and what is good to have."""
    output = Output("eth1", ip_address("10.2.0.2"), 6000, ttl=8)
    entry = needs(Rule("camera", given, (output,)), Config(), links)
    return {n for n in entry.required if not isinstance(n, Ingress | Worker)}, set(entry.optional)


def joined(*sources: str | None, group: str = "239.1.1.1") -> set[Resource]:
    """Memberships of a group, from any source or from some."""
    return {
        Membership("eth0", 2, ip_address(group), ip_address(source) if source else None)
        for source in sources
    }


@pytest.mark.parametrize(
    ("sources", "exclude", "expected"),
    [
        ((), (), joined(None)),
        (("10.0.0.7/32",), (), joined("10.0.0.7")),
        (("10.0.0.7/32", "10.0.0.8/32"), (), joined("10.0.0.7", "10.0.0.8")),
        (("10.0.0.0/24",), (), joined(None)),
        (("10.0.0.7/32", "10.1.0.0/16"), (), joined(None)),
        ((), ("10.0.0.7/32",), joined(None)),
        (("10.0.0.7/32",), ("10.0.0.8/32",), joined("10.0.0.7")),
    ],
)
def test_hosts_are_joined_by_source_and_all_else_from_any(
    sources: tuple[str, ...], exclude: tuple[str, ...], expected: set[Resource]
) -> None:
    given = replace(
        INPUT, sources=tuple(map(ip_network, sources)), exclude=tuple(map(ip_network, exclude))
    )
    assert needs_of(given) == (expected, set())


def test_a_source_that_comes_is_joined_before_the_other_is_left() -> None:
    one, other = (
        replace(CAMERA, input=replace(INPUT, sources=(ip_network(source),)))
        for source in ("10.0.0.7/32", "10.0.0.8/32")
    )
    steps = plan(config_of(other), reach(config_of(one), LINKS))
    (new,), (old,) = joined("10.0.0.8"), joined("10.0.0.7")
    relay = replace(RELAY, input=other.input)
    assert steps == (Open(new), Replace(KEY, relay), Close(old))


def test_a_vlan_s_group_is_let_in_and_not_joined() -> None:
    given = replace(INPUT, vlan=5, sources=(ip_network("10.0.0.7/32"),))
    assert needs_of(given) == ({Reception("eth0", 2, GROUP)}, set())


def test_the_groups_of_a_range_are_joined() -> None:
    given = replace(INPUT, address=ip_network("239.1.1.0/30"))
    groups = {joined(None, group=f"239.1.1.{number}").pop() for number in range(4)}
    assert needs_of(given) == (groups, set())
    by_source = replace(given, sources=(ip_network("10.0.0.7/32"), ip_network("10.0.0.8/32")))
    needs, _ = needs_of(by_source)
    assert len(needs) == 8
    assert needs == set().union(
        *(joined("10.0.0.7", "10.0.0.8", group=f"239.1.1.{number}") for number in range(4))
    )
    tagged = replace(given, vlan=5)
    receptions = {Reception("eth0", 2, ip_address(f"239.1.1.{number}")) for number in range(4)}
    assert needs_of(tagged) == (receptions, set())


@pytest.mark.parametrize(
    ("network", "joins"),
    [("239.1.0.0/22", 1024), ("239.1.0.0/21", 0), ("ff15::/118", 1024), ("ff15::/32", 0)],
)
@pytest.mark.parametrize("vlan", [None, 5])
def test_too_many_groups_to_join_are_all_let_in(network: str, joins: int, vlan: int | None) -> None:
    given = replace(INPUT, address=ip_network(network), vlan=vlan)
    needs, _ = needs_of(given, {**LINKS, "eth1": replace(LINKS["eth1"], addresses=BOTH)})
    assert len(needs) == (joins or 1)
    if not joins:
        assert needs == {Reception("eth0", 2, None)}


BOTH = (ip_interface("10.1.0.1/24"), ip_interface("fd01::1/64"))


@pytest.mark.parametrize(("last", "held"), [(5003, 4), (6023, 1024), (6024, 0), (65535, 0)])
def test_every_port_of_a_unicast_range_is_held_if_they_are_few(last: int, held: int) -> None:
    address = ip_address("10.0.0.1")
    given = Input("eth0", address, PortRange(5000, last))
    holds = {Hold("eth0", 2, address, 5000 + number) for number in range(held)}
    assert needs_of(given) == (set(), holds)


def test_of_a_unicast_prefix_this_host_s_own_addresses_are_held() -> None:
    own = tuple(map(ip_interface, ("10.0.0.1/24", "10.0.0.9/24", "10.9.0.1/24", "fd00::1/64")))
    given = Input("eth0", ip_network("10.0.0.0/16"), PortRange(5000, 5001))
    expected = {
        Hold("eth0", 2, ip_address(address), port)
        for address in ("10.0.0.1", "10.0.0.9")
        for port in (5000, 5001)
    }
    links = {**LINKS, "eth0": replace(LINKS["eth0"], addresses=own)}
    assert needs_of(given, links) == (set(), expected)


def test_esp_is_held_as_such_and_sent_as_such() -> None:
    address = ip_address("10.0.0.1")
    given = Input("eth0", address, 0, protocol="esp")
    assert needs_of(given) == (set(), {Hold("eth0", 2, address, 0, "esp")})
    rule = Rule("camera", given, (Output("eth1", ip_address("10.1.0.9"), 0, ttl=8),))
    (egress,) = outputs_of(rule)
    assert isinstance(egress, Egress)
    assert (egress.sending.protocol, egress.port, str(egress)) == (
        "esp",
        0,
        "output to 10.1.0.9 on eth1",
    )


# Outputs that go by member.

KEPT = replace(OUTPUT, source="keep")


def test_a_kept_source_goes_by_member_and_waits_for_no_address() -> None:
    bare = {**LINKS, "eth1": replace(LINKS["eth1"], addresses=())}
    for links in (LINKS, bare):
        (found,) = outputs_of(replace(CAMERA, outputs=(KEPT,)), links)
        assert isinstance(found, Members)
        assert (found.sending.source, found.target) == (None, ("eth1", TARGET, 6000))


def test_other_outputs_of_one_destination_have_a_socket_from_the_start() -> None:
    kept, plain = outputs_of(replace(CAMERA, outputs=(KEPT, replace(OUTPUT, port=6001))))
    assert isinstance(kept, Members)
    assert isinstance(plain, Egress)


@pytest.mark.parametrize(
    ("address", "port", "to", "to_port"),
    [
        ("239.1.0.0/16", 5000, "239.2.0.0/16", 6000),
        ("239.1.1.1", PortRange(5000, 5099), "239.2.2.2", PortRange(6000, 6099)),
        ("239.1.0.0/16", PortRange(5000, 5099), "239.2.0.0/16", PortRange(6000, 6099)),
    ],
)
def test_a_range_goes_by_member(
    address: str, port: int | PortRange, to: str, to_port: int | PortRange
) -> None:
    where = ip_network(to) if "/" in to else ip_address(to)
    given = ip_network(address) if "/" in address else ip_address(address)
    rule = Rule("r", Input("eth0", given, port), (Output("eth1", where, to_port, ttl=8),))
    (found,) = outputs_of(rule)
    assert isinstance(found, Members)
    assert found.target == ("eth1", where, to_port)
    assert found.sending.source == ip_address("10.1.0.1")
    assert (found.input_address, found.input_port) == (first_address(given), 5000)


def test_a_limit_is_in_the_relay_and_opens_nothing() -> None:
    limited = replace(CAMERA, outputs=(replace(OUTPUT, limit=100),))
    assert plan(config_of(limited), RUNNING) == (
        Replace(KEY, replace(RELAY, portions=(Portion(100),))),
    )
    limited = replace(CAMERA, input=replace(INPUT, limit=100))
    assert plan(config_of(limited), RUNNING) == (Replace(KEY, replace(RELAY, input=limited.input)),)


def test_a_member_is_where_it_is_in_its_range() -> None:
    given = Input("eth0", ip_network("239.1.0.0/16"), PortRange(5000, 5099))
    output = Output("eth1", ip_network("239.2.0.0/16"), PortRange(6000, 6099), ttl=8, dscp=34)
    (found,) = outputs_of(Rule("r", given, (output,)))
    assert isinstance(found, Members)
    egress = found.member(ip_address("239.1.7.9"), 5042, None, None)
    assert egress == replace(
        EGRESS,
        rule="r",
        sending=replace(EGRESS.sending, dscp=34),
        address=ip_address("239.2.7.9"),
        port=6042,
        of=found.target,
    )
    assert egress.sending is found.sending
    assert egress.target == ("eth1", ip_network("239.2.0.0/16"), PortRange(6000, 6099))


def test_a_kept_source_is_the_packet_s_own() -> None:
    (found,) = outputs_of(replace(CAMERA, outputs=(KEPT,)))
    assert isinstance(found, Members)
    egress = found.member(GROUP, 5000, ip_address("10.0.0.77"), 40001)
    assert (egress.source, egress.sending.source_port) == (ip_address("10.0.0.77"), 40001)
    assert (egress.address, egress.port, egress.transparent) == (TARGET, 6000, True)
    assert egress.target == ("eth1", TARGET, 6000)


@given(configs(), hosts(), st.data())
def test_members_map_range_to_range(
    config: Config, links: dict[str, Link], data: st.DataObject
) -> None:
    rules_of_ranges = [r for r in config.rules.values() if r.enabled and r.input.interface in links]
    assume(rules_of_ranges)
    rule = data.draw(st.sampled_from(rules_of_ranges))
    entry = needs(rule, config, links)
    given, source = rule.input, ip_address("10.0.0.77")
    size = given.address.num_addresses if isinstance(given.address, Network) else 1
    at = data.draw(st.integers(0, size - 1))
    port = data.draw(st.integers(first_port(given.port), last_port(given.port)))
    seen = first_address(given.address) + at
    for found in entry.relays.values():
        for output, made in zip(rule.outputs, found, strict=True):
            single = isinstance(made, str | Egress | Nowhere)
            assert single or given.is_range or output.source == "keep"
            if not isinstance(made, Members):
                continue
            egress = made.member(seen, port, source, 40001)
            ranged = isinstance(output.address, Network)
            if output.address != BROADCAST:
                assert egress.address == first_address(output.address) + (at if ranged else 0)
            assert not isinstance(output.address, Network) or egress.address in output.address
            if isinstance(output.port, PortRange):
                assert egress.port - output.port.first == port - first_port(given.port)
                assert egress.port in output.port
            else:
                assert egress.port == output.port
            assert egress.transparent is (output.source == "keep")
            if egress.transparent:
                assert (egress.source, egress.sending.source_port) == (source, 40001)
            else:
                assert egress.sending == made.sending
                assert egress.sending.source_port == output.source_port
            assert egress.target == made.target == _target(output)
            assert (egress.sending.protocol, egress.worker) == (given.protocol, made.worker)


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
    (egress,) = outputs_of(rule, {**LINKS, "eth1": link})
    assert isinstance(egress, Egress)
    assert egress.source == ip_address(chosen)


def test_a_fixed_source_is_taken_though_another_would_fit_better() -> None:
    link = replace(LINKS["eth1"], addresses=tuple(map(ip_interface, ("10.1.0.1/24", "10.0.0.5/8"))))
    rule = replace(CAMERA, outputs=(replace(OUTPUT, source=ip_address("10.0.0.5")),))
    (egress,) = outputs_of(rule, {**LINKS, "eth1": link})
    assert isinstance(egress, Egress)
    assert egress.source == ip_address("10.0.0.5")


def test_an_output_waits_for_its_fixed_source() -> None:
    rule = replace(CAMERA, outputs=(replace(OUTPUT, source=ip_address("10.1.0.7")),))
    assert needs(rule, Config(), LINKS).waiting == ("eth1 does not have the address 10.1.0.7",)
    assert plan(config_of(rule), Actual(LINKS)) == ()


def test_an_address_that_goes_moves_the_output_to_the_next() -> None:
    two = replace(LINKS["eth1"], addresses=tuple(map(ip_interface, ("10.1.0.1/24", "10.1.0.2/24"))))
    now = reach(config_of(CAMERA), {**LINKS, "eth1": two})
    one = replace(two, addresses=two.addresses[1:])
    moved = replace(EGRESS, sending=replace(EGRESS.sending, source=ip_address("10.1.0.2")))
    assert plan(config_of(CAMERA), replace(now, links={**LINKS, "eth1": one})) == (
        Open(moved),
        Replace(KEY, replace(RELAY, outputs=(moved,))),
        Close(EGRESS),
    )


def test_another_address_that_comes_disturbs_nothing() -> None:
    two = replace(LINKS["eth1"], addresses=tuple(map(ip_interface, ("10.1.0.1/24", "10.1.0.2/24"))))
    assert plan(config_of(CAMERA), replace(RUNNING, links={**LINKS, "eth1": two})) == ()


BY_MEMBERS = """
[rules.a]
input = { interface = "eth0", address = "232.1.0.0/16", port = 5000 }
outputs = [
    { interface = "eth1", address = "232.2.0.0/16", port = 5000, ttl = 2, when = "members" },
    { interface = "wg0", address = "232.1.0.0/16", port = 5000, ttl = 2, when = "members" },
]
"""


@pytest.mark.parametrize(
    ("sources", "first", "second", "joined"),
    [
        ("", "1", "", "1"),
        ("", "1 2", "2 3", "1 2 3"),
        ("", "1", "any", "1 in"),
        ("", "any", "1", "1 in"),
        ("", "any", "", "in"),
        ("", " ".join(map(str, range(1, 11))), "", " ".join(map(str, range(1, 11)))),
        ("", " ".join(map(str, range(1, 12))), "", " ".join(map(str, range(1, 12)))),
        ('exclude = ["10.0.0.2/31"]', "1 2 3", "", "1"),
        ('sources = ["10.0.0.2/31"]', "1 2 3", "", "2 3"),
        ('sources = ["10.0.0.2", "10.0.0.3"]', "1 2", "", "2"),
        ('sources = ["10.0.0.2", "10.0.0.3"]', "any", "", "2 3"),
    ],
)
def test_a_group_of_a_range_is_joined_from_the_sources_that_members_want(
    sources: str, first: str, second: str, joined: str
) -> None:
    """Where outputs keep them; else it is the relay that members have joined from.

    Of a source-specific group, what comes unasked is let in where nobody has named a source.
    """
    links = {
        name: Link(name, index, True, True, 1500, 1, (ip_interface(f"10.0.0.25{index}/24"),))
        for index, name in enumerate(INTERFACES, 1)
    }

    def host(number: str) -> Address:
        return ip_address("10.0.0.0") + int(number)

    found = Listeners()
    for index, group, wants in ((2, "232.2.0.7", first), (3, "232.1.0.7", second)):
        some = tuple(host(n).packed for n in wants.split() if n != "any")
        if wants:
            found[index, ip_address(group)] = Wanted(wants == "any", some)

    text = BY_MEMBERS.replace("5000 }", f"5000, {sources} }}" if sources else "5000 }")
    config = parse(text.replace('"members"', '"members", source = "keep"'), "f")
    where = ("eth0", 1, ip_address("232.1.0.7"))
    assert list(needs(config.rules["a"], config, links, listeners=found).joins) == [
        Reception(*where) if each == "in" else Membership(*where, host(each))
        for each in joined.split()
    ]
    config = parse(BY_MEMBERS, "f")
    found = Listeners({(2, ip_address("232.2.0.7")): Wanted(False, (host("252").packed,))})
    joins = needs(config.rules["a"], config, links, listeners=found).joins
    assert joins == (Reception(*where),)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("any", "", ["unnamed", ""]),
        ("any", "any", ["unnamed", "unnamed"]),
        ("any", "1", ["", ""]),
        ("1", "any 2", ["", ""]),
        ("any", None, ["", ""]),
        (range(1100), "", ["more", ""]),
        (range(1100), range(1000, 1100), ["", ""]),
        (range(1100), range(1000, 1099), ["more", ""]),
        (range(1100), None, ["", ""]),
        (range(600), range(600, 1200), ["", ""]),
        (" ".join(map(str, range(1100))), "", ["sources", ""]),
        (" ".join(map(str, range(600))), " ".join(map(str, range(600, 1200))), ["", "sources"]),
    ],
)
def test_a_doubt_is_about_what_is_joined_for_all_outputs(
    first: str | range, second: str | range | None, said: list[str]
) -> None:
    """Wishes are of one group, with sources, or of groups, with the first source of each.

    None: the second output sends always, so the groups are joined as the file says.
    """
    link = Link("eth0", 1, True, True, 1500, 1, (ip_interface("10.9.0.1/24"),))
    links = {name: replace(link, name=name, index=at) for at, name in enumerate(INTERFACES, 1)}
    text = BY_MEMBERS.replace('"members"', '"members", source = "keep"')
    if second is None:
        head, _, tail = text.rpartition(', when = "members"')
        text = head + tail
    hosts, found = ip_address("10.0.0.0"), Listeners()
    for index, start, wants in ((2, "232.2.0.0", first), (3, "232.1.0.0", second or "")):
        if isinstance(wants, range):
            only = Wanted(False, (hosts.packed,))
            found.update({(index, ip_address(start) + n): only for n in wants})
        elif wants:
            some = tuple((hosts + int(n)).packed for n in wants.split() if n != "any")
            found[index, ip_address(start)] = Wanted("any" in wants, some)
    words = {
        "": "",
        "unnamed": "232.1.0.0 is source-specific, and no member names a source of it",
        "more": "more than 1024 of its groups are wanted",
        "sources": "more than 1024 of its groups and sources are wanted",
    }
    config = parse(text, "f")
    doubts = needs(config.rules["a"], config, links, listeners=found).doubts
    assert len(doubts) == 2
    for doubt, which in zip(doubts, said, strict=True):
        assert doubt.startswith(words[which])
        assert bool(doubt) is bool(which)


GROUP_OF_SOURCES = ip_address("232.1.0.7")


def members_of(
    address: str,
    wanted: Wanted,
    sources: str = "",
    output: str = 'source = "keep"',
    links: Mapping[str, Link] = LINKS,
) -> Needs:
    """What a rule of a single group needs, whose members on eth1 want that."""
    text = f"""
    [rules.a]
    input = {{ interface = "eth0", address = "{address}", port = 5000, {sources} }}
    [[rules.a.outputs]]
    interface = "eth1"
    address = "{address}"
    ttl = 2
    when = "members"
    {output}
    """
    config = parse(text, "f")
    found = Listeners({(3, ip_address(address)): wanted})
    return needs(config.rules["a"], config, links, listeners=found)


def those(*numbers: int) -> tuple[bytes, ...]:
    return tuple(ip_address(f"10.0.0.{number}").packed for number in numbers)


@pytest.mark.parametrize(
    ("address", "wanted", "sources", "joined"),
    [
        ("239.1.0.7", Wanted(False, those(1)), "", [1]),
        ("239.1.0.7", Wanted(False, those(2, 1)), "", [2, 1]),
        ("239.1.0.7", Wanted(True, those(1)), "", [None]),
        ("239.1.0.7", Wanted(True, (), frozenset(those(1))), "", [None]),
        ("239.1.0.7", Wanted(False, those(*range(1, 11))), "", list(range(1, 11))),
        ("239.1.0.7", Wanted(False, those(*range(1, 12))), "", [None]),
        ("239.1.0.7", Wanted(False, those(1, 2)), 'sources = ["10.0.0.2", "10.0.0.3"]', [2]),
        ("239.1.0.7", Wanted(True, ()), 'sources = ["10.0.0.2", "10.0.0.3"]', [2, 3]),
        ("239.1.0.7", Wanted(False, those(1, 2, 3)), 'exclude = ["10.0.0.2/31"]', [1]),
        ("239.1.0.7", Wanted(False, those(1)), 'sources = ["10.0.0.2"]', []),
        ("232.1.0.7", Wanted(False, those(*range(1, 201))), "", list(range(1, 201))),
        ("232.1.0.7", Wanted(True, those(1)), "", [1, "let in"]),
        ("232.1.0.7", Wanted(True, ()), "", ["let in"]),
        ("232.1.0.7", Wanted(True, ()), 'sources = ["10.0.0.0/24"]', ["let in"]),
        ("232.1.0.7", Wanted(True, those(3)), 'sources = ["10.0.0.2", "10.0.0.3"]', [2, 3]),
    ],
)
def test_a_single_group_is_joined_from_the_sources_that_members_want(
    address: str, wanted: Wanted, sources: str, joined: list[int | str | None]
) -> None:
    entry = members_of(address, wanted, sources)
    found: list[int | str | None] = []
    for each in (*entry.required, *entry.optional):
        if isinstance(each, Membership) and each.index == 2:
            source = each.source
            found.append(None if source is None else int(source) - int(ip_address("10.0.0.0")))
        elif isinstance(each, Reception):
            found.append("let in")
    assert found == joined
    (said,) = entry.doubts or entry.waiting
    unnamed = f"{address} is source-specific, and no member names a source of it"
    assert (unnamed in said) is (joined == ["let in"])
    if not joined:
        assert said == f"nobody on eth1 has joined {address} from a source whose packets it sends"


def test_a_tunnel_has_no_filter_that_a_group_is_to_be_let_in_by() -> None:
    """The kernel refuses an Ethernet address there: EINVAL, packet_dev_mc()."""
    for hardware, let_in in ((1, True), (65534, False)):  # ARPHRD_ETHER, ARPHRD_NONE
        links = {**LINKS, "eth0": replace(LINKS["eth0"], hardware=hardware)}
        entry = members_of("232.1.0.7", Wanted(True, those(1)), links=links)
        membership = Membership("eth0", 2, GROUP_OF_SOURCES, ip_address("10.0.0.1"))
        reception = (Reception("eth0", 2, GROUP_OF_SOURCES),) if let_in else ()
        assert entry.joins == (membership, *reception)


def test_a_source_that_its_output_does_not_send_is_not_joined() -> None:
    for chosen, joined in (('sources = ["10.0.0.2"]', "2"), ('exclude = ["10.0.0.2"]', "1")):
        output = f'source = "keep"\n{chosen}'
        entry = members_of("239.1.0.7", Wanted(False, those(1, 2)), "", output)
        group, source = ip_address("239.1.0.7"), ip_address(f"10.0.0.{joined}")
        assert entry.joins == (Membership("eth0", 2, group, source),)


def test_members_do_not_name_sources_of_the_input_where_the_output_has_its_own() -> None:
    """Its group is wanted from the relay; a source-specific one is not joined all the same."""
    (own,) = (each.ip for each in LINKS["eth1"].addresses)
    for address in ("239.1.0.7", "232.1.0.7"):
        for wanted in (Wanted(False, (own.packed,)), Wanted(True, ())):
            entry = members_of(address, wanted, output="")
            membership = Membership("eth0", 2, ip_address(address))
            is_joined = membership in (*entry.required, *entry.optional)
            assert is_joined is (address == "239.1.0.7")
            assert ("source-specific" in entry.doubts[0]) is (not is_joined)
        entry = members_of(address, Wanted(False, those(77)), output="")
        why = f"nobody on eth1 has joined {address} from {own}, but from others, such as 10.0.0.77"
        assert (entry.waiting, list(entry.idle)) == ((why,), [0])


def joins_of(where: str, groups: dict[int, range]) -> dict[int, list[int | None]]:
    """Of a range, groups by their number and from which sources, by theirs: both in their order."""
    first, sources = ip_address(f"{where}.1.0.0"), ip_address("10.0.0.0")
    text = BY_MEMBERS.replace('"members"', '"members", source = "keep"')
    config = parse(text.replace("232.1.0.0", f"{where}.1.0.0"), "f")
    link = Link("eth0", 1, True, True, 1500, 1)
    links = {name: replace(link, name=name, index=at) for at, name in enumerate(INTERFACES, 1)}
    found = Listeners(
        {
            (3, first + group): Wanted(False, tuple((sources + n).packed for n in hosts))
            for group, hosts in groups.items()
        }
    )
    entry = needs(config.rules["a"], config, links, listeners=found)
    joined: dict[int, list[int | None]] = {}
    for each in entry.joins:
        assert isinstance(each, Membership)
        named = int(each.source) - int(sources) if each.source is not None else None
        joined.setdefault(int(each.group) - int(first), []).append(named)
    return joined


@pytest.mark.parametrize("where", ["232", "239"])
def test_further_sources_of_some_groups_take_no_group_from_others(where: str) -> None:
    wants = {group: range(1, 2) for group in range(900)}
    assert joins_of(where, wants) == {group: [1] for group in wants}
    joined = joins_of(where, wants | {group: range(1, 11) for group in range(103)})
    assert list(joined) == list(wants)
    assert sum(map(len, joined.values())) <= 1024
    assert joined[0] == list(range(1, 11))
    assert joined[102] == ([1] if where == "232" else [None])


def test_a_source_specific_group_is_never_joined_from_any_source() -> None:
    """Routers ignore that. What was named first stays, whatever else is named."""
    joined = joins_of("232", {1: range(200, 0, -1), 2: range(1, 2000), 3: range(7, 9)})
    assert joined[1] == list(range(200, 0, -1))
    assert joined[2] == list(range(1, 824))
    assert joined[3] == [7]
    assert joins_of("239", {1: range(11)}) == {1: [None]}


def test_two_outputs_have_no_more_sources_than_one() -> None:
    first = ip_address("239.1.0.7")
    text = BY_MEMBERS.replace('"members"', '"members", source = "keep"').replace("232.", "239.")
    config = parse(text, "f")
    link = Link("eth0", 1, True, True, 1500, 1)
    links = {name: replace(link, name=name, index=at) for at, name in enumerate(INTERFACES, 1)}
    ten = [tuple((ip_address("10.0.0.0") + n).packed for n in range(at, at + 10)) for at in (0, 10)]
    found = Listeners({(3, first): Wanted(False, ten[0])})
    assert len(needs(config.rules["a"], config, links, listeners=found).joins) == 10
    found = Listeners({**found, (2, ip_address("239.2.0.7")): Wanted(False, ten[1])})
    joins = needs(config.rules["a"], config, links, listeners=found).joins
    assert joins == (Membership("eth0", 1, first),)
