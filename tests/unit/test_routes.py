"""Which neighbours are silent, and answers of the kernel that are not whole."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from mcrd.routes import PATIENCE, Hop, Neighbours
from mcrd.sockets import routes

HOP: Hop = (7, ip_address("10.0.0.9"))
REACHABLE, STALE = 0x02, 0x04
NOBODY: dict[int, str] = {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds; what is asked for goes nowhere, since there is no such interface."""
    now = [0.0]
    monkeypatch.setattr("mcrd.routes.time.monotonic", lambda: now[0])
    return now


def test_a_neighbour_has_some_time_to_answer(clock: list[float]) -> None:
    known = Neighbours()
    assert known.take({HOP: None}, NOBODY)  # to be looked at again
    clock[0] = PATIENCE / 2
    assert known.take({HOP: routes.NUD_INCOMPLETE}, NOBODY)
    assert not known.is_silent(HOP)
    clock[0] = PATIENCE
    assert not known.take({HOP: routes.NUD_INCOMPLETE}, NOBODY)
    assert known.is_silent(HOP)
    # It is asked for again, which makes it INCOMPLETE, and at last forgotten.
    for state in (routes.NUD_FAILED, routes.NUD_INCOMPLETE, None):
        known.take({HOP: state}, NOBODY)
        assert known.is_silent(HOP)
    known.take({HOP: REACHABLE}, NOBODY)
    assert not known.is_silent(HOP)


def test_a_neighbour_that_fails_is_silent_at_once(clock: list[float]) -> None:
    known = Neighbours()
    assert not known.take({HOP: STALE}, NOBODY)
    known.take({HOP: routes.NUD_FAILED}, NOBODY)
    assert known.is_silent(HOP)
    known.keep(set())
    assert not known.silent
    assert clock == [0.0]


def test_one_that_the_kernel_forgot_is_not_asked_for_again(clock: list[float]) -> None:
    known = Neighbours()
    known.take({HOP: STALE}, NOBODY)
    assert not known.take({HOP: None}, NOBODY)
    assert not known.pending
    assert clock == [0.0]


@pytest.mark.parametrize("length", range(0, 120, 4))
def test_answers_that_are_cut_short(length: int) -> None:
    """The kernel sends none such, but nobody is to fall over one."""
    hop = struct.pack("=HHi", 8, 4, 7) + struct.pack("=HH4s", 8, 5, bytes([10, 0, 0, 9]))
    hops = b"".join(struct.pack("=HBBi", 8 + len(hop[8:]), 0, 0, 7) + hop[8:] for _ in range(2))
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 3, 0, 1, 0)
    body += struct.pack("=HH", 4 + len(hops), 9) + hops
    whole = routes.read_route(routes.Question(ip_address("10.1.0.5")), 24, body)
    assert (whole.error, whole.over, str(whole.hop)) == (0, 7, "10.0.0.9")
    if length >= 12:
        routes.read_route(routes.Question(ip_address("10.1.0.5")), 24, body[:length])
