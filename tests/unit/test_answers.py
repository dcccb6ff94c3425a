"""The answers of the control socket: their keys stay, and each end may be of another version."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import dataclasses
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcrd import answers, counters, looks, model, sums
from mcrd.answers import PROTOCOL, OneRule, Reply, Status
from mcrd.cli import text
from mcrd.client import ControlError, fetch, read
from mcrd.counters import Stats
from mcrd.daemon.commands import COMMANDS
from mcrd.daemon.control import Request, Server
from mcrd.lanes.counts import OF_OUTPUTS, OF_SKIPS

MANUAL = (Path(__file__).parents[2] / "man/mcrctl.1").read_text(encoding="utf-8")
STRUCTS = [
    value
    for value in (*vars(answers).values(), *vars(counters).values(), *vars(looks).values())
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__struct_fields__
]
COUNTS = [value for value in vars(sums).values() if dataclasses.is_dataclass(value)]
INSIDE = {"text", "refused", "twice", "unseen"}  # no command of mcrctl prints these
INSIDE |= set(answers.Twice.__struct_fields__) | set(Reply.__struct_fields__)


@pytest.mark.parametrize("kind", [*STRUCTS, *COUNTS])
def test_mcrctl_1_has_every_key(kind: type[Any]) -> None:
    json = MANUAL.split(".Sh JSON\n")[1].split(".Sh FILES\n")[0]
    named = {
        name
        for line in re.findall(r"^\.(?:It )?(?:Va|Li) (.*)$", json, re.MULTILINE)
        for name in re.findall(r"\w+", line)
    }
    if issubclass(kind, msgspec.Struct):
        keys = set(kind.__struct_fields__)
    else:
        keys = {each.name for each in dataclasses.fields(kind)}
    assert keys - INSIDE <= named


def test_every_command_has_an_answer() -> None:
    kinds = {s.command for s in STRUCTS if issubclass(s, answers.Answer) and s.command}
    assert kinds == COMMANDS.keys()


IN_SECONDS = {name: f"{name}_s" for name in ("dedupe", "replies")}


def test_what_a_rule_file_says_is_in_the_answer() -> None:
    for given, told in ((model.Input, answers.Input), (model.Output, answers.Output)):
        names = {each.name for each in dataclasses.fields(given)}
        names -= {"also", "keeps_answerer"}  # as `broadcasts`; by `source`
        told_as = {IN_SECONDS.get(name, name) for name in names}
        assert told_as <= set(told.__struct_fields__)


def test_every_drop_of_an_output_is_in_the_answer() -> None:
    assert counters.OutputDrops.__struct_fields__ == OF_OUTPUTS
    assert tuple(counters.OutputCounts().skipped) == OF_SKIPS


def test_what_an_older_daemon_does_not_say_has_its_default() -> None:
    reply = msgspec.json.decode(b'{"result": {"version": "0.0.1"}, "errors": []}', type=Reply)
    status = read(reply, Status)
    assert (status.version, status.watch_trouble, status.workers) == ("0.0.1", "", [])
    assert "this mcrctl is of version" in "\n".join(text.status(status))


def test_what_a_newer_daemon_says_more_is_passed_over() -> None:
    rule = {"state": "active", "colour": "green", "outputs": [{"ttl": 8, "taste": "sweet"}]}
    found = read(Reply({"rules": {"a": rule}, "more": 1}), OneRule)
    assert (found.rules["a"].state, found.rules["a"].outputs[0].ttl) == ("active", 8)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply({}, protocol=PROTOCOL + 1), "speaks version 2 of the control protocol, and it 1"),
        (Reply({"uptime_s": "long"}), r"answer to stats: .*got `str` - at `\$.uptime_s`"),
        (Reply([]), "answer to stats: Expected `object`, got `array`"),
    ],
)
def test_a_version_that_is_not_understood_is_one_line(reply: Reply, why: str) -> None:
    with pytest.raises(ControlError, match=why) as caught:
        read(reply, Stats)
    (line,) = caught.value.lines
    assert line.startswith("this mcrctl is of another version (")


def test_over_the_socket(tmp_path: Path) -> None:
    async def answer(request: Request) -> Any:
        return Stats(rules={str(request.arguments["name"]): counters.RuleCounts("eth0")})

    async def scenario() -> None:
        server = Server(tmp_path / "s", answer)
        await server.start()
        try:
            found = await asyncio.to_thread(fetch, tmp_path / "s", Stats, 5.0, name="a")
        finally:
            await server.stop()
        assert found.rules["a"].interface == "eth0"

    asyncio.run(scenario())
