"""The first stage: whether the rule runs as it is written. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex
from collections.abc import Iterator

from mcrd.config.problems import is_about
from mcrd.explain.evidence import NO_DAEMON, TOLD, Daemon, Evidence, Finding
from mcrd.planning.names import written
from mcrd.words import few

MORE = ("; and {} more", "; ")
OF_NO_EFFECT = ("description",)  # keys that change nothing of the path


def file(evidence: Evidence) -> Iterator[Finding]:
    """Whether the rule runs as it is written."""
    rule, daemon = evidence.rule, evidence.daemon
    place = f" in {rule.place}" if rule.place else ""
    if daemon is not None:
        yield from disk(daemon, rule.name)
    if not rule.enabled:
        remedy = "set enabled = true, or remove the line, and reload"
        yield Finding("file", "disabled", "no", f"the rule is disabled{place}", remedy)
    else:
        yield Finding("file", "enabled", "yes", f"the rule is enabled{place}")
        if daemon is None:
            yield Finding("file", "state", "unknown", NO_DAEMON)
        elif daemon.pending:
            yield Finding("file", "pending", "note", "a plan is being applied just now; ask again")
    for warning in evidence.warnings:
        yield Finding("file", "warning", "note", warning)


def disk(daemon: Daemon, name: str) -> Iterator[Finding]:
    """Whether the file is what runs. Errors in other rules are only a note."""
    path = shlex.quote(daemon.config)
    if daemon.refused:
        own = [line for line in daemon.refused if is_about(line, written(name))]
        concerns = own or not all("rules." in line or "reflect." in line for line in daemon.refused)
        text = f"{daemon.config} is refused, and the rules from before still run: "
        remedy = f"repair it; `mcrctl check {path}` shows each problem"
        some = few(own or daemon.refused, TOLD, *MORE)
        yield Finding("file", "refused", "no" if concerns else "note", text + some, remedy)
    elif daemon.changed:
        text = f"{daemon.config} has changed since it was read: {few(daemon.changed, TOLD, *MORE)}"
        matters = not all(line.startswith(OF_NO_EFFECT) for line in daemon.changed)
        remedy = "`mcrctl reload` applies it"
        if daemon.removed:
            remedy = "`mcrctl reload` ends this rule; to keep it, put it back"
        yield Finding("file", "not_loaded", "no" if matters else "note", text, remedy)
    else:
        yield Finding("file", "loaded", "yes", f"what runs is what {daemon.config} says")
