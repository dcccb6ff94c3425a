"""Who else sends the packets, as far as that is visible, and what to do about it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mcrd.answers import Twice
from mcrd.beside.sight import bound
from mcrd.host.procfs import Host

RAW = {4: ("raw", 2), 6: ("raw6", 58)}  # tables, with IGMP and ICMPv6, of multicast routers
# Raw sockets of ICMPv6 have many programs that route nothing.
ROUTERS = (
    *("smcrouted", "pimd", "pim6d", "pim6sd", "mrd6", "igmpproxy", "mrouted", "mcproxy"),
    *("omcproxy", "ecmh", "xorp_fea", "pimbd", "mldproxy"),
)
LONGEST = 160  # characters of a command line
ITSELF = "mcrd"  # it listens by such sockets, and routes nothing

Holders = Mapping[int, Sequence[int]]
"""Process ids by the inode of a socket."""


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody who relays some rules too: who it is, and what to do."""

    text: str
    remedy: str
    found: tuple[Twice, ...]

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that are relayed twice."""
        return tuple(dict.fromkeys(one.rule for one in self.found))


def parties(host: Host, found: Iterable[Twice]) -> list[Party]:
    """The parties, each with all that it does."""
    everything = list(found)
    if not everything:
        return []
    holders = host.holders()
    made: list[Party] = []
    mcrds: dict[tuple[tuple[int, ...], int | None], list[Twice]] = {}
    for one in everything:
        if one.by == "mcrd":
            those = {pid for inode in one.inodes for pid in holders.get(inode, ())}
            mcrds.setdefault((_first(host, those), one.uid), []).append(one)
    for (pids, uid), these in mcrds.items():
        made.append(_mcrd(host, pids, uid, these))
    for version in RAW:
        these = [one for one in everything if one.group and (":" in one.group) is (version == 6)]
        if these:
            made.append(_kernel(host, holders, version, these))
    return made


def _first(host: Host, pids: Iterable[int]) -> tuple[int, ...]:
    """The processes that no other of them started: workers have their daemon's sockets."""
    known = set(pids)
    return tuple(sorted(pid for pid in known if host.parent(pid) not in known))


def _mcrd(host: Host, pids: Sequence[int], uid: int | None, these: Sequence[Twice]) -> Party:
    rest = "or take the rules out of one of the two rule files"
    if not pids:
        text = f"another mcrd, of uid {uid} (only root sees which process)"
        return Party(text, f"stop one of the two, {rest}", tuple(these))
    units = [unit for pid in pids if (unit := host.unit(pid))]
    stop = f"systemctl disable --now {units[0]}" if units else f"kill {pids[0]}"
    text = " and ".join(f"pid {pid} ({_command(host, pid)})" for pid in pids)
    return Party(f"another mcrd, {text}", f"stop one of the two (`{stop}`), {rest}", tuple(these))


def _command(host: Host, pid: int) -> str:
    command = host.command(pid)
    return command if len(command) <= LONGEST else f"{command[:LONGEST]}..."


def _kernel(host: Host, holders: Holders, version: int, these: Sequence[Twice]) -> Party:
    show = "`ip mroute show`" if version == 4 else "`ip -6 mroute show`"
    who, stop = router(host, holders, version)
    text = f"the kernel's own multicast routing, set up by {who}"
    remedy = f"{stop}, or take the rule out, or the route ({show} lists them)"
    return Party(text, remedy, tuple(these))


def router(host: Host, holders: Holders, version: int) -> tuple[str, str]:
    """What may have set up the kernel's routing, by such a socket, and how to stop it."""
    pids: dict[int, str] = {}
    unknown = False
    table, protocol = RAW[version]
    for entry in bound(host.net(table)):
        if entry.port == protocol:  # so it stands there (proc(5), /proc/net/raw)
            unknown = unknown or entry.inode not in holders
            pids |= {pid: host.program(pid) for pid in holders.get(entry.inode, ())}
    pids = {pid: name for pid, name in pids.items() if name != ITSELF}
    known = {pid: name for pid, name in pids.items() if name in ROUTERS}
    likely = known or (pids if version == 4 else {})
    if not likely:
        if maybe := host.running(ROUTERS):
            names = " or ".join(f"{host.program(pid)} ({pid})" for pid in maybe)
            return f"most likely {names}", "stop that program"
        more = "only root sees" if unknown else "is not visible from here"
        return f"a program that {more}", "stop that program"
    first = next(iter(likely))
    unit = host.unit(first)
    stop = f"`systemctl disable --now {unit}`" if unit else f"stop it (`kill {first}`)"
    return " or ".join(f"{name} ({pid})" for pid, name in likely.items()), stop
