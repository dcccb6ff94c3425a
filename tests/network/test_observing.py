"""What an administrator sees: rates and peaks, lines of the log, metrics, mcrctl top."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import CommandError, wait_for
from tests.lab.daemon import console_script
from tests.lab.datagrams import sender
from tests.lab.rules import rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab import Mcrd, Triangle

REPOSITORY = Path(__file__).parents[2]
A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=4")
B = rule("b", "r0 239.1.1.2 5000", "r1 239.2.2.2 6000 ttl=4")
METRICS = '[metrics]\nlisten = "127.0.0.1:9464"\n'
FIREWALL = """
table ip t {
  chain out { type filter hook output priority 0; ip daddr 239.2.2.2 drop; }
}
"""


# Rates


@pytest.mark.alone
def test_rates_and_peaks(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A + B)
    sending = triangle.source.start_send("s0", "239.1.1.1", 5000, count=30_000, rate=1000, size=100)

    def steady() -> dict[str, Any] | None:
        found = daemon.stats()
        return found if 500 <= found["rules"]["a"]["rate"]["second"]["packets"] <= 2000 else None

    stats = wait_for(steady, "a second of it to be over")
    of_rule, of_output = stats["rules"]["a"], stats["rules"]["a"]["outputs"][0]
    for entry in (of_rule, of_output, stats["interfaces"]["r0"], stats["workers"][0]):
        rate = entry["rate"]
        assert 400 <= rate["second"]["packets"] <= 2500
        assert 0 < rate["minute"]["packets"] < 1000
        assert rate["peak"]["minute"] >= rate["peak"]["second"] > 0
    assert of_rule["rate"]["second"]["bytes"] == 100 * of_rule["rate"]["second"]["packets"]
    idle = stats["rules"]["b"]
    for entry in (idle, idle["outputs"][0]):
        assert entry["rate"] == {
            "second": {"packets": 0, "bytes": 0},
            "minute": {"packets": 0.0, "bytes": 0.0},
            "peak": {"second": 0, "minute": 0},
        }
    sending.process.terminate()
    wait_for(
        lambda: daemon.stats()["rules"]["a"]["rate"]["second"] == {"packets": 0, "bytes": 0},
        "the rate to be nothing",
    )


@pytest.mark.alone
def test_a_burst_is_a_peak_although_nothing_comes_after_it(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    with sender(triangle.source, "s0") as sock:
        for _ in range(300):
            sock.sendto(b"burst", ("239.1.1.1", 5000))
    wait_for(lambda: daemon.stats()["rules"]["a"]["received"]["packets"] == 300, "the burst")

    def peak() -> bool:
        rate = daemon.stats()["rules"]["a"]["rate"]
        # On a slow machine it takes more than 10 ms to send.
        return bool(30 <= rate["peak"]["minute"] <= 300 and rate["second"]["packets"] == 0)

    wait_for(peak, "the peak, and silence")


# The log


def line(daemon: Mcrd, text: str) -> str:
    """The first line of the log that has this text."""
    pattern = re.compile(text)
    found = wait_for(
        lambda: next((one for one in daemon.log().splitlines() if pattern.search(one)), None),
        f"{text} in the log",
        timeout=20.0,
    )
    assert found is not None
    return found


def test_silence_begins_and_ends(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A + 'silence = "5s"\n' + B)
    with sender(triangle.source, "s0") as sock:
        _silence_begins_and_ends(daemon, lambda: sock.sendto(b"x", ("239.1.1.1", 5000)))


def _silence_begins_and_ends(daemon: Mcrd, send: Callable[[], object]) -> None:
    send()
    assert "WARNING" in line(daemon, r"rules\.a: silent: no packet for 5 s")
    assert daemon.stats()["rules"]["a"]["silent"] is True
    assert daemon.stats()["rules"]["b"]["silent"] is None
    send()
    assert "INFO" in line(daemon, r"rules\.a: packets again, after [1-9]\d*\.\d s of silence")
    assert daemon.stats()["rules"]["a"]["silent"] is False
    assert "rules.b: silent" not in daemon.log()
    assert daemon.log().count("no packet for") == 1


def test_a_rule_that_waits_is_not_silent(triangle: Triangle) -> None:
    waits = rule("w", "r9 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=4", more='silence = "1s"')
    daemon = triangle.lab.mcrd(triangle.relay, waits + A + 'silence = "1s"\n')
    line(daemon, r"rules\.a: silent")
    assert "rules.w: silent" not in daemon.log()


def test_a_full_ring_is_a_line_and_its_end_another(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, '[interfaces.r0]\nring_size = "1 MiB"\n' + A)
    with daemon.standing_still(), sender(triangle.source, "s0") as sock:
        for _ in range(5000):
            sock.sendto(bytes(100), ("239.1.1.1", 5000))
    line(daemon, r"r0: at least \d+ packets found no room in a ring; see .*\(ring_full\)")
    line(daemon, r"r0: at least \d+ of \d+ packets lost \([\d.]+ %\) \(loss\)")
    full = daemon.stats()["interfaces"]["r0"]["dropped"]["ring_full"]
    assert full > 0
    line(daemon, rf"r0: ring_full is over(?: after [\d.]+ s)?: {full} packets")
    line(daemon, rf"r0: loss is over(?: after [\d.]+ s)?: {full} packets")
    assert daemon.log().count("(ring_full)") == daemon.log().count("(loss)") == 1


@pytest.mark.long
def test_an_output_that_fails_is_a_line_and_its_end_another(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A + B)
    triangle.relay.run("nft", FIREWALL)
    triangle.source.send("s0", "239.1.1.2", 5000, count=50)
    triangle.source.send("s0", "239.1.1.1", 5000, count=50)
    where = r"rules\.b: output r1 239\.2\.2\.2:6000: "
    line(daemon, where + r"\d+ packets were not sent \(EPERM\) \(unsent\)")
    line(daemon, where + r"\d+ of \d+ packets lost \(1e\+02 %|100 %\) \(loss\)")
    line(daemon, where + r"unsent is over(?: after [\d.]+ s)?: 50 packets")
    assert "rules.a: output" not in daemon.log()


def test_the_log_level_changes_live_for_workers_too(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    assert "AddRule" not in daemon.log()
    daemon.edit('[daemon]\nlog_level = "debug"\n' + A + B)
    daemon.ctl("reload")
    line(daemon, r"DEBUG: worker of r0 \(pid \d+\): AddRule\(")
    daemon.edit('[daemon]\nlog_level = "error"\n' + A)
    daemon.ctl("reload")
    daemon.edit('[daemon]\nlog_level = "error"\n' + A + B)
    before = daemon.log().count("AddRule")
    daemon.ctl("reload")
    with sender(triangle.source, "s0") as sock:  # what a worker says comes before its packets
        sock.sendto(b"", ("239.1.1.2", 5000))
    wait_for(lambda: daemon.stats()["rules"]["b"]["received"]["packets"] == 1, "the packet")
    assert daemon.log().count("AddRule") == before


def test_what_happens_has_a_line(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    line(daemon, r"plan applied: .*1 x open worker.*1 x add rule \(\d+ ms\)")
    line(daemon, r"rules\.a: active")
    (worker,) = daemon.stats()["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    line(daemon, rf"worker of r0: pid {worker['pid']} killed by SIGKILL; another starts at once")
    triangle.relay.run("ip", "link", "set", "r1", "down")
    line(daemon, r"WARNING: rules\.a: waiting: ")
    triangle.relay.run("ip", "link", "set", "r1", "up")
    wait_for(lambda: daemon.log().count("rules.a: active") >= 2, "the rule to be active again")


# Metrics


def scrape(daemon: Mcrd, where: str = "127.0.0.1:9464") -> str:
    """What Prometheus would get."""
    code = f"import urllib.request as u; print(u.urlopen('http://{where}/metrics').read().decode())"
    return daemon.host.run("/usr/bin/python3", "-I", "-c", code)


def promtool() -> str:
    found = shutil.which("promtool", path=f"{REPOSITORY}/.venv/bin:{os.environ.get('PATH', '')}")
    if found is None:
        missing = "there is no promtool: `make setup` fetches it from Debian's package prometheus"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    return found


def test_promtool_finds_nothing_to_say(triangle: Triangle) -> None:
    tool = promtool()
    ends = ("r0 239.1.1.2 5000", "r1 239.2.2.2 6000", "r9 239.2.2.3 6000")
    given = A + rule("b", *ends, more='silence = "1s"')
    daemon = triangle.lab.mcrd(triangle.relay, METRICS + given)
    triangle.source.send("s0", "239.1.1.2", 5000, count=50)
    text = scrape(daemon)
    done = subprocess.run(
        [tool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
    assert 'mcrd_rules{state="active"} 2.0' in text


def test_the_metrics_are_what_stats_says(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, METRICS + A + B)
    triangle.source.send("s0", "239.1.1.1", 5000, count=123, size=10)
    wait_for(lambda: daemon.stats()["rules"]["a"]["outputs"][0]["sent"]["packets"] == 123, "it all")
    text = scrape(daemon)
    for expected in (
        'mcrd_rule_received_packets_total{interface="r0",rule="a"} 123.0',
        'mcrd_rule_received_bytes_total{interface="r0",rule="a"} 1230.0',
        'mcrd_rule_received_packets_total{interface="r0",rule="b"} 0.0',
        'mcrd_output_sent_packets_total{output="r1 239.2.2.1:6000",rule="a"} 123.0',
        'mcrd_interface_dropped_packets_total{interface="r0",reason="ring_full"} 0.0',
        'mcrd_worker_restarts_total{interface="r0",worker="0"} 0.0',
        'mcrd_worker_sandbox_missing_layers{interface="r0",worker="0"} 0.0',
        "mcrd_config_last_reload_successful 1.0",
    ):
        assert f"\n{expected}\n" in text
    daemon.edit(METRICS + "[rules.\n")
    daemon.ctl("reload", check=False)
    assert "\nmcrd_config_last_reload_successful 0.0\n" in scrape(daemon)


def test_metrics_move_go_and_come_back_live(triangle: Triangle) -> None:
    unwatched = "[daemon]\nwatch = false\n"  # mcrctl is to be the first to see it
    daemon = triangle.lab.mcrd(triangle.relay, unwatched + METRICS + A)
    scrape(daemon)
    daemon.edit(unwatched + '[metrics]\nlisten = "[::1]:9465"\n' + A)
    assert "~ metrics.listen 127.0.0.1:9464 -> [::1]:9465" in daemon.ctl("reload").stdout
    assert "mcrd_build_info" in scrape(daemon, "[::1]:9465")
    with pytest.raises(CommandError):
        scrape(daemon)
    daemon.edit(unwatched + A)
    daemon.ctl("reload")
    with pytest.raises(CommandError):
        scrape(daemon, "[::1]:9465")


def test_a_port_that_is_taken_is_said_and_tried_again(triangle: Triangle) -> None:
    with triangle.relay.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        other.bind(("127.0.0.1", 9464))
        other.listen()
        daemon = triangle.lab.mcrd(triangle.relay, METRICS + A)
        line(daemon, r"ERROR: metrics: cannot listen at 127\.0\.0\.1:9464: Address already in use")
        assert daemon.status()["metrics"]["error"] == "Address already in use"
        assert daemon.stats()["rules"]["a"]["state"] == "active"
    wait_for(lambda: daemon.status()["metrics"]["error"] is None, "the next try", timeout=20.0)
    scrape(daemon)


def test_a_client_that_stays_silent_holds_no_scrape_up(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, METRICS + A)
    with triangle.relay.inside():
        silent = [socket.create_connection(("127.0.0.1", 9464)) for _ in range(20)]
    assert "mcrd_build_info" in scrape(daemon)
    assert daemon.stop() == 0
    for client in silent:
        client.close()


def test_the_dashboard_asks_for_metrics_that_there_are(triangle: Triangle) -> None:
    text = (REPOSITORY / "docs" / "grafana.json").read_text()
    asked = set(re.findall(r"mcrd_[a-z_]+", text))
    assert len(asked) > 10
    daemon = triangle.lab.mcrd(triangle.relay, METRICS + A + 'silence = "1s"\n')
    there = set(re.findall(r"^# HELP (\w+)", scrape(daemon), re.MULTILINE))
    assert asked - there == set()
    assert json.loads(text)["title"]


# mcrctl top


def test_top_is_text_where_there_is_no_terminal(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A + B)
    triangle.source.send("s0", "239.1.1.1", 5000, count=100)
    told = daemon.ctl("top").stdout
    assert told.startswith("mcrd: 2 rules, ")
    assert re.search(r"^a +active +\d+ +[\d.]+ +[\d.]+ +\d+ +0 *$", told, re.MULTILINE)
    assert re.search(r"^  to r1 239\.2\.2\.1:6000 +active", told, re.MULTILINE)
    assert re.search(r"^r0: \d+ packets/s", told, re.MULTILINE)
    assert "\x1b" not in told
    assert daemon.ctl("top", "--count", "2", "--interval", "0.1").stdout.count("mcrd: 2 rules") == 2
    documents = daemon.ctl("top", "--count", "2", "--interval", "0.1", "--json").stdout.splitlines()
    assert [set(json.loads(one)["rules"]) for one in documents] == [{"a", "b"}] * 2


def test_an_interface_that_says_it_carries_no_group(triangle: Triangle) -> None:
    """As WireGuard's, which has no flag MULTICAST: the output is active, and its reason a doubt."""
    host = triangle.relay
    host.run("ip", "link", "set", "r1", "multicast", "off")
    daemon = triangle.lab.mcrd(host, A)
    says = "active: r1 has no flag MULTICAST: it may carry no group"
    assert says in daemon.ctl("rules").stdout
    assert f"rules.a: outputs[0]: {says}" in daemon.log()
    explained = daemon.ctl("explain", "a", "--seconds", "0.1", check=False).stdout
    assert "r1 has no flag MULTICAST" in explained
    assert "`ip link set r1 multicast on`" in explained
    host.run("ip", "link", "set", "r1", "multicast", "on")
    wait_for(lambda: "MULTICAST" not in daemon.ctl("rules").stdout, "the doubt to end")
    wait_for(lambda: daemon.log().endswith("rules.a: outputs[0]: active\n"), "the line")


