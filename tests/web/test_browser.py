"""The page in Chromium: what it shows, how fast, to whom; `make test-web` runs it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from mcrd.answers import Switch
from tests.lab import wait_for
from tests.web.serving import Answers, Web, answering, rule, serving
from tests.web.thousands import GROUPS, flowing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.lab import Mcrd, Triangle

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: `make test-web`")
pytest.importorskip("aiohttp", reason="aiohttp is not installed: `pip install 'mcrd[web]'`")
CHROMIUM = shutil.which("chromium")
AXE = "web/node_modules/axe-core/axe.min.js"
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: `apt-get install chromium`"),
    pytest.mark.skipif(not os.path.exists(AXE), reason="no axe: `make test-web` installs it"),
]
WITHIN = 2.0  # seconds in which something is seen
SLOW = 10  # times longer on a busy machine
RULES = """
[rules.camera]
input = { interface = "r0", address = "239.1.1.1", port = 5000 }
outputs = [{ interface = "r1", address = "239.2.2.2", port = 6000 }]
"""
MORE = """
[rules.door]
input = { interface = "r0", address = "239.1.1.2", port = 5000 }
outputs = [{ interface = "r1", address = "239.2.2.3", port = 6000 }]
"""
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"

Page = Any  # of playwright, which is not always there


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Page]]:
    """Opens a page; what it says of errors, and what it asks of others, fails the test."""
    contexts, complaints = [], []

    def make(url: str, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SLOW * 10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.extend([said.text][: said.type == "error"]))
        page.on("request", lambda to: complaints.extend([to.url][to.url.startswith(url) :]))
        page.goto(url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def relayed(triangle: Triangle) -> Iterator[tuple[Mcrd, Web]]:
    daemon = triangle.lab.mcrd(triangle.relay, RULES)
    daemon.wait_until_it_answers()
    with serving(daemon.control) as web:
        web.until_it_knows()
        yield daemon, web


@pytest.fixture
def many(tmp_path: Path) -> Iterator[tuple[Answers, Web]]:
    answers = Answers()
    with answering(tmp_path / "control.sock", answers), serving(tmp_path / "control.sock") as web:
        web.until_it_knows()
        yield answers, web


def cell(page: Page, name: str, number: int) -> str:
    """A cell of the row of a rule; empty when there is none."""
    found = page.locator("#rows tr", has=page.get_by_role("button", name=name, exact=True))
    return found.locator("td").nth(number).inner_text() if found.count() else ""


def violations(page: Page) -> list[str]:
    """What axe finds; it is put in by the debugger, past the page's policy."""
    if not page.evaluate("() => 'axe' in window"):
        with open(AXE, encoding="utf-8") as file:
            page.evaluate(file.read())
    found = page.evaluate("() => axe.run()")["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in found]


def test_a_stream_an_edit_and_a_killed_worker_are_seen(
    triangle: Triangle, relayed: tuple[Mcrd, Web], opened: Callable[..., Page]
) -> None:
    daemon, web = relayed
    page = opened(web.url)
    wait_for(lambda: cell(page, "camera", 2) == "active", "the rule")
    assert cell(page, "camera", 3) == "0"
    sender = triangle.source.start_send("s0", "239.1.1.1", 5000, count=60_000, rate=500, size=500)
    wait_for(lambda: daemon.stats()["rules"]["camera"]["received"]["packets"], "the first packet")
    begin = time.monotonic()
    wait_for(lambda: cell(page, "camera", 3) not in ("", "0"), "the stream", SLOW * WITHIN)
    took = {"stream": time.monotonic() - begin}

    def same() -> bool:
        rate = daemon.stats()["rules"]["camera"]["rate"]["second"]
        shown = cell(page, "camera", 3).replace(",", "")
        return bool(rate["packets"]) and shown == str(rate["packets"])

    wait_for(same, "the page to say what mcrctl stats says", SLOW * WITHIN)

    daemon.edit(RULES + MORE)
    begin = time.monotonic()
    wait_for(lambda: cell(page, "door", 2) == "active", "the rule that was added", SLOW * WITHIN)
    took["edit"] = time.monotonic() - begin

    (worker,) = daemon.stats()["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    told = page.locator("#happenings")
    wait_for(lambda: "was replaced" in told.inner_text(), "the worker", SLOW * WITHIN)
    assert f"pid {worker['pid']} has ended" in told.inner_text()

    triangle.relay.run("ip", "link", "set", "r1", "down")
    wait_for(lambda: cell(page, "camera", 2) not in ("", "active"), "the link", SLOW * WITHIN)
    assert page.locator("g.card.rule.waiting, g.card.rule.failed").count() > 0
    sender.process.terminate()
    print(f"seen after {took}")


def test_explain_is_text_that_can_be_copied(
    relayed: tuple[Mcrd, Web], opened: Callable[..., Page]
) -> None:
    _, web = relayed
    page = opened(web.url)
    page.get_by_role("button", name="camera", exact=True).click()
    page.get_by_role("button", name="Explain").click()
    assert page.evaluate("document.activeElement.id") == "explain"
    assert "Looking" in page.locator("#explaining[role=status]").inner_text()
    said = page.locator("#explained")
    # mcrd-web runs in another network namespace here, and explain says what to do about that.
    wait_for(lambda: "network namespace" in said.inner_text(), "what explain says", 200)
    assert page.evaluate("document.activeElement.id") == "explain"
    assert "Done" in page.locator("#explaining").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screen_reader_finds_nothing_wrong(
    many: tuple[Answers, Web], opened: Callable[..., Page], scheme: str
) -> None:
    answers, web = many
    states = ("active", "standby", "idle", "waiting", "failed", "disabled")
    rules = {f"{state}-{n}": rule(state=state, packets=9 * n) for state in states for n in (1, 2)}
    rules["loser"] = rule(silent=True, dropped={"rate_limited": 7}, reason="because")
    answers.set_rules(rules)
    for width in (1280, 390):
        page = opened(web.url, color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        page.get_by_role("button", name="loser", exact=True).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []
        page.get_by_role("button", name="loser", exact=True).click()
        page.locator("#chart-seconds canvas").wait_for()
        assert violations(page) == []


def test_all_of_it_by_keyboard(many: tuple[Answers, Web], opened: Callable[..., Page]) -> None:
    answers, web = many
    answers.set_rules({"camera": rule(), "door": rule(packets=5)})
    page = opened(web.url)
    card = page.locator("g.card.rule", has_text="camera")
    card.focus()
    page.keyboard.press("Enter")
    assert page.locator("#panel").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#panel").is_visible()
    page.locator("#search").focus()
    page.keyboard.type("door")
    wait_for(lambda: page.locator("#rows tr").count() == 1, "the search")


def test_the_inputs_of_one_rule_are_one_card(
    many: tuple[Answers, Web], opened: Callable[..., Page]
) -> None:
    answers, web = many
    legs = {f"news@eth{n}": rule(f"eth{n}", leg=n, switch=Switch(n, used=n == 3)) for n in (2, 3)}
    plain = {f"hall@eth{n}": rule(f"eth{n}", leg=n) for n in (2, 3)}
    patterns = {f"all@eth{n}": rule(f"eth{n}") for n in (2, 3)}
    answers.set_rules({"camera": rule(), **legs, **plain, **patterns})
    page = opened(web.url)
    card = page.locator("g.card.rule", has_text="news")
    card.wait_for()
    assert page.locator("g.card.rule").count() == 5  # rules of a pattern are cards of their own
    assert page.locator("g.link").count() == 7 + 5  # to the rules, and from them
    assert "eth3 in use" in card.locator("title").text_content()
    card.click()
    assert page.locator("#panel-title").inner_text() == "news@eth3"
    page.keyboard.press("Escape")
    rows = page.locator("#rows tr")
    assert rows.count() == 5
    page.get_by_role("button", name="hall (2 inputs)").wait_for()
    page.get_by_role("button", name="news (2 inputs)").click()
    wait_for(lambda: rows.count() == 7, "the inputs")
    assert cell(page, "news@eth3", 2) == "active, in use"
    assert violations(page) == []


def test_a_filter_stays_while_nothing_passes_it(
    many: tuple[Answers, Web], opened: Callable[..., Page]
) -> None:
    answers, web = many
    answers.set_rules({"camera": rule("eth7"), "door-1": rule(), "door-2": rule()})
    page = opened(web.url)
    rows = page.locator("#rows tr")
    wait_for(lambda: rows.count() == 3, "the rules")
    for select, most in (("#interface", 4), ("#group", 2)):
        options = page.locator(f"{select} option").all_inner_texts()
        assert options[0] == "all"
        assert len(set(options)) == len(options) == most
    page.locator("#interface").select_option("eth7")
    wait_for(lambda: rows.count() == 1, "the filter")
    answers.set_rules({"door-1": rule()})
    wait_for(lambda: rows.count() == 0, "the rule to go")
    assert page.locator("#interface").input_value() == "eth7"
    answers.set_rules({"camera": rule("eth7"), "door-1": rule()})
    wait_for(lambda: rows.count() == 1, "the rule to come again")


def test_numbers_of_a_daemon_that_hangs_are_not_shown_as_new(
    many: tuple[Answers, Web], opened: Callable[..., Page]
) -> None:
    answers, web = many
    answers.set_rules({"camera": rule()})
    page = opened(web.url)
    page.locator(".link.flows .pulse").first.wait_for(state="attached")
    assert page.locator("body.stale").count() == 0
    answers.hangs = True
    trouble = page.locator("#trouble")
    wait_for(lambda: "mcrd has not answered for" in trouble.inner_text(), "the trouble", 200)
    assert page.locator("body.stale").count() == 1
    pulse = "getComputedStyle(document.querySelector('.pulse')).strokeOpacity"
    assert page.evaluate(pulse) == "0"
    answers.hangs = False
    wait_for(lambda: page.locator("body.stale").count() == 0, "the daemon to answer", 200)
    assert not trouble.is_visible()


def test_a_panel_that_was_closed_asks_nothing_more(
    many: tuple[Answers, Web], opened: Callable[..., Page]
) -> None:
    answers, web = many
    answers.set_rules({"camera": rule()})
    page = opened(web.url)
    held: list[Any] = []
    page.route("**/rule/*", lambda route: held.extend([route]))
    camera = page.get_by_role("button", name="camera", exact=True)
    for turn in (1, 2):
        camera.click()
        until_asked(page, held, turn)
        page.keyboard.press("Escape")
    camera.click()
    until_asked(page, held, 3)
    for route in held[:3]:
        route.continue_()
    until_asked(page, held, 4)  # the next look, of one of them
    page.keyboard.press("Escape")
    held[3].continue_()
    page.wait_for_timeout(6000)  # longer than between two looks
    assert [each.request.url.rpartition("/")[2] for each in held] == 4 * ["camera"]


def until_asked(page: Page, held: list[Any], times: int) -> None:
    """Wait until it has asked so many times; what it asks is handled meanwhile."""

    def is_so() -> bool:
        page.wait_for_timeout(50)
        return len(held) >= times

    wait_for(is_so, "the page to ask", 200)


def test_no_name_becomes_markup(many: tuple[Answers, Web], opened: Callable[..., Page]) -> None:
    answers, web = many
    hostile = rule(HOSTILE, reason=HOSTILE, state=HOSTILE, dropped={HOSTILE: 1})
    hostile.outputs[0].address = hostile.outputs[0].interface_now = HOSTILE
    answers.set_rules({HOSTILE: hostile}, about=HOSTILE)
    answers.status.summary = HOSTILE
    answers.status.config_errors = [HOSTILE]
    page = opened(web.url)
    page.locator("#rows button").click()
    page.locator("#panel-outputs li").first.wait_for()
    wait_for(lambda: HOSTILE in page.locator("#happenings").inner_text(), "what happened")
    assert page.locator("body img").count() == 1  # its own sign
    assert page.locator("body script").count() == 0
    assert page.title() == "mcrd"
    assert HOSTILE in page.locator("#panel-title").inner_text()


def test_thousands_of_rules_are_folded_searched_and_filtered(
    many: tuple[Answers, Web], opened: Callable[..., Page]
) -> None:
    answers, web = many
    rules = {f"group{chr(97 + n % 26)}-{n}": rule(f"eth{n % 5}", packets=n) for n in range(5000)}
    rules["groupz-3"] = rule(state="failed", reason="no room")
    answers.set_rules(rules)
    page = opened(web.url)
    rows = page.locator("#rows tr")
    wait_for(lambda: rows.count() == 26, "the groups", SLOW * 10)
    assert page.locator("g.card.rule").count() == 26
    page.get_by_role("checkbox", name="failed").check()
    wait_for(lambda: rows.count() == 1, "the filter", SLOW * 10)
    page.get_by_role("button", name="Show all").click()
    page.locator("#group").select_option("groupa")
    page.locator("#search").fill("groupa-52")
    wait_for(lambda: rows.count() == 2, "the search", SLOW * 10)  # groupa-52 and groupa-520
    page.get_by_role("button", name="Show all").click()
    page.locator("#rows").get_by_role("button", name="groupb").click()
    wait_for(lambda: rows.count() > 100, "the group to open", SLOW * 10)


def test_an_hour_of_events_leaves_memory_as_it_was(
    many: tuple[Answers, Web], opened: Callable[..., Page]
) -> None:
    answers, web = many
    rules = {f"camera-{n}": rule(packets=n) for n in range(30)}
    answers.set_rules(rules)
    wait_for(lambda: len(web.state()["rules"]) == 30, "the rules")
    whole = web.state()

    def body(turns: int) -> str:
        told = [whole]
        for turn in range(turns):
            numbers = {name: [turn, 8 * turn, 1, [[turn, 8 * turn]]] for name in rules}
            what = {"at": whole["time"] + turn, "kind": "rule", "text": f"camera-{turn} came"}
            change = {"rules": {}, "gone": [], "numbers": numbers, "happenings": [what]}
            told.append({**whole, "whole": False, **change})
        return "".join(f"data: {json.dumps(each)}\n\n" for each in told)

    page = opened(web.url)

    def after(turns: int) -> float:
        page.unroute_all()
        text = body(turns)
        answer = {"status": 200, "content_type": "text/event-stream", "body": text}
        page.route("**/events", lambda route: route.fulfill(**answer))
        page.goto(web.url)
        wait_for(lambda: f"camera-{turns - 1} came" in page.locator("#happenings").inner_text(),
                 "all events", 200)  # fmt: skip
        client = page.context.new_cdp_session(page)
        client.send("HeapProfiler.collectGarbage")
        return float(client.send("Runtime.getHeapUsage")["usedSize"])

    short, long = after(300), after(3600)
    assert long < short + 3e6


@pytest.mark.alone
@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_what_flows_moves_and_costs_little(
    browser: Any, many: tuple[Answers, Web], opened: Callable[..., Page], motion: str
) -> None:
    """28 % of a CPU when the browser draws as often as it can; nothing moves for who wants that."""
    answers, web = many
    answers.set_rules({f"camera-{n}": rule(packets=n + 1) for n in range(3)})
    page = opened(web.url, reduced_motion=motion)
    page.locator(".link.flows .pulse").first.wait_for(state="attached")
    place = "getComputedStyle(document.querySelector('.flows .pulse')).strokeDashoffset"
    places = set()
    for _ in range(8):
        places.add(page.evaluate(place))
        page.wait_for_timeout(250)
    session = browser.new_browser_cdp_session()
    begin, before = time.monotonic(), cpu_of_pages(session)
    page.wait_for_timeout(8000)
    share = (cpu_of_pages(session) - before) / (time.monotonic() - begin)
    print(f"{100 * share:.1f} % of a CPU")
    assert (len(places) > 1) == (motion == "no-preference")
    assert share < 0.2


@pytest.mark.alone
def test_a_page_of_thousands_of_streams_costs_little(
    browser: Any, triangle: Triangle, opened: Callable[..., Page]
) -> None:
    """Below 20 % of a CPU and 100 MB, beside a real daemon that loses none of them."""
    with flowing(triangle, 25) as beside:
        page = opened(beside.web.url)
        wait_for(lambda: page.locator("#rows tr").count() == len(GROUPS), "the groups", SLOW * 10)
        session = browser.new_browser_cdp_session()
        begin, before = time.monotonic(), cpu_of_pages(session)
        page.wait_for_timeout(10_000)
        share = (cpu_of_pages(session) - before) / (time.monotonic() - begin)
        client = page.context.new_cdp_session(page)
        client.send("HeapProfiler.collectGarbage")
        heap = client.send("Runtime.getHeapUsage")["usedSize"]
        web, daemon = beside.shares()
        page.close()
    print(f"page {100 * share:.1f} % of a CPU, {heap / 1e6:.0f} MB of objects;"
          f" mcrd-web {100 * web:.1f} %; mcrd {100 * daemon:.1f} %")  # fmt: skip
    assert share < 0.2
    assert heap < 100e6
    assert web < 0.2


def cpu_of_pages(session: Any) -> float:
    """Seconds that all pages have had of a CPU."""
    found = session.send("SystemInfo.getProcessInfo")["processInfo"]
    return sum(float(each["cpuTime"]) for each in found if each["type"] == "renderer")
