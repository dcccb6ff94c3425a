"""Rules with `switch`: which of their inputs is in use, why, and what the log has of it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping

from mcrd.answers import Switch
from mcrd.client import ControlError
from mcrd.daemon import report
from mcrd.events import tell
from mcrd.lanes.counts import SwitchCount
from mcrd.lanes.ledger import Ledger
from mcrd.model import Rule
from mcrd.planning.names import written
from mcrd.planning.states import OPEN, RuleState

AUTO = "auto"

log = logging.getLogger(__name__)


def legs(rules: Mapping[str, Rule]) -> dict[str, dict[int, Rule]]:
    """The inputs of rules with `switch`, by the rule's name and their number."""
    found: dict[str, dict[int, Rule]] = {}
    for rule in rules.values():
        if rule.switch is not None and rule.leg:
            found.setdefault(rule.stream, {})[rule.leg] = rule
    return found


class Inputs:
    """How the inputs of rules with `switch` fare."""

    def __init__(self, rules: Mapping[str, Rule], ledger: Ledger) -> None:
        self._legs, self._ledger = legs(rules), ledger

    def of(self, rule: Rule) -> Switch | None:
        """Of one; None where the rule does not switch."""
        if rule.switch is None or not rule.leg:
            return None
        inputs = self._legs[rule.stream]
        counts = {leg: self._ledger.switch(each.name) for leg, each in inputs.items()}
        own, chosen = counts[rule.leg], rule.switch.chosen
        found = Switch(
            input=rule.leg,
            chosen=bool(chosen),
            switches=own.switches,
            forgotten=own.forgotten,
            silence_s=rule.switch.silence,
            back_s=rule.switch.back,
        )
        used = chosen or next((leg for leg, count in counts.items() if count.used), 0)
        if used in inputs:
            count = counts[used]
            found.used, found.in_use = used == rule.leg, inputs[used].name
            found.why = "chosen by hand" if chosen else why(count, inputs[used], inputs)
            found.since = count.since if count.used else None
        return found


def why(count: SwitchCount, used: Rule, inputs: Mapping[int, Rule]) -> str:
    """Why it was taken into use."""
    before = inputs.get(count.before)
    told = called(before) if before is not None else f"input {count.before}"
    back = used.switch.back if used.switch is not None else None
    match count.why:
        case "silent" if count.silent:
            return f"{told} was silent for {_time(count.silent)}"
        case "silent":
            return f"{told} brought nothing"
        case "steady" if back is not None:
            return f"it has been steady for {_time(back)}"
        case "steady":
            return "it has been steady"
        case "chosen":
            return "chosen by hand"
        case "gone":
            return f"{told} is not there any more"
    return "nothing came by another before"


def called(leg: Rule) -> str:
    """An input in words."""
    return f"input {leg.leg} ({leg.input.interface})"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


class Switches:
    """What the log has of switches, from a look once in a while."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}

    def look(self, rules: Mapping[str, Rule], ledger: Ledger, *, is_news: bool = True) -> None:
        """Say which inputs have been taken into use since the last look."""
        found = legs(rules)
        self._seen = {name: seen for name, seen in self._seen.items() if name in found}
        for name, inputs in found.items():
            counts = {at: ledger.switch(rule.name) for at, rule in inputs.items()}
            leg, latest = max(counts.items(), key=lambda pair: pair[1].since)
            switches = sum(count.switches for count in counts.values())
            since, before = self._seen.get(name, (0.0, 0))
            self._seen[name] = latest.since, switches
            if is_news and latest.since > since:
                self._tell(name, latest, inputs[leg], inputs, switches - before)

    def _tell(
        self, name: str, count: SwitchCount, used: Rule, inputs: Mapping[int, Rule], switches: int
    ) -> None:
        more = f" ({switches} switches since the last look)" if switches > 1 else ""
        level = logging.WARNING if count.why in ("silent", "gone") else logging.INFO
        text = "rules.%s: %s is in use now: %s%s"
        where = {"rule": used.name, "interface": used.input.interface}
        reason = why(count, used, inputs)
        tell(log, level, "switch", text, name, called(used), reason, more, **where)


def wanted(name: str, text: str, rules: Mapping[str, Rule]) -> Rule | None:
    """The input of the rule that somebody wants used; None: as they flow. Raises ControlError."""
    inputs = legs(rules).get(name)
    if inputs is None:
        raise ControlError(f"rules.{name} has no switch, or is disabled: see mcr.toml(5)")
    if text == AUTO:
        return None
    found = [
        rule for leg, rule in inputs.items() if text in (str(leg), rule.input.interface, rule.name)
    ]
    if len(found) != 1:
        wrong = "several inputs of that interface" if found else f"no input {text!r}"
        told = ", ".join(f"{leg} ({rule.input.interface})" for leg, rule in inputs.items())
        raise ControlError(f"rules.{name} has {wrong}; say one of {told}, or {AUTO}")
    return found[0]


def tell_choice(name: str, leg: Rule | None) -> None:
    """Say in the log what somebody wants used."""
    if leg is None:
        tell(log, logging.INFO, "use", "rules.%s: the input in use is that which flows", name)
    else:
        where = {"rule": leg.name, "interface": leg.input.interface}
        text = "rules.%s: %s is in use by hand, until `mcrctl use %s auto`"
        tell(log, logging.INFO, "use", text, name, called(leg), name, **where)


def outcome(
    name: str,
    leg: Rule | None,
    rules: Mapping[str, Rule],
    states: Mapping[str, RuleState],
    ledger: Ledger,
) -> Iterator[str]:
    """What has become of a choice, in lines."""
    if leg is None:
        inputs = legs(rules).get(name, {})
        first = next((Inputs(rules, ledger).of(rule) for rule in inputs.values()), None)
        now = first.in_use if first is not None else None
        yield f"rules.{name}: as the inputs flow; {now or 'none'} is in use"
        return
    yield f"rules.{name}: {called(leg)} is in use until `mcrctl use {name} auto`"
    state, last = states.get(leg.name), ledger.switch(leg.name).last
    if state is not None and state.state not in OPEN:
        yield f"! it is {report.state(state)}; nothing is relayed meanwhile"
    elif leg.switch is not None and time.time() - last > leg.switch.silence:
        ago = f" for {_time(time.time() - last)}" if last else ""
        yield f"! nothing has come by it{ago}; nothing is relayed meanwhile"


def drop_choices(chosen: dict[str, str], rules: Mapping[str, Rule]) -> None:
    """Forget the inputs that were chosen by hand and are not there any more."""
    for name, leg in list(chosen.items()):
        if leg not in rules or rules[leg].switch is None or written(leg) != name:
            del chosen[name]
            text = "rules.%s: the input that was in use by hand, %s, is in no rule any more"
            tell(log, logging.WARNING, "use", text, name, leg)
