"""avahi-daemon on a host of a lab, with a D-Bus of its own: what most who speak mDNS run."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.lab.processes import wait_for

if TYPE_CHECKING:
    from tests.lab.network import Host

BUS = """<busconfig>
<type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/><allow user="*"/>
</policy></busconfig>
"""
CONF = """[server]
host-name={name}
deny-interfaces=lo
[publish]
publish-workstation=no
publish-hinfo=no
"""
# Its directory and its user are compiled in; both are there for it alone.
START = """
mount -t tmpfs none /run && mkdir /run/avahi-daemon &&
{ cat /etc/passwd; echo avahi:x:65000:65000::/:/bin/false; } >"$1/passwd" &&
{ cat /etc/group; echo avahi:x:65000:; } >"$1/group" &&
mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group &&
exec "$2" -f "$1/conf" --no-drop-root --no-chroot --no-rlimits --no-proc-title
"""


def program(name: str, package: str) -> str:
    """A program that `make setup` fetches from a Debian package; skips the test without it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        absent(f"there is no {name}: `make setup` fetches it from Debian's package {package}")
    return found


def absent(what: str) -> NoReturn:
    """Skip the test; where CI runs it, that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


class Avahi:
    """The daemon and a browser, which goes on finding services; called `name` there."""

    def __init__(self, host: Host, name: str) -> None:
        self._host = host
        self._browse = program("avahi-browse", "avahi-utils")
        self._publish = program("avahi-publish", "avahi-utils")
        daemon = program("avahi-daemon", "avahi-daemon")
        for each in (daemon, self._browse):
            tried = host.call(each, "--version")
            if tried.returncode != 0:
                absent(f"{each} does not run here: {tried.stderr.strip()}")
        directory = host.lab.file("avahi")
        directory.mkdir()
        socket = directory / "bus"
        (directory / "bus.conf").write_text(BUS.format(socket=socket))
        (directory / "conf").write_text(CONF.format(name=name))
        bus = ("--config-file", str(directory / "bus.conf"), "--nofork", "--nopidfile")
        nowhere = subprocess.DEVNULL
        host.start(program("dbus-daemon", "dbus-daemon"), *bus, stderr=nowhere)
        wait_for(socket.exists, "D-Bus")
        self._env = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={socket}"}
        start = ("unshare", "--mount", "sh", "-c", START, "sh", str(directory), daemon)
        host.start(*start, env=self._env, stderr=nowhere)
        wait_for(lambda: self._call("-at").returncode == 0, "avahi-daemon")
        self._events = directory / "events"
        with self._events.open("wb") as events:
            follow = ("stdbuf", "-oL", self._browse, "-arp")
            host.start(*follow, env=self._env, stdout=events, stderr=nowhere)

    def publish(self, service: str, port: int) -> subprocess.Popen[bytes]:
        """Announces a service until the process ends, which says goodbye for it."""
        command = (self._publish, "-s", service, "_ipp._tcp", str(port))
        return self._host.start(*command, env=self._env, stderr=subprocess.DEVNULL)

    def found(self) -> set[tuple[str, str]]:
        """Family and service of all that is there now, and could be resolved."""
        there = set()
        for event, _, family, service, *_ in self._lines(self._events.read_text()):
            if event == "=":
                there.add((family, service))
            elif event == "-":
                there.discard((family, service))
        return there

    def look(self) -> set[tuple[str, str]]:
        """The same, as `avahi-browse -art` finds it, which takes a second or two."""
        lines = self._lines(self._call("-artp").stdout)
        return {(family, service) for event, _, family, service, *_ in lines if event == "="}

    @staticmethod
    def _lines(text: str) -> list[list[str]]:
        return [line.split(";") for line in text.splitlines() if line.count(";") > 3]

    def _call(self, *options: str) -> subprocess.CompletedProcess[str]:
        variables = [f"{name}={value}" for name, value in self._env.items()]
        return self._host.call("env", *variables, self._browse, *options)
