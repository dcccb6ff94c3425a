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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mcrd import __version__
from mcrd.cli.mcrd import DEFAULT_CONFIG, DEFAULT_CONTROL
from mcrd.cli.output import drops, write
from mcrd.client import ControlError, ask
from mcrd.words import unsent_for

TIMEOUT = 10.0  # seconds
RELOAD_TIMEOUT = 120.0
LONGEST_LOOK = 60.0
INTERRUPTED = 128 + signal.SIGINT  # as shells say it


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        return _live(options) if options.command == "top" else _at_once(options)
    except ControlError as error:
        if not (error.logged and _is_of_the_service()):
            for line in error.lines:
                print(line, file=sys.stderr)
        return 1


def _is_of_the_service() -> bool:
    """Whether this is the daemon's own ExecReload=, whose stderr is the journal that it logs to.

    See systemd.exec(5) on MAINPID and JOURNAL_STREAM.
    """
    at = os.fstat(2)
    stream = os.environ.get("JOURNAL_STREAM")
    return "MAINPID" in os.environ and stream == f"{at.st_dev}:{at.st_ino}"


def _live(options: argparse.Namespace) -> int:
    """What prints until nobody wants to read it any more."""
    try:
        return _top(options)
    except BrokenPipeError:  # mcrctl top --count 3 | head
        sys.stderr.close()
    except KeyboardInterrupt:
        pass
    return 0


