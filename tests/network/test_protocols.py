"""Each protocol of [reflect.NAME] on real packets: where they go, with what TTL, who answers."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from mcrd.config.reflect import PROTOCOLS, Protocol
from tests.lab import Capture, Host, Triangle, wait_for
from tests.lab.datagrams import Datagram, sender, udp
from tests.network.test_replies import kept

if TYPE_CHECKING:
    from collections.abc import Iterator


class Place(NamedTuple):
    """Where a protocol is spoken; of a range of groups, one."""

    rule: str
    name: str
    protocol: Protocol
    group: str
    port: int


def places() -> Iterator[Place]:
    for of, protocol in PROTOCOLS.items():
        for name, (address, port) in protocol.places.items():
            group = "255.255.255.255" if address == "broadcast" else address
            if "/" in group:
                group = str(ip_address(group.partition("/")[0]) + 1)
            yield Place(f"{of}/{name}:", name, protocol, group, int(port))


def says(host: Host, interface: str, text: str, place: Place) -> socket.socket:
    """A socket with a port of its own, from which that has gone to the place."""
    sock = kept(host, sender(host, interface, ip_address(place.group).version))
    sock.settimeout(30)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.sendto(text.encode(), (place.group, place.port))
    return sock


def heard(seen: Capture, *texts: str) -> dict[str, Datagram]:
    """The datagrams with these texts, each of which has to come once."""

    def now() -> list[Datagram]:
        found = map(udp, seen.frames())
        return [each for each in found if each.payload.decode(errors="replace") in texts]

    wait_for(lambda: len(now()) >= len(texts), f"{texts}")
    seen.stop()
    found = {each.payload.decode(): each for each in now()}
    assert len(now()) == len(found) == len(texts)
    return found


def test_each_protocol_between_two_networks(triangle: Triangle) -> None:
    """What asks, what answers it by unicast, and what the other network tells unasked."""
    source, relay, sink = triangle.source, triangle.relay, triangle.sink
    table = '[reflect.{0}]\ninterfaces = ["r0", "r1"]\nprotocol = "{0}"\nask = ["r0"]\n'
    daemon = triangle.lab.mcrd(relay, "".join(map(table.format, PROTOCOLS)))
    rules = {place.rule + "r0" for place in places()}
    rules |= {place.rule + "r1" for place in places() if place.protocol.tells}
    assert daemon.rules().keys() == rules
    assert daemon.status()["rules"] == {"active": len(rules)}
    of_relay = {
        each["local"]: name
        for name in ("r0", "r1")
        for link in relay.links()
        if link["ifname"] == name
        for each in link["addr_info"]
    }
    with sink.inside():
        index = socket.if_nametoindex("k0")
    seen = sink.capture("k0", "udp", direction="in")
    asks = {place.name: says(source, "s0", place.name, place) for place in places()}
    found = heard(seen, *asks)
    for place in places():
        got, output = found[place.name], place.protocol.output
        broadcast = "255.255.255.255" if "source" in output else "10.2.0.255"
        group = broadcast if place.group == "255.255.255.255" else place.group
        assert (got.destination, got.port) == (group, place.port)
        assert got.ttl == output.get("ttl", 64)
        if "source" in output:
            assert got.source == "10.1.0.1"
        else:
            assert of_relay[got.source] == "r1"
        if "replies" in output:
            text = f"answers {place.name}".encode()
            family = socket.AF_INET6 if ":" in got.source else socket.AF_INET
            answers = kept(sink, sink.socket(family, socket.SOCK_DGRAM))
            to = (got.source, got.source_port)
            answers.sendto(text, (*to, 0, index) if ":" in got.source else to)
            text_came, name = asks[place.name].recvfrom(100)
            assert text_came == text
            assert of_relay[name[0].partition("%")[0]] == "r0"
            assert name[1] == 5353 or place.port != 5353
    seen = source.capture("s0", "udp", direction="in")
    told = {f"{place.name}!": place for place in places() if place.protocol.tells}
    for unasked, place in told.items():
        says(sink, "k0", unasked, place)
    for said, got in heard(seen, *told).items():
        place = told[said]
        assert got.port == place.port
        assert got.source == "10.2.0.2" if place.name == "bacnet4" else of_relay[got.source] == "r0"
        assert got.ttl == place.protocol.output.get("ttl", 64)
