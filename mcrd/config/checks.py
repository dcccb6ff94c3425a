"""Errors that no single value shows: keys that contradict each other, rules that clash.

Works on what could be read, so that one wrong value hides no other problem.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import TYPE_CHECKING

from mcrd.config.problems import key_text
from mcrd.config.rules import FoundRule, found_rules

if TYPE_CHECKING:
    from mcrd.config.positions import KeyPath
    from mcrd.config.problems import Report
    from mcrd.config.rules import Endpoint, FoundOutput
    from mcrd.config.walk import Fields


def check(file: Fields, report: Report) -> None:
    """Report every error between keys, outputs and rules of a file."""
    rules = found_rules(file, report)
    _check_inputs(rules, report)
    _check_source_ports(rules, report)
    for rule in rules:
        _check_outputs(rule, report)
        for output in rule.outputs:
            _check_output(output, report)


def _check_inputs(rules: list[FoundRule], report: Report) -> None:
    claimed: dict[Endpoint, FoundRule] = {}
    for rule in rules:
        if rule.input is None:
            continue
        first = claimed.setdefault(rule.input, rule)
        if first is not rule:
            place = report.place(first.input_path)
            report.value(rule.input_path, f"same input as {key_text(first.path)} ({place})")


def _check_source_ports(rules: list[FoundRule], report: Report) -> None:
    # Two outputs of one rule that clash here are one output listed twice: said elsewhere.
    used: dict[object, tuple[FoundRule, KeyPath]] = {}
    for rule in rules:
        for output in rule.outputs:
            fields = output.fields
            if output.endpoint is None or "source" not in fields or not fields.get("source_port"):
                continue
            flow = (output.endpoint, fields["source"], fields["source_port"])
            first, first_path = used.setdefault(flow, (rule, output.path))
            if first is not rule:
                report.value(
                    (*output.path, "source_port"),
                    f"same source port, source and destination as {key_text(first_path)} "
                    f"({report.place(first_path)})",
                )


def _check_outputs(rule: FoundRule, report: Report) -> None:
    listed: dict[Endpoint, KeyPath] = {}
    for output in rule.outputs:
        if output.endpoint is None:
            continue
        first = listed.setdefault(output.endpoint, output.path)
        if first != output.path:
            report.value(
                output.path,
                f"same interface, address and port as {key_text(first)} ({report.place(first)})",
            )
        if output.endpoint == rule.input:
            report.value(
                output.path,
                "same interface, address and port as the input of this rule "
                f"({report.place(rule.input_path)})",
            )


def _check_output(output: FoundOutput, report: Report) -> None:
    address = output.fields.get("address")
    source = output.fields.get("source")
    if address is None:
        return
    if source is not None and source.version != address.version:
        report.value(
            (*output.path, "source"),
            f"expected an IPv{address.version} address, "
            f"as the address of this output is, got {source}",
        )
    if output.fields.get("loop") and not address.is_multicast:
        report.value((*output.path, "loop"), f"only a group has it, and {address} is a host")