def _at_once(options: argparse.Namespace) -> int:
    """What prints when it has its answer."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            status = _run(options)
        return status if write(printed.getvalue()) else 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    """One command, which prints its answer; the modules are slow, and each needs but its own."""
    match options.command:
        case "check":
            from mcrd.cli import check  # noqa: PLC0415

            return check.run(options.file, options.json)
        case "import":
            from mcrd.cli import convert  # noqa: PLC0415

            return convert.run(options.file, options.json)
        case "explain":
            from mcrd.cli import explain  # noqa: PLC0415

            return explain.run(
                options.rule, options.control, options.seconds, options.config, options.json
            )
        case "doctor":
            from mcrd.cli import doctor  # noqa: PLC0415

            return doctor.run(options.config, options.control, options.json)
    return _once(options)


def _once(options: argparse.Namespace) -> int:
    arguments = {"name": options.name} if getattr(options, "name", None) else {}
    timeout = RELOAD_TIMEOUT if options.command in ("reload", "diff") else TIMEOUT
    answer = ask(options.control, options.command, timeout, **arguments)
    if options.json:
        answer.pop("text", None)
        print(json.dumps(answer))
    else:
        for line in _TEXTS[options.command](answer):
            print(line)
    return 0


def _top(options: argparse.Namespace) -> int:
    def look() -> dict[str, Any]:
        found: dict[str, Any] = ask(options.control, "stats", TIMEOUT)
        return found

    if options.json:
        for number in range(options.count or 1):
            if number:
                time.sleep(options.interval)
            print(json.dumps(look()), flush=True)
        return 0
    from mcrd.cli import top  # noqa: PLC0415  slow, and nothing else needs it

    return top.run(look, options.interval, options.count)


def _common() -> argparse.ArgumentParser:
    """Options before the command or behind it: without defaults, the second keeps the first's.

    Made anew for each parser, since parsers share the actions of their parents, defaults included.
    """
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument(
        "--control",
        metavar="SOCKET",
        type=Path,
        help=f"the daemon's control socket (default: {DEFAULT_CONTROL})",
    )
    return common


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcrctl", description="Asks a running mcrd.", parents=[_common()]
    )
    parser.set_defaults(json=False, control=Path(DEFAULT_CONTROL))
    parser.add_argument("--version", action="version", version=f"mcrctl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in (
        ("reload", "read the rule file again, wait until it is applied, and say what changed"),
        ("diff", "say what a reload would change"),
        ("status", "how the daemon and its workers are"),
        ("stats", "all counters"),
    ):
        commands.add_parser(name, help=what, parents=[_common()])
    rules = commands.add_parser("rules", help="rules and their states", parents=[_common()])
    rules.add_argument("name", nargs="?", metavar="NAME", help="only this rule")
    top = commands.add_parser("top", help="rules and interfaces, live", parents=[_common()])
    top.add_argument(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="between two looks (default: %(default)g)",
    )
    top.add_argument(
        "--count", type=_positive, metavar="N", help="end after so many; default: never, or 1"
    )
    checking = commands.add_parser(
        "check", help="check a rule file; needs no daemon", parents=[_common()]
    )
    checking.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=Path(DEFAULT_CONFIG),
        metavar="FILE",
        help="default: %(default)s",
    )
    doctor = commands.add_parser(
        "doctor", help="what of this host stands in the way", parents=[_common()]
    )
    doctor.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"the rule file (default: the daemon's, or {DEFAULT_CONFIG})",
    )
    importing = commands.add_parser(
        "import",
        help="print the rule file of smcroute, or of the Rust mcrd, as one of this mcrd",
        parents=[_common()],
    )
    importing.add_argument("file", type=Path, metavar="FILE", help="smcroute.conf, or JSON5 rules")
    explaining = commands.add_parser(
        "explain", help="why nothing flows through a rule, step by step", parents=[_common()]
    )
    explaining.add_argument("rule", metavar="RULE", help="its name")
    explaining.add_argument(
        "--seconds",
        type=_look_seconds,
        default=3.0,
        metavar="N",
        help="how long to look at the input interface (default: %(default)g)",
    )
    explaining.add_argument(
        "--config", type=Path, metavar="FILE", help="a rule of this file; asks no daemon"
    )
    return parser


def _look_seconds(text: str) -> float:
    return _seconds(text, LONGEST_LOOK)


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


def _changes(answer: dict[str, Any]) -> Iterator[str]:
    yield from answer["text"]
    for name, entry in answer.get("troubled", {}).items():
        yield f"! rules.{name}: {entry['state']}: {entry['reason']}"


def _status(answer: dict[str, Any]) -> Iterator[str]:
    yield (
        f"mcrd {answer['version']}, pid {answer['pid']}, up {answer['uptime_s']:.0f} s,"
        f" {answer['config']}"
    )
    yield answer["summary"]
    metrics = answer["metrics"]
    if metrics["error"]:
        yield f"metrics: cannot listen at {metrics['listen']}: {metrics['error']}"
    if answer["config_errors"]:
        yield "the rule file has problems; the rules that ran before still do:"
        yield from (f"  {problem}" for problem in answer["config_errors"])
    for worker in answer["workers"]:
        yield (
            f"worker {worker['number']} of {worker['interface']}: {worker['state']},"
            f" pid {worker['pid']},"
            f" {worker['restarts']} restart{'s' if worker['restarts'] != 1 else ''},"
            f" {len(worker['layers'])} layers of sandbox"
        )
    missing = answer["sandbox"]["missing"]
    if missing:
        yield f"the sandbox ({answer['sandbox']['mode']}) of some workers is without:"
        yield from (f"  {layer} ({reason})" for layer, reason in missing.items())
    elif answer["workers"]:
        layers = ", ".join(answer["workers"][0]["layers"])
        yield f"sandbox ({answer['sandbox']['mode']}): all layers hold: {layers}"
    has = answer["privileges"]
    yield (
        f"the daemon: uid {has['uid']}, gid {has['gid']},"
        f" capabilities: {', '.join(has['capabilities']) or 'none'}"
        + ("" if has["no_new_privs"] else "; no_new_privs is not set")
    )


def _interface(entry: dict[str, Any]) -> str:
    """A name of the rule file, with the interface's own beside it where that is another one."""
    own = entry.get("interface_now")
    return (
        entry["interface"] if own in (None, entry["interface"]) else f"{entry['interface']} ({own})"
    )


def _endpoint(entry: dict[str, Any]) -> str:
    address = entry["address"]
    if entry["port"] == 0:
        return f"{address} esp"
    return f"[{address}]:{entry['port']}" if ":" in address else f"{address}:{entry['port']}"


