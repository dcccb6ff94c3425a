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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from mcrd.cli import mcrctl, mcrd, mcrd_web, mcrgen

MARK = "# What follows is made by `make completion`.\n"
NEXT = "\n            "
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


def cases(programs: dict[str, Program], text: Callable[[Program, str], str]) -> Iterator[str]:
    """The cases of a function for bash or zsh: what a program and its command have."""
    known: dict[str, list[str]] = defaultdict(list)
    for name, found in programs.items():
        for command in found.items:
            known[text(found, command)].append(f"{name}:{command}")
    yield "_mcrd_known() {\n    case $1 in"
    yield from (f"        {' | '.join(names)}) {what} ;;" for what, names in known.items())
    yield "    esac\n}\n"


def bash(programs: dict[str, Program]) -> Iterator[str]:
    """What a program and its command have, and what stands behind an option."""

    def text(found: Program, command: str) -> str:
        items = found.items[command]
        flags = [flag for each in items for flag in each.flags if flag.startswith("--")]
        wanted = [each.takes for each in items if not each.flags and each.takes]
        return f"options='{' '.join(flags)}' wanted='{' '.join(wanted)}'"

    yield from cases(programs, text)
    behind: dict[str, set[str]] = defaultdict(set)
    for found in programs.values():
        for each in (each for items in found.items.values() for each in items):
            if each.flags and each.takes is not None:
                behind[each.takes].update(each.flags)
    yield "_mcrd_value() {\n    case $1 in"
    for takes, names in behind.items():
        yield f"        {' | '.join(sorted(names))}) wanted='{takes}' ;;"
    yield "        *) return 1 ;;\n    esac\n}\n\ncomplete -F _mcrd_complete " + " ".join(programs)


def zsh(programs: dict[str, Program]) -> Iterator[str]:
    """What _arguments and _describe take."""

    def array(name: str, entries: Iterable[str]) -> str:
        return f"{name}=({''.join(f'{NEXT}{quote(each)}' for each in entries)}\n        )"

    def text(found: Program, command: str) -> str:
        abouts = {} if command else found.abouts
        commands = [f"{name}:{in_zsh(about)}" for name, about in abouts.items()]
        return array("specs", specs(found.items[command])) + (
            f" {array('commands', commands)}" if commands else ""
        )

    yield from cases(programs, text)
    yield '_mcrd_complete "$@"'


def specs(items: list[Item]) -> Iterator[str]:
    """Each flag and argument as _arguments has it."""
    for flags, about, what, takes in items:
        behind = "" if takes is None else f":{what}:{IN_ZSH.get(takes, f'({takes})')}"
        for flag in flags:
            alone = "(- *)" if flag in ("-h", "--help", "--version") else ""
            yield f"{alone}{flag}{'=' if behind else ''}[{in_zsh(about)}]{behind}"
        if what == "command":
            yield from ("1:command:->command", "*::argument:->argument")
        elif not flags:
            yield f"1{behind}"


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
        "mcrd-web": program(mcrd_web._parser()),
    }
    made = {"mcrd.bash": bash(programs), "_mcrd": zsh(programs)}
    made |= {f"{name}.fish": fish(name, found) for name, found in programs.items()}
    for name, lines in made.items():
        path = directory / name
        by_hand, _, _ = path.read_text(encoding="utf-8").partition(MARK)
        path.write_text(by_hand + MARK + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "etc/completion"))
