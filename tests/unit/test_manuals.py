"""The manual pages name all that the programs have, and are clean mdoc."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from mcrd.cli import mcrctl, mcrd, mcrd_web, mcrgen
from mcrd.config import schema
from mcrd.daemon import alarms, legs
from mcrd.explain.outputs import DROPS, SKIPS
from mcrd.explain.taken import REMEDIES
from mcrd.lanes.counts import DROP_REASONS, OF_OUTPUTS, OF_RINGS, OF_RULES, OF_SKIPS

TOP = Path(__file__).parents[2]
MANUALS = TOP / "man"
PAGES = sorted(path.name for path in MANUALS.iterdir())
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def source(page: str) -> str:
    """The page's mdoc."""
    return (MANUALS / page).read_text(encoding="utf-8")


def flags(text: str) -> set[str]:
    """The long options that a text describes, each as an item of a list."""
    return {
        f"-{name}"
        for line in re.findall(r"^\.It Fl (.*)$", text, re.MULTILINE)
        for name in re.findall(r"(?:^|Fl )(-[a-z-]+)", line)
    }


def commands(text: str) -> set[str]:
    """The commands that a text describes, each as an item of a list."""
    return set(re.findall(r"^\.It Cm ([a-z]+)(?: (?:Op|Ar) .*)?$", text, re.MULTILINE))


