"""What an administrator does with the installed service, on systemd."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.lab import wait_for
from tests.lab.rules import rule
from tests.system.service import (
    BROKEN,
    RING,
    A,
    B,
    Service,
    ctl,
    drop_in,
    dropped,
    flows_on,
    received,
    restarted,
    streaming,
)

if TYPE_CHECKING:
    pass

EXPOSURE = 2.6  # systemd-analyze security; docs/security.md says what it is made of


def test_the_package_brings_a_service_that_runs_and_has_no_rules(service: Service) -> None:
    machine = service.machine
    assert machine.run("systemctl", "is-enabled", "mcrd").strip() == "enabled"
    assert machine.run("systemctl", "is-active", "mcrd").strip() == "active"
    wait_for(lambda: machine.show("StatusText").startswith("0 rules"), "no rules", 60)
    assert ctl(machine, "status")["config"] == "/etc/mcr.toml"


def test_three_lines_and_a_reload(service: Service) -> None:
    service.rules("")
    service.machine.write(
        "/etc/mcr.toml",
        "[rules.a]\n"
        'input = { interface = "r0", address = "239.1.1.1", port = 5000 }\n'
        'outputs = [{ interface = "r1", address = "239.2.2.1", port = 6000, ttl = 4 }]\n',
    )
    service.machine.run("systemctl", "reload", "mcrd")
    receiver = service.network.sink.receive("k0", "239.2.2.1", 6000, expect=1000)
    service.network.source.send("s0", "239.1.1.1", 5000, count=1000, rate=5000)
    result = receiver.result()
    assert (result["unique"], result["lost"], result["duplicated"]) == (1000, 0, 0)


def test_reloads_good_and_broken_lose_nothing(service: Service) -> None:
    machine = service.machine
    service.rules(A)
    with streaming(service) as stream:
        machine.write("/etc/mcr.toml", A + B)
        machine.run("systemctl", "reload", "mcrd")
        assert set(ctl(machine, "rules")["rules"]) == {"a", "b"}
        problem = "/etc/mcr.toml:2:59: rules.a.input.port: "
        told = machine.journal().count(problem)
        machine.write("/etc/mcr.toml", BROKEN)
        done = machine.call("systemctl", "reload", "mcrd")
        assert done.returncode == 1
        status = machine.run("systemctl", "status", "mcrd")
        assert problem in machine.show("StatusText")
        assert problem in status  # and why it failed, in the journal below it
        assert machine.journal().count(problem) == told + 1
        assert "2 rules" in status
        assert machine.run("systemctl", "is-active", "mcrd").strip() == "active"
        assert set(ctl(machine, "rules")["rules"]) == {"a", "b"}
        flows_on(service)
        result = stream.end()
    assert (result["unique"], result["lost"], result["duplicated"]) == (result["sent"], 0, 0)
    assert dropped(machine) == {}


def test_a_restart_loses_nothing(service: Service) -> None:
    """Nor a count: it is as if the daemon had never ended."""
    machine = service.machine
    service.rules(A)
    pid = machine.show("MainPID")
    with streaming(service) as stream:
        groups = service.network.relay.run("ip", "maddress", "show", "dev", "r0")
        assert "239.1.1.1" in groups
        machine.run("systemctl", "restart", "mcrd")
        assert machine.show("MainPID") != pid
        flows_on(service)
        result = stream.end()
    assert (result["unique"], result["lost"], result["duplicated"]) == (result["sent"], 0, 0)
    assert received(machine) == result["sent"]
    assert dropped(machine) == {}
    assert "taken over from mcrd" in machine.journal("EVENT=taken-over")


def test_the_journal_knows_rules_and_interfaces(service: Service) -> None:
    machine = service.machine
    service.rules(A + rule("c", "gone 239.1.1.3 5000", "r1 239.2.2.3 6000 ttl=4"))
    line = "rules.c: waiting: gone is missing"
    wait_for(lambda: line in machine.journal("RULE=c"), "the line")
    assert "rules.a" not in machine.journal("RULE=c")
    assert "worker of r0: pid" in machine.journal("EVENT=worker-started", "INTERFACE=r0")


def test_systemd_finds_nothing_wrong_with_the_unit(service: Service) -> None:
    machine = service.machine
    done = machine.call("systemd-analyze", "verify", "--man=no", "mcrd.service")
    assert [line for line in done.stderr.splitlines() if "mcrd" in line] == []
    found = machine.run("systemd-analyze", "security", "--no-pager", "mcrd.service")
    (exposure,) = re.findall(r"Overall exposure level for mcrd.service: ([0-9.]+)", found)
    print(found)
    assert float(exposure) <= EXPOSURE
    # And nothing of that costs a worker a layer.
    assert ctl(machine, "status")["sandbox"]["missing"] == {}


@pytest.mark.long
def test_a_kill_of_the_supervisor_loses_nothing(service: Service) -> None:
    """What the workers had under way may be sent twice: up to one harvest each."""
    machine = service.machine
    service.rules(A)
    with streaming(service) as stream:
        for number in range(1, 4):
            machine.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "mcrd")
            wait_for(partial(restarted, machine, number), "systemd to notice")
            flows_on(service)
        result = stream.end()
    print(result)
    assert result["lost"] == 0
    assert dropped(machine) == {}
    assert result["duplicated"] <= 3 * 2048


@pytest.mark.long
@pytest.mark.parametrize("how", ["restart", "kill"])
def test_meanwhile_no_group_is_left_and_no_port_is_closed(service: Service, how: str) -> None:
    """Neither does a switch hear of a leave, nor a sender that nobody listens."""
    machine, source = service.machine, service.network.source
    b = rule("b", "r0 10.1.0.2 5001", "r1 239.2.2.2 6000 ttl=4")
    service.rules(A + b)
    port = source_port(service)
    seen = source.capture("s0", "igmp or icmp", direction="in")
    with streaming(service) as stream, source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with source.inside():
            sock.connect(("10.1.0.2", 5001))
        pid = machine.show("MainPID")
        if how == "restart":
            machine.call("systemctl", "restart", "--no-block", "mcrd")
        else:
            machine.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "mcrd")
        sent = 0

        def is_back() -> bool:
            nonlocal sent
            sock.send(b"is anybody there?")  # raises ECONNREFUSED when there is not
            sent += 1
            another = machine.show("MainPID") not in (pid, "0")
            return another and machine.show("ActiveState") == "active"

        wait_for(is_back, "the next daemon")
        wait_for(lambda: received(machine, "b") == sent, "all that was sent meanwhile")
        flows_on(service)
        result = stream.end()
    frames = seen.stop()
    assert [frame for frame in frames if frame[23] == socket.IPPROTO_ICMP] == []
    # The kinds of record that end a membership: RFC 3376, 4.2.12.
    assert [frame for frame in frames if frame[46] in (3, 6)] == []
    assert result["lost"] == 0
    assert source_port(service) == port


def source_port(service: Service) -> int:
    """Where rule a sends from."""
    table = service.network.relay.run("ss", "-Hnau", "dst", "239.2.2.1")
    (line,) = table.splitlines()
    return int(line.split()[3].rpartition(":")[2])


@pytest.mark.long
def test_a_kill_of_a_worker_loses_nothing(service: Service) -> None:
    machine = service.machine
    service.rules(A)
    with streaming(service) as stream:
        (worker,) = ctl(machine, "stats")["workers"]
        machine.run("kill", "-KILL", str(worker["pid"]))
        wait_for(
            lambda: [w["restarts"] for w in ctl(machine, "stats")["workers"]] == [1], "another"
        )
        flows_on(service)
        result = stream.end()
    assert result["lost"] == 0
    assert machine.show("NRestarts") == "0"


@pytest.mark.long
def test_members_live_through_a_restart(service: Service) -> None:
    """Of a range: they have their sockets before the first packet is looked at."""
    machine = service.machine
    service.rules(rule("a", "r0 239.1.1.0/28 5000", "r1 239.2.2.0/28 6000 ttl=4"))
    with streaming(service) as stream:
        before = ctl(machine, "stats")["rules"]["a"]["outputs"][0]["new_member"]
        machine.run("systemctl", "restart", "mcrd")
        flows_on(service)
        after = ctl(machine, "stats")["rules"]["a"]["outputs"][0]["new_member"]
        result = stream.end()
    assert after == before
    assert result["lost"] == 0


@pytest.mark.long
@pytest.mark.parametrize("how", ["restart", "kill"])
def test_who_has_joined_is_known_after_a_restart(service: Service, how: str) -> None:
    machine = service.machine
    wanted = rule("a", "r0 239.1.1.1 5000", 'r1 239.2.2.1 6000 ttl=4 when="members"')
    service.rules(wanted + "[interfaces.r1]\nquerier = true\n" + RING)
    with streaming(service, 5000) as stream:
        # What flows may not be left for the next daemon yet: that is the end of the round.
        wait_for(lambda: not ctl(machine, "status")["pending"], "the hand-over")
        if how == "restart":
            machine.run("systemctl", "restart", "mcrd")
        else:
            machine.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "mcrd")
            wait_for(partial(restarted, machine, 1), "systemd to notice")
        flows_on(service)
        result = stream.end()
    assert (result["lost"], dropped(machine)) == (0, {})


@pytest.mark.long
def test_a_file_that_changed_meanwhile_is_a_plan_like_any_other(service: Service) -> None:
    machine = service.machine
    service.rules(A + B)
    with streaming(service) as stream:
        count = int(machine.show("NFileDescriptorStore"))
        machine.run("sed", "-i", "s/^\\[daemon\\]//", "/etc/mcr.toml")
        machine.write("/etc/mcr.toml", "[daemon]\nwatch = false\n" + A + B)
        machine.run("systemctl", "reload", "mcrd")
        c = rule("c", "r0 239.1.1.3 5000", "r1 239.2.2.3 6000 ttl=4")
        machine.write("/etc/mcr.toml", A + c)
        machine.run("systemctl", "restart", "mcrd")
        flows_on(service)
        groups = service.network.relay.run("ip", "maddress", "show", "dev", "r0")
        assert "239.1.1.3" in groups
        assert "239.1.1.2" not in groups
        wait_for(
            lambda: int(machine.show("NFileDescriptorStore")) == count, "what went to be dropped"
        )
        result = stream.end()
    assert (result["unique"], result["lost"], result["duplicated"]) == (result["sent"], 0, 0)


@pytest.mark.long
def test_what_another_version_left_is_dropped_with_a_line(service: Service) -> None:
    """Here: somebody else's descriptors, and an index that is none."""
    machine = service.machine
    service.rules(A)
    text = (
        "import os, socket, time\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.connect(os.environ['NOTIFY_SOCKET'])\n"
        "for name in ('index9', '7'):\n"
        "    fd = os.memfd_create(name)\n"
        "    os.write(fd, b'nothing that is known')\n"
        "    text = f'FDSTORE=1\\nFDPOLL=0\\nFDNAME={name}'\n"
        "    socket.send_fds(s, [text.encode()], [fd])\n"
        "s.send(b'READY=1')\n"
        "time.sleep(1000)\n"
    )
    machine.run("systemctl", "stop", "mcrd")
    machine.write("/usr/local/bin/another", "#!/usr/bin/python3\n" + text)
    machine.run("chmod", "755", "/usr/local/bin/another")
    with drop_in(machine, "ExecStart=\nExecStart=/usr/local/bin/another"):
        machine.run("systemctl", "start", "mcrd")
        wait_for(lambda: machine.show("NFileDescriptorStore") == "2", "the store to fill")
    machine.run("systemctl", "restart", "mcrd")
    assert "cannot be used" in machine.journal("EVENT=handover-failed")
    assert machine.show("ActiveState") == "active"
    with streaming(service) as stream:
        result = stream.end()
    assert result["lost"] == 0


