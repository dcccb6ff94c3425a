"""mcrctl import: the rule file of another program, as one of mcrd."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import sys
from pathlib import Path

from mcrd import config
from mcrd.convert import ForeignError, from_json5, from_smcroute, toml
from mcrd.files import read_file


def run(path: Path, as_json: bool) -> int:
    """Prints a rule file; what is still wrong with it goes to stderr, and makes the status 1."""
    try:
        text = read_file(str(path)).decode()
        foreign = from_json5 if text.lstrip().startswith(("{", "[", "//", "/*")) else from_smcroute
        made = toml(foreign(text, str(path)))
    except (OSError, UnicodeDecodeError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    except ForeignError as error:
        print(error, file=sys.stderr)
        return 1
    problems: list[str] = []
    try:
        config.parse(made, "the result")
    except config.ConfigError as error:
        problems = [str(problem) for problem in error.problems]
    if as_json:
        print(json.dumps({"text": made, "problems": problems}))
    else:
        print(made, end="")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0
