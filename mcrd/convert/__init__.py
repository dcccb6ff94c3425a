"""Rule files of other programs, as rule files of mcrd."""

# SPDX-License-Identifier: GPL-3.0-or-later

from mcrd.convert.commands import from_commands, is_command
from mcrd.convert.draft import Draft, ForeignError, toml
from mcrd.convert.fit import fit
from mcrd.convert.igmpproxy import from_igmpproxy, is_igmpproxy
from mcrd.convert.json5rules import from_json5
from mcrd.convert.samplicator import from_samplicator, is_samplicator
from mcrd.convert.smcroute import from_smcroute

__all__ = [
    "Draft",
    "ForeignError",
    "fit",
    "from_commands",
    "from_igmpproxy",
    "from_json5",
    "from_samplicator",
    "from_smcroute",
    "is_command",
    "is_igmpproxy",
    "is_samplicator",
    "toml",
]
