"""What work takes of a CPU, and what is said where the kernel says nothing of it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time

import pytest

from mcrd.spent import Spent

PASSES = 0.05  # seconds


def test_waiting_costs_nothing() -> None:
    spent = Spent()
    time.sleep(PASSES)
    assert 0 <= spent.seconds() < PASSES
    until = time.thread_time() + PASSES
    while time.thread_time() < until:
        pass
    assert spent.seconds() >= PASSES


@pytest.mark.parametrize("refused", [1, 2])
def test_where_the_kernel_refuses_it_is_the_time_that_has_passed(
    refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two calls it refuses: the clocks are not mixed."""
    calls: list[int] = []
    tells = time.thread_time

    def thread_time() -> float:
        calls.append(1)
        if len(calls) == refused:
            raise PermissionError
        return tells()

    monkeypatch.setattr(time, "thread_time", thread_time)
    began = time.monotonic()
    spent = Spent()
    time.sleep(PASSES)
    assert PASSES <= spent.seconds() <= time.monotonic() - began
