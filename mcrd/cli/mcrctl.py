"""mcrctl: asks a running daemon."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, TypeVar

from mcrd import __version__
from mcrd.answers import Answer, Diff, Members, Reload, Roles, Rules, Status, Use
from mcrd.cli import text
from mcrd.cli.arguments import Argument, argument
from mcrd.cli.mcrd import DEFAULT_CONFIG, DEFAULT_CONTROL
from mcrd.cli.output import write
from mcrd.client import ControlError, ask, fetch
from mcrd.counters import Stats
from mcrd.picture import picture
from mcrd.systemd.journal import stderr_is_journald

TIMEOUT = 10.0  # seconds
RELOAD_TIMEOUT = 120.0
LONGEST_LOOK = 60.0
INTERRUPTED = 128 + signal.SIGINT  # as shells say it

Answered = TypeVar("Answered", bound=Answer)

Run = Callable[[argparse.Namespace], int]
"""Carries a command out; returns the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(argv)
    command = COMMANDS[options.command]
    try:
        return (_live if command.is_live else _at_once)(command.run, options)
    except ControlError as error:
        # This may be the daemon's own ExecReload=, whose stderr is the journal that it logs to.
        of_the_service = "MAINPID" in os.environ and stderr_is_journald()  # systemd.exec(5)
        if not (error.logged and of_the_service):
            for line in error.lines:
                print(line, file=sys.stderr)
        return 1


def _live(run: Run, options: argparse.Namespace) -> int:
    """A command that prints until nobody reads any more."""
    try:
        return run(options)
    except BrokenPipeError:  # mcrctl top --count 3 | head
        sys.stderr.close()
    except KeyboardInterrupt:
        pass
    return 0


