"""The supervisor goes on: whoever fails, hangs or does not listen, streams do not notice."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcrd.client import ControlError
from tests.lab import Mcrd, Triangle, wait_for
from tests.lab.daemon import console_script
from tests.lab.rules import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000")
B = rule("b", "r1 239.1.1.2 5000", "r0 239.2.2.2 6000")
END = 20.0  # seconds
COUNT = 500


def flows(triangle: Triangle) -> None:
    """A stream through rule a arrives whole."""
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=COUNT)
    triangle.source.send("s0", "239.1.1.1", 5000, count=COUNT, rate=5000)
    assert received.result()["unique"] == COUNT


def children(pid: int) -> set[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in found}


def executed(pid: int) -> set[int]:
    """Children that are workers by now: until then, whoever starts them waits."""
    found = set()
    for child in children(pid):
        with suppress(OSError):
            if b"mcrd.dataplane.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(child)
    return found


def with_a_fault(fault: str) -> tuple[str, ...]:
    """A program: mcrd with something that goes wrong, by lines of Python."""
    main = "from mcrd.cli.mcrd import main\nimport sys\nsys.exit(main())\n"
    return (sys.executable, "-c", fault + main)


WITHOUT_A_SPARE = """
import mcrd.lanes.spawn
mcrd.lanes.spawn.SETTLED = 1e9
"""

NETLINK = """
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
links, real_get, real_close = AsyncIPRoute.get_links, AsyncIPRoute.get, AsyncIPRoute.close
count = [0, 0]
async def get_links(self):
    count[0] += 1
    if count[0] in (1, 3, 4):
        raise NetlinkError(16)
    return await links(self)
async def get(self, msg_seq=0, **rest):
    async for message in real_get(self, msg_seq, **rest):
        yield message
        if msg_seq == 0:
            count[1] += 1
            if count[1] == 1:
                raise NetlinkError(12)
def close(self):
    real_close(self)
    raise NetlinkError(16)
AsyncIPRoute.get_links = get_links
AsyncIPRoute.get = get
AsyncIPRoute.close = close
"""


def test_errors_of_netlink_make_nobody_deaf(triangle: Triangle) -> None:
    """At the first look, at the first event, while it is looked at, and at the end."""
    daemon = triangle.lab.mcrd(triangle.relay, A, program=with_a_fault(NETLINK))

    def becomes(state: str) -> None:
        wait_for(lambda: daemon.stats()["rules"]["a"]["state"] == state, state)

    for _ in range(3):
        triangle.relay.run("ip", "link", "set", "r0", "down")
        becomes("waiting")
        triangle.relay.run("ip", "link", "set", "r0", "up")
        becomes("active")
    flows(triangle)
    log = daemon.log()
    assert "netlink: Cannot allocate memory; reading all interfaces anew" in log
    assert "cannot read the interfaces: netlink: Device or resource busy" in log
    assert daemon.stop() == 0
    assert not daemon.control.exists()
    assert "239.1.1.1" not in triangle.relay.run("ip", "maddress", "show", "dev", "r0")


def test_while_it_starts_no_rule_is_said_to_be_unknown(triangle: Triangle) -> None:
    """The control socket is there first: requests wait for the rules."""
    slow = """
import asyncio
from mcrd.host.links import Links
start = Links.start
async def late(self):
    await asyncio.sleep(1)
    await start(self)
Links.start = late
"""
    daemon = triangle.lab.mcrd(triangle.relay, A, ready=False, program=with_a_fault(slow))
    assert "a" in daemon.rules()


def test_when_planning_fails_the_daemon_ends_and_says_so(triangle: Triangle) -> None:
    """Its manager starts it anew; nothing is left that would be in the way."""
    fault = """
import mcrd.daemon.planner as at
real = at.plan
def plan(config, actual, known):
    if "b" in config.rules:
        raise KeyError("a bug")
    return real(config, actual, known)
