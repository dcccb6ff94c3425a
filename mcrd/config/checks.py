"""Errors that no single value shows: keys that contradict each other, rules that clash.

Works on what could be read, so that one wrong value hides no other problem.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence

from mcrd.addresses import plain
from mcrd.config.legs import check_together, check_workers
from mcrd.config.outputs import check_rule, shared
from mcrd.config.overlap import Claim, Spans, clashes, common, everything, first_network
from mcrd.config.positions import KeyPath
from mcrd.config.problems import Report, key_text
from mcrd.config.reflect import OF_REFLECT, slips
from mcrd.config.room import check_room
from mcrd.config.rules import Document, FoundOutput, FoundRule
from mcrd.config.walk import WRONG


def check(documents: Sequence[Document]) -> None:
    """Report every error between keys, outputs, rules and files."""
    for table in ("rules", "reflect", "interfaces"):
        _check_names(table, documents)
    for document in documents:
        for name, fields in document.fields.get("interfaces", {}).items():
            _check_cpus(("interfaces", name, "cpus"), fields.get("cpus", []), document.report)
    rules = [rule for document in documents for rule in document.rules]
    check_together(rules)
    check_room(rules)
    for document in documents:
        for name, fields in document.fields.get("interfaces", {}).items():
            check_workers(name, fields.get("workers"), document.report, rules)
        if not document.checked:
            _check_reflect(document)
            for rule in document.rules:
                check_rule(rule)
            document.checked = not document.report.problems
    # Of rules with one name, a second one draws no more than that.
    named: dict[tuple[str, int], FoundRule] = {}
    for rule in rules:
        named.setdefault((rule.name, rule.leg), rule)
    _check_inputs(list(named.values()))
    _check_source_ports(list(named.values()))


def _check_names(table: str, documents: Sequence[Document]) -> None:
    first: dict[str, Report] = {}
    for document in documents:
        for name in document.fields.get(table, {}):
            earlier = first.setdefault(name, document.report)
            if earlier is not document.report:
                path = (table, name)
                document.report.key(path, f"given twice; first at {earlier.key_place(path)}")


def _check_reflect(document: Document) -> None:
    for name, fields in document.fields.get("reflect", {}).items():
        for is_there, path, message in slips(fields):
            report = document.report.value if is_there else document.report.absent
            report(("reflect", name, *path), message)


def _check_cpus(path: KeyPath, cpus: list[object], report: Report) -> None:
    first: dict[object, int] = {}
    for index, cpu in enumerate(cpus):
        if cpu is not WRONG and first.setdefault(cpu, index) != index:
            place = report.place((*path, first[cpu]))
            report.value((*path, index), f"CPU {cpu} is listed twice; first at {place}")


def _check_inputs(rules: list[FoundRule]) -> None:
    found = [
        (rule, rule.input, rule.sources)
        for rule in rules
        if rule.input is not None and rule.sources is not None
    ]
    for later, earlier in clashes([Claim(given.box, sources) for _, given, sources in found]):
        rule, given, sources = found[later]
        first, first_given, first_sources = found[earlier]
        where = f"{key_text(first.path)} ({first.report.place(first.input_path)})"
        if (given, sources) == (first_given, first_sources):
            message = f"same input as {where}"
        else:
            message = f"overlaps {where}: both take what is sent to {shared(given, first_given)}"
            message += _from(given.address.version, sources, first_sources)
        rule.report.value(rule.input_path, message)


def _from(version: int, one: Spans, other: Spans) -> str:
    run = next(common(one, other))
    if run == everything(version)[0]:
        return ""
    return f" by {plain(first_network(version, run))}"


def _check_source_ports(rules: list[FoundRule]) -> None:
    # Two outputs of one rule that clash here are one output listed twice: said elsewhere.
    flows: list[tuple[FoundRule, FoundOutput, Claim]] = []
    for rule in rules:
        # Protocols have one port for all, and a network may hear several others.
        for output in rule.outputs if OF_REFLECT not in rule.name and rule.leg < 2 else ():
            fields, endpoint = output.fields, output.endpoint
            if endpoint is None or "source" not in fields or not fields.get("source_port"):
                continue
            place = (endpoint.box.place, fields["source"], fields["source_port"])
            claim = Claim(endpoint.box._replace(place=place), everything(endpoint.address.version))
            flows.append((rule, output, claim))
    for later, earlier in clashes([claim for _, _, claim in flows]):
        rule, output, _ = flows[later]
        first_rule, first, _ = flows[earlier]
        if first_rule is not rule:
            where = f"{key_text(first.path)} ({first_rule.report.place(first.path)})"
            message = f"same source port, source and destination as {where}"
            rule.report.value((*output.path, "source_port"), message)
