"""Rules that another host has too: whether this one relays them because somebody says so."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping

from mcrd.client import ControlError
from mcrd.daemon import report
from mcrd.events import tell
from mcrd.model import Role, Rule, is_role
from mcrd.planning.names import reflected, written
from mcrd.planning.states import RuleState

ALL = "all"
SHOWN = 20  # rules of which a command tells what has become

log = logging.getLogger(__name__)


def wanted(role: object) -> Role | None:
    """The role that is asked for; None: by the addresses. Raises ControlError."""
    if role is None or is_role(role):
        return role
    raise ControlError(f"expected the role active or standby, got {role!r}")


def meant(name: str, rules: Mapping[str, Rule]) -> list[str]:
    """The rules that are meant: one, those of a [reflect.NAME], or all. Raises ControlError."""
    if name == ALL and ALL not in rules:
        found = list(rules)
    elif name in rules:
        found = [name]
    else:
        found = [each for each in rules if reflected(each) == name]
    if not found and name != ALL:
        raise ControlError(f"there is no rule {name!r}; `mcrctl rules` lists them")
    chosen = [each for each in found if rules[each].active_with and rules[each].enabled]
    if not chosen and name == ALL:
        raise ControlError("no rule has active_with: see mcr.toml(5)")
    if not chosen:
        raise ControlError(f"rules.{name} has no active_with, or is disabled: see mcr.toml(5)")
    return chosen


def tell_choice(name: str, role: Role | None) -> None:
    """Say in the log what somebody wants."""
    what = "every rule with active_with" if name == ALL else f"rules.{name}"
    if role is None:
        tell(log, logging.INFO, "role", "%s goes by the addresses of this host", what)
    else:
        text = "%s is %s by hand, until `mcrctl follow %s`"
        tell(log, logging.INFO, "role", text, what, role, name)


def outcome(rules: Collection[str], states: Mapping[str, RuleState]) -> Iterator[str]:
    """What has become of them, in lines."""
    found = [(name, state) for name, state in states.items() if written(name) in rules]
    for name, state in found[:SHOWN]:
        yield f"rules.{name}: {report.state(state)}"
    if len(found) > SHOWN:
        yield f"and {len(found) - SHOWN} more: `mcrctl rules` has them all"


def drop_choices(chosen: dict[str, Role], rules: Mapping[str, Rule]) -> None:
    """Forget what was wanted of rules that are disabled or gone, or relay in any case."""
    for name in list(chosen):
        if name not in rules or not rules[name].active_with or not rules[name].enabled:
            del chosen[name]
