"""What mcrctl explain asks the daemon: for one rule, and of a silence it says that it is one."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from mcrd.cli import explain
from mcrd.client import ControlError, NoAnswerError, network_namespace
from mcrd.daemon import report
from mcrd.daemon.control import Request, Server
from mcrd.explain import gather
from mcrd.model import Input, Output, Rule
from mcrd.planning.states import OutputState, RuleState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RULE = Rule(
    "a",
    Input("eth9", ip_address("239.1.1.1"), 5000),
    (Output("eth8", ip_address("239.2.2.2"), 6000, ttl=64),),
)
STATE = RuleState("active", None, (OutputState("active"),))
ANSWERS: dict[str, dict[str, Any]] = {
    "status": {
        "config": "/etc/mcr.toml",
        "pending": False,
        "network_namespace": network_namespace(),
    },
    "diff": {"added": [], "removed": [], "changed": {}, "refused": []},
    "rules": {"rules": {"a": report.rule(RULE, STATE, {}, None)}, "warnings": []},
    "stats": {"rules": {"a": {}}, "interfaces": {}, "workers": [], "kernel": {}},
    "look": {"kinds": [], "heard": {}},
}


def explained(path: Path, answer: Callable[[Request], Any]) -> None:
    """Runs mcrctl explain against a daemon that answers so."""

    async def reply(request: Request) -> Any:
        found = answer(request)
        if found is None:
            await asyncio.Event().wait()
        return found

    async def scenario() -> None:
        server = Server(path, reply)
        await server.start()
        try:
            await asyncio.to_thread(explain.run, "a", path, 0.1, None, True)
        finally:
            await server.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("silent", ["status", "diff", "rules", "stats", "look"])
def test_a_daemon_that_does_not_answer_is_not_blamed_on_the_file(
    silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gather, "TIMEOUT", 0.2)
    monkeypatch.setattr(gather, "RELOAD_TIMEOUT", 0.2)
    with pytest.raises(NoAnswerError, match="did not answer within"):
        explained(tmp_path / "s", lambda r: None if r.command == silent else ANSWERS[r.command])
    assert capsys.readouterr().out == ""


def test_a_file_that_is_refused_is_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(request: Request) -> Any:
        if request.command == "diff":
            return {"refused": ["/etc/mcr.toml:3:1: rules.a: wrong"]}
        if request.command == "rules":
            raise ControlError("there is no rule 'a'")
        return ANSWERS[request.command]

    explained(tmp_path / "s", answer)
    out = capsys.readouterr().out
    assert "/etc/mcr.toml is refused" in out
    assert "wrong" in out


def test_every_request_but_the_first_is_about_the_rule_alone(tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def answer(request: Request) -> Any:
        asked[request.command] = request.arguments.get("name")
        if request.command == "stats":
            raise ControlError("enough")
        return ANSWERS[request.command]

    with pytest.raises(ControlError, match="enough"):
        explained(tmp_path / "s", answer)
    assert asked == {"status": None, "diff": "a", "rules": "a", "stats": "a"}
