"""mcrctl explain: what is broken on purpose is what it says first; and it disturbs nothing."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from tests.dataplane.frames import frame
from tests.lab import Host, Lab, Mcrd, Triangle, wait_for
from tests.lab.daemon import console_script

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOOK = ("--seconds", "0.5")
HEALTHY = None
Cause = tuple[str, str] | None
"""Stage and topic of the first no."""


def explain(daemon: Mcrd, rule: str, *options: str) -> dict[str, Any]:
    """What it says as JSON; the exit status has to fit."""
    status, out, error = daemon.ctl_again("explain", rule, "--json", *(options or LOOK))
    assert error == ""
    found: dict[str, Any] = json.loads(out)
    assert status == (found["answer"] is not None)
    return found


def cause(found: dict[str, Any]) -> Cause:
    first = found["cause"]
    return first and (first["stage"], first["topic"])


def causes(daemon: Mcrd, rules: Sequence[str]) -> dict[str, Cause]:
    return {name: cause(explain(daemon, name)) for name in rules}


def rule(name: str, given: str, *outputs: str) -> str:
    """A rule whose input and outputs are the insides of inline tables."""
    sent = ", ".join(f"{{ {output} }}" for output in outputs)
    return f"[rules.{name}]\ninput = {{ {given} }}\noutputs = [{sent}]\n"


def r0(address: str, port: int, more: str = "") -> str:
    return f'interface = "r0", address = "{address}", port = {port}{more}'


def to(interface: str, address: str, port: int, more: str = ", ttl = 8") -> str:
    return f'interface = "{interface}", address = "{address}", port = {port}{more}'


def fragment(group: str, port: int) -> bytes:
    """The first fragment of an IPv6 datagram."""
    whole = frame(b"data", source="fd01::1", destination=group, ports=(1234, port))
    ip, udp = whole[14:54], whole[54:]
    header = struct.pack("!BBHI", ip[6], 0, 1, 7)
    size = struct.pack("!H", len(header) + len(udp))
    return whole[:14] + ip[:4] + size + bytes([44]) + ip[7:] + header + udp


@contextmanager
def raw(host: Host, interface: str, *frames: bytes) -> Iterator[None]:
    """These frames again and again, fifty times a second."""
    ended = threading.Event()
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        with host.inside():
            sock.bind((interface, 0))

        def send() -> None:
            while not ended.wait(0.02):
                for each in frames:
                    sock.send(each)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def test_what_comes_in(triangle: Triangle) -> None:
    out = to("r1", "239.2.2.2", 6000)
    expected: dict[str, Cause] = {
        "healthy": HEALTHY,
        "healthy6": HEALTHY,
        "port": ("frames", "port"),
        "group": ("frames", "group"),
        "source": ("frames", "source"),
        "excluded": ("frames", "source"),
        "tagged": ("frames", "vlan"),
        "untagged": ("frames", "vlan"),
        "checksum": ("frames", "checksum"),
        "fragments": ("frames", "fragment"),
        "esp": ("frames", "protocol"),
        "silent": ("frames", "nothing"),
        "twice": ("frames", "vlan"),
        "own": ("frames", "own"),
        "nobody": ("group", "host"),
        "disabled": ("file", "disabled"),
        "missing": ("interface", "missing"),
    }
    text = "".join(
        (
            rule("healthy", r0("239.1.1.1", 5000), out, to("r1", "10.2.0.2", 7000)),
            rule("healthy6", r0("ff15::1:1", 5000), to("r1", "fd02::2", 7000)),
            rule("port", r0("239.1.1.3", 5999), out),
            rule("group", r0("239.1.9.3", 5003), out),
            rule("source", r0("239.1.1.4", 5000, ', sources = ["10.1.0.99"]'), out),
            rule("excluded", r0("239.1.1.5", 5000, ', exclude = ["10.1.0.0/24"]'), out),
            rule("tagged", r0("239.1.2.1", 5011), out),
            rule("untagged", r0("239.1.2.2", 5012, ", vlan = 7"), out),
            rule("checksum", r0("239.1.2.3", 5013), out),
            rule("fragments", r0("ff15::2:1", 5014), to("r1", "ff15::3", 6000)),
            '[rules.esp]\ninput = { interface = "r0", address = "239.1.2.5", protocol = "esp" }\n'
            'outputs = [{ interface = "r1", address = "10.2.0.2" }]\n',
            rule("second", r0("239.1.1.2", 5000), out),
            rule("third", r0("239.1.1.3", 5000), out),
            rule("silent", r0("239.1.8.8", 5000), out),  # beside those, with their port
            rule("twice", r0("239.1.2.6", 5016), out),
            rule("own", r0("239.1.2.7", 5017), out),
            rule("sends", r0("239.1.1.6", 5000), to("r0", "239.1.2.7", 5017)),
            rule("nobody", r0("10.1.0.50", 5018), out),
            rule("disabled", r0("239.1.1.7", 5000), out).replace("]\n", "]\nenabled = false\n", 1),
            rule("missing", r0("239.1.1.8", 5000).replace("r0", "r9"), out),
        )
    )
    daemon = triangle.lab.mcrd(triangle.relay, text)
    for address, port in (("10.2.0.2", 7000), ("fd02::2", 7000), ("239.2.2.2", 6000)):
        triangle.sink.receive("k0", address, port)
    triangle.source.start_send("s0", "239.1.1.1", 5000, rate=600, flows=6)
    triangle.source.start_send("s0", "ff15::1:1", 5000, rate=200)
    triangle.source.start_send("s0", "239.1.1.3", 5003, rate=200)
    frames = (
        frame(destination="239.1.2.1", ports=(1234, 5011), tags=(9,)),
        frame(destination="239.1.2.2", ports=(1234, 5012), tags=(8,)),
        frame(destination="239.1.2.3", ports=(1234, 5013), spoil=1),
        fragment("ff15::2:1", 5014),
        frame(destination="239.1.2.5", ports=(1234, 5015)),
        frame(destination="239.1.2.6", ports=(1234, 5016), tags=(10, 20)),
    )
    with raw(triangle.source, "s0", *frames):
        wait_for(
            lambda: daemon.stats()["rules"]["healthy6"]["outputs"][0]["sent"]["packets"] > 100,
            "the streams",
        )
        assert causes(daemon, list(expected)) == expected
        healthy = explain(daemon, "healthy")
        unread = daemon.ctl("explain", "source", *LOOK, check=False).stdout
    assert "10.1.0.1" in unread.splitlines()[0]
    assert "sources" in unread.splitlines()[1]
    assert {f["answer"] for f in healthy["findings"]} <= {"yes", "note"}
    assert "239.1.1.1" in {kind["destination"] for kind in healthy["look"]["kinds"]}
    assert daemon.stats()["interfaces"]["r0"]["dropped"]["ring_full"] == 0


def test_what_goes_out(triangle: Triangle) -> None:
    """r2 has no address, r3 is down, r4 has no carrier, r5 has an MTU of 1280."""
    lab, relay, sink = triangle.lab, triangle.relay, triangle.sink
    lab.link(relay, "r2", [], sink, "k2", [])
    lab.link(relay, "r3", ["10.3.0.1/24"], sink, "k3", [])
    lab.link(relay, "r4", ["10.4.0.1/24"], sink, "k4", [])
    lab.link(relay, "r5", ["10.5.0.1/24"], sink, "k5", ["10.5.0.2/24"], mtu=1280)
    relay.run("ip", "link", "set", "r3", "down")
    sink.run("ip", "link", "set", "k4", "down")
    sink.sysctl("net.ipv4.icmp_ratelimit", "0")  # else it refuses once in a second
    relay.run("ip", "route", "add", "10.50.0.0/24", "via", "10.2.0.2")
    relay.run("ip", "route", "add", "10.51.0.0/24", "via", "10.2.0.2", "mtu", "1300")
    # Behind the sink, which answers ARP for what is there.
    for name in ("ip_forward", "conf.k0.proxy_arp"):
        sink.sysctl(f"net.ipv4.{name}", "1")
    sink.run("ip", "route", "add", "10.55.0.0/24", "dev", "k5")
    relay.run("ip", "route", "add", "10.55.0.0/24", "dev", "r1")
    relay.run("ip", "rule", "add", "from", "10.2.0.1", "lookup", "100")
    relay.run("ip", "route", "add", "10.57.0.0/24", "via", "10.2.0.2", "table", "100")
    sink.run("ip", "address", "add", "10.57.0.1/32", "dev", "k0")
    sink.receive("k0", "10.57.0.1", 6000)
    for host, hook, verdict in (
        (relay, "output", "udp dport 6009 drop"),
        (sink, "input", "udp dport 6011 reject with icmp type admin-prohibited"),
    ):
        firewall = lab.file("rules.nft")
        chain = f"chain c {{ type filter hook {hook} priority 0; {verdict}; }}"
        firewall.write_text(f"table ip test {{ {chain}; }}\n")
        host.run("nft", "-f", str(firewall))
    outputs: dict[str, tuple[str, Cause]] = {
        "address": (to("r2", "239.2.2.2", 6000), ("output", "address")),
        "down": (to("r3", "239.2.2.2", 6000), ("output", "down")),
        "carrier": (to("r4", "239.2.2.2", 6000), ("output", "carrier")),
        "mtu": (to("r5", "239.2.2.3", 6000), ("output", "mtu")),
        "route_mtu": (to("r1", "10.51.0.1", 6000), ("output", "mtu")),
        "route": (to("r1", "10.99.0.1", 6000), ("output", "route")),
        "neighbour": (to("r1", "10.2.0.77", 6000), ("output", "neighbour")),
        "ttl": (to("r1", "10.50.0.1", 6000, ", ttl = 1"), ("output", "ttl")),
        "firewall": (to("r1", "239.2.2.4", 6009), ("output", "EPERM")),
        "refused": (to("r1", "10.2.0.2", 6010), ("output", "refused")),
        "policy": (to("r1", "10.57.0.1", 6000, ', ttl = 8, source = "10.2.0.1"'), HEALTHY),
        "expired": (to("r1", "10.55.0.1", 6000, ", ttl = 1"), ("output", "refused")),
        "prohibited": (to("r1", "10.2.0.2", 6011), ("output", "refused")),
        "gone": (to("r9", "239.2.2.5", 6000), ("output", "missing")),
        "group": (to("r1", "239.2.2.6", 6000, ", ttl = 1"), HEALTHY),
    }
    text = "".join(
        rule(name, r0(f"239.1.1.{number}", 5000), output)
        for number, (name, (output, _)) in enumerate(outputs.items(), 1)
    )
    daemon = lab.mcrd(relay, text)
    triangle.source.start_send("s0", "239.1.1.1", 5000, rate=1500, flows=15, size=1400)
    wait_for(
        lambda: daemon.stats()["rules"]["refused"]["outputs"][0]["refused"], "the first refusal"
    )
    found = {name: explain(daemon, name) for name in outputs}
    assert {name: cause(each) for name, each in found.items()} == {
        name: expected for name, (_, expected) in outputs.items()
    }
    notes = {f["topic"] for f in found["group"]["findings"] if f["answer"] == "note"}
    assert "ttl" in notes
    assert "TTL" in found["expired"]["answer"]
    assert "10.2.0.2" in found["prohibited"]["answer"]
    # Without a daemon: the same, as far as it can be told.
    told = {
        name: cause(explain(daemon, name, "--config", str(daemon.config)))
        for name in ("address", "down", "carrier", "route", "ttl", "gone", "firewall")
    }
    assert told == {name: outputs[name][1] if name != "firewall" else HEALTHY for name in told}


def test_the_input_interface_goes_down(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", r0("239.1.1.1", 5000), to("r1", "239.2.2.2", 6000))
    )
    triangle.source.run("ip", "link", "set", "s0", "down")
    wait_for(lambda: "waiting" in daemon.status()["rules"], "the rule to wait")
    assert cause(explain(daemon, "a")) == ("interface", "carrier")
    triangle.relay.run("ip", "link", "set", "r0", "down")
    assert cause(explain(daemon, "a")) == ("interface", "down")


def test_the_rule_file(triangle: Triangle) -> None:
    """Refused, changed and not loaded, and a rule that only the file has."""
    good = rule("a", r0("239.1.1.1", 5000), to("r1", "239.2.2.2", 6000))
    unwatched = "[daemon]\nwatch = false\n"
    daemon = triangle.lab.mcrd(triangle.relay, unwatched + good)
    triangle.source.start_send("s0", "239.1.1.1", 5000, rate=200)
    wait_for(lambda: daemon.stats()["rules"]["a"]["received"]["packets"], "the stream")
    assert cause(explain(daemon, "a")) is HEALTHY
    daemon.edit(unwatched + good + rule("b", r0("239.1.1.2", 5000), to("r1", "239.2.2.3", 6000)))
    assert cause(explain(daemon, "a")) is HEALTHY
    assert cause(explain(daemon, "b")) == ("file", "not_loaded")
    daemon.edit(unwatched + good.replace("ttl = 8", "ttl = 9"))
    assert cause(explain(daemon, "a")) == ("file", "not_loaded")
    daemon.edit(unwatched + good.replace("5000", "70000"))
    refused = explain(daemon, "a")
    assert cause(refused) == ("file", "refused")
    assert "70000" in refused["answer"]
    daemon.edit(unwatched + good)
    done = daemon.ctl("explain", "none", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no rule 'none'" in done.stderr
    elsewhere = (console_script("mcrctl"), "--control", str(daemon.control), "explain", "a")
    done = triangle.sink.call(*elsewhere)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"nsenter -t {daemon.pid} -n" in done.stderr


def test_a_worker_that_is_stopped(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", r0("239.1.1.1", 5000), to("r1", "239.2.2.2", 6000))
    )
    triangle.source.start_send("s0", "239.1.1.1", 5000, rate=200)

    def is_named() -> bool:
        """After some seconds the supervisor replaces it: then the look was too late."""
        workers = daemon.status()["workers"]
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker["pid"], signal.SIGSTOP)
        return bool(workers) and cause(explain(daemon, "a")) == ("taken", "worker")

    wait_for(is_named, "the worker to be named")


def test_a_bridge_that_snoops_without_a_querier(lab: Lab) -> None:
    """source (s0) -- (p0) bridge of the relay, its input -- (r1) sink."""
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(source, "s0", ["10.1.0.1/24"], relay, "p0", [])
    lab.link(relay, "r1", ["10.2.0.1/24"], sink, "k0", ["10.2.0.2/24"])
    lab.bridge(relay, "br0", ["p0"], ["10.1.0.2/24"], snooping=True)
    given = r0("239.1.1.1", 5000).replace("r0", "br0")
    daemon = lab.mcrd(relay, rule("a", given, to("r1", "239.2.2.2", 6000)))
    assert cause(explain(daemon, "a")) == ("group", "querier")
    relay.run("ip", "link", "set", "br0", "type", "bridge", "mcast_querier", "1")
    assert cause(explain(daemon, "a")) == ("frames", "nothing")
    relay.run("ip", "link", "set", "br0", "type", "bridge", "mcast_querier", "0")
    # As long as nobody queries, this bridge floods: it is worth a note.
    source.start_send("s0", "239.1.1.1", 5000, rate=200)
    wait_for(lambda: daemon.stats()["rules"]["a"]["received"]["packets"], "the stream")
    found = explain(daemon, "a")
    assert cause(found) is HEALTHY
    assert ("querier", "note") in {(f["topic"], f["answer"]) for f in found["findings"]}
    (remedy,) = (f["remedy"] for f in found["findings"] if f["topic"] == "querier")
    assert "`querier = true`" in remedy
    assert "under [interfaces.br0]" in remedy

    def doctor() -> list[dict[str, Any]]:
        told = daemon.ctl("doctor", "--config", str(daemon.config), "--json", check=False).stdout
        return [f for f in json.loads(told)["findings"] if f["check"] == "querier"]

    assert [f["value"] for f in doctor()] == ["br0 snoops and knows no IGMP querier"]
    daemon.edit(daemon.config.read_text() + "[interfaces.br0]\nquerier = true\n")

    def asked() -> bool:
        found = explain(daemon, "a")["findings"]
        texts = [f["text"] for f in found if (f["topic"], f["answer"]) == ("querier", "yes")]
        return any("10.1.0.2" in text for text in texts)

    wait_for(asked, "this host's own queries to be known")
    assert [f["verdict"] for f in doctor()] == ["ok"]


def query(host: Host, address: str) -> None:
    """One general query, which that host hears itself, too; answers come within 0.1 s."""
    body = struct.pack("!BBHIBBH", 0x11, 1, 0, 0, 2, 125, 0)
    total = 0xFFFF - int.from_bytes(body, "big") % 0xFFFF
    with host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        router_alert = bytes((148, 4, 0, 0))  # RFC 2113
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, router_alert)
        sock.sendto(body[:2] + struct.pack("!H", total) + body[4:], ("224.0.0.1", 0))


def about(found: dict[str, Any], topic: str) -> dict[str, Any]:
    findings: list[dict[str, Any]] = found["findings"]
    (finding,) = (each for each in findings if each["topic"] == topic)
    return finding


def test_receivers(triangle: Triangle) -> None:
    """Of another group, of another source, and behind a router: from what is heard of them."""
    expected: dict[str, Cause] = {
        "wanted": HEALTHY,
        "wanted6": HEALTHY,
        "other": ("output", "receiver"),
        "source": ("output", "receiver"),
        "kept": HEALTHY,
    }
    text = "".join(
        (
            rule("wanted", r0("239.1.1.1", 5000), to("r1", "239.2.2.2", 6000)),
            rule("wanted6", r0("ff15::1", 5000), to("r1", "ff15::2", 6000)),
            rule("other", r0("239.1.1.2", 5000), to("r1", "239.2.2.9", 6000)),
            rule("source", r0("239.1.1.3", 5000), to("r1", "232.1.1.1", 6000)),
            rule("kept", r0("239.1.1.4", 5000), to("r1", "232.1.1.1", 6001, ', source = "keep"')),
        )
    )
    daemon = triangle.lab.mcrd(triangle.relay, text)
    triangle.sink.receive("k0", "ff15::2", 6000)
    triangle.sink.receive("k0", "239.2.2.2", 6000)
    triangle.sink.receive("k0", "239.2.2.3", 6000)
    triangle.sink.receive("k0", "232.1.1.1", 6001, source="10.1.0.1")
    triangle.source.start_send("s0", "239.1.1.1", 5000, rate=400, flows=4)
    triangle.source.start_send("s0", "ff15::1", 5000, rate=100)
    wait_for(
        lambda: len({m["group"] for m in heard(daemon, "wanted", "r1")["members"]}) == 3,
        "the reports",
    )
    # As long as nobody asks, those who joined before the daemon ran may be silent.
    before = explain(daemon, "other")
    assert cause(before) is HEALTHY
    assert about(before, "receiver")["answer"] == "unknown"
    assert "10.2.0.2" in about(before, "receiver")["text"]
    query(triangle.sink, "10.2.0.2")
    wait_for(
        lambda: (heard(daemon, "wanted", "r1")["query"] or {}).get("answered"), "all to answer"
    )
    found = {name: explain(daemon, name) for name in expected}
    assert {name: cause(each) for name, each in found.items()} == expected
    assert "239.2.2.3" in about(found["other"], "receiver")["text"]
    assert about(found["wanted"], "receiver")["answer"] == "yes"
    assert about(found["wanted6"], "receiver")["answer"] == "yes"
    assert "10.1.0.1" in about(found["source"], "receiver")["text"]
    # A router takes groups that it never asked for.
    with triangle.sink.socket(socket.AF_INET, socket.SOCK_RAW, 103) as sock:
        interface = socket.inet_aton("10.2.0.2")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        sock.sendto(bytes((0x20, 0, 0xDF, 0xFF)), ("224.0.0.13", 0))  # RFC 7761, 4.9.2
    wait_for(lambda: heard(daemon, "wanted", "r1")["routers"], "the router")
    assert about(explain(daemon, "other"), "receiver")["answer"] == "unknown"


def heard(daemon: Mcrd, name: str, interface: str) -> dict[str, Any]:
    """What was heard of IGMP."""
    found: dict[str, Any] = explain(daemon, name)["look"]["heard"][interface]["igmp"]
    return found


def test_a_bridge_that_keeps_the_group_to_itself(lab: Lab) -> None:
    """source (s0) -- (r0) relay, whose output is a bridge that snoops and queries -- sink."""
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(source, "s0", ["10.1.0.1/24"], relay, "r0", ["10.1.0.2/24"])
    lab.link(relay, "p1", [], sink, "k0", ["10.2.0.2/24"])
    lab.bridge(relay, "br1", ["p1"], ["10.2.0.1/24"], snooping=True, querier=True)
    daemon = lab.mcrd(
        relay,
        rule("wanted", r0("239.1.1.1", 5000), to("br1", "239.2.2.2", 6000))
        + rule("other", r0("239.1.1.2", 5000), to("br1", "239.2.2.9", 6000)),
    )
    sink.receive("k0", "239.2.2.2", 6000)
    source.start_send("s0", "239.1.1.1", 5000, rate=200, flows=2)
    wait_for(lambda: "239.2.2.2" in relay.run("bridge", "mdb", "show"), "the bridge to know it")
    expected = {"wanted": HEALTHY, "other": ("output", "snooping")}
    assert causes(daemon, list(expected)) == expected


def test_one_look_at_a_time(triangle: Triangle) -> None:
    """A second one waits, an own one ends with its client, and nothing of it remains."""
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", r0("239.1.1.1", 5000), to("r1", "239.2.2.2", 6000))
    )

    def sockets() -> int:
        return triangle.relay.run("cat", "/proc/net/packet").count("\n") - 1

    before = sockets()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(daemon.control))
        request = {"command": "look", "arguments": {"name": "a", "seconds": 60}}
        client.sendall(json.dumps(request).encode() + b"\n")
        wait_for(lambda: sockets() == before + 1, "the look to begin")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.connect(str(daemon.control))
            other.sendall(json.dumps(request).encode() + b"\n")
            (error,) = json.loads(other.makefile("rb").readline())["errors"]
        assert error.startswith("busy: ")
    wait_for(lambda: sockets() == before, "the look to end with its client")
    assert cause(explain(daemon, "a")) == ("frames", "nothing")
    assert "internal error" not in daemon.log()


def test_fragments_of_which_only_the_first_arrive(triangle: Triangle) -> None:
    """And those that are whole are no fault: the kernel puts them together."""
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("parts", r0("239.1.1.1", 5000), to("r1", "239.2.2.2", 6000))
        + rule("whole", r0("239.1.1.2", 5000), to("r1", "239.2.2.3", 6000)),
    )
    triangle.source.start_send("s0", "239.1.1.2", 5000, rate=50, size=4000)
    wait_for(lambda: daemon.stats()["rules"]["whole"]["received"]["packets"], "the stream")
    with raw(triangle.source, "s0", frame(b"data", fragment=0x2000)):
        assert cause(explain(daemon, "parts")) == ("frames", "fragment")
        whole = explain(daemon, "whole")
    assert cause(whole) is HEALTHY
    assert ("mtu", "note") in {(f["topic"], f["answer"]) for f in whole["findings"]}


@pytest.mark.alone
@pytest.mark.long
def test_a_flood_of_reports_costs_the_supervisor_next_to_nothing(triangle: Triangle) -> None:
    """As many as one host can send, each with all the groups that it has room for."""
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", r0("239.1.1.1", 5000), to("r0", "239.2.2.2", 6000))
    )
    groups = (int(ip_address("239.5.0.0")) + number for number in range(180))
    records = b"".join(struct.pack("!BBHI", 4, 0, 0, group) for group in groups)
    body = struct.pack("!BxHxxH", 0x22, 0, 180) + records
    total = 0xFFFF - int.from_bytes(body, "big") % 0xFFFF
    body = body[:2] + struct.pack("!H", total) + body[4:]
    with triangle.source.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP) as sock:
        interface = socket.inet_aton("10.1.0.1")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        began, before, sent = time.monotonic(), daemon.cpu_seconds(), 0
        while time.monotonic() < began + 3:
            sock.sendto(body, ("224.0.0.22", 0))
            sent += 1
        took, used = time.monotonic() - began, daemon.cpu_seconds() - before
    members = heard(daemon, "a", "r0")["members"]
    assert {member["host"] for member in members} == {"10.1.0.1"}
    assert sent > 1000 * took, "it was to be a flood"
    assert used < took / 10


@pytest.mark.long
def test_a_ring_that_is_too_small(triangle: Triangle) -> None:
    """Slots for frames of 9000 bytes, in the smallest ring, and bursts that do not fit it."""
    for host, name in ((triangle.source, "s0"), (triangle.relay, "r0")):
        host.run("ip", "link", "set", name, "mtu", "9000")
    text = '[interfaces.r0]\nring_size = "1 MiB"\n'
    daemon = triangle.lab.mcrd(
        triangle.relay, text + rule("a", r0("239.1.1.1", 5000), to("r1", "239.2.2.2", 6000))
    )
    sender = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=0, size=100)
    wait_for(lambda: daemon.stats()["interfaces"]["r0"]["dropped"]["ring_full"], "a full ring")
    assert cause(explain(daemon, "a", "--seconds", "1")) == ("taken", "ring_full")
    sender.stop()


@pytest.mark.alone
@pytest.mark.long
def test_twenty_looks_beside_a_fast_stream_lose_nothing_of_it(triangle: Triangle) -> None:
    """40,000 packets a second to one rule: nineteen are at another, then one at this one."""
    rate = 40_000
    count = 40 * rate
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("fast", r0("239.1.1.1", 5000), to("r1", "239.2.2.2", 6000))
        + rule("other", r0("239.1.1.2", 5001), to("r1", "239.2.2.3", 6000)),
    )
    received = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=count, timeout=60)
    sender = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=rate, count=count, size=200)
    wait_for(lambda: daemon.stats()["rules"]["fast"]["received"]["packets"], "the stream")
    for _ in range(19):
        found = explain(daemon, "other", "--seconds", "0.5")
        assert cause(found) == ("frames", "nothing")
        assert found["look"]["frames"] < 100  # its filter kept the stream away
    assert cause(explain(daemon, "fast", "--seconds", "1")) is HEALTHY
    assert sender.process.poll() is None
    assert sender.result()["sent"] == count
    # On a machine that is busy otherwise the receiver may be too slow: that is counted.
    lost = received.result(60)["lost"]
    assert lost == int(triangle.sink.run("nstat", "-asz", "UdpRcvbufErrors").split()[-2])
    stats = daemon.stats()
    assert stats["interfaces"]["r0"]["dropped"]["ring_full"] == 0
    assert stats["rules"]["fast"]["outputs"][0]["sent"]["packets"] == count
