"""All stages in their order, and the answer: the first of them that says no. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mcrd.addresses import first_address
from mcrd.explain.beside import beside
from mcrd.explain.evidence import Daemon, Evidence, Finding
from mcrd.explain.group import group
from mcrd.explain.interfaces import interface
from mcrd.explain.outputs import outputs
from mcrd.explain.rulefile import file
from mcrd.explain.seen import frames
from mcrd.explain.taken import grown, is_slow, taken


def explain(evidence: Evidence) -> list[Finding]:
    """The findings of each stage, from the file to the outputs."""
    came = bool(evidence.seen.good) or grown(evidence) > 0 or is_slow(evidence)
    first = list(file(evidence))
    rest = [
        *interface(evidence),
        *group(evidence, came),
        *frames(evidence),
        *taken(evidence),
        *outputs(evidence),
        *_kernel(evidence),
        *beside(evidence),
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
        yield Finding("file", "state", "note" if told else "no", text, remedy)


def _kernel(evidence: Evidence) -> Iterator[Finding]:
    """What the kernel's own multicast routing would have done, for comparison."""
    host, name = evidence.host, evidence.rule.input.interface
    if not first_address(evidence.rule.input.address).is_multicast:
        return
    strict = f", rp_filter is {host.reverse_filter}" if host.reverse_filter is not None else ""
    for source, back in host.back.items():
        over = f"leads over {back}" if back else "is not known"
        text = f"the way back to {source} {over}"
        if back == name:
            text += f": the kernel could route this{strict}"
        else:
            text += f", and not over {name}: the kernel's own multicast routing would drop it"
            text += f"{strict}; mcrd does not need it"
        yield Finding("kernel", "reverse_path", "note", text)
