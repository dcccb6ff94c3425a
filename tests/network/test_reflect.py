"""[reflect.NAME] between networks: real programs at both ends, and what each of them finds."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import re
import signal
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.lab import wait_for
from tests.lab.avahi import Avahi, absent, program
from tests.lab.datagrams import sender, udp
from tests.network.test_broadcast import caster
from tests.network.test_loops import BOUND, LATE, Wires
from tests.network.test_replies import Device, asker

if TYPE_CHECKING:
    import subprocess

    from tests.lab import Capture, Fork, Host, Lab, Mcrd, Triangle

HOME = """
[reflect.home]
interfaces = ["r0", "r1", "r2", "r3"]
protocol = "mdns"
"""
CACHE_FLUSH = bytes.fromhex("00018001")  # a record of type A, class IN


def finds(avahi: Avahi, *services: str) -> None:
    """Waits until it finds these alone, over IPv4 and IPv6."""
    wanted = {(family, name) for name in services for family in ("IPv4", "IPv6")}
    try:
        wait_for(lambda: avahi.found() == wanted, f"{services} to be all that is found")
    except TimeoutError as error:
        raise AssertionError(f"{error}; missing or strange: {avahi.found() ^ wanted}") from None


def states(daemon: Mcrd) -> dict[str, str]:
    return {name: rule["state"] for name, rule in daemon.stats()["rules"].items()}


def test_avahi_in_three_networks_and_a_fourth_that_comes_later(fork: Fork) -> None:
    """Each finds by mDNS what is in all others, and hears when it goes."""
    daemon = fork.lab.mcrd(fork.relay, HOME)
    places = [f"home/mdns{family}:r{number}" for family in (4, 6) for number in range(4)]
    late = {name for name in places if name.endswith("r3")}
    assert states(daemon) == {name: "waiting" if name in late else "active" for name in places}
    hosts = (fork.source, fork.sink, fork.sink2)
    seen = fork.sink.capture("k0", "udp src port 5353 and ip src host 10.2.0.1", direction="in")
    avahis = [Avahi(host, host.name) for host in hosts]
    services = [f"printer-of-{host.name}" for host in hosts]
    published = [
        avahi.publish(service, 631) for avahi, service in zip(avahis, services, strict=True)
    ]
    for avahi in avahis:
        finds(avahi, *services)
    # What makes others forget older records (RFC 6762, section 10.2) is in what is relayed.
    announced = [each.payload for each in map(udp, seen.stop()) if each.payload[2] >> 7]
    assert any(CACHE_FLUSH in payload for payload in announced)
    # A network that comes later joins by itself.
    (fourth,) = fork.lab.hosts("fourth")
    fork.lab.link(fourth, "k2", ["10.4.0.2/24"], fork.relay, "r3", ["10.4.0.1/24"])
    wait_for(lambda: set(states(daemon).values()) == {"active"}, "the rules of r3")
    latest = Avahi(fourth, "fourth")
    finds(latest, *services)
    assert latest.look() == latest.found()
    # A goodbye comes through; else the service would be known for more than an hour.
    published[-1].send_signal(signal.SIGTERM)
    for avahi in (*avahis, latest):
        finds(avahi, *services[:-1])
    _shows(daemon, places)


def _shows(daemon: Mcrd, places: list[str]) -> None:
    """What mcrctl says of the rules, by the name of the table and by their own."""
    assert list(json.loads(daemon.ctl("rules", "home", "--json").stdout)["rules"]) == places
    shown = daemon.ctl("rules", "home/mdns4:r0").stdout
    assert "home/mdns4:r0" in shown
    assert "home/mdns4:r1" not in shown
    told = daemon.ctl("explain", "home", "--seconds", "0.2", check=False)
    assert f"home is 8 rules; name one: {', '.join(places[:3])}, ..." in told.stderr
    told = daemon.ctl("explain", "home/mdns6:r2", "--seconds", "0.2", check=False)
    assert told.returncode in (0, 1), told.stderr
    assert "home/mdns6:r2" in told.stdout
    stats = daemon.stats()["rules"]
    assert sum(rule["dropped"]["looped"] for rule in stats.values()) == 0
    assert all(rule["received"]["packets"] for name, rule in stats.items() if "r3" not in name)
    doctor = json.loads(daemon.ctl("doctor", "--json", check=False).stdout)["findings"]
    assert not [each for each in doctor if each["check"] == "rules" and each["state"] == "trouble"]
    daemon.edit(HOME.replace('"r2", ', ""))
    left = [name for name in places if not name.endswith("r2")]
    wait_for(lambda: list(daemon.stats()["rules"]) == left, "the rules of r2 to end")


def test_two_relays_side_by_side_make_no_storm(lab: Lab) -> None:
    """Three networks, and two relays with the same table."""
    wires = Wires(lab, 3, [(0, 1, 2), (0, 1, 2)])
    for host in wires.relays:
        for number in range(3):  # each datagram is a frame
            host.run("ethtool", "-K", f"r{number}", "tx-udp-segmentation", "off")
    wires.run(HOME.replace(', "r3"', ""))
    assert wires.silence() < BOUND
    wires.send(b"one question")
    assert wires.silence() < LATE * BOUND
    first, second = (Avahi(host, host.name) for host in wires.networks[:2])
    published = first.publish("printer", 631)
    finds(second, "printer")
    _a_simple_resolver(wires)
    published.send_signal(signal.SIGTERM)
    # That it is gone then is asked of one relay alone, above: a copy of an announcement that waited
    # in the other for longer than the guard knows it may come after the goodbye.
    wires.silence()


def _a_simple_resolver(wires: Wires) -> None:
    """It asks once, from a port of its own: RFC 6762, sections 5.1 and 6.7."""
    question = b"\x04_ipp\x04_tcp\x05local\0" + bytes.fromhex("000c0001")  # PTR, IN
    host = wires.networks[1]
    seen = host.capture("wire", "udp src port 5353", direction="in")
    sock = asker(host, "wire")
    sock.sendto(bytes.fromhex("471100000001000000000000") + question, ("224.0.0.251", 5353))
    answer, (address, port) = sock.recvfrom(9000)
    assert (answer[:2], answer[2] >> 7) == (bytes.fromhex("4711"), 1)
    assert question in answer
    assert b"printer" in answer
    assert (address.startswith("10.2."), port) == (True, 5353)
    wires.silence()
    ours = [each for each in map(udp, seen.stop()) if each.port == sock.getsockname()[1]]
    assert {each.ttl for each in ours} == {255}
    # Mostly 9: asked, relayed twice by each relay, and answered to each, which passes it on.
    assert wires.began_with(bytes.fromhex("4711")) < LATE * BOUND


SSDP = """
[reflect.television]
interfaces = ["eth0", "eth1"]
protocol = "ssdp"
ask = ["eth0"]
family = "ipv4"
"""
FIREWALL = """
table netdev wall {
  counter others {}
  chain of_relay {
    type filter hook ingress device "p0" priority 0;
    ether type arp accept
    ip saddr 10.2.0.1 accept
    ether type ip counter name others drop
  }
  chain of_network {
    type filter hook ingress device "p1" priority 0;
    ether type arp accept
    ip daddr { 10.2.0.1, 224.0.0.0/4 } accept
    ether type ip counter name others drop
  }
}
"""


def test_a_search_through_a_firewall_that_knows_the_relay_alone(lab: Lab) -> None:
    """phone -- eth0 relay eth1 -- firewall -- television; no route leads from one to the other."""
    phone, relay, wall, television = lab.hosts("phone", "relay", "wall", "television")
    lab.link(phone, "eth0", ["10.1.0.5/24"], relay, "eth0", ["10.1.0.1/24"])
    lab.link(relay, "eth1", ["10.2.0.1/24"], wall, "p0", [])
    lab.link(television, "eth0", ["10.2.0.5/24"], wall, "p1", [])
    lab.bridge(wall, "br0", ["p0", "p1"])
    rules = lab.file("wall.nft")
    rules.write_text(FIREWALL)
    wall.run("nft", "-f", str(rules))
    daemon = lab.mcrd(relay, SSDP)
    device = Device(television, "eth0")
    seen = television.capture("eth0", "udp dst port 1900", direction="in")
    for number in range(10):  # each from a port of its own
        sock = asker(phone, "eth0")
        search = b"M-SEARCH * HTTP/1.1\r\nST: %d\r\n\r\n" % number
        sock.sendto(search, ("239.255.255.250", 1900))
        assert device.answer(b"HTTP/1.1 200 OK %d" % number) == search
        assert sock.recv(100) == b"HTTP/1.1 200 OK %d" % number
    assert {address for address, _ in device.asked} == {"10.2.0.1"}
    assert {udp(frame).ttl for frame in seen.stop()} == {2}
    # What the television says of itself goes to the phone; what it asks is not answered.
    heard = phone.capture("eth0", "udp dst port 1900", direction="in")
    with caster(television, "eth0") as sock:
        sock.sendto(b"NOTIFY * HTTP/1.1", ("239.255.255.250", 1900))
    wait_for(heard.frames, "the announcement")
    (told,) = map(udp, heard.stop())
    assert (told.payload, told.source, told.ttl) == (b"NOTIFY * HTTP/1.1", "10.1.0.1", 2)
    rules_now = daemon.stats()["rules"]
    assert rules_now["television/ssdp4:eth0"]["outputs"][0]["answers"]["askers"] == 10
    assert rules_now["television/ssdp4:eth1"]["outputs"][0]["answers"] is None
    counted = wall.run("nft", "-j", "list", "counter", "netdev", "wall", "others")
    (counter,) = (each["counter"] for each in json.loads(counted)["nftables"] if "counter" in each)
    assert counter["packets"] == 0


# What it is connected to has to be public. Nothing is sent there.
IGD = """
ext_ifname=wan
ext_ip=5.5.5.5
listening_ip=eth0
uuid=7f2b4b3a-2a4c-4e3a-9f65-0d8c1f3f6a01
enable_natpmp=no
"""


def networks(lab: Lab) -> list[Host]:
    """laptop -- eth0 relay eth1 -- gateway."""
    laptop, relay, gateway = lab.hosts("laptop", "relay", "gateway")
    lab.link(laptop, "eth0", ["10.1.0.5/24"], relay, "eth0", ["10.1.0.1/24"])
    lab.link(gateway, "eth0", ["10.2.0.5/24"], relay, "eth1", ["10.2.0.1/24"])
    return [laptop, relay, gateway]


def real_device(gateway: Host) -> subprocess.Popen[bytes]:
    """The miniupnpd of Debian, which answers searches."""
    miniupnpd = program("miniupnpd", "miniupnpd-nftables")
    gateway.run("ip", "link", "add", "wan", "type", "bridge")
    gateway.run("ip", "address", "add", "192.0.2.1/24", "dev", "wan")
    conf, pid = gateway.lab.file("igd.conf"), gateway.lab.file("igd.pid")
    conf.write_text(IGD)
    device = gateway.start(miniupnpd, "-d", "-f", str(conf), "-P", str(pid))
    wait_for(lambda: ":1900 " in gateway.run("ss", "-Hunl"), "the device to listen")
    return device


def test_real_programs_find_a_real_device(lab: Lab) -> None:
    """upnpc, ten at once and each from a port of its own, finds miniupnpd: no route between."""
    upnpc = program("upnpc", "miniupnpc")
    laptop, relay, gateway = networks(lab)
    if (tried := laptop.call(upnpc, "-?")).returncode == 127:
        absent(f"upnpc does not run here: {tried.stderr.strip()}")
    daemon = lab.mcrd(relay, SSDP)
    device = real_device(gateway)
    found = [lab.file(f"upnpc{number}") for number in range(10)]
    searches = []
    # It lets others have its port, and the kernel may choose one twice; then one hears nothing.
    for number, path in enumerate(found):
        command = (upnpc, "-m", "eth0", "-z", str(20_000 + number), "-l")
        with path.open("wb") as output:
            searches.append(laptop.start(*command, stdout=output, stderr=output))
    for search in searches:
        search.wait(60)
    assert device.poll() is None
    where = re.compile(r"^ desc: http://10\.2\.0\.5:\d+/rootDesc\.xml$", re.MULTILINE)
    said = [path.read_text() for path in found]
    assert [text for text in said if not where.search(text)] == []
    counted = daemon.stats()["rules"]["television/ssdp4:eth0"]["outputs"][0]
    assert counted["answers"]["askers"] == 10
    assert counted["new_member"] == 0


def test_wakeonlan_of_debian(triangle: Triangle) -> None:
    """Broadcast by default, and to port 9; and never back."""
    wakeonlan = program("wakeonlan", "wakeonlan")
    table = '[reflect.wake]\ninterfaces = ["r0", "r1"]\nprotocol = "wake-on-lan"\none_way = true\n'
    table += '[reflect.more]\ninterfaces = ["r[01]"]\naddress = "239.1.1.1"\nport = 5000\n'
    daemon = triangle.lab.mcrd(triangle.relay, table)
    for name in ("more", "more/udp4:r[01]@r1"):
        (warning,) = json.loads(daemon.ctl("rules", name, "--json").stdout)["warnings"]
        assert "mcr.toml:5:1: reflect.more.ttl: 1 by default, so the first" in warning
    triangle.source.run("ip", "route", "add", "255.255.255.255", "dev", "s0")
    woken = triangle.sink.capture("k0", "udp", direction="in")
    for number, (port, mac) in enumerate(((9, "02:00:00:00:00:05"), (7, "02:00:00:00:00:06")), 1):
        triangle.source.run(wakeonlan, "-p", str(port), mac)
        wait_for(partial(_has, woken, number), f"the packet to port {port}")
    datagrams = [udp(frame) for frame in woken.stop()]
    assert [(each.destination, each.port) for each in datagrams] == [
        ("10.2.0.255", 9),
        ("10.2.0.255", 7),
    ]
    magic = b"\xff" * 6 + bytes.fromhex("020000000006") * 16
    assert datagrams[1].payload == magic


def _has(capture: Capture, frames: int) -> bool:
    return len(capture.frames()) == frames


BUILDING = """
[reflect.hvac]
interfaces = ["r0", "r1"]
protocol = "bacnet"

