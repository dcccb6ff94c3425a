"""Rules that somebody else carries out too, so that receivers get each packet twice. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping

from mcrd.addresses import allows, covers, has_port
from mcrd.answers import Twice
from mcrd.beside.sight import Route, Sender, Sight
from mcrd.model import Address, Network, Output, PortRange, Rule
from mcrd.planning.broadcast import destination
from mcrd.planning.links import Link, source_of


def twice(rules: Iterable[Rule], links: Mapping[str, Link], sight: Sight) -> Iterator[Twice]:
    """Doubles among enabled rules, with the interfaces' own names."""
    rings: dict[int, list[int]] = {}
    uids = {ring.index: ring.uid for ring in sight.rings}
    for ring in sight.rings:
        rings.setdefault(ring.index, []).append(ring.inode)
    routes: dict[int, list[Route]] = {}
    for route in sight.routes:
        routes.setdefault(route.came, []).append(route)
    if not rings and not routes:
        return
    own = frozenset(address.ip for link in links.values() for address in link.addresses)
    for rule in rules:
        link = links.get(rule.input.interface)
        if link is None or not rule.enabled:
            continue
        if link.index in rings:
            found = {
                at: inodes
                for at, output in enumerate(rule.outputs)
                if output.interface is None or output.interface in links
                if (inodes := tuple(_sockets(output, links, own, sight)))
            }
            if found:
                inodes = (*rings[link.index], *(i for some in found.values() for i in some))
                yield Twice(rule.name, "mcrd", tuple(found), inodes, uids[link.index])
        yield from _routed(rule, links, routes.get(link.index, ()))


def _sockets(
    output: Output, links: Mapping[str, Link], own: Container[Address], sight: Sight
) -> Iterator[int]:
    """Others' sockets that are connected to where the output sends; the source tells the interface.

    A source that is none of this host is one that is kept. Where the routes lead they lead for all.
    """
    link = links[output.interface] if output.interface is not None else None
    here = {address.ip for address in link.addresses} if link is not None else own
    to = output.address if link is None else destination(output, link, source_of(output, link))
    for sender in _senders(to, output.port, sight):
        if sender.source in here or sender.source not in own:
            yield sender.inode


def _senders(to: Address | Network, ports: int | PortRange, sight: Sight) -> Iterator[Sender]:
    if isinstance(to, Address) and isinstance(ports, int):
        yield from sight.sent.get((to, ports), ())
        return
    for (address, port), senders in sight.sent.items():
        if covers(to, address) and has_port(ports, port):
            yield from senders


def _routed(rule: Rule, links: Mapping[str, Link], routes: Iterable[Route]) -> Iterator[Twice]:
    """Routes of the kernel that send the same; it keeps group and port, so outputs must do so."""
    given = rule.input
    if given.vlan is not None:  # these frames do not come from this interface, for the kernel
        return
    same = {
        links[output.interface].index: at
        for at, output in enumerate(rule.outputs)
        if output.interface is not None
        and output.interface in links
        and (output.address, output.port) == (given.address, given.port)
    }
    for route in routes if same else ():
        takes = route.source is None or allows(given, route.source)
        if not takes or not covers(given.address, route.group):
            continue
        outputs = tuple(sorted(at for index, at in same.items() if index in route.leaves))
        if outputs:
            yield Twice(rule.name, "kernel", outputs, group=str(route.group))
            return
