"""What is open: lanes, sockets of outputs, memberships, ports held."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from mcrd.dataplane import messages
from mcrd.errors import words
from mcrd.host.merging import Merging
from mcrd.host.protocols import GroupProtocols
from mcrd.lanes.channel import end_sockets, own_source
from mcrd.lanes.lane import Lane
from mcrd.lanes.ledger import Ledger
from mcrd.lanes.memory import guard_memory
from mcrd.lanes.queriers import Queriers
from mcrd.lanes.rejoin import Rejoins
from mcrd.lanes.retired import Retired
from mcrd.lanes.segment import Segment
from mcrd.model import Network
from mcrd.planning.actual import Changed
from mcrd.planning.links import Link
from mcrd.planning.resources import (
    Egress,
    GroupProtocol,
    Hold,
    Ingress,
    Members,
    Membership,
    Nowhere,
    Querying,
    Reception,
    Rejoin,
    Resource,
    Ring,
    Worker,
)
from mcrd.sockets.common import or_close
from mcrd.sockets.egress import EgressSockets
from mcrd.sockets.ingress import (
    IngressSocket,
    let_in,
    open_ingress,
    open_rings,
    open_stamps,
)
from mcrd.sockets.lost import Lost
from mcrd.sockets.membership import Memberships, Receivers, open_hold
from mcrd.sockets.reception import Receptions

log = logging.getLogger(__name__)


class Holdings:
    """What is open, opened and closed one by one; others may look, and change nothing."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.guard = guard_memory()
        self.lanes: dict[Ring, Lane] = {}
        """By what their workers call them."""
        self.egress: dict[Egress, socket.socket] = {}
        self.holds: dict[Hold, socket.socket | None] = {}
        self.receptions = Receptions()
        self.memberships = Memberships()
        self.protocols = GroupProtocols()
        self.rejoins = Rejoins()
        self.queriers = Queriers()
        self.merging = Merging()
        self.opener = EgressSockets()
        self._receivers = Receivers()
        self.look_anew = self._receivers.look_anew
        self._ingresses: set[Ingress] = set()
        self._patterns: dict[type[Resource], set[Resource]] = {Members: set(), Nowhere: set()}
        self._by_kind: dict[type[Resource], Any] = {
            Ingress: self._ingresses,
            Egress: self.egress,
            **self._patterns,
            Hold: self.holds,
            Reception: self.receptions,
            Membership: self.memberships,
            GroupProtocol: self.protocols,
            Rejoin: self.rejoins,
            Querying: self.queriers,
        }
        self._own: dict[Egress, messages.Endpoint] = {}
        self._admitted: dict[str, frozenset[Network]] = {}
        self._retired: dict[int, Retired] = {}  # by the index of the interface, which stays
        self._deaf: dict[Ingress, list[IngressSocket]] = {}  # opened beside others, until let_in()
        self._stamps: dict[Ingress, socket.socket] = {}  # as long as those others are open

    def all(self) -> tuple[Resource, ...]:
        """What is open."""
        return (*self.running(), *chain.from_iterable(self._by_kind.values()))

    def running(self) -> dict[Worker, Lane]:
        """The lanes that have a worker."""
        return {
            lane.process.worker: lane for lane in self.lanes.values() if lane.process is not None
        }

    def lane_of(self, worker: Worker) -> Lane | None:
        """The lane that has this worker, if it runs."""
        lane = self.lanes.get(worker.ring)
        runs = lane is not None and lane.process is not None and lane.process.worker == worker
        return lane if runs else None

    def lanes_of(self, ingress: Ingress) -> list[Lane]:
        """The lanes of an ingress that shares none, in their order; none when it is not open."""
        rings = (Ring(ingress, number) for number in range(ingress.workers))
        return [self.lanes[ring] for ring in rings if ring in self.lanes]

    def has(self, resource: Resource) -> bool:
        """Whether it is open."""
        if isinstance(resource, Worker):
            return self.lane_of(resource) is not None
        return resource in self._by_kind[type(resource)]

    def open(self, resource: Resource, links: Mapping[str, Link]) -> None:
        """Open it; raise OSError."""
        match resource:
            case Ingress():
                self._open_ingress(resource, links[resource.interface].mtu)
            case Members() | Nowhere():
                self._patterns[type(resource)].add(resource)
            case Reception():
                self.receptions.open(resource)
            case Egress():
                with or_close(self.opener.open(resource)) as sock:
                    self.add_egress(resource, sock)
            case Hold():
                self.holds[resource] = _open_hold(resource, self._receivers)
            case Membership():
                self.memberships.join(resource)
            case GroupProtocol():
                self.protocols.set(resource)
            case Rejoin():
                self.rejoins.begin(resource)
            case Querying():
                self.queriers.begin(resource, links)

    def _open_ingress(self, ingress: Ingress, mtu: int) -> None:
        """Open all of its rings, or none; those that they replace count until then."""
        if self.beside(ingress) is not None:
            self._open_beside(ingress, mtu)
            return
        retired = self._retired.get(ingress.index)
        if retired is not None:
            retired.interface = ingress.interface  # it may have been renamed
        homes = [Ring(ingress.home, number) for number in range(ingress.workers)]
        segments: list[Segment | None] = []
        with contextlib.ExitStack() as undo:
            for home in homes:
                segments.append(segment := None if home in self.lanes else Segment())
                if segment is not None:
                    undo.callback(segment.close)
            try:
                rings = open_ingress(ingress, mtu, self._admitted.get(ingress.interface))
            except OSError as error:
                if error.errno != errno.ENOMEM or retired is None:
                    raise
                retired.free_memory()
                rings = open_ingress(ingress, mtu, self._admitted.get(ingress.interface))
            for ring in rings:
                undo.callback(ring.close)
            self.add_ingress(ingress, list(zip(rings, segments, strict=True)))
            undo.pop_all()
        if retired is not None:
            del self._retired[ingress.index]
            for loss in retired.give_way(rings):
                self.ledger.lose(*loss)

    def beside(self, ingress: Ingress) -> Ingress | None:
        """Whose rings are open on the same interface, each for a worker of its own."""
        same = (other for other in self._ingresses if other.index == ingress.index)
        return next((o for o in same if o != ingress and not (o.lane or ingress.lane)), None)

    def _open_beside(self, ingress: Ingress, mtu: int) -> None:
        """Open rings while others of the interface are open: nothing comes before let_in()."""
        with contextlib.ExitStack() as undo:
            segments: list[Segment] = []
            for _ in range(ingress.workers):
                segments.append(Segment())
                undo.callback(segments[-1].close)
            undo.callback((stamps := open_stamps()).close)
            rings = open_rings(ingress, mtu)
            undo.pop_all()
        self.add_ingress(ingress, list(zip(rings, segments, strict=True)))
        self._deaf[ingress] = rings
        self._stamps[ingress] = stamps

    def let_in(self, ingress: Ingress) -> None:
        """Let frames into rings that were opened beside others. Raises OSError."""
        if (rings := self._deaf.pop(ingress, None)) is not None:
            let_in(rings, self._admitted.get(ingress.interface), beside=True)

    def add_ingress(
        self,
        ingress: Ingress,
        rings: Sequence[tuple[IngressSocket, Segment | None]],
        place: int | None = None,
    ) -> None:
        """Add the rings of an ingress, all of them, with their counters.

        No segment: their lane is there and has one. `place` is where that knows them already.
        Raises OSError when a lane has no room.
        """
        for number, (sock, segment) in enumerate(rings):
            ring, home = Ring(ingress, number), Ring(ingress.home, number)
            if segment is None:
                self.lanes[home].add(ring, sock, place)
            else:
                shared = (self.opener, self.ledger, self.announce)
                lane = self.lanes[home] = Lane(ring, sock, segment, *shared, place or 0)
                lane.members.listen(None, self.queriers.listeners, Changed(), self.announce)
        self._ingresses.add(ingress)

    def add_egress(self, egress: Egress, sock: socket.socket) -> None:
        """Add a socket of an output. Raises OSError, and has not added it then."""
        if not egress.hears:
            self._own[egress] = own_source(egress, sock)
        self.egress[egress] = sock

    def close(self, resource: Resource, *, anew: bool = False) -> None:
        """Close it; a worker ends by stop().

        `anew`: another is to take its place. Until it does, the rings of an ingress are not closed,
        but count what comes.
        """
        match resource:
            case Ingress():
                self._close_ingress(resource, anew)
            case Egress():
                self._own.pop(resource, None)
                lane = self.lane_of(resource.worker)
                process = lane.process if lane is not None else None
                end_sockets(process, {resource: self.egress.pop(resource)})
            case Members() | Nowhere():
                self._patterns[type(resource)].discard(resource)
            case Hold():
                sock = self.holds.pop(resource)
                if sock is not None:
                    sock.close()
            case Reception():
                self.receptions.end(resource)
            case Membership():
                self.memberships.leave(resource)
            case GroupProtocol():
                self.protocols.end(resource)
            case Rejoin():
                self.rejoins.end(resource)
            case Querying():
                self.queriers.end(resource)

    def _close_ingress(self, ingress: Ingress, anew: bool) -> None:
        self._ingresses.discard(ingress)
        self._deaf.pop(ingress, None)
        for new in [new for new in self._stamps if new.index == ingress.index]:
            self._stamps.pop(new).close()
        retired = Retired(ingress.interface)
        for number in range(ingress.workers):
            home = Ring(ingress.home, number)
            if self.lanes[home].retire(Ring(ingress, number), retired):
                del self.lanes[home]
        if anew:
            self._retired[ingress.index] = retired
        else:
            retired.close()

    def end_retired(self, wanted: Container[int] = ()) -> None:
        """Close old rings, except those of interfaces (by index) that wait for new ones."""
        for which in [which for which in self._retired if which not in wanted]:
            retired = self._retired.pop(which)
            for loss in retired.losses():
                self.ledger.lose(*loss)
            retired.close()

    def close_unready(self) -> None:
        """Close rings that were to take the place of others, which are open still: these stay."""
        for ingress in tuple(self._stamps):
            self.close(ingress)

    def end_protocols(self) -> None:
        """Set the versions of IGMP and MLD as they were."""
        for each in tuple(self.protocols):
            self.protocols.end(each)

    def close_all(self) -> None:
        """Close everything, and leave every group."""
        for resource in self.all():
            self.close(resource)
        self.end_retired()

    def rejoin(self, links: Mapping[str, Link]) -> None:
        """Send reports of memberships that are due, and count them."""
        for interface, said in self.rejoins.look(links, self.memberships):
            self.ledger.report(interface, *said)

    def report_new(self, opened: Iterable[Resource], links: Mapping[str, Link]) -> None:
        """Report those of these that are memberships, and are joined."""
        new = [each for each in opened if isinstance(each, Membership) and self.has(each)]
        self.rejoins.report_new(new, links, self.memberships)

    def own(self) -> set[messages.Endpoint]:
        """Where this host sends from."""
        members = (lane.members.own() for lane in self.lanes.values())
        return set(self._own.values()).union(*members)

    def listen(self, changed: Changed) -> None:
        """Tell workers for which of these groups, by the index of the interface, members are."""
        for lane in self.lanes.values():
            now = self.queriers.listeners
            lane.members.listen(lane.connected, now, changed, self.announce)

    def announce(self) -> None:
        """Tell every worker where this host sends from."""
        own = self.own()
        for lane in self.lanes.values():
            lane.tell_own(own)

    def rings(self) -> Iterator[tuple[Ring, IngressSocket]]:
        """The rings of all lanes."""
        return ((ring, sock) for lane in self.lanes.values() for ring, sock in lane.rings.items())

    def ring_inodes(self) -> frozenset[int]:
        """The inodes of the packet sockets with the rings, old ones too."""
        rings = [ring for _, ring in self.rings()]
        rings += [ring for retired in self._retired.values() for ring in retired.rings()]
        return _inodes(sock for ring in rings for sock in (ring.socket, ring.large))

    def output_inodes(self) -> frozenset[int]:
        """The inodes of all sockets that send, members included."""
        members = (sock for lane in self.lanes.values() for sock in lane.members.sockets())
        return _inodes((*self.egress.values(), *members))

    def ring_full(self) -> dict[Ring, Lost]:
        """The losses of each live ring; what old ones lost goes to the ledger."""
        for retired in self._retired.values():
            for loss in retired.losses():
                self.ledger.lose(*loss)
        return {ring: lost for lane in self.lanes.values() for ring, lost in lane.losses()}

    def take_errors(self) -> None:
        """Clear the packet sockets of links that went down, so that their workers do not spin."""
        for _, ring in self.rings():
            ring.take_error()

    def admit(self, networks: Mapping[str, frozenset[Network]], *, also_old: bool) -> bool:
        """Set what the workers of each interface see; the rest does not reach a ring.

        Widen before rules are added, narrow after others are removed: no frame is missed. False:
        the kernel has refused one, and the next call tries that again.
        """
        good = True
        deaf = list(chain.from_iterable(self._deaf.values()))
        hearing = [(ring.interface, sock) for ring, sock in self.rings() if sock not in deaf]
        names = {interface for interface, _ in hearing}
        names |= {retired.interface for retired in self._retired.values()}
        if not also_old:
            self._admitted = {n: kept for n, kept in self._admitted.items() if n in networks}
        for name in names | networks.keys():
            wanted = networks.get(name, frozenset())
            before = self._admitted.get(name)
            if also_old and before is not None:
                wanted |= before
            if wanted == before:
                continue
            self._admitted[name] = wanted
            admitting: list[Retired | IngressSocket] = [
                *(retired for retired in self._retired.values() if retired.interface == name),
                *(sock for interface, sock in hearing if interface == name),
            ]
            for rings in admitting:
                try:
                    rings.admit(wanted)
                except OSError as error:
                    log.error("%s: filter: %s; trying again", name, words(error))
                    self._admitted.pop(name, None)
                    good = False
        return good


def _open_hold(hold: Hold, receivers: Receivers) -> socket.socket | None:
    try:
        return open_hold(hold, receivers)
    except PermissionError as error:
        log.warning("%s: %s; senders may be told that the port is closed", hold, words(error))
        return None


def _inodes(sockets: Iterable[socket.socket]) -> frozenset[int]:
    return frozenset(os.fstat(sock.fileno()).st_ino for sock in sockets)
