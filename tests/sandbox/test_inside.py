"""Somebody runs code in a worker: nothing that is tried there gets through, and nothing leaves."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.sandbox import harness
from tests.sandbox.attempts import ALL, ATTEMPTS, OF_THE_LOOP, WITHOUT_RING
from tests.sandbox.harness import NEEDED, SWITCHES, Outcome, Seen, try_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab import Triangle

pytestmark = pytest.mark.root

EVERYTHING = tuple(layer for layers in SWITCHES.values() for layer in layers) + NEEDED
OPERATIONS_OF_61 = range(49)  # those that Linux 6.1 has
NEVER = frozenset({"remove its filter"})
"""What even a worker without a sandbox cannot do: SO_LOCK_FILTER, socket(7)."""


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[Triangle, Path]]:
    """source -- relay -- sink, in silence."""
    with harness.quiet_network() as made:
        yield made


@pytest.fixture(scope="module")
def as_root(network: tuple[Triangle, Path]) -> Seen:
    """All attempts, with a supervisor that is root."""
    return try_all(*network)


@pytest.fixture(scope="module")
def as_stranger(network: tuple[Triangle, Path]) -> Seen:
    """All attempts, with a supervisor that has CAP_NET_RAW alone."""
    harness.has_to_be_readable()
    return try_all(*network, uid=harness.stranger())


@pytest.fixture(scope="module")
def polling(network: tuple[Triangle, Path]) -> Seen:
    """All attempts, in a worker that waits with ppoll; with a supervisor that is root."""
    return try_all(*network, engine="poll")


@pytest.fixture(scope="module")
def without(network: tuple[Triangle, Path]) -> Seen:
    """All attempts as root, with every layer switched off: they do what they say."""
    return try_all(*network, EVERYTHING)


@pytest.mark.parametrize("attempt", ALL)
def test_refused_as_root(as_root: Seen, attempt: str) -> None:
    assert as_root.outcomes[attempt].refused, as_root.errors


@pytest.mark.parametrize("attempt", ALL)
def test_refused_unprivileged(as_stranger: Seen, attempt: str) -> None:
    assert as_stranger.outcomes[attempt].refused, as_stranger.errors


@pytest.mark.parametrize("attempt", WITHOUT_RING)
def test_refused_without_a_ring(polling: Seen, attempt: str) -> None:
    assert polling.outcomes[attempt].refused, polling.errors


@pytest.mark.parametrize("number", [n for n in OPERATIONS_OF_61 if n not in OF_THE_LOOP])
def test_io_uring_refuses_an_operation_for_what_it_is(
    as_root: Seen, as_stranger: Seen, number: int
) -> None:
    """Not for its arguments, as another error would say."""
    name = f"io_uring operation {number}"
    assert as_root.outcomes[name] == as_stranger.outcomes[name] == Outcome("refused", "EACCES")


def test_nothing_left_the_host(as_root: Seen, as_stranger: Seen, polling: Seen) -> None:
    assert polling.frames == []
    assert as_root.frames == []
    assert as_stranger.frames == []


def test_who_is_killed_says_by_which_system_call(
    as_root: Seen, as_stranger: Seen, polling: Seen
) -> None:
    for seen in (as_root, as_stranger, polling):
        said = [o.how for o in seen.outcomes.values() if o.outcome == "killed"]
        assert len(said) > 50
        line = r"worker of r0 \(pid \d+\): the sandbox forbids the system call [a-z]\w+ \(\d+\)"
        line += "; rule set: seccomp"
        assert [how for how in said if not re.fullmatch(line, how)] == []
        assert "the system call execve (" in seen.outcomes["exec"].how


@pytest.mark.parametrize("attempt", sorted(ATTEMPTS.keys() - NEVER))
def test_gets_through_without_the_sandbox(without: Seen, attempt: str) -> None:
    assert without.outcomes[attempt].outcome == "through", without.errors


def test_without_the_sandbox_frames_leave_and_io_uring_obeys(without: Seen) -> None:
    assert {interface for interface, _ in without.frames} == {"s0", "k0"}
    through = {name for name, o in without.outcomes.items() if o.outcome == "through"}
    assert sum(name.startswith("io_uring operation") for name in through) > 25
    assert sum(name.startswith("io_uring register") for name in through) > 5
