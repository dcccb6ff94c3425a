"""Worker processes: what is said of their end, and what link they are told that they read."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from mcrd.dataplane._dataplane import lib

from mcrd.workers import describe_end, link_layer


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
