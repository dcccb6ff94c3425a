"""What one supervisor leaves to the next: what is open, and what was counted."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import socket
import time
from typing import Any

import msgspec

from mcrd import __version__
from mcrd.client import network_namespace
from mcrd.daemon.heir import Restarts, take_over
from mcrd.daemon.index import FORMAT, Index, KeptGroup, KeptRing, pack
from mcrd.errors import words
from mcrd.lanes.holdings import Holdings
from mcrd.lanes.segment import Segment
from mcrd.model import Config, Role
from mcrd.planning.hostnames import Resolved
from mcrd.sockets.ingress import IngressSocket
from mcrd.systemd.store import Identity, Store, identity

KEEP_MEMBERS = 5.0  # seconds
KEEP_TRIES, KEEP_PAUSE = 40, 0.05  # seconds; at the end, when the service manager is busy

OUTPUTS = 1024
"""Sockets of outputs that are left. Systemd compares what it stores with all that it has, one by
one: with more, it would be busy for seconds. The others are opened anew, with the same ports."""

log = logging.getLogger(__name__)


class Handover:
    """What is left with the service manager for a restart, and when."""

    def __init__(self, holdings: Holdings, restarts: Restarts) -> None:
        self._store = Store()
        self._keeper = Keeper(self._store)
        self._holdings = holdings
        self._restarts = restarts
        self._config = Config()
        self.chosen: dict[str, str] = {}
        """The inputs that are used by hand, by rule."""
        self.roles: dict[str, Role] = {}
        """What is wanted by hand of rules with `active_with`, by rule."""
        self.resolved: dict[str, Resolved] = {}
        """The addresses of hosts, by their names."""
        self._kept_at = 0.0
        self.goes_on = False
        """Whether there is a store, and what it had was taken over."""
        self.is_due = True
        """Whether the store has not what there is."""

    async def take_over(self) -> Config | None:
        """Go on with what the supervisor before this one left with the service manager.

        It is as if all workers had just ended. Returns the rules that it ran by, if there was one.
        """
        if not self._store.there:
            return None
        left = take_over(self._store, self._holdings, self._restarts)
        self.goes_on = True
        self.chosen.update(left.chosen)
        self.roles.update(left.roles)
        self.resolved.update(left.resolved)
        if left.config is not None:
            self._config = left.config
        if left.to_drop:  # before anything is opened that the store still has
            await self.keep()
            await self._store.wait()
        return left.config

    def run_by(self, config: Config) -> None:
        """Leave these rules from now on."""
        self._config = config
        self.is_due = True

    async def keep(self, *, at_once: bool = True) -> bool:
        """Leave what is open with the service manager, when that has changed.

        Members that came or went wait until some time has passed, unless `at_once`. False when it
        has to be tried again.
        """
        members = [lane.members for lane in self._holdings.lanes.values()]
        now = time.monotonic()
        late = at_once or now >= self._kept_at + KEEP_MEMBERS
        if not self.goes_on or not (self.is_due or (late and any(m.changed for m in members))):
            return True
        try:
            self.is_due = not await self._keeper.keep(
                self._holdings,
                self._restarts,
                self._config,
                self.chosen,
                self.roles,
                self.resolved,
            )
        except OSError as error:
            if not self.is_due:
                log.warning("what is open cannot be left for a restart: %s", words(error))
            self.is_due = True
        self._kept_at = now
        for one in members:
            one.changed = False
        return not self.is_due

    async def close(self) -> None:
        """Leave everything for the last time."""
        self.is_due = True
        for _ in range(KEEP_TRIES):
            if await self.keep():
                break
            await asyncio.sleep(KEEP_PAUSE)
        self._store.close()


class Keeper:
    """What keeps the store as the supervisor is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._packed: dict[object, Any] = {}
        self._holds: set[Identity] = set()
        self._gone = False  # a port that went may still be in the store

    async def keep(
        self,
        holdings: Holdings,
        restarts: Restarts,
        config: Config,
        chosen: dict[str, str],
        roles: dict[str, Role],
        resolved: dict[str, Resolved],
    ) -> bool:
        """Leave all that is open in the store; False: try again. Raises OSError.

        Members go without their sockets: senders decide when they come and go.
        """
        before, self._packed = self._packed, {}
        loose: dict[Identity, int] = {}
        units: list[dict[Identity, int]] = []

        def packed(value: object) -> Any:
            """The packed value, remembered: packing is slow, and most outputs stay."""
            found = before.get(value) or self._packed.get(value) or pack(value)
            self._packed[value] = found
            return found

        def among(sock: socket.socket) -> Identity:
            what = identity(sock.fileno())
            loose[what] = sock.fileno()
            return what

        index = Index(FORMAT, __version__, network_namespace())
        for lane in holdings.lanes.values():
            segment = lane.segment
            unit: dict[Identity, int] = {}
            rules, members = pack(segment.rules.taken), list(lane.members.all())
            outputs = [(packed(key), slot) for key, slot in segment.outputs.taken.items()]
            for ring, ingress in lane.rings.items():
                numbers = {identity(each): each for each in _descriptors(ingress, segment)}
                unit |= numbers
                index.rings.append(
                    KeptRing(
                        pack(ring),
                        pack(ingress.geometry),
                        pack(ingress.large_geometry),
                        list(numbers),
                        rules,
                        outputs,
                        members,
                        lane.places[ring],
                    )
                )
            units.append(unit)
        # In this order: of the last ones, there may be too many for the store, and they can be
        # opened anew.
        for group, memberships in holdings.memberships.sockets().items():
            index.joined.append((among(group), [packed(one) for one in memberships]))
        holdings.memberships.hand_on()
        for reception, sock in holdings.receptions.items():
            index.receptions.append((packed(reception), among(sock)))
        for hold, held in holdings.holds.items():
            index.holds.append((packed(hold), among(held) if held is not None else None))
        for egress, sock in itertools.islice(holdings.egress.items(), OUTPUTS):
            index.egress.append((packed(egress), among(sock)))
        index.groups = [
            KeptGroup(
                *(where, group.address.packed, group.since, group.until),
                *(group.wanted, group.refused, group.old),
            )
            for where, group in holdings.queriers.heard()
        ]
        index.protocols = [(pack(one), was) for one, was in holdings.protocols.written().items()]
        index.offloads = dict(holdings.merging.switched_on)
        index.ports = [(packed(key), port) for key, port in holdings.opener.ports.items()]
        index.counts = [pack(kept) for kept in holdings.ledger.kept]
        index.restarts, index.chosen, index.roles = pack(restarts), chosen, dict(roles)
        index.resolved = {name: list(map(str, found.addresses)) for name, found in resolved.items()}
        index.config = pack(dataclasses.replace(config, rules={}))
        index.rules = [packed(rule) for rule in config.rules.values()]
        done = self._store.keep(msgspec.msgpack.encode(index), units, loose)
        holds = {what for _, what in index.holds if what is not None}
        # A port that went has to be free when it is held anew.
        self._gone = self._gone or not self._holds <= holds
        self._holds = holds
        if done and self._gone:
            self._gone = not await self._store.wait()
        return done


def _descriptors(ingress: IngressSocket, segment: Segment) -> tuple[int, ...]:
    return ingress.socket.fileno(), ingress.large.fileno(), ingress.tally, segment.descriptor
