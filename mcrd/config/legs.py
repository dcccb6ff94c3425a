"""Errors of rules with several inputs."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mcrd.config.joined import joined
from mcrd.config.problems import Report
from mcrd.config.rules import FoundRule
from mcrd.config.walk import WRONG, Fields
from mcrd.model import INPUTS_AT_MOST, TOGETHER_AT_MOST, Network, PortRange, is_pattern


def check_legs(rule: FoundRule) -> None:
    """Report every error of a rule by itself that is one of several inputs."""
    _check_standby(rule)
    _check_merge(rule)
    _check_switch(rule)
    if rule.fields.get("inputs") is None:
        if rule.fields.get("input", WRONG) is None:
            rule.report.absent((*rule.path, "input"), "missing; expected a table")
        return
    report, path = rule.report, (*rule.path, "inputs")
    if rule.fields.get("input") is not None:
        report.key(path, "a rule has either input or inputs")
    inputs: list[Fields] = rule.fields["inputs"]
    if not 2 <= len(inputs) <= INPUTS_AT_MOST:
        report.value(path, f"expected 2 to {INPUTS_AT_MOST} inputs, got {len(inputs)}")
    for leg, given in enumerate(inputs):
        if isinstance(given, dict):
            _check_leg(rule, leg, given, inputs[0])
    for at, output in enumerate(rule.fields.get("outputs", ())):
        if isinstance(output, dict):
            _check_output(report, (*rule.path, "outputs", at), output)


def check_input_of_standby(rule: FoundRule) -> None:
    """Report what an input, or one of several, cannot have where the rule keeps a backlog."""
    if rule.fields.get("standby") in (None, WRONG):
        return
    for key in ("dedupe", "limit"):
        if rule.input_fields.get(key) not in (None, WRONG):
            message = "is for a rule without standby: what another host drops by it is kept here"
            rule.report.key((*rule.input_path, key), message)


def _check_standby(rule: FoundRule) -> None:
    """Report what a rule that keeps a backlog cannot have beside it."""
    fields, path = rule.fields, (*rule.path, "standby")
    if fields.get("standby") in (None, WRONG):
        return
    report = rule.report
    if fields.get("active_with", WRONG) is None:
        report.key(path, "is for a rule with active_with")
    outputs = [output for output in fields.get("outputs", ()) if isinstance(output, dict)]
    if any(output.get("replies") for output in outputs):
        report.key(path, "is for a rule without replies: answers come to the host that asked")
    merge = fields.get("merge")
    if isinstance(merge, dict) and merge.get("delay") not in (None, 0, WRONG):
        message = "is for a rule without standby: what is kept leaves in the order in which it came"
        report.key((*rule.path, "merge", "delay"), message)


def _check_merge(rule: FoundRule) -> None:
    merge, path = rule.fields.get("merge"), (*rule.path, "merge")
    if not isinstance(merge, dict):
        return
    if rule.fields.get("inputs") is None:
        rule.report.key(path, "is for a rule with several inputs: inputs = [{ ... }, { ... }]")
    inspect = rule.fields.get("inspect", WRONG)
    counts = inspect in (WRONG, "moldudp64") or isinstance(inspect, dict)
    if merge.get("by") == "sequence" and not counts:
        message = 'which number? Say it by inspect: a table with its place, or "moldudp64"'
        rule.report.value((*path, "by"), message)
    if merge.get("by") == "content" and merge.get("delay") not in (None, 0, WRONG):
        message = 'contents have no order; leave delay out, or merge by "rtp" or "sequence"'
        rule.report.value((*path, "delay"), message)


def _check_switch(rule: FoundRule) -> None:
    path = (*rule.path, "switch")
    if not isinstance(rule.fields.get("switch"), dict):
        return
    if rule.fields.get("inputs") is None:
        rule.report.key(path, "is for a rule with several inputs: inputs = [{ ... }, { ... }]")
    if rule.fields.get("merge") is not None:
        message = "a rule has either switch or merge: all inputs are in use where they are merged"
        rule.report.key(path, message)


def _check_leg(rule: FoundRule, leg: int, given: Fields, first: Fields) -> None:
    report, path = rule.report, (*rule.path, "inputs", leg)
    interface = given.get("interface")
    if isinstance(interface, str) and is_pattern(interface):
        report.value((*path, "interface"), "one of several inputs has one interface, no pattern")
    if isinstance(given.get("address"), Network):
        report.value((*path, "address"), "one of several inputs has one address, no prefix")
    if isinstance(given.get("port"), PortRange):
        report.value((*path, "port"), "one of several inputs has one port, no range")
    protocols = (given.get("protocol"), isinstance(first, dict) and first.get("protocol"))
    if WRONG not in protocols and len(set(protocols)) > 1:
        report.value((*path, "protocol"), "expected that of the first input")


def _check_output(report: Report, path: tuple[str | int, ...], output: Fields) -> None:
    interface = output.get("interface")
    if isinstance(interface, str) and is_pattern(interface):
        report.value((*path, "interface"), "a rule with several inputs has no pattern here")
    if output.get("source") == "keep":
        report.value((*path, "source"), '"keep" is for rules with one input')
    if output.get("replies") is not None:
        report.value((*path, "replies"), "is for rules with one input: who asks has one way in")


def check_together(rules: Sequence[FoundRule]) -> None:
    """Report interfaces that one worker has to read, and cannot."""
    first = together(rules)
    told: set[str] = set()
    for rule in rules:
        if not _is_leg(rule) or rule.input is None or rule.name in told:
            continue
        told.add(rule.name)
        head = first.get(rule.input.interface)
        count = sum(each == head for each in first.values())
        if count > TOGETHER_AT_MOST:
            rule.report.value(
                (*rule.path, "inputs"),
                f"one worker would read {count} interfaces, as they have inputs of one rule"
                f" two by two; {TOGETHER_AT_MOST} is the most",
            )


def together(rules: Iterable[FoundRule]) -> dict[str, str]:
    """The interfaces that a worker reads with others, each with the first of them."""
    legs: dict[str, list[str]] = {}
    for rule in rules:
        if _is_leg(rule) and rule.input is not None:
            legs.setdefault(rule.name, []).append(rule.input.interface)
    return joined(legs.values())


def _is_leg(rule: FoundRule) -> bool:
    return bool(rule.leg and rule.fields.get("enabled"))


def check_workers(
    interface: str, workers: object, report: Report, rules: Sequence[FoundRule]
) -> None:
    """Report several workers of an interface that has to share one with others."""
    if not isinstance(workers, int) or workers == 1:
        return
    for rule in rules:
        if rule.leg and rule.input is not None and rule.input.interface == interface:
            report.value(
                ("interfaces", interface, "workers"),
                f"the inputs of rules.{rule.name} have one worker together; leave workers out",
            )
            return