@pytest.mark.long
def test_an_edit_with_sed_is_live(service: Service) -> None:
    machine = service.machine
    service.rules(A)
    machine.run("sed", "-i", "s/239.2.2.1/239.2.2.9/", "/etc/mcr.toml")
    receiver = service.network.sink.receive("k0", "239.2.2.9", 6000, timeout=30)
    wait_for(lambda: "239.2.2.9" in machine.run("mcrctl", "rules"), "the change")
    service.network.source.send("s0", "239.1.1.1", 5000, count=100, rate=1000)
    wait_for(lambda: received(machine) == 100, "the packets")
    assert receiver.stop()["unique"] == 100


@pytest.mark.long
def test_a_stop_leaves_the_groups_and_keeps_nothing(service: Service) -> None:
    machine = service.machine
    service.rules(A)
    assert int(machine.show("NFileDescriptorStore")) > 4
    machine.run("systemctl", "stop", "mcrd")
    relay = service.network.relay
    wait_for(
        lambda: "239.1.1.1" not in relay.run("ip", "maddress", "show", "dev", "r0"), "the leave"
    )
    assert machine.show("NFileDescriptorStore") == "0"
    assert len(relay.run("cat", "/proc/net/packet").splitlines()) == 1
    machine.run("systemctl", "start", "mcrd")
    assert received(machine) == 0


