"""Rules that another host has too: whether this one relays them because somebody says so."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping

from mcrd.client import ControlError
from mcrd.daemon import report
from mcrd.events import tell
from mcrd.model import Role, Rule, is_role
from mcrd.planning.names import written
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
    """The rules that are meant. Raises ControlError."""
    if name == ALL and ALL not in rules:
        found = [rule.name for rule in rules.values() if rule.active_with and rule.enabled]
        if not found:
            raise ControlError("no rule has active_with: see mcr.toml(5)")
        return found
    if name not in rules:
        raise ControlError(f"there is no rule {name!r}; `mcrctl rules` lists them")
    if not rules[name].active_with or not rules[name].enabled:
        raise ControlError(f"rules.{name} has no active_with, or is disabled: see mcr.toml(5)")
    return [name]


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
    """Forget what was wanted of rules that are not there any more, or relay in any case."""
    for name in [name for name in chosen if name not in rules or not rules[name].active_with]:
        del chosen[name]
