"""Test traffic that can be checked: what sending and receiving have in common."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

MAX_FLOWS = 4096
SLICE_NS = 100_000_000  # how long C may keep Python from seeing a signal


class TrafficError(Exception):
    """Traffic cannot be sent or received; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where traffic goes: `flows` consecutive addresses from `address` on, one port."""

    interface: str
    address: Address
    port: int
    flows: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for a range that runs out of addresses or of one kind of address."""
        if not 1 <= self.flows <= MAX_FLOWS:
            raise ValueError(f"flows: expected 1 to {MAX_FLOWS}, got {self.flows}")
        try:
            last = self.address + (self.flows - 1)
        except ValueError:
            last = None
        if last is None or last.is_multicast != self.address.is_multicast:
            kind = "groups" if self.address.is_multicast else "hosts"
            raise ValueError(f"fewer than {self.flows} {kind} from {self.address} on")

    @property
    def addresses(self) -> list[Address]:
        return [self.address + flow for flow in range(self.flows)]

    @property
    def is_group(self) -> bool:
        return self.address.is_multicast

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.address.version == 4 else socket.AF_INET6

    @property
    def max_size(self) -> int:
        """The longest payload of one datagram: 65535 bytes less the headers (RFC 791, RFC 8200)."""
        return 65535 - 20 - 8 if self.address.version == 4 else 65535 - 8

    def interface_index(self) -> int:
        try:
            return socket.if_nametoindex(self.interface)
        except OSError:
            from mcrd.host.devices import links  # noqa: PLC0415  slow, and seldom needed

            with suppress(OSError, KeyError):  # if_nametoindex(3) takes 15 bytes of an altname
                return links()[self.interface].index
            raise TrafficError(f"interface {self.interface}: no such interface") from None

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{self.interface} {host}:{self.port}"


@contextmanager
def open_socket(target: Target) -> Iterator[socket.socket]:
    """A UDP socket of the target's family, bound to its interface where that is allowed."""
    name = socket.if_indextoname(target.interface_index())
    with socket.socket(target.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        # Linux before 5.7 without CAP_NET_RAW: routes and memberships decide then.
        with suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode() + b"\0")
        yield sock


def allow_descriptors(sockets: int) -> None:
    """Raise the soft limit of open files, so that these fit in beside what Python needs."""
    needed = sockets + 64
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise TrafficError(f"{sockets} flows need {needed} open files, {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Meanwhile, SIGINT and SIGTERM do no more than make what it gives true."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
