"""docs/recipes.md on real packets: each recipe with the very rule files that stand there.

Interfaces, addresses and ports are those of the page, and so are the pictures. Two recipes take
what the kernel has: `wireguard` (with wg), else a tunnel without encryption made by socat, a tun
interface like WireGuard's, which carries packets without a link header; and `8021q` with a switch
and a trunk, else a plain cable for each VLAN, which shows the rule but no tag.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import shutil
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.documents import recipes
from tests.lab import Capture, Host, Lab, Mcrd, Receiver, cut, wait_for
from tests.lab.avahi import absent, program
from tests.lab.datagrams import sender, udp
from tests.network.test_broadcast import caster
from tests.network.test_inspect import rtp, transport_stream
from tests.network.test_replies import Device, asker
from tests.network.test_streams import perfect

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNT, RATE = 300, 3000  # datagrams of a stream, and those of a second
RECIPES = recipes()
DEVICE = 0x1010CAFE  # a number of a tuner


def relay(host: Host, recipe: str) -> Mcrd:
    """mcrd with the rule file of a recipe, all of whose rules and outputs are active."""
    daemon = host.lab.mcrd(host, RECIPES[recipe])
    assert daemon.status()["rules"].keys() == {"active"}, daemon.ctl("rules").stdout
    for rule in daemon.stats()["rules"].values():
        assert {output["state"] for output in rule["outputs"]} == {"active"}
    return daemon


def sink(host: Host, address: str, port: int, source: str | None) -> Receiver:
    """Who counts what comes to a group or address of eth0 from this source alone."""
    return host.receive("eth0", address, port, expect=COUNT, source=source, timeout=30)


def send(host: Host, *streams: tuple[str, int], size: int = 1316) -> None:
    """All streams at a time, to their ends."""
    senders = [
        host.start_send("eth0", *stream, count=COUNT, rate=RATE, size=size, ttl=8)
        for stream in streams
    ]
    assert [each.result()["sent"] for each in senders] == [COUNT] * len(streams)


def all_arrive(sinks: Sequence[Receiver]) -> None:
    for each in sinks:
        assert perfect(each.result(), COUNT)


# Between two VLANs


def test_vlan(lab: Lab) -> None:
    """source -- (10) switch ==trunk== relay, and sink -- (20) the same switch."""
    source, gateway, receiver = lab.hosts("source", "relay", "receiver")
    trunk = _vlans(lab, source, gateway, receiver)
    relay(gateway, "vlan")
    received = [sink(receiver, "239.1.1.1", 5000, "10.0.20.1")]
    send(source, ("239.1.1.1", 5000))
    all_arrive(received)
    if trunk:
        tags = [struct.unpack_from("!HH", frame, 12) for frame in trunk.stop()]
        assert sorted(tags) == [(0x8100, 10)] * COUNT + [(0x8100, 20)] * COUNT


def _vlans(lab: Lab, source: Host, gateway: Host, receiver: Host) -> Capture | None:
    """Makes eth0.10 and eth0.20 of the relay; returns a capture on the trunk, if it is one."""
    ends = (
        (source, "10", ["10.0.10.5/24"], ["10.0.10.1/24"]),
        (receiver, "20", ["10.0.20.5/24"], ["10.0.20.1/24"]),
    )
    (switch,) = lab.hosts("switch")
    lab.link(switch, "trunk", [], gateway, "eth0", [])
    if switch.call(*_vlan("trunk", "10")).returncode != 0:  # a kernel without 8021q
        gateway.run("ip", "link", "delete", "eth0")
        for host, vlan, addresses, gateways in ends:
            lab.link(host, "eth0", addresses, gateway, f"eth0.{vlan}", gateways)
        return None
    cut(gateway, "eth0")
    switch.run(*_vlan("trunk", "20"))
    for host, vlan, addresses, gateways in ends:
        lab.link(host, "eth0", addresses, switch, f"p{vlan}", [])
        switch.run("ip", "link", "set", f"trunk.{vlan}", "up")
        lab.bridge(switch, f"br{vlan}", [f"p{vlan}", f"trunk.{vlan}"])
        gateway.run(*_vlan("eth0", vlan))
        gateway.run("ip", "address", "add", *gateways, "dev", f"eth0.{vlan}")
        gateway.run("ip", "link", "set", f"eth0.{vlan}", "up")
    return switch.capture("trunk", "vlan and udp port 5000")


def _vlan(parent: str, number: str) -> list[str]:
    name = f"{parent}.{number}"
    return ["ip", "link", "add", "link", parent, "name", name, "type", "vlan", "id", number]


# Over WireGuard


def test_wireguard(lab: Lab) -> None:
    """source -- A ==wg0== B -- receiver; the second stream does not fit the MTU of the tunnel."""
    source, a, b, receiver = lab.hosts("source", "a", "b", "receiver")
    lab.link(source, "eth0", ["10.1.0.5/24"], a, "eth0", ["10.1.0.1/24"])
    lab.link(a, "eth1", ["198.51.100.1/24"], b, "eth1", ["198.51.100.2/24"])
    lab.link(receiver, "eth0", ["10.2.0.5/24"], b, "eth0", ["10.2.0.1/24"])
    _tunnel(lab, a, b)
    inner = b.capture("wg0", "udp")
    relay(a, "wireguard, site A")
    relay(b, "wireguard, site B")
    received = [sink(receiver, group, 5000, "10.2.0.1") for group in ("239.1.1.1", "239.1.1.2")]
    send(source, ("239.1.1.1", 5000))
    send(source, ("239.1.1.2", 5000), size=1400)
    all_arrive(received)
    # In the tunnel: the first stream whole, the second in two fragments each.
    frames = inner.stop()
    assert len(frames) == 3 * COUNT
    fragments = [frame for frame in frames if struct.unpack_from("!H", frame, 6)[0] & 0x3FFF]
    assert len(fragments) == 2 * COUNT


def test_two_ways(lab: Lab) -> None:
    """source -- A ==tun0, tun1== B -- receiver; plain cables stand for the tunnels."""
    source, a, b, receiver = lab.hosts("source", "a", "b", "receiver")
    lab.link(source, "eth0", ["10.1.0.5/24"], a, "eth0", ["10.1.0.1/24"])
    lab.link(receiver, "eth0", ["10.2.0.5/24"], b, "eth0", ["10.2.0.1/24"])
    for number in range(2):
        ends = (f"10.10{number}.0.1/24", f"10.10{number}.0.2/24")
        lab.link(a, f"tun{number}", ends[:1], b, f"tun{number}", ends[1:])
        metric = ("metric", str(10 + 10 * number))
        a.run("ip", "route", "add", "10.200.0.2", "dev", f"tun{number}", *metric)
    b.run("ip", "address", "add", "10.200.0.2/32", "dev", "lo")
    at_a = relay(a, "two paths, site A")
    relay(b, "two paths, site B")
    assert "to 10.200.0.2:10001 by tun0" in at_a.ctl("rules").stdout
    received = [sink(receiver, "239.1.1.1", 5000, "10.2.0.1")]
    send(source, ("239.1.1.1", 5000))
    all_arrive(received)
    a.run("ip", "route", "del", "10.200.0.2", "dev", "tun0")
    wait_for(lambda: "by tun1" in at_a.ctl("rules").stdout, "the output to follow")
    received = [sink(receiver, "239.1.1.1", 5000, "10.2.0.1")]
    send(source, ("239.1.1.1", 5000))
    all_arrive(received)


def _tunnel(lab: Lab, a: Host, b: Host) -> None:
    """wg0 at both ends, as the page sets it up; in clear where the kernel has none."""
    outer = {a: "198.51.100.1", b: "198.51.100.2"}
    inner = {a: "10.100.0.1", b: "10.100.0.2"}
    if (
        shutil.which("wg")
        and a.call("ip", "link", "add", "wg0", "type", "wireguard").returncode == 0
    ):
        b.run("ip", "link", "add", "wg0", "type", "wireguard")
        keys = {host: lab.file("key") for host in (a, b)}
        for host, path in keys.items():
            path.write_text(host.run("wg", "genkey"))
        for host, other in ((a, b), (b, a)):
            public = host.run("sh", "-c", f"wg pubkey < {keys[other]}").strip()
            host.run(
                *("wg", "set", "wg0", "listen-port", "51820", "private-key", str(keys[host])),
                *("peer", public, "endpoint", f"{outer[other]}:51820"),
                *("allowed-ips", f"{inner[other]}/32"),
            )
    else:
        for host, other in ((a, b), (b, a)):
            host.start(
                *("socat", "TUN,tun-name=wg0,tun-type=tun,iff-no-pi"),
                # SO_RCVBUFFORCE: room for all, should socat have to wait for a CPU
                f"UDP:{outer[other]}:51820,bind={outer[host]}:51820,setsockopt-int=1:33:16777216",
            )
            wait_for(partial(_exists, host, "wg0"), "the tunnel")
    for host in (a, b):
        host.run("ip", "address", "add", f"{inner[host]}/24", "dev", "wg0")
        host.run("ip", "link", "set", "wg0", "mtu", "1420", "txqueuelen", "10000", "up")


def _exists(host: Host, interface: str) -> bool:
    return any(link["ifname"] == interface for link in host.links())


# Into and out of a cloud

# What a cloud drops: groups, and what does not come from the instance's own address.
ANTI_SPOOFING = """
table netdev cloud {{
  chain {port} {{
    type filter hook ingress device "{port}" priority 0;
    ip daddr 224.0.0.0/4 udp dport 5000 counter name "groups" drop
    ip daddr 224.0.0.0/4 drop
    ip saddr != {address} counter name "spoofed" drop
  }}
}}
"""


def test_cloud(lab: Lab) -> None:
    """lan -- relay -- gateway and subnet of the cloud -- instance, peer1, peer2."""
    lan, gateway, cloud, *instances = lab.hosts(
        "lan", "relay", "cloud", "instance", "peer1", "peer2"
    )
    instance, peer1, peer2 = instances
    lab.link(lan, "eth0", ["10.1.0.5/24"], gateway, "eth0", ["10.1.0.1/24"])
    lab.link(gateway, "eth1", ["10.9.0.1/24"], cloud, "vpn", ["10.9.0.254/24"])
    addresses = ("172.31.0.10", "172.31.0.21", "172.31.0.22")
    firewall = "table netdev cloud {\n  counter groups {}\n  counter spoofed {}\n}\n"
    for number, (host, address) in enumerate(zip(instances, addresses, strict=True)):
        lab.link(host, "eth0", [f"{address}/24"], cloud, f"p{number}", [])
        firewall += ANTI_SPOOFING.format(port=f"p{number}", address=address)
        host.run("ip", "route", "add", "10.9.0.0/24", "via", "172.31.0.254")
    lab.bridge(cloud, "br0", ["p0", "p1", "p2"], ["172.31.0.254/24"])
    cloud.sysctl("net.ipv4.conf.all.forwarding", "1")
    path = lab.file("cloud.nft")
    path.write_text(firewall)
    cloud.run("nft", "-f", str(path))
    gateway.run("ip", "route", "add", "172.31.0.0/24", "via", "10.9.0.254", "dev", "eth1")
    cut(gateway, "eth0", "eth1")
    cut(instance, "eth0")
    cut(peer2, "eth0")
    relay(gateway, "cloud, on premises")
    relay(instance, "cloud, instance")
    relay(peer2, "cloud, peer 2")

    received = [
        sink(peer1, "172.31.0.21", 5000, "172.31.0.10"),
        sink(peer2, "239.1.1.1", 5000, "172.31.0.22"),  # a program on the host of that mcrd
        sink(lan, "239.1.1.2", 5000, "10.1.0.1"),
    ]
    send(lan, ("239.1.1.1", 5000))
    send(peer1, ("172.31.0.10", 10002))
    all_arrive(received)
    counters = cloud.run("nft", "list", "counters", "table", "netdev", "cloud")
    groups, spoofed = (int(line.split()[1]) for line in counters.splitlines() if "packets" in line)
    assert (groups, spoofed) == (COUNT, 0)


# One source to many


def test_fan_out(lab: Lab) -> None:
    """source -- relay -- near (eth1) and far (eth2)."""
    source, gateway, near, far = lab.hosts("source", "relay", "near", "far")
    lab.link(source, "eth0", ["10.1.0.5/24"], gateway, "eth0", ["10.1.0.1/24"])
    lab.link(near, "eth0", ["10.2.0.2/24"], gateway, "eth1", ["10.2.0.1/24"])
    lab.link(far, "eth0", ["10.3.0.2/24"], gateway, "eth2", ["10.3.0.1/24"])
    cut(gateway, "eth1", "eth2")
    daemon = relay(gateway, "fan-out")
    seen = [host.capture("eth0", "udp") for host in (near, far)]
    received = [
        sink(near, "239.2.2.2", 6000, "10.2.0.1"),
        sink(near, "239.2.2.3", 6000, "10.2.0.1"),
        sink(far, "239.1.1.1", 5000, "10.3.0.1"),
        sink(far, "10.3.0.2", 7000, "10.3.0.1"),
    ]
    limited = far.receive("eth0", "10.3.0.2", 7001)
    send(source, ("239.1.1.1", 5000))
    all_arrive(received)
    result = limited.stop()
    output = daemon.stats()["rules"]["camera-1"]["outputs"][4]
    passed = output["sent"]["packets"]  # a hundred, unless the machine is slow to send
    assert (result["unique"], result["duplicated"]) == (passed, 0)
    assert 99 <= passed == COUNT - output["rate_limited"] < COUNT
    datagrams = [udp(frame) for capture in seen for frame in capture.stop()]
    assert {(d.destination, d.port, d.ttl, d.dscp) for d in datagrams} == {
        ("239.2.2.2", 6000, 8, 0),
        ("239.2.2.3", 6000, 1, 0),
        ("239.1.1.1", 5000, 8, 34),
        ("10.3.0.2", 7000, 64, 0),
        ("10.3.0.2", 7001, 64, 0),
    }


# Source-specific multicast


def test_ssm(lab: Lab) -> None:
    """source (10.1.0.5, 10.1.0.6) -- relay -- receiver, which checks the reverse path."""
    source, gateway, receiver = lab.hosts("source", "relay", "receiver")
    addresses = ["10.1.0.5/24", "10.1.0.6/24"]
    lab.link(source, "eth0", addresses, gateway, "eth0", ["10.1.0.1/24"])
    lab.link(receiver, "eth0", ["10.2.0.5/24"], gateway, "eth1", ["10.2.0.1/24"])
    receiver.sysctl("net.ipv4.conf.eth0.rp_filter", "1")
    receiver.run("ip", "route", "add", "10.1.0.0/24", "via", "10.2.0.1")
    daemon = relay(gateway, "ssm")
    assert "0xe8010101 0x0a010005" in gateway.run("cat", "/proc/net/mcfilter")
    with sender(source, "eth0") as sock, source.inside():
        sock.bind(("10.1.0.5", 4000))

        def kept() -> bool:
            sock.sendto(b"first", ("232.1.1.1", 5000))
            return bool(daemon.stats()["rules"]["feed-a"]["outputs"][0]["sent"]["packets"])

        wait_for(kept, "the output that keeps the source to have a socket for it")
    received = [
        sink(receiver, "232.1.1.1", 5000, "10.1.0.5"),
        sink(receiver, "232.2.2.2", 5000, "10.2.0.1"),
    ]
    with sender(source, "eth0") as sock, source.inside():
        sock.bind(("10.1.0.6", 0))
        for _ in range(5):
            sock.sendto(b"another source", ("232.1.1.1", 5000))
    source.send("eth0", "232.1.1.1", 5000, count=COUNT, rate=RATE, source_port=4000)
    all_arrive(received)
    assert daemon.stats()["interfaces"]["eth0"]["dropped"]["wrong_source"] == 5


# IPv6


def test_ipv6(lab: Lab) -> None:
    """source -- relay -- receiver, with both families."""
    source, gateway, receiver = lab.hosts("source", "relay", "receiver")
    lab.link(
        *(source, "eth0", ["10.1.0.5/24", "2001:db8:1::5/64"]),
        *(gateway, "eth0", ["10.1.0.1/24", "2001:db8:1::1/64"]),
    )
    lab.link(
        *(receiver, "eth0", ["10.2.0.5/24", "2001:db8:2::5/64", "fe80::5/64"]),
        *(gateway, "eth1", ["10.2.0.1/24", "2001:db8:2::1/64"]),
    )
    relay(gateway, "ipv6")
    joined = gateway.run("ip", "-6", "maddress", "show", "dev", "eth0")
    assert {"ff15::1:1", "ff05::1:3", "ff02::fb"} <= set(joined.split())
    received = [
        sink(receiver, "ff15::2:1", 6000, "2001:db8:2::1"),
        sink(receiver, "fe80::5", 5000, _link_local(gateway, "eth1")),
        sink(receiver, "ff05::2:2", 5000, "2001:db8:2::1"),
        sink(receiver, "239.2.2.3", 5000, "10.2.0.1"),
        sink(receiver, "ff02::fb", 5353, _link_local(gateway, "eth1")),
    ]
    send(
        source,
        *(("ff15::1:1", 5000), ("239.1.1.1", 5000), ("ff05::1:3", 5000), ("ff02::fb", 5353)),
    )
    all_arrive(received)
    back = [sink(source, "ff02::fb", 5353, _link_local(gateway, "eth0"))]
    send(receiver, ("ff02::fb", 5353))
    all_arrive(back)


def _link_local(host: Host, interface: str) -> str:
    (link,) = (link for link in host.links() if link["ifname"] == interface)
    (address,) = (each["local"] for each in link["addr_info"] if each["scope"] == "link")
    return str(address)


# Behind a switch that snoops


def test_snooping(lab: Lab) -> None:
    """source -- west -- relay -- east -- receiver; a bystander at each of the two switches."""
    source, west, gateway, east, receiver = lab.hosts("source", "west", "relay", "east", "receiver")
    bystanders = lab.hosts("bystander-west", "bystander-east")
    for switch, net, ends in (
        (west, "10.1.0", ((source, "eth0", 5), (gateway, "eth0", 1), (bystanders[0], "eth0", 7))),
        (east, "10.2.0", ((receiver, "eth0", 5), (gateway, "eth1", 1), (bystanders[1], "eth0", 7))),
    ):
        for port, (host, interface, number) in enumerate(ends, 1):
            lab.link(host, interface, [f"{net}.{number}/24"], switch, f"p{port}", [])
        lab.bridge(switch, "br0", ["p1", "p2", "p3"], [f"{net}.9/24"], snooping=True, querier=True)
    _keeps_back(source, bystanders[0], "10.1.0.7")
    _keeps_back(receiver, bystanders[1], "10.2.0.7")
    relay(gateway, "snooping")
    received = [sink(receiver, "239.2.2.2", 6000, None)]
    wait_for(partial(_forwards, west, "p2", "239.1.1.1"), "the switch to hear the relay's join")
    wait_for(partial(_forwards, east, "p1", "239.2.2.2"), "the switch to hear the receiver's join")
    seen = [host.capture("eth0", "udp") for host in bystanders]
    send(source, ("239.1.1.1", 5000))
    all_arrive(received)
    assert [capture.stop() for capture in seen] == [[], []]


def _keeps_back(source: Host, bystander: Host, address: str) -> None:
    """Waits until the switch believes in its querier: then it no longer floods."""
    seen = bystander.capture("eth0", "udp port 9999")
    with sender(source, "eth0") as sock:

        def kept_back() -> bool:
            before = len(seen.frames())
            sock.sendto(b"group", ("239.9.9.9", 9999))
            sock.sendto(b"host!", (address, 9999))  # what was sent before it is there by then
            frames = wait_for(partial(_up_to_marker, seen, before), "the marker")
            return len(frames) == 1

        wait_for(kept_back, "the switch to keep back what nobody joined")
    seen.stop()


def _up_to_marker(seen: Capture, before: int) -> list[bytes] | None:
    frames = seen.frames()[before:]
    return frames if frames and udp(frames[-1]).payload == b"host!" else None


def _forwards(switch: Host, port: str, group: str) -> bool:
    entries = switch.run("bridge", "mdb", "show", "dev", "br0").splitlines()
    return any({port, group} <= set(entry.split()) for entry in entries)


# Who lost it


def test_only_where_somebody_listens(lab: Lab) -> None:
    source, gateway, one, two = lab.hosts("source", "gateway", "one", "two")
    lab.link(source, "eth0", ["10.1.0.5/24"], gateway, "eth0", ["10.1.0.1/24"])
    lab.link(gateway, "eth1", ["10.2.0.1/24"], one, "eth0", ["10.2.0.5/24"])
    lab.link(gateway, "eth2", ["10.3.0.1/24"], two, "eth0", ["10.3.0.5/24"])
    daemon = lab.mcrd(gateway, RECIPES["only where somebody listens"])  # idle at first
    wanted = one.receive("eth0", "239.1.7.7", 5000)
    unwanted = two.capture("eth0", "udp port 5000")
    joined = "239.1.7.7"
    wait_for(
        lambda: joined in gateway.run("ip", "maddress", "show", "dev", "eth0"), "the group joined"
    )
    source.send("eth0", "239.1.7.7", 5000, count=50, size=100)

    def sent() -> list[int]:
        return [o["sent"]["packets"] for o in daemon.stats()["rules"]["television"]["outputs"]]

    wait_for(lambda: sent() == [50, 0], "all to be sent")
    assert wanted.stop()["unique"] == 50
    assert unwanted.stop() == []


def test_who_lost_it(lab: Lab) -> None:
    """MPEG-TS over RTP, of which three datagrams are lost before the relay."""
    source, gateway, receiver = lab.hosts("source", "relay", "receiver")
    lab.link(source, "eth0", ["10.1.0.5/24"], gateway, "eth0", ["10.1.0.1/24"])
    lab.link(receiver, "eth0", ["10.2.0.5/24"], gateway, "eth1", ["10.2.0.1/24"])
    daemon = relay(gateway, "who lost it")
    with sender(source, "eth0") as sock:
        for number, packets in enumerate(transport_stream(COUNT)):
            if number not in (100, 101, 200):
                sock.sendto(rtp(number, b"".join(packets)), ("239.1.1.1", 5000))
    said = "lost before it came here (mpeg-ts, rtp): 3 packets"
    wait_for(lambda: said in daemon.ctl("stats").stdout, "what was lost")
    told = "rules.camera: 3 packets were lost before they came here"
    wait_for(lambda: told in daemon.log(), "the line in the log")
    done = daemon.ctl("explain", "camera", "--seconds", "1", check=False)
    assert "lost before it came here: 3 packets" in " ".join(done.stdout.split())


# mDNS between three networks


def test_mdns(lab: Lab) -> None:
    """Three hosts, each in a network of the relay; with avahi in test_reflect.py."""
    gateway, *hosts = lab.hosts("relay", "laptop", "printer", "guest")
    for at, host in enumerate(hosts):
        ends = ([f"10.{at + 1}.0.5/24"], [f"10.{at + 1}.0.1/24"])
        lab.link(host, "eth0", ends[0], gateway, f"eth{at}", ends[1])
    relay(gateway, "mdns")
    wires = [host.capture("eth0", "udp port 5353", direction="in") for host in hosts]
    for version, group in ((4, "224.0.0.251"), (6, "ff02::fb")):
        with sender(hosts[0], "eth0", version) as sock:
            sock.bind(("", 5353))  # as all who do mDNS; others get answers for themselves
            sock.sendto(b"who is there? %d" % version, (group, 5353))
    for wire in wires[1:]:
        wait_for(partial(_has, wire, 2), "the questions")
        seen = [udp(frame) for frame in wire.stop()]
        assert {(each.destination, each.source_port, each.ttl) for each in seen} == {
            ("224.0.0.251", 5353, 255),
            ("ff02::fb", 5353, 255),
        }
    assert wires[0].stop() == []


# SSDP through a firewall


SEARCH = "television/ssdp4:eth0"


def test_ssdp(lab: Lab) -> None:
    """phone -- eth0 relay eth1 -- television; the relay has a firewall, and there is no route."""
    phone, gateway, television = lab.hosts("phone", "relay", "television")
    lab.link(phone, "eth0", ["10.1.0.5/24"], gateway, "eth0", ["10.1.0.1/24"])
    lab.link(gateway, "eth1", ["10.2.0.1/24"], television, "eth0", ["10.2.0.5/24"])
    gateway.run(
        "nft",
        "add table inet filter; add chain inet filter input {"
        " type filter hook input priority 0; policy drop; }",
    )
    daemon = relay(gateway, "ssdp")
    device, phones = Device(television, "eth0"), asker(phone, "eth0")
    group = ("239.255.255.250", 1900)

    def searched() -> bool:
        phones.sendto(b"M-SEARCH * HTTP/1.1", group)
        return bool(daemon.stats()["rules"][SEARCH]["outputs"][0]["sent"]["packets"])

    wait_for(searched, "the search on the other side")
    device.answer(b"HTTP/1.1 200 OK")
    answers = partial(_answered, daemon)
    assert answers() == 0
    _let_in_answers(gateway)

    def found() -> bool:
        device.answers.sendto(b"HTTP/1.1 200 OK", device.asked[0])
        return answers() > 0

    wait_for(found, "the answer at the relay")
    assert phones.recv(100) == b"HTTP/1.1 200 OK"
    # And announcements.
    seen = phone.capture("eth0", "udp dst port 1900", direction="in")
    with sender(television, "eth0") as sock:
        sock.sendto(b"NOTIFY * HTTP/1.1", group)
        wait_for(partial(_has, seen, 1), "the announcement")


def _answered(daemon: Mcrd) -> int:
    found: int = daemon.stats()["rules"][SEARCH]["outputs"][0]["answers"]["sent"]["packets"]
    return found


def _let_in_answers(gateway: Host) -> None:
    """By the recipe's set, with the group of this process; without one, by the ports alone."""
    path = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    rule = "add rule inet filter input iifname eth1 meta l4proto udp"
    gateway.run("nft", "add set inet filter mcrd { type cgroupsv2; }")
    gateway.run("nft", f"{rule} socket cgroupv2 level {path.count('/') + 1} @mcrd accept")
    element = f'add element inet filter mcrd {{ "{path}" }}'
    if not path or gateway.call("nft", element).returncode != 0:
        gateway.run("nft", f"{rule} udp dport 32768-60999 accept")


