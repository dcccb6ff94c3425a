"""Answers by unicast through [reflect.NAME], of real programs, and from where they come."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import socket
from contextlib import closing, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from tests.lab import Host, Lab, Triangle, wait_for
from tests.lab.avahi import Avahi, absent, program
from tests.lab.datagrams import sender, udp
from tests.lab.resolved import Resolved
from tests.network.test_reflect import SSDP, networks, real_device
from tests.network.test_replies import Device, asker

KEPT = 'source = "keep"\nreplies = "30s"\n'
BETWEEN = '[reflect.all]\ninterfaces = ["r0", "r1"]\n'


def test_gssdp_discover_finds_a_device_that_keeps_its_address(lab: Lab) -> None:
    """Three at once; each hears it from the address and port of the device, and by its answers."""
    discover = program("gssdp-discover", "gupnp-tools")
    laptop, relay, gateway = networks(lab)
    if (tried := laptop.call(discover, "--help")).returncode != 0:
        absent(f"gssdp-discover does not run here: {tried.stderr.strip()}")
    daemon = lab.mcrd(relay, SSDP + KEPT + "one_way = true\n")  # no announcements
    device = real_device(gateway)
    seen = laptop.capture("eth0", "udp and dst host 10.1.0.5", direction="in")
    said = [lab.file(f"gssdp{number}") for number in range(3)]
    for path in said:
        with path.open("wb") as output:
            laptop.start(discover, "-i", "eth0", stdout=output, stderr=output)
    where = re.compile(r"Location: +http://10\.2\.0\.5:\d+/rootDesc\.xml")

    def all_found() -> bool:
        return all(where.search(path.read_text()) for path in said)

    wait_for(all_found, "the device to be found")
    assert device.poll() is None
    answers = [udp(frame) for frame in seen.stop()]
    assert {(each.source, each.source_port) for each in answers} == {("10.2.0.5", 1900)}
    assert len({each.port for each in answers}) == 3
    counted = daemon.stats()["rules"]["television/ssdp4:eth0"]["outputs"][0]
    assert counted["answers"]["new_member"] == counted["new_member"] == 0


@pytest.mark.parametrize("more", ["", KEPT])
def test_systemd_resolved_finds_a_name_by_llmnr(triangle: Triangle, more: str) -> None:
    """Both ways, over IPv4 and IPv6; an answer keeps the port that was asked if its source is kept.

    That is what RFC 4795, section 2.3 wants. What has a link-local address has the relay's instead.
    """
    asks, other = (Resolved(host, host.name) for host in (triangle.source, triangle.sink))
    daemon = triangle.lab.mcrd(triangle.relay, BETWEEN + 'protocol = "llmnr"\n' + more)
    seen = triangle.source.capture("s0", "udp and dst port 5355 and not multicast", direction="in")
    there = _addresses(triangle.sink, "k0")
    for version in (4, 6):
        found = asks.ask("sink", version)
        assert found
        assert found <= there
        assert other.ask("source", version)
    assert asks.ask("nobody", 4) == set()
    assert daemon.stats()["rules"]["all/llmnr4:r0"]["outputs"][0]["answers"]["new_member"] == 0
    wait_for(lambda: len(seen.frames()) > 1, "the answers")
    answers = [udp(frame) for frame in seen.stop()]
    four = {(each.source, each.source_port == 5355) for each in answers if "." in each.source}
    assert four == {("10.2.0.2", True) if more else ("10.1.0.2", False)}
    six = {ip_address(each.source) for each in answers if ":" in each.source}
    assert six
    assert six <= _addresses(triangle.relay, "r0")


def _addresses(host: Host, interface: str) -> set[IPv4Address | IPv6Address]:
    (link,) = (link for link in host.links() if link["ifname"] == interface)
    return {ip_address(each["local"]) for each in link["addr_info"]}


QUESTION = b"\x04_ipp\x04_tcp\x05local\0" + bytes.fromhex("000c")  # PTR
MULTICAST, UNICAST = bytes.fromhex("0001"), bytes.fromhex("8001")  # IN; RFC 6762, 5.4
MDNS = ("224.0.0.251", 5353)


def test_answers_of_mdns_by_unicast(triangle: Triangle) -> None:
    """A simple resolver hears the responder itself, from port 5353: RFC 6762, section 6.7.

    Who speaks mDNS itself hears its answers in the group, also when unicast would have done.
    """
    triangle.lab.mcrd(triangle.relay, BETWEEN + 'protocol = "mdns"\n' + KEPT)
    avahi = Avahi(triangle.sink, "sink")
    avahi.publish("printer", 631)
    wait_for(lambda: ("IPv4", "printer") in avahi.found(), "the service")
    sock = asker(triangle.source, "s0")
    sock.sendto(bytes.fromhex("471100000001000000000000") + QUESTION + MULTICAST, MDNS)
    answer, name = sock.recvfrom(9000)
    assert (answer[:2], name) == (bytes.fromhex("4711"), ("10.2.0.2", 5353))
    assert b"printer" in answer
    group = Device(triangle.source, "s0", *MDNS)
    group.hears.settimeout(1)
    speaks = sender(triangle.source, "s0")
    with closing(speaks), triangle.source.inside():
        speaks.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        speaks.bind(("10.1.0.1", 5353))

        def told() -> bool:
            for asks in (UNICAST, MULTICAST):
                speaks.sendto(bytes(5) + b"\x01" + bytes(6) + QUESTION + asks, MDNS)
            with suppress(TimeoutError):
                while True:
                    said, name = group.hears.recvfrom(9000)
                    if said[2] >> 7 and b"printer" in said and name == ("10.1.0.2", 5353):
                        return True
            return False

        wait_for(told, "an answer to the group")