def _to(output: dict[str, Any]) -> str:
    """Where an output sends; of one that follows the routes, by which interface now."""
    if output["interface"] is not None:
        return f"{_interface(output)} {_endpoint(output)}"
    by = output["interface_now"]
    return _endpoint(output) + (f" by {by}" if by else "")


def _state(entry: dict[str, Any]) -> str:
    return f"{entry['state']}: {entry['reason']}" if entry["reason"] else entry["state"]


def _settings(end: dict[str, Any], *names: str) -> str:
    """Those that are set, in words."""
    words = []
    for name in names:
        value = end[name]
        if value:
            shown = ", ".join(value) if isinstance(value, list) else value
            words.append(name if value is True else f"{name} {shown}")
    return f" ({'; '.join(words)})" if words else ""


def _printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _rules(answer: dict[str, Any]) -> Iterator[str]:
    if not answer["rules"]:
        yield "no rules"
    for name, rule in answer["rules"].items():
        about = f"  ({_printable(rule['description'])})" if rule["description"] else ""
        yield f"{name}  {_state(rule)}{about}"
        given = rule["input"]
        settings = _settings(given, "sources", "exclude", "vlan", "limit")
        yield f"    from {_interface(given)} {_endpoint(given)}{settings}"
        for output in rule["outputs"]:
            how = "" if _state(output) == _state(rule) else f"  {_state(output)}"
            settings = _settings(output, "ttl", "dscp", "source", "source_port", "loop", "limit")
            yield f"      to {_to(output)}{settings}{how}"


def _traffic(count: dict[str, Any]) -> str:
    return f"{count['packets']} packets, {count['bytes']} bytes"


def _rate(rate: dict[str, Any], indent: str) -> Iterator[str]:
    peak, minute = rate["peak"], rate["minute"]["packets"]
    yield (
        f"{indent}{rate['second']['packets']}/s, {minute:.10g}/s over a minute;"
        f" peak in 10 ms {peak['second']}, over a minute {peak['minute']}"
    )


def _stats(answer: dict[str, Any]) -> Iterator[str]:
    if not answer["rules"]:
        yield "no rules"
    for name, rule in answer["rules"].items():
        yield f"{name}  {_state(rule)}{', and silent' if rule['silent'] else ''}"
        dropped = f"; dropped: {drops(rule)}" if any(rule["dropped"].values()) else ""
        yield f"    received {_traffic(rule['received'])}{dropped}"
        yield from _rate(rule["rate"], "        ")
        for output in rule["outputs"]:
            sent = output["sent"]
            unsent = {
                **output["errors"],
                "rate_limited": output["rate_limited"],
                "new_member": output["new_member"],
                "unreachable": output.get("unreachable", 0),
            }
            named = [f"{count} {unsent_for(why)}" for why, count in unsent.items() if count]
            errors = ", ".join(named)
            refused = f"; {output['refused']} refusals reported" if output["refused"] else ""
            yield (
                f"    sent {_traffic(sent)} to {_to(output)}"
                f"{refused}" + (f"; not sent: {errors}" if errors else "")
            )
    workers = Counter(worker["interface"] for worker in answer["workers"])
    for name, interface in answer["interfaces"].items():
        yield from _of_interface(name, interface)
        if workers[name] > 1:
            for worker in answer["workers"]:
                if worker["interface"] == name:
                    yield from _of_interface(f"    worker {worker['number']}", worker)
    lost = {name: count for name, count in answer["kernel"].items() if count}
    if lost:
        yield f"the kernel, for all of this host's network: {drops({'dropped': lost})}"


def _of_interface(name: str, count: dict[str, Any]) -> Iterator[str]:
    yield f"{name}: received {_traffic(count['received'])}; dropped: {drops(count)}"
    yield from _rate(count["rate"], "    " + " " * (len(name) - len(name.lstrip())))


_TEXTS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "reload": _changes,
    "diff": _changes,
    "status": _status,
    "rules": _rules,
    "stats": _stats,
}

if __name__ == "__main__":
    sys.exit(main())
