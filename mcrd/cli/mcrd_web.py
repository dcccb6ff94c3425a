"""mcrd-web: the page of what flows where; and `mcrctl web`, which starts one for a while."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
import asyncio
import gc
import secrets
import signal
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from mcrd import __version__
from mcrd.cli.arguments import argument
from mcrd.cli.mcrd import DEFAULT_CONTROL
from mcrd.errors import words
from mcrd.web.access import TOKEN_SHORTEST, Access, is_local, plain
from mcrd.web.daemon import Daemon
from mcrd.web.live import Live

DEFAULT_LISTEN = "127.0.0.1:9478"
MISSING = (
    "the page needs aiohttp, which is not installed: `pip install 'mcrd[web]'`,"
    " or the Debian package of mcrd, which has it"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal; return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    host, port = options.listen
    try:
        access = Access(
            _token(options.token_file),
            options.proxy_header,
            frozenset(options.proxy),
            frozenset(name.lower() for name in options.name),
        )
    except (OSError, ValueError) as error:
        why = words(error) if isinstance(error, OSError) else error
        print(f"{options.token_file}: {why}", file=sys.stderr)
        return 1
    if access.is_open and not is_local(host):
        parser.error(
            f"argument --listen: {host} is seen by other hosts; give a --token-file,"
            " or a --proxy-header that names who comes"
        )
    return serve(host, port, access, options.control, options.unit)


def for_a_while(control: Path) -> int:
    """`mcrctl web`: on a free port of 127.0.0.1, with a token, since others may use this host."""
    token = secrets.token_urlsafe(24)
    return serve("127.0.0.1", 0, Access(token), control, "mcrd", query=f"?token={token}")


def serve(
    host: str, port: int, access: Access, control: Path, unit: str, *, query: str = ""
) -> int:
    """Print the address, and serve until a signal; return the exit status."""
    try:
        from mcrd.web import server  # noqa: PLC0415  # aiohttp is an extra
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "aiohttp":
            raise
        print(MISSING, file=sys.stderr)
        return 1

    async def run() -> int:
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        known = Live(Daemon(control))
        page = server.Page(known, access, control, unit)
        try:
            listening, bound = await page.listen(host, port)
        except OSError as error:
            print(f"cannot listen at {host}, port {port}: {words(error)}", file=sys.stderr)
            return 1
        at = f"[{host}]" if ":" in host else host
        print(f"http://{at}:{bound}/{query}", flush=True)
        polling = asyncio.create_task(known.run())
        ending = asyncio.create_task(ended.wait())
        try:
            await asyncio.wait({polling, ending}, return_when=asyncio.FIRST_COMPLETED)
            if polling.done():
                polling.result()
        finally:
            polling.cancel()
            listening.close()
        return 0

    # Answers about thousands of rules are many objects, and none of them is in a cycle.
    gc.freeze()
    gc.set_threshold(200_000, 20, 50)
    return asyncio.run(run())


def _token(path: Path | None) -> str | None:
    """Raises OSError, and ValueError for one that can be guessed."""
    if path is None:
        return None
    with path.open(encoding="utf-8") as file:
        token = file.read(4096).strip()
    if len(token) < TOKEN_SHORTEST or not (token.isascii() and token.isprintable()):
        raise ValueError(f"expected a token of {TOKEN_SHORTEST} or more ASCII characters")
    return token


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    try:
        number = int(port)
        if 0 <= number <= 65535:
            return str(ip_address(host.removeprefix("[").removesuffix("]"))), number
    except ValueError:
        pass
    expected = "expected an address and a port, as 127.0.0.1:9478 or [::1]:9478"
    raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")


def _of_proxy(text: str) -> str:
    try:
        return plain(str(ip_address(text)))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an address, got {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcrd-web", description="Shows in a browser what a running mcrd relays."
    )
    parser.add_argument("--version", action="version", version=f"mcrd-web {__version__}")
    for add in (
        argument("--control", "SOCKET", "the daemon's control socket (default: %(default)s)",
                 type=Path, default=Path(DEFAULT_CONTROL)),
        argument("--listen", "ADDRESS:PORT", "where to listen (default: %(default)s)",
                 type=_address, default=DEFAULT_LISTEN),
        argument("--token-file", "FILE", "a file with the token that the page is opened with",
                 type=Path),
        argument("--proxy-header", "HEADER", "the header by which a proxy says who comes"),
        argument("--proxy", "ADDRESS", "a proxy that may say so (default: 127.0.0.1 and ::1)",
                 type=_of_proxy, nargs="+", default=["127.0.0.1", "::1"]),
        argument("--name", "HOST", "a name by which browsers ask for the page", nargs="+",
                 default=[]),
        argument("--unit", "UNIT", "whose journal is shown (default: %(default)s)",
                 default="mcrd"),
    ):  # fmt: skip
        add(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
