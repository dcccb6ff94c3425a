"""What the rule file's names of interfaces stand for now."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
from collections.abc import Mapping

from mcrd.events import tell
from mcrd.model import Config, Network
from mcrd.planning import names
from mcrd.planning.links import Link
from mcrd.sockets.filters import networks

log = logging.getLogger(__name__)


class InterfaceNames:
    """Says in the log which names are alternative ones, and which tables have no effect.

    `networks` are what the rules take, by the interfaces' own names.
    """

    def __init__(self) -> None:
        self.networks: Mapping[str, frozenset[Network]] = {}
        self._used: frozenset[str] = frozenset()
        self._links: Mapping[str, Link] = {}
        self._aliases: Mapping[str, str] = {}  # those that are alternative ones, and of which
        self._idle_tables: Mapping[str, str] = {}

    def look(self, config: Config, links: Mapping[str, Link], *, anew: bool = False) -> None:
        """Look at the interfaces; `anew`: the rules are new."""
        if anew:
            self._used = names.used(config)
        elif links is self._links:
            return
        self._links = links
        aliases = names.aliases(self._used, links)
        self.networks = networks(config, links)
        tables = names.doubles(config, links).tables
        for name, interface in aliases.items():
            if self._aliases.get(name) != interface:
                text = "%s is an alternative name of %s"
                where = {"interface": interface}
                tell(log, logging.INFO, "interface-name", text, name, interface, **where)
        for name, why in tables.items():
            if self._idle_tables.get(name) != why:
                log.warning("interfaces.%s: %s", name, why)
        self._aliases, self._idle_tables = aliases, tables
