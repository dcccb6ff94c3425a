"""Who else relays it: what is the same, and what only looks so."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import os
import pwd
import shutil
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_interface
from pathlib import Path

import pytest

from mcrd import config
from mcrd.answers import Twice
from mcrd.beside import sight
from mcrd.beside.discovery import listeners, protocol_of
from mcrd.beside.lookout import Watcher
from mcrd.beside.sight import Ring, Route, Sender, Sight
from mcrd.beside.twice import twice
from mcrd.beside.who import parties
from mcrd.host.procfs import Host
from mcrd.model import Rule
from mcrd.planning.links import Link
from mcrd.sockets import netlink
from tests.lab.rules import rule

LINKS = {
    name: Link(name, index, True, True, 1500, 1, (ip_interface(f"10.{index}.0.1/24"),))
    for index, name in enumerate(("r0", "r1", "r2"), 1)
}
SAME = rule("a", "r0 239.1.1.1 5000", "r2 239.9.9.9 5000", "r1 239.1.1.1 5000")


def parse(text: str) -> Rule:
    (found,) = config.parse(text, "f").rules.values()
    return found


def route(group: str, came: int, *leaves: int, source: str | None = None) -> Route:
    return Route(ip_address(group), ip_address(source) if source else None, came, frozenset(leaves))


def found(text: str, seen: Sight) -> list[tuple[str, tuple[int, ...]]]:
    return [(one.by, one.outputs) for one in twice([parse(text)], LINKS, seen)]


@pytest.mark.parametrize(
    ("text", "routes", "outputs"),
    [
        (SAME, route("239.1.1.1", 1, 2), (1,)),
        (SAME, route("239.1.1.1", 1, 2, 3, source="10.1.0.9"), (1,)),
        (SAME, route("239.1.1.1", 1, 3), None),  # there, the group is another one
        (SAME, route("239.1.1.1", 2, 1), None),
        (SAME, route("239.1.1.2", 1, 2), None),
        (rule("a", "r0 239.1.1.1 5000", "r1 239.1.1.1 6000"), route("239.1.1.1", 1, 2), None),
        (
            rule("a", "r0 239.1.1.1 5000 vlan=5", "r1 239.1.1.1 5000"),
            route("239.1.1.1", 1, 2),
            None,
        ),
        (rule("a", "r0 239.1.1.0/24 1-9", "r1 239.1.1.0/24 1-9"), route("239.1.1.7", 1, 2), (0,)),
        (
            rule("a", 'r0 239.1.1.1 5000 sources=["10.1.0.9"]', "r1 239.1.1.1 5000"),
            route("239.1.1.1", 1, 2, source="10.1.0.8"),
            None,
        ),
        (
            rule("a", 'r0 239.1.1.1 5000 exclude=["10.1.0.8"]', "r1 239.1.1.1 5000"),
            route("239.1.1.1", 1, 2, source="10.1.0.8"),
            None,
        ),
        (rule("a", "gone 239.1.1.1 5000", "r1 239.1.1.1 5000"), route("239.1.1.1", 1, 2), None),
        (
            rule("a", "r0 239.1.1.1 5000", "r1 239.1.1.1 5000", more="enabled = false"),
            route("239.1.1.1", 1, 2),
            None,
        ),
    ],
)
def test_a_route_of_the_kernel(text: str, routes: Route, outputs: tuple[int, ...] | None) -> None:
    assert found(text, Sight(routes=(routes,))) == (
        [] if outputs is None else [("kernel", outputs)]
    )


def sent(address: str, port: int, source: str) -> Sight:
    senders = (Sender(77, ip_address(source)),)
    return Sight(rings=(Ring(1, 66, 0),), sent={(ip_address(address), port): senders})


@pytest.mark.parametrize(
    ("seen", "outputs"),
    [
        (sent("239.1.1.1", 5000, "10.2.0.1"), (1,)),
        (sent("239.1.1.1", 5000, "192.0.2.1"), (1,)),  # a source that is kept
        (sent("239.1.1.1", 5000, "10.1.0.1"), None),  # from another interface
        (sent("239.1.1.1", 5001, "10.2.0.1"), None),
        (Sight(rings=(Ring(1, 66, 0),)), None),
        (Sight(sent=sent("239.1.1.1", 5000, "10.2.0.1").sent), None),  # no ring
    ],
)
def test_another_mcrd(seen: Sight, outputs: tuple[int, ...] | None) -> None:
    assert found(SAME, seen) == ([] if outputs is None else [("mcrd", outputs)])


def test_another_mcrd_with_a_range() -> None:
    text = rule("a", "r0 239.1.1.0/24 1-9", "r1 239.2.2.0/24 1-9")
    assert found(text, sent("239.2.2.7", 3, "10.2.0.1")) == [("mcrd", (0,))]
    assert found(text, sent("239.2.3.7", 3, "10.2.0.1")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="packet sockets need root")
def test_another_mcrd_with_broadcasts() -> None:
    text = rule("a", "r0 broadcast 9", "r1 broadcast 9", "r2 255.255.255.255 9")
    links = {**LINKS, "r1": replace(LINKS["r1"], broadcasts=(IPv4Address("10.2.0.255"),))}
    for address, source, at in (("10.2.0.255", "10.2.0.1", 0), ("255.255.255.255", "10.3.0.1", 1)):
        (one,) = twice([parse(text)], links, sent(address, 9, source))
        assert one.outputs == (at,)


def test_packet_sockets_of_other_programs_are_no_relays() -> None:
    """Plain ones, as of dhclient and lldpd; in a fanout group, as of an analyser."""
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as plain,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as grouped,
    ):
        for sock in (plain, grouped):
            sock.bind(("lo", 3))
        grouped.setsockopt(263, 18, os.getpid() & 0xFFFF)  # PACKET_FANOUT
        inodes = {os.fstat(sock.fileno()).st_ino for sock in (plain, grouped)}
        seen = sight.look()
    assert seen.unseen == ()
    assert inodes.isdisjoint(ring.inode for ring in seen.rings)


def test_the_log_says_it_once_when_it_is_sure_and_again_when_it_comes_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nothing, seen = Sight(), sent("239.1.1.1", 5000, "10.2.0.1")
    world = [nothing, seen, seen, seen, nothing, seen, nothing, seen, seen]
    watcher = Watcher(frozenset, frozenset)

    async def now() -> Sight:
        return world.pop(0)

    monkeypatch.setattr(watcher, "sight", now)
    said = []
    while world:
        caplog.clear()
        asyncio.run(watcher.look(lambda: {"a": parse(SAME)}, lambda: LINKS))
        said.append(len(caplog.records))
    assert said == [0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert not watcher.is_due()
    watcher.soon("a")
    assert not watcher.is_due()  # however often a rule comes and goes
    monkeypatch.setattr("mcrd.beside.lookout.AGAIN", 0.0)
    watcher.soon("a")
    assert watcher.is_due()


def test_a_look_waits_in_a_thread_and_no_other_begins_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What of one's own comes or goes meanwhile is nobody else's."""
    begun, go = threading.Event(), threading.Event()
    own = {1}

    def slow() -> Sight:
        begun.set()
        assert go.wait(10.0)
        return Sight(rings=tuple(Ring(1, inode, 0) for inode in (1, 2, 3)))

    monkeypatch.setattr("mcrd.beside.lookout.rings_and_routes", slow)
    monkeypatch.setattr("mcrd.beside.lookout.AGAIN", 0.0)
    watcher = Watcher(lambda: frozenset(own), frozenset)

    async def scenario() -> None:
        assert watcher.is_due()
        looking = asyncio.create_task(watcher.look(dict, dict))
        while not begun.is_set():  # noqa: ASYNC110  the thread makes no event of the loop
            await asyncio.sleep(0.01)
        watcher.soon("a")
        assert not watcher.is_due()
        go.set()
        await looking
        assert watcher.is_due()
        seeing = asyncio.create_task(watcher.sight())
        await asyncio.sleep(0)
        own.clear()
        own.add(2)
        assert [ring.inode for ring in (await seeing).rings] == [3]

    asyncio.run(scenario())


