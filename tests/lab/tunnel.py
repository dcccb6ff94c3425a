"""TUN interfaces, as VPNs have: packets without a link header."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import fcntl
import os
import select
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.network import Host

# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x1, 0x1000


@contextmanager
def tunnel(host: Host, name: str, *addresses: str) -> Iterator[int]:
    """A tunnel whose other end is a descriptor: yields that."""
    with host.inside():
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    try:
        for address in addresses:
            host.run("ip", "address", "add", address, "dev", name)
        host.run("ip", "link", "set", name, "up", "multicast", "on")
        yield end
    finally:
        os.close(end)


@contextmanager
def tunnel_between(
    left: Host, left_addresses: tuple[str, ...], right: Host, right_addresses: tuple[str, ...]
) -> Iterator[None]:
    """A tunnel from tun0 of one host to tun0 of the other."""
    stop, stopped = os.pipe()
    with (
        tunnel(left, "tun0", *left_addresses) as one,
        tunnel(right, "tun0", *right_addresses) as two,
    ):

        def pump() -> None:
            while stop not in (ready := select.select([one, two, stop], [], [])[0]):
                for end in ready:
                    with suppress(BlockingIOError):
                        os.write(two if end == one else one, os.read(end, 65536))

        thread = threading.Thread(target=pump)
        thread.start()
        try:
            yield
        finally:
            os.close(stopped)
            thread.join()
            os.close(stop)
