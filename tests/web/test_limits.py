"""What clients of mcrd-web can cause, and what it costs: bounded, whatever they do."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import wait_for
from tests.mutations import ROUNDS, wrong
from tests.web.serving import Answers, Web, events, rule
from tests.web.thousands import STREAMS, called, cpu, flowing, resident

pytest.importorskip("aiohttp", reason="aiohttp is not installed: `pip install 'mcrd[web]'`")
from mcrd.bucket import Bucket
from mcrd.web import connections
from mcrd.web.history import ROOM_OF_MINUTES, ROOM_OF_SECONDS
from mcrd.web.live import INTERVAL, SHARE

if TYPE_CHECKING:
    import random

    from tests.lab import Triangle


def test_a_flood_of_connections_and_requests_is_bounded(web: Web) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in range(300)]
        for sock in opened:
            sock.settimeout(30)
            sock.connect(("127.0.0.1", web.port))
        for sock in opened:
            with contextlib.suppress(OSError):
                sock.sendall(b"GET /state HTTP/1.1\r\nHost: loc")  # and no more
        wait_for(lambda: sum(map(_is_closed, opened)) >= 300 - 128, "those that are too many to go")
        descriptors = len(list(Path(f"/proc/{web.process.pid}/fd").iterdir()))
        assert descriptors < 128 + 30
        # Those that say nothing more have gone after a while, and there is room again.
        wait_for(lambda: all(map(_is_closed, opened)), "slow ones to go", timeout=200)
    found: set[bytes] = set()
    for _ in range(20):  # faster than it lets requests pass
        if b"429" not in found:
            found |= _at_once(web, 100)
    assert found == {b"404", b"429"}
    wait_for(lambda: web.get("/state")[0] == 200, "the flood to be over")


def test_no_request_does_harm(web: Web, dice: random.Random) -> None:
    """Almost right ones by a seed: an answer or none, and it goes on."""
    right = [
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()
        for method, more in (("GET", ""), ("GET", "Accept-Encoding: gzip\r\n"), ("HEAD", ""))
        for path in ("/", "/state", "/rule/camera", "/journal/camera", "/events", "/explain/camera")
    ]
    right += [text.replace(b"GET", b"POST") for text in right if b"explain" in text]
    before, seen = len(list(Path(f"/proc/{web.process.pid}/fd").iterdir())), set[bytes]()
    for _ in range(200 * ROUNDS):
        with socket.socket() as sock:
            sent = wrong(dice.choice(right), dice)
            # What is unfinished gets no answer; others have theirs within 5 ms on an idle machine.
            sock.settimeout(1)
            sock.connect(("127.0.0.1", web.port))
            sock.settimeout(1 if b"\r\n\r\n" in sent else 0.05)
            with contextlib.suppress(OSError):
                sock.sendall(sent)
                answer = sock.recv(100)
                assert not answer or answer.startswith(b"HTTP/"), answer
                seen.add(answer[9:12])
    wait_for(lambda: web.get("/state")[0] == 200, "an answer")
    assert {b"200", b"400"} <= seen
    descriptors = Path(f"/proc/{web.process.pid}/fd")
    wait_for(lambda: len(list(descriptors.iterdir())) <= before + 2, "the clients to go", 200)
    assert "Traceback" not in web.errors.read_text()


def _at_once(web: Web, number: int) -> set[bytes]:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in range(number)]
        for sock in opened:
            sock.settimeout(60)
            sock.connect(("127.0.0.1", web.port))
            sock.sendall(b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return {sock.recv(100)[9:12] for sock in opened}


def test_those_who_do_not_read_take_little_memory_and_keep_nobody_out(
    web: Web, answers: Answers
) -> None:
    """/state has 2 MB; eight are written at once, and of each no more than a buffer waits."""
    answers.set_rules({f"r{n}": rule(packets=n) for n in range(1000)}, about="x" * 2000)
    wait_for(lambda: len(web.state()["rules"]) == 1000, "the rules")
    before = resident(web.process.pid)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_asking(web, b"/state")) for _ in range(100)]
        wait_for(lambda: sum(map(_is_answered, opened)) >= 100 - 16, "the answers to begin")
        assert resident(web.process.pid) - before < 40e6
        assert len(next(events(web))["rules"]) == 1000


def _asking(web: Web, path: bytes) -> socket.socket:
    """A client that asks, and has hardly any room for the answer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", web.port))
    sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return sock


