"""Rules with `switch`: one of several inputs is relayed, and another when that is silent."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.lab import wait_for
from tests.lab.datagrams import sender
from tests.network.test_merge import FEED, A, B, Legs, rtp, second_way

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.lab import Triangle

RULES = f"""{FEED}switch = {{ silence = "500ms", back = "1s" }}
inspect = "rtp"
"""
SILENT, REMEMBERED = 0.55, 2.0  # seconds
FIRST, SECOND = "feed@r0", "feed@q0"


class Feed(Legs):
    """A stream of RTP, which may come by both ways, and is to be relayed once."""

    def __init__(self, triangle: Triangle) -> None:
        super().__init__(triangle, RULES)
        self.count = 0
        self.by_leg = Counter[str]()
        self.unsent: set[int] = set()
        self.twice: set[int] = set()

    def fresh(self, count: int) -> range:
        """So many numbers that were not sent before."""
        self.count += count
        return range(self.count - count, self.count)

    def flow(self, numbers: Iterable[int], *names: str) -> None:
        """These packets, by each of these inputs."""
        for number in numbers:
            for name in names:
                by, to = (self.a, A) if name == FIRST else (self.b, B)
                by.sendto(rtp(number), to)
                self.by_leg[name] += 1

    def switch(self, name: str) -> dict[str, Any]:
        """How an input fares."""
        found: dict[str, Any] = self.stats("rules", name)["switch"]
        return found

    def dropped(self, name: str, why: str) -> int:
        """Of an input."""
        return int(self.stats("rules", name)["dropped"][why])

    def is_counted(self, name: str) -> bool:
        """Whether each packet that was sent by it is relayed, or in a counter."""
        counted = self.received(name) + self.dropped(name, "second_copy")
        return counted + self.dropped(name, "standby_input") == self.by_leg[name]

    def check(self) -> None:
        """All came once, but for what was not to be relayed."""
        wait_for(lambda: self.is_counted(FIRST) and self.is_counted(SECOND), "all to be counted")
        wanted = Counter(rtp(n) for n in range(self.count) if n not in self.unsent)
        wait_for(lambda: self.arrived() >= wanted, "all of it")
        assert (self.arrived() - wanted).keys() <= {rtp(n) for n in self.twice}

    def until_used(self, name: str, *names: str) -> None:
        """Packets by these until that one is in use."""

        def is_used() -> bool:
            self.flow(self.fresh(1), *names)
            return bool(self.switch(name)["used"])

        wait_for(is_used, f"{name} to be in use", interval=0.05)
        self.flow(self.fresh(20), *names)
        self.check()


def test_over_and_back(triangle: Triangle) -> None:
    """Also by hand; a worker is killed, and the file is read again."""
    feed = Feed(triangle)
    feed.until_used(FIRST, FIRST, SECOND)
    assert feed.switch(SECOND)["in_use"] == FIRST
    assert feed.dropped(SECOND, "standby_input") > 0
    # The second is late by 50. Of these, nothing is relayed again.
    for _ in range(10):
        late, began = feed.fresh(50), time.monotonic()
        feed.flow(late, FIRST)
        time.sleep(SILENT)  # so long it has to be silent
        feed.flow(late, SECOND)
        if time.monotonic() - began < REMEMBERED:
            break
        feed.twice.update(late)
        feed.until_used(FIRST, SECOND, FIRST)
    feed.flow(feed.fresh(30), SECOND)
    feed.check()
    assert feed.dropped(SECOND, "second_copy") >= 50
    found = feed.switch(FIRST)
    assert found["in_use"] == SECOND
    assert "input 1 (r0) was silent for" in found["why"]
    line = "rules.feed: input 2 (q0) is in use now: input 1 (r0) was silent for"
    wait_for(lambda: line in feed.daemon.log(), "the line of the switch")
    feed.until_used(FIRST, SECOND, FIRST)
    assert feed.switch(FIRST)["why"] == "it has been steady for 1 s"

    # By hand.
    feed.daemon.ctl("use", "feed", "q0")
    used = feed.switch(SECOND)
    assert (used["used"], used["chosen"], used["why"]) == (True, True, "chosen by hand")
    feed.flow(feed.fresh(50), FIRST, SECOND)
    feed.check()
    os.kill(feed.pids()["r0"], signal.SIGKILL)
    feed.flow(feed.fresh(50), FIRST, SECOND)
    feed.check()
    feed.daemon.edit(RULES + 'description = "the same"\n')
    wait_for(lambda: feed.daemon.rules()[FIRST]["description"] == "the same", "the new file")
    feed.flow(feed.fresh(50), FIRST, SECOND)
    feed.check()
    assert "rules.feed: feed@q0 is in use by hand" in feed.daemon.ctl("status").stdout
    # It stays, although it is silent.
    time.sleep(SILENT)
    silent = feed.fresh(50)
    feed.unsent.update(silent)
    feed.flow(silent, FIRST)
    feed.check()
    assert "! nothing has come by it for" in feed.daemon.ctl("use", "feed", "2").stdout
    feed.daemon.ctl("use", "feed", "auto")
    feed.until_used(FIRST, FIRST)
    explained = feed.daemon.ctl_again("explain", SECOND, "--seconds", "0.1")[1]
    assert f"{FIRST} is in use: input 2 (q0) was silent for" in explained
    told = "rules.feed has no input 'q9'; say one of 1 (r0), 2 (q0), or auto"
    assert told in feed.daemon.ctl_again("use", "feed", "q9")[2]
    feed.a.close()
    feed.b.close()


def test_an_interface_is_deleted_and_comes_again(triangle: Triangle) -> None:
    """That of the input in use, then the other one: what flows is relayed, and nothing twice."""
    feed = Feed(triangle)
    feed.until_used(SECOND, SECOND)
    triangle.relay.run("ip", "link", "del", "q0")
    wait_for(lambda: feed.state(SECOND) == "waiting", "the second input to wait")
    feed.flow(feed.fresh(50), FIRST)  # at once: nobody waits for what is not there
    feed.check()
    found = feed.switch(FIRST)
    assert (found["used"], found["in_use"]) == (True, FIRST)
    line = "rules.feed: input 1 (r0) is in use now: input 2 (q0) is not there any more"
    wait_for(lambda: line in feed.daemon.log(), "the line of the switch")

    feed.b.close()
    second_way(triangle)
    wait_for(lambda: feed.state(SECOND) == "active", "the second input to be there again")
    feed.b = sender(triangle.source, "s1")
    feed.flow(feed.fresh(50), FIRST, SECOND)
    feed.check()
    assert feed.switch(SECOND)["in_use"] == FIRST

    triangle.relay.run("ip", "link", "del", "r0")
    wait_for(lambda: feed.state(FIRST) == "waiting", "the first input to wait")
    feed.flow(feed.fresh(50), SECOND)
    feed.check()
    assert feed.switch(SECOND)["used"]
    feed.a.close()
    feed.b.close()
