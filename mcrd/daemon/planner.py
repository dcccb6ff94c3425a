"""Look, plan, apply: the rounds that bring what is open to what the rules need."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TypeVar

from mcrd.daemon import report, roles, switches
from mcrd.daemon.executor import Estate
from mcrd.daemon.interface_names import InterfaceNames
from mcrd.daemon.log_of_states import Pace
from mcrd.daemon.unanswered import Unanswered
from mcrd.events import tell
from mcrd.host.links import Links
from mcrd.host.resolver import Resolver
from mcrd.host.routes import Routes
from mcrd.model import Config, Role, Rule
from mcrd.planning import names
from mcrd.planning.actual import NOBODY, Changed
from mcrd.planning.hostnames import names_of_hosts
from mcrd.planning.needs import KnownNeeds
from mcrd.planning.patterns import Patterns
from mcrd.planning.plan import plan
from mcrd.planning.replies import counted_by
from mcrd.planning.states import RuleState, states

ROUNDS = 8  # of looking, planning and applying, until the plan has to be empty
UNSETTLED = 0.25  # seconds until the next look when it was not
REFUSED = 1.0  # seconds until the kernel is asked again for a filter
# Seconds without progress after which planning hangs: a worker that does not start takes 13.
STALLED = 30.0

Choice = TypeVar("Choice", bound=str)

log = logging.getLogger(__name__)


class Planner:
    """What runs by `config`, and what of the host it runs on.

    `written` is what the rule file says; `config` has the interfaces in the place of patterns, and
    addresses in that of names of hosts.

    `woken` is set when there is something to plan. `states` are those after the last round, and
    `pending` says that one is under way.
    """

    def __init__(self) -> None:
        self.written = Config()
        self.config = Config()
        self.states: dict[str, RuleState] = {}
        self._fared = self.config  # what they are of
        self.pending = True
        self.woken = asyncio.Event()
        self.estate = Estate(self.woken.set)
        self.estate.holdings.queriers.changed = self._members_changed
        self.links = Links(self.links_changed)
        self._unanswered = Unanswered(self.estate.ledger)
        self.routes = Routes(lambda: self.links.now, self._ways_changed, self._unanswered.looked_at)
        self._names = InterfaceNames()
        handover = self.estate.handover
        self._patterns = Patterns(handover.chosen, handover.roles, handover.resolved)
        self.resolver = Resolver(handover.resolved, self._resolved)
        self._needs = KnownNeeds()
        self._listeners = NOBODY  # when it was planned last
        self.pace = Pace()
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One at a time; the watchdog hears when it comes no further."""
        async with self._turn:
            self.estate.advance()
            yield

    def goes_on(self) -> bool:
        """Whether planning does not hang."""
        return not self._turn.locked() or time.monotonic() - self.estate.advanced < STALLED

    def run_by(self, new: Config) -> None:
        """Want what these rules need; settle() makes it so."""
        self.written = new
        self.estate.handover.run_by(new)
        self.resolver.want(names_of_hosts(new))
        self._run_by(self._patterns.expand(new, self.links.now))
        self.estate.failures.retry_now()
        self.estate.holdings.merging.try_again()

    def use(self, rule: str, leg: str | None) -> None:
        """Want an input of the rule used; None: as they flow. settle() makes it so."""
        self._choose(self.estate.handover.chosen, [rule], leg)

    def take_roles(self, rules: Iterable[str], role: Role | None) -> None:
        """Want these rules to relay or to stand by; None: by the addresses. settle() does it."""
        self._choose(self.estate.handover.roles, rules, role)

    def _choose(
        self, choices: dict[str, Choice], rules: Iterable[str], choice: Choice | None
    ) -> None:
        for rule in rules:
            if choice is None:
                choices.pop(rule, None)
            else:
                choices[rule] = choice
        self.estate.handover.is_due = True
        self.woken.set()

    def _run_by(self, new: Config) -> None:
        switches.drop_choices(self.estate.handover.chosen, new.rules)
        roles.drop_choices(self.estate.handover.roles, self.written.rules)
        told, self.config = self.config.warnings, new
        for warning in new.warnings:
            if warning not in told and warning not in self.written.warnings:
                log.warning("%s", warning)
        self._names.look(new, self.links.now, anew=True)
        self.routes.watch(self._unanswered.watch(new))
        self._listen(also_old=True)
        self._needs.keep(new.rules)
        self.estate.forget(new, self.links.now)

    def _listen(self, *, also_old: bool) -> None:
        """For what outputs wait for; workers go by what they waited for until they have the new."""
        outputs = (output for rule in self.config.rules.values() for output in rule.outputs)
        groups = frozenset(output.address for output in outputs if output.when)
        self.estate.holdings.queriers.about(groups, also_old=also_old)

    def _look_at_interfaces(self) -> None:
        """At what patterns and names stand for now."""
        new = self._patterns.expand(self.written, self.links.now)
        if new is not self.config:
            self._run_by(new)
        self._names.look(new, self.links.now)

    async def settle(self) -> None:
        """Look, plan and apply until there is nothing left to do."""
        self.pending = True
        estate = self.estate
        for _ in range(ROUNDS):
            self._look_at_interfaces()
            await estate.renew_suspects()
            estate.allow_members(names.members(self.config, self.links.now))
            estate.holdings.admit(self._names.networks, also_old=True)
            actual = estate.actual(self.links.now, self.routes.now, to_plan=True)
            steps = plan(self.config, actual, self._needs)
            by_members = actual.listeners is not self._listeners
            self._listeners = actual.listeners
            if not steps:
                break
            for step in steps:
                log.debug("%s", step)
            began = time.monotonic()
            await estate.apply(steps, self.links.now)
            took = 1000 * (time.monotonic() - began)
            undone = estate.undone(steps)
            text = "plan applied: %s (%.0f ms)"
            if undone:
                text += f"; of {len(steps)}, {undone} could not be done: `mcrctl rules` says why"
            # One that comes to nothing at all was tried before, and the rules say why.
            level = logging.DEBUG if undone == len(steps) else logging.INFO
            if by_members and not undone:
                level = self.pace.level()
            tell(log, level, "plan-applied", text, report.steps(steps), took)
        else:
            self._go_on(by_members)
        if not estate.holdings.admit(self._names.networks, also_old=False):
            asyncio.get_running_loop().call_later(REFUSED, self.woken.set)
        self._listen(also_old=False)
        estate.end_retired()
        merged = names.merging(self.config, self.links.now)
        estate.handover.is_due |= estate.holdings.merging.want(merged)
        await estate.handover.keep()
        self._unanswered.count(self.routes.now)
        self.pending = False
        self.states, self._fared = self.now(), self.config

    def _go_on(self, by_members: bool) -> None:
        """There is more to do: at once where somebody joins or leaves all the time."""
        if by_members:
            self.woken.set()
            return
        text = "planning did not converge after %d rounds; retrying in %g s"
        log.warning(text, ROUNDS, UNSETTLED)
        asyncio.get_running_loop().call_later(UNSETTLED, self.woken.set)

    def forget(self) -> None:
        """Forget what was counted of rules, outputs and interfaces that are in no rule any more."""
        rules = self.config.rules.values()
        self.estate.ledger.forget(
            self.config.rules,
            ((rule.name, called) for rule in rules for called in counted_by(rule)),
            (names.real(rule.input.interface, self.links.now) for rule in rules),
        )

    def now(self, rules: Mapping[str, Rule] | None = None) -> dict[str, RuleState]:
        """How these rules fare, or all."""
        actual = self.estate.actual(self.links.now, self.routes.now)
        return states(self.config, actual, self._needs, rules)

    def lately(self) -> dict[str, RuleState]:
        """How all rules fare: as after the last round, unless there is more to do."""
        is_over = self.pending or self.woken.is_set() or self._fared is not self.config
        return self.now() if is_over else self.states

    def active(self, rules: Mapping[str, Rule]) -> dict[str, Rule]:
        """Those of the rules that are active, with the interfaces' own names."""
        return {
            name: names.rule_here(rule, self.links.now)
            for name, rule in rules.items()
            if name in self.states and self.states[name].state == "active"
        }

    def links_changed(self, changed: frozenset[str]) -> None:
        """Plan anew, and try again what failed on these interfaces."""
        self.woken.set()  # first: planning looks at what is there, whatever fails here
        self.estate.failures.retry_now(changed)
        self.routes.links_changed()
        self.estate.holdings.take_errors()

    def _members_changed(self, changed: Changed) -> None:
        """Tell workers at once who sends to whom, and plan which groups are joined."""
        self.estate.holdings.listen(changed)
        self.woken.set()

    def _resolved(self) -> None:
        self.estate.handover.is_due = True
        self.woken.set()

    def _ways_changed(self, interfaces: frozenset[str]) -> None:
        self.woken.set()
        self.estate.failures.retry_outputs_now(interfaces)
