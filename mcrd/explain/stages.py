"""All stages in their order, and the answer: the first of them that says no. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mcrd.addresses import first_address, where
from mcrd.explain.evidence import Daemon, Evidence, Finding, is_active
from mcrd.explain.group import group
from mcrd.explain.interfaces import link
from mcrd.explain.outputs import outputs
from mcrd.explain.rulefile import file
from mcrd.explain.seen import frames
from mcrd.explain.taken import grown, is_slow, taken
from mcrd.planning.outlets import ONLY_OTHERS

TWICE = "twice"


def explain(evidence: Evidence) -> list[Finding]:
    """The findings of each stage, from the file to the outputs."""
    came = bool(evidence.seen.good) or grown(evidence) > 0 or is_slow(evidence)
    first = list(file(evidence))
    rest = [
        *link("interface", evidence.rule.input.interface, evidence.host),
        *group(evidence, came),
        *frames(evidence),
        *taken(evidence),
        *outputs(evidence),
        *_kernel(evidence),
        *_beside(evidence),
    ]
    if evidence.daemon is not None:
        first += _state(evidence.daemon, rest)
    return first + rest


def answer(findings: Sequence[Finding]) -> Finding | None:
    """The first finding that says no, which is where the packet ends."""
    return next((finding for finding in findings if finding.answer == "no"), None)


def _state(daemon: Daemon, rest: Sequence[Finding]) -> Iterator[Finding]:
    """The state of the rule: no, unless another stage says more about it."""
    if daemon.state is None:
        return
    state, reason = daemon.state.state, daemon.state.reason
    if state == "active":
        yield Finding("file", "state", "yes", "the rule is active")
    elif state != "disabled":
        causes = ("missing", "down", "carrier", "address", "route", "neighbour")
        told = any(f.answer == "no" and f.topic in causes for f in rest)
        text = f"the rule is {state}: {reason}"
        remedy = "" if told else "mcrd(8) explains the reasons; mcrd tries again by itself"
        if state == "standby":
            remedy = "see the host that relays it; `mcrctl active` has this one relay (mcrctl(1))"
        if state == "idle":
            remedy = (
                "join there; `mcrctl members` shows who has, and who asks: a switch may show"
                " reports to that one alone, a Linux bridge those of IGMPv2 and MLDv1"
                " (`when` in mcr.toml(5))"
            )
            if ONLY_OTHERS in (reason or ""):
                remedy = (
                    '`source` of the output ("keep": that of each packet), or of the receiver;'
                    " `mcrctl members` shows what is wanted"
                )
        yield Finding("file", "state", "note" if told else "no", text, remedy)


def _kernel(evidence: Evidence) -> Iterator[Finding]:
    """What the kernel's own multicast routing would have done, for comparison."""
    host, name = evidence.host, evidence.rule.input.interface
    if not first_address(evidence.rule.input.address).is_multicast:
        return
    strict = f", rp_filter is {host.reverse_filter}" if host.reverse_filter is not None else ""
    for source, back in host.back.items():
        over = f"leads over {back}" if back else "is not known"
        text = f"the route back to {source} {over}"
        if back == name:
            text += f": the kernel could route this{strict}"
        else:
            text += f", and not over {name}: the kernel's own multicast routing would drop it"
            text += f"{strict}; mcrd does not need it"
        yield Finding("kernel", "reverse_path", "note", text)


def _beside(evidence: Evidence) -> Iterator[Finding]:
    """Who else relays it; none without a daemon, or if the rule does not run."""
    host, rule = evidence.host, evidence.rule
    for party in host.parties or ():
        at = sorted({at for one in party.found for at in one.outputs if at < len(rule.outputs)})
        to = ", ".join(where(rule.outputs[at]) for at in at)
        text = f"{party.text}, sends the same to {to}: receivers get each packet twice"
        yield Finding("beside", TWICE, "note", text, party.remedy)
    for listener in host.listeners:
        if listener.relays:
            text = f"{listener.who} {listener.relays}: {listener.protocol} is relayed twice"
            yield Finding("beside", TWICE, "note", text, listener.remedy)
        else:
            text = f"{listener.who} listens for {listener.protocol} here too; this does no harm"
            yield Finding("beside", "listener", "note", text)
    for what in host.unseen:
        yield Finding("beside", "unseen", "unknown", f"cannot find out who else relays it: {what}")
    alone = host.parties == () and not any(listener.relays for listener in host.listeners)
    if alone and not host.unseen and is_active(evidence):
        text = "no other mcrd and no route of the kernel sends the same"
        yield Finding("beside", "alone", "yes", text)
