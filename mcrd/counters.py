"""What `mcrctl stats` is answered: all counters, as types of both ends. See answers.py."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from msgspec import Struct, field

from mcrd.answers import Answer, Switch, Worker
from mcrd.sums import InspectCount, MergeCount, Rate, Traffic


class OutputDrops(Struct):
    """Datagrams that an output dropped, by the reasons in `enum output_drop` of segment.h."""

    rate_limited: int = 0
    new_member: int = 0
    unreachable: int = 0
    crashed: int = 0

    @property
    def dropped(self) -> dict[str, int]:
        """All of them, by reason."""
        return {name: getattr(self, name) for name in OutputDrops.__struct_fields__}


class AnswerCounts(Struct):
    """What became of the answers to an output, and how many askers get them now."""

    askers: int = 0
    sent: Traffic = field(default_factory=Traffic)
    errors: dict[str, int] = {}
    refused: int = 0
    late: int = 0
    lost: int = 0
    new_member: int = 0
    rate: Rate = field(default_factory=Rate)

    @property
    def unsent(self) -> dict[str, int]:
        """Answers that did not go back, by the name of the error or drop."""
        dropped = {"late": self.late, "lost": self.lost, "new_member": self.new_member}
        return {**self.errors, **dropped}


class OutputCounts(OutputDrops):
    """What became of the datagrams of an output."""

    where: str = ""
    interface: str | None = None
    interface_now: str | None = None
    address: str = ""
    port: int | str = 0
    state: str = ""
    reason: str | None = None
    sent: Traffic = field(default_factory=Traffic)
    errors: dict[str, int] = {}
    refused: int = 0
    not_wanted: int = 0
    not_sampled: int = 0
    waiting: int = 0
    unanswered: int = 0
    send_buffer_full: int = 0
    rate: Rate = field(default_factory=Rate)
    answers: AnswerCounts | None = None

    @property
    def skipped(self) -> dict[str, int]:
        """Datagrams that were not for it: no losses."""
        return {"not_wanted": self.not_wanted, "not_sampled": self.not_sampled}

    @property
    def unsent(self) -> dict[str, int]:
        """Datagrams that were not sent, by the name of the error or drop."""
        return {**self.errors, **self.dropped}


class RuleCounts(Struct):
    """What a rule took, and what became of it; `inspect` to `switch` are None where it does not.

    `backlog` are datagrams that it keeps while it stands by, `overheard` those that another host
    was heard to send meanwhile; None where it has no `standby`. `leg` is which of several inputs
    of a rule this one is, counted from 1; 0: there is no other.
    """

    interface: str = ""
    interface_now: str | None = None
    state: str = ""
    reason: str | None = None
    silent: bool | None = None
    received: Traffic = field(default_factory=Traffic)
    dropped: dict[str, int] = {}
    returner: str | None = None
    inspect: InspectCount | None = None
    merge: MergeCount | None = None
    leg_faults: list[str] = []
    switch: Switch | None = None
    backlog: int | None = None
    overheard: int | None = None
    rate: Rate = field(default_factory=Rate)
    outputs: list[OutputCounts] = []
    address: str = ""
    port: int | str = 0
    description: str = ""
    leg: int = 0


class InterfaceCounts(Struct):
    """What was taken from the rings of an interface, and why some of it went no further.

    `reports` are those of memberships, sent unasked. `gro`: whether the interface merges datagrams,
    None where the rule file does not ask for it.
    """

    received: Traffic = field(default_factory=Traffic)
    dropped: dict[str, int] = {}
    dropped_frames: dict[str, int] = {}
    reports: dict[str, int] = {}
    rate: Rate = field(default_factory=Rate)
    gro: bool | None = None


class WorkerCounts(Worker):
    """A worker, with what was taken from its rings."""

    received: Traffic = field(default_factory=Traffic)
    dropped: dict[str, int] = field(default_factory=dict)
    dropped_frames: dict[str, int] = field(default_factory=dict)
    rate: Rate = field(default_factory=Rate)


class Stats(Answer):
    """All counters, or those of a rule and of its input interface.

    Whoever says `since` gets of `rules` only those that are not as they were at that `cursor`, and
    of all others the rates. `since` is 0 when it gets all of them all the same.
    """

    command = "stats"
    uptime_s: float = 0.0
    cursor: int = 0
    since: int = 0
    rules: dict[str, RuleCounts] = field(default_factory=dict)
    interfaces: dict[str, InterfaceCounts] = field(default_factory=dict)
    workers: list[WorkerCounts] = field(default_factory=list)
    kernel: dict[str, int] = field(default_factory=dict)
    rates: dict[str, list[int | float]] = field(default_factory=dict)


def rates(rule: RuleCounts) -> list[float]:
    """What `rates` has of a rule: nothing where nothing flows."""
    second, minute, peak = rule.rate.second, rule.rate.minute, rule.rate.peak
    found = [second.packets, second.bytes, peak.second, minute.packets, minute.bytes, peak.minute]
    for output in rule.outputs:
        found += output.rate.second.packets, output.rate.second.bytes
    return found if any(found) else []
