"""mcrctl's end of the control socket. Few imports, so that it is quick."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

from mcrd.errors import words

CONNECT_TIMEOUT = 5.0  # seconds
PEER = struct.Struct("iII")  # struct ucred: process id, user, group
ANSWER_LARGEST = 64 * 1024 * 1024  # bytes


class ControlError(Exception):
    """A request failed; `lines` say why, one problem each.

    `logged`: the daemon has them in its log.
    """

    logged = False

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class NoAnswerError(ControlError):
    """Nobody answered, so nothing is known about what was asked for."""


def ask(path: Path, command: str, timeout: float, **arguments: Any) -> Any:
    """Send a request and return its result; `timeout` in seconds.

    Raises ControlError when the daemon refuses, and NoAnswerError when it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONNECT_TIMEOUT)
        try:
            sock.connect(str(path))
        except OSError as error:
            raise NoAnswerError(f"cannot reach mcrd at {path}: {_why(error)}") from None
        sock.settimeout(timeout)
        try:
            sock.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
            with sock.makefile("rb") as stream:
                line = stream.readline(ANSWER_LARGEST)
            reply = json.loads(line)
        except TimeoutError:
            text = "is it stopped, or very busy? `systemctl status mcrd`, `journalctl -u mcrd`"
            raise NoAnswerError(f"mcrd did not answer within {timeout:g} s: {text}") from None
        except (OSError, ValueError):
            raise NoAnswerError("mcrd ended before it answered; look at its log") from None
    if reply["errors"]:
        refusal = ControlError(*reply["errors"])
        refusal.logged = reply.get("logged", False)
        raise refusal
    return reply["result"]


def peer(control: Path) -> int | None:
    """The process id of the socket's owner as seen from here: 0 in another namespace (unix(7))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, contextlib.suppress(OSError):
        sock.settimeout(CONNECT_TIMEOUT)
        sock.connect(str(control))
        peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
        return int(PEER.unpack(peer)[0])
    return None


def network_namespace() -> int:
    """The inode of the network namespace of this process (namespaces(7)).

    Both ends know theirs: what mcrctl sees of the host is about the daemon's only where they agree.
    """
    return os.stat("/proc/self/ns/net").st_ino


def _why(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "there is no such socket; is mcrd running?"
        case errno.ECONNREFUSED:
            return "nobody answers; mcrd has ended without cleaning up"
        case errno.ENOTSOCK | errno.EPROTOTYPE:
            return "it is not a control socket"
        case errno.EACCES:
            return "permission denied; run as root or as a member of the daemon's group"
        case _:
            return words(error)
