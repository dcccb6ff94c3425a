"""The rule file: text to Config, with every problem at its line and column."""

# SPDX-License-Identifier: GPL-3.0-or-later

from mcrd.config.load import Loader, load, parse
from mcrd.config.problems import ConfigError, Problem

__all__ = ["ConfigError", "Loader", "Problem", "load", "parse"]
