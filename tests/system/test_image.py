"""The container image, under the default profile: into containers, and out of one.

                                       +-- b0 -- eth0 one (a container)
+--------+ s0       r0 +-------------+ |
| source |-------------| relay       |br0
+--------+ .1       .2 | (container) | |
           10.1.0.0/24 +-------------+ +-- b1 -- eth0 two (a container)
                                           10.2.0.0/24
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import select
import socket
import struct
import subprocess
import tarfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.lab import Host, Lab, wait_for
from tests.lab.processes import PATIENCE
from tests.system.containers import Containers, why_no_containers

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).parents[2]
LARGEST = 120_000_000  # bytes
FIRST = 2.0  # seconds from start to first packet
USER = 65532
INTO = """
[rules.into]
input = { interface = "r0", address = "239.1.1.1", port = 5000 }
outputs = [{ interface = "br0", address = "239.2.2.1", port = 6000 }]
"""
OUT_OF = """
[rules.out]
input = { interface = "br0", address = "239.3.3.1", port = 7000 }
outputs = [{ interface = "r0", address = "239.4.4.1", port = 8000 }]
"""
ALONE = ["--read-only", "--tmpfs=/run/mcrd"]
"""The options of compose.yaml, but for the capability."""
OF_A_MACHINE = ("etc/hostname", "etc/resolv.conf", "etc/fstab", "etc/machine-id", "var/lib/apt")


@pytest.fixture(scope="module")
def image() -> Path:
    """The archive, as `make image` builds it."""
    if reason := why_no_containers():
        if os.environ.get("CI"):
            pytest.fail(f"CI has to run this: {reason}", pytrace=False)
        pytest.skip(reason)
    done = subprocess.run(["scripts/image"], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (TOP / "dist").glob("mcrd-image_*.tar")
    return found


class Network(NamedTuple):
    """The hosts, and podman for three of them."""

    source: Host
    relay: Host
    one: Host
    two: Host
    podman: Containers


@pytest.fixture(scope="module")
def network(image: Path) -> Iterator[Network]:
    """Cables, and a bridge on the relay."""
    with Lab() as lab:
        source, relay, one, two = lab.hosts("source", "relay", "one", "two")
        lab.link(source, "s0", ["10.1.0.1/24"], relay, "r0", ["10.1.0.2/24"])
        for number, host in enumerate((one, two)):
            lab.link(relay, f"b{number}", [], host, "eth0", [f"10.2.0.{number + 2}/24"])
        lab.bridge(relay, "br0", ["b0", "b1"], ["10.2.0.1/24"])
        yield Network(source, relay, one, two, Containers(lab, image, (relay, one, two)))


@pytest.fixture
def rules(network: Network) -> Path:
    """A directory for rule files, which the container can read."""
    made = network.relay.lab.file("rules")
    made.mkdir()
    made.chmod(0o755)
    return made


class Relay:
    """mcrd in a container on the relay."""

    def __init__(self, network: Network, name: str, rules: Path, *options: str, **env: str) -> None:
        self.name, self._podman = name, network.podman
        self._log = network.relay.lab.file("log")
        self.started = time.monotonic()
        with self._log.open("wb") as log:
            self._process = network.podman.start(
                network.relay,
                name,
                options=[*ALONE, f"--volume={rules}:/etc/mcrd:ro", *options],
                stderr=log,
                env=env,
            )

    def log(self) -> str:
        """What it wrote to stderr."""
        return self._log.read_text(errors="replace")

    def says(self, text: str) -> None:
        """Waits for a text in the log."""

        def said() -> bool:
            assert self._process.poll() is None, self.log()
            return text in self.log()

        try:
            wait_for(said, f"{text!r} in the log", 10 * PATIENCE)
        except TimeoutError:
            raise AssertionError(self.log()) from None

    def is_heard(self, sock: socket.socket) -> bool:
        """Whether a packet has come to the socket."""
        assert self._process.poll() is None, self.log()
        return bool(select.select([sock], [], [], 0)[0])

    def ask(self, command: str) -> dict[str, Any]:
        """Asks mcrctl in the container."""
        answer: dict[str, Any] = json.loads(self._podman.mcrctl(self.name, command, "--json"))
        return answer

    def all_active(self, *names: str) -> None:
        """Waits until it has these rules and no others, and all are active."""

        def active() -> bool:
            states = {name: rule["state"] for name, rule in self.ask("rules")["rules"].items()}
            return states == dict.fromkeys(names, "active")

        self.says("INFO: mcrd ")
        wait_for(active, f"rules {names}", 10 * PATIENCE, interval=0.2)

    def stop(self) -> int:
        """Ends it as `docker stop` does, and returns the exit code."""
        self._podman.podman("kill", "--signal", "TERM", self.name)
        return self._process.wait(10 * PATIENCE)


def listening(host: Host, group: str, port: int, address: str) -> socket.socket:
    """A socket of a host, joined."""
    sock = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((group, port))
    joined = struct.pack("4s4s", socket.inet_aton(group), socket.inet_aton(address))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
    return sock


def receiving(network: Network, host: Host, count: int) -> tuple[subprocess.Popen[bytes], Path]:
    """A container with `mcrgen receive` on the bridge, joined."""
    lab, name = host.lab, f"on-{host.name}"
    stdout, stderr = lab.file(f"{name}.json"), lab.file(f"{name}.log")
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = network.podman.start(
            host,
            name,
            *("receive", "--interface", "eth0", "--address", "239.2.2.1", "--port", "6000"),
            *("--expect", str(count), "--timeout", str(10 * PATIENCE), "--json"),
            options=["--entrypoint=/usr/bin/mcrgen", "--cap-drop=all"],
            stdout=out,
            stderr=err,
        )

    def joined() -> bool:
        assert process.poll() is None, stderr.read_text()
        return "mcrgen: receiving on" in stderr.read_text()

    wait_for(joined, f"the container on {host.name}", 10 * PATIENCE)
    return process, stdout


def relays(network: Network, count: int) -> None:
    """Packets from the host's interface into two containers of the bridge, and out of one."""
    receivers = [receiving(network, host, count) for host in (network.one, network.two)]
    network.source.send("s0", "239.1.1.1", 5000, count=count, rate=2000)
    for process, stdout in receivers:
        process.wait(10 * PATIENCE)
        result = json.loads(stdout.read_text())
        assert (result["unique"], result["lost"]) == (count, 0)
    receiver = network.source.receive("s0", "239.4.4.1", 8000, expect=count, timeout=10 * PATIENCE)
    sender = network.podman.start(
        network.one,
        "sender",
        *("send", "--interface", "eth0", "--address", "239.3.3.1", "--port", "7000"),
        *("--count", str(count), "--rate", "2000"),
        options=["--entrypoint=/usr/bin/mcrgen", "--cap-drop=all"],
        stdout=subprocess.DEVNULL,
    )
    assert sender.wait(10 * PATIENCE) == 0
    result = receiver.result(20 * PATIENCE)
    assert (result["unique"], result["lost"]) == (count, 0)


