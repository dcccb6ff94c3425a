"""Interfaces of other kinds than plain Ethernet, in and out."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_address

from mcrd.planning.resources import Membership
from mcrd.sockets.membership import Memberships
from tests.dataplane.frames import inject
from tests.lab import Triangle, wait_for
from tests.lab.datagrams import sender
from tests.lab.rules import rule
from tests.lab.tunnel import tunnel
from tests.network.test_querier import forged


def packet(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram that has no checksum."""
    udp = struct.pack("!HHHH", 1234, port, 8 + len(payload), 0) + payload
    header = struct.pack(
        *("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 9, 17, 0),
        *(socket.inet_aton(source), socket.inet_aton(destination)),
    )
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return header[:10] + struct.pack("!H", checksum) + header[12:] + udp


def read_udp(end: int) -> bytes:
    """The next IPv4 UDP packet that the host sends into the tunnel."""

    def read() -> bytes | None:
        try:
            data = os.read(end, 65536)
        except BlockingIOError:
            return None
        return data if data[0] >> 4 == 4 and data[9] == 17 else None

    return wait_for(read, "a packet in the tunnel") or b""


def test_out_of_a_tunnel(triangle: Triangle) -> None:
    with tunnel(triangle.relay, "tun0", "10.8.0.1/24") as end:
        daemon = triangle.lab.mcrd(
            triangle.relay,
            rule("group", "tun0 239.1.1.1 5000", "r1 239.2.2.2 6000")
            + rule("host", "tun0 10.8.0.1 5000", "r1 239.2.2.2 6000"),
        )
        seen = triangle.sink.capture("k0", "udp port 6000")
        os.write(end, packet("10.8.0.9", "239.1.1.1", 5000, b"group"))
        os.write(end, packet("10.8.0.9", "10.8.0.1", 5000, b"host!"))
        wait_for(lambda: len(seen.frames()) == 2, "both datagrams behind the relay")
        assert sorted(frame[42:47] for frame in seen.stop()) == [b"group", b"host!"]
        assert daemon.stats()["interfaces"]["tun0"]["dropped"]["malformed"] == 0


def test_out_of_a_tunnel_for_who_names_no_source(triangle: Triangle) -> None:
    """A tunnel has no filter to let the group in by: the kernel would refuse."""
    group, members = "232.1.1.1", Memberships()
    kept = f'r1 {group} 5000 ttl=2 when="members" source="keep"'
    asks = "[interfaces.r1]\nquerier = true\n"
    with tunnel(triangle.relay, "tun0", "10.8.0.1/24") as end:
        daemon = triangle.lab.mcrd(triangle.relay, rule("a", f"tun0 {group} 5000", kept) + asks)

        def output() -> tuple[str, str | None]:
            (found,) = daemon.rules()["a"]["outputs"]
            return found["state"], found["reason"]

        wait_for(lambda: output()[0] == "idle", "the rule to listen")
        inject(triangle.sink, "k0", *forged(range(1), group))
        unnamed = f"{group} is source-specific, and no member names a source of it"
        wait_for(lambda: unnamed in (output()[1] or ""), "the join to be heard")
        with triangle.sink.inside():
            where = ("k0", socket.if_nametoindex("k0"), ip_address(group))
            members.join(Membership(*where, ip_address("10.8.0.9")))
        wait_for(lambda: output() == ("active", None), "the source to be joined")
        seen = triangle.sink.capture("k0", "udp port 5000")
        os.write(end, packet("10.8.0.9", group, 5000, b"named"))
        os.write(end, packet("10.8.0.8", group, 5000, b"other"))
        wait_for(lambda: len(seen.frames()) == 2, "both datagrams behind the relay")
        assert sorted(frame[42:47] for frame in seen.stop()) == [b"named", b"other"]
        for membership in list(members):
            members.leave(membership)


def test_into_a_tunnel(triangle: Triangle) -> None:
    with tunnel(triangle.relay, "tun0", "10.8.0.1/24") as end:
        triangle.lab.mcrd(
            triangle.relay,
            rule("a", "r0 239.1.1.1 5000", "tun0 10.8.0.2 7000", "tun0 239.2.2.2 7000 ttl=3"),
        )
        with sender(triangle.source, "s0") as sock:
            sock.sendto(b"payload", ("239.1.1.1", 5000))
        packets = [read_udp(end), read_udp(end)]
        assert {data[28:] for data in packets} == {b"payload"}
        assert [socket.inet_ntoa(data[12:16]) for data in packets] == ["10.8.0.1"] * 2
        assert {socket.inet_ntoa(data[16:20]) for data in packets} == {"10.8.0.2", "239.2.2.2"}


def test_a_bridge_as_the_input(triangle: Triangle) -> None:
    triangle.relay.run("ip", "address", "flush", "dev", "r0", "scope", "global")
    triangle.lab.bridge(triangle.relay, "br0", ["r0"], ["10.1.0.2/24"])
    triangle.lab.mcrd(triangle.relay, rule("a", "br0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    received = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=1000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=1000, rate=5000)
    assert received.result()["unique"] == 1000


def test_one_interface_in_and_out(triangle: Triangle) -> None:
    """A group translated on its own network."""
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r0 239.1.1.2 5000"))
    received = triangle.source.receive("s0", "239.1.1.2", 5000, expect=1000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=1000, rate=5000)
    result = received.result()
    assert (result["unique"], result["duplicated"]) == (1000, 0)
    assert daemon.stats()["rules"]["a"]["received"]["packets"] == 1000


def test_jumbo_frames_on_links_that_carry_them(triangle: Triangle) -> None:
    for host, name in (
        (triangle.source, "s0"),
        (triangle.relay, "r0"),
        (triangle.relay, "r1"),
        (triangle.sink, "k0"),
    ):
        host.run("ip", "link", "set", name, "mtu", "9000")
    triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    received = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=2000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=2000, rate=5000, size=8900)
    result = received.result()
    assert (result["unique"], result["corrupt"]) == (2000, 0)
