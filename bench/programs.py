"""The C programs of the benchmark, compiled."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
SOURCES = {
    "generate": ("generate.c",),
    "sink": ("sink.c",),
    "bursts": ("bursts.c", "bpf.c"),
    "receive": ("receive.c",),
    "forward": ("forward.c", "bpf.c"),
    "reference": ("reference.c", "relay.c"),
    "multishot": ("multishot.c", "relay.c"),
}
LIBRARIES = {"reference": ("-luring",), "multishot": ("-luring",)}


def build(directory: Path) -> dict[str, str]:
    """Compiles them all into a directory; returns the path of each by its name."""
    built = {}
    for name, sources in SOURCES.items():
        program = directory / name
        command = ["gcc", *FLAGS, "-o", str(program)]
        command += [str(PEERS / source) for source in sources]
        command += LIBRARIES.get(name, ())
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"cannot compile {name}:\n{done.stderr}")
        built[name] = str(program)
    return built