def test_gro_stays_over_a_restart_and_ends_with_a_stop(service: Service) -> None:
    machine, relay = service.machine, service.network.relay

    def merges() -> bool:
        return "rx-udp-gro-forwarding: on" in relay.run("ethtool", "-k", "r0")

    rights = "CAP_NET_RAW CAP_NET_ADMIN"
    with drop_in(machine, f"AmbientCapabilities={rights}\nCapabilityBoundingSet={rights}"):
        service.rules(A + "gro = true\n")
        wait_for(merges, "gro")
        machine.run("systemctl", "restart", "mcrd")
        assert merges()
        machine.write("/etc/mcr.toml", A)
        machine.run("systemctl", "reload", "mcrd")
        wait_for(lambda: not merges(), "no gro: the second daemon knows who had set it")
        machine.write("/etc/mcr.toml", A + "gro = true\n")
        machine.run("systemctl", "reload", "mcrd")
        wait_for(merges, "gro again")
        machine.run("systemctl", "stop", "mcrd")
        assert not merges()
    service.rules(A)


@pytest.mark.long
def test_the_watchdog_ends_a_supervisor_that_stands_still(service: Service) -> None:
    machine = service.machine
    service.rules(A)
    with drop_in(machine, "WatchdogSec=3s"):
        machine.run("systemctl", "restart", "mcrd")
        with streaming(service, rate=2000) as stream:
            pid = machine.show("MainPID")
            machine.run("kill", "-STOP", pid)
            wait_for(lambda: machine.show("NRestarts") == "1", "the watchdog", 60.0)
            wait_for(lambda: machine.show("ActiveState") == "active", "the restart", 60.0)
            flows_on(service, 2000)
            result = stream.end()
    assert result["lost"] == 0