def test_what_cannot_be_looked_at_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(protocol: int, *_: object) -> None:
        raise OSError(errno.ENOENT if protocol == netlink.SOCK_DIAG else errno.ENOBUFS, "no")

    monkeypatch.setattr(netlink, "ask", refuse)
    seen = sight.look()
    assert (seen.rings, seen.routes) == ((), ())
    packets, routes = seen.unseen
    assert packets == "packet sockets: the kernel has no module packet_diag"
    assert routes.startswith("multicast routes: ")


MakeHost = Callable[..., Host]
MDNS = rule("mdns", "r0 224.0.0.251 5353", "r1 224.0.0.251 5353 source_port=5353")
SOCKET = " 1: 00000000:14E9 {} {} 00000000:00000000 00:00000000 00000000 {} 0 77 2 0 0\n"


@pytest.fixture
def host(tmp_path: Path) -> MakeHost:
    """A host with one program, of one socket on the port of mDNS."""

    def make(name: str, *words: str, conf: str = "", peer: str = "00000000:0000 07") -> Host:
        files = {
            "proc/thread-self/net/udp": "head\n" + SOCKET.format(*peer.split(), os.getuid()),
            "proc/4711/comm": name + "\n",
            "proc/4711/cmdline": "\0".join((name, *words)) + "\0",
            "etc/avahi/avahi-daemon.conf": conf,
            "elsewhere.conf": "[reflector]\nenable-reflector = yes\n",
        }
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        (tmp_path / "proc/4711/fd").mkdir()
        (tmp_path / "proc/4711/fd/3").symlink_to("socket:[77]")
        return Host(tmp_path)

    return make


