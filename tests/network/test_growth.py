"""Hundreds of interfaces come and go, some with rules: the daemon remembers none of them."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.lab import wait_for
from tests.lab.rules import rule

if TYPE_CHECKING:
    from tests.lab import Triangle

AT_ONCE = 50  # pairs of interfaces
LEAST = 10  # what may be more at one time than at another: lines of the log, what was just heard


@pytest.mark.long
def test_interfaces_that_come_and_go_leave_nothing(triangle: Triangle) -> None:
    relay = triangle.relay
    told = triangle.lab.file("sizes.json")
    steady = "[daemon]\nwatch = false\n" + rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000")
    steady += rule("to-any", "r0 239.1.1.4 5000", "v*[05] 239.2.2.4 6000")
    steady += rule("of-any", "v*0 239.1.1.5 5000", "r1 broadcast 6000")
    program = (sys.executable, "-m", "tests.lab.sizes", str(told))
    daemon = triangle.lab.mcrd(relay, steady, program=program)
    serial = 0

    def round_of_many() -> None:
        nonlocal serial
        names = [f"v{serial + number}" for number in range(AT_ONCE)]
        serial += AT_ONCE
        lines = [f"link add {name} type veth peer name {name}p" for name in names]
        lines += [f"link set {name}{end} up" for name in names for end in ("", "p")]
        relay.run("sh", "-c", "printf '%s\n' \"$@\" | ip -batch -", "sh", *lines)
        first = names[0]
        daemon.edit(
            steady
            + rule(f"in-{first}", f"{first} 239.1.1.2 5000", "r1 239.2.2.2 6000")
            + rule(f"out-{first}", "r0 239.1.1.3 5000", f"{names[1]} 239.2.2.3 6000")
        )
        daemon.ctl("reload")
        triangle.source.send("s0", "239.1.1.1", 5000, count=5)
        lines = [f"link delete {name}" for name in names]
        relay.run("sh", "-c", "printf '%s\n' \"$@\" | ip -batch -", "sh", *lines)
        wait_for(
            lambda: daemon.stats()["rules"][f"in-{first}"]["state"] == "waiting", "its interface"
        )
        daemon.edit(steady)
        daemon.ctl("reload")

    def sizes() -> dict[str, int]:
        told.unlink(missing_ok=True)
        daemon.signal(signal.SIGUSR1)
        wait_for(told.exists, "the sizes")
        found: dict[str, int] = json.loads(told.read_text())
        return found

    for _ in range(2):
        round_of_many()
    before = sizes()
    assert len(before) > 50
    for _ in range(4):
        round_of_many()
    after = sizes()
    # Counts of a few interfaces without a rule are remembered: tests/unit/test_growth.py.
    counts = ("Ledger.", "InterfaceCount.", "Alarms._seen", "Alarms._interfaces")
    grown = {k: (before.get(k, 0), n) for k, n in after.items() if n > before.get(k, 0) + LEAST}
    assert {k: v for k, v in grown.items() if not k.startswith(counts)} == {}
    assert daemon.stats()["rules"]["a"]["received"]["packets"] == 5 * serial // AT_ONCE
