"""Who is at the other end of the control socket, and the line that says what they asked for."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import grp
import logging
import os
import pwd
import socket
import struct
from pathlib import Path
from typing import NamedTuple

from mcrd.client import PEER
from mcrd.events import tell

SO_PEERGROUPS = 59  # asm-generic/socket.h
NOBODY = 2**32 - 1  # has logged in
SHOWN = 80  # characters of what a client says

log = logging.getLogger(__name__)


class Peer(NamedTuple):
    """A client of the control socket, as it was when it connected (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int
    is_trusted: bool
    """Whether it is root, the daemon's user, or in its group."""

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        """The one at the other end."""
        pid, uid, gid = PEER.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
        )
        try:
            groups = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
        except OSError:  # ERANGE: it is in more than 256
            groups = b""
        others = struct.unpack(f"{len(groups) // 4}I", groups)
        trusted = uid in (0, os.geteuid()) or os.getegid() in (gid, *others)
        return cls(pid, uid, trusted)


def trusted() -> str:
    """Who may ask for everything, in words."""
    user, group = _user(os.geteuid()), str(os.getegid())
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(os.getegid()).gr_name
    return " or ".join(dict.fromkeys(["root", user])) + f", and for the group {group}"


def tell_asked(peer: Peer, command: str, arguments: dict[str, object]) -> None:
    """Log who asks for what changes something, or shows packets; or who may not.

    The process may be gone by now, and its number another's: its user is certain, its name is not.
    """
    said = " ".join(f"{key}={value!r}" for key, value in arguments.items() if value is not None)
    said = said if len(said) <= SHOWN else said[:SHOWN] + "..."
    user, name, login = _user(peer.uid), _of(peer.pid, "comm"), _login(peer)
    by = user if login is None else f"{user}, logged in as {_user(login)},"
    who = f"{by} (process {peer.pid}, {name or 'gone'})"
    fields: dict[str, object] = {"command": command, "arguments": said or None, "by_login": login}
    fields |= {"by_uid": peer.uid, "by_user": user, "by_pid": peer.pid, "by_name": name}
    wanted = f"{command} {said}".strip()
    if peer.is_trusted:
        tell(log, logging.INFO, "asked", "control: %s, asked by %s", wanted, who, **fields)
    else:
        text = "control: %s, refused to %s"
        tell(log, logging.WARNING, "asked-refused", text, wanted, who, **fields)


def _login(peer: Peer) -> int | None:
    """The user who had logged in, if it is another one (proc(5), loginuid)."""
    login = int(_of(peer.pid, "loginuid") or NOBODY)
    return None if login in (NOBODY, peer.uid) else login


def _user(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _of(pid: int, name: str) -> str | None:
    """What /proc says of a process."""
    with contextlib.suppress(OSError, ValueError):
        return Path(f"/proc/{pid}/{name}").read_text(encoding="ascii").strip()
    return None
