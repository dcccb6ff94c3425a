"""What one supervisor leaves to the next: what is open, and what was counted."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from mcrd import __version__
from mcrd.daemon.index import FORMAT, Index, KeptRing, pack, unpack
from mcrd.errors import words
from mcrd.events import counted, tell
from mcrd.lanes.holdings import Holdings
from mcrd.lanes.segment import Segment
from mcrd.model import Config
from mcrd.planning.resources import (
    Egress,
    GroupProtocol,
    Hold,
    Ingress,
    Membership,
    Reception,
    Ring,
)
from mcrd.sockets import IngressSocket
from mcrd.systemd.store import Identity, Store, identity

KEEP_MEMBERS = 5.0  # seconds
KEEP_TRIES, KEEP_PAUSE = 40, 0.05  # seconds; at the end, when the service manager is busy

OUTPUTS = 1024
"""Sockets of outputs that are left. Systemd compares what it stores with all that it has, one by
one: with more, it would be busy for seconds. The others are opened anew, with the same ports."""

Restarts = Counter[tuple[str, int]]

log = logging.getLogger(__name__)


class Handover:
    """What is left with the service manager for a restart, and when."""

    def __init__(self, holdings: Holdings, restarts: Restarts) -> None:
        self._store = Store()
        self._keeper = Keeper(self._store)
        self._holdings = holdings
        self._restarts = restarts
        self._config = Config()
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
            self.is_due = not await self._keeper.keep(self._holdings, self._restarts, self._config)
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

    async def keep(self, holdings: Holdings, restarts: Restarts, config: Config) -> bool:
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

        index = Index(FORMAT, __version__, _network())
        for ring, lane in holdings.lanes.items():
            ingress, segment = lane.rings[ring], lane.segment
            unit = {identity(number): number for number in _descriptors(ingress, segment)}
            units.append(unit)
            index.rings.append(
                KeptRing(
                    pack(ring),
                    pack(ingress.geometry),
                    pack(ingress.large_geometry),
                    list(unit),
                    pack(segment.rules.taken),
                    [(packed(key), slot) for key, slot in segment.outputs.taken.items()],
                    list(lane.members.all()),
                )
            )
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
        index.protocols = [(pack(one), was) for one, was in holdings.protocols.written().items()]
        index.ports = [(packed(key), port) for key, port in holdings.opener.ports.items()]
        index.counts = [pack(kept) for kept in holdings.ledger.kept]
        index.restarts = pack(restarts)
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


def _network() -> int:
    return os.stat("/proc/self/ns/net").st_ino


def _descriptors(ingress: IngressSocket, segment: Segment) -> tuple[int, ...]:
    return ingress.socket.fileno(), ingress.large.fileno(), ingress.tally, segment.descriptor


@dataclasses.dataclass(frozen=True)
class Left:
    """What a supervisor left besides what is open.

    `config` are the rules that it ran by. `to_drop`: the store has things that were not taken over.
    """

    config: Config | None = None
    to_drop: bool = False


def take_over(store: Store, holdings: Holdings, restarts: Restarts) -> Left:
    """Take over what the supervisor before left; say in the log what it was."""
    content, descriptors = store.inherit()
    if not descriptors and not content:
        return Left()
    heir = _Heir(holdings, restarts, descriptors)
    version = "?"
    try:
        index = msgspec.msgpack.decode(content, type=Index)
        version = index.version
        if index.format != FORMAT:
            raise ValueError(f"format {index.format}, not {FORMAT}")
        if index.network != _network():
            raise ValueError("it is of another network namespace")
        heir.take(index)
    except Exception as error:  # noqa: BLE001  # whatever was left must not keep this one from work
        heir.misfits[str(error)] += 1
    unused = heir.close_the_rest()
    text = "taken over from mcrd %s: %s"
    tell(log, logging.INFO, "taken-over", text, version, heir.summary())
    if heir.misfits:
        text = "mcrd %s left behind what does not fit; it is closed: %s"
        what = "; ".join(f"{reason} ({count})" for reason, count in heir.misfits.items())
        tell(log, logging.WARNING, "handover-failed", text, version, what)
    return Left(heir.config, unused > 0)


class _Heir:
    """The taking over of things, one by one: what does not fit is left out, and counted."""

    def __init__(
        self, holdings: Holdings, restarts: Restarts, descriptors: Mapping[Identity, int]
    ) -> None:
        self._holdings = holdings
        self._restarts = restarts
        self._unused = dict(descriptors)
        self.misfits: Counter[str] = Counter()
        self.config: Config | None = None

    def take(self, index: Index) -> None:
        """Take all that fits."""
        holdings = self._holdings
        by_ingress: dict[Ingress, list[tuple[Ring, KeptRing]]] = {}
        for ring, kept in self._each(((kept.ring, kept) for kept in index.rings), Ring):
            by_ingress.setdefault(ring.ingress, []).append((ring, kept))
        for ingress, all_kept in by_ingress.items():
            self._try("rings", partial(self._take_ingress, ingress, all_kept))
        for egress, what in self._each(index.egress, Egress):
            if (sock := self._socket(what)) is not None:
                self._add_egress(egress, sock)
        for reception, what in self._each(index.receptions, Reception):
            if (sock := self._socket(what)) is not None:
                holdings.receptions[reception] = sock
        for hold, found in self._each(index.holds, Hold):
            # Whether one is needed is looked at again where there was none.
            if found is not None and (sock := self._socket(found)) is not None:
                holdings.holds[hold] = sock
        for what, packed in index.joined:
            joined = [one for one, _ in self._each(((p, None) for p in packed), Membership)]
            if joined and (sock := self._socket(what)) is not None:
                self._try("groups", partial(holdings.memberships.take_over, sock, joined))
        for protocol, was in self._each(index.protocols, GroupProtocol):
            holdings.protocols.take_over(protocol, was)
        self._try(
            "ports",
            lambda: holdings.opener.ports.update({unpack(key): port for key, port in index.ports}),
        )
        self._try("counts", lambda: holdings.ledger.take_over([unpack(c) for c in index.counts]))
        self._try("restarts", lambda: self._restarts.update(unpack(index.restarts)))
        self._try("rules", partial(self._take_config, index))

    def _take_config(self, index: Index) -> None:
        config, rules = unpack(index.config), [unpack(packed) for packed in index.rules]
        if not isinstance(config, Config):
            raise TypeError("no rules")
        self.config = dataclasses.replace(config, rules={rule.name: rule for rule in rules})

    def close_the_rest(self) -> int:
        """Close what is in no index, or did not fit; return how many these were."""
        for descriptor in self._unused.values():
            os.close(descriptor)
        return len(self._unused)

    def summary(self) -> str:
        """A summary of what there is now."""
        holdings = self._holdings
        groups = sum(len(joined) for joined in holdings.memberships.sockets().values())
        return (
            f"{counted(len(holdings.lanes), 'ring')}, {counted(len(holdings.egress), 'output')},"
            f" {counted(groups, 'group')} joined, {counted(len(holdings.holds), 'port')} held"
        )

    def _each(self, pairs: Iterable[tuple[Any, Any]], kind: type[Any]) -> Iterator[tuple[Any, Any]]:
        for packed, rest in pairs:
            try:
                value = unpack(packed)
                if not isinstance(value, kind):
                    raise TypeError(f"not a {kind.__name__}")
                hash(value)  # its fields are what they should be, at least so far
            except (TypeError, ValueError, LookupError, AttributeError) as error:
                self.misfits[f"{kind.__name__}: {error}"] += 1
            else:
                yield value, rest

    def _try(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except (TypeError, ValueError, LookupError, AttributeError, OSError) as error:
            why = words(error) if isinstance(error, OSError) else error
            self.misfits[f"{what}: {why}"] += 1

    def _socket(self, what: Identity) -> socket.socket | None:
        number = self._unused.get(what)
        if number is None:
            return None  # it did not come into the store any more
        try:
            sock = socket.socket(fileno=number)
        except OSError as error:
            self.misfits[f"no socket: {words(error)}"] += 1
            return None
        del self._unused[what]
        return sock

    def _add_egress(self, egress: Egress, sock: socket.socket) -> None:
        """Add a socket, unless it was disconnected after the index was made."""
        try:
            sock.getpeername()
        except OSError:
            sock.close()
        else:
            self._holdings.add_egress(egress, sock)

    def _take_ingress(self, ingress: Ingress, all_kept: list[tuple[Ring, KeptRing]]) -> None:
        ordered = [kept for _, kept in sorted(all_kept, key=lambda pair: pair[0].number)]
        needed = [what for kept in ordered for what in kept.descriptors]
        if len(ordered) != ingress.workers or any(what not in self._unused for what in needed):
            return  # it was about to come or to go
        with contextlib.ExitStack() as undo:
            rings = []
            for kept in ordered:
                segment, same = self._segment(kept)
                undo.callback(segment.close)
                ring = self._ring(kept)
                undo.callback(ring.close)
                if ring.socket.getsockname()[0] != ingress.interface:
                    raise ValueError(f"{ingress.interface} was removed and made again")
                if not same:
                    ring.forget_seen()
                rings.append((ring, segment))
            undo.pop_all()
        self._holdings.add_ingress(ingress, rings)
        for number, kept in enumerate(ordered):
            lane = self._holdings.lanes[Ring(ingress, number)]
            for key, rule, slot in kept.members:
                if lane.segment.members.taken.get(key) == slot:
                    lane.members.add(key, rule, slot)

    def _ring(self, kept: KeptRing) -> IngressSocket:
        small, large, tally, _ = kept.descriptors
        geometry, large_geometry = unpack(kept.geometry), unpack(kept.large_geometry)
        first, second = self._socket(small), self._socket(large)
        if first is None or second is None:
            raise ValueError("not a packet socket")
        made = IngressSocket(geometry, large_geometry, (first, second), self._unused[tally])
        del self._unused[tally]
        return made

    def _segment(self, kept: KeptRing) -> tuple[Segment, bool]:
        """The segment, and whether it has the counters; one of another version has not."""
        what = kept.descriptors[3]
        number = self._unused[what]
        rules, outputs = unpack(kept.rules), {unpack(key): slot for key, slot in kept.outputs}
        try:
            made = Segment(number)
        except ValueError as error:
            self.misfits[str(error)] += 1
            made = Segment()
            made.continue_from(number)
            return made, False
        del self._unused[what]
        try:
            made.rules.take_over(rules)
            made.outputs.take_over(outputs)
            made.members.take_over({key: slot for key, _, slot in kept.members})
        except BaseException:
            made.close()
            raise
        return made, True
