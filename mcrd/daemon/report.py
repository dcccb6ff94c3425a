"""Rules, counters and workers as mcrctl gets them, and states in words."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from mcrd import answers, counters
from mcrd.addresses import target, where
from mcrd.daemon.executor import Estate
from mcrd.events import counted
from mcrd.host.devices import features
from mcrd.host.merging import lacking as lacking_to_merge
from mcrd.host.procfs import Host
from mcrd.lanes.ledger import Ledger
from mcrd.lanes.process import WorkerProcess
from mcrd.model import Input, Inspect, Output, PortRange, Rule
from mcrd.planning import replies
from mcrd.planning.broadcast import input_here, limit
from mcrd.planning.links import Link
from mcrd.planning.plan import Close, Open, Relieve, Step
from mcrd.planning.resources import Egress, Members, Nowhere, Ring, Worker
from mcrd.planning.states import OPEN, STATES, OutputState, RuleState
from mcrd.sums import InspectCount, MergeCount

OF_OUTPUTS = {Egress: "output", Members: "output by member", Nowhere: "output without a way"}


def state(what: RuleState | OutputState) -> str:
    """A state in words."""
    text = f"{what.state}: {what.reason}" if what.reason else what.state
    if what.retry_in is not None:
        text += f"; trying again in {what.retry_in:.2g} s"
    return text


def summary(states: Mapping[str, RuleState], errors: Sequence[str] = ()) -> str:
    """One line: the number of rules, the trouble with some, and with the rule file."""
    counts: Counter[str] = Counter(entry.state for entry in states.values())
    text = counted(len(states), "rule")
    for kind in STATES[1:]:
        if counts[kind]:
            first = next(
                (f": {e.reason}" for e in states.values() if e.state == kind and e.reason), ""
            )
            text += f", {counts[kind]} {kind}{first}"
    trouble = [
        output
        for entry in states.values()
        if entry.state in OPEN
        for output in entry.outputs
        if output.state not in OPEN
    ]
    if trouble:
        number = counted(len(trouble), "output")
        text += f"; {number} of active rules waiting or failed: {trouble[0].reason}"
    return f"{text}; rule file refused: {errors[0]}" if errors else text


def troubled(states: Mapping[str, RuleState]) -> dict[str, answers.Trouble]:
    """The rules that wait or have failed, and why."""
    return {
        name: answers.Trouble(entry.state, entry.reason)
        for name, entry in states.items()
        if entry.state in ("waiting", "failed")
    }


def steps(given: Sequence[Step]) -> str:
    """The number of steps of each kind."""
    kinds = Counter(
        f"{type(step).__name__} {OF_OUTPUTS.get(kind := type(step.resource), kind.__name__)}"
        if isinstance(step, Open | Close | Relieve)
        else f"{type(step).__name__} rule"
        for step in given
    )
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items()).lower()


def rule(
    entry: Rule, now: RuleState, links: Mapping[str, Link], rejoin: float | None
) -> answers.Rule:
    """A rule with its settings and state; `rejoin` is that of its input interface, in seconds."""
    given = entry.input
    return answers.Rule(
        state=now.state,
        reason=now.reason,
        retry_in_s=now.retry_in,
        description=entry.description,
        place=str(entry.place) if entry.place else None,
        inspect=_inspect(entry.inspect),
        input=answers.Input(
            **_plain(given, links), interface_now=_own(given.interface, links), rejoin_s=rejoin
        ),
        outputs=[
            answers.Output(
                **_plain(output, links),
                interface_now=_now(output, how, links),
                state=how.state,
                reason=how.reason,
                retry_in_s=how.retry_in,
            )
            for output, how in zip(entry.outputs, now.outputs, strict=True)
        ],
    )


def _inspect(given: Inspect | None) -> str | answers.Number | None:
    """As it stands in the rule file."""
    if given is None or given.format != "sequence":
        return None if given is None else given.format
    return answers.Number(given.offset, given.bytes, given.order)


def _plain(end: Input | Output, links: Mapping[str, Link]) -> dict[str, Any]:
    """The settings of an input or output in the rule file, and what broadcasts they are now."""
    link = links.get(end.interface or "")
    plain = {**msgspec.to_builtins(end, enc_hook=str), "port": _port(end.port)}
    if isinstance(end, Output):
        plain["replies_s"] = plain.pop("replies")
        if plain.pop("keeps_answerer"):
            plain["source"] = "keep"
        return {**plain, "limit": limit(end, link)}
    plain["dedupe_s"] = plain.pop("dedupe")
    del plain["also"]
    return {**plain, "broadcasts": list(map(str, input_here(end, link).also))}


def _own(name: str | None, links: Mapping[str, Link]) -> str | None:
    return links[name].name if name is not None and name in links else None


def _now(output: Output, how: OutputState, links: Mapping[str, Link]) -> str | None:
    """The own name of the interface that an output sends by now; None while there is none."""
    return how.interface if output.interface is None else _own(output.interface, links)


def _port(port: int | PortRange) -> int | str:
    return port if isinstance(port, int) else str(port)


def rule_counts(
    entry: Rule, now: RuleState, ledger: Ledger, silent: set[str], links: Mapping[str, Link]
) -> counters.RuleCounts:
    """The counters of a rule and its outputs."""
    count = ledger.rule(entry.name)
    return counters.RuleCounts(
        interface=entry.input.interface,
        interface_now=_own(entry.input.interface, links),
        address=str(entry.input.address),
        port=_port(entry.input.port),
        description=entry.description,
        leg=entry.leg,
        state=now.state,
        reason=now.reason,
        silent=entry.name in silent if entry.silence is not None else None,
        received=count.received,
        dropped=count.dropped,
        returner=ledger.returner(entry.name),
        inspect=(count.inspect or InspectCount()) if entry.inspect else None,
        merge=(count.merge or MergeCount()) if entry.merge else None,
        backlog=count.backlog if entry.standby else None,
        overheard=count.overheard if entry.standby else None,
        rate=ledger.rule_rate(entry.name).rounded(),
        outputs=[
            _output(entry.name, output, how, ledger, links)
            for output, how in zip(entry.outputs, now.outputs, strict=True)
        ],
    )


def _output(
    name: str, output: Output, how: OutputState, ledger: Ledger, links: Mapping[str, Link]
) -> counters.OutputCounts:
    count = ledger.output(name, target(output))
    return counters.OutputCounts(
        where=where(output),
        interface=output.interface,
        interface_now=_now(output, how, links),
        address=str(output.address),
        port=_port(output.port),
        state=how.state,
        reason=how.reason,
        sent=count.sent,
        errors=count.errors,
        refused=count.refused,
        **count.dropped,
        **count.skipped,
        unanswered=count.unanswered,
        send_buffer_full=count.errors.get("EAGAIN", 0),  # a name that says more
        rate=ledger.output_rate(name, target(output)).rounded(),
        answers=_answers(name, output, ledger),
    )


def _answers(name: str, output: Output, ledger: Ledger) -> counters.AnswerCounts | None:
    if output.replies is None:
        return None
    called = replies.answers(target(output))
    count = ledger.output(name, called)
    return counters.AnswerCounts(
        askers=ledger.askers(name),
        sent=count.sent,
        errors=count.errors,
        refused=count.refused,
        late=count.late,
        lost=count.lost,
        new_member=count.dropped["new_member"],
        rate=ledger.output_rate(name, called).rounded(),
    )


def add_rings(found: counters.Stats, estate: Estate, only: Collection[str] | None = None) -> None:
    """Add the counters of interfaces, all or only these, and their workers; and the kernel's."""
    ledger, full = estate.ledger, estate.holdings.ring_full()
    rates = ledger.interface_rates(only)
    merged = {ring.interface for ring, _ in estate.holdings.rings() if ring.ingress.gro}
    for name, count in sorted(ledger.interfaces(full, only).items()):
        found.interfaces[name] = counters.InterfaceCounts(
            count.received,
            count.dropped,
            count.dropped_frames,
            count.reports,
            rates[name].rounded(),
            not lacking_to_merge(features(name)) if name in merged else None,
        )
    for ring, worker, process in _in_order(estate):
        if only is None or ring.interface in only:
            count, much = ledger.ring(ring, full[ring])
            about = msgspec.structs.asdict(_worker(ring, worker, process, estate))
            found.workers.append(
                counters.WorkerCounts(
                    **about,
                    received=count.received,
                    dropped=count.dropped,
                    dropped_frames=count.dropped_frames,
                    rate=much.rounded(),
                )
            )
    found.kernel = Host().fragments_lost()


def lacking(estate: Estate) -> dict[str, str]:
    """Layers of the sandbox that some worker is without, and why."""
    return {
        layer: reason
        for process in estate.workers.values()
        for layer, reason in process.missing.items()
    }


def workers(estate: Estate) -> list[answers.Worker]:
    """The worker processes, once for each interface that they read."""
    return [_worker(*each, estate) for each in _in_order(estate)]


def _worker(ring: Ring, worker: Worker, process: WorkerProcess, estate: Estate) -> answers.Worker:
    return answers.Worker(
        interface=ring.interface,
        number=worker.number,
        pid=process.pid,
        cpu=process.cpu,
        state="running",
        restarts=estate.recovery.restarts[worker.ingress.interface, worker.number],
        layers=process.layers,
        missing=sorted(process.missing),
        engine=process.engine,
    )


def _in_order(estate: Estate) -> list[tuple[Ring, Worker, WorkerProcess]]:
    found = [
        (ring, worker, process)
        for worker, process in estate.workers.items()
        for ring in estate.rings_of(worker)
    ]
    return sorted(found, key=lambda each: (each[0].interface, each[0].number))
