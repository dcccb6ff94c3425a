"""Askers: where the answers to members come, and how many of them found no room."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Mapping

from mcrd.addresses import Target
from mcrd.dataplane import messages
from mcrd.lanes.channel import unheard
from mcrd.lanes.process import WorkerProcess
from mcrd.lanes.segment import Segment
from mcrd.planning.replies import answers, back, ear, receives
from mcrd.planning.resources import Egress
from mcrd.sockets.egress import lost_by


class Askers:
    """The answers to those members of one ring that ask."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._told: dict[Egress, int] = {}  # what sockets that receive had lost at the last look
        self._lost: Counter[tuple[str, Target]] = Counter()

    def listen(self, process: WorkerProcess, egress: Egress, last_used: int) -> None:
        """Tell the worker where the answers to an asker come, and where they go.

        `last_used` is the slot of the member. Raises NoRoomError.
        """
        assert egress.sending.replies is not None
        to = process.places.get(back(egress))
        if to is None or ear(egress) not in process.places:
            return
        slot = self._segment.output_slot(egress.rule, answers(egress.target))
        within = round(1000 * egress.sending.replies.seconds)
        for one in (egress, ear(egress)):
            if receives(one):
                where = (process.places[one], to)
                unheard(process.request(messages.Listen, *where, slot, last_used, within))

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

    def take_lost(self) -> dict[tuple[str, Target], int]:
        """How many answers were lost that looks have found since the last call, by output."""
        found, self._lost = dict(self._lost), Counter()
        return found
