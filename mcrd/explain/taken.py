"""What the worker did with the packets: counters before and after the look. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mcrd.explain.evidence import Daemon, Evidence, Finding

RETURNED = ("looped", "cut_off")  # drops of what comes back
ENOUGH = 10  # packets that would have come in the look, if the stream went on as before
REMEDIES = {
    "ring_full": "`ring_size` or `workers` of the interface: docs/performance.md",
    "malformed": "what sends such packets; `tcpdump -vv` shows them",
    "bad_checksum": "repair the sender, or what rewrites packets on the way",
    "fragment": "IPv6 fragments are not relayed: let the source send smaller packets",
    "truncated": "`ethtool -K` of the interface: no receive offload",
    "wrong_vlan": "`vlan` in the rule, or the VLAN's interface as the input",
    "wrong_source": "`sources` and `exclude` in the rule",
    "own_output": "what this daemon sent comes back: a loop, or rules that feed each other",
    "rate_limited": "`limit` of the input",
    "cut_off": "a loop of relays that keep the source: take one out",
    "looped": "two relays between the same networks, or a ring of them: take one out, or let the"
    " rules of one exclude what the other sends (`exclude`)",
    "discarded": "the rings were replaced meanwhile; ask again",
}


def taken(evidence: Evidence) -> Iterator[Finding]:
    """Whether the worker runs, and the rule received what was seen."""
    daemon, rule = evidence.daemon, evidence.rule
    if daemon is None or not daemon.before or not daemon.after:
        yield Finding(
            "taken", "received", "unknown", "no counters: no daemon was asked, or no rule"
        )
        return
    if daemon.state is None or daemon.state["state"] != "active":
        yield Finding("taken", "received", "unknown", "the rule is not active: nothing is counted")
        return
    trouble = list(_workers(daemon, rule.input.interface))
    yield from trouble
    grew = grown(evidence)
    drops = _drops(daemon, rule.input.interface)
    full = drops.get("ring_full", 0)
    if full:
        frames = _drops(daemon, rule.input.interface, "dropped_frames").get("ring_full", full)
        lost = f"{full} packets" if full == frames else f"about {full} packets, in {frames} frames,"
        text = f"{lost} were lost: the ring of {rule.input.interface} was full"
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
        yield Finding(
            "taken", "received", "unknown", "the rule received nothing: nothing arrived for it"
        )
    if grew and (back := drops.get("own_output", 0)):
        text = f"{back} packets that this daemon sent itself came back on {rule.input.interface}"
        yield Finding("taken", "own_output", "note", text, REMEDIES["own_output"])
    yield from _looped(evidence)
    limited = _grown(evidence, "dropped", "rate_limited")
    if limited:
        text = f"{limited} packets were over the limit of the input, {rule.input.limit} in a second"
        yield Finding("taken", "limit", "note", text, REMEDIES["rate_limited"])


def _looped(evidence: Evidence) -> Iterator[Finding]:
    """What came back, meanwhile or before: an ended loop brings no more."""
    daemon, name = evidence.daemon, evidence.rule.name
    if daemon is None:
        return
    looped = sum(int(_at(daemon.after, name, ("dropped", why))) for why in RETURNED)
    if not looped:
        return
    lately = sum(_grown(evidence, "dropped", why) for why in RETURNED)
    who = daemon.after["rules"][name].get("returner") or "somebody"
    text = (
        f"a loop: {looped} packets came back that the rule had relayed before, {lately} of them"
        f" meanwhile; on {evidence.rule.input.interface}, {who} brought the last one"
    )
    if cut := int(_at(daemon.after, name, ("dropped", "cut_off"))):
        text += f"; {cut} of them were cut off"
    yield Finding("taken", "looped", "note", text, REMEDIES["looped"])


def _workers(daemon: Daemon, interface: str) -> Iterator[Finding]:
    before = {w["pid"]: w for w in daemon.before["workers"] if w["interface"] == interface}
    after = {w["pid"]: w for w in daemon.after["workers"] if w["interface"] == interface}
    if stopped := sorted(daemon.stopped & (before.keys() | after.keys())):
        text = f"the worker of {interface} is stopped, pid {stopped[0]}: somebody sent SIGSTOP"
        yield Finding("taken", "worker", "no", text, f"`kill -CONT {stopped[0]}`, or wait a second")
    elif not after:
        text = f"no worker reads {interface}"
        yield Finding("taken", "worker", "no", text, "the daemon's log says why it ended")
    elif gone := sorted(before.keys() - after.keys()):
        text = f"the worker of {interface} was replaced meanwhile, pid {gone[0]}: it ended, or hung"
        yield Finding("taken", "worker", "no", text, "the daemon's log says why; ask again")
    else:
        pids = ", ".join(map(str, sorted(after)))
        yield Finding("taken", "worker", "yes", f"the worker of {interface} runs, pid {pids}")


def _drops(daemon: Daemon, interface: str, of: str = "dropped") -> dict[str, int]:
    """What the interface dropped meanwhile, most first; `unmatched` is no fault."""
    now = daemon.after["interfaces"].get(interface, {}).get(of, {})
    was = daemon.before["interfaces"].get(interface, {}).get(of, {})
    grew = {why: count - was.get(why, 0) for why, count in now.items()}
    return {why: n for why, n in sorted(grew.items(), key=lambda e: -e[1]) if n > 0}


def grown(evidence: Evidence) -> int:
    """Packets that the rule received meanwhile."""
    return _grown(evidence, "received", "packets")


def received(evidence: Evidence) -> int:
    """Packets that the rule ever received."""
    daemon = evidence.daemon
    return int(_at(daemon.after, evidence.rule.name, ("received", "packets"))) if daemon else 0


def minute(evidence: Evidence) -> float:
    """Packets per second that it received over the last minute."""
    daemon = evidence.daemon
    found = _at(daemon.after, evidence.rule.name, ("rate", "minute", "packets")) if daemon else 0
    return float(found)


def is_slow(evidence: Evidence) -> bool:
    """Whether it received something in the last minute, but too little for the look to see."""
    seconds = evidence.look["seconds"] if evidence.look is not None else 0.0
    return 0 < minute(evidence) * seconds < ENOUGH


def is_here(evidence: Evidence) -> bool:
    """Whether there are counters of the rule."""
    daemon = evidence.daemon
    return daemon is not None and evidence.rule.name in daemon.after.get("rules", {})


def _grown(evidence: Evidence, *keys: str) -> int:
    daemon, name = evidence.daemon, evidence.rule.name
    return int(_at(daemon.after, name, keys) - _at(daemon.before, name, keys)) if daemon else 0


def _at(stats: Mapping[str, Any], name: str, keys: tuple[str, ...]) -> float:
    found: Any = stats.get("rules", {}).get(name)
    for key in keys:
        found = found and found.get(key)
    return found or 0
