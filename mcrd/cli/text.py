"""The answers of the daemon as lines of text."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from mcrd import __version__, answers, counters
from mcrd.addresses import plain, written
from mcrd.cli.output import drops, printable
from mcrd.events import counted
from mcrd.inspected import clock, inspected
from mcrd.merged import MEANINGS, merged
from mcrd.sums import Rate, Traffic
from mcrd.words import few, unsent_for


def reloaded(answer: answers.Reload) -> Iterator[str]:
    """The lines of reload."""
    yield from answer.text
    for name, entry in answer.troubled.items():
        yield f"! rules.{name}: {entry.state}: {entry.reason}"


def status(answer: answers.Status) -> Iterator[str]:
    """The daemon, its workers and their sandbox."""
    up = f"up {answer.uptime_s:.0f} s"
    yield f"mcrd {answer.version}, pid {answer.pid}, {up}, {answer.config}"
    if answer.version != __version__:
        yield f"this mcrctl is of version {__version__}, and may not show all that it says"
    yield answer.summary
    if answer.metrics.error:
        yield f"metrics: cannot listen at {answer.metrics.listen}: {answer.metrics.error}"
    if answer.config_errors:
        yield "the rule file has problems; the rules that ran before still do:"
        yield from (f"  {problem}" for problem in answer.config_errors)
    if answer.watch_trouble:
        yield answer.watch_trouble
    for name, leg in answer.chosen.items():
        yield f"rules.{name}: {leg} is in use by hand; `mcrctl use {name} auto` ends that"
    for name, role in answer.roles.items():
        yield f"rules.{name}: {role} by hand; `mcrctl follow {name}` ends that"
    for name, found in answer.names.items():
        if found.trouble:
            kept = f"; it keeps {few(found.addresses, 3)}" if found.addresses else ""
            yield f"{name}: {found.trouble}{kept}"
    for worker in answer.workers:
        yield (
            f"worker {worker.number} of {worker.interface}: {worker.state}, pid {worker.pid},"
            f" {counted(worker.restarts, 'restart')}, {len(worker.layers)} layers of sandbox"
            + (f", {worker.engine}" if worker.engine else "")
        )
    if answer.sandbox.missing:
        yield f"some workers lack layers of the sandbox ({answer.sandbox.mode}):"
        yield from (f"  {layer} ({reason})" for layer, reason in answer.sandbox.missing.items())
    elif answer.workers:
        layers = ", ".join(answer.workers[0].layers)
        yield f"sandbox ({answer.sandbox.mode}): all layers hold: {layers}"
    has = answer.privileges
    yield (
        f"the daemon: uid {has.uid}, gid {has.gid},"
        f" capabilities: {', '.join(has.capabilities) or 'none'}"
        + ("" if has.no_new_privs else "; no_new_privs is not set")
    )


def _interface(entry: answers.Input | answers.Output | counters.OutputCounts) -> str:
    """A name of the rule file, with the interface's own beside it where that is another one."""
    name, own = entry.interface or "", entry.interface_now
    return name if own in (None, name) else f"{name} ({own})"


def _to(output: answers.Output | counters.OutputCounts) -> str:
    """Where an output sends; of one that follows the routes, by which interface now."""
    if output.interface is not None:
        return f"{_interface(output)} {written(output.address, output.port)}"
    by = output.interface_now
    return written(output.address, output.port) + (f" by {by}" if by else "")


def _state(entry: answers.Rule | answers.Output | counters.RuleCounts) -> str:
    return f"{entry.state}: {entry.reason}" if entry.reason else entry.state


def _settings(end: answers.Input | answers.Output, *names: str) -> str:
    """The settings that are given, in words."""
    words = []
    for name in names:
        value = getattr(end, name)
        if value:
            told = _networks(value) if isinstance(value, list) else value
            called = name.removesuffix("_s")
            unit = " s" if called != name else ""
            words.append(name if value is True else f"{called} {told}{unit}")
    return f" ({'; '.join(words)})" if words else ""


def _networks(given: list[str]) -> str:
    return ", ".join(str(plain(ip_network(each))) for each in given)


def rules(answer: answers.Rules) -> Iterator[str]:
    """Rules with their states, inputs and outputs."""
    if not answer.rules:
        yield "no rules"
    for name, rule in answer.rules.items():
        about = f"  ({printable(rule.description)})" if rule.description else ""
        yield f"{name}  {_state(rule)}{about}"
        settings = _settings(rule.input, "sources", "exclude", "vlan", "limit", "dedupe_s")
        source = written(rule.input.address, rule.input.port)
        yield f"    from {_interface(rule.input)} {source}{settings}"
        if rule.inspect is not None:
            yield f"    inspects {_inspects(rule.inspect)}"
        if rule.switch is not None:
            back = rule.switch.back_s
            never = "never" if back is None else f"after {back:g} s"
            yield f"    switches after {rule.switch.silence_s:g} s of silence, and back {never}"
            yield f"    {_in_use(rule.switch)}"
        for output in rule.outputs:
            how = "" if _state(output) == _state(rule) else f"  {_state(output)}"
            settings = _settings(output, "ttl", "dscp", "source", "source_port", "loop", "limit")
            settings += _settings(output, "sources", "exclude")
            if output.sample > 1:
                settings += f" (one packet in {output.sample})"
            if output.replies_s is not None:
                whose = ", from who answers" if output.source == "keep" else ""
                settings += f" (answers go back for {output.replies_s:g} s{whose})"
            yield f"      to {_to(output)}{settings}{how}"


