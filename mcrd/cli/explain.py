"""`mcrctl explain`: asks the daemon and this host about a rule, and prints what follows."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mcrd import config
from mcrd.client import ControlError, ask, network_namespace
from mcrd.explain.evidence import Daemon, Evidence, Finding, rule_of
from mcrd.explain.host import gather
from mcrd.explain.inputs import disk
from mcrd.explain.kinds import queries, sort
from mcrd.explain.stages import answer, explain
from mcrd.model import Rule
from mcrd.resources import first_address

TIMEOUT = 10.0  # seconds
RELOAD_TIMEOUT = 120.0
PATIENCE = 15.0  # seconds, for the look of somebody else
SETTLE = 0.1  # seconds, until what was just seen is counted
WIDTH = 100
TITLES = {
    "file": "the file",
    "interface": "the input interface",
    "group": "the group",
    "frames": "the frames",
    "taken": "the rule",
    "output": "output",
    "kernel": "the kernel",
}


def run(name: str, control: Path, seconds: float, file: Path | None, as_json: bool) -> int:
    """Prints why nothing flows; returns 1 when some stage says no. Raises ControlError."""
    if file is not None:
        rule = _of_file(name, file)
        evidence = Evidence(rule, gather(rule))
        findings = explain(evidence)
        look = None
    else:
        findings, look = _of_daemon(name, control, seconds)
    cause = answer(findings)
    if as_json:
        shown = {
            "rule": name,
            "answer": cause.text if cause else None,
            "cause": asdict(cause) if cause else None,
            "findings": [asdict(finding) for finding in findings],
            "look": look,
        }
        print(json.dumps(shown))
    else:
        for line in text(name, findings):
            print(line)
    return 0 if cause is None else 1


def _of_file(name: str, file: Path) -> Rule:
    try:
        rules = config.load(file).rules
    except config.ConfigError as error:
        raise ControlError(*map(str, error.problems)) from None
    if name not in rules:
        raise ControlError(f"there is no rule {name!r} in {file}")
    return rules[name]


def _of_daemon(
    name: str, control: Path, seconds: float
) -> tuple[list[Finding], dict[str, Any] | None]:
    status = ask(control, "status", TIMEOUT)
    if status.get("network_namespace") not in (None, network_namespace()):
        raise ControlError(
            f"mcrd, pid {status['pid']}, runs in another network namespace, of whose interfaces"
            f" nothing can be told here: `nsenter -t {status['pid']} -n mcrctl explain {name}`"
        )
    refused, changed, added = _differences(name, control, status["config"])
    try:
        state = ask(control, "rules", TIMEOUT, name=name)["rules"][name]
    except ControlError:
        daemon = Daemon(None, status["config"], status["pending"], refused, changed)
        if not refused and not added:
            raise
        return list(disk(daemon)), None
    rule = rule_of(name, state)
    before = ask(control, "stats", TIMEOUT)
    stopped = _stopped(before)
    look, error = _look(control, name, seconds)
    time.sleep(SETTLE)
    after = ask(control, "stats", TIMEOUT)
    daemon = Daemon(
        state,
        status["config"],
        status["pending"],
        refused,
        changed,
        before,
        after,
        stopped | _stopped(after),
    )
    host = gather(rule, _concerned(rule, look) if look else ())
    return explain(Evidence(rule, host, daemon, look, error)), look


def _concerned(rule: Rule, look: Mapping[str, Any]) -> list[str]:
    """Those to whom there has to be a way back: who queries, and sources."""
    found = queries(look["kinds"], first_address(rule.input.address).version)
    queriers = [found[0]] if found and found[0] != "0.0.0.0" else []
    return queriers + sorted({kind["source"] for kind in sort(rule.input, look["kinds"]).good})


def _differences(name: str, control: Path, path: str) -> tuple[Sequence[str], Sequence[str], bool]:
    """Why the file is refused; what it says by now about the rule; whether the rule is new."""
    try:
        found = ask(control, "diff", RELOAD_TIMEOUT)
    except ControlError as error:
        return error.lines, (), False
    if name in found["added"]:
        return (), (f"the rule is new in {path}",), True
    if name in found["removed"]:
        return (), ("the rule is no longer there",), False
    return (), tuple(found["changed"].get(name, ())), False


def _look(control: Path, name: str, seconds: float) -> tuple[dict[str, Any] | None, str]:
    """What comes to the interface; or None, and why nobody knows."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return ask(control, "look", seconds + TIMEOUT, name=name, seconds=seconds), ""
        except ControlError as error:
            if not str(error).startswith("busy: ") or time.monotonic() > until:
                return None, str(error)
        time.sleep(0.3)


def _stopped(stats: Mapping[str, Any]) -> frozenset[int]:
    """The workers that a signal stopped (proc(5), stat)."""
    found = set()
    for worker in stats["workers"]:
        try:
            text = Path(f"/proc/{worker['pid']}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue  # it has ended, or belongs to somebody else
        if text.rpartition(")")[2].split()[0] in ("T", "t"):
            found.add(worker["pid"])
    return frozenset(found)


def text(name: str, findings: Sequence[Finding]) -> Iterator[str]:
    """The answer on top, then every stage."""
    cause = answer(findings)
    if cause is None:
        yield f"{name}: no stage says no"
    else:
        where = f" (output {cause.output + 1})" if cause.output is not None else ""
        yield from _wrapped(f"{name}: NO{where}: ", cause.text, 4)
        if cause.remedy:
            yield from _wrapped("    What to do: ", cause.remedy, 8)
    before: tuple[str, int | None] | None = None
    for finding in findings:
        stage = (finding.stage, finding.output)
        if stage != before:
            number = f" {finding.output + 1}" if finding.output is not None else ""
            yield f"{TITLES[finding.stage]}{number}"
            before = stage
        yield from _wrapped(f"  {finding.answer:<8}", finding.text, 10)
        if finding.remedy and finding is not cause and finding.answer in ("no", "note", "unknown"):
            yield from _wrapped("          -> ", finding.remedy, 13)


def _wrapped(head: str, told: str, indent: int) -> Iterator[str]:
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in told)
    yield from textwrap.wrap(
        head + shown,
        WIDTH,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
