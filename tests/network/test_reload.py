"""Hot reload: what changes, what does not, and what a broken file does (nothing)."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Fork, Mcrd, Triangle, wait_for
from tests.lab.daemon import console_script, with_engine
from tests.lab.datagrams import sender, udp
from tests.lab.rules import rule

A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000")
B = rule("b", "r0 239.1.1.2 5000", "r1 239.2.2.2 6000")
C = rule("c", "r0 239.1.1.3 5000", "r1 239.2.2.3 6000")
UNWATCHED = "[daemon]\nwatch = false\n"  # else the watcher may be quicker than mcrctl
BROKEN = rule("a", "r0 239.1.1.1 70000", "r1 239.2.2.1 6000 ttl=300")


def sent(daemon: Mcrd, name: str) -> int:
    """Datagrams that the first output of a rule has sent."""
    return int(daemon.stats()["rules"][name]["outputs"][0]["sent"]["packets"])


def names(daemon: Mcrd) -> set[str]:
    return set(daemon.stats()["rules"])


def test_an_untouched_rule_loses_nothing_while_others_change(triangle: Triangle) -> None:
    """One rule is changed, one removed, one added, all under traffic."""
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED + A + B + C)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=30_000)
    streams = [
        triangle.source.start_send("s0", f"239.1.1.{n}", 5000, count=30_000, rate=5_000, size=500)
        for n in (1, 2, 3)
    ]
    wait_for(lambda: sent(daemon, "a") > 1000, "the stream to flow")
    changed = rule("b", "r0 239.1.1.2 5000", "r1 239.2.2.2 6000 ttl=8")
    added = rule("d", "r0 239.1.1.4 5000", "r1 239.2.2.4 6000")
    daemon.config.with_suffix(".hold").touch()  # other files in the directory do not matter
    daemon.edit(UNWATCHED + A + changed + added)
    done = daemon.ctl("reload")
    assert done.stdout.splitlines() == [
        "+ rules.d",
        "~ rules.b: outputs[0].ttl 1 -> 8",
        "- rules.c",
        "= 1 unchanged",
    ]
    for stream in streams:
        stream.result()
    result = received.result()
    assert (result["unique"], result["lost"], result["duplicated"]) == (30_000, 0, 0)
    assert (result["reordered"], result["corrupt"]) == (0, 0)
    assert sent(daemon, "a") == 30_000


@pytest.mark.alone
def test_a_stream_without_a_gap_through_many_reloads(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A + B)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=100_000)
    stream = triangle.source.start_send(
        "s0", "239.1.1.1", 5000, count=100_000, rate=10_000, size=1000
    )
    reloads = 0
    while stream.process.poll() is None:
        changing = rule("b", "r0 239.1.1.2 5000", f"r1 239.2.2.2 6000 ttl={reloads % 200 + 2}")
        daemon.edit(A + changing + (C if reloads % 2 else ""))
        daemon.ctl("reload")
        reloads += 1
    assert reloads >= 5  # some fifty, where the machine has nothing else to do
    stream.result()
    result = received.result()
    assert {k: result[k] for k in ("unique", "lost", "duplicated", "reordered", "corrupt")} == {
        "unique": 100_000,
        "lost": 0,
        "duplicated": 0,
        "reordered": 0,
        "corrupt": 0,
    }


@pytest.mark.alone
def test_an_output_that_is_added_does_not_disturb_the_one_that_stays(fork: Fork) -> None:
    daemon = fork.lab.mcrd(fork.relay, UNWATCHED + A)
    first = fork.sink.receive("k0", "239.2.2.1", 6000, expect=30_000)
    second = fork.sink2.receive("k1", "239.3.3.3", 7000, expect=1)
    stream = fork.source.start_send("s0", "239.1.1.1", 5000, count=30_000, rate=10_000)
    wait_for(lambda: sent(daemon, "a") > 1000, "the stream to flow")
    daemon.edit(
        UNWATCHED + rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000", "r2 239.3.3.3 7000")
    )
    assert daemon.ctl("reload").stdout.splitlines() == [
        "~ rules.a: outputs[1] added (r2 239.3.3.3:7000)",
        "= 0 unchanged",
    ]
    assert second.result()["unique"] >= 1
    stream.result()
    result = first.result()
    assert (result["unique"], result["lost"], result["duplicated"]) == (30_000, 0, 0)
    # Counters of the rule and of the output that stayed did not begin anew.
    assert daemon.stats()["rules"]["a"]["received"]["packets"] == 30_000
    assert sent(daemon, "a") == 30_000


def test_the_source_port_stays_when_an_output_changes(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    seen = triangle.sink.capture("k0", "udp")
    with sender(triangle.source, "s0") as sock:
        sock.sendto(b"1", ("239.1.1.1", 5000))
        wait_for(seen.frames, "the first datagram")
        daemon.edit(rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=7"))
        daemon.ctl("reload")
        sock.sendto(b"2", ("239.1.1.1", 5000))
    wait_for(lambda: len(seen.frames()) == 2, "the second datagram")
    first, second = map(udp, seen.stop())
    assert (first.ttl, second.ttl) == (1, 7)
    assert first.source_port == second.source_port


def test_an_input_can_move_to_another_interface(fork: Fork) -> None:
    daemon = fork.lab.mcrd(fork.relay, A)
    daemon.edit(rule("a", "r2 239.1.1.1 5000", "r1 239.2.2.1 6000"))
    daemon.ctl("reload")
    received = fork.sink.receive("k0", "239.2.2.1", 6000, expect=1000)
    fork.sink2.send("k1", "239.1.1.1", 5000, count=1000, rate=5000)
    assert received.result()["unique"] == 1000
    assert [worker["interface"] for worker in daemon.stats()["workers"]] == ["r2"]


def test_two_rules_can_swap_their_inputs(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A + B)
    daemon.edit(
        rule("a", "r0 239.1.1.2 5000", "r1 239.2.2.1 6000")
        + rule("b", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000")
    )
    daemon.ctl("reload")
    one = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=100)
    two = triangle.sink.receive("k0", "239.2.2.2", 6000, expect=200)
    triangle.source.send("s0", "239.1.1.2", 5000, count=100, rate=1000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=200, rate=1000)
    assert (one.result()["unique"], two.result()["unique"]) == (100, 200)


@pytest.mark.alone
def test_no_packet_is_lost_or_goes_astray_while_inputs_are_handed_on(triangle: Triangle) -> None:
    """Two rules swap inputs, again and again, beside one that stays."""

    def rules(*groups: str) -> str:
        return UNWATCHED + "".join(
            rule(name, f"r0 {group} 5000", f"r1 239.2.2.{last} 6000")
            for name, group, last in zip("abc", groups, (1, 2, 3), strict=True)
        )

    one, two, three = "239.1.1.1", "239.1.1.2", "239.1.1.3"
    daemon = triangle.lab.mcrd(triangle.relay, rules(one, two, three))
    received = [triangle.sink.receive("k0", f"239.2.2.{last}", 6000) for last in (1, 2, 3)]
    senders = [
        triangle.source.start_send("s0", group, 5000, count=75_000, rate=20_000, size=100)
        for group in (one, two, three)
    ]
    wait_for(lambda: sent(daemon, "a") > 1000, "the stream to flow")
    number = 0
    while senders[0].process.poll() is None:
        daemon.edit(rules(two, one, three) if number % 2 == 0 else rules(one, two, three))
        daemon.ctl_again("reload")
        number += 1
    assert number >= 4
    assert [each.result()["sent"] for each in senders] == [75_000] * 3
    dropped = daemon.stats()["interfaces"]["r0"]["dropped"]
    # The MLD reports of a new link pass the filter, and match no rule.
    assert {name: count for name, count in dropped.items() if count and name != "unmatched"} == {}
    wait_for(lambda: sum(sent(daemon, name) for name in "abc") == 225_000, "all to be sent")
    results = [each.stop() for each in received]
    assert sum(result["unique"] for result in results) == 225_000
    assert [result["duplicated"] for result in results] == [0, 0, 0]
    assert results[2]["unique"] == 75_000


def test_diff_says_what_a_reload_would_do_and_does_not_do_it(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED + A)
    daemon.edit(UNWATCHED + A + B)
    assert daemon.ctl("diff").stdout.splitlines() == ["+ rules.b", "= 1 unchanged"]
    assert names(daemon) == {"a"}
    assert json.loads(daemon.ctl("reload", "--json").stdout)["added"] == ["b"]
    assert names(daemon) == {"a", "b"}
    assert daemon.ctl("diff").stdout.splitlines() == ["= 2 unchanged"]


def test_another_engine_loses_nothing(triangle: Triangle) -> None:
    """Workers are replaced on their rings, while packets arrive."""
    tables = {name: f'[daemon]\nengine = "{name}"\n' for name in ("io_uring", "poll")}
    daemon = triangle.lab.mcrd(triangle.relay, tables["io_uring"] + A)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=20_000)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, count=20_000, rate=5000)
    for name in ("poll", "io_uring"):
        daemon.edit(tables[name] + A)
        wait_for(partial(_has, daemon, name), f"workers with {name}")
    stream.result()
    assert received.result()["lost"] == 0
    assert daemon.stats()["rules"]["a"]["received"]["packets"] == 20_000


def _has(daemon: Mcrd, engine: str) -> bool:
    return [worker["engine"] for worker in daemon.status()["workers"]] == [engine]


def test_a_broken_file_changes_nothing_and_says_where(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED + A)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=10_000)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, count=10_000, rate=10_000)
    daemon.edit(BROKEN)
    for command in (("reload",), ("reload", "--json"), ("diff",)):
        done = daemon.ctl(*command, check=False)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.splitlines() == _problems(daemon.config)
    stream.result()
    assert received.result()["lost"] == 0
    status = daemon.status()
    assert status["config_errors"] == _problems(daemon.config)
    assert status["rules"] == {"active": 1}
    daemon.edit(A + B)
    daemon.ctl("reload")
    assert daemon.status()["config_errors"] == []


def _problems(config: Path) -> list[str]:
    return [
        f"{config}:2:59: rules.a.input.port: expected an integer from 1 to 65535, got 70000",
        f"{config}:4:67: rules.a.outputs[0].ttl: expected an integer from 1 to 255, got 300",
    ]


def test_a_file_that_has_gone_changes_nothing(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    daemon.config.unlink()
    done = daemon.ctl("reload", check=False)
    assert done.returncode == 1
    assert str(daemon.config) in done.stderr
    assert names(daemon) == {"a"}


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def renamed(path: Path, text: str) -> None:
    new = path.with_name("other-name")
    new.write_text(text)
    os.replace(new, path)


def removed_and_written(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def symlinked(path: Path, text: str) -> None:
    target = path.with_name("target")
    target.write_text(text)
    link = path.with_name("link")
    link.symlink_to(target)
    os.replace(link, path)


@pytest.mark.parametrize("save", [in_place, renamed, removed_and_written, symlinked])
def test_a_saved_file_is_one_reload(triangle: Triangle, save: Callable[[Path, str], None]) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    save(daemon.config, with_engine(A + B))
    wait_for(lambda: names(daemon) == {"a", "b"}, "the saved file to take effect")
    daemon.ctl("reload")  # what the watcher still has to say would come before this one's line
    lines = [line for line in daemon.log().splitlines() if "reload (" in line]
    assert [line.partition("INFO: ")[2] for line in lines] == [
        "reload (file saved): + rules.b, = 1 unchanged",
        "reload (mcrctl): = 2 unchanged",
    ]


def test_a_saved_broken_file_is_in_the_log(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    daemon.edit(BROKEN)
    wait_for(lambda: _problems(daemon.config)[1] in daemon.log(), "the problems in the log")
    assert names(daemon) == {"a"}


def test_a_refusal_is_in_the_log_once(triangle: Triangle) -> None:
    """Saved, then reloaded by hand, then by systemd, whose journal has what mcrctl says as well."""
    daemon = triangle.lab.mcrd(triangle.relay, A)
    daemon.edit(BROKEN)
    problems = _problems(daemon.config)
    wait_for(lambda: problems[1] in daemon.log(), "the problems in the log")
    assert daemon.ctl("reload", check=False).stderr.splitlines() == problems
    journal = triangle.lab.file("journal")
    with journal.open("wb") as stream:
        at = os.fstat(stream.fileno())
        service = {"MAINPID": str(daemon.pid), "JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino}"}
        command = (console_script("mcrctl"), "--control", str(daemon.control), "reload")
        process = daemon.host.start(*command, stderr=stream, env=service)
        assert process.wait(30) == 1
    assert journal.read_text() == ""
    assert [daemon.log().count(problem) for problem in problems] == [1, 1]
    daemon.edit(A)
    daemon.ctl("reload")
    daemon.edit(BROKEN)  # once more, after it was good
    wait_for(lambda: daemon.log().count(problems[1]) == 2, "the problems in the log")


def test_sighup_reloads_and_never_ends_the_daemon(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED + A)
    daemon.edit(UNWATCHED + A + B)
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: names(daemon) == {"a", "b"}, "the reload")
    for _ in range(50):
        daemon.signal(signal.SIGHUP)
    daemon.ctl("reload")
    assert daemon.process.poll() is None


def test_sighup_at_any_moment_of_the_start(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A, ready=False)
    again = Mcrd(triangle.relay, A, (), None)
    try:
        wait_for(lambda: _ignores_hangup(again.pid), "the daemon to ignore SIGHUP", interval=0.001)
        while not again.control.exists():
            again.signal(signal.SIGHUP)
            assert again.process.poll() is None
        again.wait_until_it_answers()
    finally:
        again.stop()
    daemon.stop()


def _ignores_hangup(pid: int) -> bool:
    """SIGHUP is ignored or caught (proc(5), SigIgn and SigCgt)."""
    fields: dict[str, Any] = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return bool((int(fields["SigIgn"], 16) | int(fields["SigCgt"], 16)) & 1)


def test_the_log_level_changes_live(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, '[daemon]\nlog_level = "error"\n' + A)
    assert daemon.log() == ""
    daemon.edit('[daemon]\nlog_level = "debug"\n' + A + B)
    daemon.ctl("reload")
    assert "DEBUG" in daemon.log()


def test_groups_are_joined_and_left(triangle: Triangle) -> None:
    """Static rules join too: the kernel's own list of memberships, and IGMP on the wire."""
    seen = triangle.source.capture("s0", "igmp or ip6")
    daemon = triangle.lab.mcrd(
        triangle.relay, A + rule("six", "r0 ff15::1 5000", "r1 ff15::2 6000")
    )
    assert {"239.1.1.1", "ff15::1"} <= _joined(triangle)
    group = socket.inet_aton("239.1.1.1")
    wait_for(lambda: any(group in frame for frame in seen.frames()), "an IGMP report")
    daemon.edit(B)
    daemon.ctl("reload")
    assert "239.1.1.2" in _joined(triangle)
    assert not {"239.1.1.1", "ff15::1"} & _joined(triangle)
    assert daemon.stop() == 0
    assert "239.1.1.2" not in _joined(triangle)


def _joined(triangle: Triangle) -> set[str]:
    (link,) = json.loads(triangle.relay.run("ip", "-j", "maddress", "show", "dev", "r0"))
    return {entry["address"] for entry in link["maddr"] if "address" in entry}
