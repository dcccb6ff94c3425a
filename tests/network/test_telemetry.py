"""The recipe for telemetry, with the programs that Debian has for both ends."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path

from tests.dataplane.frames import frame
from tests.lab import Host, Lab, wait_for
from tests.lab.avahi import program
from tests.network.test_recipes import relay

AGENTS = [f"10.1.0.{number}" for number in range(16, 36)]
IN_LAB = [agent for agent in AGENTS if ip_address(agent) in ip_network("10.1.0.32/27")]
COLLECTORS = ("10.2.0.11", "10.2.0.12", "10.2.0.13")
RELAY = "10.2.0.1"
QUIET = ("env", "MIBS=", "SNMPCONFPATH=/nonexistent", "SNMP_PERSISTENT_FILE=/dev/null")


def network(lab: Lab) -> tuple[Host, Host, Host]:
    """agents -- eth0 relay eth1 -- three collectors, all of them one host's addresses."""
    agents, gateway, collectors = lab.hosts("agents", "relay", "collectors")
    lab.link(agents, "eth0", [f"{a}/24" for a in AGENTS], gateway, "eth0", ["10.1.0.1/24"])
    lab.link(gateway, "eth1", [f"{RELAY}/24"], collectors, "eth0", [f"{c}/24" for c in COLLECTORS])
    for which in ("all", "eth0"):
        collectors.sysctl(f"net/ipv4/conf/{which}/rp_filter", "0")
    return agents, gateway, collectors


def started(host: Host, name: str, *command: str) -> tuple[Path, subprocess.Popen[bytes]]:
    """Start a program, whose output is in that file."""
    path = host.lab.file(name)
    with path.open("wb") as output:
        return path, host.start(*command, stdout=output, stderr=output)


def said(path: Path, pattern: str) -> Callable[[], list[str]]:
    """What a program has written, as far as it matches; nothing before there is such a file."""

    def found() -> list[str]:
        with suppress(FileNotFoundError):
            return re.findall(pattern, path.read_text(errors="replace"), re.MULTILINE)
        return []

    return found


def test_traps_to_three_collectors(lab: Lab) -> None:
    """The first trap of each of 20 agents: snmptrap to three snmptrapd."""
    snmptrap, snmptrapd = program("snmptrap", "snmp"), program("snmptrapd", "snmptrapd")
    agents, gateway, collectors = network(lab)
    daemon = relay(gateway, "telemetry")
    traps = {}
    for collector in COLLECTORS:
        options = ("-f", "-n", "-C", "-Lo", "--disableAuthorization=yes", "-F", "%b: %v\\n")
        traps[collector], _ = started(
            collectors, f"traps-{collector}", *QUIET, snmptrapd, *options, f"udp:{collector}:162"
        )
        wait_for(said(traps[collector], "NET-SNMP version"), "snmptrapd to listen")
    oid = "1.3.6.1.4.1.8072.9999"
    each = f'{snmptrap} -v 2c -c public --clientaddr=$a 10.1.0.1:162 "" {oid} {oid}.1 s "I am $a"'
    agents.run(*QUIET, "sh", "-c", f"for a in {' '.join(AGENTS)}; do {each} || exit 1; done")
    of = {
        "10.2.0.11": [(agent, agent) for agent in AGENTS],
        "10.2.0.12": [(RELAY, agent) for agent in AGENTS if agent not in IN_LAB],
        "10.2.0.13": [(agent, agent) for agent in IN_LAB],
    }
    for collector, expected in of.items():
        found = said(traps[collector], r'^UDP: \[([\d.]+)\].*"I am ([\d.]+)"')

        def all_there(found: Callable[[], list[str]] = found, count: int = len(expected)) -> bool:
            return len(found()) >= count

        wait_for(all_there, f"all traps at {collector}")
        assert sorted(map(tuple, found())) == sorted(expected)
    skipped = [o["not_wanted"] for o in daemon.stats()["rules"]["traps"]["outputs"]]
    assert skipped == [0, len(IN_LAB), len(AGENTS) - len(IN_LAB)]


def test_syslog_to_two_collectors(lab: Lab) -> None:
    """The logger of util-linux to rsyslogd."""
    rsyslogd, logger = program("rsyslogd", "rsyslog"), program("logger", "bsdutils")
    modules = [Path(rsyslogd).parent, *Path("/usr/lib").glob("*/rsyslog")]
    agents, gateway, collectors = network(lab)
    relay(gateway, "telemetry")
    written = lab.file("syslog")
    config = lab.file("rsyslog.conf")
    inputs = "\n".join(
        f'input(type="imudp" address="{collector}" port="514" name="{collector}")'
        for collector in COLLECTORS[:2]
    )
    config.write_text(
        f"""
global(net.enableDNS="off" workDirectory="{config.parent}")
module(load="imudp")
{inputs}
template(name="t" type="string" string="%inputname% %fromhost-ip% %msg%\\n")
action(type="omfile" file="{written}" template="t")
"""
    )
    started(
        *(collectors, "rsyslogd", rsyslogd, "-n", "-f", str(config), "-i", f"{config}.pid"),
        *("-M", ":".join(map(str, modules))),
    )

    def listens() -> bool:
        return collectors.run("ss", "-Hlun", "sport", "=", "514").count("\n") == len(COLLECTORS[:2])

    wait_for(listens, "rsyslogd to listen")
    for number in range(5):
        agents.run(logger, "--udp", "--server", "10.1.0.1", "--port", "514", f"line {number}")
    found = said(written, r"^([\d.]+) ([\d.]+) .*line (\d)$")
    wait_for(lambda: len(found()) >= 10, "all lines at both")
    expected = [
        (collector, source, str(number))
        for collector, source in (("10.2.0.11", AGENTS[0]), ("10.2.0.12", RELAY))
        for number in range(5)
    ]
    assert sorted(map(tuple, found())) == sorted(expected)


def test_flows_to_a_collector(lab: Lab) -> None:
    """Softflowd, which reads packets from a file, to nfcapd: the exporter is the agent."""
    softflowd, nfcapd = program("softflowd", "softflowd"), program("nfcapd", "nfdump")
    nfdump = program("nfdump", "nfdump")
    agents, gateway, collectors = network(lab)
    relay(gateway, "telemetry")
    flows = lab.file("flows")
    flows.mkdir()
    log, _ = started(  # a file every two seconds, the shortest: no signal that may come too soon
        *(collectors, "nfcapd", nfcapd, "-w", str(flows), "-b", "10.2.0.11", "-p", "2055"),
        *("-t", "2"),
    )
    wait_for(said(log, "Startup|[Ll]isten|Bound"), "nfcapd to listen")
    packets = lab.file("packets.pcap")
    packets.write_bytes(pcap([frame(b"flow %d" % n, ports=(1000 + n, 7)) for n in range(10)]))
    agents.run(softflowd, "-r", str(packets), "-n", "10.1.0.1:2055", "-v", "5")

    def exported() -> list[str]:
        text = collectors.call(nfdump, "-R", str(flows), "-q", "-o", "fmt:%ra %sp %dp").stdout
        return sorted(text.split("\n"))

    wait_for(lambda: len(exported()) > 10, "the flows in the file")
    assert [line.split()[0] for line in exported() if line.strip()] == [AGENTS[0]] * 10


def pcap(frames: list[bytes]) -> bytes:
    """A file of packets, as pcap-savefile(5) has it."""
    records = (struct.pack("<IIII", 1, 0, len(each), len(each)) + each for each in frames)
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(records)
