"""packet.c beside an independent dissector: what scapy makes, and what is made of that."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ctypes
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.dataplane import dissected
from tests.dataplane.corpus import FILE
from tests.dataplane.dissected import Found, Judged
from tests.dataplane.libraries import build_library

if TYPE_CHECKING:
    from collections.abc import Callable
VERDICTS = ("datagram", "foreign", "malformed", "bad_checksum", "fragment", "truncated")


@pytest.fixture(scope="module")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], Judged]:
    """packet_parse() of a whole Ethernet frame."""
    made = build_library(tmp_path_factory.mktemp("reparse"), "reparse", ("packet.c",), "-O2")
    library = ctypes.CDLL(str(made))
    fields = (ctypes.c_uint32 * 7)()

    def parsed(frame: bytes) -> Judged:
        verdict = VERDICTS[library.reparse(frame, len(frame), 0, fields)]
        return verdict, Found(*fields) if verdict == "datagram" else None

    return parsed


def compare(parse: Callable[[bytes], Judged], count: int, seed: int) -> Counter[str]:
    dice, seen = random.Random(seed), Counter[str]()
    real = [bytes.fromhex(line.split()[2]) for line in FILE.read_text().splitlines()]
    for _ in range(count):
        frame = dissected.made(dice) if dice.random() < 0.5 else dice.choice(real)
        frame = dissected.mutated(frame, dice)
        expected = dissected.judged(frame)
        assert parse(frame) == expected, f"seed {seed}: {frame.hex()}"
        seen[expected[0]] += 1
    return seen


def test_frames_of_real_senders(parse: Callable[[bytes], Judged]) -> None:
    for line in FILE.read_text().splitlines():
        name, verdict, digits = line.split()
        frame = bytes.fromhex(digits)
        assert parse(frame) == dissected.judged(frame), name
        assert parse(frame)[0] == verdict, name


def test_some_thousand_frames_and_their_mutations(parse: Callable[[bytes], Judged]) -> None:
    seen = compare(parse, 3000, random.randrange(1 << 32))
    assert all(seen[verdict] > 50 for verdict in VERDICTS[:-1]), seen


@pytest.mark.long
def test_many_frames_and_their_mutations(parse: Callable[[bytes], Judged]) -> None:
    compare(parse, 50_000, random.randrange(1 << 32))
