"""mcrctl's end of the control socket. Few imports, so that it is quick."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mcrd import __version__
from mcrd.answers import PROTOCOL, Answer, Reply
from mcrd.errors import words

CONNECT_TIMEOUT = 5.0  # seconds
PEER = struct.Struct("iII")  # struct ucred: process id, user, group
REQUEST_LARGEST = 64 * 1024  # bytes of its line
ANSWER_LARGEST = 64 * 1024 * 1024  # bytes

TOO_LONG = f"a request has at most {REQUEST_LARGEST} bytes"

Kind = TypeVar("Kind", bound=Answer)


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
    """Send a request and return its result, as plain JSON; `timeout` in seconds.

    Raises ControlError when the daemon refuses, and NoAnswerError when it does not answer.
    """
    return _ask(path, command, timeout, arguments).result


def fetch(path: Path, kind: type[Kind], timeout: float, **arguments: Any) -> Kind:
    """As ask(), what is answered to the command of this kind.

    Raises ControlError for the answer of a daemon whose version is too different, as well.
    """
    return read(_ask(path, kind.command, timeout, arguments), kind)


def read(reply: Reply, kind: type[Kind]) -> Kind:
    """The result as this kind; raises ControlError when the daemon's version is too different."""
    if reply.protocol <= PROTOCOL:
        try:
            return msgspec.convert(reply.result, kind)
        except msgspec.ValidationError as error:
            why = f"it does not understand the answer to {kind.command}: {error}"
    else:
        why = f"mcrd speaks version {reply.protocol} of the control protocol, and it {PROTOCOL}"
    text = f"this mcrctl is of another version ({__version__}) than the mcrd that runs: {why}"
    raise ControlError(text)


def _ask(path: Path, command: str, timeout: float, arguments: dict[str, Any]) -> Reply:
    request = msgspec.json.encode({"command": command, "arguments": arguments})
    if len(request) > REQUEST_LARGEST:
        raise ControlError(TOO_LONG)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONNECT_TIMEOUT)
        try:
            sock.connect(str(path))
        except OSError as error:
            raise NoAnswerError(f"cannot reach mcrd at {path}: {_why(error)}") from None
        sock.settimeout(timeout)
        try:
            sock.sendall(request + b"\n")
            with sock.makefile("rb") as stream:
                line = stream.readline(ANSWER_LARGEST)
            if len(line) == ANSWER_LARGEST:
                most = f"mcrd answered more than {ANSWER_LARGEST >> 20} MiB"
                raise NoAnswerError(f"{most}; ask for one rule, by its name")
            reply = msgspec.json.decode(line, type=Reply)
        except TimeoutError:
            text = "is it stopped, or very busy? `systemctl status mcrd`, `journalctl -u mcrd`"
            raise NoAnswerError(f"mcrd did not answer within {timeout:g} s: {text}") from None
        except (OSError, ValueError):
            raise NoAnswerError("mcrd ended before it answered; look at its log") from None
    if reply.errors:
        refusal = ControlError(*reply.errors)
        refusal.logged = reply.logged
        raise refusal
    return reply


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
