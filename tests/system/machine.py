"""A host of the lab that runs systemd: this system's files, of which nothing is changed.

systemd-nspawn boots it on an overlay of / in memory, in the network namespace of the host. Its
mounts are in a namespace of their own, and it dies with the tests: nothing of it stays.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.processes import CommandError, LabError, environment, mortal, spawn, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab import Host

BOOT = 60.0  # seconds; it takes three
# What workers make their sandbox of, besides what nspawn lets a container call.
SYSTEM_CALLS = (
    "@default @io-event @mount io_uring_setup io_uring_enter io_uring_register bpf"
    " landlock_create_ruleset landlock_add_rule landlock_restrict_self pivot_root unshare setns"
    " seccomp capset"
)
# Units of this machine that have no business in another.
MASKED = (
    *("systemd-networkd.service", "systemd-resolved.service", "systemd-timesyncd.service"),
    *("cron.service", "ssh.service", "networking.service", "getty.target"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "man-db.timer", "e2scrub_all.timer"),
    *("fstrim.timer", "dpkg-db-backup.timer", "logrotate.timer", "mcrd.service"),
)


@functools.cache
def why_no_machine() -> str | None:
    """Why none can be booted here; None when one can."""
    if os.geteuid() != 0:
        return "needs root: `sudo make test` runs it too"
    if shutil.which("systemd-nspawn", path=environment()["PATH"]) is None:
        return "needs systemd-nspawn, of Debian's package systemd-container: `make setup`"
    if not any(kind == "cgroup2" for kind, _ in _hierarchies()):
        return "needs cgroup v2"
    try:
        _make_cgroups()
    except OSError as error:
        return f"cannot make a cgroup: {error}"
    _remove_cgroups()
    return None


class Machine:
    """Boots at once. `lower` is the root that it starts from."""

    def __init__(self, host: Host, lower: Path = Path("/"), arguments: str = "") -> None:
        self.host = host
        self._where = host.lab.file("machine")
        self._where.mkdir()
        self._console = host.lab.file("console")
        cgroups = _make_cgroups()
        script = f"""
            set -e
            where=$1
            mount -t tmpfs -o mode=755 tmpfs "$where"
            cd "$where"
            mkdir upper work root
            mount -t overlay -o "lowerdir=$2,upperdir=$where/upper,workdir=$where/work" overlay root
            : >root/etc/machine-id
            rm -f root/etc/resolv.conf root/usr/sbin/policy-rc.d
            units=root/etc/systemd/system
            mkdir -p $units
            for unit in {" ".join(MASKED)}; do ln -sf /dev/null $units/$unit; done
            rm $units/mcrd.service
            shift 2
            for cgroup; do echo $$ >"$cgroup/cgroup.procs"; done
            exec systemd-nspawn --register=no --keep-unit --machine=mcrd-test -D root \\
                --network-namespace-path=/proc/{host.pid}/ns/net --link-journal=no --boot \\
                --console=pipe --capability=all --system-call-filter='{SYSTEM_CALLS}' {arguments}
        """
        command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script, "boot"]
        with self._console.open("wb") as console:
            self._process = spawn(
                mortal([*command, str(self._where), str(lower), *map(str, cgroups)]),
                stdout=console,
                stderr=console,
                env={"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        host.lab.keep(self._process)
        try:
            self._init = wait_for(self._find_init, "systemd to start", BOOT)
            wait_for(self._is_booted, "the machine to boot", BOOT, interval=0.1)
        except (TimeoutError, LabError) as error:
            self.close()
            raise LabError(f"{error}\n{self._console.read_text(errors='replace')}") from None

    def _find_init(self) -> int | None:
        if self._process.poll() is not None:
            raise LabError(f"systemd-nspawn ended with {self._process.returncode}")
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        return None

    def _is_booted(self) -> bool:
        # "degraded": some unit of this system does not start in a container.
        return self.call("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def call(
        self, *command: str, stdin: str = "", timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in it, as root, to its end."""
        enter = ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        return subprocess.run(
            mortal([*enter, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command]),
            input=stdin,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=timeout,
            check=False,
        )

    def run(self, *command: str, stdin: str = "", timeout: float = 60.0) -> str:
        """Runs a command in it to its end, and returns what it said; raises CommandError."""
        done = self.call(*command, stdin=stdin, timeout=timeout)
        if done.returncode != 0:
            raise CommandError(f"the machine on {self.host.name}", command, done)
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """Writes a file in it, as `cat >file` does."""
        self.run("sh", "-c", 'cat >"$0"', path, stdin=text)

    def copy(self, source: Path, path: str) -> None:
        """Copies a file of this system into it."""
        with source.open("rb") as file:
            enter = ["nsenter", "-t", str(self._init), "-m", "-r"]
            subprocess.run(
                [*enter, "sh", "-c", 'cat >"$0"', path], stdin=file, check=True, env=environment()
            )

    def show(self, name: str, unit: str = "mcrd") -> str:
        """A property of a unit, as `systemctl show` has it."""
        return self.run("systemctl", "show", unit, "--value", "--property", name).strip()

    def journal(self, *arguments: str) -> str:
        """The messages of mcrd; `arguments` choose among them."""
        return self.run("journalctl", "-q", "-o", "cat", "--no-pager", "-u", "mcrd", *arguments)

    def close(self) -> None:
        """Shuts it down."""
        if self._process.poll() is None and hasattr(self, "_init"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGRTMIN + 4)  # poweroff.target, systemd(1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(15)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        _remove_cgroups()


def _hierarchies() -> list[tuple[str, Path]]:
    """What systemd may keep track of processes in: cgroup v2, and beside it what v1 has for that.

    Each with its type and where it is mounted.
    """
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [
        (kind, Path(where))
        for _, where, kind, options, *_ in mounts
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(","))
    ]


_serial = itertools.count()


def _make_cgroups() -> list[Path]:
    name = f"mcrd-test-{os.getpid()}-{next(_serial)}"
    made = [where / name for _, where in _hierarchies()]
    for cgroup in made:
        cgroup.mkdir(exist_ok=True)
    return made


def _remove_cgroups() -> None:
    """Those of this run that are empty, and those that a run left that was killed."""

    def below(directory: Path) -> Iterator[Path]:
        for path in directory.iterdir():
            if path.is_dir():
                yield from below(path)
        yield directory

    for _, where in _hierarchies():
        for top in where.glob("mcrd-test-*-*"):
            pid = top.name.split("-")[2]
            if pid != str(os.getpid()) and Path(f"/proc/{pid}").exists():
                continue
            for directory in below(top):
                with contextlib.suppress(OSError):
                    directory.rmdir()
