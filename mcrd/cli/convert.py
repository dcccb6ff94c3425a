"""mcrctl import: the rule file of another program, as one of mcrd."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import sys
from pathlib import Path

from mcrd.convert import ForeignError, draft_of, fit, toml
from mcrd.errors import words
from mcrd.files import read_file


def run(path: Path, as_json: bool) -> int:
    """Print a rule file; what is still wrong with it goes to stderr, and makes the status 1."""
    try:
        text = read_file(str(path)).decode()
        draft = draft_of(text, path)
    except OSError as error:
        return _fail(f"{path}: cannot read: {words(error)}")
    except UnicodeDecodeError as error:
        return _fail(f"{path}: not UTF-8: byte 0x{error.object[error.start]:02x}")
    except ForeignError as error:
        return _fail(str(error))
    if not draft.understood:
        return _fail(
            f"{path}: mcrctl import understands nothing in it; it reads smcroute.conf(5),"
            " igmpproxy.conf(5), the configuration of samplicator, command lines of it and of"
            " udp-broadcast-relay-redux, multicast-relay and mdns-repeater, and the JSON5 rules of"
            " the Rust mcrd"
        )
    had_rules = draft.has_rules
    problems = fit(draft)
    if had_rules and not draft.has_rules:
        problems.append(f"{path}: none of its rules can work here; the remarks say why")
    made = toml(draft)
    if as_json:
        print(json.dumps({"text": made, "problems": problems}))
    else:
        print(made, end="")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _fail(why: str) -> int:
    print(why, file=sys.stderr)
    return 1
