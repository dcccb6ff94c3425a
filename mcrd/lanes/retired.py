"""Rings that nobody reads any more: they count what arrives until others take their place.

Both at once would relay every packet twice; but rings without a reader relay nothing, and what
they have no room for the kernel counts as well. So what a change of rings costs, or a worker that
crashed, is `discarded` or `ring_full`, however long it is until the new rings are there.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mcrd.errors import words
from mcrd.model import Network
from mcrd.planning.resources import Ring
from mcrd.sockets.ingress import IngressSocket
from mcrd.sockets.lost import NOTHING, Lost, Taken

log = logging.getLogger(__name__)

Loss = tuple[Ring, str, Lost]
"""Of which ring, by which reason, and how much since the last time."""


@dataclass(slots=True)
class _Old:
    ring: IngressSocket
    taken: Sequence[Taken]  # by its workers, which have ended
    told: dict[str, Lost]


class Retired:
    """The rings of one ingress, whose counts up to now are known."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        """Its name, which may change."""
        self._rings: dict[Ring, _Old] = {}

    def add(
        self, key: Ring, ring: IngressSocket, taken: Sequence[Taken], full: Lost, waiting: Lost
    ) -> None:
        """A ring pair, what was taken from it, and what is known to be lost."""
        self._rings[key] = _Old(ring, taken, {"ring_full": full, "discarded": waiting})

    def rings(self) -> Iterator[IngressSocket]:
        """All the rings."""
        return (old.ring for old in self._rings.values())

    def admit(self, networks: frozenset[Network]) -> None:
        """Admit what the rules would want now, as IngressSocket.admit(). Raises OSError."""
        for old in self._rings.values():
            old.ring.admit(networks)

    def losses(self) -> Iterator[Loss]:
        """What has arrived since the last time."""
        for key, old in self._rings.items():
            full, waiting = old.ring.end(old.taken)
            for reason, now in (("ring_full", full), ("discarded", waiting)):
                yield key, reason, _less(now, old.told[reason])
                old.told[reason] = now

    def give_way(self, new: Iterable[IngressSocket]) -> Iterator[Loss]:
        """The last losses(): what the new rings have already is not lost.

        Exact but for what comes within some microseconds.
        """
        new = tuple(new)
        before = sum(ring.seen for ring in new)
        for old in self._rings.values():
            try:
                old.ring.deafen()
            except OSError as error:  # the new ones are there all the same
                text = (
                    "%s: packets that arrive while new rings are opened may be counted as lost: %s"
                )
                log.warning(text, self.interface, words(error))
        both = (before + sum(ring.seen for ring in new)) // 2
        for key, reason, lost in sorted(self.losses(), key=lambda loss: loss[1]):  # discarded first
            less = min(both, lost.frames)
            both -= less
            of_each = lost.packets / lost.frames if lost.frames else 1.0
            yield key, reason, _less(lost, Lost(less, round(less * of_each)))
        self.close()

    def free_memory(self) -> None:
        """Give back the memory of the rings, which others may need. They go on counting."""
        for old in self._rings.values():
            old.ring.shrink()

    def close(self) -> None:
        """Close the rings."""
        for old in self._rings.values():
            old.ring.close()
        self._rings.clear()


def _less(now: Lost, before: Lost) -> Lost:
    frames = max(0, now.frames - before.frames)
    return Lost(frames, max(frames, now.packets - before.packets)) if frames else NOTHING
