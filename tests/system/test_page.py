"""The unit of the page: off until somebody wants it, and without privilege."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import wait_for
from tests.system.service import A, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.machine import Machine

EXPOSURE = 1.4  # systemd-analyze security
ASK = """
import sys, urllib.request
asked = urllib.request.Request("http://127.0.0.1:9478" + sys.argv[2], method=sys.argv[1])
asked.add_header("X-Mcrd", "1")
print(urllib.request.urlopen(asked, timeout=60).read().decode())
"""


def ask(machine: Machine, path: str, method: str = "GET") -> str:
    """What the page answers there; empty when it does not."""
    done = machine.call("python3", "-c", ASK, method, path)
    return done.stdout.strip()


@pytest.fixture
def machine(service: Service) -> Iterator[Machine]:
    service.machine.run("systemctl", "start", "mcrd-web")
    yield service.machine
    service.machine.run("systemctl", "stop", "mcrd-web")
    service.rules("")  # as others find it


def test_the_page_has_no_privilege_and_shows_all(service: Service, machine: Machine) -> None:
    assert machine.call("systemctl", "is-enabled", "mcrd-web").stdout.strip() == "disabled"
    service.rules(A)

    def state() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(ask(machine, "/state") or '{"rules": {}}')
        return found

    wait_for(lambda: "a" in state()["rules"], "the rule on the page", 60)
    assert state()["trouble"] == ""
    wait_for(lambda: json.loads(ask(machine, "/journal/a") or "[]"), "lines in the journal", 60)
    assert "the input interface" in ask(machine, "/explain/a", "POST")
    pid = machine.show("MainPID", "mcrd-web")
    status = machine.run("cat", f"/proc/{pid}/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    shown = machine.run("systemd-analyze", "security", "mcrd-web", "--no-pager")
    exposure = float(shown.rpartition("mcrd-web.service: ")[2].split()[0])
    assert exposure <= EXPOSURE
