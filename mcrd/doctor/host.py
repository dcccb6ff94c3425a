"""Reads the host: /proc and /sys, below a directory that tests may choose; and the daemon."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NET = "proc/thread-self/net"


@dataclass(frozen=True, slots=True)
class Host:
    """Files of the kernel, by their paths below `root`."""

    root: Path = Path("/")

    def text(self, path: str) -> str:
        """The content of a file; raises OSError."""
        return (self.root / path).read_text(encoding="utf-8", errors="replace")

    def lines(self, path: str) -> list[str]:
        """Its lines; none where it cannot be read."""
        with contextlib.suppress(OSError):
            return self.text(path).splitlines()
        return []

    def sysctl(self, name: str) -> int | None:
        """A number by its name, with dots or with slashes; None where there is none."""
        path = name if "/" in name else name.replace(".", "/")
        with contextlib.suppress(OSError, ValueError):
            return int(self.text(f"proc/sys/{path}"))
        return None

    def network_namespace(self) -> str:
        """That of this process, as net:[INODE]; raises OSError."""
        return os.readlink(self.root / "proc/self/ns/net")

    def exists(self, path: str) -> bool:
        """Is it there, as far as one may look?"""
        try:
            return (self.root / path).exists()
        except OSError:
            return False

    def sockets(self) -> dict[int, int]:
        """Process ids by the inodes of their sockets, of the processes that may be looked at."""
        found: dict[int, int] = {}
        for pid in self._processes():
            with contextlib.suppress(OSError):
                for entry in os.scandir(self.root / "proc" / str(pid) / "fd"):
                    with contextlib.suppress(OSError, ValueError):
                        target = os.readlink(entry.path)
                        if target.startswith("socket:["):
                            found[int(target[8:-1])] = pid
        return found

    def program(self, pid: int) -> str:
        """The name of a process."""
        lines = self.lines(f"proc/{pid}/comm")
        return lines[0] if lines else "?"

    def groups(self, pid: int) -> frozenset[int]:
        """Its effective group, and the supplementary ones; none where it is not to be seen."""
        fields = dict(line.split(":", 1) for line in self.lines(f"proc/{pid}/status"))
        try:
            own = int(fields["Gid"].split()[1])
            return frozenset((own, *map(int, fields["Groups"].split())))
        except (KeyError, IndexError, ValueError):
            return frozenset()

    def _processes(self) -> Iterator[int]:
        with contextlib.suppress(OSError):
            for name in os.listdir(self.root / "proc"):
                if name.isdecimal():
                    yield int(name)


@dataclass(frozen=True, slots=True)
class Running:
    """What the daemon says of itself (`mcrctl status`), or why it says nothing.

    `seen` is its process id as seen from here, 0 where it is not; None: as it says.
    """

    status: dict[str, Any] | None = None
    silence: str = "no daemon answers"
    seen: int | None = None
    workers: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        counts: dict[str, int] = {}
        for worker in self.status["workers"] if self.status else ():
            counts[worker["interface"]] = counts.get(worker["interface"], 0) + 1
        object.__setattr__(self, "workers", counts)

    @property
    def pid(self) -> int | None:
        """Its process id; None where none can be looked at."""
        if self.status is None or self.seen == 0:
            return None
        return int(self.status["pid"]) if self.seen is None else self.seen

    @property
    def uid(self) -> int | None:
        """Its user."""
        return int(self.status["privileges"]["uid"]) if self.status else None

    @property
    def worker(self) -> int | None:
        """The process id of one of its workers; None where none can be looked at."""
        if self.status is None or self.pid != self.status["pid"]:
            return None
        workers = self.status["workers"]
        return int(workers[0]["pid"]) if workers else None

    def may(self, capability: str) -> bool | None:
        """Whether it has a capability; None where no daemon says it."""
        return capability in self.status["privileges"]["capabilities"] if self.status else None

    @property
    def missing(self) -> dict[str, str]:
        """Layers of the sandbox that some worker is without, and why."""
        return dict(self.status["sandbox"]["missing"]) if self.status else {}
