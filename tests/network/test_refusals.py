"""What the kernel refuses: the daemon starts all the same, or says in one line why it cannot."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.lab import Mcrd, Triangle, wait_for
from tests.lab.daemon import console_script
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


@pytest.mark.parametrize(
    ("call", "sysctl"),
    [
        ("inotify_init1:error=EMFILE", "fs.inotify.max_user_instances"),
        ("inotify_add_watch:error=ENOSPC", "fs.inotify.max_user_watches"),
    ],
)
def test_without_inotify_a_save_is_noticed(triangle: Triangle, call: str, sysctl: str) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A, program=refusing(call))
    flows(triangle)
    (line,) = [line for line in daemon.log().splitlines() if "inotify" in line]
    assert "cannot hear of a saved rule file: " in line
    assert sysctl in line
    assert "it is looked at every 1.5 s instead" in line
    saves_count(daemon, daemon.config)
    assert "Traceback" not in daemon.log()
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
