"""A host that has no more to give: what is refused says so, all else goes on, and it recovers."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from tests.lab import Mcrd, Triangle, wait_for
from tests.lab.daemon import console_script
from tests.network.test_supervision import WITHOUT_A_SPARE, A, B, children, flows, with_a_fault
from tests.sandbox import harness

if TYPE_CHECKING:
    from collections.abc import Callable

UNWATCHED = "[daemon]\nwatch = false\n"
AGAIN = 60.0  # seconds: what was refused is tried again within 30


def limited(daemon: Mcrd, what: str, soft: int | str, uid: int = 0) -> None:
    """Set a limit of the running daemon of that user, but not the hard one."""
    who = ("setpriv", *harness.identity(uid))  # another user's needs CAP_SYS_RESOURCE, also root
    daemon.host.run(*who, "prlimit", f"--pid={daemon.pid}", f"--{what}={soft}:")


def says(daemon: Mcrd, name: str, state: str, *words: str) -> Callable[[], bool]:
    """Whether a rule, or one of its outputs, is in that state, and says why in these words."""

    def found() -> bool:
        entry = daemon.rules()[name]
        told = [entry, *entry["outputs"]]
        return any(
            each["state"] == state and all(word in each.get("reason", "") for word in words)
            for each in told
        )

    return found


def test_descriptors(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED + A)
    in_use = max(int(name) for name in os.listdir(f"/proc/{daemon.pid}/fd"))
    limited(daemon, "nofile", in_use + 20)  # less than what is kept for the daemon itself
    daemon.edit(UNWATCHED + A + B)
    daemon.ctl("reload")
    wait_for(says(daemon, "b", "failed", "raise the limit on open files"), "what it lacks")
    flows(triangle)
    assert daemon.rules()["a"]["state"] == "active"
    limited(daemon, "nofile", 4096)
    wait_for(says(daemon, "b", "active"), "the rule", AGAIN)
    assert "Traceback" not in daemon.log()
    assert daemon.stop() == 0


def test_processes(triangle: Triangle) -> None:
    """Of a user; root has as many as it likes. The ring is read on by the next worker."""
    harness.has_to_be_readable()
    uid = harness.stranger()
    program = (
        *harness.with_net_raw(uid),
        *with_a_fault(WITHOUT_A_SPARE),
    )
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED + A, program=program, owner=uid)
    flows(triangle)
    (worker,) = children(daemon.pid)
    limited(daemon, "nproc", 0, uid)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=100)
    os.kill(worker, signal.SIGKILL)
    wait_for(says(daemon, "a", "failed", "Resource temporarily unavailable"), "what it lacks")
    triangle.source.send("s0", "239.1.1.1", 5000, count=100, rate=1000)
    limited(daemon, "nproc", 1000, uid)
    assert received.result(AGAIN)["unique"] == 100
    wait_for(says(daemon, "a", "active"), "the rule", AGAIN)
    assert "Traceback" not in daemon.log()
    assert daemon.stop() == 0


def test_a_full_disk(triangle: Triangle) -> None:
    """Each line of the log is refused."""
    program = ("sh", "-c", 'exec "$0" "$@" 2>/dev/full', console_script("mcrd"))
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED + A, program=program)
    flows(triangle)
    daemon.edit(UNWATCHED + A + B)
    daemon.ctl("reload")
    assert daemon.status()["rules"] == {"active": 2}
    flows(triangle)
    assert daemon.stop() == 0
    assert not daemon.control.exists()


def test_memory(triangle: Triangle) -> None:
    """Of the daemon: a rule whose rings and counters find no room fails, and the other goes on."""
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED + A)
    with open(f"/proc/{daemon.pid}/statm") as file:
        pages = int(file.read().split()[0])
    limited(daemon, "as", pages * os.sysconf("SC_PAGE_SIZE") + (24 << 20))  # rings take 40 MiB
    daemon.edit(UNWATCHED + A + B)
    daemon.ctl("reload")
    wait_for(says(daemon, "b", "failed", "Cannot allocate memory"), "what it lacks")
    flows(triangle)
    assert daemon.rules()["a"]["state"] == "active"
    limited(daemon, "as", "unlimited")
    wait_for(says(daemon, "b", "active"), "the rule", AGAIN)
    assert "Traceback" not in daemon.log()
    assert daemon.stop() == 0
