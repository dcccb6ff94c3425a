"""What `mcrd --check` and `mcrctl check` share."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from mcrd import config
from mcrd.events import counted


def run(path: Path, as_json: bool) -> int:
    """Print every problem and return 1, or a summary and return 0."""
    try:
        found = config.load(path)
    except config.ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        if as_json:
            problems = [
                asdict(problem.place) | {"key": problem.key, "message": problem.message}
                for problem in error.problems
            ]
            print(json.dumps({"ok": False, "problems": problems}))
        return 1
    enabled = [rule for rule in found.rules.values() if rule.enabled]
    outputs = sum(len(rule.outputs) for rule in enabled)
    if as_json:
        answer = {
            "ok": True,
            "rules": len(found.rules),
            "enabled": len(enabled),
            "outputs": outputs,
            "warnings": list(found.warnings),
        }
        print(json.dumps(answer))
        return 0
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"{path}: {counted(len(found.rules), 'rule')} ({len(enabled)} enabled),"
        f" {counted(outputs, 'output')}: good"
    )
    return 0
