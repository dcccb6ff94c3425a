"""Log lines about rules and outputs whose state has changed."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from mcrd.addresses import where
from mcrd.daemon import report
from mcrd.events import tell
from mcrd.model import MARK, Rule
from mcrd.planning.names import written
from mcrd.planning.states import OPEN, OutputState, RuleState

GOOD = OutputState("active")
MINUTE, IN_A_MINUTE = 60.0, 20  # seconds; lines about members, who come and go as others like

log = logging.getLogger(__name__)


class Pace:
    """Bounds how much is said of members that come and go."""

    def __init__(self) -> None:
        self._since, self._said = -MINUTE, 0

    def level(self) -> int:
        """That of one more line."""
        now = time.monotonic()
        if now - self._since >= MINUTE:
            self._since, self._said = now, 0
        self._said += 1
        if self._said == IN_A_MINUTE + 1:
            text = "members come and go faster than is said here; `mcrctl members` lists them"
            tell(log, logging.INFO, "members-unsaid", text)
        return logging.INFO if self._said <= IN_A_MINUTE else logging.DEBUG


def tell_changes(
    before: Mapping[str, RuleState],
    now: Mapping[str, RuleState],
    rules: Mapping[str, Rule],
    pace: Pace,
) -> list[str]:
    """Say what has changed; return the rules that have become active."""
    begun = []
    of_patterns = {written(name) for name, rule in rules.items() if not rule.leg}
    for name in before.keys() - now.keys():
        if MARK in name and written(name) in of_patterns:  # else the line of the reload says it
            interface = name.partition(MARK)[2]
            of = {"rule": name, "interface": interface}
            text = "rules.%s: gone with the interface %s"
            tell(log, logging.INFO, "rule-state", text, name, interface, **of)
    for name, state in now.items():
        was, rule = before.get(name), rules[name]
        if was is None or (was.state, was.reason) != (state.state, state.reason):
            if state.state == "active":
                begun.append(name)
            grave = logging.WARNING if state.state in ("waiting", "failed") else logging.INFO
            if was is not None and "idle" in (was.state, state.state) and grave == logging.INFO:
                grave = pace.level()
            text, of = "rules.%s: %s", {"rule": name, "interface": rule.input.interface}
            tell(log, grave, "rule-state", text, name, report.state(state), **of)
        for at, output in enumerate(state.outputs):
            if _is_news(at, output, state, was):
                _tell_output(rule, at, output, pace)
    return begun


def _is_news(at: int, output: OutputState, rule: RuleState, before: RuleState | None) -> bool:
    """Whether to say it: of an active rule alone, and not that all is well when it becomes so."""
    was = before.outputs[at] if before and at < len(before.outputs) else None
    return (
        rule.state in OPEN
        and output.state != "standby"
        and (output != GOOD or bool(before and before.state == "active"))
        and (was is None or (was.state, was.reason) != (output.state, output.reason))
    )


def _tell_output(rule: Rule, at: int, state: OutputState, pace: Pace) -> None:
    level = logging.INFO if state == GOOD else logging.WARNING
    output = rule.outputs[at]
    if output.when is not None and state.state in ("active", "idle"):
        paced = pace.level()
        if paced == logging.DEBUG or state == GOOD or state.state == "idle":
            level = paced
    of = {"rule": rule.name, "interface": output.interface, "output": where(output)}
    text = "rules.%s: outputs[%d]: %s"
    tell(log, level, "output-state", text, rule.name, at, report.state(state), **of)
