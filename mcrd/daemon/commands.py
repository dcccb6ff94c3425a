"""What the daemon answers to each command of the control socket."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import asdict

from mcrd import __version__, answers, counters
from mcrd.answers import Twice
from mcrd.beside.lookout import Watcher
from mcrd.beside.twice import twice
from mcrd.client import ControlError, network_namespace
from mcrd.config import ConfigError
from mcrd.config.problems import is_about
from mcrd.daemon import privileges, report, roles, switches
from mcrd.daemon.alarms import Alarms
from mcrd.daemon.control import Request
from mcrd.daemon.families import Snapshot
from mcrd.daemon.metrics import Metrics
from mcrd.daemon.planner import Planner
from mcrd.daemon.rulefile import RuleFile
from mcrd.daemon.since import Moment, Since, see
from mcrd.errors import words
from mcrd.lanes.queriers import Asking
from mcrd.looks import Look
from mcrd.model import Config, Rule
from mcrd.observe.capture import LONGEST, SHORTEST, BusyError, Looks
from mcrd.observe.kinds import mark
from mcrd.observe.listener import Listener
from mcrd.planning import names
from mcrd.planning.changes import changes
from mcrd.planning.names import written
from mcrd.planning.patterns import called, several
from mcrd.planning.resources import Querying
from mcrd.systemd import journal
from mcrd.systemd.notify import Notify
from mcrd.tasks import Tasks

AT_ONCE = 64  # rules whose counters are read before others have their turn
START = 5.0  # seconds that a request waits for the rules of a daemon that starts
LOOKS, LOOK_AGAIN = 2, 0.5  # at who else relays; seconds between the two
LISTEN_EVERY = 0.05  # seconds, while somebody asks what is heard

Arguments = Mapping[str, Any]
Found = TypeVar("Found", bound=counters.Stats)


@dataclass(slots=True)
class Commands:
    """The parts of the daemon that answers are about.

    `reload` reads the rule file again. `settle` carries out what a call changes of what is wanted.
    """

    planner: Planner
    file: RuleFile
    notify: Notify
    alarms: Alarms
    watcher: Watcher
    listener: Listener
    tasks: Tasks
    reload: Callable[[str], Awaitable[answers.Changes]]
    settle: Callable[[Callable[[], None]], Awaitable[None]]
    adopted: float = 0.0
    """When the rules that run were applied, in seconds since the epoch."""
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """The rules are known: before, each answer would be that there are none."""
    metrics: Metrics = field(init=False)
    _started: float = field(default_factory=time.monotonic)
    _looks: Looks = field(default_factory=Looks)
    _since: Since = field(default_factory=Since)
    _listening: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.snapshot)

    async def answer(self, request: Request) -> answers.Answer:
        """Carry a command out; raises ControlError."""
        command = COMMANDS.get(request.command)
        if command is None:
            raise ControlError(f"unknown command: {request.command}")
        if not self.known.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.known.wait(), START)
        try:
            return await command.run(self, request.arguments)
        except ConfigError as error:
            refusal = ControlError(*(str(problem) for problem in error.problems))
            refusal.logged = command.is_logged
            raise refusal from None

    async def reloaded(self, _: Arguments) -> answers.Reload:
        """Read the rule file again, and say what changed."""
        changed = await self.reload("mcrctl")
        troubled = report.troubled(self.planner.states)
        return answers.Reload(**asdict(changed), troubled=troubled)

    async def used(self, arguments: Arguments) -> answers.Use:
        """Have an input of a rule used, until that is taken back."""
        name, wanted = str(arguments.get("name")), str(arguments.get("input"))
        if name not in self.planner.written.rules:
            raise ControlError(f"there is no rule {name!r}; `mcrctl rules` lists them")
        leg = switches.wanted(name, wanted, self.planner.config.rules)
        await self.settle(partial(self.planner.use, name, leg.name if leg is not None else None))
        switches.tell_choice(name, leg)
        rules, ledger = self.planner.config.rules, self.planner.estate.ledger
        return answers.Use(list(switches.outcome(name, leg, rules, self.planner.states, ledger)))

    async def role(self, arguments: Arguments) -> answers.Roles:
        """Have a rule, or all with `active_with`, relay or stand by; or go by the addresses."""
        name, role = str(arguments.get("name")), roles.wanted(arguments.get("role"))
        meant = roles.meant(name, self.planner.written.rules)
        await self.settle(partial(self.planner.take_roles, meant, role))
        roles.tell_choice(name, role)
        return answers.Roles(list(roles.outcome(meant, self.planner.now())))

    async def diff(self, arguments: Arguments) -> answers.Changes:
        """What a reload would change. Of one rule: with the reasons why the file is refused."""
        name, old = arguments.get("name"), self.planner.written
        if name is None:
            return changes(old, await self.file.now())
        try:
            new = await self.file.now()
        except ConfigError as error:
            return answers.Diff(refused=[str(problem) for problem in error.problems])
        of_file = written(str(name))
        return answers.Diff(**asdict(changes(_only(old, of_file), _only(new, of_file))))

    async def status(self, _: Arguments) -> answers.Status:
        """The daemon, its workers, and the rules in numbers."""
        planner = self.planner
        daemon, metrics = planner.config.daemon, planner.config.metrics
        return answers.Status(
            version=__version__,
            pid=os.getpid(),
            network_namespace=network_namespace(),
            uptime_s=self._uptime(),
            config=str(self.file.path),
            config_errors=self.file.errors,
            watch_trouble=self.file.watch.trouble,
            pending=planner.pending,
            summary=report.summary(planner.states, self.file.errors),
            rules=dict(Counter(state.state for state in planner.states.values())),
            sandbox=answers.Sandbox(daemon.sandbox, report.lacking(planner.estate)),
            privileges=privileges.now(),
            lost=answers.Lost(journal.lost(), self.notify.lost),
            metrics=answers.Metrics(metrics.listen, self.metrics.error),
            chosen=dict(planner.estate.handover.chosen),
            roles=dict(planner.estate.handover.roles),
            names=self._names(),
            unasked=self._unasked(),
            workers=report.workers(planner.estate),
        )

    def _unasked(self) -> dict[str, list[str]]:
        links = self.planner.links.now
        own = {(q.index, q.version) for q, asking in self._asking() if asking.querier.elected}
        here = (links[name] for name in names.used(self.planner.config) if name in links)
        found = self.listener.unasked(link.name for link in here)
        told = {
            name: [p for p in of if (links[name].index, 4 if p == "igmp" else 6) not in own]
            for name, of in found.items()
        }
        return {name: of for name, of in told.items() if of}

    def _asking(self) -> list[tuple[Querying, Asking]]:
        return list(self.planner.estate.holdings.queriers.items())

    async def rules(self, arguments: Arguments) -> answers.Rules:
        """The rules with their states; of one: with the warnings about it."""
        name, config, links = arguments.get("name"), self.planner.config, self.planner.links.now
        rules = self._named(name)
        now = self.planner.now(rules)
        found = {
            key: report.rule(rule, now[key], links, names.rejoin(config, rule, links))
            for key, rule in rules.items()
        }
        switched = switches.Inputs(config.rules, self.planner.estate.ledger)
        for key, rule in rules.items():
            found[key].switch = switched.of(rule)
        if name is None:
            return answers.Rules(found)
        of_file = set(map(written, rules))
        about = [line for line in config.warnings if any(is_about(line, one) for one in of_file)]
        return answers.OneRule(found, about)

    async def stats(self, arguments: Arguments) -> counters.Stats:
        """All counters, or those of a rule and of its input interface; or what is not as it was.

        Others have their turn while rules are counted: there may be thousands.
        """
        name, since = arguments.get("name"), arguments.get("since")
        if name is not None or not isinstance(since, int):
            moment = self._see(self._named(name))
            return await self._count(counters.Stats(), moment, name is not None)
        moment, flows = self._since.look(self.planner, self.alarms)
        found = counters.Stats(cursor=self._since.cursor)
        if self._since.knows(since):
            rules = {name: moment.rules[name] for name in self._since.changed(since)}
            found.since, moment = since, moment._replace(rules=rules)
            found.rates = {name: flow for name, flow in flows.items() if name not in rules}
        return await self._count(found, moment)

    async def snapshot(self) -> Snapshot:
        """What the metrics show."""
        found = Snapshot(
            version=__version__,
            config_errors=self.file.errors,
            config_time=self.adopted,
            names=self._names(),
        )
        for _, asking in self._asking():
            found.asked.append(asking.told())
            await asyncio.sleep(0)
        return await self._count(found, self._see(self.planner.config.rules))

    def _see(self, rules: Mapping[str, Rule]) -> Moment:
        return see(self.planner, self.alarms, rules, self.planner.now(rules))

    def _names(self) -> dict[str, answers.HostName]:
        """The names of receivers, with what DNS has of them."""
        return {
            name: answers.HostName([str(each) for each in found.addresses], found.trouble)
            for name, found in self.planner.estate.handover.resolved.items()
        }

    async def _count(self, found: Found, moment: Moment, is_one: bool = False) -> Found:
        """Count these rules, and all interfaces or those of the one."""
        rules, states, silent, faults, links = moment
        planner, ledger = self.planner, self.planner.estate.ledger
        switched = switches.Inputs(planner.config.rules, ledger)
        for number, (key, rule) in enumerate(rules.items(), 1):
            found.rules[key] = report.rule_counts(rule, states[key], ledger, silent, links)
            found.rules[key].leg_faults = faults.get(key, [])
            found.rules[key].switch = switched.of(rule)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        here = (names.real(rule.input.interface, links) for rule in rules.values())
        report.add_rings(found, planner.estate, frozenset(here) if is_one else None)
        found.uptime_s = self._uptime()
        return found

    async def look(self, arguments: Arguments) -> Look:
        """What comes to the input interface of a rule, for mcrctl explain."""
        rule = self._one(str(arguments.get("name")))
        seconds = arguments.get("seconds", 3.0)
        if not isinstance(seconds, int | float) or not SHORTEST <= seconds <= LONGEST:
            raise ControlError(f"seconds have to be from {SHORTEST:g} to {LONGEST:g}")
        if self._listening is None or self._listening.done():
            self._listening = self.tasks.passing("listening", self._listen_often)
        try:
            here = names.rule_here(rule, self.planner.links.now)
            found = await self._looks.look(here.input, seconds)
        except BusyError as error:
            raise ControlError(f"busy: {error}") from None
        except OSError as error:
            raise ControlError(f"cannot look at {rule.input.interface}: {words(error)}") from None
        links = self.planner.links.now
        self.listener.listen(links)
        found.heard, found.returned = self.listener.tell(here)
        for querying, asking in self._asking():  # its own queries, nobody hears
            protocol = "igmp" if querying.version == 4 else "mld"
            heard = found.heard.get(querying.interface, {}).get(protocol)
            if heard is not None and (query := asking.own_query()) is not None:
                heard.query = query
        mark(found, here, names.config_here(self.planner.config, links).rules.values())
        return found

    async def others(self, arguments: Arguments) -> answers.Others:
        """Who else relays what these rules do; what is about to go is gone at the second look."""
        rules = self._named(arguments.get("name"))
        found: list[Twice] = []
        for look in range(LOOKS):
            if look and not found:
                break
            await asyncio.sleep(look * LOOK_AGAIN)
            sight, links = await self.watcher.sight(), self.planner.links.now
            seen = twice(self.planner.active(rules).values(), links, sight)
            before = {(one.rule, one.by) for one in found}
            found = [one for one in seen if not look or (one.rule, one.by) in before]
        return answers.Others(found, list(sight.unseen))

    async def members(self, _: Arguments) -> answers.Members:
        """Who wants which groups, where this host asks."""
        return answers.Members([asking.told() for _, asking in self._asking()])

    async def _listen_often(self) -> None:
        """While somebody wants to know: of a host that rejects all, hundreds of errors may come."""
        while self._looks.under_way:
            self.listener.listen(self.planner.links.now)
            await asyncio.sleep(LISTEN_EVERY)

    def _named(self, name: object) -> Mapping[str, Rule]:
        """The rule of this name, or all rules for None; raises ControlError."""
        rules = self.planner.config.rules
        if name is None:
            return rules
        found = called(name, rules) if isinstance(name, str) else []
        if not found:
            raise ControlError(f"there is no rule {name!r}; `mcrctl rules` lists them")
        return {each: rules[each] for each in found}

    def _one(self, name: str) -> Rule:
        """The one rule of this name; raises ControlError."""
        found = list(self._named(name).values())
        if len(found) > 1:
            raise ControlError(several(name, [rule.name for rule in found]))
        return found[0]

    def _uptime(self) -> float:
        return round(time.monotonic() - self._started, 3)


class Command(NamedTuple):
    """A command: what carries it out; whether the log has its refusals, too.

    `is_guarded`: for root, the daemon's user and its group alone. `lasts`: it ends when its
    client goes away.
    """

    run: Callable[[Commands, Arguments], Awaitable[answers.Answer]]
    is_guarded: bool = False
    lasts: bool = False
    is_logged: bool = False


COMMANDS = {
    "reload": Command(Commands.reloaded, is_guarded=True, is_logged=True),
    "use": Command(Commands.used, is_guarded=True, is_logged=True),
    "role": Command(Commands.role, is_guarded=True, is_logged=True),
    "diff": Command(Commands.diff),
    "status": Command(Commands.status),
    "rules": Command(Commands.rules),
    "stats": Command(Commands.stats),
    "others": Command(Commands.others),
    "members": Command(Commands.members),
    "look": Command(Commands.look, is_guarded=True, lasts=True),
}
GUARDED = frozenset(name for name, command in COMMANDS.items() if command.is_guarded)
LASTING = frozenset(name for name, command in COMMANDS.items() if command.lasts)


def _only(config: Config, name: str) -> Config:
    """With this rule alone, if it has that."""
    rules = {name: config.rules[name]} if name in config.rules else {}
    return replace(config, rules=rules)
