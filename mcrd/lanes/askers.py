"""Askers: where the answers to members come, and how many of them found no room."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from mcrd.addresses import Target
from mcrd.dataplane import messages
from mcrd.lanes.channel import unheard
from mcrd.lanes.process import WorkerProcess
from mcrd.lanes.segment import Segment
from mcrd.planning.replies import answerer, answers, back, ear, is_answer, receives
from mcrd.planning.resources import Egress
from mcrd.sockets.common import or_close
from mcrd.sockets.egress import EgressSockets, lost_by

ANSWERERS_AT_MOST = 4096  # of all askers of a lane: each takes a socket


def answers_for(outputs: Iterable[Egress]) -> float:
    """Seconds for which a member that asks is answered; 0 for one that does not."""
    times = (out.sending.replies.seconds for out in outputs if out.sending.replies is not None)
    return max(times, default=0.0)


class Askers:
    """The answers to those members of one ring that ask."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._told: dict[Egress, int] = {}  # what sockets that receive had lost at the last look
        self._lost: Counter[tuple[str, Target]] = Counter()
        self._ears: dict[int, tuple[messages.MemberKey, Egress]] = {}  # by place; may be old
        self._answerers = 0

    def listen(
        self, process: WorkerProcess, key: messages.MemberKey, egress: Egress, last_used: int
    ) -> None:
        """Tell the worker where the answers to an asker come, and where they go.

        `last_used` is the slot of the member. Raises NoRoomError.
        """
        replies = egress.sending.replies
        assert replies is not None
        to = process.places.get(back(egress))
        if to is None or ear(egress) not in process.places:
            return
        slot = self._segment.output_slot(egress.rule, answers(egress.target))
        rest = (slot, last_used, round(1000 * replies.seconds), replies.keeps)
        for one in (egress, ear(egress)):
            if receives(one):
                where = (process.places[one], to)
                self._ears[where[0]] = key, one
                unheard(process.request(messages.Listen, *where, *rest))

    def at(self, process: WorkerProcess, place: int) -> tuple[messages.MemberKey, Egress] | None:
        """Who has asked from the port at that place, and the socket there; None: nobody."""
        found = self._ears.get(place)
        return found if found is not None and process.places.get(found[1]) == place else None

    def answer(
        self,
        process: WorkerProcess,
        opener: EgressSockets,
        place: int,
        hearing: Egress,
        sockets: dict[Egress, socket.socket],
    ) -> None:
        """Tell the worker by which socket the first answer at that place goes; open it if need be.

        `sockets` are those of the asker. Who answers, the worker is not asked: it might name
        anybody. Raises OSError or WorkerError where there can be none, which the worker knows.
        """
        who, to = None, messages.NOWHERE
        try:
            host, port = sockets[hearing].recvfrom(0, socket.MSG_PEEK)[1][:2]
            source = ip_address(host.partition("%")[0])
            who = messages.Endpoint(source.packed, port)
            # A link-local address means somebody else on the asker's link (RFC 4291, 2.5.6).
            local = source.is_link_local and source.version == 6
            one = back(hearing) if local or not port else answerer(hearing, source, port)
            if one not in sockets:
                if self._answerers >= ANSWERERS_AT_MOST:
                    text = f"has more than {ANSWERERS_AT_MOST} hosts that answer at once"
                    raise OSError(errno.EMFILE, text)
                with or_close(opener.open(one)) as sock:
                    process.add_sockets({one: sock})
                    sockets[one] = sock
                self._answerers += 1
            to = process.places.get(one, messages.NOWHERE)
        except BlockingIOError:
            pass  # what the worker saw is not there
        finally:
            unheard(process.request(messages.Answerer, place, who, to))

    def look(self, sockets: Mapping[Egress, socket.socket]) -> None:
        """Count what these sockets had no room for since the last look."""
        for egress, sock in sockets.items():
            if receives(egress) and (lost := lost_by(sock)):
                new = lost - self._told.get(egress, 0)
                if new:
                    self._told[egress] = lost
                    self._lost[egress.rule, answers(egress.target)] += new

    def forget(self, sockets: Mapping[Egress, socket.socket]) -> None:
        """Look for the last time: they are about to be closed."""
        self.look(sockets)
        for egress in sockets:
            self._told.pop(egress, None)
            self._answerers -= egress.transparent and is_answer(egress)

    def take_lost(self) -> dict[tuple[str, Target], int]:
        """How many answers were lost that looks have found since the last call, by output."""
        found, self._lost = dict(self._lost), Counter()
        return found
