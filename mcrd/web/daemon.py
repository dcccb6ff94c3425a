"""What mcrd-web asks the daemon, over one connection that stays open."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from mcrd.answers import PROTOCOL, Answer
from mcrd.client import ANSWER_LARGEST, CONNECT_TIMEOUT, NoAnswerError
from mcrd.errors import words

TIMEOUT = 20.0  # seconds that an answer may take
PIECE = 64 * 1024  # bytes that are read at once

Kind = TypeVar("Kind", bound=Answer)


class _Reply(msgspec.Struct, Generic[Kind]):
    """As answers.Reply, with the type of what is answered: thousands of rules are read at once."""

    result: Kind | None = None
    errors: list[str] = []
    protocol: int = 1


class Daemon:
    """The control socket of the daemon. One request at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._decoders: dict[type[Answer], msgspec.json.Decoder[Any]] = {}

    async def fetch(self, kind: type[Kind], **arguments: Any) -> Kind:
        """The answer to the command of this kind; raises NoAnswerError, and closes then."""
        try:
            line = await asyncio.wait_for(self._ask(kind.command, arguments), TIMEOUT)
            reply = self._decoder(kind).decode(line)
            if reply.protocol > PROTOCOL:
                raise NoAnswerError("mcrd is newer than mcrd-web: restart mcrd-web")
            if reply.errors or reply.result is None:
                raise NoAnswerError(*reply.errors)
        except (NoAnswerError, OSError, TimeoutError, ValueError) as error:
            self.close()
            raise self._why(error) from None
        result: Kind = reply.result
        return result

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._open is not None:
            self._open[1].transport.abort()
            self._open = None

    def _decoder(self, kind: type[Kind]) -> msgspec.json.Decoder[_Reply[Kind]]:
        if kind not in self._decoders:
            self._decoders[kind] = msgspec.json.Decoder(_Reply[kind])  # type: ignore[valid-type]
        return self._decoders[kind]

    async def _ask(self, command: str, arguments: dict[str, Any]) -> bytearray:
        if self._open is None:
            opening = asyncio.open_unix_connection(str(self.path))
            self._open = await asyncio.wait_for(opening, CONNECT_TIMEOUT)
        reader, writer = self._open
        writer.write(msgspec.json.encode({"command": command, "arguments": arguments}) + b"\n")
        line = bytearray()  # readline() has an answer three times; it may be of some megabytes
        while not line.endswith(b"\n"):
            part = await reader.read(PIECE)
            if not part:
                raise NoAnswerError("mcrd ended before it answered")
            if len(line) > ANSWER_LARGEST:
                raise NoAnswerError(f"mcrd answered more than {ANSWER_LARGEST >> 20} MiB")
            line += part
        return line

    def _why(self, error: Exception) -> Exception:
        match error:
            case TimeoutError():
                return NoAnswerError("mcrd did not answer: is it stopped, or very busy?")
            case OSError():
                return NoAnswerError(f"cannot reach mcrd at {self.path}: {words(error)}")
        return not_understood(error)


def not_understood(error: Exception) -> Exception:
    """As NoAnswerError, when it is of msgspec; else as it is."""
    if isinstance(error, ValueError):
        return NoAnswerError(f"mcrd answered what mcrd-web does not understand: {error}")
    return error