# HDHomeRun


def test_hdhomerun(lab: Lab) -> None:
    """computer -- eth0 relay eth1 -- tuner; the program of the maker finds it, without a route."""
    discover = program("hdhomerun_config", "hdhomerun-config")
    computer, gateway, tuner = lab.hosts("computer", "relay", "tuner")
    lab.link(computer, "eth0", ["10.1.0.5/24"], gateway, "eth0", ["10.1.0.1/24"])
    lab.link(gateway, "eth1", ["10.2.0.1/24"], tuner, "eth0", ["10.2.0.5/24"])
    if (tried := computer.call(discover)).returncode == 127:
        absent(f"hdhomerun_config does not run here: {tried.stderr.strip()}")
    relay(gateway, "hdhomerun")
    # hdhomerun_pkt.h of the library: type and length, then a tag and length for each value; CRC.
    body = struct.pack("!BBIBBI", 1, 4, 1, 2, 4, DEVICE)
    packet = struct.pack("!HH", 3, len(body)) + body
    answer = packet + struct.pack("<I", zlib.crc32(packet))
    with caster(tuner, "eth0") as sock, tuner.inside():
        sock.settimeout(30)
        sock.bind(("", 65001))
        said = lab.file("discover")
        with said.open("wb") as output:
            process = computer.start(discover, "discover", stdout=output, stderr=output)
        who = ("10.2.0.1", 0)
        while process.poll() is None:  # it asks more than once, to each kind of broadcast
            with contextlib.suppress(TimeoutError):
                who = sock.recvfrom(1000)[1]
                sock.settimeout(0.1)
                sock.sendto(answer, who)
    assert who[0] == "10.2.0.1"
    assert said.read_text() == f"hdhomerun device {DEVICE:08X} found at 10.2.0.5\n"


