"""Clients and servers that say what is almost right: answers, refusals, and nothing else happens.

What they say goes by a seed, which a failure prints.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dns import message, rcode, rdatatype, rrset

from tests.lab import Mcrd, Triangle, wait_for
from tests.lab.rules import rule
from tests.mutations import ROUNDS, wrong, wrong_text
from tests.network.test_hostnames import SERVER, relay
from tests.network.test_supervision import children

if TYPE_CHECKING:
    import random

A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000")
OF_ROLE = rule("r", "r0 239.1.1.2 5000", "r1 239.2.2.2 6000", more='active_with = "10.2.0.1"')
SWITCHED = """
[rules.s]
inputs = [
    { interface = "r0", address = "239.1.1.3", port = 5000 },
    { interface = "r1", address = "239.1.1.3", port = 5000 },
]
switch = { silence = "1s" }
outputs = [{ interface = "r1", address = "239.2.2.3", port = 6000 }]
"""
METRICS = '[metrics]\nlisten = "127.0.0.1:9100"\n'
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("status", {}),
    ("stats", {"name": "a"}),
    ("stats", {"since": 7}),
    ("rules", {"name": "a"}),
    ("members", {}),
    ("others", {"name": "a"}),
    ("look", {"name": "a", "seconds": 0.1}),
    ("diff", {"name": "a"}),
    ("use", {"name": "s", "input": "r1"}),
    ("role", {"name": "r", "role": "standby"}),
    ("reload", {}),
)
REQUEST = (
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nRange: bytes=0-9\r\n\r\n"
)
BROKEN = ("Traceback", "Exception in", "never retrieved", "was never awaited")
NAMES = 24


def until_relayed(daemon: Mcrd, sent: int) -> None:
    """Return when rule a has sent so many packets."""

    def relayed() -> bool:
        (output,) = daemon.stats()["rules"]["a"]["outputs"]
        return int(output["sent"]["packets"]) >= sent

    wait_for(relayed, "the last packets to be relayed")


def is_whole(daemon: Mcrd) -> None:
    """Nothing in it broke."""
    log = daemon.log()
    assert not [each for each in BROKEN if each in log], log


def descriptors(daemon: Mcrd) -> list[str]:
    """What it has open: those of clients have come and gone when it is as before."""
    found = []
    for each in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(each.readlink().name.split(":")[0])
    return sorted(found)


def wait_until_gone(daemon: Mcrd, before: list[str]) -> None:
    """Until it has no more descriptors than before."""
    try:
        wait_for(lambda: len(descriptors(daemon)) <= len(before), "the clients to go")
    except TimeoutError:
        assert descriptors(daemon) == before


def until_settled(daemon: Mcrd) -> None:
    """Its stream may begin, and the worker that waits for work is there, too."""
    wait_for(lambda: daemon.stats()["rules"]["a"]["state"] == "active", "the rule")
    wait_for(lambda: len(children(daemon.pid)) == 2, "the spare worker")


def until_it_answers(sock: socket.socket) -> bytes:
    """What it says within a moment; b"": nothing, or it has closed."""
    with contextlib.suppress(OSError):
        if select.select([sock], [], [], 0.02)[0]:
            return sock.recv(1 << 16)
    return b""


def requests(dice: random.Random) -> bytes:
    """Some lines, each almost a request, and perhaps the beginning of one more."""
    lines = []
    for _ in range(dice.choice((1, 1, 3))):
        command, arguments = dice.choice(ASKED)
        text = json.dumps({"command": command, "arguments": arguments})
        lines.append(
            wrong(text.encode(), dice)
            if dice.random() < 0.5
            else wrong_text(text, dice).encode(errors="surrogatepass")
        )
    return b"\n".join(lines) + dice.choice((b"\n", b"\n", b"", b'\n{"comm'))


def test_no_client_of_the_control_socket_does_harm(triangle: Triangle, dice: random.Random) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A + OF_ROLE + SWITCHED)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000)
    until_settled(daemon)
    before = descriptors(daemon)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=500)
    for _ in range(300 * ROUNDS):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.control))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(requests(dice))
                if dice.random() < 0.5:
                    until_it_answers(client)
    wait_until_gone(daemon, before)
    assert daemon.status()["rules"]
    sent = stream.stop()["sent"]
    until_relayed(daemon, sent)
    got = received.stop()
    assert (got["unique"], got["lost"], got["duplicated"]) == (sent, 0, 0)
    is_whole(daemon)


def test_no_scraper_does_harm(triangle: Triangle, dice: random.Random) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A + METRICS)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000)
    until_settled(daemon)

    def ask(text: bytes) -> bytes:
        with triangle.relay.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(("127.0.0.1", 9100))
            with contextlib.suppress(OSError):
                client.sendall(text)
            return until_it_answers(client)

    wait_for(lambda: ask(REQUEST).startswith(b"HTTP/1"), "the listener")
    before = descriptors(daemon)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=500)
    for _ in range(200 * ROUNDS):
        answer = ask(wrong(REQUEST, dice))
        assert not answer or answer.startswith((b"HTTP/", b"<!DOCTYPE")), answer
    wait_until_gone(daemon, before)
    wait_for(lambda: ask(REQUEST).split()[1:2] == [b"200"], "a proper answer")
    sent = stream.stop()["sent"]
    until_relayed(daemon, sent)
    got = received.stop()
    assert (got["unique"], got["lost"], got["duplicated"]) == (sent, 0, 0)
    is_whole(daemon)


class Lying:
    """A DNS server whose answers are almost right, each in another way, until it is told."""

    def __init__(self, triangle: Triangle, dice: random.Random) -> None:
        self._sock = triangle.sink.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((SERVER, 53))
        self._sock.settimeout(0.1)
        self._dice, self.lies, self.told = dice, True, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                data, who = self._sock.recvfrom(4096)
                right = self._answer(data)
                # What comes first is almost right. The truth behind it keeps the wait short.
                if self.lies:
                    self._sock.sendto(data[:2] + wrong(right, self._dice)[2:], who)
                    self.told += 1
                self._sock.sendto(right, who)

    @staticmethod
    def _answer(data: bytes) -> bytes:
        query = message.from_wire(data)
        answer = message.make_response(query)
        asked = query.question[0]
        if asked.rdtype == rdatatype.A:
            answer.answer.append(rrset.from_text(asked.name, 1, "IN", "CNAME", "real.test."))
            answer.answer.append(rrset.from_text("real.test.", 1, "IN", "A", "10.2.0.2"))
        answer.set_rcode(rcode.NOERROR)
        return answer.to_wire()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._sock.close()


def test_no_answer_of_a_dns_server_does_harm(triangle: Triangle, dice: random.Random) -> None:
    """Once the server says the truth, it is taken."""
    names = [f"r{n}.test" for n in range(NAMES)]
    rules = "".join(
        rule(f"n{n}", f"r0 239.1.2.{n + 1} 5000", f"- {name} {6000 + n}")
        for n, name in enumerate(names)
    )
    server = Lying(triangle, dice)
    try:
        daemon = relay(triangle.lab, triangle.relay, A + rules)
        received = triangle.sink.receive("k0", "239.2.2.1", 6000)
        until_settled(daemon)
        stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=500)
        enough = 3 * NAMES * ROUNDS
        wait_for(lambda: server.told >= enough, "so many answers", timeout=120 * ROUNDS)
        server.lies = False

        def has_the_truth() -> bool:
            outputs = [found["outputs"] for name, found in daemon.rules().items() if name != "a"]
            return all([each["address"] for each in some] == ["10.2.0.2"] for some in outputs)

        wait_for(has_the_truth, "the truth", timeout=120)  # a try after 40 s at most
        sent = stream.stop()["sent"]
        until_relayed(daemon, sent)
        got = received.stop()
        assert (got["unique"], got["lost"], got["duplicated"]) == (sent, 0, 0)
        is_whole(daemon)
    finally:
        server.stop()
