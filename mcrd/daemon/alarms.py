"""What is worth a line in the log when it begins, and one when it is over."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mcrd.addresses import Target, target, where
from mcrd.daemon.legs import FAULTS, Legs
from mcrd.events import counted, tell
from mcrd.lanes.counts import InterfaceCount, OutputCount
from mcrd.lanes.ledger import Ledger
from mcrd.model import Config, Output, Rule
from mcrd.planning.states import OPEN, RuleState
from mcrd.sums import MergeCount
from mcrd.words import unsent_for

AT_ONCE = 256  # outputs that are read in one look, or a few more: of thousands, each in its turn
AT_LEAST, ABOUT = "at least ", "about "
OVER = 5.0  # seconds without it after which something is over

INTERFACE = {
    "discarded": "packets were thrown away with their rings",
    "ring_full": "packets found no room in a ring; see workers and ring_size",
    "rate_limited": "packets over the limit of a rule were dropped",
    "own_output": "packets that this daemon sent came back and were not relayed again",
}
"""Drops of an interface that somebody can do something about."""

OUTPUT = {
    "unreachable": "packets could not reach the host",
    "rate_limited": "packets over its limit were not sent",
}
"""Drops of an output that are worth a line."""

LOOPS = {
    "looped": "packets came back that were relayed before, and were dropped:",
    "cut_off": "repeated packets were dropped: they stop while nothing is relayed, so they loop;",
}
"""Drops of a rule to which something comes back."""

log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """What an event is about."""

    rule: str | None = None
    interface: str | None = None
    output: str | None = None

    def __str__(self) -> str:
        if self.rule is None:
            return str(self.interface)
        return f"rules.{self.rule}" + (f": output {self.output}" if self.output else "")


@dataclass(slots=True)
class _Ongoing:
    began: float
    last: float
    total: int = 0
    about: bool = False
    noun: str = "packet"


@dataclass(slots=True)
class _Counted:
    """What was seen of a counter; `lost` of `total`."""

    lost: int = 0
    total: int = 0
    look: int = 0


@dataclass(slots=True)
class _Heard:
    """How many packets a rule had when it got the last one, and when."""

    packets: int
    since: float
    rule: Rule


@dataclass
class Alarms:
    """The events under way, from a look at the counters once in a while."""

    _news: bool = True
    _ongoing: dict[tuple[str, Subject], _Ongoing] = field(default_factory=dict)
    _seen: dict[tuple[str, Subject], _Counted] = field(default_factory=dict)
    _heard: dict[str, _Heard] = field(default_factory=dict)
    _errors: dict[Subject, dict[str, int]] = field(default_factory=dict)
    _failed: int = -1
    _looped: int = -1
    _config: Config | None = None
    _interfaces: frozenset[str] = frozenset()
    _limited: bool = False  # some output has a limit
    _unread: dict[str, set[Target]] = field(default_factory=dict)  # outputs that failed, by rule
    _looks: int = 0
    _now: float = 0.0  # seconds, monotonic
    _legs: Legs = field(default_factory=Legs)
    silent: set[str] = field(default_factory=set)

    def keep(self, rules: Mapping[str, Rule]) -> None:
        """Forget what was seen of all outputs but those of these rules."""
        known = {_output(rule, output) for rule in rules.values() for output in rule.outputs}
        known |= set(map(_rule, rules.values()))
        for key in [key for key in self._ongoing if key[1].rule and key[1] not in known]:
            self._over(*key)
        self._seen = {k: v for k, v in self._seen.items() if not k[1].rule or k[1] in known}
        self._errors = {k: v for k, v in self._errors.items() if k in known}
        self._unread = {name: found for name, found in self._unread.items() if name in rules}

    def begin(
        self, config: Config, ledger: Ledger, interfaces: Mapping[str, InterfaceCount]
    ) -> None:
        """Treat what was counted so far as known."""
        self._news = False
        self.look(config, {}, ledger, interfaces)
        self._news = True

    def look(
        self,
        config: Config,
        states: Mapping[str, RuleState],
        ledger: Ledger,
        interfaces: Mapping[str, InterfaceCount],
    ) -> None:
        """Say what has begun since the last look, and what is over."""
        self._now = time.monotonic()
        self._looks += 1
        self._look_at_silence(config, states, ledger)
        if interfaces.keys() != self._interfaces:
            self._interfaces = frozenset(interfaces)
            self._seen = {
                k: v for k, v in self._seen.items() if k[1].rule or k[1].interface in interfaces
            }
        for name, count in interfaces.items():
            subject = Subject(interface=name)
            for reason, what in INTERFACE.items():
                number = count.dropped[reason]
                exact = count.dropped_frames.get(reason) in (None, number)
                least = reason in count.dropped_frames
                self._count(subject, reason, what, number, _how(least, exact))
            full = count.dropped["ring_full"]
            total = count.received.packets + full
            how = _how(True, full == count.dropped_frames["ring_full"])
            self._share(subject, full, total, config.daemon.loss, how=how)
        looped = sum(n.dropped["looped"] + n.dropped["cut_off"] for n in interfaces.values())
        if looped != self._looped:
            self._looped = looped
            self._look_at_loops(config, ledger)
        self._look_at_streams(config, ledger)
        self._look_at_legs(config, ledger)
        for subject, found, second in self._outputs(config, ledger):
            errors = sum(found.errors.values())
            before = self._errors.get(subject, {})
            grown = (unsent_for(name) for name, n in found.errors.items() if n != before.get(name))
            what = f"packets were not sent: {', '.join(sorted(grown))}"
            self._errors[subject] = found.errors
            self._count(subject, "unsent", what, errors)
            for reason, what in OUTPUT.items():
                self._count(subject, reason, what, found.dropped[reason])
            lost = errors + found.dropped["unreachable"]
            self._share(subject, lost, found.sent.packets + lost, config.daemon.loss, second)
        self._end()

    def _look_at_loops(self, config: Config, ledger: Ledger) -> None:
        for name in ledger.looped():
            rule = config.rules.get(name)
            if rule is None:
                continue
            dropped = ledger.rule(name).dropped
            who = ledger.returner(name) or "somebody"
            returned = f"on {rule.input.interface}, {who} returns what this daemon sends"
            for event, what in LOOPS.items():
                self._count(_rule(rule), event, f"{what} {returned}", dropped[event])

    def _look_at_streams(self, config: Config, ledger: Ledger) -> None:
        for name, rule in config.rules.items():
            if rule.inspect is None:
                continue
            lost, errors = ledger.faults(name)
            noun = "message" if rule.inspect.format == "moldudp64" else "packet"
            what = f"{noun}s were lost before they came here"
            self._count(_rule(rule), "lost_before", what, lost, noun=noun)
            what = "continuity errors in MPEG-TS: packets of it were lost or repeated"
            self._count(_rule(rule), "continuity", what, errors, noun="error")

    def _look_at_legs(self, config: Config, ledger: Ledger) -> None:
        streams: dict[str, dict[str, MergeCount]] = {}
        for name, rule in config.rules.items():
            if rule.merge is not None and rule.leg:
                streams.setdefault(rule.stream, {})[name] = ledger.merged(name)
        for name, event, more in self._legs.look(streams, self._now):
            text = f"{more} {FAULTS[event]}"
            self._begin_or_go_on(_rule(config.rules[name]), event, text, more, "")

    def faults_of_legs(self) -> dict[str, list[str]]:
        """What is wrong now with legs of merged streams, by the names of their rules."""
        found: dict[str, list[str]] = {}
        for event, subject in self._ongoing:
            if event in FAULTS and subject.rule is not None:
                found.setdefault(subject.rule, []).append(event)
        return found

    def _look_at_silence(
        self, config: Config, states: Mapping[str, RuleState], ledger: Ledger
    ) -> None:
        for name in [name for name in self._heard if name not in config.rules]:
            self._not_silent(name, "silence is no longer watched: the rule has gone")
        for name, rule in config.rules.items():
            state = states.get(name)
            if rule.silence is None or state is None or state.state not in OPEN:
                if name in self._heard:
                    why = "the key has gone" if rule.silence is None else "the rule is not active"
                    self._not_silent(name, f"silence is no longer watched: {why}")
                continue
            packets = ledger.received(name)
            heard = self._heard.setdefault(name, _Heard(packets, self._now, rule))
            lasted = self._now - heard.since
            if packets > heard.packets:
                self._not_silent(name, f"packets again, after {lasted:.1f} s of silence")
                self._heard[name] = _Heard(packets, self._now, rule)
                continue
            heard.packets, heard.rule = packets, rule  # fewer: of rings that were made anew
            if lasted < rule.silence:
                self._not_silent(name, "no longer silent: `silence` is longer now", forget=False)
            elif name not in self.silent:
                self.silent.add(name)
                text = "rules.%s: silent: no packet for %g s"
                where = {"rule": name, "interface": rule.input.interface}
                tell(log, logging.WARNING, "silence", text, name, rule.silence, **where)

    def _not_silent(self, name: str, why: str, *, forget: bool = True) -> None:
        if name in self.silent:
            self.silent.discard(name)
            where = {"rule": name, "interface": self._heard[name].rule.input.interface}
            tell(log, logging.INFO, "silence-end", "rules.%s: %s", name, why, **where)
        if forget:
            del self._heard[name]

    def _outputs(
        self, config: Config, ledger: Ledger
    ) -> Iterator[tuple[Subject, OutputCount, int]]:
        """Outputs that failed to send something since the last look: mostly none, of thousands.

        With what each sent in the last second.
        """
        if config is not self._config:
            self._config = config
            outputs = (output for rule in config.rules.values() for output in rule.outputs)
            self._limited = any(output.limit is not None for output in outputs)
        failed, before = ledger.failed(), self._failed
        self._failed = failed
        if failed == before and not self._limited and not self._unread and self._news:
            return
        for name, targets in ledger.failing().items():
            self._unread.setdefault(name, set()).update(targets)
        if not self._news:  # what closed rings have counted, too
            for name, called in ledger.kept[1]:
                self._unread.setdefault(name, set()).add(called)
        read = 0
        while self._unread and (read < AT_ONCE or not self._news):
            name = next(iter(self._unread))
            targets = self._unread.pop(name)
            if name not in config.rules:
                continue
            rule = config.rules[name]
            for output in rule.outputs:
                if (called := target(output)) in targets:
                    read += 1
                    second = ledger.output_rate(name, called).second.packets
                    yield _output(rule, output), ledger.output(name, called), second

    def _count(
        self,
        subject: Subject,
        event: str,
        what: str,
        number: int,
        how: str = "",
        noun: str = "packet",
    ) -> None:
        """Report a counter of things that should stand still; `how` exact it is."""
        seen = self._seen.setdefault((event, subject), _Counted())
        more, seen.lost = number - seen.lost, number
        if more > 0:
            self._begin_or_go_on(subject, event, f"{how}{more} {what}", more, how, noun)

    def _share(
        self,
        subject: Subject,
        lost: int,
        total: int,
        threshold: float,
        second: int | None = None,
        how: str = "",
    ) -> None:
        """Report what was lost since the last look, of how many.

        An output is looked at only when some have failed: then `second`, what it sent in the last
        one, stands for what it has sent since the last look.
        """
        seen = self._seen.setdefault(("loss", subject), _Counted())
        more, of = lost - seen.lost, total - seen.total
        if second is not None and seen.look != self._looks - 1:
            of = min(of, more + second)
        seen.lost, seen.total, seen.look = lost, total, self._looks
        # What a worker counts may go back, when it is not what it was.
        if 0 < more <= of and more >= threshold * of:
            percent = 100 * more / of
            told = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"  # .2g of 100 is 1e+02
            text = f"{how}{more} of {of} packets lost ({told} %)"
            self._begin_or_go_on(subject, "loss", text, more, how)

    def _begin_or_go_on(
        self, subject: Subject, event: str, text: str, more: int, how: str, noun: str = "packet"
    ) -> None:
        if not self._news:
            return
        going = self._ongoing.get((event, subject))
        if going is None:
            going = self._ongoing[event, subject] = _Ongoing(self._now, self._now, noun=noun)
            _tell(logging.WARNING, event, subject, f"{text} ({event})")
        going.last = self._now
        going.total += more
        going.about = going.about or how == ABOUT

    def _end(self) -> None:
        for (event, subject), going in list(self._ongoing.items()):
            if self._now - going.last >= OVER and subject.rule not in self._unread:
                self._over(event, subject)

    def _over(self, event: str, subject: Subject) -> None:
        going = self._ongoing.pop((event, subject))
        lasted = going.last - going.began
        about = ABOUT if going.about else ""
        took = f" after {lasted:.1f} s" if lasted >= 0.05 else ""  # else it was one look's
        text = f"{event} is over{took}: {about}{counted(going.total, going.noun)}"
        _tell(logging.INFO, f"{event}-end", subject, text)


def _rule(rule: Rule) -> Subject:
    return Subject(rule.name, rule.input.interface)


def _how(of_rings: bool, exact: bool) -> str:
    """How exact a count is: each frame that no worker took was one packet at least."""
    return "" if not of_rings else AT_LEAST if exact else ABOUT


def _output(rule: Rule, output: Output) -> Subject:
    return Subject(rule.name, output.interface, where(output))


def _tell(level: int, event: str, subject: Subject, text: str) -> None:
    tell(log, level, event.replace("_", "-"), "%s: %s", subject, text, **subject._asdict())