# Wake-on-LAN


def test_wake_on_lan(lab: Lab) -> None:
    """laptop ==wg0== relay -- eth0 sleeper, eth1 office; a plain cable stands for the VPN."""
    laptop, gateway, sleeper, office = lab.hosts("laptop", "relay", "sleeper", "office")
    lab.link(laptop, "wg0", ["10.100.0.2/24"], gateway, "wg0", ["10.100.0.1/24"])
    lab.link(sleeper, "eth0", [], gateway, "eth0", ["10.1.0.1/24"])
    lab.link(office, "eth0", ["10.2.0.5/24"], gateway, "eth1", ["10.2.0.1/24"])
    relay(gateway, "wake-on-lan")
    woken = sleeper.capture("eth0", "udp port 9", direction="in")
    ways = ((laptop, "wg0", "10.100.0.1"), (office, "eth0", "255.255.255.255"))
    magic = b"\xff" * 6 + bytes.fromhex("020000000005") * 16
    for number, (host, interface, to) in enumerate(ways, 1):
        with caster(host, interface) as sock:
            sock.sendto(magic, (to, 9))
        wait_for(partial(_has, woken, number), f"the packet of {host}")
    for frame in woken.stop():
        assert frame[:6] == b"\xff" * 6
        assert (udp(frame).destination, udp(frame).payload) == ("10.1.0.255", magic)


