"""Receivers by name: whoever DNS says is behind it, as they come and go."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.lab import Host, Lab, Mcrd, Triangle, wait_for
from tests.lab.avahi import program
from tests.lab.daemon import console_script
from tests.lab.rules import rule

NAME, SERVER = "pods.test", "10.2.0.2"
PODS = [f"10.2.0.{n}" for n in range(11, 61)]
ANOTHER = "10.2.0.61"
RULE = rule("a", "r0 239.1.1.1 5000", f"- {NAME} 6000")
WITH_SERVERS = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


class Dns:
    """dnsmasq, with the addresses of one name. Their TTL is a second."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._program = program("dnsmasq", "dnsmasq-base")
        self._hosts, self._log = host.lab.file("hosts"), host.lab.file("dnsmasq")
        self.process: subprocess.Popen[bytes] | None = None

    def says(self, *addresses: str) -> None:
        """Has these addresses from now on; starts it if it does not run."""
        self._hosts.write_text("".join(f"{each} {NAME}\n" for each in addresses))
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGHUP)
            return
        with self._log.open("wb") as log:
            self.process = self.host.start(
                *(self._program, "-k", "-C", "/dev/null", "-R", "-h", "-u", "root", "-x", ""),
                *(f"--addn-hosts={self._hosts}", "--local-ttl=1", "--log-facility=-"),
                *(f"--listen-address={SERVER}", "--bind-interfaces", "--local=/test/"),
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: "started" in self._log.read_text(), "dnsmasq to start")

    def stop(self) -> None:
        """Nobody answers any more, and the port says so."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait()
        self.process = None


def relay(lab: Lab, host: Host, rules: str, servers: str = SERVER) -> Mcrd:
    """A relay that asks this server, and no other."""
    file: Path = lab.file("resolv.conf")
    file.write_text(f"nameserver {servers}\n")
    start = ("unshare", "--mount", "sh", "-c", WITH_SERVERS, "sh", str(file))
    return lab.mcrd(host, rules, program=(*start, console_script("mcrd")))


def sends_to(daemon: Mcrd) -> list[str]:
    outputs = daemon.rules()["a"]["outputs"]
    return [each["address"] for each in outputs if each["state"] == "active"]


def test_fifty_behind_a_name_of_which_one_changes(triangle: Triangle) -> None:
    """It is followed within its TTL, or five seconds, and the others lose nothing."""
    own = triangle.lab.file("addresses")
    own.write_text("".join(f"address add {each}/24 dev k0\n" for each in (*PODS, ANOTHER)))
    triangle.sink.run("ip", "-batch", str(own))
    dns = Dns(triangle.sink)
    dns.says(*PODS)
    daemon = relay(triangle.lab, triangle.relay, RULE)
    wait_for(lambda: sends_to(daemon) == PODS, "all that the name has")
    first, last, new = (
        triangle.sink.receive("k0", each, 6000) for each in (PODS[0], PODS[-1], ANOTHER)
    )
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=500, size=200)
    wait_for(lambda: daemon.stats()["rules"]["a"]["received"]["packets"] > 100, "the stream")
    dns.says(*PODS[:-1], ANOTHER)
    wait_for(lambda: sends_to(daemon) == [*PODS[:-1], ANOTHER], "the one that took its place")
    gone = daemon.stats()["rules"]["a"]["received"]["packets"]
    wait_for(lambda: daemon.stats()["rules"]["a"]["received"]["packets"] > gone + 100, "the stream")
    sent = stream.stop()["sent"]
    wait_for(lambda: daemon.stats()["rules"]["a"]["received"]["packets"] >= sent, "the last ones")
    stayed = first.stop()
    assert (stayed["unique"], stayed["lost"], stayed["duplicated"]) == (sent, 0, 0)
    left, came = last.stop()["unique"], new.stop()["unique"]
    assert 100 < left < sent
    assert 100 <= came < sent


def test_a_server_that_fails(triangle: Triangle) -> None:
    """Nothing changes, and it is said once; a name that has no address waits."""
    dns = Dns(triangle.sink)
    dns.says("10.2.0.2")
    other = rule("b", "r0 239.1.1.2 5000", "r1 none.test 6000")
    daemon = relay(triangle.lab, triangle.relay, RULE + other)
    wait_for(lambda: sends_to(daemon) == ["10.2.0.2"], "what the name has")
    waiting = "none.test: DNS has no address of it (/etc/hosts is not read)"
    wait_for(lambda: daemon.rules()["b"]["reason"] == waiting, "the reason")
    assert f"rules.b: waiting: {waiting}" in daemon.log()
    assert "none.test: DNS has no address" in daemon.ctl("explain", "b", check=False).stdout
    dns.stop()
    wait_for(lambda: "; it keeps 1 address: 10.2.0.2" in daemon.log(), "the line")
    assert "; it keeps 10.2.0.2\n" in daemon.ctl("status").stdout
    received = triangle.sink.receive("k0", "10.2.0.2", 6000, expect=100)
    triangle.source.send("s0", "239.1.1.1", 5000, count=100, rate=500)
    assert received.result()["lost"] == 0
    dns.says("10.2.0.2")
    wait_for(
        lambda: f"{NAME}: 1 address: 10.2.0.2" in daemon.log().split("it keeps")[-1], "its end"
    )
    assert daemon.log().count("it keeps") == 1
