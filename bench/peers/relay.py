"""A relay as one writes it in an evening: UDP sockets, receive, send.

    relay.py INTERFACE PORT RULES

The rules are those of relay.h. At SIGTERM it tells in JSON what the kernel dropped before it.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import selectors
import signal
import socket
import struct
import sys
from pathlib import Path

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
SO_MEMINFO = 55
BUFFER = 32 * 1024 * 1024  # of all sockets together
TTL = 8


class Flow:
    """A socket that has joined a group, and where its datagrams go."""

    def __init__(self, index: int, group: str, port: int, buffer: int) -> None:
        self.input = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.input.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
        self.input.bind((group, port))
        join = struct.pack("4s4si", socket.inet_aton(group), bytes(4), index)
        self.input.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
        self.outputs: list[socket.socket] = []

    def add(self, interface: str, source: str, group: str, port: int) -> None:
        """One more output."""
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        index = socket.if_nametoindex(interface)
        where = struct.pack("4s4si", bytes(4), bytes(4), index)
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, where)
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, TTL)
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        out.bind((source, 0))
        out.connect((group, port))
        self.outputs.append(out)

    def relay(self) -> None:
        """One datagram."""
        payload = self.input.recv(65535)
        for out in self.outputs:
            out.send(payload)

    def dropped(self) -> int:
        """What the kernel dropped because the buffer was full."""
        numbers = struct.unpack("=9I", self.input.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
        return int(numbers[8])


def main() -> None:
    interface, port, rules = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    index = socket.if_nametoindex(interface)
    flows: dict[str, Flow] = {}
    routes = [line.split() for line in rules.read_text().splitlines()]
    buffer = BUFFER // len({route[0] for route in routes})
    for group, out, source, to in routes:
        if group not in flows:
            flows[group] = Flow(index, group, port, buffer)
        flows[group].add(out, source, to, port + 1000)

    def stop(_number: int, _frame: object) -> None:
        raise SystemExit

    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    try:
        if len(flows) == 1:
            (only,) = flows.values()
            while True:
                only.relay()
        with selectors.DefaultSelector() as selector:
            for flow in flows.values():
                selector.register(flow.input, selectors.EVENT_READ, flow.relay)
            while True:
                for key, _ in selector.select():
                    key.data()
    finally:
        dropped = sum(flow.dropped() for flow in flows.values())
        print(json.dumps({"dropped": dropped, "errors": 0}), flush=True)


if __name__ == "__main__":
    main()
