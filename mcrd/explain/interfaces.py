"""An interface, as the first stage of the input and of each output. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator

from mcrd.explain.evidence import Evidence, Finding
from mcrd.resources import Link


def interface(evidence: Evidence) -> Iterator[Finding]:
    """Whether the input interface is there and up."""
    name = evidence.rule.input.interface
    yield from link("interface", name, evidence.host.links.get(name))


def link(stage: str, name: str, found: Link | None, output: int | None = None) -> Iterator[Finding]:
    """One interface."""
    if found is None:
        text, remedy = f"there is no interface {name}", "`ip -br link` lists those that there are"
        yield Finding(stage, "missing", "no", text, remedy, output)
    elif not found.up:
        remedy = f"`ip link set {name} up`"
        yield Finding(stage, "down", "no", f"{name} is down", remedy, output)
    elif not found.carrier:
        remedy = "the cable, the switch port, or the other end; of a tunnel, the program of it"
        yield Finding(stage, "carrier", "no", f"{name} has no carrier", remedy, output)
    else:
        yield Finding(stage, "link", "yes", f"{name} is up, MTU {found.mtu}", "", output)
