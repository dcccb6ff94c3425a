"""Makes a draft fit: rules that take the same packets are put together, others told apart.

The kernel, and other programs, send a packet by the entry that names its source, and else by the
one that takes any. Here two rules that take the same packet are an error.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from ipaddress import ip_network

from mcrd import config
from mcrd.addresses import plain
from mcrd.convert.draft import Draft, DraftRule, toml
from mcrd.model import Network

_TABLE = re.compile(r"(rules|reflect|interfaces)\.(?:\"([^\"]+)\"|([A-Za-z0-9_-]+))")


def fit(draft: Draft) -> list[str]:
    """Change a draft into one that is a good rule file; what cannot be had becomes a remark.

    Returns the problems that are left, of which there should be none.
    """
    _put_together(draft)
    _tell_apart(draft)
    for _ in range(len(draft.rules) + len(draft.reflects) + len(draft.interfaces) + 1):
        try:
            config.parse(toml(draft), "the result")
        except config.ConfigError as error:
            problems = error.problems
        else:
            return []
        # Lines and columns of a text that nobody has seen yet help nobody.
        told = [
            (each.key, re.sub(r" \(the result:\d+:\d+\)", "", each.message)) for each in problems
        ]
        if not _leave_out(draft, told):
            break
    return [str(problem) for problem in problems]


def _put_together(draft: Draft) -> None:
    """Rules of one input are one rule, with the outputs of all."""
    first: dict[str, DraftRule] = {}
    for rule in list(draft.rules):
        earlier = first.setdefault(repr(sorted(rule.input.items())), rule)
        for output in list(rule.outputs):
            if earlier is not rule and output not in earlier.outputs:
                earlier.outputs.append(output)
            elif rule.outputs.count(output) > 1:
                rule.outputs.remove(output)
        if earlier is not rule:
            earlier.remarks += [*rule.remarks, f"with the outputs of {rule.where}"]
            earlier.enabled = earlier.enabled and rule.enabled
            draft.rules.remove(rule)


def _tell_apart(draft: Draft) -> None:
    """What a rule takes of certain sources, one of more sources, or of any, leaves out."""

    def destination(rule: DraftRule) -> list[object]:
        return [rule.input.get(key) for key in ("interface", "address", "port", "protocol")]

    for rule in draft.rules:
        mine = _sources(rule)
        narrower = [
            source
            for other in draft.rules
            if other is not rule and destination(rule) == destination(other)
            for source in _sources(other) or []
            if mine == [] or any(_inside(source, own) for own in mine or [])
        ]
        widest = [s for s in dict.fromkeys(narrower) if not any(_inside(s, o) for o in narrower)]
        if widest:
            rule.input["exclude"] = [str(plain(source)) for source in widest]


def _sources(rule: DraftRule) -> list[Network] | None:
    """Those of a rule: none for any, None where they cannot be read."""
    given = rule.input.get("sources", [])
    try:
        return [ip_network(str(text)) for text in given] if isinstance(given, list) else None
    except ValueError:
        return None


def _inside(source: Network, of: Network) -> bool:
    return source.version == of.version and source != of and source.subnet_of(of)  # type: ignore[arg-type]


def _leave_out(draft: Draft, problems: list[tuple[str, str]]) -> bool:
    """Take what has a problem out of the draft; False when nothing has."""
    wrong: dict[str, list[str]] = {}
    for key, message in problems:
        found = _TABLE.match(key)
        table, name = (found[1], found[2] or found[3]) if found else ("", "")
        if found and table == "rules":
            about = key[found.end() :].lstrip(".")
            wrong.setdefault(name, []).append(f"{about}: {message}" if about else message)
        elif table == "interfaces" and draft.interfaces.pop(name, None) is not None:
            draft.remarks.append(f"interfaces.{name}: left out: {message}")
            return True
        elif table == "reflect":
            for reflect in [each for each in draft.reflects if each.name == name]:
                draft.reflects.remove(reflect)
                draft.remarks.append(f"{reflect.where}: left out: {message}")
                return True
    bad = [rule for rule in draft.rules if rule.name in wrong]
    for rule in bad:
        if _leave_out_outputs(rule, wrong[rule.name]):
            continue
        why = "; ".join(wrong[rule.name])
        draft.remarks += [f"{rule.where}: left out: {why}", *rule.remarks]
        draft.rules.remove(rule)
    return bool(bad)


def _leave_out_outputs(rule: DraftRule, reasons: list[str]) -> bool:
    """Take out the outputs that are wrong, when nothing else is, and others are left."""
    wrong: dict[int, list[str]] = {}
    for reason in reasons:
        if (found := re.match(r"outputs\[(\d+)\]\.?", reason)) is None:
            return False
        wrong.setdefault(int(found[1]), []).append(reason[found.end() :])
    if len(wrong) == len(rule.outputs):
        return False
    for at in sorted(wrong, reverse=True):
        output = rule.outputs.pop(at)
        what = ", ".join(f"{key} = {value}" for key, value in output.items())
        rule.remarks.append(f"left out, an output with {what}: {'; '.join(wrong[at])}")
    return True