def _is_answered(sock: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError, ConnectionError):
        return sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) != b""
    return False


def test_so_many_requests_a_second_after_a_burst() -> None:
    now = 0.0
    bucket = Bucket(50, 200, lambda: now)
    assert [bucket.take() for _ in range(201)] == [True] * 200 + [False]
    now = 1.0
    assert [bucket.take() for _ in range(51)] == [True] * 50 + [False]


def test_one_address_has_not_all_connections_unless_many_are_behind_it() -> None:
    for peer, most in (("192.0.2.1", 48), ("192.0.2.2", 128), ("127.0.0.1", 128)):
        door = connections.Door(frozenset(("192.0.2.2",)))
        assert [door.enter(peer) for _ in range(129)] == [True] * most + [False] * (129 - most)
        assert door.enter("192.0.2.3") == (most < 128)
        door.leave(peer)
        assert door.enter(peer)


def _is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_streams_are_few_and_one_that_is_not_read_ends(web: Web, answers: Answers) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(_asking(web, b"/events"))
        wait_for(lambda: web.get("/events")[0] == 503, "as many streams as there may be")
        answers.set_rules({f"r{n}": rule(packets=n) for n in range(400)}, about="x" * 5000)
        wait_for(lambda: _few_streams(web), "those that do not read to be dropped", timeout=300)


def _few_streams(web: Web) -> bool:
    with contextlib.suppress(StopIteration, OSError):
        return "rules" in next(events(web))
    return False


@pytest.mark.long
def test_thousands_of_rules_cost_little(web: Web, answers: Answers) -> None:
    """Below 20 % of a CPU and 100 MB, with a page that looks; and once a second."""
    rules = {f"g{n % 50}-{n}": rule(f"eth{n % 9}", packets=n) for n in range(5000)}
    drops = dict.fromkeys((f"reason_{n}" for n in range(20)), 0)
    for each in rules.values():
        each.dropped = drops
    answers.set_rules(rules)
    stream = events(web)
    while len(next(stream).get("rules", ())) < 5000:
        pass
    begin, before, polls = time.monotonic(), cpu(web.process.pid), answers.asked["stats"]
    for turn in range(8):
        for number, each in enumerate(rules.values()):
            each.rate.second.packets = number + turn
        next(stream)
    spent = cpu(web.process.pid) - before
    share = spent / (time.monotonic() - begin)
    assert share < 0.2, f"{100 * share:.1f} % of a CPU"
    # Once a second, on a machine that is not busy.
    assert spent / (answers.asked["stats"] - polls) < INTERVAL / SHARE
    assert resident(web.process.pid) < 100e6


@pytest.mark.long
@pytest.mark.alone
def test_thousands_of_streams_flow_beside_it(triangle: Triangle) -> None:
    """A real daemon loses none of them; below 20 % of a CPU, and 100 MB with a day behind it."""
    with flowing(triangle, 25) as beside:
        stream = events(beside.web)
        for _ in range(10):
            assert next(stream)["trouble"] == ""
            assert beside.web.get(f"/rule/{called(STREAMS // 2)}")[0] == 200
        web, daemon = beside.shares()
        memory = resident(beside.web.process.pid)
    print(f"mcrd-web {100 * web:.1f} % of a CPU, {memory / 1e6:.0f} MB; mcrd {100 * daemon:.1f} %")
    assert web < 0.2
    assert memory + ROOM_OF_SECONDS + ROOM_OF_MINUTES < 100e6