def long_options(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:  # noqa: SLF001  # argparse has no other way to ask
        found.update(option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for below in action.choices.values():
                found |= long_options(below)
    return found


def subcommands(parser: argparse.ArgumentParser) -> set[str]:
    (action,) = (a for a in parser._actions if a.dest == "command")  # noqa: SLF001
    return set(action.choices or ())


def test_mcrd_8_has_every_option() -> None:
    assert flags(source("mcrd.8")) == long_options(mcrd._parser())  # noqa: SLF001


def test_mcrd_web_8_has_every_option() -> None:
    assert flags(source("mcrd-web.8")) == long_options(mcrd_web._parser())  # noqa: SLF001


def test_mcrctl_1_has_every_option_and_command() -> None:
    parser = mcrctl._parser()  # noqa: SLF001
    described = source("mcrctl.1")
    assert flags(described) == long_options(parser)
    assert commands(described) - {"waiting"} == subcommands(parser)


def test_mcrgen_1_has_every_option_and_command() -> None:
    parser = mcrgen._parsers()[0]  # noqa: SLF001
    described = source("mcrgen.1")
    assert flags(described) == long_options(parser) - {"--help"}
    synopsis, _, _ = described.partition(".Sh DESCRIPTION")
    assert set(re.findall(r"^\.Cm ([a-z]+)$", synopsis, re.MULTILINE)) == subcommands(parser)


TABLES = {
    "[daemon]": schema.Daemon,
    "[metrics]": schema.Metrics,
    "[interfaces.NAME]": schema.Interface,
    "[rules.NAME]": schema.Rule,
    "[reflect.NAME]": schema.Reflect,
    "The input of a rule": schema.Input,
    "The outputs of a rule": schema.Output,
    "Limits": schema.Limit,
    "One stream by several ways": schema.Merge,
    "One input of several": schema.Switch,
    "What was lost before": schema.Number,
}
"""By the section of mcr.toml(5)."""


@pytest.mark.parametrize(("section", "table"), TABLES.items())
def test_mcr_toml_5_has_every_key(section: str, table: type[msgspec.Struct]) -> None:
    text = source("mcr.toml.5").split(f"\n.Ss {section}\n")[1]
    text = re.split(r"^\.S[hs] ", text, maxsplit=1, flags=re.MULTILINE)[0]
    described = re.findall(r"^\.It Ic ([a-z_]+) No = Ar ", text, re.MULTILINE)
    assert sorted(described) == sorted(field.name for field in msgspec.structs.fields(table))


def test_mcr_toml_5_has_every_table() -> None:
    structs = {
        value
        for value in vars(schema).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    }
    assert structs - {msgspec.Struct, schema.Included, schema.File} == set(TABLES.values())
    tops = {name.split(".")[0].strip("[]") for name in TABLES if name.startswith("[")}
    assert tops == {field.name for field in msgspec.structs.fields(schema.File)}


@pytest.mark.parametrize("reason", [*OF_RINGS, *DROP_REASONS])
def test_mcrctl_1_explains_every_drop_reason(reason: str) -> None:
    assert f"\n.It Li {reason}\n" in source("mcrctl.1")


def test_mcrctl_1_lists_the_drop_reasons_in_their_order() -> None:
    listed = re.findall(r"^\.It Li ([a-z_]+)$", source("mcrctl.1"), re.MULTILINE)
    reasons = [*OF_RINGS, *DROP_REASONS]
    # rate_limited comes once more, as a counter of outputs.
    assert [name for name in dict.fromkeys(listed) if name in reasons] == reasons


def events() -> set[str]:
    """The value of EVENT of every line of the log that has one."""
    code = "".join(path.read_text(encoding="utf-8") for path in (TOP / "mcrd").rglob("*.py"))
    told = set(re.findall(r"\btell\(\s*log,\s*[\w.]+,\s*\"([a-z-]+)\"", code))
    lasting = {*alarms.INTERFACE, *alarms.OUTPUT, *alarms.LOOPS, *legs.FAULTS}
    lasting.update(re.findall(r"\bself\._(?:count|begin_or_go_on)\([^\"]*?, \"([a-z_]+)\"", code))
    return told | {f"{name.replace('_', '-')}{end}" for name in lasting for end in ("", "-end")}


def test_mcrd_8_lists_every_event_of_the_log() -> None:
    listed = source("mcrd.8").split("\nThe events:\n")[1].partition("\n.El\n")[0]
    names = re.findall(r"[a-z-]+", " ".join(re.findall(r"^\.It Li (.*)$", listed, re.MULTILINE)))
    assert set(names) - {"log-lost"} == events()  # that one is not said by tell()


@pytest.mark.parametrize("reason", OF_RULES)
def test_mcrctl_1_has_every_drop_of_a_rule_in_the_json(reason: str) -> None:
    text = source("mcrctl.1").split("\n.It Va dropped\n")[1].partition("\n.It ")[0]
    assert reason in re.findall(r"[a-z_]+", text)


@pytest.mark.parametrize("reason", [*OF_RINGS, *DROP_REASONS])
def test_troubleshooting_and_explain_have_a_remedy_for_every_drop_reason(reason: str) -> None:
    text = (TOP / "docs/troubleshooting.md").read_text(encoding="utf-8")
    table = text.split("\n## 3. ")[1].partition("\n## ")[0]
    assert f"`{reason}`" in "".join(re.findall(r"^\|(.*?)\|", table, re.MULTILINE))
    assert reason in REMEDIES or reason == "unmatched"  # mostly no fault


@pytest.mark.parametrize("reason", [*OF_OUTPUTS, *OF_SKIPS])
def test_documents_and_explain_have_every_drop_of_an_output(reason: str) -> None:
    outputs = source("mcrctl.1").split("\nFor each output:\n")[1].partition("\n.Ss ")[0]
    assert f"\n.It Li {reason}\n" in outputs
    text = (TOP / "docs/troubleshooting.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| .*`{reason}`.* \|", text, re.MULTILINE)
    assert reason in DROPS | SKIPS


def test_shared_h_says_what_every_drop_reason_is() -> None:
    text = (TOP / "mcrd/dataplane/src/segment.h").read_text(encoding="utf-8")
    said = re.findall(r"^\tDROP_([A-Z_]+), +/\* .* \*/$", text, re.MULTILINE)
    assert tuple(name.lower() for name in said) == DROP_REASONS


@pytest.mark.parametrize("page", PAGES)
def test_mandoc_finds_nothing_to_warn_of(page: str) -> None:
    if shutil.which("mandoc", path=PATH) is None:
        missing = "mandoc is not installed: `make setup` installs it"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", str(MANUALS / page)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": PATH},
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
