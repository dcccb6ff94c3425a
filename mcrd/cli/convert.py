"""mcrctl import: the rule file of another program, as one of mcrd."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import sys
from pathlib import Path

from mcrd.convert import (
    Draft,
    ForeignError,
    fit,
    from_commands,
    from_igmpproxy,
    from_json5,
    from_samplicator,
    from_smcroute,
    is_command,
    is_igmpproxy,
    is_samplicator,
    toml,
)
from mcrd.errors import words
from mcrd.files import read_file


def run(path: Path, as_json: bool) -> int:
    """Print a rule file; what is still wrong with it goes to stderr, and makes the status 1."""
    try:
        text = read_file(str(path)).decode()
        draft = _draft(text, path)
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


def _draft(text: str, path: Path) -> Draft:
    """What the file says, whatever it is of; raises ForeignError."""
    start = text.lstrip()
    if is_command(text):
        # A path in a command line is one of the root, or of where the file is.
        return from_commands(
            text, str(path), lambda name: read_file(str(path.parent / name)).decode()
        )
    if not start.startswith("[") and is_samplicator(text):
        return from_samplicator(text, str(path))
    if start.startswith(("{", "[", "//", "/*")):
        return from_json5(text, str(path))
    return (from_igmpproxy if is_igmpproxy(text) else from_smcroute)(text, str(path))


def _fail(why: str) -> int:
    print(why, file=sys.stderr)
    return 1
