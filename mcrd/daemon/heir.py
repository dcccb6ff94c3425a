"""Takes over what the supervisor before has left: what does not fit is closed, and told."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from ipaddress import ip_address
from typing import Any

import msgspec

from mcrd.client import network_namespace
from mcrd.daemon.index import FORMAT, Index, KeptGroup, KeptRing, unpack
from mcrd.errors import words
from mcrd.events import counted, tell
from mcrd.lanes.holdings import Holdings
from mcrd.lanes.segment import Segment
from mcrd.model import Config, Role, is_role
from mcrd.planning.hostnames import Resolved
from mcrd.planning.resources import (
    Egress,
    GroupProtocol,
    Hold,
    Ingress,
    Membership,
    Reception,
    Ring,
)
from mcrd.querying.groups import Group
from mcrd.sockets.common import or_close
from mcrd.sockets.ingress import IngressSocket
from mcrd.systemd.store import Identity, Store, identity

Restarts = Counter[tuple[str, int]]
"""Of workers, by interface and number."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Left:
    """What a supervisor left besides what is open.

    `config` are the rules that it ran by, `chosen` the inputs that are used by hand, `roles` what
    rules are by hand, `resolved` the addresses of hosts by their names. `to_drop`: the store has
    things that were not taken over.
    """

    config: Config | None = None
    chosen: Mapping[str, str] = dataclasses.field(default_factory=dict)
    roles: Mapping[str, Role] = dataclasses.field(default_factory=dict)
    resolved: Mapping[str, Resolved] = dataclasses.field(default_factory=dict)
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
        if index.network != network_namespace():
            raise ValueError("it is of another network namespace")
        heir.take(index)
    except Exception as error:  # noqa: BLE001  # whatever was left must not keep this one from work
        heir.misfits[str(error)] += 1
    unused = heir.close_the_rest()
    text = "taken over from mcrd %s: %s"
    tell(log, logging.INFO, "taken-over", text, version, heir.summary())
    if heir.misfits:
        text = "some of what mcrd %s left cannot be used, and is closed: %s"
        what = "; ".join(f"{reason} ({count})" for reason, count in heir.misfits.items())
        tell(log, logging.WARNING, "handover-failed", text, version, what)
    return Left(heir.config, heir.chosen, heir.roles, heir.resolved, unused > 0)


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
        self.chosen: Mapping[str, str] = {}
        self.roles: Mapping[str, Role] = {}
        self.resolved: Mapping[str, Resolved] = {}

    def take(self, index: Index) -> None:
        """Take all that fits."""
        holdings, self.chosen = self._holdings, index.chosen
        self.roles = {name: role for name, role in index.roles.items() if is_role(role)}
        self.resolved = {
            name: Resolved(tuple(map(ip_address, found))) for name, found in index.resolved.items()
        }
        by_ingress: dict[Ingress, list[tuple[Ring, KeptRing]]] = {}
        for ring, kept in self._each(((kept.ring, kept) for kept in index.rings), Ring):
            by_ingress.setdefault(ring.ingress, []).append((ring, kept))
        for ingress, all_kept in by_ingress.items():
            self._try("rings", partial(self._take_ingress, ingress, all_kept))
        for egress, what in self._each(index.egress, Egress):
            if (sock := self._socket(what)) is not None:
                self._add_egress(egress, sock)
        self._take_receptions(index.receptions)
        for hold, found in self._each(index.holds, Hold):
            # Whether one is needed is looked at again where there was none.
            if found is not None and (sock := self._socket(found)) is not None:
                holdings.holds[hold] = sock
        for what, packed in index.joined:
            joined = [one for one, _ in self._each(((p, None) for p in packed), Membership)]
            if joined and (sock := self._socket(what)) is not None:
                self._try("groups", partial(holdings.memberships.take_over, sock, joined))
        for heard in index.groups:
            self._try("members", partial(self._take_group, heard))
        for protocol, was in self._each(index.protocols, GroupProtocol):
            holdings.protocols[protocol] = was
        holdings.merging.switched_on.update(index.offloads)
        self._try(
            "ports",
            lambda: holdings.opener.ports.update({unpack(key): port for key, port in index.ports}),
        )
        self._try("counts", lambda: holdings.ledger.take_over([unpack(c) for c in index.counts]))
        self._try("restarts", lambda: self._restarts.update(unpack(index.restarts)))
        self._try("rules", partial(self._take_config, index))

    def _take_receptions(self, kept: Iterable[tuple[Any, Identity]]) -> None:
        """Have them let in by another socket: of this one, nobody knows what it lets in by now.

        It is closed when the other one is there, and nothing is missed.
        """
        found = list(self._each(kept, Reception))
        for reception, what in found:
            if what in self._unused:
                with contextlib.suppress(OSError):  # the plan tries again, and says why
                    self._holdings.receptions.open(reception)
        for what in {what for _, what in found} & self._unused.keys():
            os.close(self._unused.pop(what))

    def _take_group(self, kept: KeptGroup) -> None:
        times = (kept.since, kept.until, kept.wanted, kept.refused, kept.old)
        self._holdings.queriers.inherit(kept.interface, Group(ip_address(kept.group), *times))

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
        with contextlib.suppress(OSError), or_close(sock):
            sock.getpeername()
            self._holdings.add_egress(egress, sock)

    def _take_ingress(self, ingress: Ingress, all_kept: list[tuple[Ring, KeptRing]]) -> None:
        ordered = [kept for _, kept in sorted(all_kept, key=lambda pair: pair[0].number)]
        home = self._holdings.lanes.get(Ring(ingress.home))  # of others, if it is there already
        own = 4 if home is None else 3
        needed = [what for kept in ordered for what in kept.descriptors[:own]]
        if len(ordered) != ingress.workers or any(what not in self._unused for what in needed):
            return  # it was about to come or to go
        if self._holdings.beside(ingress) is not None:
            return  # it was about to take the place of that one; both would relay each packet
        with contextlib.ExitStack() as undo:
            rings: list[tuple[IngressSocket, Segment | None]] = []
            for kept in ordered:
                if home is not None:
                    segment, counts = None, home.segment
                    same = identity(counts.descriptor) == kept.descriptors[3]
                else:
                    segment, same = self._segment(kept)
                    undo.callback(segment.close)
                    counts = segment
                ring = self._ring(kept)
                undo.callback(ring.close)
                if ring.socket.getsockname()[0] != ingress.interface:
                    raise ValueError(f"{ingress.interface} was removed and made again")
                if not same:
                    ring.forget_seen([stand[0] for stand, _ in counts.stand(kept.place)])
                rings.append((ring, segment))
            undo.pop_all()
        self._holdings.add_ingress(ingress, rings, ordered[0].place)
        for number, kept in enumerate(ordered if home is None else ()):
            lane = self._holdings.lanes[Ring(ingress.home, number)]
            for key, rule, slot in kept.members:
                if lane.segment.members.taken.get(key) == slot:
                    lane.members.add(key, rule, slot)

    def _ring(self, kept: KeptRing) -> IngressSocket:
        small, large, tally, _ = kept.descriptors
        geometry, large_geometry = unpack(kept.geometry), unpack(kept.large_geometry)
        with contextlib.ExitStack() as undo:
            first, second = (
                undo.enter_context(sock) if (sock := self._socket(what)) is not None else None
                for what in (small, large)
            )
            if first is None or second is None:
                raise ValueError("not a packet socket")
            made = IngressSocket(geometry, large_geometry, (first, second), self._unused[tally])
            del self._unused[tally]
            undo.pop_all()
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
            try:
                made.continue_from(number)
            except BaseException:
                made.close()
                raise
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
