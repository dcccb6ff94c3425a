"""Rule files of other programs, as rule files of mcrd."""

# SPDX-License-Identifier: GPL-3.0-or-later

from pathlib import Path

from mcrd.convert.commands import from_commands, is_command
from mcrd.convert.draft import Draft, ForeignError, toml
from mcrd.convert.fit import fit
from mcrd.convert.igmpproxy import from_igmpproxy, is_igmpproxy
from mcrd.convert.json5rules import from_json5
from mcrd.convert.samplicator import from_samplicator, is_samplicator
from mcrd.convert.smcroute import from_smcroute
from mcrd.files import read_file

__all__ = ["Draft", "ForeignError", "draft_of", "fit", "from_json5", "from_smcroute", "toml"]


def draft_of(text: str, path: Path) -> Draft:
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
