"""Worker processes: what is said of their end, and what link they are told that they read."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mcrd.dataplane._dataplane import lib

from mcrd.dataplane import messages, worker
from mcrd.lanes import process as workers
from mcrd.lanes import spawn
from mcrd.lanes.process import WorkerProcess, link_layer
from mcrd.lanes.spawn import describe_end
from mcrd.planning.resources import Ingress, Worker


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit(0)", "ended with exit status 0"),
        ("raise SystemExit(3)", "ended with exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 31)", "killed by SIGSYS"),
        ("import os; os.kill(os.getpid(), 40)", "killed by signal 40"),
    ],
)
def test_the_end_of_a_process_in_words(code: str, words: str) -> None:
    ended = subprocess.run([sys.executable, "-I", "-c", code], check=False)
    assert describe_end(ended.returncode) == words


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGTERM])
def test_a_signal_has_its_name(number: signal.Signals) -> None:
    assert describe_end(-number) == f"killed by {number.name}"


@pytest.mark.parametrize(
    ("hardware", "layer"),
    [
        (1, "LINK_ETHERNET"),  # ARPHRD_ETHER
        (772, "LINK_ETHERNET"),  # ARPHRD_LOOPBACK: a header of zeros
        (65534, "LINK_IP"),  # ARPHRD_NONE: tun, WireGuard
        (512, "LINK_IP"),  # ARPHRD_PPP
        (768, "LINK_IP"),  # ARPHRD_TUNNEL: ipip
        (778, "LINK_IP"),  # ARPHRD_IPGRE
    ],
)
def test_frames_begin_with_ethernet_or_with_ip(hardware: int, layer: str) -> None:
    assert link_layer(hardware) == getattr(lib, layer)


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers go on when their channel is closed, and SIGKILL does nothing to them.

    As it is in a system call that cannot be interrupted: a file server or a device that is hung.
    """
    monkeypatch.setattr(spawn, "PROGRAM", ("-c", "import time; time.sleep(1000)"))
    monkeypatch.setattr(workers, "END_TIMEOUT", 0.05)
    monkeypatch.setattr(workers, "KILL_TIMEOUT", 0.05)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _: None)


async def reaped(process: WorkerProcess) -> None:
    """As it is when it ends after all."""
    while Path(f"/proc/{process.pid}").exists():  # noqa: ASYNC110, ASYNC240  # nobody tells
        await asyncio.sleep(0.01)


@pytest.mark.usefixtures("stubborn")
def test_what_not_even_sigkill_ends_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        ended: list[str] = []
        process = WorkerProcess(
            Worker(Ingress("eth0", 2)), lambda _, how: ended.append(how), lambda *_: None
        )
        try:
            began = time.monotonic()
            await process.stop()
            assert time.monotonic() - began < 10.0
            assert process.gone
            assert not process.connected
            assert ended == []
            (line,) = caplog.messages
            assert line.startswith(f"worker of eth0: pid {process.pid} was killed ")
            assert f"see /proc/{process.pid}/stack" in line
        finally:
            os.kill(process.pid, signal.SIGKILL)
        await asyncio.wait_for(reaped(process), 10.0)

    asyncio.run(scenario())


@pytest.mark.usefixtures("stubborn")
def test_one_that_hangs_and_cannot_be_ended_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        process = WorkerProcess(Worker(Ingress("eth0", 2)), lambda *_: None, lambda *_: None)
        try:
            for _ in range(20):
                process.look(0)
            assert process.hangs
            (line,) = caplog.messages
            assert "has not ended" in line
        finally:
            os.kill(process.pid, signal.SIGKILL)
        await asyncio.wait_for(reaped(process), 10.0)

    asyncio.run(scenario())


@pytest.mark.parametrize("read", [True, False])
def test_an_answer_to_a_supervisor_that_has_gone_is_no_error(
    read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it had read all that the worker said, or not: then the kernel says ECONNRESET."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(worker, "CHANNEL", ours.fileno())
    with ours:
        worker._answer(messages.Done(1))  # noqa: SLF001
        with theirs:
            if read:
                theirs.recv(messages.LARGEST)
        worker._answer(messages.Done(2))  # noqa: SLF001
