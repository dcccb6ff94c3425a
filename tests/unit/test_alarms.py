"""What was counted before a restart is known already."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import TYPE_CHECKING

from mcrd.alarms import Alarms
from mcrd.model import Config
from mcrd.stats import InterfaceCount, Ledger, Traffic

if TYPE_CHECKING:
    import pytest


def test_only_what_comes_after_the_beginning_is_news(caplog: pytest.LogCaptureFixture) -> None:
    count = InterfaceCount(Traffic(1000, 0))
    count.dropped["ring_full"] = 500
    alarms = Alarms()
    alarms.begin(Config(), Ledger(), {"r0": count})
    alarms.look(Config(), {}, Ledger(), {"r0": count})
    assert caplog.text == ""
    count.dropped["ring_full"] += 7
    count.received.packets += 13
    alarms.look(Config(), {}, Ledger(), {"r0": count})
    assert "7 frames found no room" in caplog.text
    assert "7 of 20 packets lost" in caplog.text


def test_counts_of_a_version_that_knew_other_reasons_are_summed() -> None:
    older, newer = InterfaceCount(), InterfaceCount()
    del older.dropped["malformed"]
    newer.dropped["malformed"] = 3
    newer.dropped["too_green"] = 2
    older.add(newer)
    newer.add(older)
    assert older.dropped["malformed"] == 3
    assert newer.dropped["too_green"] == 4
