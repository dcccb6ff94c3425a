"""States of rules and outputs: a pure view of a configuration and of what is open."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, get_args

from mcrd.model import Config, Rule
from mcrd.planning.actual import Actual, Failure
from mcrd.planning.needs import KnownNeeds, Needs
from mcrd.planning.relays import RelayKey
from mcrd.planning.resources import Nowhere, Querying, Resource

State = Literal["active", "standby", "idle", "waiting", "failed", "disabled"]
STATES: tuple[State, ...] = get_args(State)
OPEN: tuple[State, ...] = ("active", "standby")
"""Those in which all is there that is needed to send."""


@dataclass(frozen=True, slots=True)
class OutputState:
    """`retry_in` is in seconds; None when nothing is to be tried again.

    The `reason` of one that is active is why its packets may yet go nowhere. `interface` is where
    the routes lead, of an output that follows them and has a way now.
    """

    state: State
    reason: str | None = None
    retry_in: float | None = None
    interface: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RuleState:
    """The state of a rule and of each of its outputs, in the order of the file."""

    state: State
    reason: str | None
    outputs: tuple[OutputState, ...]
    retry_in: float | None = None


def states(
    config: Config,
    actual: Actual,
    known: KnownNeeds | None = None,
    only: Mapping[str, Rule] | None = None,
) -> dict[str, RuleState]:
    """The state of every rule, by name, or of these of them."""
    known = known or KnownNeeds()
    rules = config.rules if only is None else only
    return {name: _rule(rule, config, actual, known) for name, rule in rules.items()}


def _rule(rule: Rule, config: Config, actual: Actual, known: KnownNeeds) -> RuleState:
    if not rule.enabled:
        return RuleState("disabled", None, tuple(OutputState("disabled") for _ in rule.outputs))
    entry = known.of(rule, config, actual)
    if not actual.failures and not entry.moves and _is_done(entry, len(rule.outputs), actual):
        return _active(entry.doubts) if not entry.standby else _standby(entry.standby, entry.doubts)
    whole, retry = _whole(entry, actual)
    outputs = tuple(_output(at, entry, actual, whole) for at in range(len(rule.outputs)))
    if entry.standby:
        stands = OutputState("standby", entry.standby)
        outputs = tuple(stands if each.state == "active" else each for each in outputs)
    if entry.waits:  # what could send has nothing to
        waits = OutputState("waiting", entry.waits)
        outputs = tuple(waits if each.state in OPEN else each for each in outputs)
    if whole is not None:
        return RuleState("failed", whole, outputs, retry)
    if entry.waits:
        return RuleState("waiting", entry.waits, outputs)
    if any(output.state == "active" for output in outputs):
        return RuleState("active", None, outputs)
    if any(output.state == "standby" for output in outputs):
        return RuleState("standby", entry.standby, outputs)
    failed = next((output for output in outputs if output.state == "failed"), None)
    if failed is not None:
        return RuleState("failed", failed.reason, outputs, failed.retry_in)
    reasons = dict.fromkeys(output.reason for output in outputs if output.reason)
    state: State = "idle" if entry.idle else "waiting"
    return RuleState(state, "; ".join(reasons), outputs)


def _is_done(entry: Needs, outputs: int, actual: Actual) -> bool:
    """Whether everything that the rule needs is there."""
    return (
        not entry.waits
        and bool(entry.whole)
        and all(
            len(relay.outputs) == outputs and actual.relays.get(key) is relay
            for key, relay in entry.whole.items()
        )
    )


@lru_cache(maxsize=1024)
def _active(doubts: tuple[str, ...]) -> RuleState:
    return RuleState("active", None, tuple(OutputState("active", why or None) for why in doubts))


@lru_cache(maxsize=1024)
def _standby(why: str, doubts: tuple[str, ...]) -> RuleState:
    return RuleState("standby", why, tuple(OutputState("standby", why) for _ in doubts))


def _whole(entry: Needs, actual: Actual) -> tuple[str | None, float | None]:
    """What keeps the whole rule from running, and when it is tried again."""
    what: tuple[Resource | RelayKey, ...] = (*entry.required, *entry.relays)
    for need in what:
        failure = actual.failures.get(need)
        if failure is not None:
            where = "" if isinstance(need, RelayKey) else f"{need}: "
            return f"{where}{failure.reason}", _retry(failure, actual)
    return None, None


def _output(at: int, entry: Needs, actual: Actual, whole: str | None) -> OutputState:
    """The state of an output: the worst of what it is in the workers of the interface."""
    if at in entry.idle:
        return _idle(entry.idle[at], entry.waiting[at], actual)
    if not entry.relays:
        return OutputState("waiting", entry.waiting[at])
    found = OutputState("active", entry.doubts[at] or _unjoined(entry, actual))
    where: str | None = None
    for key, outputs in entry.relays.items():
        output = outputs[at]
        if isinstance(output, str):
            return OutputState("waiting", output)
        if isinstance(output, Nowhere):
            return OutputState("waiting", output.reason)
        where = output.interface if output.sending.routed else None
        failure = actual.failures.get(output)
        if failure is not None:
            return OutputState("failed", failure.reason, _retry(failure, actual))
        relay = actual.relays.get(key)
        if relay is None or output not in relay.outputs:
            found = OutputState("waiting", "being opened")
    found = replace(found, interface=where) if where is not None else found
    return OutputState("failed", whole) if whole is not None else found


def _unjoined(entry: Needs, actual: Actual) -> str | None:
    """Why a member may get nothing: the first group or source that cannot be joined for members."""
    failed = ((each, actual.failures.get(each)) for each in entry.joins)
    return next((f"{each}: {why.reason}" for each, why in failed if why is not None), None)


def _idle(tells: Querying, why: str, actual: Actual) -> OutputState:
    """That of an output without members: they may be there, and nobody hears them."""
    failure = actual.failures.get(tells)
    if failure is None:
        return OutputState("idle", why)
    return OutputState("failed", f"{tells}: {failure.reason}", _retry(failure, actual))


def _retry(failure: Failure, actual: Actual) -> float:
    return max(0.0, failure.retry_at - actual.now)