def test_top_in_a_terminal_that_cannot_move_its_cursor_prints_lines(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A + B)
    ours, theirs = pty.openpty()
    process = daemon.host.start(
        *(console_script("mcrctl"), "--control", str(daemon.control)),
        *("top", "--interval", "0.1", "--count", "2"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={"TERM": "dumb"},
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # EIO: it has ended
        while select.select([ours], [], [], 20)[0] and (more := os.read(ours, 65536)):
            seen += more
    os.close(ours)
    assert process.wait(20) == 0
    assert seen.count(b"mcrd: 2 rules, ") == 2
    assert b"\x1b" not in seen


def test_top_in_a_terminal_obeys_its_keys(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A + B)
    ours, theirs = pty.openpty()
    process = daemon.host.start(
        *(console_script("mcrctl"), "--control", str(daemon.control), "top", "--interval", "0.2"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={"TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )
    os.close(theirs)
    seen = ""

    def shows(text: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 20
        while not re.search(text, seen):
            assert time.monotonic() < deadline, f"waited in vain for {text}: {seen[-2000:]!r}"
            if select.select([ours], [], [], 1.0)[0]:
                seen += os.read(ours, 65536).decode()
        seen = ""

    try:
        shows(r"packets/s v")
        os.write(ours, b"s")
        shows(r"Mbit/s v")
        os.write(ours, b"r")
        shows(r"Mbit/s \^")
        os.write(ours, b" ")
        shows("paused")
        os.write(ours, b"h")
        shows("q quit")
        os.write(ours, b"j")
        shows("from line 2")
        os.write(ours, b"jj\x1b[B\x1bOB")
        shows("from line 4")
        os.write(ours, b"q")
        assert process.wait(20) == 0
    finally:
        os.close(ours)