[reflect.lights]
interfaces = ["r0", "r1"]
protocol = "knx"

[reflect.names]
interfaces = ["r0", "r1"]
protocol = "llmnr"
family = "ipv4"
"""


def test_bacnet_and_knx_of_a_building(triangle: Triangle) -> None:
    """BACnet hosts answer to the source, which is kept; KNXnet/IP searches are answered."""
    relay, workstation, controller = triangle.relay, triangle.source, triangle.sink
    daemon = triangle.lab.mcrd(relay, BUILDING)
    # The relay is the router, too.
    relay.sysctl("net.ipv4.conf.all.forwarding", "1")
    workstation.run("ip", "route", "add", "10.2.0.0/24", "via", "10.1.0.2")
    controller.run("ip", "route", "add", "10.1.0.0/24", "via", "10.2.0.1")
    who_is, i_am = bytes.fromhex("810b000801001008"), bytes.fromhex("810a000901001000c4")
    with (
        caster(workstation, "s0") as asks,
        caster(controller, "k0") as answers,
        workstation.inside(),
    ):
        asks.bind(("", 47808))
        asks.settimeout(30)
        answers.settimeout(30)
        with controller.inside():
            answers.bind(("", 47808))
        asks.sendto(who_is, ("10.1.0.255", 47808))
        assert answers.recvfrom(100) == (who_is, ("10.1.0.1", 47808))
        assert asks.recv(100) == who_is  # a host hears itself
        answers.sendto(i_am, ("10.1.0.1", 47808))  # to where it came from
        assert asks.recvfrom(100) == (i_am, ("10.2.0.2", 47808))
        answers.sendto(i_am + b"!", ("255.255.255.255", 47808))  # or to everybody
        assert asks.recvfrom(100) == (i_am + b"!", ("10.2.0.2", 47808))
    device = Device(controller, "k0", "224.0.23.12", 3671)
    sock = asker(workstation, "s0")
    search = bytes.fromhex("06100201000e0801000000000000")  # answer to where it came from
    sock.sendto(search, ("224.0.23.12", 3671))
    assert device.answer(b"SEARCH_RESPONSE") == search
    assert sock.recv(100) == b"SEARCH_RESPONSE"
    _names(workstation, controller)
    found: dict[str, Any] = daemon.stats()["rules"]
    assert found["hvac/bacnet4:r0"]["outputs"][0]["sent"]["packets"] == 1


def _names(workstation: Host, controller: Host) -> None:
    """LLMNR is answered by unicast, to where a question came from (RFC 4795, section 2.3).

    That is a port of the resolver's own, or 5355 as with systemd-resolved.
    """
    responder = Device(controller, "k0", "224.0.0.252", 5355)
    for port in (0, 5355):
        sock = sender(workstation, "s0")
        with closing(sock), workstation.inside():
            sock.settimeout(30)
            sock.bind(("", port))
            sock.sendto(b"\x00%d who is controller?" % port, ("224.0.0.252", 5355))
            answer = b"\x00%d controller is here" % port
            assert responder.answer(answer).endswith(b"who is controller?")
            assert sock.recvfrom(100)[0] == answer
    assert {address for address, _ in responder.asked} == {"10.2.0.1"}
