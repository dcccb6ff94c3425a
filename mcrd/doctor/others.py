"""Other programs that take the same packets. None is a trouble: mcrd takes them below."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mcrd.doctor.finding import Finding, unreadable
from mcrd.doctor.host import NET, Host, Running
from mcrd.doctor.needs import Needs
from mcrd.model import Address, Input
from mcrd.resources import covers, endpoint, has_port

SHOWN = 8  # programs in one line


class Bound(NamedTuple):
    """A UDP socket that has a port."""

    address: Address
    port: int
    uid: int
    inode: int


def programs(host: Host, running: Running, needs: Needs) -> Finding:
    """Sockets that get what a rule takes; the name of a program only where it can be had."""
    check = "other programs"
    tables = [name for name in ("udp", "udp6") if host.exists(f"{NET}/{name}")]
    if not tables:
        return unreadable(check, f"/{NET}/udp", "not there")
    inputs = _by_port(needs)
    bound = [
        entry
        for name in tables
        for entry in _bound(host.lines(f"{NET}/{name}")[1:])
        if _meets(entry, (*inputs.get(entry.port, ()), *inputs.get(None, ())))
    ]
    if not bound:
        return Finding(check, "ok", "none on the ports of the inputs")
    owners = host.sockets()
    shown: dict[str, None] = {}
    for entry in bound:
        pid = owners.get(entry.inode)
        if running.pid is not None and pid == running.pid:
            continue
        if pid is None and running.uid == entry.uid:
            continue  # most likely a port that the daemon holds
        who = f"a program of uid {entry.uid}" if pid is None else f"{host.program(pid)} ({pid})"
        shown[f"{who} at {endpoint(entry.address, entry.port)}"] = None
    if not shown:
        return Finding(check, "ok", "none on the ports of the inputs")
    names = [*list(shown)[:SHOWN], *(["and others"] if len(shown) > SHOWN else [])]
    why = "no harm: mcrd takes packets below the IP stack, and these get them as well"
    return Finding(check, "ok", ", ".join(names), why)


def _bound(lines: list[str]) -> Iterator[Bound]:
    for line in lines:
        fields = line.split()
        try:
            address, _, port = fields[1].partition(":")
            yield Bound(_address(address), int(port, 16), int(fields[7]), int(fields[9]))
        except (IndexError, ValueError):
            continue


def _address(text: str) -> Address:
    """The kernel writes each word as a number of its own byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(packed) == 4:
        return IPv4Address(packed)
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _by_port(needs: Needs) -> dict[int | None, list[Input]]:
    """Inputs by their only port; None: by several. Outputs are thousands of sockets, too."""
    found: dict[int | None, list[Input]] = {}
    for rule in needs.rules():
        port = rule.input.port
        if rule.input.protocol == "udp":
            found.setdefault(port if isinstance(port, int) else None, []).append(rule.input)
    return found


def _meets(entry: Bound, inputs: Iterable[Input]) -> bool:
    every = entry.address.is_unspecified
    return any(
        has_port(given.port, entry.port)
        and (
            (every and entry.address.version >= given.address.version)
            or covers(given.address, entry.address)
        )
        for given in inputs
    )


def routers(host: Host) -> Finding:
    """Interfaces of the kernel's own multicast routing, which some daemon has to have asked for."""
    check = "multicast routing"
    found = []
    for name in ("ip_mr_vif", "ip6_mr_vif"):
        found += [
            line.split()[1] for line in host.lines(f"{NET}/{name}")[1:] if len(line.split()) > 1
        ]
    if not found:
        return Finding(check, "ok", "the kernel does none")
    names = ", ".join(dict.fromkeys(found))
    why = "a router such as smcroute or pimd runs: what it and a rule both send comes twice"
    return Finding(check, "ok", f"the kernel routes between {names}", why)
