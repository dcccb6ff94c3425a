"""The JSON of mcrctl, whose names are stable, and log lines."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mcrd.daemon.executor import Estate
from mcrd.host import fragments
from mcrd.lanes.counts import InterfaceCount, OutputCount, Rate
from mcrd.lanes.ledger import Ledger
from mcrd.lanes.process import WorkerProcess
from mcrd.model import Input, Output, PortRange, Rule
from mcrd.planning.broadcast import input_here, limit
from mcrd.planning.plan import Close, Open, Step
from mcrd.planning.resources import Link, Ring, Worker, target, where
from mcrd.planning.states import STATES, OutputState, RuleState


def state(what: RuleState | OutputState) -> str:
    """A state in words."""
    text = f"{what.state}: {what.reason}" if what.reason else what.state
    if what.retry_in is not None:
        text += f"; trying again in {what.retry_in:.2g} s"
    return text


def summary(states: Mapping[str, RuleState], errors: Sequence[str] = ()) -> str:
    """One line: the number of rules, the trouble with some, and with the rule file."""
    counts: Counter[str] = Counter(entry.state for entry in states.values())
    text = f"{len(states)} rule{'s' if len(states) != 1 else ''}"
    for kind in STATES[1:]:
        if counts[kind]:
            first = next(
                (f": {e.reason}" for e in states.values() if e.state == kind and e.reason), ""
            )
            text += f", {counts[kind]} {kind}{first}"
    trouble = [
        output
        for entry in states.values()
        if entry.state == "active"
        for output in entry.outputs
        if output.state != "active"
    ]
    if trouble:
        number = f"{len(trouble)} output{'s' if len(trouble) != 1 else ''}"
        text += f"; {number} of active rules waiting or failed: {trouble[0].reason}"
    return f"{text}; rule file refused: {errors[0]}" if errors else text


def troubled(states: Mapping[str, RuleState]) -> dict[str, dict[str, Any]]:
    """The rules that wait or have failed, and why."""
    return {
        name: {"state": entry.state, "reason": entry.reason}
        for name, entry in states.items()
        if entry.state in ("waiting", "failed")
    }


def steps(given: Sequence[Step]) -> str:
    """The number of steps of each kind."""
    kinds = Counter(
        f"{type(step).__name__.lower()} {type(step.resource).__name__.lower()}"
        if isinstance(step, Open | Close)
        else f"{type(step).__name__.lower()} rule"
        for step in given
    )
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())


def rule(
    entry: Rule, now: RuleState, links: Mapping[str, Link], rejoin: float | None
) -> dict[str, Any]:
    """A rule with its settings and state; `rejoin` is that of its input interface, in seconds."""
    return {
        "state": now.state,
        "reason": now.reason,
        "retry_in_s": now.retry_in,
        "description": entry.description,
        "place": str(entry.place) if entry.place else None,
        "input": {**_plain(entry.input, links), "rejoin_s": rejoin},
        "outputs": [
            {
                **_plain(output, links),
                "interface_now": _now(output, how, links),
                "state": how.state,
                "reason": how.reason,
                "retry_in_s": how.retry_in,
            }
            for output, how in zip(entry.outputs, now.outputs, strict=True)
        ],
    }


def _plain(end: Input | Output, links: Mapping[str, Link]) -> dict[str, Any]:
    """The settings of an input or output in the rule file, and its interface's own name.

    That is null while there is no such interface.
    """
    link = links.get(end.interface or "")
    plain = {**asdict(end), "port": _port(end.port), "interface_now": link and link.name}
    if isinstance(end, Output):
        plain["limit"] = limit(end, link)
    else:
        del plain["also"]
        plain["broadcasts"] = list(map(str, input_here(end, link).also))
    return plain


def _own(name: str | None, links: Mapping[str, Link]) -> str | None:
    return links[name].name if name is not None and name in links else None


def _now(output: Output, how: OutputState, links: Mapping[str, Link]) -> str | None:
    """The own name of the interface that an output sends by now; null while there is none."""
    return how.interface if output.interface is None else _own(output.interface, links)


def _port(port: int | PortRange) -> int | str:
    return port if isinstance(port, int) else str(port)


def rule_stats(
    entry: Rule,
    now: RuleState,
    ledger: Ledger,
    silent: set[str],
    links: Mapping[str, Link],
) -> dict[str, Any]:
    """The counters of a rule and its outputs."""
    return {
        "interface": entry.input.interface,
        "interface_now": _own(entry.input.interface, links),
        "state": now.state,
        "reason": now.reason,
        "silent": entry.name in silent if entry.silence is not None else None,
        **asdict(ledger.rule(entry.name)),
        "returner": ledger.returner(entry.name),
        "rate": rate(ledger.rule_rate(entry.name)),
        "outputs": [
            {
                "where": where(output),
                "interface": output.interface,
                "interface_now": _now(output, how, links),
                "address": str(output.address),
                "port": _port(output.port),
                "state": how.state,
                "reason": how.reason,
                **_counts(ledger.output(entry.name, target(output))),
                "rate": rate(ledger.output_rate(entry.name, target(output))),
            }
            for output, how in zip(entry.outputs, now.outputs, strict=True)
        ],
    }


def rate(much: Rate) -> dict[str, Any]:
    """A rate. Here alone it is rounded: one packet in a minute, 0.016 in a second, is not 0."""
    minute = {name: round(number, 3) for name, number in much.minute.items()}
    return {**asdict(much), "minute": minute}


def _counts(count: OutputCount) -> dict[str, Any]:
    """The counters of an output; the one whose name says little has a second one."""
    return {**asdict(count), "send_buffer_full": count.errors.get("EAGAIN", 0)}


def other_stats(estate: Estate, only: Collection[str] | None = None) -> dict[str, Any]:
    """The counters of interfaces, all or only these, and their workers; and the kernel's own."""
    ledger = estate.ledger
    full = estate.ring_full()
    interfaces, rates = ledger.interfaces(full, only), ledger.interface_rates(only)
    return {
        "interfaces": {
            name: {**asdict(count), "rate": rate(rates[name])}
            for name, count in sorted(interfaces.items())
        },
        "workers": [
            {**about, **_of_ring(ledger.ring(ring, full[ring]))}
            for about, ring in zip(workers(estate), _rings(estate), strict=True)
            if only is None or ring.interface in only
        ],
        "kernel": fragments.lost(),
    }


def _of_ring(found: tuple[InterfaceCount, Rate]) -> dict[str, Any]:
    count, much = found
    plain = {**asdict(count), "rate": rate(much)}
    del plain["reports"]  # a worker sends none
    return plain


def lacking(estate: Estate) -> dict[str, str]:
    """Layers of the sandbox that some worker is without, and why."""
    return {
        layer: reason
        for process in estate.workers.values()
        for layer, reason in process.missing.items()
    }


def workers(estate: Estate) -> list[dict[str, Any]]:
    """The worker processes; `layers` are those of its sandbox that hold."""
    return [
        {
            "interface": worker.ingress.interface,
            "number": worker.number,
            "pid": process.pid,
            "cpu": process.cpu,
            "state": "running",
            "restarts": estate.restarts[worker.ingress.interface, worker.number],
            "layers": process.layers,
            "missing": sorted(process.missing),
        }
        for worker, process in _in_order(estate)
    ]


def _rings(estate: Estate) -> list[Ring]:
    return [worker.ring for worker, _ in _in_order(estate)]


def _in_order(estate: Estate) -> list[tuple[Worker, WorkerProcess]]:
    return sorted(
        estate.workers.items(), key=lambda pair: (pair[0].ingress.interface, pair[0].number)
    )