REFLECTOR = "[reflector]\nenable-reflector=yes\n"


@pytest.mark.parametrize(
    ("name", "words", "conf", "relays"),
    [
        ("avahi-daemon", (), REFLECTOR, True),
        ("avahi-daemon", (), "[reflector]\n#enable-reflector=yes\n", False),
        ("avahi-daemon", (), "[reflector]\nenable-reflector=no\n", False),
        ("avahi-daemon", ("-f", "/elsewhere.conf"), "", True),
        ("avahi-daemon", (), "[server]\nallow-interfaces=r0, r1\n" + REFLECTOR, True),
        ("avahi-daemon", (), "[server]\nallow-interfaces=r0,r2\n" + REFLECTOR, False),
        ("avahi-daemon", (), "[server]\ndeny-interfaces=r1\n" + REFLECTOR, False),
        ("mdns-repeater", ("r0", "r1"), "", True),
        ("mdns-repeater", ("r0", "r2"), "", False),
        ("systemd-resolve", (), "", False),
    ],
)
def test_programs_on_the_port_of_a_discovery_protocol(
    host: MakeHost, name: str, words: tuple[str, ...], conf: str, relays: bool
) -> None:
    (one,) = listeners(host(name, *words, conf=conf), parse(MDNS), None)
    assert one.who == f"{name} (4711)"
    assert bool(one.relays) == bool(one.remedy) == relays


def test_avahi_in_a_container_reads_a_file_of_its_own(host: MakeHost, tmp_path: Path) -> None:
    made = host("avahi-daemon", ": running [host.local]", conf="[reflector]\n")
    own = tmp_path / "proc/4711/root/etc/avahi/avahi-daemon.conf"
    own.parent.mkdir(parents=True)
    own.write_text(REFLECTOR)
    (one,) = listeners(made, parse(MDNS), None)
    assert one.relays


