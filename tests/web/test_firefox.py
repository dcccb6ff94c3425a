"""The page in Firefox: what it shows, a click, the keyboard, axe, hostile names."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import wait_for
from tests.web.firefox import Firefox, started
from tests.web.serving import HOSTILE, Answers, Web, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("aiohttp", reason="aiohttp is not installed: `pip install 'mcrd[web]'`")
AXE = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(FIREFOX is None, reason="no Firefox: `apt-get install firefox-esr`"),
]
WAIT = 200.0  # seconds, on a busy machine
ROWS = """return [...document.querySelectorAll("#rows tr")].map(
    (row) => [...row.children].map((cell) => cell.textContent))"""

CLICK = """[...document.querySelectorAll("#rows button")].find(
    (button) => button.textContent === "camera").click()"""


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    assert FIREFOX is not None
    with started(FIREFOX, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(firefox: Firefox, web: Web) -> Firefox:
    """The page, open."""
    firefox.say("Navigate", url=web.url)
    return firefox


def rows(page: Firefox) -> dict[str, list[str]]:
    """The cells of the table by the names of rules."""
    return {name: cells for name, *cells in page.run(ROWS)}


def test_rules_and_their_rates_are_shown_as_they_change(page: Firefox, answers: Answers) -> None:
    wait_for(lambda: rows(page).keys() == {"camera", HOSTILE}, "the rules", WAIT)
    assert rows(page)["camera"][2:5] == ["active", "2,000", "16 Mbit/s"]
    assert page.run('return document.querySelectorAll("g.card.rule").length') == 2
    answers.set_rules({"camera": rule(packets=3), "door": rule(state="failed", reason="no way")})
    wait_for(lambda: rows(page).keys() == {"camera", "door"}, "the change", WAIT)
    assert rows(page)["door"][2] == "failed"
    assert "door is new: failed" in page.run(
        'return document.getElementById("happenings").textContent'
    )
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")


def test_a_click_shows_a_rule_and_escape_closes_it(page: Firefox) -> None:
    wait_for(lambda: "camera" in rows(page), "the rules", WAIT)
    page.run(CLICK)
    drawn = (
        'return document.querySelectorAll("#chart-seconds canvas, #chart-minutes canvas").length'
    )
    wait_for(lambda: page.run(drawn) == 2, "the past", WAIT)
    said = page.run('return document.getElementById("panel-outputs").textContent')
    assert "eth1 239.2.2.2:2000: sent 0; nothing lost" in said
    page.press("\ue00c")
    wait_for(lambda: not page.run('return document.getElementById("panel").open'), "the end", WAIT)


@pytest.mark.skipif(not AXE.exists(), reason="no axe: `make test-web` installs it")
def test_a_screen_reader_finds_nothing_wrong(page: Firefox, answers: Answers) -> None:
    states = ("active", "standby", "idle", "waiting", "failed", "disabled")
    rules = {state: rule(state=state, packets=9) for state in states}
    rules["camera"] = rule(silent=True, dropped={"rate_limited": 7}, reason="because")
    answers.set_rules(rules)
    wait_for(lambda: rows(page).keys() == rules.keys(), "the rules", WAIT)
    assert violations(page) == []
    page.run(CLICK)
    drawn = 'return document.querySelectorAll("#chart-seconds canvas").length'
    wait_for(lambda: page.run(drawn) == 1, "the past", WAIT)
    assert violations(page) == []


def violations(page: Firefox) -> list[str]:
    """What axe finds; the debugger runs it, past the page's policy."""
    found = page.run(f"{AXE.read_text()}; return axe.run()")
    assert found["passes"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in found["violations"]]


def test_no_name_becomes_markup(page: Firefox) -> None:
    wait_for(lambda: HOSTILE in rows(page), "the rules", WAIT)
    assert page.run("return document.title") == "mcrd"
    assert page.run('return document.querySelectorAll("body img").length') == 1  # its own sign
    assert page.run('return document.querySelectorAll("body script").length') == 0
