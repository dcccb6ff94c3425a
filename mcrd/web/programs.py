"""What other programs are asked for: `mcrctl explain`, and the journal's lines of a rule."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec

LINES = 100  # of the journal
OUTPUT_LARGEST = 256 * 1024  # bytes
TIMEOUT = 90.0  # seconds


class FailedError(Exception):
    """The program did not end well; the text says why."""


async def explain(control: Path, rule: str) -> str:
    """What `mcrctl explain` prints of the rule, or why it cannot; raises FailedError."""
    mcrctl = (sys.executable, "-IB", "-m", "mcrd.cli.mcrctl", "--control", str(control))
    out, error, status = await _run(*mcrctl, "explain", "--", rule)
    if status not in (0, 1) or not (out or error):
        raise FailedError(error.strip() or "mcrctl explain failed")
    return out or error


async def journal(unit: str, rule: str) -> list[tuple[float, int, str]]:
    """The last lines about a rule: seconds from the epoch, priority, text. Raises FailedError."""
    if shutil.which("journalctl") is None:
        raise FailedError("this host has no journal")
    command = ("journalctl", "--quiet", "--output=json", f"--lines={LINES}", f"--unit={unit}")
    fields = "--output-fields=MESSAGE,PRIORITY"
    out, error, status = await _run(*command, fields, f"RULE={rule}")
    if status != 0 or (error and not out):
        raise FailedError(error.strip() or "journalctl failed")
    found = []
    for line in out.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found.append(_line(msgspec.json.decode(line)))
    return found


def _line(entry: dict[str, Any]) -> tuple[float, int, str]:
    at = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
    message = entry["MESSAGE"]
    text = message if isinstance(message, str) else bytes(message).decode(errors="replace")
    return at, int(entry.get("PRIORITY", 6)), text


async def _run(*command: str) -> tuple[str, str, int]:
    """Its output, what it says of errors, and its exit status; both no longer than a bound."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            out, error = await asyncio.gather(_some(process.stdout), _some(process.stderr))
            return out, error, await process.wait()
    except TimeoutError:
        raise FailedError(f"{command[0]} took longer than {TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _some(stream: asyncio.StreamReader) -> str:
    kept = bytearray()
    while data := await stream.read(64 * 1024):  # all is read, so that it can end
        kept += data[: OUTPUT_LARGEST - len(kept)]
    return kept.decode(errors="replace")
