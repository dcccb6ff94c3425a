"""Hosts (network namespaces), the links between them, and the lab that holds them together."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from mcrd.host.merging import SUPER_FRAMES
from mcrd.host.procfs import Host as Machine
from tests.lab import processes
from tests.lab.capture import Capture, Direction
from tests.lab.daemon import Mcrd
from tests.lab.processes import PATIENCE, CommandError, LabError, mortal, wait_for
from tests.lab.traffic import Receiver, Sender

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

CLONE_NEWNET = 0x40000000

# Values that a new namespace may inherit from the machine: pinned, so that the lab is the same
# everywhere. accept_dad 0: a link-local address is usable at once; accept_ra 0: no solicitations.
SYSCTLS = {
    "net.ipv4.conf.all.forwarding": "0",
    "net.ipv4.conf.default.forwarding": "0",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _set_namespace(descriptor: int) -> None:
    """os.setns, which Python has from 3.12 on only."""
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


class Host:
    """A network namespace, and what is done in it. Made by `Lab.hosts`."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self._holder = processes.spawn(mortal(["unshare", "--net", "sleep", "infinity"]))
        self.pid = self._holder.pid

    def __repr__(self) -> str:
        return f"<Host {self.name} net=/proc/{self.pid}/ns/net>"

    def settle(self) -> None:
        """Waits for the namespace, then makes it like every other one."""
        outside = os.readlink("/proc/self/ns/net")

        def separate() -> bool:
            if self._holder.poll() is not None:
                raise LabError(f"{self.name}: unshare --net failed: no right to make namespaces?")
            return os.readlink(f"/proc/{self.pid}/ns/net") != outside

        wait_for(separate, f"the network namespace of {self.name}")
        with self.inside():
            for name, value in SYSCTLS.items():
                path = _sysctl_path(name)
                if path.exists():  # a kernel without IPv6 has no net.ipv6
                    path.write_text(value)
        self.run("ip", "link", "set", "lo", "up")

    def release(self) -> None:
        """Lets go of the namespace. What still runs in it keeps it alive."""
        self._holder.kill()
        self._holder.wait()

    def call(self, *command: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; the exit code is the caller's to look at."""
        return subprocess.run(
            mortal(command, self.pid),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=processes.environment(),
            process_group=0,
        )

    def run(self, *command: str, timeout: float = PATIENCE) -> str:
        """Runs a command that has to succeed, and returns what it printed."""
        done = self.call(*command, timeout=timeout)
        if done.returncode != 0:
            raise CommandError(self.name, command, done)
        return done.stdout

    def start(
        self,
        *command: str,
        stdin: int = subprocess.DEVNULL,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a command in the background. The lab ends it; `.pid` is the command's own."""
        process = processes.spawn(
            mortal(command, self.pid), stdin=stdin, stdout=stdout, stderr=stderr, env=env
        )
        self.lab.keep(process)
        return process

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in this host's namespace meanwhile; other threads are not.

        What is opened inside stays there. Look at /proc/thread-self/net, not at /proc/net.
        """
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self.pid}/ns/net") as there:
            _set_namespace(there.fileno())
            try:
                yield
            finally:
                _set_namespace(home.fileno())

    def socket(self, family: int, type_: int, protocol: int = 0) -> socket.socket:
        """A socket of this host."""
        with self.inside():
            return socket.socket(family, type_, protocol)

    def sysctl(self, name: str, value: str | None = None) -> str:
        """Sets net.* of this host, when a value is given; returns what it is now.

        Either separator: net.ipv4.igmp_max_memberships, net/ipv4/conf/eth0.100/rp_filter.
        """
        path = _sysctl_path(name)
        with self.inside():
            if value is not None:
                path.write_text(value)
            return path.read_text().strip()

    def links(self) -> list[dict[str, Any]]:
        """Links and addresses, as `ip -json -details address` shows them."""
        shown: list[dict[str, Any]] = json.loads(self.run("ip", "-j", "-d", "address", "show"))
        return shown

    def missed(self, interface: str) -> int:
        """Frames for which the other end of its cable had no room: they came to no host.

        All that arrives at once on a CPU of this machine shares one queue, of
        net.core.netdev_max_backlog.
        """
        (link,) = json.loads(self.run("ip", "-s", "-j", "link", "show", interface))
        return int(link["stats64"]["tx"]["dropped"])

    def receive(
        self,
        interface: str,
        address: str,
        port: int,
        *,
        expect: int | None = None,
        source: str | None = None,
        flows: int | None = None,
        timeout: float | None = None,
    ) -> Receiver:
        """Starts `mcrgen receive`, and returns once it has joined."""
        return Receiver(self, interface, address, port, expect, source, flows, timeout)

    def start_send(
        self,
        interface: str,
        address: str,
        port: int,
        *,
        count: int | None = None,
        rate: int | None = None,
        size: int | None = None,
        flows: int | None = None,
        ttl: int | None = None,
        source_port: int | None = None,
    ) -> Sender:
        """Starts `mcrgen send` in the background."""
        return Sender(self, interface, address, port, count, rate, size, flows, ttl, source_port)

    def send(
        self,
        interface: str,
        address: str,
        port: int,
        *,
        count: int,
        rate: int | None = None,
        size: int | None = None,
        flows: int | None = None,
        ttl: int | None = None,
        source_port: int | None = None,
        timeout: float = 4 * PATIENCE,
    ) -> dict[str, Any]:
        """Runs `mcrgen send` to its end, and returns what it says about itself."""
        sender = self.start_send(
            interface,
            address,
            port,
            count=count,
            rate=rate,
            size=size,
            flows=flows,
            ttl=ttl,
            source_port=source_port,
        )
        return sender.result(timeout)

    def capture(
        self,
        interface: str,
        filter_: str = "",
        *,
        direction: Direction = "inout",
        largest: int = 2048,
    ) -> Capture:
        """Captures from now on, with a filter of pcap-filter(7).

        `largest` is the longest frame that it takes, in bytes; a longer one is a LabError.
        """
        return Capture(self, interface, filter_, direction, largest)


class Lab:
    """A private network. A context manager: on exit everything in it is gone.

    `grace` is how long, in seconds, what still runs may take to end after SIGTERM.
    """

    def __init__(self, grace: float = 5.0) -> None:
        self._grace = grace
        self._hosts: list[Host] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sockets: list[socket.socket] = []
        self._serial = 0
        self._index = 100
        self.daemons: list[Mcrd] = []

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LabError("network namespaces need root")
        self.directory = Path(tempfile.mkdtemp(prefix="mcrd-lab-"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            processes.terminate(self._processes, self._grace)
            for sock in self._sockets:
                sock.close()
            for host in self._hosts:
                host.release()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def keep(self, process: subprocess.Popen[bytes]) -> None:
        """Ends the process with the lab."""
        self._processes.append(process)

    def close_at_end(self, sock: socket.socket) -> None:
        """Closes the socket with the lab: an open one keeps its namespace."""
        self._sockets.append(sock)

    def file(self, name: str) -> Path:
        """A path that no other caller got, in a directory that ends with the lab."""
        self._serial += 1
        return self.directory / f"{self._serial}-{name}"

    def hosts(self, *names: str) -> tuple[Host, ...]:
        """New hosts with nothing but a loopback interface."""
        made = []
        for name in names:
            host = Host(self, name)
            self._hosts.append(host)
            made.append(host)
        for host in made:
            host.settle()
        return tuple(made)

    def link(
        self,
        left: Host,
        left_name: str,
        left_addresses: Sequence[str],
        right: Host,
        right_name: str,
        right_addresses: Sequence[str],
        *,
        mtu: int | None = None,
    ) -> None:
        """A cable (a veth pair) between two hosts; addresses with prefix length, of either family.

        Returns when both ends have carrier and every address can be used.
        """
        size = [] if mtu is None else ["mtu", str(mtu)]
        # With one number at both ends the kernel takes no veth for one, and is a second late in
        # saying that it has carrier.
        self._index += 2
        left.run(
            *("ip", "link", "add", left_name, "index", str(self._index), *size, "type", "veth"),
            *("peer", "name", right_name, "index", str(self._index + 1), *size),
            *("netns", str(right.pid)),
        )
        ends = ((left, left_name, left_addresses), (right, right_name, right_addresses))
        if not super_frames_arrive():
            for host, name, _ in ends:
                cut(host, name)
        for host, name, addresses in ends:
            for address in addresses:
                nodad = ["nodad"] if ":" in address else []
                host.run("ip", "address", "add", address, "dev", name, *nodad)
        for host, name, _ in ends:
            host.run("ip", "link", "set", name, "up")
        for host, name, addresses in ends:
            wait_for(
                partial(_usable, host, name, addresses),
                f"carrier and addresses of {name} on {host.name}",
            )

    def bridge(
        self,
        host: Host,
        name: str,
        ports: Sequence[str],
        addresses: Sequence[str] = (),
        *,
        snooping: bool = False,
        querier: bool = False,
    ) -> None:
        """A switch of the named interfaces of a host, with or without IGMP and MLD snooping.

        Until it knows a querier, a snooping bridge floods groups that nobody joined; it believes
        in itself 100 ms after it is up.
        """
        host.run(
            *("ip", "link", "add", name, "type", "bridge", "stp_state", "0"),
            *("mcast_snooping", str(int(snooping)), "mcast_query_response_interval", "10"),
        )
        # Apart: the interval, of which it waits one, has to be known before.
        host.run("ip", "link", "set", name, "type", "bridge", "mcast_querier", str(int(querier)))
        for port in ports:
            host.run("ip", "link", "set", port, "master", name)
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            host.run("ip", "address", "add", address, "dev", name, *nodad)
        host.run("ip", "link", "set", name, "up")
        wait_for(lambda: _usable(host, name, addresses), f"carrier of {name} on {host.name}")
        wait_for(
            lambda: (
                {"forwarding"}
                == {
                    link["linkinfo"]["info_slave_data"]["state"]
                    for link in host.links()
                    if link["ifname"] in ports
                }
            ),
            f"forwarding on the ports of {name}",
        )

    def mcrd(
        self,
        host: Host,
        rules: str,
        *,
        ready: bool = True,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = (),
        owner: int = 0,
    ) -> Mcrd:
        """Starts the daemon on a host with this rule file (TOML text).

        `program` is what runs in place of mcrd, `owner` whose its directory is. Returns when it
        answers mcrctl; with `ready`, when it has also applied its first plan.
        """
        daemon = Mcrd(host, rules, options, env, program, owner)
        self.daemons.append(daemon)
        daemon.wait_until_it_answers(ready)
        return daemon


def cut(host: Host, *interfaces: str) -> None:
    """What is written with UDP_SEGMENT is cut before it leaves: every datagram is a frame."""
    for interface in interfaces:
        host.run("ethtool", "-K", interface, "tx-udp-segmentation", "off")


@functools.cache
def super_frames_arrive() -> bool:
    """Whether packet rings of this kernel take UDP super-frames; mcrgen sends some."""
    release = Machine().release()
    return release is not None and release >= SUPER_FRAMES


def _sysctl_path(name: str) -> Path:
    return Path("/proc/sys") / (name if "/" in name else name.replace(".", "/"))


def _usable(host: Host, name: str, addresses: Sequence[str]) -> bool:
    """Has the interface carrier, a settled link-local address, and all of these?"""
    (link,) = (link for link in host.links() if link["ifname"] == name)
    known = {f"{a['local']}/{a['prefixlen']}": a for a in link["addr_info"]}
    scopes = {a["scope"] for a in known.values() if a["family"] == "inet6"}
    return (
        link["operstate"] == "UP"
        and known.keys() >= set(addresses)
        and not any(a.get("tentative") for a in known.values())
        and ("link" in scopes or not Path("/proc/sys/net/ipv6").exists())
    )
