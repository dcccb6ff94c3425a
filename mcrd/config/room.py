"""Errors of rules that are more than a worker has room for."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mcrd.config.legs import together
from mcrd.config.rules import FoundRule
from mcrd.model import OUTPUTS_AT_MOST, RULES_AT_MOST


def check_room(rules: Sequence[FoundRule]) -> None:
    """Report the first rule of each interface for which no worker has room.

    Each worker of an interface has all its rules; one that reads several has those of all.
    """
    read_by = together(rules)
    many, outputs = Counter[str](), Counter[str]()
    full: set[str] = set()
    for rule in rules:
        interface = rule.input_fields.get("interface")
        if not isinstance(interface, str) or not rule.fields.get("enabled"):
            continue
        worker = read_by.get(interface, interface)
        many[worker] += 1
        outputs[worker] += sum(2 if o.fields.get("replies") else 1 for o in rule.outputs)
        if worker in full:
            continue
        where = f"of the rules with their input on {interface}, and a worker has room for no more"
        if many[worker] > RULES_AT_MOST:
            full.add(worker)
            text = f"more than {RULES_AT_MOST} {where}: one with a range takes many addresses"
            rule.report.value(rule.input_path, text)
        elif outputs[worker] > OUTPUTS_AT_MOST:
            full.add(worker)
            text = f"more than {OUTPUTS_AT_MOST} outputs {where}; with replies, one counts twice"
            rule.report.value((*rule.path, "outputs"), text)
