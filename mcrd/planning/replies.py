"""Askers: the sockets of one, and where what they are counted by stands. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mcrd.addresses import Target, target
from mcrd.model import Address, Output, Rule
from mcrd.planning.links import Link, nearest
from mcrd.planning.resources import Egress, Replies, Sending

ASKERS_AT_MOST = 1024  # of one rule in one worker: each takes a port, and three sockets
TTL = 64
"""Of answers, or that of the output where it is larger. RFC 6762, section 11 wants 255 of mDNS."""


def answers(called: Target) -> Target:
    """What the answers to an output are counted by: no interface has a slash in its name."""
    return (f"/{called[0]}", *called[1:])


def counted_by(rule: Rule) -> Iterator[Target]:
    """What the outputs of a rule are counted by, and their answers."""
    for output in rule.outputs:
        yield (called := target(output))
        if output.replies is not None:
            yield answers(called)


def replies_to(output: Output, link: Link, version: int) -> Replies | None:
    """How askers on this interface are answered; None: it has no address of that version."""
    found = tuple(address for address in link.addresses if address.version == version)
    if output.replies is None or not found:
        return None
    keeps, port = output.keeps_answerer, output.source_port
    return Replies(output.replies, link.name, link.index, found, port, keeps)


def sockets_of(egress: Egress) -> tuple[Egress, ...]:
    """The egress itself; of an asker also what hears the answers, and what sends them."""
    return (egress, ear(egress), back(egress)) if _asks(egress) else (egress,)


def answerer(egress: Egress, source: Address, port: int) -> Egress:
    """What sends the answers of one host to who asked, from that host's address and port."""
    back_to = back(egress)
    how = replace(back_to.sending, source=source, source_port=port)
    return replace(back_to, sending=how, transparent=True)


def belongs(one: Egress, egress: Egress) -> bool:
    """Whether it is one of the sockets of an asker, whose packets `egress` sends."""
    if one.transparent and is_answer(one):
        return _asks(egress) and one == answerer(egress, one.source, one.sending.source_port or 0)
    return one in sockets_of(egress)


def _asks(egress: Egress) -> bool:
    """Whether it is the socket of an asker, to whom answers go back."""
    return egress.sending.replies is not None and egress.heard is not None


def is_answer(egress: Egress) -> bool:
    """Whether it sends answers."""
    return egress.target[0].startswith("/")


def receives(egress: Egress) -> bool:
    """Whether answers come to the socket: an asked host's own come to the one that asked it."""
    asks = egress.sending.replies is not None
    return asks and (egress.hears or not egress.address.is_multicast)


def ear(egress: Egress) -> Egress:
    """What receives answers that come from another address or port than was asked."""
    return replace(egress, hears=True)


def back(egress: Egress) -> Egress:
    """What sends answers to who asked."""
    sending, heard = egress.sending, egress.heard
    replies = sending.replies
    assert replies is not None
    assert heard is not None
    address, port = heard
    source = nearest(address, replies.sources)
    how = Sending(
        *(replies.interface, replies.index, source),
        ttl=max(TTL, sending.ttl),
        dscp=sending.dscp,
        source_port=replies.port,
    )
    called = answers(egress.target)
    return Egress(egress.worker, egress.rule, how, address, port, of=called, heard=heard)
