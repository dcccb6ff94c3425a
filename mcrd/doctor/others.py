"""Other programs that take the same packets, which is none, and that relay them, which is one."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from mcrd.addresses import covers, endpoint, has_port
from mcrd.beside import discovery
from mcrd.beside.sight import Bound, bound, look
from mcrd.beside.twice import twice
from mcrd.beside.who import parties, router
from mcrd.doctor.demand import Demand
from mcrd.doctor.finding import Finding, unreadable
from mcrd.host.procfs import NET, Host, Running
from mcrd.model import Input
from mcrd.planning.links import Link
from mcrd.words import few

SHOWN, OTHERS = 8, ", and others"  # programs, or rules, in one line


def programs(host: Host, running: Running, demand: Demand) -> Finding:
    """Sockets that get what a rule takes; the name of a program only where it can be had."""
    check = "other programs"
    tables = [name for name in ("udp", "udp6") if host.exists(f"{NET}/{name}")]
    if not tables:
        return unreadable(check, f"/{NET}/udp", "not there")
    inputs = _by_port(demand)
    takers = [
        entry
        for name in tables
        for entry in bound(host.net(name))
        if _meets(entry, (*inputs.get(entry.port, ()), *inputs.get(None, ())))
    ]
    holders = host.holders() if takers else {}
    shown: dict[str, None] = {}
    for entry in takers:
        pid = next(reversed(holders.get(entry.inode, ())), None)
        if running.pid is not None and pid == running.pid:
            continue
        if pid is None and running.uid == entry.uid:
            continue  # most likely a port that the daemon holds
        who = f"a program of uid {entry.uid}" if pid is None else f"{host.program(pid)} ({pid})"
        shown[f"{who} at {endpoint(entry.address, entry.port)}"] = None
    if not shown:
        return Finding(check, "ok", "none on the ports of the inputs")
    why = "no harm: mcrd takes packets below the IP stack, and these get them as well"
    return Finding(check, "ok", few(list(shown), SHOWN, OTHERS), why)


def _by_port(demand: Demand) -> dict[int | None, list[Input]]:
    """Inputs by their only port; None: by several. Outputs are thousands of sockets, too."""
    found: dict[int | None, list[Input]] = {}
    for rule in demand.rules():
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


def relays(
    host: Host, running: Running, demand: Demand, links: Mapping[str, Link]
) -> list[Finding]:
    """Another mcrd, or the kernel's own routing, that does what a rule does; and reflectors.

    The rules have the interfaces' own names. What the daemon says is exact: it knows its sockets.
    """
    check, why = "other relays", "receivers get each packet twice"
    found: list[Finding] = []
    if running.others is not None:
        these, unseen = running.others.twice, running.others.unseen
    elif running.status is None:
        seen = look()
        these, unseen = list(twice(demand.rules(), links, seen)), list(seen.unseen)
    else:
        return [Finding(check, "unknown", "the daemon is of another version, and does not tell")]
    for party in parties(host, these):
        value = f"{party.text}: the same as "
        value += few([f"rules.{name}" for name in party.rules], SHOWN, OTHERS)
        if running.status is None and party.found[0].by == "mcrd":
            both = "with a second one, receivers would get each packet twice"
            here = f"no daemon answers here; {both}"
            found.append(Finding(check, "unknown", value, here, party.remedy))
        else:
            found.append(Finding(check, "trouble", value, why, party.remedy))
    for name, listener in _reflectors(host, running, demand):
        value = f"{listener.who} {listener.relays}, as rules.{name} does"
        found.append(Finding(check, "trouble", value, why, listener.remedy))
    if unseen:
        found.append(Finding(check, "unknown", f"cannot find out: {'; '.join(unseen)}"))
    return found or [Finding(check, "ok", "no other mcrd and no route of the kernel does the same")]


def _reflectors(
    host: Host, running: Running, demand: Demand
) -> list[tuple[str, discovery.Listener]]:
    """Each once, with the first rule that it does the work of."""
    found: dict[str, tuple[str, discovery.Listener]] = {}
    holders = cache(host.holders)
    for rule in demand.rules():
        for listener in discovery.listeners(host, rule, running.pid, holders):
            if listener.relays:
                found.setdefault(listener.who, (rule.name, listener))
    return list(found.values())


def routers(host: Host) -> Finding:
    """Interfaces of the kernel's own multicast routing, which some daemon has to have asked for."""
    check = "multicast routing"
    tables = {4: host.net("ip_mr_vif"), 6: host.net("ip6_mr_vif")}
    found = [line.split() for lines in tables.values() for line in lines]
    names = ", ".join(dict.fromkeys(words[1] for words in found if len(words) > 1))
    if not names:
        return Finding(check, "ok", "the kernel does none")
    holders = host.holders()
    who = [router(host, holders, version)[0] for version, lines in tables.items() if lines]
    why = "what its routes and a rule both send arrives twice: see other relays, in this list"
    value = f"the kernel routes between {names}, for {' and '.join(dict.fromkeys(who))}"
    return Finding(check, "ok", value, why)