at.plan = plan
"""
    daemon = triangle.lab.mcrd(triangle.relay, A, program=with_a_fault(fault))
    workers = children(daemon.pid)
    daemon.edit(A + B)
    assert daemon.process.wait(END) == 1
    log = daemon.log()
    assert "reload (file saved) failed: KeyError('a bug')" in log
    assert "mcrd cannot continue: KeyError('a bug')" in log
    assert not daemon.control.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_worker_that_does_not_start_stops_no_watch_over_the_others(triangle: Triangle) -> None:
    """While the plan waits for it: silence is said, what hangs is ended, and the watchdog hears."""
    path = triangle.lab.file("notify")
    env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "600000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(END)
        program = with_a_fault(WITHOUT_A_SPARE)
        daemon = triangle.lab.mcrd(triangle.relay, A, env=env, program=program)
        flows(triangle)
        before = children(daemon.pid)
        (hanging,) = before
        # So that the rules change, and the worker of r1 is new.
        daemon.edit(A.replace("[rules.a]", '[rules.a]\nsilence = "1s"') + B)
        (starting,) = wait_for(lambda: executed(daemon.pid) - before, "a worker", interval=0.0005)
        os.kill(starting, signal.SIGSTOP)
        manager.setblocking(False)
        try:
            os.kill(hanging, signal.SIGSTOP)
            wait_for(lambda: "hung: it did not answer" in daemon.log(), "the end of the other")
            wait_for(lambda: "rules.a: silent" in daemon.log(), "the silence to be said")
            assert daemon.status()["pending"]
            with suppress(BlockingIOError):
                while True:
                    manager.recv(4096)
            manager.settimeout(END)
            wait_for(lambda: manager.recv(4096) == b"WATCHDOG=1", "a sign of life", interval=0)
            assert daemon.status()["pending"]
            assert Path(f"/proc/{starting}").exists()
        finally:
            os.kill(starting, signal.SIGKILL)
        wait_for(lambda: daemon.status()["rules"] == {"active": 2}, "all to be well again")
        flows(triangle)


@pytest.fixture
def manager(triangle: Triangle) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A service manager that is hung: its socket is full, and nobody reads it."""
    path = str(triangle.lab.file("notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as made:
        made.bind(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
            other.connect(path)
            with suppress(BlockingIOError):
                while True:
                    other.send(b"FILL=1")
        yield made, {"NOTIFY_SOCKET": path, "FDSTORE": "1000", "WATCHDOG_USEC": "600000"}


def test_a_manager_that_reads_nothing_holds_nobody_up(
    triangle: Triangle, manager: tuple[socket.socket, dict[str, str]]
) -> None:
    hung, env = manager
    held = rule("held", "r0 10.1.0.2 5001", "r1 239.2.2.7 6000")
    daemon = triangle.lab.mcrd(triangle.relay, A + held, env=env)
    flows(triangle)
    daemon.edit(A)  # a port is no longer held: the store has to let it go
    daemon.ctl("reload")
    daemon.edit(A + B)
    daemon.ctl("reload")
    flows(triangle)
    wait_for(lambda: daemon.status()["lost"]["service_manager"] > 1, "signs of life to be lost")
    assert "cannot reach the service manager: it does not read" in daemon.log()
    hung.settimeout(END)
    heard: set[bytes] = set()

    def all_of_it() -> bool:
        heard.add(hung.recv(4096).partition(b";")[0])
        return {b"READY=1", b"STATUS=2 rules", b"WATCHDOG=1"} <= heard

    wait_for(all_of_it, "what it missed", END, interval=0)
    wait_for(lambda: "the service manager listens again" in daemon.log(), "the line")
    assert daemon.stop() == 0


def test_with_a_manager_that_reads_nothing_it_ends_all_the_same(
    triangle: Triangle, manager: tuple[socket.socket, dict[str, str]]
) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A, env=manager[1])
    workers = children(daemon.pid)
    assert daemon.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_log_that_nobody_reads_holds_nobody_up(triangle: Triangle) -> None:
    """The pipe on stderr is full, as of a program that was stopped."""
    path = triangle.lab.file("stderr")
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        room = fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        os.write(pipe, b"x" * room)
        program = ("sh", "-c", 'exec "$0" "$@" 2>"$STDERR"', console_script("mcrd"))
        daemon = Mcrd(triangle.relay, A, (), {"STDERR": str(path)}, program)
        daemon.wait_until_it_answers()
        flows(triangle)
        daemon.edit(A + B)
        daemon.ctl("reload")
        assert daemon.status()["rules"] == {"active": 2}
        os.read(pipe, room)
        lines: list[bytes] = []

        def read() -> bool:
            try:
                lines.append(os.read(pipe, room))
            except BlockingIOError:
                return False
            return b"reload (mcrctl)" in b"".join(lines)

        wait_for(read, "the lines that waited")
        os.write(pipe, b"x" * room)
        assert daemon.stop() == 0
        assert not daemon.control.exists()
        with pytest.raises(ControlError):
            daemon.status()
    finally:
        os.close(pipe)


def test_a_file_that_is_written_without_end_is_reloaded(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    text = daemon.config.read_text()

    def write() -> bool:
        daemon.config.write_text(text + B)
        return "b" in daemon.stats()["rules"]

    wait_for(write, "the rule", interval=0.05)
