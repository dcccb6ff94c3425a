"""The C sources on their own: unit tests and a fuzz driver in C, with and without sanitizers."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent / "c"
SOURCES = Path(__file__).parents[2] / "mcrd" / "dataplane" / "src"

STRICT = ("-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror")
BUILDS = {
    "sanitizers": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "O2": ("-O2",),
}

OPTIONS = {**BUILDS, "released": ("-O2", "-flto=auto"), "no vectors": ("-O2", "-U__SSE2__")}

ENGINES = ("uring.c", "polling.c", "pace.c")
EGRESS = ("egress.c", "gather.c", "counters.c", "meter.c", *ENGINES)
INSPECT = ("inspect.c", "moldudp.c", "mpegts.c", "rtp.c", "sequence.c")
MERGE = ("content.c", "guard.c", "merge.c", "moldudp.c", "rtp.c", "sequence.c")
WORKER = tuple(sorted(path.name for path in SOURCES.glob("*.c") if path.name != "sandbox.c"))
RULES = ("choice.c", "limit.c", "members.c", "rules.c", "table.c", "waiting.c", *INSPECT)

# What each test file is linked with.
SUBJECTS = {
    "answers": ("answers.c", "limit.c", *EGRESS),
    "backlog": WORKER,
    "breaker": ("breaker.c",),
    "choice": ("choice.c",),
    "content": ("content.c",),
    "counters": ("counters.c", "meter.c"),
    "dedupe": ("dedupe.c", "content.c", "guard.c"),
    "egress": EGRESS,
    "flows": ("flows.c", *RULES),
    "guard": ("content.c", "guard.c"),
    "inspect": INSPECT,
    "order": ("order.c", "waiting.c"),
    "pace": ("pace.c",),
    "limit": ("limit.c",),
    "loop": WORKER,
    "memory": ("choice.c", "content.c", "guard.c", "waiting.c", *INSPECT),  # and what it includes
    "meter": ("meter.c",),
    "packet": ("packet.c",),
    "receive": ("../../traffic/src/send.c",),  # and the receiver, which the test includes
    "ring": ("ring.c",),
    "sequence": ("sequence.c",),
    "members": RULES,
    "relay": WORKER,
    "rules": RULES,
    "switch": ("switch.c", *MERGE),
    "table": ("table.c",),
    "waiting": ("waiting.c",),
}


def compile_c(directory: Path, program: str, sources: tuple[str, ...], build: str) -> Path:
    """Builds tests/dataplane/c/PROGRAM.c with the sources; returns the executable."""
    made = directory / program
    command = [
        *("gcc", *STRICT, *OPTIONS[build], f"-I{SOURCES}", f"-I{TESTS}"),
        *(str(TESTS / f"{program}.c"), *(str(SOURCES / name) for name in sources)),
        *("-o", str(made), "-luring"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_unit(subject: str, build: str, tmp_path: Path) -> None:
    run(compile_c(tmp_path, f"test_{subject}", SUBJECTS[subject], build))


def test_contents_have_the_same_hash_without_vectors(tmp_path: Path) -> None:
    run(compile_c(tmp_path, "test_content", SUBJECTS["content"], "no vectors"))


def test_every_c_file_is_run() -> None:
    # Five are run by test_dissected.py, test_inspect.py, test_merge.py, test_order.py and
    # test_switch.py.
    others = {
        "cost.c",
        "fuzz_packet.c",
        "fuzz_readers.c",
        "replay.c",
        "remerge.c",
        "reorder.c",
        "reparse.c",
        "reswitch.c",
    }
    named = {f"test_{subject}.c" for subject in SUBJECTS} | others
    assert {path.name for path in TESTS.glob("*.c")} == named


@pytest.mark.alone
@pytest.mark.long
def test_what_inspect_and_merge_cost(tmp_path: Path) -> None:
    """They print ns, which are a tenth of this where nothing else runs."""
    made = compile_c(tmp_path, "cost", tuple({*INSPECT, *MERGE}), "released")
    done = subprocess.run([made], capture_output=True, text=True, check=True)
    for what, cost in (line.split() for line in done.stdout.splitlines()):
        print(what, cost)
        assert float(cost) < (200 if what.startswith("inspect") else 1500)


def test_packet_survives_a_million_mutations(tmp_path: Path) -> None:
    run(compile_c(tmp_path, "fuzz_packet", ("packet.c",), "sanitizers"), "1000000")


@pytest.mark.long
@pytest.mark.parametrize("seed", ["3", "5", "7"])
def test_packet_survives_many_mutations(tmp_path: Path, seed: str) -> None:
    run(compile_c(tmp_path, "fuzz_packet", ("packet.c",), "sanitizers"), "20000000", seed)


READERS = tuple({"flows.c", "packet.c", *RULES, *MERGE})


def fuzz_readers(directory: Path, *arguments: str) -> None:
    made = compile_c(directory, "fuzz_readers", READERS, "sanitizers")
    run(made, TESTS.parent / "corpus.txt", *arguments)


def test_frames_of_real_senders_and_what_becomes_of_them(tmp_path: Path) -> None:
    """Each is taken for what it is; then what is made of them, by all that reads a frame."""
    fuzz_readers(tmp_path, "100000")


@pytest.mark.long
@pytest.mark.parametrize("piece", range(int(os.environ.get("MCRD_FUZZ", "1"))))
def test_readers_survive_many_mutations(tmp_path: Path, piece: int) -> None:
    """Others in each run; the seed is printed."""
    seed = str(random.randrange(1, 1 << 32))
    print("piece", piece, "seed", seed)
    fuzz_readers(tmp_path, "5000000", seed)