def _has(capture: Capture, frames: int) -> bool:
    return len(capture.frames()) == frames


# A building, TAK, ROS 2: both ways between two networks


def test_both_ways_between_two_networks(lab: Lab) -> None:
    """What is said to each group, or by broadcast, comes to the other network, and never back."""
    gateway, *hosts = lab.hosts("relay", "left", "right")
    for at, host in enumerate(hosts):
        addresses = ([f"10.{at + 1}.0.5/24"], [f"10.{at + 1}.0.1/24"])
        lab.link(host, "eth0", addresses[0], gateway, f"eth{at}", addresses[1])
    wires = [host.capture("eth0", "udp and dst port not 9", direction="in") for host in hosts]
    daemon = lab.mcrd(gateway, "".join(RECIPES[name] for name in ("building", "tak", "ros 2")))
    assert daemon.status()["rules"] == {"active": 10}
    places = (
        *(("255.255.255.255", 47808), ("224.0.23.12", 3671)),
        *(("239.2.3.1", 6969), ("224.10.10.1", 17012), ("239.255.0.1", 7400)),
    )
    for seen, place in enumerate(places, 1):
        for at, host in enumerate(hosts):
            with caster(host, "eth0") as sock:
                sock.sendto(b"%d to %d" % (at, place[1]), place)
            wait_for(partial(_has, wires[1 - at], seen), f"what {host} said to {place}")
    for at, wire in enumerate(wires):
        datagrams = [udp(frame) for frame in wire.stop()]
        assert {each.payload[:1] for each in datagrams} == {b"%d" % (1 - at)}
        kept = {each.source for each in datagrams if each.port == 47808}
        assert kept == {f"10.{2 - at}.0.5"}


