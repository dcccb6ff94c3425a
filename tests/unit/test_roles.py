"""Which rules `mcrctl standby`, `active` and `follow` mean."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mcrd.client import ControlError
from mcrd.config import parse
from mcrd.daemon.roles import drop_choices, meant, wanted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcrd.model import Role, Rule

RULE = """
[rules.{name}]
input = {{ interface = "eth0", address = "239.1.1.{number}", port = 5000 }}
outputs = [{{ interface = "eth1", address = "239.2.2.{number}" }}]
"""
FILE = (
    RULE.format(name="a", number=1)
    + 'active_with = "10.0.0.1"\n'
    + RULE.format(name="off", number=2)
    + 'active_with = "10.0.0.1"\nenabled = false\n'
    + RULE.format(name="plain", number=3)
    + '[reflect.home]\ninterfaces = ["eth0", "eth1"]\nprotocol = "knx"\nactive_with = "10.0.0.1"\n'
)


def rules(text: str = FILE) -> Mapping[str, Rule]:
    return parse(text, "f").rules


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a", ["a"]),
        ("home", ["home/knx4:eth0", "home/knx4:eth1"]),
        ("home/knx4:eth1", ["home/knx4:eth1"]),
        ("all", ["a", "home/knx4:eth0", "home/knx4:eth1"]),
    ],
)
def test_what_is_meant(name: str, found: list[str]) -> None:
    assert meant(name, rules()) == found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody", "there is no rule 'nobody'"),
        ("plain", "rules.plain has no active_with, or is disabled"),
        ("off", "rules.off has no active_with, or is disabled"),
    ],
)
def test_what_cannot_be_meant(name: str, said: str) -> None:
    with pytest.raises(ControlError, match=said):
        meant(name, rules())
    with pytest.raises(ControlError, match="no rule has active_with"):
        meant("all", rules(RULE.format(name="plain", number=3)))
    with pytest.raises(ControlError, match="expected the role active or standby"):
        wanted("idle")


def test_what_is_wanted_of_a_rule_that_is_disabled_is_forgotten() -> None:
    chosen: dict[str, Role] = {"a": "standby", "off": "active", "plain": "active", "gone": "active"}
    drop_choices(chosen, rules())
    assert chosen == {"a": "standby"}
