"""Options and arguments of the programs, as values of which a parser is made."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Argument = Callable[[argparse.ArgumentParser], object]
"""Adds itself to a parser."""


def argument(name: str, metavar: str, about: str, **other: Any) -> Argument:
    """An option or argument; of the metavar the completions know what it stands for."""
    return lambda parser: parser.add_argument(name, metavar=metavar, help=about, **other)
