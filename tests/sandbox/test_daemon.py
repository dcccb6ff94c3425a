"""The daemon around the sandbox: what it may do, and what it says of a layer that is missing.

And who may tell it what, and what becomes of a worker that does what no worker does.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mcrd.dataplane._dataplane import lib

from mcrd.daemon.privileges import AS_ROOT, WORK
from tests.dataplane.bench import Seen
from tests.lab import wait_for
from tests.lab.daemon import console_script
from tests.sandbox import harness

if TYPE_CHECKING:
    from tests.lab import Mcrd, Triangle

RULE = """
[rules.a]
input = { interface = "r0", address = "239.1.1.1", port = 5000 }
outputs = [{ interface = "r1", address = "239.2.2.1", port = 6000, ttl = 4 }]
"""
RANGE = """
[rules.range]
input = { interface = "r0", address = "239.5.0.0/24", port = "5000-5009" }
outputs = [{ interface = "r1", address = "239.6.0.0/24", port = "6000-6009", ttl = 4 }]
"""
UNWATCHED = "[daemon]\nwatch = false\n"  # so the reload that is asked for is the one that changes
STRICT = UNWATCHED + 'sandbox = "strict"\n'


def unprivileged(triangle: Triangle, rules: str, *before: str) -> Mcrd:
    """A daemon that never was root."""
    harness.has_to_be_readable()
    return triangle.lab.mcrd(
        triangle.relay,
        rules,
        program=(*before, *harness.with_net_raw(harness.stranger()), console_script("mcrd")),
        owner=harness.stranger(),
    )


def carries(triangle: Triangle, daemon: Mcrd) -> bool:
    """A thousand packets go in, and a thousand come out."""
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=1000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=1000, rate=5000)
    assert daemon.stats()["interfaces"]["r0"]["dropped"]["ring_full"] == 0
    return bool(received.result()["unique"] == 1000)


def mask(names: dict[str, int]) -> int:
    return sum(1 << number for number in names.values())


def sets(pid: int) -> dict[str, int]:
    status = Seen(pid).status()
    return {name: int(value[0], 16) for name, value in status.items() if name.startswith("Cap")}


# The supervisor


def test_as_root_it_keeps_what_its_work_takes(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, RULE)
    kept = mask({**WORK, **AS_ROOT})
    assert sets(daemon.pid) == {
        "CapInh": 0,
        "CapPrm": kept,
        "CapEff": kept,
        "CapBnd": kept,
        "CapAmb": 0,
    }
    assert Seen(daemon.pid).status()["NoNewPrivs"] == ["1"]
    said = daemon.status()
    assert said["privileges"] == {
        "uid": 0,
        "gid": 0,
        "capabilities": sorted({**WORK, **AS_ROOT}, key={**WORK, **AS_ROOT}.__getitem__),
        "no_new_privs": True,
    }
    assert said["sandbox"] == {"mode": "default", "missing": {}}
    assert "sandbox (default): all layers hold: " in daemon.ctl("status").stdout
    assert carries(triangle, daemon)


def test_unprivileged_it_needs_net_raw_alone_and_its_workers_nothing(triangle: Triangle) -> None:
    daemon = unprivileged(triangle, RULE)
    held = sets(daemon.pid)
    assert (held["CapPrm"], held["CapEff"]) == (1 << WORK["net_raw"],) * 2
    assert (held["CapInh"], held["CapAmb"]) == (0, 0)
    assert carries(triangle, daemon)
    (worker,) = daemon.stats()["workers"]
    assert set(sets(worker["pid"]).values()) == {0}
    assert "user namespace" in worker["layers"]
    assert daemon.status()["sandbox"]["missing"] == {}
    assert "lack layers" not in daemon.log()


def test_root_without_sys_admin_has_user_namespaces_too(triangle: Triangle) -> None:
    """As the unit has it: workers become somebody else first."""
    kept = "-all,+net_raw,+setuid,+setgid,+setpcap,+kill,+dac_read_search"
    daemon = triangle.lab.mcrd(
        triangle.relay,
        STRICT + RULE,
        program=("setpriv", f"--bounding-set={kept}", console_script("mcrd")),
    )
    assert sets(daemon.pid)["CapEff"] == mask({"net_raw": 13, **AS_ROOT}) & ~(1 << 21)
    (worker,) = daemon.stats()["workers"]
    assert "user namespace" in worker["layers"]
    assert "0" not in Seen(worker["pid"]).status()["Uid"]
    assert set(sets(worker["pid"]).values()) == {0}
    assert carries(triangle, daemon)


def test_each_worker_is_alone_in_its_namespaces(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, RULE)
    (worker,) = daemon.stats()["workers"]
    for name in ("net", "mnt", "ipc", "uts", "cgroup"):
        ours = os.readlink(f"/proc/{daemon.pid}/ns/{name}")
        assert os.readlink(f"/proc/{worker['pid']}/ns/{name}") != ours
    assert list(Path(f"/proc/{worker['pid']}/root").iterdir()) == []


# Layers that this host refuses


def chrooted(triangle: Triangle) -> tuple[str, ...]:
    """Where no user namespace can be made: user_namespaces(7), "in a chroot"."""
    root = triangle.lab.file("root")
    root.mkdir()
    script = 'mount --rbind / "$0" && exec chroot "$0" "$@"'
    return ("unshare", "--mount", "--propagation=private", "sh", "-c", script, str(root))


def test_a_layer_that_the_host_refuses_is_named_once(triangle: Triangle) -> None:
    daemon = unprivileged(triangle, RULE, *chrooted(triangle))
    assert carries(triangle, daemon)
    missing = daemon.status()["sandbox"]["missing"]
    assert {"user namespace", "network namespace", "empty root"} <= missing.keys()
    assert missing["user namespace"] == "Operation not permitted"
    (worker,) = daemon.stats()["workers"]
    assert {"uid", "capabilities", "no_new_privs", "seccomp"} <= set(worker["layers"])
    os.kill(worker["pid"], 9)
    wait_for(lambda: _another(daemon, worker["pid"]), "another worker")
    for layer in missing:
        assert len(re.findall(rf"[:;] {layer}: ", daemon.log())) == 1
    told = daemon.ctl("status").stdout
    assert "some workers lack layers of the sandbox (default):" in told
    assert "  user namespace (Operation not permitted)" in told


def _another(daemon: Mcrd, pid: int) -> bool:
    workers = daemon.stats()["workers"]
    return bool(workers) and workers[0]["pid"] != pid


def test_strict_makes_it_an_error(triangle: Triangle) -> None:
    daemon = unprivileged(triangle, STRICT + RULE, *chrooted(triangle))
    rule = daemon.stats()["rules"]["a"]
    assert rule["state"] == "failed"
    assert rule["reason"] == (
        "worker of r0: sandbox: user namespace: Operation not permitted,"
        ' and the rule file says sandbox = "strict"'
    )
    daemon.edit(UNWATCHED + RULE)
    assert "~ daemon.sandbox strict -> default" in daemon.ctl("reload").stdout
    assert carries(triangle, daemon)


def test_strict_is_no_matter_where_all_layers_hold(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED + RULE)
    (before,) = daemon.stats()["workers"]
    daemon.edit(STRICT + RULE)
    assert (
        "~ daemon.sandbox default -> strict (all workers are replaced; packets wait in the rings)"
        in daemon.ctl("reload").stdout
    )
    (after,) = daemon.stats()["workers"]
    assert after["pid"] != before["pid"]
    assert daemon.status()["sandbox"] == {"mode": "strict", "missing": {}}
    assert carries(triangle, daemon)


# A worker that does what no worker does

# mcrd, whose workers make an attempt when the supervisor asks for a sign of life.
TAKEN_OVER = """
import json, sys
sys.path.insert(0, {repository!r})
from mcrd.lanes import spawn as workers
program = "import sys; sys.path.insert(0, {repository!r}); from tests.sandbox import inside; "
spec = dict(off=[], attempts=[{attempt!r}] * 100, helper={helper!r})
workers.PROGRAM = ("-c", program + "inside.run(sys.argv[1])", json.dumps(spec))
from mcrd.cli.mcrd import main
sys.exit(main())
"""


def taken_over(triangle: Triangle, rules: str, attempt: str, directory: Path) -> Mcrd:
    """A daemon whose workers are somebody else's."""
    text = TAKEN_OVER.format(
        repository=str(harness.REPOSITORY),
        attempt=attempt,
        helper=str(harness.build_helper(directory)),
    )
    return triangle.lab.mcrd(triangle.relay, rules, program=(sys.executable, "-c", text))


