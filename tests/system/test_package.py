"""The Debian package: installed, upgraded under traffic, removed, purged."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lab import wait_for
from tests.lab.processes import environment
from tests.system.machine import Machine
from tests.system.service import (
    BROKEN,
    A,
    Service,
    ctl,
    drop_in,
    dropped,
    flows_on,
    received,
    streaming,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab import Triangle

# What every package leaves: dpkg's and the system's own records, and the user (Debian policy 9.2.2
# leaves that to the maintainer, and files of another user's with a uid given again would be worse).
OF_THE_SYSTEM = (
    *("/var/lib/dpkg/", "/var/log/", "/var/cache/", "/var/lib/apt/", "/run/", "/tmp/", "/proc/"),
    *("/sys/", "/dev/", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/root/"),
    *("/etc/.pwd.lock", "/etc/subuid", "/etc/subgid", "/var/tmp/", "/var/lib/systemd/"),
    *("/etc/ld.so.cache", "/var/lib/pcp", "/etc/machine-id"),
)
CONFFILE = "/etc/mcr.toml"


def files(machine: Machine, *where: str) -> set[str]:
    """All files of the root or of directories, but for those that other things write."""
    found = machine.run("find", *(where or "/"), "-xdev", "!", "-type", "d", timeout=120)
    return {path for path in found.splitlines() if not path.startswith(OF_THE_SYSTEM)}


@pytest.fixture(scope="module")
def later(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package, as of a later version."""
    directory = tmp_path_factory.mktemp("later")
    tree, made = directory / "tree", directory / "mcrd.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    text = control.read_text().replace("\nVersion: 0", "\nVersion: 9.0")
    control.write_text(text)
    subprocess.run(
        ["dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", str(tree), str(made)],
        check=True,
        capture_output=True,
    )
    shutil.rmtree(tree)
    return made


@pytest.mark.long
def test_an_upgrade_loses_nothing(service: Service, later: Path) -> None:
    machine = service.machine
    service.rules(A)
    machine.copy(later, "/root/later.deb")
    pid = machine.show("MainPID")
    with streaming(service) as stream:
        machine.run("dpkg", "-i", "/root/later.deb", timeout=120)
        assert "9.0" in machine.run("dpkg-query", "-W", "mcrd")
        assert machine.show("MainPID") != pid
        flows_on(service)
        result = stream.end()
    assert (result["unique"], result["lost"]) == (result["sent"], 0)
    assert received(machine) == result["sent"]
    assert dropped(machine) == {}
    assert machine.run("cat", CONFFILE) == A
    machine.run("dpkg", "-i", "/root/mcrd.deb", timeout=120)


@pytest.mark.long
def test_an_upgrade_with_a_broken_file_leaves_the_old_daemon_at_work(
    service: Service, later: Path
) -> None:
    machine = service.machine
    service.rules(A)
    machine.copy(later, "/root/later.deb")
    pid = machine.show("MainPID")
    with streaming(service, rate=2000) as stream:
        machine.write(CONFFILE, BROKEN)
        done = machine.call("dpkg", "-i", "/root/later.deb", timeout=120)
        assert done.returncode == 0
        assert "/etc/mcr.toml:2:59: rules.a.input.port: " in done.stderr
        assert "systemctl restart mcrd" in done.stderr
        assert machine.show("MainPID") == pid
        flows_on(service, 2000)
        result = stream.end()
    assert result["lost"] == 0
    machine.write(CONFFILE, A)
    machine.run("dpkg", "-i", "/root/mcrd.deb", timeout=120)


