"""Reads the host: /proc and /sys, below a directory that tests may choose; and the daemon."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mcrd.answers import Others, Status

NET = "proc/thread-self/net"


@dataclass(frozen=True, slots=True)
class Host:
    """Files of the kernel, by their paths below `root`."""

    root: Path = Path("/")

    def text(self, path: str) -> str:
        """The content of a file; raises OSError."""
        return (self.root / path).read_text(encoding="utf-8", errors="replace")

    def lines(self, path: str) -> list[str]:
        """The lines of a file; none where it cannot be read."""
        with contextlib.suppress(OSError):
            return self.text(path).splitlines()
        return []

    def sysctl(self, name: str) -> int | None:
        """A number by its name, with dots or with slashes; None where there is none."""
        path = name if "/" in name else name.replace(".", "/")
        with contextlib.suppress(OSError, ValueError):
            return int(self.text(f"proc/sys/{path}"))
        return None

    def lowest(self, *names: str) -> tuple[int, str] | None:
        """The sysctl that limits: in a user namespace, that of the namespace or the host's."""
        found = [(value, name) for name in names if (value := self.sysctl(name)) is not None]
        return min(found) if found else None

    def release(self) -> tuple[int, int] | None:
        """Major and minor version of the kernel."""
        found = re.match(r"(\d+)\.(\d+)", "".join(self.lines("proc/sys/kernel/osrelease")))
        return (int(found[1]), int(found[2])) if found else None

    def ip_counters(self) -> dict[str, str]:
        """The counters of IPv4 by their names (proc(5), /proc/net/snmp); none: they are not there.

        They are of the whole network namespace.
        """
        lines = [line.split() for line in self.lines(f"{NET}/snmp") if line.startswith("Ip:")]
        return dict(zip(*lines, strict=False)) if len(lines) == 2 else {}

    def fragments_lost(self) -> dict[str, int]:
        """Sets of fragments that never became a packet (RFC 4293).

        They are ipReasmFails and ipv6IfStatsReasmFails, of the whole network namespace. No frame of
        such a set of IPv4 reaches a ring; those of IPv6 do. A name is missing where the kernel has
        no such counter.
        """
        found: dict[str, int] = {}
        with contextlib.suppress(ValueError, KeyError):
            found["ipv4_fragments_lost"] = int(self.ip_counters()["ReasmFails"])
        with contextlib.suppress(ValueError, KeyError):
            counts = dict(line.split() for line in self.lines(f"{NET}/snmp6"))
            found["ipv6_fragments_lost"] = int(counts["Ip6ReasmFails"])
        return found

    def network_namespace(self) -> str:
        """The namespace of this process, as net:[INODE]; raises OSError."""
        return os.readlink(self.root / "proc/self/ns/net")

    def exists(self, path: str) -> bool:
        """Whether it exists, as far as one may look."""
        try:
            return (self.root / path).exists()
        except OSError:
            return False

    def holders(self) -> dict[int, list[int]]:
        """Process ids by the inodes of their sockets, of the processes that may be looked at."""
        found: dict[int, list[int]] = {}
        for pid in self._processes():
            for target in self._opened(pid):
                if target.startswith("socket:["):
                    with contextlib.suppress(ValueError):
                        found.setdefault(int(target[8:-1]), []).append(pid)
        return found

    def inotify(self, uid: int) -> dict[int, int]:
        """How many instances of inotify(7) processes of a user have, by their ids.

        An instance is that of a user; those of processes that may not be looked at are not seen.
        """
        own = (pid for pid in self._processes() if self._status(pid, "Uid")[:1] == [uid])
        found = {pid: list(self._opened(pid)).count("anon_inode:inotify") for pid in own}
        return {pid: count for pid, count in found.items() if count}

    def _opened(self, pid: int) -> Iterator[str]:
        """What the descriptors of a process are links to, as far as one may look."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.root / "proc" / str(pid) / "fd"):
                with contextlib.suppress(OSError):
                    yield os.readlink(entry.path)

    def _status(self, pid: int, field: str) -> list[int]:
        """The numbers of a field, the real user first among them; none where it is not visible."""
        for line in self.lines(f"proc/{pid}/status"):
            if line.startswith(f"{field}:"):
                return [int(word) for word in line.split()[1:]]
        return []

    def net(self, table: str) -> list[str]:
        """The lines of a table of sockets, as /proc/net/udp is one, without its head."""
        return self.lines(f"{NET}/{table}")[1:]

    def named(self, program: str, uid: int) -> list[int]:
        """Processes of this name and user, for where the owner of a socket is not visible."""
        found = []
        for pid in self._processes():
            with contextlib.suppress(OSError):
                owner = (self.root / "proc" / str(pid)).stat().st_uid
                if owner == uid and self.program(pid) == program:
                    found.append(pid)
        return sorted(found)

    def running(self, programs: Collection[str]) -> list[int]:
        """Processes of these names, whatever network they have."""
        return sorted(pid for pid in self._processes() if self.program(pid) in programs)

    def words(self, pid: int) -> list[str]:
        """The command line of a process; empty where it is not visible."""
        with contextlib.suppress(OSError):
            return self.text(f"proc/{pid}/cmdline").rstrip("\0").split("\0")
        return []

    def command(self, pid: int) -> str:
        """The command line of a process, or its name where that is not visible."""
        words = self.words(pid)
        if words and "python" in words[0].rpartition("/")[2] and len(words) > 1:
            words = words[1:]
        return shlex.join(words) if any(words) else self.program(pid)

    def parent(self, pid: int) -> int | None:
        """The parent of a process; None where it is not visible."""
        return next(iter(self._status(pid, "PPid")), None)

    def unit(self, pid: int) -> str:
        """The service of the system that a process belongs to; "" where it belongs to none."""
        for line in self.lines(f"proc/{pid}/cgroup"):
            _, within, path = line.partition("/system.slice/")
            for part in reversed(path.split("/") if within else []):
                if part.endswith(".service"):
                    return part
        return ""

    def program(self, pid: int) -> str:
        """The name of a process."""
        lines = self.lines(f"proc/{pid}/comm")
        return lines[0] if lines else "?"

    def groups(self, pid: int) -> frozenset[int]:
        """The effective group, and the supplementary ones; none where they are not visible."""
        return frozenset((*self._status(pid, "Gid")[1:2], *self._status(pid, "Groups")))

    def _processes(self) -> Iterator[int]:
        with contextlib.suppress(OSError):
            for name in os.listdir(self.root / "proc"):
                if name.isdecimal():
                    yield int(name)


@dataclass(frozen=True, slots=True)
class Running:
    """What the daemon says of itself (`mcrctl status`), or why it says nothing.

    `seen` is its process id as seen from here, 0 where it is not; None: as it says. `others` is
    who else relays what it does, None where it does not say that. `rates` are packets that each
    interface received in a second.
    """

    status: Status | None = None
    silence: str = "no daemon answers"
    seen: int | None = None
    others: Others | None = None
    rates: Mapping[str, int] = field(default_factory=dict)

    @property
    def workers(self) -> dict[str, int]:
        """The number of workers of each interface."""
        return dict(Counter(w.interface for w in self.status.workers) if self.status else ())

    @property
    def pid(self) -> int | None:
        """The daemon's process id; None where it is not visible."""
        if self.status is None or self.seen == 0:
            return None
        return self.status.pid if self.seen is None else self.seen

    @property
    def uid(self) -> int | None:
        """The daemon's user."""
        return self.status.privileges.uid if self.status else None

    @property
    def worker(self) -> int | None:
        """The process id of one of its workers; None where none is visible."""
        if self.status is None or self.pid != self.status.pid:
            return None
        workers = self.status.workers
        return workers[0].pid if workers else None

    def may(self, capability: str) -> bool | None:
        """Whether it has a capability; None where no daemon says it."""
        return capability in self.status.privileges.capabilities if self.status else None

    @property
    def missing(self) -> dict[str, str]:
        """Layers of the sandbox that some worker is without, and why."""
        return self.status.sandbox.missing if self.status else {}
