"""Rule files of other programs, as rule files of mcrd."""

# SPDX-License-Identifier: GPL-3.0-or-later

from mcrd.convert.draft import ForeignError, toml
from mcrd.convert.fit import fit
from mcrd.convert.json5rules import from_json5
from mcrd.convert.smcroute import from_smcroute

__all__ = ["ForeignError", "fit", "from_json5", "from_smcroute", "toml"]
