"""The rule file: text to Config, with every problem at its line and column."""

# SPDX-License-Identifier: GPL-3.0-or-later

from mcrd.config.blocks import Blocks
from mcrd.config.load import load, parse
from mcrd.config.problems import ConfigError, Problem

__all__ = ["Blocks", "ConfigError", "Problem", "load", "parse"]
