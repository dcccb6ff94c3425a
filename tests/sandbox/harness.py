"""A quiet network, workers with somebody in them, and what was seen on the wire meanwhile."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import Lab, build_triangle, wait_for
from tests.sandbox.attempts import ALONE, IN_A_ROW, WITHOUT_RING

if TYPE_CHECKING:
    from tests.lab import Host, Triangle

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "mcrd" / "dataplane" / "src"
HANGS = 300.0  # seconds; all attempts take a twentieth of it
STRANGER = 54321  # a uid that nothing else has

SWITCHES: dict[str, tuple[str, ...]] = {
    "network namespace": ("network namespace",),
    "empty root": ("mount namespace", "empty root"),
    "other namespaces": ("ipc namespace", "uts namespace", "cgroup namespace"),
    "uid": ("uid",),
    "capabilities": ("bounding set", "securebits", "capabilities"),
    "non-dumpable": ("non-dumpable",),
    "no new code": ("no new code",),
    "resource limits": ("resource limits",),
    "landlock": ("landlock",),
    "io_uring restrictions": ("io_uring restrictions",),
    "seccomp": ("seccomp",),
    "no packet socket": ("no packet socket",),
}
"""What can be switched off by itself. no_new_privs cannot: landlock and seccomp need it."""

NEEDED = ("no_new_privs", "io_uring of one thread")


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: "through", "refused" or "killed", and what was said of it."""

    outcome: str
    how: str

    @property
    def refused(self) -> bool:
        """It did not get its way."""
        return self.outcome != "through"


@dataclass
class Seen:
    """All outcomes, and the frames that reached another host meanwhile."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    frames: list[tuple[str, bytes]] = field(default_factory=list)
    errors: str = ""


def build_helper(directory: Path) -> Path:
    """inside.c as a shared library, against the sources that the worker is made of."""
    made = directory / "inside.so"
    subprocess.run(
        [
            *("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"),
            *(f"-I{SOURCES}", str(Path(__file__).with_name("inside.c"))),
            *("-o", str(made), "-luring"),
        ],
        check=True,
    )
    directory.chmod(0o755)
    return made


def stranger() -> int:
    """An unprivileged uid that can read this checkout: its owner's, if that is one."""
    return os.stat(REPOSITORY).st_uid or STRANGER


def identity(uid: int) -> tuple[str, ...]:
    """Options of setpriv(1): that user, its group of the same number, and no other."""
    return (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")


def with_net_raw(uid: int) -> tuple[str, ...]:
    """What runs a command as a user who has CAP_NET_RAW and nothing else."""
    return ("setpriv", *identity(uid), "--inh-caps=+net_raw", "--ambient-caps=+net_raw")


def has_to_be_readable() -> None:
    """Skips a test for which an unprivileged user has to read this checkout; fails it in CI."""
    uid = stranger()
    command = ("setpriv", *identity(uid), sys.executable, "-c", "")
    tried = subprocess.run(command, cwd="/", check=False, capture_output=True)
    if tried.returncode != 0:
        reason = f"only root can read this checkout, so uid {uid} cannot run a daemon from it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def hush(triangle: Triangle) -> None:
    """From here on, hosts send nothing by themselves."""
    ends = ((triangle.source, "s0"), (triangle.relay, "r0"), (triangle.relay, "r1"))
    addresses = {}
    for host, name in (*ends, (triangle.sink, "k0")):
        host.sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")
        (link,) = (link for link in host.links() if link["ifname"] == name)
        addresses[name] = link["address"]
    for host, name, address, there in (
        (triangle.relay, "r0", "10.1.0.1", "s0"),
        (triangle.relay, "r1", "10.2.0.2", "k0"),
    ):
        where = addresses[there]
        host.run(
            *("ip", "neigh", "replace", address, "lladdr", where, "dev", name, "nud", "permanent")
        )


@contextmanager
def quiet_network() -> Iterator[tuple[Triangle, Path]]:
    """source -- relay -- sink in silence; and inside.c, built where everybody can read it."""
    with Lab() as lab, tempfile.TemporaryDirectory(prefix="mcrd-inside-") as directory:
        triangle = build_triangle(lab)
        hush(triangle)
        quiet(triangle)
        yield triangle, build_helper(Path(directory))


def every(together: bool = True) -> list[list[str]]:
    """All attempts: which of them share a worker."""
    row = list(IN_A_ROW)
    return [[name] for name in ALONE] + ([row] if together else [[name] for name in row])


def try_all(
    triangle: Triangle,
    helper: Path,
    off: Sequence[str] = (),
    attempts: Sequence[Sequence[str]] | None = None,
    uid: int = 0,
    engine: str = "io_uring",
) -> Seen:
    """Makes attempts with these layers switched off; `uid` is the supervisor's."""
    if attempts is None:
        attempts = every() if engine == "io_uring" else [[name] for name in WITHOUT_RING]
    spec = {
        "helper": str(helper),
        "off": list(off),
        "engine": engine,
        "attempts": list(attempts),
    }
    user = with_net_raw(uid) if uid else ()
    seen = Seen()
    with ExitStack() as stack:
        wires = {}
        for host, name in ((triangle.source, "s0"), (triangle.sink, "k0")):
            wires[stack.enter_context(_wire(host, name))] = name
        log = triangle.lab.file("outside.log")
        out, into = os.pipe()
        reader = stack.enter_context(open(out))
        with log.open("wb") as errors, os.fdopen(into, "wb") as output:
            process = triangle.relay.start(
                *(*user, sys.executable, "-B", "-m", "tests.sandbox.outside", json.dumps(spec)),
                stdout=output,
                stderr=errors,
                env={"PYTHONPATH": str(REPOSITORY)},
            )
        hangs = threading.Timer(HANGS, process.kill)
        hangs.start()
        stack.callback(hangs.cancel)
        for line in reader:
            told = json.loads(line)
            seen.outcomes[told["attempt"]] = Outcome(told["outcome"], told["how"])
            seen.frames += _arrived(wires)
        process.wait()
        seen.frames += _arrived(wires)
        seen.errors = log.read_text()
    return seen


def _wire(host: Host, interface: str) -> socket.socket:
    """All that arrives there."""
    wire = host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind((interface, 3))
    wire.setblocking(False)
    return wire


def _arrived(wires: dict[socket.socket, str]) -> list[tuple[str, bytes]]:
    frames = []
    while ready := select.select(list(wires), [], [], 0)[0]:
        for wire in ready:
            frame, where = wire.recvfrom(65536)
            if where[2] != socket.PACKET_OUTGOING:
                frames.append((wires[wire], frame))
    return frames


def quiet(triangle: Triangle) -> None:
    """Waits until nothing is under way any more."""
    with _wire(triangle.source, "s0") as one, _wire(triangle.sink, "k0") as other:
        wires = {one: "s0", other: "k0"}
        wait_for(lambda: not _arrived(wires), "silence", interval=0.2)
