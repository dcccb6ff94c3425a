"""Who else relays it: a second mcrd, and the real smcroute; named, with what to do."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import wait_for
from tests.lab.rules import rule

if TYPE_CHECKING:
    import subprocess

    from tests.lab import Fork, Host, Mcrd, Triangle

SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
SAME = "r0 239.1.1.1 5000", "r1 239.1.1.1 5000 ttl=4"
RULES = rule("a", *SAME)


def explain(daemon: Mcrd, which: str = "a") -> dict[str, Any]:
    _, said, _ = daemon.ctl_again("explain", which, "--json", "--seconds", "0.1")
    found: dict[str, Any] = json.loads(said)
    return found


def twice(daemon: Mcrd, which: str = "a") -> list[dict[str, Any]]:
    """What explain says of others who send the same."""
    return [f for f in explain(daemon, which)["findings"] if f["topic"] == "twice"]


def relays(daemon: Mcrd) -> list[dict[str, Any]]:
    """What doctor says of them."""
    _, said, error = daemon.ctl_again("doctor", "--json")
    assert error == ""
    return [f for f in json.loads(said)["findings"] if f["check"] == "other relays"]


def smcroute(host: Host, *lines: str) -> subprocess.Popen[bytes]:
    """The daemon of Debian's package, with these lines in its file; returns when it has read it."""
    beside = Path(sys.executable).with_name("smcrouted")
    program = str(beside) if beside.exists() else shutil.which("smcrouted", path=SEARCH)
    if program is None:
        missing = "there is no smcrouted: `make setup` fetches it from Debian's package smcroute"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    config, control = host.lab.file("smcroute.conf"), host.lab.file("smcroute.sock")
    config.write_text("".join(f"{line}\n" for line in lines))
    process = host.start(
        *(program, "-n", "-N", "-l", "err", "-f", str(config), "-u", str(control)),
        *("-P", str(host.lab.file("smcroute.pid"))),
    )
    wait_for(control.exists, "smcroute")
    return process


def test_a_second_mcrd(triangle: Triangle) -> None:
    first = triangle.lab.mcrd(
        triangle.relay, RULES + rule("b", "r0 239.1.1.2 5000", "r1 239.1.1.2 5000 ttl=4")
    )
    tcpdump = triangle.relay.capture("r0")  # a packet socket as well, and no relay
    assert twice(first) == []
    assert [each["verdict"] for each in relays(first)] == ["ok"]
    second = triangle.lab.mcrd(triangle.relay, rule("other", *SAME))
    for daemon, other, name in ((first, second, "a"), (second, first, "other")):
        said = f"another mcrd, pid {other.pid} ("
        [found] = twice(daemon, name)
        assert said in found["text"]
        assert "r1 239.1.1.1:5000" in found["text"]
        assert "stop one of the two (`" in found["remedy"]
        [found] = relays(daemon)
        assert found["verdict"] == "trouble"
        assert said in found["value"]
        assert f"rules.{name}" in found["value"]
        assert "rules.b" not in found["value"]
    assert twice(first, "b") == []
    line = f"rules.other: receivers get each packet twice: another mcrd, pid {first.pid} ("
    wait_for(lambda: line in second.log(), line)
    second.stop()
    assert twice(first) == []
    assert [each["verdict"] for each in relays(first)] == ["ok"]
    assert second.log().count("twice") == 1
    tcpdump.frames()


def test_a_second_mcrd_that_does_something_else_is_no_fault(triangle: Triangle) -> None:
    first = triangle.lab.mcrd(triangle.relay, RULES)
    triangle.lab.mcrd(
        triangle.relay,
        rule("port", "r0 239.1.1.1 5000", "r1 239.1.1.1 5001 ttl=4")
        + rule("back", "r1 239.1.1.1 5000", "r0 239.1.1.1 5000 ttl=4"),
    )
    assert twice(first) == []
    assert [each["verdict"] for each in relays(first)] == ["ok"]


def test_without_the_privilege_it_says_what_is_not_seen(triangle: Triangle) -> None:
    first = triangle.lab.mcrd(triangle.relay, RULES)
    triangle.lab.mcrd(triangle.relay, RULES)
    os.chmod(triangle.lab.directory, 0o755)
    os.chmod(first.control.parent, 0o755)
    os.chmod(first.control, 0o666)
    os.chmod(first.config, 0o644)
    done = triangle.relay.call(
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *(str(Path(sys.executable).with_name("mcrctl")), "--control", str(first.control)),
        *("doctor", "--json"),
    )
    [found] = [f for f in json.loads(done.stdout)["findings"] if f["check"] == "other relays"]
    assert found["verdict"] == "trouble"
    assert "another mcrd, of uid 0 (only root sees which process)" in found["value"]


def test_smcroute(fork: Fork) -> None:
    """The kernel has a route of a group when it has a source; so a stream flows."""
    relay = fork.relay
    process = smcroute(
        relay,
        *(
            "phyint r0 enable",
            "phyint r1 enable",
            "phyint r2 enable",
            "mgroup from r0 group 239.1.1.1",
        ),
        "mroute from r0 group 239.1.1.1 to r1",
        "mroute from r0 group 239.1.1.2 to r2",
        "mroute from r1 group 239.1.1.3 to r0",
        "mroute from r0 source 10.1.0.9 group 239.1.1.4 to r1",
        "mroute from r0 source fd01::1 group ff05::5 to r1",
    )
    rules = [
        RULES,
        rule("output", "r0 239.1.1.2 5000", "r1 239.1.1.2 5000 ttl=4"),
        rule("direction", "r0 239.1.1.3 5000", "r1 239.1.1.3 5000 ttl=4"),
        rule("source", 'r0 239.1.1.4 5000 sources=["10.1.0.1"]', "r1 239.1.1.4 5000 ttl=4"),
        rule("group", "r0 239.1.1.1 5001", "r1 239.2.2.2 5001 ttl=4"),
        rule("six", "r0 ff05::5 5000", "r1 ff05::5 5000 ttl=4"),
    ]
    received = fork.sink.receive("k0", "239.1.1.1", 5000, expect=10**6, timeout=60)
    stream = fork.source.start_send("s0", "239.1.1.1", 5000, rate=1000, ttl=8)
    for group, end in (("239.1.1.2", "s0"), ("239.1.1.3", "s0")):
        fork.source.send(end, group, 5000, count=3, ttl=8)
    wait_for(lambda: "239.1.1.1" in relay.run("ip", "mroute", "show", "iif", "r0"), "the route")
    daemon = fork.lab.mcrd(relay, "".join(rules))

    def both() -> dict[str, str]:
        return {each["value"]: each["remedy"] for each in relays(daemon)}

    routing = "the kernel's own multicast routing, set up by "
    who = f"{routing}smcrouted ({process.pid})"
    found = both()
    assert set(found) == {f"{who}: the same as rules.a", f"{who}: the same as rules.six"}
    assert all("mroute show` lists them" in remedy for remedy in found.values())
    [one] = twice(daemon)
    assert who in one["text"]
    shown = daemon.ctl("explain", "a", "--seconds", "0.2").stdout
    assert "a: it flows" in shown
    assert "TWICE: the kernel's own multicast routing" in shown
    for name in ("output", "direction", "source", "group"):
        assert twice(daemon, name) == []
    line = f"receivers get each packet twice: {routing}"  # the daemon gave up what shows whose
    wait_for(lambda: line in daemon.log(), line)
    stream.stop()
    assert received.stop()["duplicated"] > 0
