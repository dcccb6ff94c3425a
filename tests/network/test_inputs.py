"""Which packets a rule takes: by source, by VLAN, from groups that are joined, from hosts."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
from functools import partial
from ipaddress import ip_address

from mcrd.planning.resources import Membership
from mcrd.sockets.membership import Memberships
from tests.lab import Capture, Lab, Mcrd, Triangle, wait_for
from tests.lab.daemon import console_script
from tests.lab.datagrams import sender
from tests.lab.rules import rule

ALLOWED = "r0 239.1.1.1 5000"
OUT = "r1 239.2.2.2 6000"


def dropped(daemon: Mcrd, reason: str, interface: str = "r0") -> int:
    return int(daemon.stats()["interfaces"][interface]["dropped"][reason])


def received(daemon: Mcrd, name: str) -> int:
    return int(daemon.stats()["rules"][name]["received"]["packets"])


def from_(triangle: Triangle, source: str, group: str, count: int) -> None:
    """Sends datagrams from one of the addresses of s0."""
    with sender(triangle.source, "s0", 6 if ":" in group else 4) as sock:
        with triangle.source.inside():
            sock.bind((source, 0))
        for _ in range(count):
            sock.sendto(source.encode(), (group, 5000))


def add_addresses(triangle: Triangle, *addresses: str) -> None:
    for address in addresses:
        nodad = ["nodad"] if ":" in address else []
        triangle.source.run("ip", "address", "add", address, "dev", "s0", *nodad)


def test_only_allowed_sources_are_relayed(triangle: Triangle) -> None:
    add_addresses(triangle, "10.1.0.5/24", "10.1.0.6/24", "10.1.7.7/16")
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("a", 'r0 239.1.1.1 5000 sources=["10.1.0.5","10.1.7.0/24"]', OUT),
    )
    for source, count in (("10.1.0.5", 3), ("10.1.0.6", 5), ("10.1.7.7", 7), ("10.1.0.1", 11)):
        from_(triangle, source, "239.1.1.1", count)
    wait_for(lambda: dropped(daemon, "wrong_source") == 16, "the wrong sources to be counted")
    assert received(daemon, "a") == 10


def test_excluded_sources_are_not_relayed(triangle: Triangle) -> None:
    add_addresses(triangle, "10.1.0.5/24", "fd01::5/64")
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("a", 'r0 239.1.1.1 5000 exclude=["10.1.0.5"]', OUT)
        + rule("six", 'r0 ff15::1 5000 exclude=["fd01::5/128"]', "r1 ff15::2 6000"),
    )
    for source, group in (
        ("10.1.0.5", "239.1.1.1"),
        ("10.1.0.1", "239.1.1.1"),
        ("fd01::5", "ff15::1"),
        ("fd01::1", "ff15::1"),
    ):
        from_(triangle, source, group, 4)
    wait_for(lambda: dropped(daemon, "wrong_source") == 8, "the wrong sources to be counted")
    wait_for(lambda: received(daemon, "six") == 4, "what came last")
    assert (received(daemon, "a"), received(daemon, "six")) == (4, 4)


def test_one_group_and_port_for_several_rules_by_source(triangle: Triangle) -> None:
    add_addresses(triangle, "10.1.0.5/24", "10.1.0.6/24")
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("five", 'r0 239.1.1.1 5000 sources=["10.1.0.5"]', "r1 239.2.2.5 6000")
        + rule("six", 'r0 239.1.1.1 5000 sources=["10.1.0.6"]', "r1 239.2.2.6 6000"),
    )
    from_(triangle, "10.1.0.5", "239.1.1.1", 5)
    from_(triangle, "10.1.0.6", "239.1.1.1", 6)
    from_(triangle, "10.1.0.1", "239.1.1.1", 1)
    wait_for(lambda: dropped(daemon, "wrong_source") == 1, "the other source")
    assert (received(daemon, "five"), received(daemon, "six")) == (5, 6)


def test_overlapping_sources_are_refused_with_both_places(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, "")
    daemon.edit(
        rule("a", 'r0 239.1.1.1 5000 sources=["10.1.0.0/24"]', OUT)
        + rule("b", 'r0 239.1.1.1 5000 sources=["10.1.0.5"]', OUT)
    )
    done = daemon.ctl("reload", check=False)
    assert done.returncode == 1
    assert "rules.b.input" in done.stderr
    assert f"rules.a ({daemon.config}:2:" in done.stderr


def test_sources_are_joined_source_specific_on_the_wire(triangle: Triangle) -> None:
    """IGMPv3 and MLDv2: ALLOW_NEW_SOURCES or IS_IN, with the source in the record."""
    seen = triangle.source.capture("s0", "igmp or ip6")
    triangle.lab.mcrd(
        triangle.relay,
        rule("four", 'r0 232.1.1.1 5000 sources=["10.1.0.5"]', OUT)
        + rule("six", 'r0 ff35::1 5000 sources=["fd01::5"]', "r1 ff15::2 6000"),
    )
    four = socket.inet_aton("232.1.1.1") + socket.inet_aton("10.1.0.5")
    six = socket.inet_pton(socket.AF_INET6, "ff35::1") + socket.inet_pton(
        socket.AF_INET6, "fd01::5"
    )
    for record in (four, six):
        wait_for(partial(_reported, seen, record), "a report with the source")
    records = triangle.relay.run("cat", "/proc/net/mcfilter")
    assert "0xe8010101 0x0a010005" in records


def _reported(seen: Capture, record: bytes) -> bool:
    return any(record in frame for frame in seen.frames())


def test_a_tagged_copy_does_not_match_an_untagged_rule(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", ALLOWED, OUT))
    inject(triangle, 0, 3)
    inject(triangle, 100, 5)
    wait_for(lambda: dropped(daemon, "wrong_vlan") == 5, "the tagged frames to be counted")
    assert received(daemon, "a") == 3


def test_a_rule_for_a_vlan_takes_its_frames_alone(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("hundred", "r0 239.1.1.1 5000 vlan=100", "r1 239.2.2.1 6000")
        + rule("plain", ALLOWED, "r1 239.2.2.2 6000"),
    )
    assert "r0" in daemon.log()
    assert "VLAN" in daemon.log()
    for vlan, count in ((0, 2), (100, 3), (101, 5)):
        inject(triangle, vlan, count)
    wait_for(lambda: dropped(daemon, "wrong_vlan") == 5, "the other VLAN to be counted")
    assert (received(daemon, "hundred"), received(daemon, "plain")) == (3, 2)
    # The interface's own filter has the group's hardware address.
    addresses = triangle.relay.run("ip", "maddress", "show", "dev", "r0")
    assert "01:00:5e:01:01:01" in addresses


def inject(triangle: Triangle, vlan: int, count: int) -> None:
    """Frames from s0 with a datagram to 239.1.1.1 port 5000, tagged or not."""
    udp = struct.pack("!HHHH", 1234, 5000, 12, 0) + b"data"
    header = struct.pack(
        *("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 9, 17, 0),
        *(socket.inet_aton("10.1.0.1"), socket.inet_aton("239.1.1.1")),
    )
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = (
        header[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + header[12:]
    )
    tag = struct.pack("!HH", 0x8100, vlan) if vlan else b""
    frame = bytes.fromhex("01005e010101020000000001") + tag + b"\x08\x00" + header + udp
    with triangle.source.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        with triangle.source.inside():
            sock.bind(("s0", 0))
        for _ in range(count):
            sock.send(frame)


def test_150_groups_under_the_default_limit(triangle: Triangle) -> None:
    """igmp_max_memberships is 20 for a socket: all are joined, all relayed, none lost."""
    triangle.relay.sysctl("net.ipv4.igmp_max_memberships", "20")
    rules = "".join(
        rule(f"n{n}", f"r0 239.1.1.{n} 5000", f"r1 239.2.2.{n} 6000") for n in range(1, 151)
    )
    daemon = triangle.lab.mcrd(triangle.relay, rules)
    assert daemon.status()["rules"] == {"active": 150}
    (link,) = json.loads(triangle.relay.run("ip", "-j", "maddress", "show", "dev", "r0"))
    joined = {entry.get("address") for entry in link["maddr"]}
    assert {f"239.1.1.{n}" for n in range(1, 151)} <= joined
    behind = triangle.sink.receive("k0", "239.2.2.1", 6000, flows=150, expect=60_000)
    triangle.source.send("s0", "239.1.1.1", 5000, flows=150, count=60_000, rate=5_000, size=500)
    result = behind.result()
    assert (result["unique"], result["lost"], result["duplicated"]) == (60_000, 0, 0)


def test_groups_from_any_and_from_one_source_share_no_socket_and_others_do(
    triangle: Triangle,
) -> None:
    """Of a group from any source, the kernel would make one from that source."""
    relay, found, name = triangle.relay, Memberships(), "renamed"
    relay.sysctl("net.ipv4.igmp_max_memberships", "20")
    relay.sysctl("net.ipv4.igmp_max_msf", "10")

    def of(number: int, host: int | None = None, name: str = name) -> Membership:
        source = ip_address("10.1.0.0") + host if host is not None else None
        return Membership(name, index, ip_address("239.1.1.0") + number, source)

    def stays(number: int) -> bool:
        """Whether the group is still joined when it is left from any source."""
        found.leave(of(number, name="r0"))
        (link,) = json.loads(relay.run("ip", "-j", "maddress", "show", "dev", name))
        return f"239.1.1.{number}" in {entry.get("address") for entry in link["maddr"]}

    with relay.inside():
        index = socket.if_nametoindex("r0")
        for number in range(1, 41):
            found.join(of(number, name="r0"))
        found.leave(of(1, name="r0"))
        found.join(of(50, name="r0"))  # the first socket is full again; the other has group 40
        found.join(of(40, 7, "r0"))
        relay.run("ip", "link", "set", "r0", "down")
        relay.run("ip", "link", "set", "r0", "name", name)
        relay.run("ip", "link", "set", name, "up")
        found.join(of(50, 7))
        assert stays(40)
        assert stays(50)
        for membership in list(found):
            found.leave(membership)
        for host in range(1, 31):  # a socket has ten sources of a group,
            found.join(of(1, host))
        for number in range(2, 47):  # and room for other groups
            found.join(of(number))
        assert len(found.sockets()) == 3
        for membership in list(found):
            found.leave(membership)


def test_a_snooping_bridge_forwards_what_is_joined(lab: Lab) -> None:
    """source s0 -- b0 switch b1 -- r0 relay: the switch has a querier, and forwards on request."""
    source, switch, relay, sink = lab.hosts("source", "switch", "relay", "sink")
    lab.link(source, "s0", ["10.1.0.1/24"], switch, "b0", [])
    lab.link(switch, "b1", [], relay, "r0", ["10.1.0.2/24"])
    lab.link(relay, "r1", ["10.2.0.1/24"], sink, "k0", ["10.2.0.2/24"])
    lab.bridge(switch, "br0", ["b0", "b1"], ["10.1.0.9/24"], snooping=True, querier=True)
    seen = relay.capture("r0", "udp port 5000")
    with sender(source, "s0") as sock:

        def kept_back() -> bool:
            sock.sendto(b"group", ("239.1.1.1", 5000))
            sock.sendto(b"host!", ("10.1.0.2", 5000))  # what was sent before it is here by then
            wait_for(lambda: seen.frames()[-1:] and b"host!" in seen.frames()[-1], "the marker")
            return b"host!" in seen.frames()[-2:-1][0] if len(seen.frames()) > 1 else True

        wait_for(kept_back, "the switch to keep the group back")
    lab.mcrd(relay, rule("a", ALLOWED, OUT))
    received_ = sink.receive("k0", "239.2.2.2", 6000, expect=1000)
    source.send("s0", "239.1.1.1", 5000, count=1000, rate=5000)
    assert received_.result()["unique"] == 1000


def test_a_connected_sender_to_a_host_is_undisturbed(triangle: Triangle) -> None:
    triangle.lab.mcrd(
        triangle.relay,
        rule("one", "r0 10.1.0.2 5000", OUT)
        + rule("many", "r0 10.1.0.2 5100-5109", "r1 239.2.2.3 5100-5109"),
    )
    with triangle.source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        for port in (5000, 5100, 5109):
            with triangle.source.inside():
                sock.connect(("10.1.0.2", port))
            for _ in range(20):
                sock.send(b"x")  # ECONNREFUSED would be raised here
            with contextlib.suppress(TimeoutError):
                sock.recv(1)  # and here


def test_a_program_that_has_the_port_of_an_input_keeps_its_datagrams(triangle: Triangle) -> None:
    for address in ("10.1.0.2", "0.0.0.0"):
        with triangle.relay.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
            program.settimeout(5)
            with triangle.relay.inside():
                program.bind((address, 5000))
            daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 10.1.0.2 5000", OUT))
            with sender(triangle.source, "s0") as sock, triangle.source.inside():
                sock.sendto(b"both get it", ("10.1.0.2", 5000))
            assert program.recv(100) == b"both get it"
            wait_for(partial(_took_one, daemon), "the relay's copy")
            assert daemon.stop() == 0


def _took_one(daemon: Mcrd) -> bool:
    return received(daemon, "a") == 1


def test_1500_outputs_with_a_low_soft_limit(triangle: Triangle) -> None:
    rules = "".join(
        rule(
            f"n{n}",
            f"r0 239.1.{n}.1 5000",
            *(f"r1 239.{2 + k}.{n}.1 6000" for k in range(10)),
        )
        for n in range(150)
    )
    configuration = triangle.lab.file("many.toml")
    configuration.write_text(rules)
    control = triangle.lab.file("many.sock")
    process = triangle.relay.start(
        *("prlimit", "--nofile=1024:", console_script("mcrd")),
        *("--config", str(configuration), "--control", str(control)),
        stderr=subprocess.DEVNULL,
    )
    wait_for(control.exists, "the control socket")

    def active() -> bool:
        done = triangle.relay.call(
            console_script("mcrctl"), "--control", str(control), "status", "--json"
        )
        return done.returncode == 0 and json.loads(done.stdout)["rules"] == {"active": 150}

    wait_for(active, "all rules to be active", timeout=60)
    behind = triangle.sink.receive("k0", "239.11.149.1", 6000, expect=100)
    triangle.source.send("s0", "239.1.149.1", 5000, count=100, rate=1000)
    assert behind.result()["unique"] == 100
    process.terminate()
    assert process.wait(20) == 0
