"""Containers on hosts of the lab, by Debian's podman and crun, with their default profile.

podman runs in a mount and a process namespace of its own, and its storage is in memory: no mount,
process or image of it outlives the tests.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.lab.processes import (
    PATIENCE,
    CommandError,
    LabError,
    environment,
    mortal,
    spawn,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.lab import Host, Lab

SCRIPT = """
    set -e
    cd "$1"
    shift
    mount -t tmpfs -o mode=755 tmpfs store
    mount -t tmpfs -o mode=755 tmpfs /run
    umount -R /sys/fs/cgroup # crun runs with v2 alone; here it makes none
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir store/net
    while [ $# -gt 0 ]; do
        : >"store/net/$2"
        mount --bind "/proc/$1/ns/net" "store/net/$2"
        shift 2
    done
    exec unshare --pid --fork --kill-child --mount-proc sleep infinity
"""


IMAGE = "mcrd:latest"
"""The name that documents and manifests have."""


@functools.cache
def why_no_containers() -> str | None:
    """Why none can be had here; None when they can."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("podman", "crun", "buildah"):
        if shutil.which(program, path=environment()["PATH"]) is None:
            return f"needs {program}: scripts/setup containers"
    return None


class Containers:
    """An image, and containers of it. `hosts` are those that containers may be on."""

    def __init__(self, lab: Lab, archive: Path, hosts: Sequence[Host]) -> None:
        self._lab = lab
        where = lab.file("containers")
        (where / "store").mkdir(parents=True)
        self._store = where / "store"
        namespaces = [word for host in hosts for word in (str(host.pid), host.name)]
        unshare = ["unshare", "--mount", "--propagation", "private", "bash", "-c", SCRIPT, "podman"]
        self._holder = spawn(mortal([*unshare, str(where), *namespaces]))
        lab.keep(self._holder)
        self._init = wait_for(self._find_init, "the namespaces of podman")
        self.podman("load", "--quiet", "--input", str(archive), timeout=20 * PATIENCE)

    def _find_init(self) -> int | None:
        if self._holder.poll() is not None:
            raise LabError("no namespaces for podman")
        pid = self._holder.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "sleep":
                return int(child)
        return None

    def _command(self, *arguments: str) -> list[str]:
        return [
            *("nsenter", "--target", str(self._init), "--mount", "--pid", "podman"),
            *("--root", f"{self._store}/images", "--runroot", "/run/containers/storage"),
            *("--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--runtime", "crun"),
            *("--events-backend", "none", *arguments),
        ]

    def call(
        self,
        *arguments: str,
        timeout: float = 4 * PATIENCE,
    ) -> subprocess.CompletedProcess[str]:
        """Runs podman to its end; the exit code is the caller's to look at."""
        return subprocess.run(
            mortal(self._command(*arguments)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=environment(ENVIRONMENT),
        )

    def podman(self, *arguments: str, timeout: float = 4 * PATIENCE) -> str:
        """Runs podman to its end, and returns what it said; raises CommandError."""
        done = self.call(*arguments, timeout=timeout)
        if done.returncode != 0:
            raise CommandError("podman", arguments, done)
        return done.stdout

    def start(
        self,
        host: Host,
        name: str,
        *arguments: str,
        options: Sequence[str] = (),
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a container on the network of a host; the process ends when it does."""
        run = self._command(
            *("run", "--rm", "--name", name, "--network", f"ns:{self._store}/net/{host.name}"),
            *("--cgroups", "disabled", "--log-driver", "none", *options),
            *(IMAGE, *arguments),
        )
        process = spawn(
            mortal(run), stdout=stdout, stderr=stderr, env={**ENVIRONMENT, **(env or {})}
        )
        self._lab.keep(process)
        return process

    def mcrctl(self, name: str, *arguments: str) -> str:
        """Runs mcrctl in a container."""
        return self.podman("exec", name, "mcrctl", *arguments)


ENVIRONMENT = {"DISABLE_HC_SYSTEMD": "true"}
"""Here is no systemd that could have a timer for health checks."""