@pytest.mark.long
def test_an_interface_that_comes_later(service: Service) -> None:
    machine = service.machine
    service.rules(rule("late", "late0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=4"))
    assert "1 waiting" in machine.show("StatusText")
    service.network.relay.run("ip", "link", "add", "late0", "type", "bridge")
    service.network.relay.run("ip", "link", "set", "late0", "up")
    wait_for(lambda: ctl(machine, "status")["rules"] == {"active": 1}, "the rule to be active")
    wait_for(lambda: machine.show("StatusText").startswith("1 rule;"), "the status")
    service.network.relay.run("ip", "link", "del", "late0")


@pytest.mark.long
def test_it_does_not_start_with_a_broken_file_and_says_why(service: Service) -> None:
    machine = service.machine
    service.rules(A)
    machine.run("systemctl", "stop", "mcrd")
    machine.write("/etc/mcr.toml", BROKEN)
    assert machine.call("systemctl", "start", "mcrd").returncode != 0
    problem = "/etc/mcr.toml:2:59: rules.a.input.port: "
    assert problem in machine.show("StatusText")
    assert problem in machine.call("systemctl", "status", "mcrd").stdout
    wait_for(lambda: machine.show("ActiveState") == "failed", "systemd to give up", 60.0)


@pytest.mark.long
@pytest.mark.parametrize("how", ["restart", "kill"])
@pytest.mark.parametrize("now", [BROKEN, None], ids=["broken", "deleted"])
def test_a_restart_with_a_file_that_is_refused_goes_on_by_the_rules_before(
    service: Service, how: str, now: str | None
) -> None:
    machine = service.machine
    service.rules(A)
    with streaming(service) as stream:
        if now is None:
            machine.run("rm", "/etc/mcr.toml")
        else:
            machine.write("/etc/mcr.toml", now)
        pid = machine.show("MainPID")
        if how == "restart":
            machine.run("systemctl", "restart", "mcrd")
        else:
            machine.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "mcrd")
        wait_for(lambda: machine.show("MainPID") not in (pid, "0"), "the next daemon")
        wait_for(lambda: machine.show("ActiveState") == "active", "it to be ready")
        assert "1 rule; rule file refused: /etc/mcr.toml:" in machine.show("StatusText")
        flows_on(service)
        result = stream.end()
    assert result["lost"] == 0
    machine.write("/etc/mcr.toml", A + B)
    wait_for(lambda: set(ctl(machine, "rules")["rules"]) == {"a", "b"}, "the file to be good again")
    assert "refused" not in machine.show("StatusText")


@pytest.mark.long
def test_members_of_the_group_may_use_the_control_socket(service: Service) -> None:
    machine = service.machine
    service.rules(A)
    as_member = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    assert machine.call(*as_member, "mcrctl", "status").returncode == 1
    gid = machine.run("getent", "group", "mcrd").split(":")[2]
    as_member[-1:] = ["--groups", gid]
    assert "1 rule" in machine.run(*as_member, "mcrctl", "status")
