"""Starts workers of a build with sanitizers, whose lanes/spawn.py uses it: scripts/sanitized.

The product starts a worker with an empty environment, and the sanitizers are told all by that.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

PATH = re.compile("log_path=[^:]*:?")  # a worker opens its own: worker.py
KEPT = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "PYTHONPATH", "MCRD_SANITIZED")


def spawn(channel: socket.socket, errors: int) -> subprocess.Popen[bytes]:
    """As _spawn() of mcrd.lanes.spawn. The last word is what tests know a worker by."""
    return subprocess.Popen(
        [sys.executable, "-B", "-m", "tests.sanitized.worker", "mcrd.dataplane.worker"],
        stdin=channel.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env={name: PATH.sub("symbolize=0:", os.environ[name]) for name in KEPT},
        cwd="/",
        process_group=0,
    )