def _in_use(switch: answers.Switch) -> str:
    if switch.in_use is None:
        return "not in use: nothing has come by any input"
    begin = "in use" if switch.used else f"not in use: {switch.in_use} is"
    since = f" since {clock(switch.since)}" if switch.since else ""
    return f"{begin}{since}: {switch.why}"


def _inspects(given: str | answers.Number) -> str:
    if isinstance(given, str):
        return given
    return f"a number of {counted(given.bytes, 'byte')} at {given.offset}, {given.order} end first"


def _traffic(count: Traffic) -> str:
    return f"{count.packets} packets, {count.bytes} bytes"


def _rate(rate: Rate, indent: str) -> Iterator[str]:
    yield (
        f"{indent}{rate.second.packets}/s, {rate.minute.packets:.10g}/s over a minute;"
        f" peak in 10 ms {rate.peak.second}, over a minute {rate.peak.minute}"
    )


def members(answer: answers.Members) -> Iterator[str]:
    """Who wants which groups."""
    if not answer.asked:
        yield "this host neither asks nor listens: `querier = true` under [interfaces.NAME]"
    for asked in answer.asked:
        name = asked.protocol.upper()
        who = f"{asked.querier} asks" if asked.querier else "nobody asks"
        also = " (this host)" if asked.elected else ""
        yield f"{asked.interface}  {name}  {who}{also}"
        if asked.querier is None:
            yield "    who joins is heard, but forgotten after some minutes (`mcrctl doctor`)"
        for each in sorted(asked.groups, key=lambda group: ip_address(group.group)):
            only = "" if each.sources is None else f" from {', '.join(each.sources)}"
            yield f"    {each.group}{only}  for {each.since_s:.0f} s, {name}v{each.version}"
        if not asked.groups:
            yield "    nobody has joined a group"
        if asked.ignored:
            yield f"    {asked.ignored} reports were not looked at: there was no room"
        if asked.unread:
            yield f"    {asked.unread} messages came faster than they could be read"
        if asked.malformed:
            yield f"    {asked.malformed} messages or records were malformed"


def stats(answer: counters.Stats) -> Iterator[str]:
    """Counters and rates of rules, outputs, interfaces and workers."""
    if not answer.rules:
        yield "no rules"
    for name, rule in answer.rules.items():
        yield f"{name}  {_state(rule)}{', and silent' if rule.silent else ''}"
        dropped = f"; dropped: {drops(rule.dropped)}" if any(rule.dropped.values()) else ""
        yield f"    received {_traffic(rule.received)}{dropped}"
        yield from _rate(rule.rate, "        ")
        if rule.inspect is not None:
            yield from (f"    {line}" for line in inspected(rule.inspect))
        if rule.backlog is not None:
            heard = f"; heard another host send {rule.overheard}" if rule.overheard else ""
            yield f"    keeps {counted(rule.backlog, 'packet')} while it stands by{heard}"
        if rule.merge is not None:
            yield f"    merged: {merged(rule.merge)}"
        for fault in rule.leg_faults:
            yield f"    {fault}: {MEANINGS.get(fault, 'this input has a fault')}"
        if rule.switch is not None:
            forgotten = rule.switch.forgotten
            lacks = f"; {counted(forgotten, 'number')} forgotten early" if forgotten else ""
            switched = counted(rule.switch.switches, "time")
            yield f"    {_in_use(rule.switch)}; switched to {switched}{lacks}"
        for output in rule.outputs:
            refused, errors = _refused_and_unsent(output)
            waits = f"; {output.waiting} waiting for a socket" if output.waiting else ""
            named = [f"{count} {unsent_for(why)}" for why, count in output.skipped.items() if count]
            skips = f"; skipped: {', '.join(named)}" if named else ""
            ends = f"{refused}{waits}{skips}{errors}"
            yield f"    sent {_traffic(output.sent)} to {_to(output)}{ends}"
            if output.answers is not None:
                yield _answers(output.answers)
    workers = Counter(worker.interface for worker in answer.workers)
    for name, interface in answer.interfaces.items():
        yield from _of_rings(name, interface)
        if any(interface.reports.values()):
            failed = interface.reports.get("failed", 0)
            also = f", {failed} could not be sent" if failed else ""
            sent = interface.reports.get("repeated", 0)
            yield f"    {sent} membership reports sent unasked (rejoin){also}"
        if interface.gro is not None:
            how = "on" if interface.gro else "off: `mcrctl doctor` has the line for it"
            yield f"    gro is {how}"
        if workers[name] > 1:
            for worker in answer.workers:
                if worker.interface == name:
                    yield from _of_rings(f"    worker {worker.number}", worker)
    lost = {name: count for name, count in answer.kernel.items() if count}
    if lost:
        yield f"the kernel, for all of this host's network: {drops(lost)}"


def _refused_and_unsent(count: counters.OutputCounts | counters.AnswerCounts) -> tuple[str, str]:
    named = ", ".join(f"{n} {unsent_for(why)}" for why, n in count.unsent.items() if n)
    unsent = f"; not sent: {named}" if named else ""
    return f"; {count.refused} ICMP errors reported" if count.refused else "", unsent


def _answers(count: counters.AnswerCounts) -> str:
    askers = counted(count.askers, "asker") + "".join(_refused_and_unsent(count))
    return f"        answers: {_traffic(count.sent)} to {askers}"


def _of_rings(name: str, count: counters.InterfaceCounts | counters.WorkerCounts) -> Iterator[str]:
    dropped = drops(count.dropped, count.dropped_frames)
    yield f"{name}: received {_traffic(count.received)}; dropped: {dropped}"
    yield from _rate(count.rate, "    " + " " * (len(name) - len(name.lstrip())))