@pytest.mark.long
def test_an_upgrade_looks_at_the_file_that_a_drop_in_names(service: Service, later: Path) -> None:
    """By a program without its directory, and with a space in the name."""
    machine = service.machine
    name = "/etc/relay/my rules.toml"
    service.rules(A)
    machine.copy(later, "/root/later.deb")
    machine.run("mkdir", "-p", "/etc/relay")
    machine.write(name, A)
    with drop_in(machine, f'ExecStart=\nExecStart=mcrd --config "{name}"'):
        machine.run("systemctl", "restart", "mcrd")
        pid = machine.show("MainPID")
        machine.write(name, BROKEN)
        done = machine.call("dpkg", "-i", "/root/later.deb", timeout=120)
        assert f"{name}:2:59: rules.a.input.port: " in done.stderr
        assert (done.returncode, machine.show("MainPID")) == (0, pid)
        machine.write(name, A)
        machine.run("dpkg", "-i", "/root/mcrd.deb", timeout=120)
        assert machine.show("MainPID") != pid
        assert machine.show("ActiveState") == "active"
    machine.run("rm", "-r", "/etc/relay")


@pytest.mark.long
def test_of_a_removed_package_the_conffile_is_left_and_of_a_purged_one_nothing(
    service: Service,
) -> None:
    machine = service.machine
    service.rules(A)
    (worker,) = ctl(machine, "stats")["workers"]
    there = files(machine, "/usr", "/etc")
    machine.run("dpkg", "--remove", "mcrd")
    machine.run("sh", "-c", f"! kill -0 {worker['pid']} 2>/dev/null")
    removed = files(machine, "/usr", "/etc")
    machine.run("dpkg", "--purge", "mcrd")
    purged = files(machine, "/usr", "/etc")
    assert removed - purged == {CONFFILE}
    machine.run("dpkg", "-i", "/root/mcrd.deb", timeout=120)
    assert files(machine, "/usr", "/etc") == there
    # What the package brought has gone with it.
    listed = set(machine.run("dpkg", "-L", "mcrd").splitlines())
    assert not listed & purged
    assert "/etc/systemd/system/multi-user.target.wants/mcrd.service" not in removed


@pytest.fixture
def fresh_root(tmp_path: Path) -> Iterator[Path]:
    """A Debian 12 as the installer leaves it, with Python."""
    program = shutil.which("mmdebstrap", path=environment()["PATH"])
    if program is None:
        pytest.skip("needs mmdebstrap, which makes the root: apt-get install mmdebstrap")
    root = tmp_path / "root"
    done = subprocess.run(
        [
            *(program, "--quiet", "--mode=root", "--variant=apt"),
            "--include=systemd,systemd-sysv,dbus,python3,iproute2",
            *("bookworm", str(root)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode != 0:
        pytest.skip(f"mmdebstrap cannot make a root: {done.stderr[-500:]}")
    yield root
    shutil.rmtree(root)


@pytest.mark.long
def test_a_fresh_debian_and_three_lines(
    triangle: Triangle, package: Path, fresh_root: Path
) -> None:
    """Install, three lines of TOML, packets flow; purged, nothing is left."""
    machine = Machine(triangle.relay, fresh_root)
    try:
        before = files(machine)
        machine.copy(package, "/root/mcrd.deb")
        machine.run("apt-get", "install", "-y", "/root/mcrd.deb", timeout=120)
        machine.write(
            CONFFILE,
            "[rules.a]\n"
            'input = { interface = "r0", address = "239.1.1.1", port = 5000 }\n'
            'outputs = [{ interface = "r1", address = "239.2.2.1", port = 6000, ttl = 4 }]\n',
        )
        machine.run("systemctl", "reload", "mcrd")
        receiver = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=10_000)
        triangle.source.send("s0", "239.1.1.1", 5000, count=10_000, rate=5000)
        result = receiver.result()
        assert (result["unique"], result["lost"]) == (10_000, 0)
        wait_for(lambda: received(machine) == 10_000, "the counters")
        machine.run("apt-get", "remove", "-y", "mcrd")
        assert files(machine) - before == {CONFFILE}
        machine.run("apt-get", "purge", "-y", "mcrd")
        assert files(machine) == before
    finally:
        machine.close()
