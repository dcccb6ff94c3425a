"""Asks the daemon and this host about a rule."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mcrd import config
from mcrd.answers import Diff, OneRule, Others, Status
from mcrd.beside.discovery import listeners
from mcrd.beside.who import parties
from mcrd.client import ControlError, Kind, NoAnswerError, fetch, network_namespace, peer
from mcrd.config.problems import is_about
from mcrd.counters import Stats
from mcrd.errors import words
from mcrd.explain.evidence import Daemon, Evidence, Finding, Host, rule_of
from mcrd.explain.host import gather
from mcrd.explain.rulefile import disk
from mcrd.explain.stages import explain
from mcrd.host.devices import links
from mcrd.host.procfs import Host as ThisHost
from mcrd.looks import Look
from mcrd.model import Rule
from mcrd.observe.kinds import sort
from mcrd.planning.names import rule_here, written
from mcrd.planning.patterns import called, expand, several

TIMEOUT = 10.0  # seconds
RELOAD_TIMEOUT = 120.0
PATIENCE = 15.0  # seconds, for the look of somebody else
SETTLE = 0.1  # seconds, until what was just seen is counted


class Explained(NamedTuple):
    """What follows for a rule, by its name; and what the daemon saw, if it looked."""

    rule: str
    findings: list[Finding]
    look: Look | None = None


def of_file(name: str, file: Path) -> Explained:
    """What follows for a rule of this file, without a daemon. Raises ControlError."""
    try:
        found = config.load(file)
    except config.ConfigError as error:
        raise ControlError(*map(str, error.problems)) from None
    try:
        found = expand(found, links())
    except OSError as error:
        raise ControlError(f"cannot query this host: {words(error)}") from None
    names = called(name, found.rules)
    if not names:
        raise ControlError(f"there is no rule {name!r} in {file}")
    warnings = [line for line in found.warnings if is_about(line, written(name))]
    rule = found.rules[_the_one(name, names)]
    host = _of_host(rule)
    evidence = Evidence(rule_here(rule, host.links), host, warnings=warnings)
    return Explained(rule.name, explain(evidence))


def of_daemon(name: str, control: Path, seconds: float) -> Explained:
    """What follows for a rule that a daemon has; it looks for so many seconds.

    Raises ControlError.
    """
    status = fetch(control, Status, TIMEOUT)
    if status.network_namespace not in (None, network_namespace()):
        pid = peer(control)
        where = f"nsenter -t {pid} -n" if pid else "in its container:"
        raise ControlError(
            "mcrd runs in another network namespace, whose interfaces are not visible here:"
            f" `{where} mcrctl --control {shlex.quote(str(control))} explain {shlex.quote(name)}`"
        )
    running = _asked(control, OneRule, name)
    if isinstance(running, OneRule):  # else it may be new in the file
        name = _the_one(name, list(running.rules))  # with its interface, if it has a pattern
    daemon = _differences(name, control, Daemon(None, status.config, status.pending))
    if isinstance(running, ControlError):
        if not daemon.refused and not daemon.changed:
            raise running
        return Explained(name, list(disk(daemon, name)))
    state = running.rules[name]
    rule = rule_of(name, state)
    before = fetch(control, Stats, TIMEOUT, name=name)
    stopped = _stopped(before)
    look, error = _look(control, name, seconds)
    time.sleep(SETTLE)
    after = fetch(control, Stats, TIMEOUT, name=name)
    daemon = replace(
        daemon, state=state, before=before, after=after, stopped=stopped | _stopped(after)
    )
    # The kernel's own routing would check the route back to these.
    sources = {kind.source for kind in sort(rule.input, look.kinds).good} if look else ()
    host = _of_host(rule, sorted(sources))
    here = rule_here(rule, host.links)
    host = _beside(name, control, here, host)
    evidence = Evidence(here, host, daemon, look, error, running.warnings)
    return Explained(name, explain(evidence), look)


def _asked(
    control: Path, kind: type[Kind], name: str, timeout: float = TIMEOUT, **arguments: float
) -> Kind | ControlError:
    """The answer about a rule, or why it is refused."""
    try:
        return fetch(control, kind, timeout, name=name, **arguments)
    except NoAnswerError:
        raise
    except ControlError as error:
        return error


def _the_one(name: str, found: Sequence[str]) -> str:
    if len(found) > 1:
        raise ControlError(several(name, found))
    return found[0]


def _of_host(rule: Rule, sources: Iterable[str] = ()) -> Host:
    try:
        return gather(rule, sources)
    except OSError as error:
        raise ControlError(f"cannot query this host: {words(error)}") from None


def _beside(name: str, control: Path, here: Rule, host: Host) -> Host:
    """With who else relays the rule; of a daemon of another version, nobody was asked."""
    this = ThisHost()
    host = replace(host, listeners=tuple(listeners(this, here, peer(control))))
    said = _asked(control, Others, name)
    if isinstance(said, ControlError):
        return host
    return replace(host, parties=tuple(parties(this, said.twice)), unseen=tuple(said.unseen))


def _differences(name: str, control: Path, daemon: Daemon) -> Daemon:
    """With why the file is refused, or what it now says about the rule."""
    found = fetch(control, Diff, RELOAD_TIMEOUT, name=name)
    if found.refused:
        return replace(daemon, refused=tuple(found.refused))
    if name in found.added:
        return replace(daemon, changed=("the rule is new",))
    if name in found.removed:
        return replace(daemon, changed=("the rule is no longer there",), removed=True)
    return replace(daemon, changed=tuple(found.changed.get(name, ())))


def _look(control: Path, name: str, seconds: float) -> tuple[Look | None, str]:
    """What arrives at the interface; or None, and why that is unknown."""
    until = time.monotonic() + PATIENCE
    while True:
        found = _asked(control, Look, name, seconds + TIMEOUT, seconds=seconds)
        if isinstance(found, Look):
            return found, ""
        if not str(found).startswith("busy: ") or time.monotonic() > until:
            return None, str(found)
        time.sleep(0.3)


def _stopped(stats: Stats) -> frozenset[int]:
    """The workers that a signal stopped (proc(5), stat); none that have ended."""
    pids = [worker.pid for worker in stats.workers]
    stats_of = {pid: "".join(ThisHost().lines(f"proc/{pid}/stat")) for pid in pids}
    states = {pid: text.rpartition(")")[2].split()[:1] for pid, text in stats_of.items()}
    return frozenset(pid for pid, state in states.items() if state in (["T"], ["t"]))
