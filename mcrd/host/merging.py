"""Datagrams merged before they reach the rings: UDP GRO, switched on where `gro` asks for it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import logging
import shlex
import socket
from collections.abc import Iterable, Mapping, Sequence

from mcrd.errors import words
from mcrd.host.devices import Feature, features, switch
from mcrd.host.procfs import Host
from mcrd.planning.links import Link

FEATURES = {"rx-gro": "gro", "rx-udp-gro-forwarding": "rx-udp-gro-forwarding"}
"""What it takes, with the names that ethtool -K has: GRO, and that for UDP of no socket here."""
SUPER_FRAMES = (6, 2)
"""The first kernel whose packet rings hold what was merged."""
WORTH_MERGING = 100_000
"""From so many packets/s on, `gro` pays: docs/performance.md."""

log = logging.getLogger(__name__)


def lacking(found: Mapping[str, Feature]) -> list[str]:
    """What is off of all that it takes."""
    return [name for name in FEATURES if name not in found or not found[name].on]


def line(interface: str, names: Sequence[str] = tuple(FEATURES), state: str = "on") -> str:
    """What an administrator types."""
    each = " ".join(f"{FEATURES[name]} {state}" for name in names)
    return f"ethtool -K {shlex.quote(interface)} {each}"


class Merging:
    """What is switched on, and off again when nobody asks for it any more.

    `switched_on` has features that were off before, by the index of their interface. What was on
    already, or could not be had, is left alone.
    """

    def __init__(self) -> None:
        self.switched_on: dict[int, list[str]] = {}
        self._tried: set[int] = set()

    def want(self, wanted: Iterable[Link]) -> bool:
        """Merge on these interfaces, and on no others; return whether something has changed.

        Each is tried once, as long as it is there and wanted.
        """
        asked = {link.index: link.name for link in wanted}
        ended = self.switched_on.keys() - asked.keys()
        for index in ended:
            before = self.switched_on.pop(index)
            with contextlib.suppress(OSError):  # it has gone
                _switch(socket.if_indextoname(index), before, "off")
        self._tried &= asked.keys()
        begun = asked.keys() - self._tried - self.switched_on.keys()
        self._tried |= begun
        for index in begun:
            if switched := _begin(asked[index]):
                self.switched_on[index] = switched
        return bool(ended) or not begun.isdisjoint(self.switched_on)

    def try_again(self) -> None:
        """Try what could not be had once more."""
        self._tried.clear()


def _begin(interface: str) -> list[str]:
    """Switch on what is off, and return it."""
    release = Host().release()
    if release is not None and release < SUPER_FRAMES:
        log.warning("interfaces.%s: no gro before Linux 6.2: rings cannot hold it", interface)
        return []
    off = lacking(features(interface))
    if not off or _switch(interface, off, "on"):
        return off
    still = lacking(features(interface))
    return [name for name in off if name not in still]  # some drivers have one of them


def _switch(interface: str, names: Sequence[str], state: str) -> bool:
    """Whether it could be done; the log has the line for what could not."""
    try:
        switch(interface, names, on=state == "on")
    except OSError as error:
        if error.errno != errno.ENODEV:
            does = line(interface, names, state)
            log.warning("interfaces.%s: gro: %s: `%s`", interface, words(error), does)
        return False
    return True
