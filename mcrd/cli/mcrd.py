"""mcrd: the daemon's command line."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

# Here: where nothing can be opened, nothing more is imported.
from mcrd.errors import no_memory, with_remedy

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from pathlib import Path

DEFAULT_CONFIG = "/etc/mcr.toml"
DEFAULT_CONTROL = "/run/mcrd/control.sock"
DESCRIPTORS = 64  # with one rule it takes 40
# Almost all that there is are rules, which stay: to look through them for garbage again and again
# was half of the time of a reload (gc.set_threshold()).
SELDOM = (100_000, 10, 10)


# An exception from a signal handler would go off inside an import, and extension modules that are
# half imported do not survive that: it is noted, and looked at when the imports are done.
_ended_early: list[int] = []


def _end_early(number: int, _frame: FrameType | None) -> None:
    _ended_early.append(number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon, or --check; return the exit status."""
    # Before the imports, which take a while: a hang-up must never end the daemon.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_early)
    signal.signal(signal.SIGINT, _end_early)

    try:
        return _main(argv)
    except OSError as error:
        print(f"mcrd: cannot start: {with_remedy(error)}", file=sys.stderr)
    except MemoryError:
        print(f"mcrd: cannot start: {with_remedy(no_memory())}", file=sys.stderr)
    except ImportError as error:  # of a library that could not be read, as in want of memory
        print(f"mcrd: cannot start: {error}", file=sys.stderr)
    return 1


def _main(argv: Sequence[str] | None) -> int:
    from mcrd.cli import check  # noqa: PLC0415
    from mcrd.errors import words  # noqa: PLC0415
    from mcrd.files import absolute  # noqa: PLC0415

    options = _parser().parse_args(argv)
    if options.check:
        return check.run(options.config, as_json=False)
    try:  # for whoever is told of them is elsewhere
        config, control = absolute(options.config), absolute(options.control)
    except OSError as error:
        print(f"mcrd: the working directory: {words(error)}", file=sys.stderr)
        return 1
    return _run(config, control, options.log_level)


def _parser() -> ArgumentParser:
    import argparse  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from mcrd import __version__  # noqa: PLC0415
    from mcrd.cli.arguments import argument  # noqa: PLC0415
    from mcrd.systemd.journal import LEVELS  # noqa: PLC0415

    parser = argparse.ArgumentParser(
        prog="mcrd", description="Relays UDP streams between interfaces, by a rule file."
    )
    for name, metavar, default, about in (
        ("--config", "FILE", DEFAULT_CONFIG, "the rule file"),
        ("--control", "SOCKET", DEFAULT_CONTROL, "the control socket, for mcrctl"),
    ):
        shown = f"{about} (default: %(default)s)"
        argument(name, metavar, shown, type=Path, default=Path(default))(parser)
    parser.add_argument("--check", action="store_true", help="check the rule file and exit")
    parser.add_argument("--log-level", choices=LEVELS, help="overrides log_level of the rule file")
    parser.add_argument("--version", action="version", version=f"mcrd {__version__}")
    return parser


def _run(path: Path, control: Path, log_level: str | None) -> int:
    import logging  # noqa: PLC0415
    import resource  # noqa: PLC0415

    from mcrd.daemon import privileges  # noqa: PLC0415
    from mcrd.systemd import journal  # noqa: PLC0415

    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if descriptors != resource.RLIM_INFINITY and descriptors < DESCRIPTORS:
        text = f"mcrd: {descriptors} open files are allowed, and mcrd needs at least {DESCRIPTORS};"
        print(text, "raise LimitNOFILE= of the service, or ulimit -Hn", file=sys.stderr)
        return 1
    journal.set_up()
    try:  # each output has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    except (OSError, ValueError):  # ValueError is EPERM
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        text = "the limit on open files stays at %d: no right to raise it to %d"
        logging.getLogger(__name__).warning(text, soft, descriptors)
    privileges.limit()  # before the file is read: what can be read now can be read at a reload
    journal.go_on_in_a_thread()
    try:
        error = _relay(path, control, log_level)
    finally:
        journal.flush()
    if error:
        print(error, file=sys.stderr)
    return 1 if error else 0


def _relay(path: Path, control: Path, log_level: str | None) -> str:
    """Relay until a signal ends it; return why it had to end."""
    import asyncio  # noqa: PLC0415
    import contextlib  # noqa: PLC0415
    import gc  # noqa: PLC0415
    import logging  # noqa: PLC0415

    from mcrd import config  # noqa: PLC0415
    from mcrd.client import ControlError  # noqa: PLC0415
    from mcrd.daemon.supervisor import Supervisor  # noqa: PLC0415
    from mcrd.errors import NeverError  # noqa: PLC0415
    from mcrd.model import Config  # noqa: PLC0415
    from mcrd.systemd.notify import Notify  # noqa: PLC0415
    from mcrd.tasks import describe  # noqa: PLC0415

    def refused(error: config.ConfigError) -> str:
        with contextlib.closing(Notify()) as notify:
            notify.status(f"rule file refused: {error.problems[0]}")
        return str(error)

    gc.set_threshold(*SELDOM)
    start: Config | config.ConfigError
    blocks = config.Blocks()
    try:
        start = config.load(path, blocks)
    except config.ConfigError as error:
        if "LISTEN_FDS" not in os.environ:
            return refused(error)
        start = error  # the daemon before may have left rules to go on by

    async def run() -> None:
        await Supervisor(path, control, start, blocks, log_level).run(lambda: bool(_ended_early))

    try:
        runner = asyncio.Runner()
        try:
            runner.get_loop()
        except OSError as error:
            # What asyncio has half made complains when it goes.
            sys.unraisablehook = lambda _: None
            return f"mcrd: cannot start: {with_remedy(error)}"
        with runner:
            runner.run(run())
    except config.ConfigError as error:
        return refused(error)
    except (ControlError, NeverError) as error:
        return f"mcrd: {error}"
    except OSError as error:
        return f"mcrd: cannot continue: {with_remedy(error)}"
    except Exception as error:  # noqa: BLE001  # of planning, which nothing goes on without
        logging.getLogger(__name__).error("mcrd cannot continue: %s", describe(error))
        return "mcrd: ended by an error; its log says which"
    return ""


if __name__ == "__main__":
    sys.exit(main())
