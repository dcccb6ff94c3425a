"""The shells complete all that the programs have; bash really does, with rule names and files."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mcrd.cli import mcrctl, mcrd, mcrd_web, mcrgen

TOP = Path(__file__).parents[2]
COMPLETION = TOP / "etc/completion"
BASH = COMPLETION / "mcrd.bash"
ZSH = COMPLETION / "_mcrd"
LINES = re.MULTILINE | re.DOTALL

Options = dict[str, set[str]]
"""Long options by subcommand; "" has those before one."""


def options(parser: argparse.ArgumentParser) -> Options:
    found: Options = {"": set()}
    for action in parser._actions:  # noqa: SLF001  # argparse has no other way to ask
        found[""].update(name for name in action.option_strings if name.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            found |= {name: options(below)[""] for name, below in action.choices.items()}
    return found


OF_PROGRAMS = {
    "mcrd": options(mcrd._parser()),  # noqa: SLF001
    "mcrctl": options(mcrctl._parser()),  # noqa: SLF001
    "mcrgen": options(mcrgen._parsers()[0]),  # noqa: SLF001
    "mcrd-web": options(mcrd_web._parser()),  # noqa: SLF001
}


def test_they_are_made_of_the_programs_as_they_are(tmp_path: Path) -> None:
    shutil.copytree(COMPLETION, tmp_path, dirs_exist_ok=True)
    runpy.run_path(str(TOP / "scripts/completion.py"))["main"](tmp_path)
    for path in COMPLETION.iterdir():
        made = (tmp_path / path.name).read_text("utf-8")
        assert path.read_text("utf-8") == made, "run `make completion`"


def complete(line: str, directory: Path) -> list[str]:
    """What bash offers for the last word of a line; programs in `directory` come first."""
    script = r"""
        PATH=$1:$PATH
        source "$2"
        # As readline does it: = and : are words of their own.
        mapfile -t COMP_WORDS < <(grep -oE '[=:]+|[^ =:]+' <<<"$3")
        [[ $3 != *' ' ]] || COMP_WORDS+=("")
        COMP_LINE=$3 COMP_POINT=${#3} COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _mcrd_complete
        printf '%s\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-euc", script, "bash", str(directory), str(BASH), line],
        capture_output=True,
        text=True,
        check=True,
        cwd=directory,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A directory with an mcrctl that knows three rules, or with --control another one."""
    program = tmp_path / "mcrctl"
    program.write_text(
        """#!/bin/sh
        [ "$1" != --control ] || { echo "other  active"; exit; }
        echo 'hall.cam:1  active  (Camera 1)'
        echo '    from eth0 239.1.1.1:5000'
        echo 'hall.cam:2  active'
        echo 'feed  waiting: there is no interface eth7'
        """,
        encoding="utf-8",
    )
    program.chmod(0o755)
    (tmp_path / "my.toml").touch()
    return tmp_path


@pytest.mark.parametrize("program", OF_PROGRAMS)
def test_bash_has_every_option_and_command(program: str, tmp_path: Path) -> None:
    expected = OF_PROGRAMS[program]
    offered = {
        command: set(complete(f"{program} {command} -".replace("  ", " "), tmp_path))
        for command in expected
    }
    assert offered == expected
    if len(expected) > 1:
        assert set(complete(f"{program} ", tmp_path)) == expected.keys() - {""}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mcrctl rules ", ["hall.cam:1", "hall.cam:2", "feed"]),
        ("mcrctl --json rules f", ["feed"]),
        ("mcrctl rules hall.cam:", ["1", "2"]),
        ("mcrctl explain --seconds 1 f", ["feed"]),
        ("mcrctl explain --config my", ["my.toml"]),
        ("mcrctl --control here rules ", ["other"]),
        ("mcrctl rules --control=here ", ["other"]),
        ("mcrctl st", ["standby", "status", "stats"]),
        ("mcrctl stats f", []),
        ("mcrctl check m", ["mcrctl", "my.toml"]),
        ("mcrctl import my", ["my.toml"]),
        ("mcrctl doctor --config m", ["mcrctl", "my.toml"]),
        ("mcrctl doctor ", []),
        ("mcrctl top --interval ", []),
        ("mcrd --config my", ["my.toml"]),
        ("mcrd --config=my", ["my.toml"]),
        ("mcrd --config=", ["mcrctl", "my.toml"]),
        ("mcrd --log-level=d", ["debug"]),
        ("mcrd --log-level ", ["debug", "info", "warning", "error"]),
        ("mcrgen send --interface l", ["lo"]),
        ("mcrgen send --address ff05::1:3 --por", ["--port"]),
    ],
)
def test_bash_completes(line: str, offered: list[str], fake: Path) -> None:
    assert sorted(complete(line, fake)) == sorted(offered)


def test_bash_offers_no_rules_when_the_daemon_does_not_answer(tmp_path: Path) -> None:
    program = tmp_path / "mcrctl"
    program.write_text("#!/bin/sh\necho 'cannot reach mcrd' >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    assert complete("mcrctl rules ", tmp_path) == []


@pytest.mark.parametrize("program", OF_PROGRAMS)
def test_zsh_has_every_option_and_command(program: str) -> None:
    found: Options = {}
    for names, text in re.findall(
        r"^        (m[a-z:| -]+)\) (.*?) ;;$", ZSH.read_text("utf-8"), LINES
    ):
        flags = re.findall(r"^ +'(?:\(- \*\))?(--[a-z-]+)", text, re.MULTILINE)
        found |= {name: set(flags) for name in names.split(" | ")}
        if names == f"{program}:":
            commands = set(re.findall(r"^ +'([a-z]+):", text, re.MULTILINE))
            assert ("'1:command:->command'" in text) == bool(commands)
    expected = OF_PROGRAMS[program]
    assert {name: found[f"{program}:{name}"] for name in expected} == expected
    assert commands == expected.keys() - {""}


def of_fish(program: str) -> Options:
    found: Options = {"": set()}
    everywhere = set()
    commands = set()
    for line in (COMPLETION / f"{program}.fish").read_text("utf-8").splitlines():
        if not line.startswith("complete "):
            continue
        parser = argparse.ArgumentParser()
        for short in "cnlads":
            parser.add_argument(f"-{short}")
        given = parser.parse_known_args(shlex.split(line.replace("fa ", "f -a ")))[0]
        assert given.c == program
        condition = (given.n or "").split()
        option = {f"--{given.l}"} if given.l else set()
        if condition[:1] == ["__fish_seen_subcommand_from"]:
            for name in condition[1:]:
                found.setdefault(name, set()).update(option)
        elif condition:
            found[""] |= option
            commands |= {given.a} - {None}
        else:
            everywhere |= option
    return {name: found.get(name, set()) | everywhere for name in found.keys() | commands}


@pytest.mark.parametrize("program", OF_PROGRAMS)
def test_fish_has_every_option_and_command(program: str) -> None:
    assert of_fish(program) == OF_PROGRAMS[program]


@pytest.mark.parametrize(
    ("shell", "name"), [("zsh", "_mcrd"), *(("fish", f"{program}.fish") for program in OF_PROGRAMS)]
)
def test_the_other_shells_can_read_it(shell: str, name: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; `make setup` does not install it")
    done = subprocess.run(
        [shell, "-n", str(COMPLETION / name)], capture_output=True, text=True, check=False
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