def test_a_violation_is_named_and_the_worker_replaced(triangle: Triangle, tmp_path: Path) -> None:
    daemon = taken_over(triangle, RULE, "socket AF_INET", tmp_path)
    wait_for(lambda: "forbids" in daemon.log(), "the violation in the log")
    lines = daemon.log().splitlines()
    told = next(n for n, line in enumerate(lines) if "forbids" in line)
    found = re.search(
        r" ERROR: worker of r0 \(pid (\d+)\): the sandbox forbids the system call"
        rf" socket \({lib.sandbox_system_call(b'socket')}\); rule set: seccomp$",
        lines[told],
    )
    assert found
    pid = int(found[1])
    wait_for(lambda: _another(daemon, pid), "another worker")
    lines = daemon.log().splitlines()
    assert lines.index(lines[told]) < next(
        n for n, line in enumerate(lines) if f"pid {pid} ended by its sandbox" in line
    )
    assert "what waits in its rings is thrown away" in daemon.log()


def test_a_member_of_no_rule_is_nobodys(triangle: Triangle, tmp_path: Path) -> None:
    """A compromised worker asks for a socket to where no rule goes."""
    daemon = taken_over(triangle, RANGE, "ask for a member that is none", tmp_path)
    wait_for(lambda: "that range does not have" in daemon.log(), "the reason in the log")
    assert daemon.host.run("ss", "-Hun") == ""


