"""The answers of the daemon as lines of text."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mcrd.cli.output import drops
from mcrd.words import unsent_for


def changes(answer: dict[str, Any]) -> Iterator[str]:
    """The lines of reload and diff."""
    yield from answer["text"]
    for name, entry in answer.get("troubled", {}).items():
        yield f"! rules.{name}: {entry['state']}: {entry['reason']}"


def status(answer: dict[str, Any]) -> Iterator[str]:
    """The daemon, its workers and their sandbox."""
    yield (
        f"mcrd {answer['version']}, pid {answer['pid']}, up {answer['uptime_s']:.0f} s,"
        f" {answer['config']}"
    )
    yield answer["summary"]
    metrics = answer["metrics"]
    if metrics["error"]:
        yield f"metrics: cannot listen at {metrics['listen']}: {metrics['error']}"
    if answer["config_errors"]:
        yield "the rule file has problems; the rules that ran before still do:"
        yield from (f"  {problem}" for problem in answer["config_errors"])
    if trouble := answer.get("watch_trouble"):  # a daemon of an older version does not say it
        yield trouble
    for worker in answer["workers"]:
        yield (
            f"worker {worker['number']} of {worker['interface']}: {worker['state']},"
            f" pid {worker['pid']},"
            f" {worker['restarts']} restart{'s' if worker['restarts'] != 1 else ''},"
            f" {len(worker['layers'])} layers of sandbox"
        )
    missing = answer["sandbox"]["missing"]
    if missing:
        yield f"some workers lack layers of the sandbox ({answer['sandbox']['mode']}):"
        yield from (f"  {layer} ({reason})" for layer, reason in missing.items())
    elif answer["workers"]:
        layers = ", ".join(answer["workers"][0]["layers"])
        yield f"sandbox ({answer['sandbox']['mode']}): all layers hold: {layers}"
    has = answer["privileges"]
    yield (
        f"the daemon: uid {has['uid']}, gid {has['gid']},"
        f" capabilities: {', '.join(has['capabilities']) or 'none'}"
        + ("" if has["no_new_privs"] else "; no_new_privs is not set")
    )


def _interface(entry: dict[str, Any]) -> str:
    """A name of the rule file, with the interface's own beside it where that is another one."""
    own = entry.get("interface_now")
    return (
        entry["interface"] if own in (None, entry["interface"]) else f"{entry['interface']} ({own})"
    )


def _endpoint(entry: dict[str, Any]) -> str:
    address = entry["address"]
    if entry["port"] == 0:
        return f"{address} esp"
    return f"[{address}]:{entry['port']}" if ":" in address else f"{address}:{entry['port']}"


def _to(output: dict[str, Any]) -> str:
    """Where an output sends; of one that follows the routes, by which interface now."""
    if output["interface"] is not None:
        return f"{_interface(output)} {_endpoint(output)}"
    by = output["interface_now"]
    return _endpoint(output) + (f" by {by}" if by else "")


def _state(entry: dict[str, Any]) -> str:
    return f"{entry['state']}: {entry['reason']}" if entry["reason"] else entry["state"]


def _settings(end: dict[str, Any], *names: str) -> str:
    """The settings that are given, in words."""
    words = []
    for name in names:
        value = end[name]
        if value:
            shown = ", ".join(value) if isinstance(value, list) else value
            words.append(name if value is True else f"{name} {shown}")
    return f" ({'; '.join(words)})" if words else ""


def _printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def rules(answer: dict[str, Any]) -> Iterator[str]:
    """Rules with their states, inputs and outputs."""
    if not answer["rules"]:
        yield "no rules"
    for name, rule in answer["rules"].items():
        about = f"  ({_printable(rule['description'])})" if rule["description"] else ""
        yield f"{name}  {_state(rule)}{about}"
        given = rule["input"]
        settings = _settings(given, "sources", "exclude", "vlan", "limit")
        yield f"    from {_interface(given)} {_endpoint(given)}{settings}"
        for output in rule["outputs"]:
            how = "" if _state(output) == _state(rule) else f"  {_state(output)}"
            settings = _settings(output, "ttl", "dscp", "source", "source_port", "loop", "limit")
            yield f"      to {_to(output)}{settings}{how}"


def _traffic(count: dict[str, Any]) -> str:
    return f"{count['packets']} packets, {count['bytes']} bytes"


def _rate(rate: dict[str, Any], indent: str) -> Iterator[str]:
    peak, minute = rate["peak"], rate["minute"]["packets"]
    yield (
        f"{indent}{rate['second']['packets']}/s, {minute:.10g}/s over a minute;"
        f" peak in 10 ms {peak['second']}, over a minute {peak['minute']}"
    )


def stats(answer: dict[str, Any]) -> Iterator[str]:
    """Counters and rates of rules, outputs, interfaces and workers."""
    if not answer["rules"]:
        yield "no rules"
    for name, rule in answer["rules"].items():
        yield f"{name}  {_state(rule)}{', and silent' if rule['silent'] else ''}"
        dropped = f"; dropped: {drops(rule)}" if any(rule["dropped"].values()) else ""
        yield f"    received {_traffic(rule['received'])}{dropped}"
        yield from _rate(rule["rate"], "        ")
        for output in rule["outputs"]:
            sent = output["sent"]
            unsent = {
                **output["errors"],
                "rate_limited": output["rate_limited"],
                "new_member": output["new_member"],
                "unreachable": output.get("unreachable", 0),
            }
            named = [f"{count} {unsent_for(why)}" for why, count in unsent.items() if count]
            errors = ", ".join(named)
            refused = f"; {output['refused']} refusals reported" if output["refused"] else ""
            yield (
                f"    sent {_traffic(sent)} to {_to(output)}"
                f"{refused}" + (f"; not sent: {errors}" if errors else "")
            )
    workers = Counter(worker["interface"] for worker in answer["workers"])
    for name, interface in answer["interfaces"].items():
        yield from _of_interface(name, interface)
        if workers[name] > 1:
            for worker in answer["workers"]:
                if worker["interface"] == name:
                    yield from _of_interface(f"    worker {worker['number']}", worker)
    lost = {name: count for name, count in answer["kernel"].items() if count}
    if lost:
        yield f"the kernel, for all of this host's network: {drops({'dropped': lost})}"


def _of_interface(name: str, count: dict[str, Any]) -> Iterator[str]:
    yield f"{name}: received {_traffic(count['received'])}; dropped: {drops(count)}"
    yield from _rate(count["rate"], "    " + " " * (len(name) - len(name.lstrip())))
    reports = count.get("reports", {})
    if any(reports.values()):
        failed = f", {reports['failed']} could not be sent" if reports["failed"] else ""
        yield f"    {reports['repeated']} membership reports sent unasked (rejoin){failed}"
