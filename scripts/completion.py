"""Writes what bash, zsh and fish complete, from the parsers of the programs: `make completion`.

Each file in etc/completion begins with what is written by hand.
"""

# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: SLF001  argparse has no other way to ask

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from mcrd.cli import mcrctl, mcrd, mcrgen

MARK = "# What follows is made by `make completion`.\n"
KINDS = {
    "FILE": "@files",
    "SOCKET": "@files",
    "IF": "@interfaces",
    "NAME": "@rules",
    "RULE": "@rules",
}
"""What a metavar stands for; others stand for what nobody can complete."""
IN_ZSH = {"@files": "_files", "@interfaces": "_net_interfaces", "@rules": "_mcrctl_rules", "": ""}
IN_FISH = {
    "@files": "F",
    "@interfaces": "fa '(__fish_print_interfaces)'",
    "@rules": "fa '(__mcrctl_rules)'",
    "": "f",
}
"""Options of complete, in one word."""


class Item(NamedTuple):
    """An option, or an argument, which has no flags."""

    flags: tuple[str, ...]
    about: str
    what: str
    takes: str | None
    """A kind, or the words that can stand there, or "" for any; None for what stands alone."""


class Program(NamedTuple):
    """Options and arguments by the subcommand, "" before one; and what the subcommands do."""

    items: dict[str, list[Item]]
    abouts: dict[str, str]


def program(parser: argparse.ArgumentParser) -> Program:
    """All that the parser knows."""
    found = Program({"": [item(action) for action in parser._actions]}, {})
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.abouts.update({each.dest: each.help or "" for each in action._choices_actions})
            for name, below in action.choices.items():
                found.items[name] = [item(each) for each in below._actions]
    return found


def item(action: argparse.Action) -> Item:
    """What there is to complete of it."""
    about = re.sub(r" \(default.*\)$", "", (action.help or "") % vars(action))
    what = str(action.metavar or action.dest).lower().replace("_", " ")
    if isinstance(action, argparse._SubParsersAction):
        what = "command"
    takes = None
    if action.nargs != 0:
        takes = " ".join(action.choices) if action.choices else KINDS.get(str(action.metavar), "")
    return Item(tuple(action.option_strings), about, what, takes)


def bash(programs: dict[str, Program]) -> Iterator[str]:
    """Two functions: what a program and its command have, and what stands behind an option."""
    known: dict[str, list[str]] = defaultdict(list)
    behind: dict[str, set[str]] = defaultdict(set)
    for name, found in programs.items():
        for command, items in found.items.items():
            flags = [flag for each in items for flag in each.flags if flag.startswith("--")]
            wanted = [each.takes for each in items if not each.flags and each.takes]
            text = f"options='{' '.join(flags)}' wanted='{' '.join(wanted)}'"
            known[text].append(f"{name}:{command}")
            for each in items:
                if each.flags and each.takes is not None:
                    behind[f"wanted='{each.takes}'"].update(each.flags)
    yield "_mcrd_known() {\n    case $1 in"
    yield from (f"        {' | '.join(names)}) {text} ;;" for text, names in known.items())
    yield "    esac\n}\n\n_mcrd_value() {\n    case $1 in"
    yield from (f"        {' | '.join(sorted(names))}) {text} ;;" for text, names in behind.items())
    yield "        *) return 1 ;;\n    esac\n}\n\ncomplete -F _mcrd_complete " + " ".join(programs)


def zsh(programs: dict[str, Program]) -> Iterator[str]:
    """A function for each program."""
    for name, found in programs.items():
        yield f"__{name}() {{"
        if found.abouts:
            yield "    local context state state_descr line control\n    local -A opt_args"
            yield "    local -a commands=("
            for command, about in found.abouts.items():
                yield f"        {quote(f'{command}:{in_zsh(about)}')}"
            yield "    )"
            yield f'    _arguments -C -A "-*"{specs(found.items[""], 8)}'
            yield "    case $state in\n        command) _describe command commands ;;"
            yield "        argument)\n            control=${opt_args[--control]}"
            yield "            case $words[1] in"
            known: dict[str, list[str]] = defaultdict(list)
            for command in found.abouts:
                known[specs(found.items[command], 24)].append(command)
            for text, names in known.items():
                yield f"                {' | '.join(names)})"
                yield f"                    _arguments{text}\n                    ;;"
            yield "            esac\n            ;;\n    esac"
        else:
            yield f"    _arguments{specs(found.items[''], 8)}"
        yield "}\n"
    yield "case $service in"
    yield from (f'    {name}) __{name} "$@" ;;' for name in programs)
    yield "esac"


def specs(items: list[Item], indent: int) -> str:
    """As _arguments takes them, each on a line of its own."""
    found = []
    for flags, about, what, takes in items:
        behind = "" if takes is None else f":{what}:{IN_ZSH.get(takes, f'({takes})')}"
        for flag in flags:
            alone = "(- *)" if flag in ("-h", "--help", "--version") else ""
            found.append(f"{alone}{flag}{'=' if behind else ''}[{in_zsh(about)}]{behind}")
        if what == "command":
            found += ["1:command:->command", "*::argument:->argument"]
        elif not flags:
            found.append(f"1{behind}")
    return "".join(f" \\\n{' ' * indent}{quote(spec)}" for spec in found)


def in_zsh(about: str) -> str:
    """With a backslash before what ends a description."""
    return re.sub(r"([\[\]:])", r"\\\1", about)


def fish(name: str, found: Program) -> Iterator[str]:
    """A line for each option and argument, whichever commands have it."""
    yield f"complete -c {name} -f"
    for each in dict.fromkeys(each for items in found.items.values() for each in items):
        flags, about, _, takes = each
        among = [command for command, items in found.items.items() if each in items]
        when = f" -n '__fish_seen_subcommand_from {' '.join(among)}'"
        if len(among) == len(found.items):
            when = ""
        elif among == [""]:
            when = " -n __fish_use_subcommand"
        if flags:
            given = "".join(f" -l {f[2:]}" if f.startswith("--") else f" -s {f[1:]}" for f in flags)
            given += "" if takes is None else " -r" + IN_FISH.get(takes, f"fa '{takes}'")
            yield f"complete -c {name}{when}{given} -d {in_fish(about)}"
        elif takes in IN_FISH:
            yield f"complete -c {name}{when} -{IN_FISH[takes]}"
    for command, about in found.abouts.items():
        yield f"complete -c {name} -n __fish_use_subcommand -a {command} -d {in_fish(about)}"


def in_fish(about: str) -> str:
    """As fish has its own."""
    return quote(about[:1].upper() + about[1:])


def main(directory: Path) -> None:
    """Writes below the mark of each file."""
    programs = {
        "mcrd": program(mcrd._parser()),
        "mcrctl": program(mcrctl._parser()),
        "mcrgen": program(mcrgen._parsers()[0]),
    }
    made = {"mcrd.bash": bash(programs), "_mcrd": zsh(programs)}
    made |= {f"{name}.fish": fish(name, found) for name, found in programs.items()}
    for name, lines in made.items():
        path = directory / name
        by_hand, _, _ = path.read_text(encoding="utf-8").partition(MARK)
        path.write_text(by_hand + MARK + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "etc/completion"))