@pytest.mark.long
def test_it_is_small_and_has_nothing_of_this_machine(image: Path) -> None:
    assert image.stat().st_size < LARGEST
    with tarfile.open(image) as archive:
        (described,) = json.load(content(archive, "manifest.json"))
        (layer,) = described["Layers"]
        with tarfile.open(fileobj=content(archive, layer)) as root:
            names = root.getnames()
            control = root.getmember("run/mcrd")
    assert "usr/bin/mcrd" in names
    # All that a tmpfs of runc takes over: crun, which is here, makes each 1777.
    assert control.mode & 0o7777 == 0o1777
    assert not [name for name in names if name.startswith(OF_A_MACHINE)]


def content(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A file of an archive."""
    found = archive.extractfile(name)
    assert found is not None
    return found


@pytest.mark.long
def test_under_the_default_profile_and_with_a_config_map(network: Network, rules: Path) -> None:
    """As Docker and Kubernetes start it: nothing but a capability of the file counts."""

    def publish(serial: int, text: str) -> None:
        """As the kubelet does, atomic_writer.go: a new directory, and a symlink put in place."""
        directory = rules / f"..2026_{serial}"
        directory.mkdir()
        (directory / "mcr.toml").write_text(text)
        (rules / "..data_tmp").symlink_to(directory.name)
        (rules / "..data_tmp").rename(rules / "..data")

    publish(1, INTO)
    (rules / "mcr.toml").symlink_to("..data/mcr.toml")
    configuration = network.relay.lab.file("containers.conf")
    configuration.write_text('[containers]\ndefault_capabilities = ["NET_RAW"]\n')
    with listening(network.one, "239.2.2.1", 6000, "10.2.0.2") as sock:
        stream = network.source.start_send("s0", "239.1.1.1", 5000, rate=500)
        relay = Relay(network, "docker", rules, CONTAINERS_CONF=str(configuration))
        wait_for(lambda: relay.is_heard(sock), "a packet", 10 * PATIENCE, interval=0.001)
        first = time.monotonic() - relay.started
        stream.stop()
    print(f"from start to first packet: {first:.2f} s")
    assert first < 10 * FIRST
    relay.all_active("into")
    publish(2, INTO + OUT_OF)
    relay.all_active("into", "out")
    relays(network, 4000)

    status = relay.ask("status")
    workers = status["workers"]
    assert {worker["engine"] for worker in workers} == {"poll"}
    assert status["privileges"]["uid"] == USER
    assert status["privileges"]["capabilities"] == ["net_raw"]
    for worker in workers:
        assert not worker["missing"], worker
    assert "io_uring" in relay.log()
    network.podman.podman("healthcheck", "run", "docker")
    assert relay.stop() == 0


@pytest.mark.long
def test_with_the_profile_that_allows_io_uring_and_a_saved_file(
    network: Network, rules: Path
) -> None:
    file = rules / "mcr.toml"
    file.write_text(INTO)
    options = ["--cap-drop=all", "--cap-add=NET_RAW"]
    profile = f"--security-opt=seccomp={TOP}/dist/mcrd-seccomp.json"
    relay = Relay(network, "ring", rules, *options, profile)
    relay.all_active("into")
    file.write_text(INTO + OUT_OF)
    relay.all_active("into", "out")
    relays(network, 4000)
    assert {worker["engine"] for worker in relay.ask("status")["workers"]} == {"io_uring"}
    assert relay.stop() == 0


@pytest.mark.long
def test_without_its_capability_it_says_so(network: Network, rules: Path) -> None:
    """As with `allowPrivilegeEscalation: false` in Kubernetes."""
    (rules / "mcr.toml").write_text(INTO)
    relay = Relay(network, "poor", rules, "--cap-drop=all", "--security-opt=no-new-privileges")
    relay.says("CAP_NET_RAW")
    assert relay.stop() == 0