# Into containers


def test_containers(lab: Lab) -> None:
    """source -- relay, with two bridges, the second of which comes later."""
    source, gateway, first, second = lab.hosts("source", "relay", "first", "second")
    lab.link(source, "eth0", ["10.1.0.5/24"], gateway, "eth0", ["10.1.0.1/24"])
    _container(lab, gateway, first, "4f2a", 1)
    daemon = lab.mcrd(gateway, RECIPES["containers"])
    assert daemon.stats()["rules"]["to-containers"]["state"] == "active"
    _container(lab, gateway, second, "91c0", 2)
    ends = ("eth0", "br-*@br-4f2a", "br-*@br-91c0")
    made = [f"discovery/mdns{version}:{end}" for version in (4, 6) for end in ends]
    names = ["to-containers", *made]

    def all_active() -> bool:
        now = daemon.stats()["rules"]
        return list(now) == names and {one["state"] for one in now.values()} == {"active"}

    wait_for(all_active, "the rules of both bridges")
    received = [
        sink(host, "239.1.1.1", 5000, f"172.18.{at}.1") for at, host in ((1, first), (2, second))
    ]
    send(source, ("239.1.1.1", 5000))
    all_arrive(received)
    wires = [host.capture("eth0", "udp port 5353", direction="in") for host in (first, second)]
    with sender(first, "eth0") as sock:
        sock.bind(("", 5353))
        sock.sendto(b"who is there?", ("224.0.0.251", 5353))
    wait_for(wires[1].frames, "the question")
    (seen,) = map(udp, wires[1].stop())
    assert (seen.source, seen.source_port, seen.ttl) == ("172.18.2.1", 5353, 255)
    assert wires[0].stop() == []
    # A container's network that goes takes its rules along.
    gateway.run("ip", "link", "delete", "br-4f2a")
    names[:] = [name for name in names if "4f2a" not in name]
    wait_for(all_active, "the rules of the other one alone")


def _container(lab: Lab, gateway: Host, host: Host, name: str, number: int) -> None:
    lab.link(host, "eth0", [f"172.18.{number}.2/24"], gateway, f"veth{number}", [])
    lab.bridge(gateway, f"br-{name}", [f"veth{number}"], [f"172.18.{number}.1/24"])