def test_the_log_says_once_that_a_reflector_does_the_work_of_a_rule(
    host: MakeHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mcrd.beside.lookout.rings_and_routes", Sight)
    scans: list[Host] = []
    scan = Host.holders

    def counted(host: Host) -> dict[int, list[int]]:
        scans.append(host)
        return scan(host)

    monkeypatch.setattr(Host, "holders", counted)
    watcher = Watcher(frozenset, frozenset, host("avahi-daemon", conf=REFLECTOR))
    other = replace(parse(MDNS), name="other")
    rules = {"mdns": parse(MDNS), "a": parse(SAME), "other": other}
    for _ in range(2):
        watcher.soon("mdns")
        watcher.soon("a")
        watcher.soon("other")
        asyncio.run(watcher.look(lambda: rules, lambda: LINKS))
    assert len(scans) == 2  # one in each look, for all rules
    line, _ = (record.getMessage() for record in caplog.records)
    assert line.startswith("rules.mdns: mDNS is relayed twice: avahi-daemon (4711) reflects, by ")


def test_avahi_is_known_by_its_user_where_processes_are_not_seen(
    host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = host("avahi-daemon", conf=REFLECTOR)
    shutil.rmtree(tmp_path / "proc/4711")
    (one,) = listeners(made, parse(MDNS), None)
    assert (one.who, one.relays) == (f"a program of uid {os.getuid()}", "")
    monkeypatch.setattr("mcrd.beside.discovery.AVAHI_USER", pwd.getpwuid(os.getuid()).pw_name)
    (one,) = listeners(made, parse(MDNS), None)
    assert one.relays


def test_what_listens_to_nothing_of_it(host: MakeHost) -> None:
    """The daemon's own sockets, outputs of others, and rules of other protocols."""
    made = host("avahi-daemon", conf=REFLECTOR, peer="FB0000E0:14E9 01")
    assert list(listeners(made, parse(MDNS), None)) == []
    made = Host(made.root)
    assert list(listeners(made, parse(SAME), None)) == []
    assert protocol_of(parse(SAME)) is None
    assert protocol_of(parse(rule("a", "r0 239.255.255.250 1900", "r1 239.255.255.250 1900"))) == (
        "SSDP"
    )


def test_the_daemon_itself_is_none(host: MakeHost) -> None:
    assert list(listeners(host("mcrd"), parse(MDNS), 4711)) == []


def test_who_it_is_and_what_to_do(host: MakeHost, tmp_path: Path) -> None:
    made = host("mcrd", "--config", "/etc/other.toml")
    (tmp_path / "proc/4712/fd").mkdir(parents=True)
    (tmp_path / "proc/4712/fd/3").symlink_to("socket:[77]")  # a worker's
    (tmp_path / "proc/4712/status").write_text("Name:\tpython\nPPid:\t4711\n")
    (tmp_path / "proc/4711/status").write_text("Name:\tmcrd\nPPid:\t1\n")
    seen = Twice("a", "mcrd", (0,), (77,), 0)
    (one,) = parties(made, [seen, Twice("b", "mcrd", (0,), (77,), 0)])
    assert one.text == "another mcrd, pid 4711 (mcrd --config /etc/other.toml)"
    assert one.rules == ("a", "b")
    assert "`kill 4711`" in one.remedy
    (tmp_path / "proc/4711/cgroup").write_text("0::/system.slice/mcrd@b.service\n")
    (one,) = parties(made, [seen])
    assert "`systemctl disable --now mcrd@b.service`" in one.remedy
    (one,) = parties(made, [Twice("a", "mcrd", (0,), (78,), 998)])
    assert one.text == "another mcrd, of uid 998 (only root sees which process)"


@pytest.mark.parametrize(
    ("name", "group", "raw", "text"),
    [
        ("pimd", "239.1.1.1", "raw 0002", "set up by pimd (4711)"),
        ("unheard-of", "239.1.1.1", "raw 0002", "set up by unheard-of (4711)"),
        ("smcrouted", "ff05::1", "raw6 003A", "set up by smcrouted (4711)"),
        ("NetworkManager", "ff05::1", "raw6 003A", "set up by a program that is not visible"),
        ("mcrd", "239.1.1.1", "raw 0002", "set up by a program that is not visible"),
    ],
)
def test_who_set_up_the_routes_of_the_kernel(
    host: MakeHost, tmp_path: Path, name: str, group: str, raw: str, text: str
) -> None:
    made = host(name)
    table, protocol = raw.split()
    (tmp_path / f"proc/thread-self/net/{table}").write_text(
        f"head\n 1: 00000000:{protocol} 00000000:0000 07 0:0 00:0 0 0 0 77 2 0 0\n"
    )
    (one,) = parties(made, [Twice("a", "kernel", (0,), group=group)])
    assert text in one.text
    assert "mroute show`" in one.remedy
