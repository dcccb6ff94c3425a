"""systemd-resolved on a host of a lab: what asks and answers by LLMNR on many a Linux."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import socket
import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.avahi import absent, program
from tests.lab.processes import wait_for

if TYPE_CHECKING:
    from tests.lab.network import Host

CONF = """[Resolve]
LLMNR=yes
MulticastDNS=no
DNSStubListener=no
"""
# Its directory and its user are compiled in; both are there for it alone, and so is the name.
START = """
mount -t tmpfs none /run && mkdir -p /run/systemd/resolved.conf.d &&
cp "$1/conf" /run/systemd/resolved.conf.d/lab.conf &&
{ cat /etc/passwd; echo systemd-resolve:x:65001:65001::/:/bin/false; } >"$1/passwd" &&
{ cat /etc/group; echo systemd-resolve:x:65001:; } >"$1/group" &&
mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group &&
hostname "$3" && exec "$2"
"""
LLMNR = {4: 1 << 1, 6: 1 << 2}  # sd_resolved.h, SD_RESOLVED_LLMNR_IPV4 and _IPV6


class Resolved:
    """The daemon, which answers for `name` and asks for others."""

    def __init__(self, host: Host, name: str) -> None:
        daemon = program("systemd-resolved", "systemd-resolved")
        if (tried := host.call(daemon, "--version")).returncode != 0:
            absent(f"{daemon} does not run here: {tried.stderr.strip()}")
        directory = host.lab.file("resolved")
        directory.mkdir()
        (directory / "conf").write_text(CONF)
        start = ("unshare", "--mount", "--uts", "sh", "-c", START)
        started = host.start(*start, "sh", str(directory), daemon, name, stderr=subprocess.DEVNULL)
        root = Path(f"/proc/{started.pid}/root")
        self._socket = root / "run/systemd/resolve/io.systemd.Resolve"
        wait_for(self._socket.exists, "systemd-resolved")
        wait_for(lambda: host.run("ss", "-Hunl").count(":5355 ") >= 2, "LLMNR of both families")

    def ask(self, name: str, version: int) -> set[IPv4Address | IPv6Address]:
        """The addresses of a host, asked for by LLMNR over IPv4 or IPv6; none when it is not found.

        By varlink (`man systemd-resolved.service`), which is there without D-Bus.
        """
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        asked = {"name": name, "family": family, "flags": LLMNR[version]}
        call = {"method": "io.systemd.Resolve.ResolveHostname", "parameters": asked}
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(self._socket))
            sock.sendall(json.dumps(call).encode() + b"\0")
            told = b""
            while not told.endswith(b"\0"):
                told += sock.recv(65536)
        answer: dict[str, Any] = json.loads(told[:-1])
        found = answer.get("parameters", {}).get("addresses", [])
        return {ip_address(bytes(each["address"])) for each in found}
