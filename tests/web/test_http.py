"""mcrd-web over HTTP: what it says, to whom, and that nobody can make it say or keep too much."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mcrd.answers import Status
from mcrd.counters import Stats
from tests.lab import wait_for
from tests.web.serving import HOSTILE, MCRD_WEB, WORKER, Answers, Web, events, rule, said, serving

pytest.importorskip("aiohttp", reason="aiohttp is not installed: `pip install 'mcrd[web]'`")
from mcrd.web.daemon import TIMEOUT

TOKEN = "a-token-that-nobody-guesses"


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(web: Web) -> None:
    status, headers, body = web.get("/")
    assert status == 200
    total = len(body)
    for name in re.findall(r'(?:href|src)="([^#"]+)"', body.decode()):
        status, of_it, asset = web.get(f"/{name}")
        assert status == 200, name
        assert of_it["Content-Security-Policy"] == headers["Content-Security-Policy"]
        total += len(asset)
    assert total <= 300_000
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert not re.search(rb"<script>|\sstyle=|\son[a-z]+=|<style", body)


def test_the_page_is_built_from_its_sources() -> None:
    """As web/build.mjs counts them, since not everybody has node."""
    top = Path(__file__).parents[2]
    sources = sorted((top / "web/src").iterdir(), key=lambda path: path.name)
    digest = hashlib.sha256()
    for path in (*sources, top / "web/build.mjs", top / "web/package-lock.json"):
        digest.update(path.read_bytes())
    built = (top / "mcrd/web/static/built-from").read_text().strip()
    assert built == digest.hexdigest(), "run `make page`"


def test_what_the_daemon_says_comes_once_a_second_and_only_what_changed(
    web: Web, answers: Answers
) -> None:
    stream = events(web)
    first = next(stream)
    assert first["whole"]
    assert first["rules"]["camera"]["bits"] == 16_000_000
    assert first["rules"][HOSTILE]["about"] == HOSTILE
    assert next(each for each in stream if "rules" in each)["rules"] == {}
    answers.set_rules({"camera": rule(packets=900), "new": rule(packets=3)})
    changed = next(each for each in stream if each.get("gone"))
    assert changed["gone"] == [HOSTILE]
    assert changed["rules"].keys() == {"camera", "new"}  # the description has changed, too
    told = [each["text"] for each in changed["happenings"]]
    assert "new is new: active" in told
    answers.stats.rules["new"] = rule(packets=8, outputs=answers.stats.rules["new"].outputs)
    numbers = next(each["numbers"] for each in stream if each.get("numbers"))
    assert numbers == {"new": [8, 64_000, 0, [[3, 24_000]]]}


def test_one_poll_is_for_all_clients(web: Web, answers: Answers) -> None:
    before = answers.asked["stats"]
    streams = [events(web) for _ in range(5)]
    for stream in streams:
        next(stream)
    times = {next(stream)["time"] for _ in range(3) for stream in streams}
    # Each poll is an event of its own time; one may be on its way.
    assert answers.asked["stats"] - before >= len(times) - 1
    assert len(times) < 3 * len(streams)


def test_the_past_of_a_rule(web: Web) -> None:
    def past() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(web.get("/rule/camera")[2])
        return found

    wait_for(lambda: len(past()["seconds"]["at"]) >= 3, "three seconds")
    found = past()
    assert found["seconds"]["packets"][-1] == pytest.approx(2000, rel=0.0014)
    assert found["minutes"]["bits"] == pytest.approx([16e6], rel=0.0014)
    assert found["outputs"][0]["where"] == "eth1 239.2.2.2:2000"
    assert web.get("/rule/none")[0] == 404


def test_the_daemon_that_has_gone_is_named_and_looked_for(
    web: Web, answers: Answers, tmp_path: Path
) -> None:
    answers.asked.clear()
    (tmp_path / "control.sock").rename(tmp_path / "moved.sock")
    # Its connection is open, and the daemon serves it: only a new one finds nobody.
    assert web.state()["trouble"] == ""
    with serving(tmp_path / "control.sock") as other:
        wait_for(lambda: "cannot reach mcrd" in other.state()["trouble"], "the trouble")
        (tmp_path / "moved.sock").rename(tmp_path / "control.sock")
        other.until_it_knows()


def test_a_restart_takes_nothing_from_the_past(web: Web, answers: Answers) -> None:
    """A daemon answers before it has read its rules."""
    stream = events(web)
    first = json.loads(web.get("/rule/camera")[2])["seconds"]["at"][0]
    rules = answers.stats
    answers.status, answers.stats = Status(version="1.1", pid=8, uptime_s=0.1), Stats()
    assert next(each for each in stream if each["trouble"])["rules"] == {}
    answers.stats, answers.status = rules, Status(version="1.1", pid=8, uptime_s=1.0)
    told = next(e for e in stream if e["trouble"] == "" and e.get("happenings"))["happenings"]
    assert [each["text"] for each in told] == ["mcrd 1.1 has started, pid 8"]
    assert json.loads(web.get("/rule/camera")[2])["seconds"]["at"][0] == first


def test_a_daemon_that_hangs_is_named_soon(web: Web, answers: Answers) -> None:
    stream = events(web)
    begun = next(stream)
    answers.hangs = True
    told = next(each for each in stream if each["trouble"])
    assert re.fullmatch("mcrd has not answered for [0-9]+ s", told["trouble"])
    assert told["interfaces"] == begun["interfaces"]
    assert "rules" not in told
    answers.hangs = False
    assert next(each for each in stream if "rules" in each)["trouble"] == ""


def test_the_state_says_that_the_daemon_hangs_long_before_its_poll_ends(
    web: Web, answers: Answers
) -> None:
    answers.hangs = True
    begin = time.monotonic()

    def troubled() -> dict[str, Any] | None:
        found = web.state()
        return found if found["trouble"] else None

    found = wait_for(troubled, "the trouble", interval=0.1)  # it lets 50 requests pass in a second
    assert time.monotonic() - begin < TIMEOUT - 1
    assert re.fullmatch("mcrd has not answered for [0-9]+ s", found["trouble"])
    assert "camera" in found["rules"]
    first = next(events(web))  # of a page that is opened now
    assert re.fullmatch("mcrd has not answered for [0-9]+ s", first["trouble"])
    answers.hangs = False
    web.until_it_knows()


def test_the_past_of_a_rule_and_its_journal_are_there_while_the_daemon_hangs(
    web: Web, answers: Answers
) -> None:
    answers.hangs = True
    for about in ("before that is known", "after"):
        with ThreadPoolExecutor(5) as pool:
            asked = [pool.submit(web.get, "/rule/camera") for _ in range(4)]
            journal = pool.submit(web.get, "/journal/camera")
        for each in asked:
            status, _, body = each.result()
            assert status == 200, about
            found = json.loads(body)
            assert found["seconds"]["at"]
            assert found["received"] is None
            assert re.match("mcrd (has|did) not answer", found["trouble"])
        assert journal.result()[0] in (200, 502)  # 502: this host has no journal
        assert next(each for each in events(web) if each["trouble"])
    answers.hangs = False
    wait_for(lambda: json.loads(web.get("/rule/camera")[2])["received"] == 0, "the counters")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/none", "GET", 404),
        ("/../../etc/passwd", "GET", 404),
        ("/%2e%2e/server.py", "GET", 404),
        ("/app.js/", "GET", 404),
        ("/state", "POST", 405),
        ("/state", "DELETE", 405),
        ("/events", "HEAD", 405),
        ("/explain/camera", "GET", 405),
        ("/explain/camera", "POST", 403),  # without its header
        ("/journal/none", "GET", 404),
        ("/" + "x" * 20_000, "GET", 400),
    ],
)
def test_bad_requests(web: Web, path: str, method: str, status: int) -> None:
    found, headers, body = web.get(path, method)
    assert found == status
    assert b"Traceback" not in body
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert web.get("/")[0] == 200


def test_a_page_elsewhere_cannot_ask_by_a_name_of_its_own(web: Web) -> None:
    assert web.get("/state", Host="evil.example")[0] == 403
    assert web.get("/state", Host=f"localhost:{web.port}")[0] == 200
    assert web.get("/state", Host="[::1]:80")[0] == 200


@pytest.mark.usefixtures("answers")
def test_who_has_no_access_neither_keeps_others_out_nor_fills_the_log(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    with serving(tmp_path / "control.sock", "--token-file", str(path)) as web:
        assert TOKEN not in web.url  # it may stand in a journal
        cookie = f"GET / HTTP/1.1\r\nCookie: mcrd-web-{web.port}=".encode()
        for sent, status in (
            (b"\x16\x03\x01 hello", b"400"),
            (b"GET / HTTP/1.1\r\nno field", b"400"),
            (b"GET / HTTP/1.1\r\nAuthorization: Bearer \xff\xfe", b"401"),
            (cookie + b"\xff\xfe", b"401"),
        ):
            answer = said(web, sent)
            assert answer.split()[1] == status
            assert b"nosniff" in answer
        assert {said(web, b"GET / HTTP/1.1")[9:12] for _ in range(1000)} == {b"401", b""}
        assert web.get("/", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert web.errors.read_text() == ""


@pytest.mark.usefixtures("answers")
def test_with_a_token_nobody_else_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    with serving(tmp_path / "control.sock", "--token-file", str(path)) as web:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Cookie": f"mcrd-web-{web.port}=x"},
        ):
            for at in ("/", "/state", "/events", "/rule/camera", "/app.js"):
                assert web.get(at, **headers)[0] == 401
        assert web.get("/?token=wrong")[0] == 401
        status, found, _ = web.get(f"/?token={TOKEN}")
        assert (status, found["Location"]) == (303, "./")
        assert "HttpOnly" in found["Set-Cookie"]
        assert "SameSite=Strict" in found["Set-Cookie"]
        cookie = found["Set-Cookie"].partition(";")[0]
        assert web.get("/state", Cookie=cookie)[0] == 200
        assert web.get("/state", Authorization=f"Bearer {TOKEN}", Host="any.example")[0] == 200


@pytest.mark.usefixtures("answers")
def test_mcrctl_web_prints_an_address_that_nobody_guesses(tmp_path: Path) -> None:
    mcrctl = (sys.executable, "-m", "mcrd.cli.mcrctl", "web")
    web = Web(tmp_path / "control.sock", program=mcrctl)
    try:
        begin, _, token = web.url.partition("?token=")
        assert begin == f"http://127.0.0.1:{web.port}/"
        assert len(token) >= 32
        assert web.get("/")[0] == 401
        assert web.get(f"/?token={token}")[0] == 303
        assert web.get("/", Authorization=f"Bearer {token}")[0] == 200
    finally:
        assert web.stop() == 0


@pytest.mark.usefixtures("answers")
def test_behind_a_proxy_it_has_to_say_who_comes(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    with serving(control, "--proxy-header", "X-Remote-User") as web:
        assert web.get("/state")[0] == 401
        assert web.get("/state", X_Remote_User="ann", Host="192.0.2.1:8080")[0] == 200
        assert web.get("/state", X_Remote_User="ann", Host="evil.example")[0] == 403
    named = ("--name", "Mcrd.example", "other.example")
    with serving(control, "--proxy-header", "X-Remote-User", *named) as web:
        assert web.get("/state", X_Remote_User="ann", Host="mcrd.Example:443")[0] == 200
        assert web.get("/state", X_Remote_User="ann", Host="evil.example")[0] == 403
    with serving(control, "--proxy-header", "X-Remote-User", "--proxy", "192.0.2.1") as web:
        assert web.get("/state", X_Remote_User="ann")[0] == 403


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--listen", "0.0.0.0:0"), "is seen by other hosts"),
        (("--listen", "somewhere"), "expected an address and a port"),
        (("--token-file", "/nonexistent"), "/nonexistent: No such file or directory"),
        (("--token-file", "/dev/null"), "expected a token of 16 or more ASCII characters"),
        (("--proxy", "here"), "expected an address"),
        (("--listen", "192.0.2.77:80", "--proxy-header", "X-User"), "cannot listen at 192.0.2.77"),
    ],
)
def test_mistakes_on_the_command_line_are_named(options: tuple[str, ...], said: str) -> None:
    done = subprocess.run((*MCRD_WEB, *options), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_that_was_replaced_and_losses_are_told(web: Web, answers: Answers) -> None:
    stream = events(web)
    next(stream)
    worker = type(WORKER)(interface="eth0", number=0, pid=101, restarts=1)
    loser = rule(packets=2000, dropped={"rate_limited": 5, "second_copy": 9})
    answers.stats = Stats(rules={**answers.stats.rules, "camera": loser}, workers=[worker])
    told = [each["text"] for each in next(e for e in stream if e.get("happenings"))["happenings"]]
    assert told == [
        "worker 0 of eth0 was replaced: pid 100 has ended, 101 goes on",
        "camera loses packets: 5 rate_limited",
    ]
