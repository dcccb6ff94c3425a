"""The chart of the benchmark."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from bench.chart import COLOURS
from bench.lineup import LABELS


def test_each_peer_has_a_colour_of_its_own() -> None:
    assert len(set(COLOURS)) == len(COLOURS) >= len(LABELS)
