"""An interface, as the first stage of the input and of each output. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator

from mcrd.explain.evidence import Finding, Host
from mcrd.model import is_pattern
from mcrd.planning.patterns import missing


def link(stage: str, name: str, host: Host, output: int | None = None) -> Iterator[Finding]:
    """Whether an interface is there and up."""
    found, told = host.links.get(name), called(name, host)
    if found is None:
        text = missing(name, host.links) if is_pattern(name) else f"there is no interface {name}"
        remedy = "`ip link` lists the interfaces and their other names"
        yield Finding(stage, "missing", "no", text, remedy, output)
    elif not found.up:
        remedy = f"`ip link set {name} up`"
        yield Finding(stage, "down", "no", f"{told} is down", remedy, output)
    elif not found.carrier:
        remedy = "check the cable, the switch port or the other end; for a tunnel, its program"
        yield Finding(stage, "carrier", "no", f"{told} has no carrier", remedy, output)
    else:
        yield Finding(stage, "link", "yes", f"{told} is up, MTU {found.mtu}", "", output)


def called(name: str, host: Host) -> str:
    """An interface's own name, with that of the rule file beside it where it is another one."""
    return f"{name} (altname {host.called[name]})" if name in host.called else name
