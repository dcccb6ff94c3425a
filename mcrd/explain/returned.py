"""What came back for the packets of an output: ICMP, in words. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address

from mcrd.addresses import endpoint, is_to
from mcrd.events import counted
from mcrd.explain.evidence import TOLD, Evidence, Finding, Host, Say, ago
from mcrd.looks import Look, Returned
from mcrd.model import Output

RECENT = 4.0  # seconds: routers send one such error in a second, or fewer
_NO_WAY = "check the routes there: it has no route, or the host does not answer it"
_FILTER = "a firewall there rejects it: let it pass"
_PORT = "nobody listens on that port there, or a firewall says so"
_TTL = "`ttl` of the output: one more than there are routers on the path; or a routing loop"
_PARTS = "a fragment is lost on the path: let the source send smaller packets"
_LARGE = "let the source send smaller packets, or enlarge the MTU on the path"
ERRORS: Mapping[int, Sequence[tuple[Sequence[tuple[int, int]], str, str]]] = {
    4: (
        (((3, 0), (3, 1), (3, 6), (3, 7), (3, 11), (3, 12)), "unreachable", _NO_WAY),
        (((3, 2), (3, 3)), "nobody listens there", _PORT),
        (((3, 4),), "too large, and not to be fragmented", _LARGE),
        (((3, 9), (3, 10), (3, 13)), "prohibited", _FILTER),
        (((11, 0),), "its TTL has run out", _TTL),
        (((11, 1),), "fragments are missing", _PARTS),
    ),
    6: (
        (((1, 0), (1, 2), (1, 3)), "unreachable", _NO_WAY),
        (((1, 4), (4, 1)), "nobody listens there", _PORT),
        (((2, 0),), "too large", _LARGE),
        (((1, 1), (1, 5), (1, 6)), "prohibited", _FILTER),
        (((3, 0),), "its hop limit has run out", _TTL),
        (((3, 1),), "fragments are missing", _PARTS),
    ),
}


def returned(
    evidence: Evidence, say: Say, output: Output, refused: int, before: int
) -> Iterator[Finding]:
    """What came back: as heard, or else as the kernel told the worker (`refused`, and `before`)."""
    look = evidence.look or Look()
    about = _about(look, evidence.host, output, evidence.rule.input.protocol)
    heard = [error for error in about if error.ago_s <= look.seconds + RECENT]
    for error in heard[:TOLD]:
        to = endpoint(ip_address(error.destination), error.port)
        words, remedy = _words(output.address.version, error.type, error.code)
        yield say("refused", "no", f"{error.host} answers for {to}, by ICMP: {words}", remedy)
    if refused > before and not heard:
        to = endpoint(output.address, output.port)
        text = f"{counted(refused - before, 'ICMP error')} came back for {to}"
        remedy = "nobody listens on that port there, or a firewall or router rejects it"
        yield say("refused", "no", text, remedy)
    elif refused and not heard:
        if about:
            last = about[0]
            words, remedy = _words(output.address.version, last.type, last.code)
            text = f"{last.host} answered, by ICMP, {ago(last.ago_s)} ago: {words}"
            yield say("refused", "note", text, remedy)
        else:
            text = f"{counted(refused, 'ICMP error')} came back before, but none meanwhile"
            yield say("refused", "note", text)


def _about(look: Look, host: Host, output: Output, protocol: str) -> list[Returned]:
    """Errors about what this output sends, the last one first.

    Of packets that this host sent, for anybody can claim to answer. Its own errors say that nobody
    answers ARP, which is a stage of its own.
    """
    own = {str(address.ip) for link in host.links.values() for address in link.addresses}
    return [
        error
        for error in look.returned
        if error.host not in own
        and error.protocol == protocol
        and (error.source in own or output.source == "keep")
        and is_to(output, ip_address(error.destination), error.port)
    ]


def _words(version: int, kind: int, code: int) -> tuple[str, str]:
    """What an error says (RFC 792, 1812, 4443), and what to do."""
    for codes, words, remedy in ERRORS[version]:
        if (kind, code) in codes:
            return words, remedy
    return f"type {kind}, code {code}", "RFC 792 or RFC 4443 has the meaning"