def test_a_crash_throws_away_what_waits_in_the_rings(triangle: Triangle) -> None:
    """It may be what made it crash; the other workers of the interface go on."""
    two = "[interfaces.r0]\nworkers = 2\n"
    daemon = triangle.lab.mcrd(triangle.relay, two + RULE)
    assert carries(triangle, daemon)
    before = daemon.stats()
    pids = {worker["pid"] for worker in before["workers"]}
    os.kill(min(pids), signal.SIGSEGV)

    def replaced() -> bool:
        now = daemon.stats()
        there = {worker["pid"] for worker in now["workers"]}
        active = now["rules"]["a"]["state"] == "active"
        return len(there) == 2 and there & pids == {max(pids)} and active

    wait_for(replaced, "one other worker")
    assert "killed by SIGSEGV" in daemon.log()
    assert "what waits in its rings is thrown away" in daemon.log()
    assert carries(triangle, daemon)
    after = daemon.stats()
    assert after["rules"]["a"]["received"]["packets"] == 2000
    assert after["interfaces"]["r0"]["received"]["packets"] >= 2000


def test_what_is_thrown_away_with_a_ring_is_counted(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, RULE)
    with daemon.standing_still() as (worker,):
        triangle.source.send("s0", "239.1.1.1", 5000, count=300)
        os.kill(worker, signal.SIGSEGV)
    wait_for(lambda: _another(daemon, worker), "another worker")
    assert carries(triangle, daemon)
    stats = daemon.stats()
    dropped = stats["interfaces"]["r0"]["dropped"]
    assert stats["rules"]["a"]["received"]["packets"] == 1000
    assert 300 <= dropped["discarded"] <= 310  # neighbour discovery comes when it likes
    (after,) = stats["workers"]
    assert after["dropped"] == dropped
    assert after["restarts"] == 1


# The control socket


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        (("--reuid=0", "--regid=0", "--clear-groups"), True),
        (("--reuid=54321", "--regid=54321", "--clear-groups"), False),
        (("--reuid=54321", "--regid=54321", "--groups=0"), True),
        (("--reuid=54321", "--regid=54321", "--groups=1,2,3"), False),
    ],
    ids=["root", "stranger", "in the group", "in other groups"],
)
def test_a_reload_is_for_root_the_user_and_the_group(
    triangle: Triangle, who: tuple[str, ...], allowed: bool
) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, RULE)
    assert daemon.control.stat().st_mode & 0o7777 == 0o660
    # As if an administrator had let everybody ask.
    daemon.control.chmod(0o666)
    for directory in (daemon.control.parent, daemon.control.parent.parent):
        directory.chmod(0o755)
    program = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"
    program += "; s.send(sys.argv[2].encode() + b'\\n'); print(s.makefile().readline())"
    answers = {
        command: triangle.relay.run(
            *("setpriv", *who, "/usr/bin/python3", "-I", "-c", program, str(daemon.control)),
            f'{{"command": "{command}"}}',
        )
        for command in ("status", "reload")
    }
    assert '"errors":[]' in answers["status"]
    if allowed:
        assert '"errors":[]' in answers["reload"]
    else:
        assert "reload is for root, and for the group root" in answers["reload"]
        assert "reload (mcrctl)" not in daemon.log()
