"""`mcrctl explain`: prints what follows from what the daemon and this host say of a rule."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from mcrd.cli.output import printable
from mcrd.explain.evidence import Finding
from mcrd.explain.gather import of_daemon, of_file
from mcrd.explain.stages import TWICE, answer

NARROWEST, WIDEST = 40, 100
POINTERS = 2  # things that are not known, and said on top
TITLES = {
    "file": "the file",
    "interface": "the input interface",
    "group": "the group",
    "frames": "the frames",
    "taken": "the rule",
    "output": "outputs",
    "kernel": "the kernel",
    "beside": "others",
}


def run(name: str, control: Path, seconds: float, file: Path | None, as_json: bool) -> int:
    """Print why nothing flows; return 1 when some stage says no. Raises ControlError."""
    found = of_daemon(name, control, seconds) if file is None else of_file(name, file)
    cause = answer(found.findings)
    if as_json:
        shown = {
            "rule": found.rule,
            "answer": cause.text if cause else None,
            "cause": asdict(cause) if cause else None,
            "findings": [asdict(finding) for finding in found.findings],
            "look": msgspec.to_builtins(found.look),
        }
        print(json.dumps(shown))
    else:
        width = min(WIDEST, max(NARROWEST, shutil.get_terminal_size((WIDEST, 0)).columns))
        for line in text(found.rule, found.findings, width):
            print(line)
    return 0 if cause is None else 1


def text(name: str, findings: Sequence[Finding], width: int = WIDEST) -> Iterator[str]:
    """The answer on top, then every stage."""
    cause = answer(findings)
    if cause is None:
        yield from _wrapped(f"{name}: ", _all_well(findings), 4, width)
        for finding in [f for f in findings if f.topic == TWICE][:POINTERS]:
            yield from _wrapped("    TWICE: ", finding.text, 8, width)
            yield from _wrapped("    What to do: ", finding.remedy, 8, width)
        for finding in [f for f in findings if f.answer == "unknown" and f.remedy][:POINTERS]:
            yield from _wrapped("    Not known: ", finding.text, 8, width)
    else:
        where = f" (outputs[{cause.output}])" if cause.output is not None else ""
        yield from _wrapped(f"{name}: NO{where}: ", cause.text, 4, width)
        if cause.remedy:
            yield from _wrapped("    What to do: ", cause.remedy, 8, width)
    before: tuple[str, int | None] | None = None
    for finding in findings:
        stage = (finding.stage, finding.output)
        if stage != before:
            number = f"[{finding.output}]" if finding.output is not None else ""
            yield f"{TITLES[finding.stage]}{number}"
            before = stage
        yield from _wrapped(f"  {finding.answer:<8}", finding.text, 10, width)
        if finding.remedy and finding is not cause and finding.answer in ("no", "note", "unknown"):
            yield from _wrapped("          -> ", finding.remedy, 13, width)


def _all_well(findings: Sequence[Finding]) -> str:
    """What is to be said when no problem is found."""
    received = [f.text for f in findings if (f.topic, f.answer) == ("received", "yes")]
    outputs = {f.output for f in findings if f.stage == "output"}
    sent = {f.output for f in findings if (f.topic, f.answer) == ("sent", "yes")}
    if not received or not sent:
        return "no problem found"
    which = "every output sends" if sent == outputs else f"{len(sent)} of {len(outputs)} send"
    return f"it flows: {received[0]}, and {which}"


def _wrapped(head: str, told: str, indent: int, width: int) -> Iterator[str]:
    yield from textwrap.wrap(
        head + printable(told),
        width,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
