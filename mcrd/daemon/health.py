"""What the service manager is told: that all is well, how the rules fare, how much flows."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from typing import NamedTuple

from mcrd.daemon import report
from mcrd.daemon.planner import Planner
from mcrd.daemon.rulefile import RuleFile
from mcrd.events import counted
from mcrd.lanes.counts import OF_RINGS
from mcrd.systemd.notify import Notify

STATUS_EVERY = 5.0  # seconds


class Flow(NamedTuple):
    """Packets so far, at a time in seconds."""

    at: float
    received: int = 0
    sent: int = 0
    lost: int = 0
    interfaces: int = 0


class Health:
    """Says how what a planner has running fares."""

    def __init__(self, planner: Planner, file: RuleFile, notify: Notify) -> None:
        self._planner = planner
        self._file = file
        self._notify = notify
        self._flow = Flow(time.monotonic())

    def begin(self) -> None:
        """Take what was counted so far for known."""
        self._flow = self._flow_now()

    def summary(self) -> str:
        """The rules in one line, and what is wrong with their file."""
        return report.summary(self._planner.states, self._file.errors)

    def tell(self) -> None:
        """That all is well; and now and then the summary, with how much flows."""
        self._notify.flush()
        planner = self._planner
        if planner.estate.is_well() and planner.goes_on():
            self._notify.alive()
        early = planner.pending and not planner.states
        if early or time.monotonic() - self._flow.at < STATUS_EVERY:
            return
        now = self._flow_now()
        self._flow, before = now, self._flow
        self._notify.status(f"{self.summary()}; {flow(before, now)}")

    def _flow_now(self) -> Flow:
        estate = self._planner.estate
        interfaces = estate.ledger.interfaces(estate.holdings.ring_full())
        received = sum(count.received.packets for count in interfaces.values())
        lost = sum(count.dropped[name] for count in interfaces.values() for name in OF_RINGS)
        lost += estate.ledger.failed()
        return Flow(time.monotonic(), received, estate.ledger.sent(), lost, len(interfaces))


def flow(before: Flow, now: Flow) -> str:
    """How much flows, in words, without the counters of closed rings."""
    took = max(now.at - before.at, 0.001)
    into = max(0, now.received - before.received) / took
    out = max(0, now.sent - before.sent) / took
    number = counted(now.interfaces, "interface")
    return f"{number}, {_rate(into)} in, {_rate(out)} out, {now.lost} lost"


def _rate(packets: float) -> str:
    if packets >= 10_000:
        return f"{packets / 1000:.0f} kpps"
    return f"{packets:.0f} pps" if packets >= 10 else f"{packets:.2g} pps"  # a slow one is not 0