def _at_once(run: Run, options: argparse.Namespace) -> int:
    """A command that prints when it has its answer."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            status = run(options)
        return status if write(printed.getvalue()) else 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _ask(
    kind: type[Answered],
    text: Callable[[Answered], Iterable[str]],
    options: argparse.Namespace,
    timeout: float = TIMEOUT,
) -> int:
    """Print what the daemon answers; as JSON also what only a newer mcrctl knows."""
    arguments = {"name": options.name} if getattr(options, "name", None) else {}
    if options.json:
        answer = ask(options.control, kind.command, timeout, **arguments)
        answer.pop("text", None)
        print(json.dumps(answer))
    else:
        for line in text(fetch(options.control, kind, timeout, **arguments)):
            print(line)
    return 0


def _use(options: argparse.Namespace) -> int:
    return _choose(Use, options, input=options.input)


def _role(role: str | None, options: argparse.Namespace) -> int:
    return _choose(Roles, options, role=role)


def _choose(kind: type[Use | Roles], options: argparse.Namespace, **choice: str | None) -> int:
    """Choose something for a rule by hand, and print what has become of it."""
    arguments = {"name": options.rule, **choice}
    if options.json:
        print(json.dumps(ask(options.control, kind.command, RELOAD_TIMEOUT, **arguments)))
    else:
        print(*fetch(options.control, kind, RELOAD_TIMEOUT, **arguments).text, sep="\n")
    return 0


# These modules are slow, and each command needs but its own.


def _check(options: argparse.Namespace) -> int:
    from mcrd.cli import check  # noqa: PLC0415

    return check.run(options.file, options.json)


def _convert(options: argparse.Namespace) -> int:
    from mcrd.cli import convert  # noqa: PLC0415

    return convert.run(options.file, options.json)


def _doctor(options: argparse.Namespace) -> int:
    from mcrd.cli import doctor  # noqa: PLC0415

    return doctor.run(options.config, options.control, options.json)


def _explain(options: argparse.Namespace) -> int:
    from mcrd.cli import explain  # noqa: PLC0415

    return explain.run(options.rule, options.control, options.seconds, options.config, options.json)


def _top(options: argparse.Namespace) -> int:
    if options.json:
        for number in range(options.count or 1):
            if number:
                time.sleep(options.interval)
            print(json.dumps(ask(options.control, Stats.command, TIMEOUT)), flush=True)
        return 0
    from mcrd.cli import top  # noqa: PLC0415

    return top.run(lambda: fetch(options.control, Stats, TIMEOUT), options.interval, options.count)


def _seconds(text: str, most: float = 3600) -> float:
    with contextlib.suppress(ValueError):
        if 0.1 <= (value := float(text)) <= most:
            return value
    raise argparse.ArgumentTypeError(f"expected 0.1 to {most:g} seconds, got {text!r}")


def _positive(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text!r}")


def _graph(options: argparse.Namespace) -> int:
    from mcrd.cli import graph  # noqa: PLC0415

    stats = fetch(options.control, Stats, TIMEOUT)
    members = fetch(options.control, Members, TIMEOUT)
    form = "json" if options.json else options.format
    return graph.run(picture(stats, members), options.rule, form)


def _web(options: argparse.Namespace) -> int:
    from mcrd.cli import mcrd_web  # noqa: PLC0415

    return mcrd_web.for_a_while(options.control)


class Command(NamedTuple):
    """A subcommand: what --help says of it, what carries it out, and arguments of its own."""

    about: str
    run: Run
    arguments: Sequence[Argument] = ()
    is_live: bool = False
    """It prints as it goes, until nobody wants to read it any more."""


OF_ROLE = [argument("rule", "RULE", "its name; all: every rule with active_with")]

# fmt: off
COMMANDS = {
    "reload": Command(
        "read the rule file again, wait until it is applied, and say what changed",
        partial(_ask, Reload, text.reloaded, timeout=RELOAD_TIMEOUT)),
    "use": Command(
        "have one of several inputs of a rule used, until `mcrctl use RULE auto`", _use, [
        argument("rule", "RULE", "name of the rule"),
        argument("input", "INPUT", "its number from 1, its interface, or auto: as they flow")]),
    "standby": Command(
        "have a rule stand by while another host relays", partial(_role, "standby"), OF_ROLE),
    "active": Command(
        "have a rule relay, whatever addresses this host has", partial(_role, "active"), OF_ROLE),
    "follow": Command(
        "have a rule go by its active_with again", partial(_role, None), OF_ROLE),
    "diff": Command(
        "say what a reload would change",
        partial(_ask, Diff, attrgetter("text"), timeout=RELOAD_TIMEOUT)),
    "status": Command("state of the daemon and its workers", partial(_ask, Status, text.status)),
    "stats": Command("all counters", partial(_ask, Stats, text.stats)),
    "rules": Command("rules and their states", partial(_ask, Rules, text.rules), [
        argument("name", "NAME", "only this rule", nargs="?")]),
    "members": Command(
        "who wants which groups, where this host asks (querier)",
        partial(_ask, Members, text.members)),
    "top": Command("rules and interfaces, live", _top, [
        argument("--interval", "SECONDS", "seconds between two refreshes (default: %(default)g)",
                  type=_seconds, default=1.0),
        argument("--count", "N", "end after N refreshes (default: 1, in a terminal never)",
                 type=_positive),
    ], is_live=True),
    "graph": Command("a picture of what flows where, as text or SVG", _graph, [
        argument("rule", "RULE", "only these rules: the name, or how names begin, as cam-*",
                 nargs="*"),
        argument("--format", "FORMAT", "text or svg (default: %(default)s)",
                 choices=("text", "svg"), default="text")]),
    "web": Command(
        "the same in a browser, live: print an address of this host, and serve until interrupted",
        _web, is_live=True),
    "check": Command("check a rule file; needs no daemon", _check, [
        argument("file", "FILE", "default: %(default)s",
                  nargs="?", type=Path, default=Path(DEFAULT_CONFIG))]),
    "doctor": Command("say which settings of this host stand in the way", _doctor, [
        argument("--config", "FILE", f"the rule file (default: the daemon's, or {DEFAULT_CONFIG})",
                  type=Path)]),
    "import": Command(
        "convert the rules of another relay, and print them", _convert,
        [argument("file", "FILE", "its configuration, or a script with its command line",
                  type=Path)]),
    "explain": Command("say why nothing flows through a rule, step by step", _explain, [
        argument("rule", "RULE", "name of the rule"),
        argument("--seconds", "N",
                  "how long to look at the input interface (default: %(default)g)",
                  type=partial(_seconds, most=LONGEST_LOOK), default=3.0),
        argument("--config", "FILE", "explain a rule of this file; asks no daemon", type=Path)]),
}
# fmt: on


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcrctl",
        description="Asks a running mcrd for its state and counters, or tells it to reload.",
    )
    _add_common(parser)
    parser.set_defaults(json=False, control=Path(DEFAULT_CONTROL))
    parser.add_argument("--version", action="version", version=f"mcrctl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        below = commands.add_parser(name, help=command.about)
        _add_common(below)
        for add in command.arguments:
            add(below)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Options before the command or behind it: without defaults, the second keeps the first's."""
    none = argparse.SUPPRESS
    parser.add_argument("--json", action="store_true", default=none, help="print JSON")
    about = f"the daemon's control socket (default: {DEFAULT_CONTROL})"
    argument("--control", "SOCKET", about, type=Path, default=none)(parser)


if __name__ == "__main__":
    sys.exit(main())
