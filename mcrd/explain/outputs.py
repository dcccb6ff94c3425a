"""The stages of an output: interface, address, route, neighbour, size, TTL, errors, sent. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from mcrd.addresses import first_address, is_asked_for, is_of_link, target
from mcrd.counters import AnswerCounts, OutputCounts
from mcrd.explain.evidence import Evidence, Finding, Say, Way, is_active
from mcrd.explain.interfaces import called, link
from mcrd.explain.receivers import receivers
from mcrd.explain.returned import returned
from mcrd.explain.taken import grown, more
from mcrd.model import Address, HostName, Output
from mcrd.planning.broadcast import destination, is_broadcast
from mcrd.planning.doubts import doubt
from mcrd.planning.links import Link, source_of
from mcrd.words import unsent_for

HEADERS = {4: 20, 6: 40}  # of IP
STAGE = "output"
REMEDIES = {
    "EPERM": "an output rule of this host's firewall drops it: `nft list ruleset`",
    "EACCES": "a route of the kind `prohibit`, or the firewall: `ip route`, `nft list ruleset`",
    "EAGAIN": "the interface is too slow, or the host or router does not answer ARP",
    "ENOBUFS": "the queue of the interface is full: its speed, `txqueuelen`, `tc -s qdisc`; or a"
    " firewall at egress of the interface drops it: `nft list ruleset`",
    "EMSGSIZE": "larger than a datagram may be on this path: smaller packets, or a larger MTU",
    "ENOKEY": "WireGuard has no peer whose AllowedIPs have this host",
    "EDESTADDRREQ": "WireGuard does not know the endpoint of the peer",
    "ENETUNREACH": "there is no route: `ip route get`",
    "EHOSTUNREACH": "the host or router does not answer ARP or neighbour discovery",
    "ENETDOWN": "the interface is down",
    "EADDRNOTAVAIL": "the address that it sends from has gone",
    "EINVAL": "the route is of a kind that nothing is sent to: `ip route get`",
}
ANSWERS = {
    "late": "`replies` of the output says how long answers are passed on",
    "lost": "more answers waited for one asker than it may have: 256 KiB",
    "new_member": "there was no socket for who answered: the log says why; 256 may answer an asker",
}
REFUSING = {"EINVAL": "blackhole", "EACCES": "prohibit", "EHOSTUNREACH": "unreachable"}
DROPS = {
    "rate_limited": ("were over the limit of the output", "`limit` of the output"),
    "new_member": (
        "waited in vain for a socket of their source or group, or could not wait",
        "`members` under [interfaces.NAME]; the log says why a socket could not be opened",
    ),
    "unreachable": ("could not reach the host", "the route, or the host: see above"),
    "crashed": ("were lost with a worker that crashed", "the log says how it ended"),
}
SKIPS = {
    "not_wanted": (
        "were not for this output, by their source, or as nobody has joined their group",
        "`sources` and `exclude` of the output; `mcrctl members` shows who has joined what",
    ),
    "not_sampled": ("were not in the sample of this output", "`sample` of the output"),
}


def outputs(evidence: Evidence) -> Iterator[Finding]:
    """Every output, in the order of the file."""
    for index, output in enumerate(evidence.rule.outputs):
        yield from _output(evidence, index, output)


def _output(evidence: Evidence, index: int, output: Output) -> Iterator[Finding]:
    host = evidence.host
    say = partial(Finding, STAGE, output=index)
    asked = output  # as in the file
    if isinstance(output.address, HostName):
        yield _without_address(evidence, say, output.address)
        return
    way = host.ways.get(index)
    if output.interface is None:
        if way is None or way.interface is None:
            yield from _way(say, way, output)
            yield from _counters(evidence, say, asked)
            return
        output = replace(output, interface=way.interface)
    name = output.interface or ""
    found = host.links.get(name)
    if found is None or not found.up or not found.carrier:
        yield from link(STAGE, name, host, index)
        return
    addressed = list(_address(say, output, found, routed=asked.interface is None))
    if addressed:
        yield from addressed
        return
    text = f"{called(name, host)} is up, with an IPv{output.address.version} address"
    yield say("link", "yes", text)
    source = source_of(output, found)
    if way is not None and asked.interface is None and asked.source != "keep":
        source = asked.source or way.source
    if doubted := doubt(output, found, source):
        yield say("carries", "unknown", doubted.reason, doubted.remedy)
    stages = list(_way(say, way, output))
    if is_broadcast(output.address, found):
        to = destination(output, found, source if isinstance(source, Address) else None)
        text = f"{to} is all hosts of the network on {output.interface}"
        stages = [say("route", "yes", text)]
    yield from stages
    if not any(finding.answer == "no" for finding in stages):
        yield from _ttl(say, way, output)
    mtu = way.mtu if way is not None and way.mtu else found.mtu
    yield from _size(evidence, say, output, min(mtu, found.mtu))
    yield from _counters(evidence, say, asked)
    if index in host.joined_here and not output.loop:
        text = f"this host has joined {output.address}, but does not receive what it sends itself"
        yield say("loop", "note", text, "`loop = true` in the output, if its programs are to")
    yield from receivers(evidence, say, index, output)


def _without_address(evidence: Evidence, say: Say, host: HostName) -> Finding:
    """A host by its name: the daemon alone knows its addresses, and has none now."""
    state = evidence.daemon.state if evidence.daemon is not None else None
    if state is None:
        return say("name", "unknown", f"the daemon alone knows the addresses of {host}")
    reasons = [each.reason for each in state.outputs if each.address == str(host)]
    text = (reasons and reasons[0]) or f"{host}: no address"
    remedy = f"`dig {host}`, and the servers of /etc/resolv.conf"
    return say("name", "no", text, remedy)


def _address(say: Say, output: Output, found: Link, *, routed: bool) -> Iterator[Finding]:
    own = [address for address in found.addresses if address.version == output.address.version]
    if output.source is None and not own:
        text = f"{output.interface} has no IPv{output.address.version} address to send from"
        remedy = f"`ip address add ADDRESS/LENGTH dev {output.interface}`"
        yield say("address", "no", text, remedy)
    elif not routed and output.source not in (None, "keep", *(a.ip for a in own)):
        text = f"{output.interface} does not have the address {output.source}"
        remedy = "`source` of the output, or `ip address add`"
        yield say("address", "no", text, remedy)


def _way(say: Say, way: Way | None, output: Output) -> Iterator[Finding]:
    """The route to a host, and whether the next one on it answers."""
    host = first_address(output.address)
    if way is None:
        return
    if way.error is not None:
        if way.error in REFUSING:
            text = f"a route of the type {REFUSING[way.error]} is in the way to {host}"
            remedy = f"`ip route get {host} fibmatch` shows it: that, or its `ip rule`, has to go"
        elif output.interface is None:
            text = f"there is no route to {host}"
            remedy = f"`ip route add {host} via ROUTER`, or look at the routing daemon"
        elif way.elsewhere is not None:
            text = f"the route to {host} leaves by {way.elsewhere}, and not by {output.interface}"
            remedy = (
                f'`interface = "{way.elsewhere}"` in the output; or leave the interface out, and'
                " the output follows the routes"
            )
        else:
            text = f"there is no route to {host} over {output.interface}"
            remedy = f"`ip route add {host} via ROUTER dev {output.interface}`"
        yield say("route", "no", text, remedy)
        return
    if way.local:
        text = f"{host} is an address of this host itself: it goes to a program here, if at all"
        yield say("route", "note", text)
        return
    by = f"by router {way.gateway}" if way.gateway else "directly"
    yield say("route", "yes", f"{host} is reached over {output.interface}, {by}")
    hop = way.gateway or host
    if way.neighbour in ("FAILED", "INCOMPLETE"):
        text = f"{hop} does not answer ARP or neighbour discovery ({way.neighbour})"
        remedy = f"is it there and on this network? `ip neighbour show dev {output.interface}`"
        yield say("neighbour", "no", text, remedy)
    elif way.neighbour is None:
        yield say(
            "neighbour",
            "unknown",
            f"nothing was sent to {hop} lately: whether it answers is not known",
        )
    elif way.neighbour != "NOARP":
        yield say("neighbour", "yes", f"{hop} is a known neighbour ({way.neighbour})")


def _ttl(say: Say, way: Way | None, output: Output) -> Iterator[Finding]:
    if output.ttl != 1:
        return
    if way is not None and way.gateway:
        text = f"ttl is 1, and {first_address(output.address)} is behind router {way.gateway}"
        yield say("ttl", "no", text, "ttl of the output: one more than there are routers")
        return
    first = first_address(output.address)
    # Routers would pass it on (RFC 5771, 4; RFC 4291, 2.7).
    if first.is_multicast and not is_of_link(first) and is_asked_for(first):
        text = "ttl is 1: receivers behind a router get nothing"
        yield say("ttl", "note", text, "ttl of the output, if there are such receivers")


def _size(evidence: Evidence, say: Say, output: Output, mtu: int) -> Iterator[Finding]:
    """Datagrams are cut into fragments where they do not fit, which not every receiver takes.

    Those that came in fragments as well are meant to be.
    """
    came = evidence.host.links.get(evidence.rule.input.interface)
    if came is None:
        return
    kinds = evidence.seen.good
    # What is larger than the MTU that it came over was put together on the path.
    whole = [k.largest for k in kinds if not k.fragment and k.largest <= came.mtu]
    parts = [k.largest for k in kinds if k.fragment]
    given = first_address(evidence.rule.input.address).version
    more = HEADERS[output.address.version] - HEADERS[given]
    for sizes, answer in ((whole, "no"), (parts, "note")):
        if (size := max(sizes, default=0) + more) > mtu and sizes:
            text = (
                f"packets of {size} bytes do not fit the MTU of {mtu} to {output.interface}: they"
                " leave in fragments, which firewalls and many receivers drop"
            )
            remedy = (
                f"let the source send {size - mtu} bytes less in a packet, or"
                f" `ip link set {output.interface} mtu {size}`, if all on the path can take them"
            )
            yield say("mtu", answer, text, remedy)
            return
    if whole or parts:
        size = max(whole + parts) + more
        yield say("mtu", "yes", f"packets of {size} bytes fit the MTU of {mtu}")


def _counters(evidence: Evidence, say: Say, output: Output) -> Iterator[Finding]:
    """What the kernel said to the worker meanwhile."""
    now, was = _entry(evidence, output), _entry(evidence, output, after=False)
    if now is None:
        yield say("sent", "unknown", "no counters: no daemon was asked, or no rule runs")
        return
    was = was or OutputCounts()
    sent = now.sent.packets - was.sent.packets
    for why, count in now.errors.items():
        grew = count - was.errors.get(why, 0)
        if grew > 0:
            of = f" of {grew + sent}" if sent > 0 else ""
            text = f"{grew}{of} packets were not sent: {unsent_for(why)}"
            yield say(why, "no", text, REMEDIES.get(why, "errno(3) has the reason"))
        elif count and sent <= 0:
            yield say(why, "note", f"{count} packets were not sent before: {unsent_for(why)}")
    yield from returned(evidence, say, output, now.refused, was.refused)
    for why, grew in more(was.dropped, now.dropped).items():
        text, remedy = DROPS[why]
        yield say(why, "note", f"{grew} of {grew + sent} packets {text}", remedy)
    skipped = more(was.skipped, now.skipped)
    for why, grew in skipped.items():
        text, remedy = SKIPS[why]
        yield say(why, "note", f"{grew} packets {text}", remedy)
    yield from _answers(say, now.answers, was.answers, sent)
    if sent > 0:
        of = f", from {now.interface}" if now.interface else ""
        yield say("sent", "yes", f"{sent} packets were sent meanwhile{of}")
    elif not is_active(evidence):
        yield say("sent", "unknown", "nothing was sent: the rule is not active")
    elif now.state not in ("active", "disabled"):
        yield say("state", "no", f"the output is {now.state}: {now.reason}", "see mcrd(8)")
    elif skipped:
        yield say("sent", "unknown", "nothing was sent: nothing that came was for this output")
    elif grown(evidence):
        text = "the rule received packets, and this output sent none"
        yield say("sent", "no", text, "`mcrctl stats` says what became of them")
    else:
        yield say("sent", "unknown", "nothing was sent: the rule received nothing meanwhile")


def _answers(
    say: Say, now: AnswerCounts | None, was: AnswerCounts | None, asked: int
) -> Iterator[Finding]:
    """What became of the answers to an output with `replies`."""
    if now is None:
        return
    was = was or AnswerCounts()
    for why, grew in more(was.unsent, now.unsent).items():
        text = f"{grew} answers did not go back: {unsent_for(why)}"
        yield say("answers", "note", text, ANSWERS.get(why) or REMEDIES.get(why, "errno(3)"))
    back = now.sent.packets - was.sent.packets
    if back > 0:
        yield say("answers", "yes", f"{back} answers went back to who asked meanwhile")
    elif asked > 0 and not now.sent.packets:
        remedy = (
            "does anybody answer? `tcpdump` on the interface of the output shows it; and the"
            " firewall of this host has to let answers in"
        )
        yield say("answers", "unknown", "nothing that was sent was answered so far", remedy)


def _entry(evidence: Evidence, output: Output, *, after: bool = True) -> OutputCounts | None:
    wanted = tuple(map(str, target(output)))
    for entry in evidence.counts(after).outputs:
        interface = entry.interface and (entry.interface_now or entry.interface)
        if (interface or "", entry.address, str(entry.port)) == wanted:
            return entry
    return None
