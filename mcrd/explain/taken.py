"""What the worker did with the packets: counters before and after the look. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mcrd.counters import Stats
from mcrd.explain.evidence import Evidence, Finding, asks
from mcrd.host.merging import WORTH_MERGING
from mcrd.inspected import lost_before
from mcrd.merged import MEANINGS, merged
from mcrd.model import MARK

RETURNED = ("looped", "cut_off")  # drops of what comes back
ENOUGH = 10  # packets that would have come in the look, if the stream went on as before
REMEDIES = {
    "ring_full": "`gro`, `workers` or `ring_size` of the interface: docs/performance.md",
    "malformed": "find what sends such packets: `tcpdump -vv` shows them",
    "bad_checksum": "repair the sender, or what rewrites packets on the path",
    "fragment": "IPv6 fragments are not relayed: let the source send smaller packets",
    "truncated": "`ethtool -K` of the interface: no receive offload",
    "wrong_vlan": "set `vlan` in the rule, or use the VLAN's interface as the input",
    "wrong_source": "`sources` and `exclude` in the rule",
    "own_output": "what this daemon sent comes back: a loop, or rules that feed each other",
    "rate_limited": "`limit` of the input",
    "duplicate": "nothing, if several senders or paths bring the same: `dedupe` of the input",
    "second_copy": "nothing: another input of the rule brought the same before (`merge`)",
    "standby_input": "nothing: another input of the rule is in use (`switch`, `mcrctl use`)",
    "standby": "nothing: another host relays it (`active_with`, `mcrctl standby`)",
    "too_late": "`delay` of `merge`: longer than one input is behind another",
    "cut_off": "a loop of relays that keep the source: take one out",
    "looped": "two relays between the same networks, or a ring of them: take one out, or let the"
    " rules of one exclude what the other sends (`exclude`)",
    "discarded": "the rings were replaced meanwhile; ask again",
}

LOST_BEFORE = (
    "look at the sender, and at switches and routers between; nothing is lost on this host"
)
NO_FORMAT = "it is not known what was lost before it came here: no packet has a known format"


def taken(evidence: Evidence) -> Iterator[Finding]:
    """Whether the worker runs, and the rule received what was seen."""
    daemon, rule = evidence.daemon, evidence.rule
    if daemon is None or daemon.before is None or daemon.after is None:
        text = "no counters: no daemon was asked, or no rule"
        yield Finding("taken", "received", "unknown", text)
        return
    if not asks(evidence):
        yield Finding("taken", "received", "unknown", "the rule is not active: nothing is counted")
        return
    yield from _workers(rule.input.interface, daemon.before, daemon.after, daemon.stopped)
    grew = grown(evidence)
    before, after = evidence.rings(after=False), evidence.rings()
    grown_drops = more(before.dropped, after.dropped)
    drops = dict(sorted(grown_drops.items(), key=lambda entry: -entry[1]))
    full = drops.get("ring_full", 0)
    if full:
        frames = more(before.dropped_frames, after.dropped_frames).get("ring_full", full)
        lost = f"{full} packets" if full == frames else f"about {full} packets, in {frames} frames,"
        text = f"{lost} were lost: a ring of {rule.input.interface} was full"
        yield Finding("taken", "ring_full", "no", text, REMEDIES["ring_full"])
    if grew:
        yield Finding("taken", "received", "yes", f"the rule received {grew} packets meanwhile")
    elif evidence.seen.good:
        told = ", ".join(f"{count} {why}" for why, count in drops.items() if why != "ring_full")
        text = f"the rule received none of it; dropped on {rule.input.interface}: {told or 'none'}"
        first = next((why for why in drops if why in REMEDIES), "")
        remedy = REMEDIES.get(first, "`mcrctl stats`, and the daemon's log")
        yield Finding("taken", "received", "no", text, remedy)
    else:
        text = "the rule received nothing: nothing arrived for it"
        yield Finding("taken", "received", "unknown", text)
    if grew and (back := drops.get("own_output", 0)):
        text = f"{back} packets that this daemon sent itself came back on {rule.input.interface}"
        yield Finding("taken", "own_output", "note", text, REMEDIES["own_output"])
    yield from _unmerged(evidence)
    yield from _looped(evidence)
    yield from _switched(evidence)
    yield from _lost_before(evidence)
    yield from _merged(evidence)
    limited = _dropped(evidence, "rate_limited")
    if limited:
        text = f"{limited} packets were over the limit of the input, {rule.input.limit} in a second"
        yield Finding("taken", "limit", "note", text, REMEDIES["rate_limited"])


def _looped(evidence: Evidence) -> Iterator[Finding]:
    """What came back, meanwhile or before: an ended loop brings no more."""
    count = evidence.counts()
    looped = sum(count.dropped.get(why, 0) for why in RETURNED)
    if not looped:
        return
    lately = sum(_dropped(evidence, why) for why in RETURNED)
    text = (
        f"a loop: {looped} packets came back that the rule had relayed before, {lately} of them"
        f" meanwhile; on {evidence.rule.input.interface}, {count.returner or 'somebody'} brought"
        " the last one"
    )
    if cut := count.dropped.get("cut_off", 0):
        text += f"; {cut} of them were cut off"
    yield Finding("taken", "looped", "note", text, REMEDIES["looped"])


def _unmerged(evidence: Evidence) -> Iterator[Finding]:
    """Whether the interface brings so much that `gro` pays."""
    rings, rate = evidence.rings(), evidence.rings().rate.second.packets
    if rings.gro is None and rate >= WORTH_MERGING:
        text = f"{rate:,.0f} packets/s without `gro`, which halves what they take of the CPU"
        yield Finding("taken", "gro", "note", text, "`mcrctl doctor` says what it needs")


def _switched(evidence: Evidence) -> Iterator[Finding]:
    """Which of several inputs is in use, and why."""
    switch = evidence.counts().switch
    if switch is None or switch.in_use is None:
        return
    which = "this input" if switch.used else switch.in_use
    name = evidence.rule.name.partition(MARK)[0]
    remedy = f"`mcrctl use {name} auto` ends that" if switch.chosen else ""
    yield Finding("taken", "switch", "note", f"{which} is in use: {switch.why}", remedy)


def _lost_before(evidence: Evidence) -> Iterator[Finding]:
    """What the payloads say of the network before this host, if the rule has `inspect`."""
    found = evidence.counts().inspect
    if found is None or not found.inspected:
        return
    if not (lost := lost_before(found)):
        text = "nothing was lost before it came here" if found.formats else NO_FORMAT
        yield Finding("taken", "lost_before", "note", text)
        return
    interface, remedy = evidence.rule.input.interface, LOST_BEFORE
    dropped = evidence.rings().dropped
    if here := dropped.get("ring_full", 0) + dropped.get("discarded", 0):
        remedy = f"some may be of the {here} that {interface} lost here (ring_full, discarded)"
    yield Finding("taken", "lost_before", "note", f"lost before it came here: {lost}", remedy)


def _merged(evidence: Evidence) -> Iterator[Finding]:
    """How the rule fares as one of several inputs of a stream, if these are merged."""
    counts = evidence.counts()
    for fault in counts.leg_faults:
        remedy = "`mcrctl stats` has all inputs of the stream: compare their senders and paths"
        yield Finding("taken", fault, "no", MEANINGS.get(fault, fault), remedy)
    if counts.merge is not None:
        yield Finding("taken", "merge", "note", f"merged: {merged(counts.merge)}")


def _workers(
    interface: str, before: Stats, after: Stats, stopped: frozenset[int]
) -> Iterator[Finding]:
    was, now = (
        {worker.pid for worker in stats.workers if worker.interface == interface}
        for stats in (before, after)
    )
    if halted := sorted(stopped & (was | now)):
        text = f"the worker of {interface} is stopped, pid {halted[0]}: somebody sent SIGSTOP"
        yield Finding("taken", "worker", "no", text, f"`kill -CONT {halted[0]}`, or wait a second")
    elif not now:
        text = f"no worker reads {interface}"
        yield Finding("taken", "worker", "no", text, "the daemon's log says why it ended")
    elif gone := sorted(was - now):
        text = f"the worker of {interface} was replaced meanwhile, pid {gone[0]}: it ended, or hung"
        yield Finding("taken", "worker", "no", text, "the daemon's log says why; ask again")
    else:
        pids = ", ".join(map(str, sorted(now)))
        yield Finding("taken", "worker", "yes", f"the worker of {interface} runs, pid {pids}")


def more(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What was counted meanwhile."""
    return {why: n for why, count in after.items() if (n := count - before.get(why, 0)) > 0}


def grown(evidence: Evidence) -> int:
    """Packets that the rule received meanwhile."""
    before, after = evidence.counts(after=False), evidence.counts()
    return after.received.packets - before.received.packets


def is_slow(evidence: Evidence) -> bool:
    """Whether it received something in the last minute, but too little for the look to see."""
    seconds = evidence.look.seconds if evidence.look is not None else 0.0
    return 0 < evidence.counts().rate.minute.packets * seconds < ENOUGH


def _dropped(evidence: Evidence, why: str) -> int:
    """Packets that the rule dropped meanwhile."""
    return evidence.counts().dropped.get(why, 0) - evidence.counts(False).dropped.get(why, 0)
