"""`replies`: what answers a relayed packet goes back to who asked, whoever answers."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import os
import signal
import socket
import struct
from ipaddress import ip_address
from typing import Any

from tests.lab import Host, Mcrd, Triangle, wait_for
from tests.lab.datagrams import sender, udp
from tests.lab.rules import rule

SEARCH = rule("a", "r0 239.255.255.250 1900", 'r1 - - replies="30s"')
GROUP = ("239.255.255.250", 1900)


def kept(host: Host, sock: socket.socket) -> socket.socket:
    """The socket, which ends with the lab."""
    host.lab.close_at_end(sock)
    return sock


class Device:
    """Answers every search that it hears, from a port of its own."""

    def __init__(self, host: Host, interface: str, group: str = GROUP[0], port: int = 1900) -> None:
        version = ip_address(group).version
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with host.inside():
            index = socket.if_nametoindex(interface)
        self.hears = kept(host, host.socket(family, socket.SOCK_DGRAM))
        self.answers = kept(host, host.socket(family, socket.SOCK_DGRAM))
        self.hears.settimeout(30)
        self.asked: list[tuple[str, int]] = []
        with host.inside():
            self.hears.bind((group, port) if version == 4 else (group, port, 0, index))
            if version == 4:
                mreqn = struct.pack("4s4si", ip_address(group).packed, bytes(4), index)
                self.hears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
            else:
                mreq = struct.pack("16sI", ip_address(group).packed, index)
                self.hears.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, mreq)

    def answer(self, *texts: bytes) -> bytes:
        """Takes one search, and answers it; returns what it said."""
        question, asker = self.hears.recvfrom(65536)
        self.asked.append(asker[:2])
        for text in texts or (b"I am here: " + question,):
            self.answers.sendto(text, asker)
        return question


def asker(host: Host, interface: str, version: int = 4) -> socket.socket:
    sock = kept(host, sender(host, interface, version))
    sock.settimeout(30)
    with host.inside():
        sock.bind(("", 0))
    return sock


def answers(daemon: Mcrd, name: str = "a") -> dict[str, Any]:
    found: dict[str, Any] = daemon.stats()["rules"][name]["outputs"][0]["answers"]
    return found


def ask(sock: socket.socket, daemon: Mcrd, text: bytes, group: tuple[str, int] = GROUP) -> None:
    """Asks until the relay has sent it on."""

    def sent() -> int:
        count: int = daemon.stats()["rules"]["a"]["outputs"][0]["sent"]["packets"]
        return count

    before = sent()

    def relayed() -> bool:
        sock.sendto(text, group)
        return sent() > before

    wait_for(relayed, "the question to be relayed")


def counts_answers(daemon: Mcrd, sent: dict[str, int]) -> None:
    """A worker counts an answer when it has left: who asked may have it before."""
    wait_for(lambda: answers(daemon)["sent"] == sent, "the counter of answers")


def test_a_search_is_answered(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, SEARCH)
    device = Device(triangle.sink, "k0")
    other = kept(triangle.sink, triangle.sink.socket(socket.AF_INET, socket.SOCK_DGRAM))
    seen = triangle.source.capture("s0", "udp and dst host 10.1.0.1")
    sock = asker(triangle.source, "s0")
    ask(sock, daemon, b"who is there?")
    assert device.answer() == b"who is there?"
    assert sock.recv(100) == b"I am here: who is there?"
    # It asked from the relay's address, and somebody else may answer as well.
    assert {address for address, _ in device.asked} == {"10.2.0.1"}
    other.sendto(b"me too", device.asked[0])
    assert sock.recv(100) == b"me too"
    answer = udp(seen.stop()[0])
    assert (answer.source, answer.ttl) == ("10.1.0.2", 64)
    counts_answers(daemon, {"packets": 2, "bytes": 30})
    assert answers(daemon)["askers"] == 1
    assert "answers: 2 packets, 30 bytes to 1 asker\n" in daemon.ctl("stats").stdout


def test_each_asker_gets_its_own_answers(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, SEARCH)
    device = Device(triangle.sink, "k0")
    socks = [asker(triangle.source, "s0") for _ in range(20)]
    for number, sock in enumerate(socks):
        ask(sock, daemon, b"%d" % number)
    while len({port for _, port in device.asked}) < 20:
        device.answer()
    for number, sock in enumerate(socks):
        assert sock.recv(100) == b"I am here: %d" % number
    assert answers(daemon)["askers"] == 20


def test_ten_of_ten_searches_from_a_new_port_each(triangle: Triangle) -> None:
    """One packet each, as every client sends: the first is relayed, and its answer comes back."""
    daemon = triangle.lab.mcrd(triangle.relay, SEARCH)
    device = Device(triangle.sink, "k0")
    for number in range(10):
        sock = asker(triangle.source, "s0")
        sock.sendto(b"%d" % number, GROUP)
        assert device.answer() == b"%d" % number
        assert sock.recv(100) == b"I am here: %d" % number
    found = daemon.stats()["rules"]["a"]["outputs"][0]
    assert (found["sent"]["packets"], found["new_member"]) == (10, 0)
    wait_for(lambda: answers(daemon)["sent"]["packets"] == 10, "the counter of answers")


def test_link_local_askers_are_answered_from_a_link_local_address(triangle: Triangle) -> None:
    """WS-Discovery over IPv6, whose askers have such addresses."""
    group = ("ff02::c", 3702)
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 ff02::c 3702", 'r1 - - replies="5s"'))
    device = Device(triangle.sink, "k0", *group)
    sock = asker(triangle.source, "s0", 6)
    seen = triangle.source.capture("s0", "udp and ip6 dst net fe80::/10")
    ask(sock, daemon, b"probe", group)
    device.answer()
    assert sock.recv(100) == b"I am here: probe"
    answer = udp(seen.stop()[0])
    assert ip_address(answer.source).is_link_local
    wait_for(lambda: answers(daemon)["sent"]["packets"] == 1, "the counter of answers")


def test_a_host_is_asked_and_answers_from_any_port(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", "r0 239.1.1.1 5000", 'r1 10.2.0.2 6000 replies="30s"')
    )
    host = kept(triangle.sink, triangle.sink.socket(socket.AF_INET, socket.SOCK_DGRAM))
    other = kept(triangle.sink, triangle.sink.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock = asker(triangle.source, "s0")
    host.settimeout(30)
    # While nobody listens, questions draw errors of ICMP, which end nothing.
    for _ in range(3):
        ask(sock, daemon, b"nobody?", ("239.1.1.1", 5000))
    with triangle.sink.inside():
        host.bind(("10.2.0.2", 6000))
    ask(sock, daemon, b"somebody?", ("239.1.1.1", 5000))
    relay: tuple[str, int] | None = None
    while relay is None:  # an earlier question may come late
        question, who = host.recvfrom(100)
        relay = who if question == b"somebody?" else None
    host.sendto(b"yes", relay)
    assert sock.recv(100) == b"yes"
    other.sendto(b"another port", relay)
    assert sock.recv(100) == b"another port"
    assert answers(daemon)["sent"]["packets"] == 2


def test_late_answers_go_nowhere_and_an_asker_ends(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", "r0 239.255.255.250 1900", 'r1 - - replies="5s"')
    )
    device, sock = answered(triangle, daemon, b"?")

    def late() -> bool:
        device.answers.sendto(b"?", device.asked[0])
        return int(answers(daemon)["late"]) > 0

    wait_for(late, "an answer that is late")
    wait_for(lambda: answers(daemon)["askers"] == 0, "the end of the asker")
    sock.setblocking(False)
    while True:  # what was in time
        try:
            assert sock.recv(100) in (b"?", b"I am here: ?")
        except BlockingIOError:
            break
    # Who asks again gets another port. A question on the way when the asker ends gets none.
    sock.settimeout(1)
    device.hears.settimeout(1)

    def again() -> bool:
        sock.sendto(b"again", GROUP)
        try:
            device.answer()
            return sock.recv(100) == b"I am here: again"
        except TimeoutError:
            return False

    wait_for(again, "an answer to who asks again")
    before = answers(daemon)
    assert before["late"] > 0
    assert before["lost"] == 0


def answered(triangle: Triangle, daemon: Mcrd, question: bytes) -> tuple[Device, socket.socket]:
    """A device, and an asker that has had its answer."""
    device = Device(triangle.sink, "k0")
    sock = asker(triangle.source, "s0")
    ask(sock, daemon, question)
    device.answer()
    assert sock.recv(100) == b"I am here: " + question
    return device, sock


def test_answers_go_on_through_a_changed_rule_and_another_worker(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, SEARCH)
    device, sock = answered(triangle, daemon, b"1")
    daemon.edit(SEARCH + rule("b", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    daemon.ctl("reload")
    (worker,) = daemon.stats()["workers"]
    os.kill(worker["pid"], 9)
    wait_for(lambda: daemon.status()["rules"] == {"active": 2}, "another worker")
    # The port that was asked from is the asker's still.
    device.answers.sendto(b"after the worker", device.asked[0])
    assert sock.recv(100) == b"after the worker"
    # With another TTL the output has other sockets; the counters go on.
    daemon.edit(SEARCH.replace("replies", "ttl = 4, replies"))
    daemon.ctl("reload")

    ask(sock, daemon, b"2")
    while device.answer() != b"2":
        pass
    while sock.recv(100) != b"I am here: 2":
        pass
    assert answers(daemon)["sent"]["packets"] >= 3
    # Without the key, nothing comes back, and nothing is counted.
    daemon.edit(SEARCH.replace(', replies = "30s"', ""))
    daemon.ctl("reload")
    assert answers(daemon) is None


def test_more_answers_than_a_socket_holds_are_counted(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, SEARCH)
    device, _ = answered(triangle, daemon, b"?")
    (worker,) = daemon.stats()["workers"]
    os.kill(worker["pid"], signal.SIGSTOP)
    sent = 2000
    for _ in range(sent):
        device.answers.sendto(bytes(1000), device.asked[0])
    os.kill(worker["pid"], signal.SIGCONT)

    def counted() -> bool:
        found = answers(daemon)
        return bool(found["sent"]["packets"] + found["lost"] == sent + 1 and found["lost"] > 0)

    wait_for(counted, "every answer in a counter")


def test_forged_askers_are_bounded(triangle: Triangle) -> None:
    """More than there may be: the oldest make room, and whoever asks now is answered."""
    daemon = triangle.lab.mcrd(triangle.relay, SEARCH)
    device = Device(triangle.sink, "k0")
    raw = kept(
        triangle.source, triangle.source.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    )
    with triangle.source.inside():
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"s0\0")

    serial = itertools.count()

    def forged(number: int) -> bytes:
        """A search from a host of the network that there is not; or from no host at all.

        Each has a content of its own: the loop guard drops what one neighbour says for many.
        """
        source = f"10.1.0.{100 + number % 100}" if number % 10 else "255.255.255.255"
        text = b"forged %d" % next(serial)
        header = struct.pack(
            *("!BBHHHBBH4s4s", 0x45, 0, 28 + len(text), 0, 0, 1, 17, 0),
            *(ip_address(source).packed, ip_address(GROUP[0]).packed),
        )
        return header + struct.pack("!HHHH", 1024 + number // 10, 1900, 8 + len(text), 0) + text

    def flooded() -> bool:
        for number in range(4000):
            raw.sendto(forged(number), GROUP)
        return int(answers(daemon)["askers"]) >= 1000

    wait_for(flooded, "more askers than there may be", timeout=120)
    sock = asker(triangle.source, "s0")

    def answered() -> bool:
        sock.sendto(b"not forged", GROUP)
        while True:
            question, who = device.hears.recvfrom(100)
            if question == b"not forged":
                device.answers.sendto(b"here", who)
                return sock.recv(100) == b"here"
            if not question.startswith(b"forged"):
                return False

    sock.settimeout(1)
    device.hears.settimeout(1)

    def patiently() -> bool:
        try:
            return answered()
        except TimeoutError:
            return False

    wait_for(patiently, "an answer in spite of the flood")
    assert answers(daemon)["askers"] <= 1024


def test_a_broadcast_is_answered(triangle: Triangle) -> None:
    """As games and HDHomeRun ask."""
    daemon = triangle.lab.mcrd(
        triangle.relay, rule("a", "r0 broadcast 65001", 'r1 broadcast - replies="30s"')
    )
    device = kept(triangle.sink, triangle.sink.socket(socket.AF_INET, socket.SOCK_DGRAM))
    device.settimeout(30)
    with triangle.sink.inside():
        device.bind(("", 65001))
    sock = asker(triangle.source, "s0")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    with triangle.source.inside():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"s0\0")
    for address in ("10.1.0.255", "255.255.255.255"):
        ask(sock, daemon, b"to " + address.encode(), (address, 65001))
        wanted = b"to " + address.encode()
        while (got := device.recvfrom(100))[0] != wanted:
            pass
        device.sendto(b"here", got[1])
        assert sock.recv(100) == b"here"
    # One for each kind of broadcast: both ask, of the same host and port.
    assert 1 <= answers(daemon)["askers"] <= 2


def test_answers_come_from_who_answers_where_no_route_leads(triangle: Triangle) -> None:
    """With `source = "keep"`: from the address and port of each, over IPv4 and IPv6."""
    group = ("ff05::c", 1900)
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("a", "r0 239.255.255.250 1900", 'r1 - - replies="30s" source="keep" ttl=4')
        + rule("six", "r0 ff05::c 1900", 'r1 - - replies="30s" source="keep" ttl=4'),
    )
    assert not triangle.source.run("ip", "route", "show", "10.2.0.0/24")
    device = Device(triangle.sink, "k0")
    sock = asker(triangle.source, "s0")
    sock.sendto(b"who is there?", GROUP)
    assert device.answer(b"I", b"am", b"here") == b"who is there?"
    there = ("10.2.0.2", device.answers.getsockname()[1])
    got = [sock.recvfrom(100) for _ in range(3)]
    assert got == [(text, there) for text in (b"I", b"am", b"here")]
    assert device.asked[0][0] == "10.2.0.1"
    # Others answer as well, and each asker has its own.
    others = [asker(triangle.sink, "k0") for _ in range(20)]
    second = asker(triangle.source, "s0")
    second.sendto(b"and for me?", GROUP)
    device.answer()
    assert second.recvfrom(100) == (b"I am here: and for me?", there)
    for number, other in enumerate(others):
        for who in device.asked:
            other.sendto(b"%d" % number, who)
    for each in (sock, second):
        heard = {each.recvfrom(100) for _ in others}
        ports = [other.getsockname()[1] for other in others]
        assert heard == {(b"%d" % n, ("10.2.0.2", port)) for n, port in enumerate(ports)}
    wait_for(lambda: answers(daemon)["sent"]["packets"] == 44, "all of them to be counted")
    found = answers(daemon)
    assert (found["askers"], found["new_member"], found["lost"]) == (2, 0, 0)
    # The sockets go on through a change of the rules, and another worker.
    daemon.edit(daemon.config.read_text() + rule("b", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000"))
    daemon.ctl("reload")
    device.answers.sendto(b"after the change", device.asked[0])
    assert sock.recvfrom(100) == (b"after the change", there)
    (worker,) = daemon.stats()["workers"]
    os.kill(worker["pid"], 9)
    wait_for(lambda: daemon.status()["rules"] == {"active": 3}, "another worker")
    device.answers.sendto(b"after the worker", device.asked[0])
    assert sock.recvfrom(100) == (b"after the worker", there)
    # IPv6: a global address is kept. What comes from a link-local one is the relay's to send.
    device6 = Device(triangle.sink, "k0", *group)
    sock6 = asker(triangle.source, "s0", 6)
    sock6.sendto(b"six?", group)
    device6.answer()
    text, name = sock6.recvfrom(100)
    assert (text, name[:2]) == (b"I am here: six?", ("fd02::2", device6.answers.getsockname()[1]))
