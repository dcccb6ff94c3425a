"""What the kernel refuses: the daemon starts all the same, or says in one line why it cannot."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from mcrd.client import ControlError
from tests.lab import Mcrd, Triangle, wait_for
from tests.lab.daemon import console_script
from tests.lab.processes import PATIENCE
from tests.lab.rules import rule

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000")
B = rule("b", "r1 239.1.1.2 5000", "r0 239.2.2.2 6000")
COUNT = 200
IN_FORCE = 5.0  # seconds, after a save


def refusing(*calls: str, children: bool = False) -> tuple[str, ...]:
    """A program: mcrd whose system calls fail so, each as NAME:error=NUMBER[:when=...]."""
    names = ",".join(call.partition(":")[0] for call in calls)
    inject = [word for call in calls for word in ("-e", f"inject={call}")]
    # -D: so that the process is mcrd's own, and strace(1) beside it.
    follow = ["-f"] if children else []
    return (
        *("strace", "-D", "-qqq", "-o", "/dev/null", *follow, "--seccomp-bpf" if follow else "-q"),
        *("-e", f"trace={names}", *inject, console_script("mcrd")),
    )


def flows(triangle: Triangle) -> None:
    """A stream through rule a arrives whole."""
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=COUNT)
    triangle.source.send("s0", "239.1.1.1", 5000, count=COUNT, rate=5000)
    assert received.result()["unique"] == COUNT


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


def by_rename(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)


def saves_count(daemon: Mcrd, file: Path) -> None:
    """Each is in force within some seconds; the guard is ten times that."""
    ways: tuple[tuple[Callable[[Path, str], None], str, set[str]], ...] = (
        (in_place, A + B, {"a", "b"}),
        (by_rename, A, {"a"}),
    )
    for save, text, rules in ways:
        save(file, text)
        wait_for(
            lambda rules=rules: set(daemon.stats()["rules"]) == rules,  # type: ignore[misc]
            f"what was saved {save.__name__}",
            10 * IN_FORCE,
        )


def outcome(daemon: Mcrd, seconds: float = PATIENCE) -> str:
    """What became of a start: `active`, `ended`, or `tries`, which it goes on with."""

    def found() -> str:
        if daemon.process.poll() is not None:
            return "ended"
        with suppress(ControlError):
            status = daemon.status()
            if status["rules"].get("active") == 1 and not status["pending"]:
                return "active"
        return ""

    try:
        return wait_for(found, "an end", seconds)
    except TimeoutError:
        return "tries"


def checked_log(daemon: Mcrd) -> str:
    """Without a traceback, neither the supervisor's nor a worker's."""
    log = daemon.log()
    assert "Traceback" not in log, log
    assert "Exception ignored" not in log, log
    return log


@pytest.mark.parametrize(
    "calls",
    [
        {
            "pipe2:error=EMFILE:when=1..2": "worker of r0: Too many open files (EMFILE)",
            "clone3:error=EAGAIN": "there is no room for another thread (raise TasksMax=",
            "sendto:error=ENOBUFS:when=1..3": "cannot read the interfaces: No buffer space",
            "recvmsg:error=ENOBUFS:when=1..2": "",  # it is heard the next time
            "sendmsg:error=ENOMEM:when=4..6": "",  # it is told a little later
        },
        {
            "setsockopt:error=ENOMEM:when=1..9": "cannot listen to all of IGMP, MLD, PIM and ICMP",
            "getsockopt:error=ENOMEM:when=1..5": "cannot read the interfaces: Cannot allocate",
        },
    ],
)
def test_what_may_come_later_is_tried_again(triangle: Triangle, calls: dict[str, str]) -> None:
    """Each of these system calls fails in the daemon, its threads and its workers."""
    daemon = Mcrd(triangle.relay, A, (), None, refusing(*calls, children=True))
    triangle.lab.daemons.append(daemon)
    assert outcome(daemon) == "active", daemon.log()
    log = checked_log(daemon)
    assert [said for said in calls.values() if said not in log] == []
    assert "hung" not in log
    assert log.count("worker of r0: pid") == 1  # none that had to be replaced
    flows(triangle)
    assert daemon.stop() == 0


def test_counters_that_cannot_be_read_end_nothing(triangle: Triangle) -> None:
    """From some time on, getsockopt(2) goes on failing: streams flow, and the log is short."""
    call = "getsockopt:error=ENOBUFS:when=14+"
    daemon = Mcrd(triangle.relay, A, (), None, refusing(call))
    triangle.lab.daemons.append(daemon)
    said = "the counters of a packet socket cannot be read: No buffer space available"
    wait_for(lambda: said in daemon.log(), "the line")
    flows(triangle)
    checked_log(daemon)
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("socketpair:error=EMFILE", "cannot start: Too many open files (EMFILE); raise the limit"),
        ("epoll_ctl:error=ENOMEM", "cannot start: Cannot allocate memory (ENOMEM); there is no"),
        ("capset:error=EPERM", "cannot start: capabilities: Operation not permitted (EPERM); look"),
        (
            "memfd_create:error=EMFILE",
            "shared memory, mcrd-guard: Too many open files (EMFILE); ra",
        ),
        (
            "setsockopt:error=EPERM",
            "cannot read the interfaces: Operation not permitted (EPERM); l",
        ),
        ("read:error=ENOMEM:when=300+", "cannot start: "),
    ],
)
def test_what_can_never_work_is_one_line(triangle: Triangle, call: str, said: str) -> None:
    daemon = Mcrd(triangle.relay, A, (), None, refusing(call))
    triangle.lab.daemons.append(daemon)
    assert outcome(daemon) == "ended"
    assert daemon.process.returncode == 1
    (line,) = [line for line in checked_log(daemon).splitlines() if " INFO: " not in line]
    assert line.startswith("mcrd: ")
    assert said in line


def test_too_few_descriptors_are_one_line(triangle: Triangle) -> None:
    program = ("prlimit", "--nofile=16", console_script("mcrd"))
    daemon = Mcrd(triangle.relay, A, (), None, program)
    triangle.lab.daemons.append(daemon)
    assert outcome(daemon) == "ended"
    assert daemon.process.returncode == 1
    assert daemon.log() == (
        "mcrd: 16 open files are allowed, and mcrd needs at least 64;"
        " raise LimitNOFILE= of the service, or ulimit -Hn\n"
    )


@pytest.mark.parametrize(
    ("call", "sysctl"),
    [
        ("/^inotify_init1?$:error=EMFILE", "fs.inotify.max_user_instances"),
        pytest.param(
            *("inotify_add_watch:error=ENOSPC", "fs.inotify.max_user_watches"),
            marks=pytest.mark.long,
        ),
    ],
)
def test_without_inotify_a_save_is_noticed(triangle: Triangle, call: str, sysctl: str) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A, program=refusing(call))
    flows(triangle)
    (line,) = [line for line in daemon.log().splitlines() if "inotify" in line]
    assert "cannot watch the rule files: " in line
    assert sysctl in line
    assert "they are checked every 1.5 s instead" in line
    assert daemon.status()["watch_trouble"] in line
    assert line.partition(": ")[2] in daemon.ctl("doctor", check=False).stdout
    saves_count(daemon, daemon.config)
    checked_log(daemon)
    assert daemon.stop() == 0


def test_where_the_kernel_is_silent_a_save_is_noticed(triangle: Triangle) -> None:
    """The rule file is a link into a directory that is not watched: there are no events."""
    daemon = triangle.lab.mcrd(triangle.relay, A)
    elsewhere = triangle.lab.file("elsewhere")
    elsewhere.mkdir()
    real = elsewhere / "real.toml"
    in_place(real, A)
    link = daemon.directory / "link"
    link.symlink_to(real)
    os.replace(link, daemon.config)
    saves_count(daemon, real)
    flows(triangle)
