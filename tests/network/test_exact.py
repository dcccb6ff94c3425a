"""Every byte of every datagram, in order and once, as fast as sender, relay and receivers can."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.rules import rule

if TYPE_CHECKING:
    from tests.lab import Fork, Host

SOURCE = Path(__file__).parent / "c" / "exact.c"
FLOWS = 4
PROGRESS_SIZE = 4096
MERGED = "[interfaces.r0]\ngro = true\n"


def start(host: Host, *command: str | int | Path) -> subprocess.Popen[bytes]:
    """Returns when it is ready."""
    process = host.start(*map(str, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"ready\n", process.stderr.read()
    return process


@pytest.mark.alone
@pytest.mark.parametrize(
    ("count", "interface"),
    [
        (400_000, ""),
        (400_000, MERGED),
        pytest.param(10_000_000, "", marks=pytest.mark.long),
        pytest.param(10_000_000, MERGED, marks=pytest.mark.long),
    ],
    ids=["plain", "gro", "plain-long", "gro-long"],
)
def test_datagrams_of_any_length_at_full_speed(
    fork: Fork, tmp_path: Path, count: int, interface: str
) -> None:
    """0 to 1472 bytes each, in four flows, to two outputs: byte-exact, in order, once."""
    exact, progress = tmp_path / "exact", tmp_path / "progress"
    subprocess.run(
        ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", exact, SOURCE], check=True
    )
    progress.write_bytes(bytes(PROGRESS_SIZE))
    daemon = fork.lab.mcrd(
        fork.relay,
        interface
        + "\n".join(
            rule(
                f"flow-{flow}",
                f"r0 239.1.1.{1 + flow} 5000",
                f"r1 239.2.2.{1 + flow} 6000",
                f"r2 239.3.3.{1 + flow} 7000",
            )
            for flow in range(FLOWS)
        ),
    )
    receivers = [
        start(host, exact, "receive", interface, group, port, FLOWS, count, progress, number)
        for number, (host, interface, group, port) in enumerate(
            [(fork.sink, "k0", "239.2.2.1", 6000), (fork.sink2, "k1", "239.3.3.1", 7000)]
        )
    ]
    sender = start(
        *(fork.source, exact, "send", "s0", "239.1.1.1", 5000, FLOWS, count, progress),
        len(receivers),
    )
    ends = [process.communicate(timeout=600) for process in (*receivers, sender)]
    failed = any(process.returncode for process in (*receivers, sender))
    assert not failed, "".join(said.decode() for _, said in ends)
    stats = daemon.stats()
    assert stats["interfaces"]["r0"]["gro"] == (True if interface else None)
    assert sum(entry["received"]["packets"] for entry in stats["rules"].values()) == count
    for number in range(len(receivers)):
        outputs = [entry["outputs"][number] for entry in stats["rules"].values()]
        assert sum(output["sent"]["packets"] for output in outputs) == count
        assert not any(output["errors"] for output in outputs)
