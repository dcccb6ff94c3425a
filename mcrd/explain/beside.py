"""Who else relays it: another mcrd, the kernel, a reflector; then receivers get it twice. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator

from mcrd.addresses import where
from mcrd.explain.evidence import Evidence, Finding, is_active

STAGE, TWICE = "beside", "twice"


def beside(evidence: Evidence) -> Iterator[Finding]:
    """The findings; none without a daemon, or if the rule does not run."""
    host, rule = evidence.host, evidence.rule
    for party in host.parties or ():
        at = sorted({at for one in party.found for at in one.outputs if at < len(rule.outputs)})
        to = ", ".join(where(rule.outputs[at]) for at in at)
        text = f"{party.text}, sends the same to {to}: receivers get each packet twice"
        yield Finding(STAGE, TWICE, "note", text, party.remedy)
    for listener in host.listeners:
        if listener.relays:
            text = f"{listener.who} {listener.relays}: {listener.protocol} is relayed twice"
            yield Finding(STAGE, TWICE, "note", text, listener.remedy)
        else:
            text = f"{listener.who} listens for {listener.protocol} here too; this does no harm"
            yield Finding(STAGE, "listener", "note", text)
    for what in host.unseen:
        yield Finding(STAGE, "unseen", "unknown", f"cannot find out who else relays it: {what}")
    alone = host.parties == () and not any(listener.relays for listener in host.listeners)
    if alone and not host.unseen and is_active(evidence):
        text = "no other mcrd and no route of the kernel sends the same"
        yield Finding(STAGE, "alone", "yes", text)
