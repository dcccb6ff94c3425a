"""What a worker does for a rule, as values."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mcrd.model import Input, Inspect, Merge, Switch
from mcrd.planning.portions import Portion
from mcrd.planning.resources import Egress, Outlet, Resource, Ring, Worker


@dataclass(frozen=True, slots=True)
class RelayKey:
    """A rule in one worker."""

    worker: Worker
    rule: str

    def __hash__(self) -> int:
        return hash((self.rule, self.worker.number))


@dataclass(frozen=True, slots=True)
class Relay:
    """What a worker does for a rule. `portions` are the outputs' own, in their order.

    `needs` is what has to be open for it. `by_source`: its members differ by source, because
    one of the rule's outputs, be it there or not, keeps that, or gives each source a port.
    `ring` is where its packets come, of a worker that reads several; None: of its only one.
    `leg` has a stream, which leg of it the rule is, from 0, and how the legs become one.
    `standby`: another host relays, and this one sends nothing; what came in the last `backlog`
    seconds it sends when that ends. `ear` is where the other host is heard; None: nowhere.
    """

    input: Input
    outputs: tuple[Outlet, ...]
    portions: tuple[Portion, ...]
    needs: tuple[Resource, ...] = field(default=(), compare=False)
    by_source: bool = False
    inspect: Inspect | None = None
    ring: Ring | None = None
    leg: tuple[str, int, Merge | Switch] | None = None
    standby: bool = False
    backlog: float = 0.0
    ear: Egress | None = None

    @property
    def sockets(self) -> tuple[Outlet, ...]:
        """All that has to be open for it, needs apart: what it sends by, and hears by."""
        return self.outputs if self.ear is None else (*self.outputs, self.ear)

    def only(self, is_usable: Callable[[Outlet], bool]) -> Relay | None:
        """The relay with those of its sockets; itself with all of them, None without any output."""
        ear = self.ear if self.ear is None or is_usable(self.ear) else None
        pairs = zip(self.outputs, self.portions, strict=True)
        usable = [pair for pair in pairs if is_usable(pair[0])]
        if len(usable) == len(self.outputs) and ear is self.ear:
            return self
        if not usable:
            return None
        outputs, portions = zip(*usable, strict=True)
        return replace(self, outputs=outputs, portions=portions, ear=ear)
