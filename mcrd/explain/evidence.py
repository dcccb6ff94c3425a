"""What is known about a rule and its surroundings, and what follows: plain values."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address, ip_network
from typing import Literal

from mcrd import answers
from mcrd.beside.discovery import Listener
from mcrd.beside.who import Party
from mcrd.config.values import receiver
from mcrd.counters import InterfaceCounts, RuleCounts, Stats
from mcrd.host.bridges import Bridge
from mcrd.looks import Heard, Look
from mcrd.model import Address, Input, Output, Place, PortRange, Rule
from mcrd.observe.kinds import Sorted, sort
from mcrd.planning.links import Link
from mcrd.planning.states import OPEN
from mcrd.words import few

NO_DAEMON = "no daemon was asked"
TOLD = 3  # things of one kind that are named
Answer = Literal["yes", "no", "unknown", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One step of the path: whether the packet gets past it, how that is known, and what to do.

    `topic` names what it is about, within its stage. A note is worth knowing, and no more.
    """

    stage: str
    topic: str
    answer: Answer
    text: str
    remedy: str = ""
    output: int | None = None


Say = Callable[..., Finding]
"""Makes a finding of one output; the rest is as for any Finding, from its topic on."""


@dataclass(frozen=True, slots=True)
class Way:
    """The way to a host over `interface`. `neighbour` is a state of ip-neighbour(8).

    The interface is that of the output, or else where the routes lead. `error` is why there is no
    way, a name of errno(3); `elsewhere` is where the routes lead then, from an output with an
    interface. `local`: it is this host. `gateway`: the first router, if there is one. `mtu`: the
    route's own, in bytes, if it has one. `source`: what the kernel would send from.
    """

    error: str | None = None
    interface: str | None = None
    elsewhere: str | None = None
    source: Address | None = None
    gateway: str | None = None
    neighbour: str | None = None
    local: bool = False
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """What this host knows. `ways` are those of the outputs to hosts, by their index; `bridges`
    those of the outputs to groups. `joined_here` are outputs to a group that this host has joined.

    `not_joined` are those of the input's groups; None: it cannot be said. `joined` is how many of
    them are; None: likewise. `fallback` is the version
    of IGMP or MLD that the interface fell back to, by a query. `back` says over which interface the
    route back to a source leads. `called`: interfaces that the file has an alternative name of.
    `parties` relay the rule as well, None: nobody was asked; `listeners` are on the port of a
    discovery protocol, and `unseen` is what could not be looked at.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    bridge: Bridge | None = None
    not_joined: Sequence[Address] | None = None
    joined: int | None = None
    fallback: str | None = None
    ways: Mapping[int, Way] = field(default_factory=dict)
    bridges: Mapping[int, Bridge] = field(default_factory=dict)
    joined_here: frozenset[int] = frozenset()
    reverse_filter: int | None = None
    back: Mapping[str, str | None] = field(default_factory=dict)
    called: Mapping[str, str] = field(default_factory=dict)
    parties: Sequence[Party] | None = None
    listeners: Sequence[Listener] = ()
    unseen: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the daemon says: a rule's state, and counters and workers before and after the look.

    `state` is the rule's entry in `mcrctl rules`, None when no rule of that name runs. `stopped`
    are the pids of workers that somebody stopped. `changed` is what the file says by now, if it is
    not what runs; `removed`: it says nothing about the rule any more.
    """

    state: answers.Rule | None
    config: str
    pending: bool = False
    refused: Sequence[str] = ()
    changed: Sequence[str] = ()
    removed: bool = False
    before: Stats | None = None
    after: Stats | None = None
    stopped: frozenset[int] = frozenset()


@dataclass(frozen=True)  # without slots, for what is derived once
class Evidence:
    """All evidence. `look` is None when nobody looked, and `look_error` says why.

    `warnings` are those about the rule in its file.
    """

    rule: Rule
    host: Host
    daemon: Daemon | None = None
    look: Look | None = None
    look_error: str = NO_DAEMON
    warnings: Sequence[str] = ()

    @property
    def rejoin(self) -> float | None:
        """How often the group is reported unasked, in seconds; None: never, or it is not known."""
        state = self.daemon.state if self.daemon is not None else None
        return state.input.rejoin_s if state is not None else None

    def rings(self, after: bool = True) -> InterfaceCounts:
        """The counters of the input interface, `after` the look or before it."""
        return self.stats(after).interfaces.get(self.rule.input.interface) or InterfaceCounts()

    def counts(self, after: bool = True) -> RuleCounts:
        """The counters of the rule."""
        return self.stats(after).rules.get(self.rule.name) or RuleCounts()

    def stats(self, after: bool = True) -> Stats:
        """All counters; none where no daemon was asked."""
        daemon = self.daemon or Daemon(None, "")
        return (daemon.after if after else daemon.before) or Stats()

    @cached_property
    def seen(self) -> Sorted:
        """The kinds that were seen, by what they lack; empty when nobody looked."""
        return sort(self.rule.input, self.look.kinds if self.look is not None else ())


def is_active(evidence: Evidence) -> bool:
    """Whether the rule sends what comes now."""
    return _state(evidence) == "active"


def asks(evidence: Evidence) -> bool:
    """Whether the rule asks for packets now, to send them or because it stands by."""
    return _state(evidence) in OPEN


def _state(evidence: Evidence) -> str | None:
    daemon = evidence.daemon
    return daemon.state.state if daemon is not None and daemon.state is not None else None


def heard_on(evidence: Evidence, interface: str, version: int) -> Heard | None:
    """What the daemon heard of IGMP or MLD on an interface; None: nobody did."""
    heard = evidence.look.heard.get(interface, {}) if evidence.look is not None else {}
    return heard.get("igmp" if version == 4 else "mld")


def some(names: Sequence[str], what: str = "") -> str:
    """The first of them, each once, and how many more there are."""
    return few(list(dict.fromkeys(names)), TOLD, f" and {{}} {what}more")


def ago(since: float) -> str:
    """How many seconds ago something was, for people."""
    seconds = round(since)
    return f"{seconds} s" if seconds < 600 else f"{seconds // 60} min"


def rule_of(name: str, entry: answers.Rule) -> Rule:
    """The rule that an entry of `mcrctl rules` describes."""
    given = entry.input
    place = None
    if entry.place:
        file, line, column = entry.place.rsplit(":", 2)
        place = Place(file, int(line), int(column))
    return Rule(
        name=name,
        input=Input(
            interface=given.interface,
            address=receiver(given.address),
            port=_port(given.port),
            protocol="esp" if given.protocol == "esp" else "udp",
            sources=tuple(map(ip_network, given.sources)),
            exclude=tuple(map(ip_network, given.exclude)),
            vlan=given.vlan,
            limit=given.limit,
        ),
        outputs=tuple(map(_output, entry.outputs)),
        enabled=entry.state != "disabled",
        place=place,
    )


def _output(entry: answers.Output) -> Output:
    source = entry.source
    if source == "keep" and entry.replies_s is not None:
        source = None  # answers keep theirs: it asks from an address of the interface
    return Output(
        interface=entry.interface,
        address=receiver(entry.address),
        port=_port(entry.port),
        ttl=entry.ttl,
        source="keep" if source == "keep" else ip_address(source) if source else None,
        loop=entry.loop,
        limit=entry.limit,
        when="members" if entry.when == "members" else None,
    )


def _port(port: int | str) -> int | PortRange:
    return port if isinstance(port, int) else PortRange(*map(int, port.split("-")))
