"""Ports of unicast inputs that are held: what it costs to hold thousands."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import builtins
import socket
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

import pytest

from mcrd.planning.resources import Hold
from mcrd.sockets.membership import Receivers, open_hold

HOST = ip_address("127.0.0.1")


def udp(stack: ExitStack, family: int, address: str) -> int:
    """A program that receives there; returns its port."""
    sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((address, 0))
    port: int = sock.getsockname()[1]
    return port


def test_a_port_that_a_program_has_at_any_address_is_its_own() -> None:
    with ExitStack() as stack:
        alone, shared = udp(stack, socket.AF_INET, "0.0.0.0"), udp(stack, socket.AF_INET6, "::")
        other = udp(stack, socket.AF_INET, "127.0.0.2")
        found = Receivers()
        assert [found.have(HOST, port) for port in (alone, shared, other)] == [True, True, False]
        v6 = ip_address("::1")
        assert [found.have(v6, port) for port in (alone, shared)] == [False, True]
        held = open_hold(Hold("lo", 1, HOST, shared), found)
        assert held is None
    assert found.have(HOST, alone)  # as it was
    found.look_anew()
    assert not found.have(HOST, alone)


def test_the_sockets_of_the_host_are_listed_once_for_a_thousand_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    real = builtins.open

    def counted(name: Any, *rest: Any, **options: Any) -> Any:
        opened.append(str(name))
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "open", counted)
    found = Receivers()
    with ExitStack() as stack:
        for port in range(20000, 21000):
            sock = open_hold(Hold("lo", 1, HOST, port), found)
            if sock is not None:
                stack.enter_context(sock)
    assert [name for name in opened if "/net/udp" in name] == [
        "/proc/thread-self/net/udp",
        "/proc/thread-self/net/udp6",
    ]
