"""mcrgen: sends test traffic, and receives and checks it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from ipaddress import ip_address
from typing import TypeVar

from mcrd.cli.arguments import argument
from mcrd.traffic import Address, Target, TrafficError, stop_on_signal
from mcrd.traffic.receive import Ending, Received, receive
from mcrd.traffic.send import Pattern, Sent, send

SMALL_BUFFER = 4 * 1024 * 1024

T = TypeVar("T", int, float)


def main(argv: Sequence[str] | None = None) -> int:
    parser, send_parser, receive_parser = _parsers()
    arguments = parser.parse_args(argv)
    sending = arguments.command == "send"
    subparser = send_parser if sending else receive_parser
    try:
        target = Target(arguments.interface, arguments.address, arguments.port, arguments.flows)
    except ValueError as error:
        subparser.error(str(error))
    try:
        with stop_on_signal() as stopped:
            run = _send if sending else _receive
            return run(arguments, target, subparser, stopped)
    except TrafficError as error:
        print(f"mcrgen: {error}", file=sys.stderr)
        return 1


def _send(
    arguments: argparse.Namespace,
    target: Target,
    parser: argparse.ArgumentParser,
    stopped: Callable[[], bool],
) -> int:
    if arguments.size > target.max_size:
        parser.error(f"argument --size: expected 0 to {target.max_size}, got {arguments.size}")
    if arguments.burst > 1 and not 1 <= arguments.burst * arguments.size <= target.max_size:
        parser.error(f"argument --burst: a burst carries 1 to {target.max_size} bytes")
    pattern = Pattern(**{each.name: getattr(arguments, each.name) for each in fields(Pattern)})
    sent = send(target, pattern, stopped)
    print(json.dumps(asdict(sent)) if arguments.json else _sent_text(sent), flush=True)
    return 0


def _receive(
    arguments: argparse.Namespace,
    target: Target,
    parser: argparse.ArgumentParser,
    stopped: Callable[[], bool],
) -> int:
    source = arguments.source
    if source is not None and source.version != target.address.version:
        parser.error("argument --source: not of the family of --address")
    if source is not None and (source.is_multicast or source.is_unspecified):
        parser.error(f"argument --source: expected the address of a host, got {source}")

    def ready(buffer: int) -> None:
        if buffer < SMALL_BUFFER:
            _say(f"the receive buffer is only {buffer} bytes: fast traffic may be lost here")
        _say(f"receiving on {target}")

    ending = Ending(expect=arguments.expect, timeout=arguments.timeout)
    received = receive(target, source, ending, ready, stopped)
    print(json.dumps(asdict(received)) if arguments.json else _received_text(received), flush=True)
    if arguments.expect is not None and received.unique < arguments.expect:
        _say(f"expected {arguments.expect} packets, received {received.unique}")
        return 1
    return 0


def _say(line: str) -> None:
    print(f"mcrgen: {line}", file=sys.stderr, flush=True)


def _sent_text(sent: Sent) -> str:
    text = (
        f"sent {sent.sent} packets, {sent.bytes} bytes,"
        f" in {sent.seconds:.3f} s: {sent.rate:.1f} packets/s"
    )
    if sent.late:
        text += f"; late {sent.late} times, {sent.late_seconds * 1e6:.0f} us in all"
    return text


def _received_text(received: Received) -> str:
    names = ("unique", "lost", "duplicated", "reordered", "corrupt")
    told = {name: getattr(received, name) for name in names}
    rare = {
        "unsequenced": received.unsequenced,
        "dropped by this receiver's kernel": received.kernel_dropped,
    }
    told |= {name: count for name, count in rare.items() if count}
    text = ", ".join(f"{name} {count}" for name, count in told.items())
    latency = received.latency_us
    if latency.p50 is not None and latency.p99 is not None:
        text += f"; latency p50 {latency.p50:.1f} us, p99 {latency.p99:.1f} us"
    return text


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(prog="mcrgen", description="Sends and checks test traffic.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="send|receive")
    sender = commands.add_parser("send", help="send numbered packets at an even pace")
    receiver = commands.add_parser("receive", help="receive and check what `send` sends")
    for below, own in ((sender, SEND), (receiver, RECEIVE)):
        for add in TARGET:
            add(below)
        below.add_argument("--json", action="store_true", help="print the result as JSON")
        for add in own:
            add(below)
    return parser, sender, receiver


def _number(
    read: Callable[[str], T], fits: Callable[[T], bool], expected: str
) -> Callable[[str], T]:
    def convert(text: str) -> T:
        with contextlib.suppress(ValueError):
            if fits(value := read(text)):
                return value
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")

    return convert


def _integer(low: int, high: int) -> Callable[[str], int]:
    return _number(int, lambda value: low <= value <= high, f"{low} to {high}")


_rate = _number(float, lambda rate: rate == 0 or 0.001 <= rate <= 1e9, "0, or 0.001 to 1000000000")
_seconds = _number(float, lambda seconds: 0 < seconds <= 1e9, "a number of seconds")


def _address(text: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not an IP address: {text}") from None
    if address.version == 6 and address.scope_id is not None:
        raise argparse.ArgumentTypeError(f"--interface tells the scope; write {text} without it")
    if address.is_unspecified:
        raise argparse.ArgumentTypeError(f"not the address of a host or a group: {text}")
    return address


def _interface(text: str) -> str:
    if not text or len(text.encode()) > 127:  # ALTIFNAMSIZ less the final zero
        raise argparse.ArgumentTypeError(f"not an interface name: {text!r}")
    return text


# fmt: off
TARGET = (
    argument("--interface", "IF", "to send from, or to receive on", required=True, type=_interface),
    argument("--address", "A", "the group or host", required=True, type=_address),
    argument("--port", "P", "the UDP port", required=True, type=_integer(1, 65535)),
    argument("--flows", "N", "consecutive addresses from --address on (default: 1)",
             type=_integer(1, 4096), default=1),
)
SEND = (
    argument("--source-port", "N", "default: any free", type=_integer(1, 65535), default=0),
    argument("--rate", "PPS",
             "packets per second over all flows; 0: as fast as possible (default: 1000)",
             type=_rate, default=1000.0),
    argument("--size", "BYTES", "of the UDP payload (default: 1400)",
             type=_integer(0, 65527), default=1400),
    argument("--count", "N", "packets over all flows (default: until interrupted)",
             type=_integer(1, 2**63 - 1)),
    argument("--ttl", "N", "default: 1 to a group, 64 to a host", type=_integer(1, 255)),
    argument("--burst", "N",
             "packets to give to the kernel at once; faster, but not evenly spaced (default: 1)",
             type=_integer(1, 64), default=1),
)
RECEIVE = (
    argument("--source", "A", "count packets of this source only", type=_address),
    argument("--expect", "N", "end after N unique packets; fail when fewer arrive",
             type=_integer(1, 2**63 - 1)),
    argument("--timeout", "SECONDS",
             "end after this time (default: with --expect after 10 s without a packet, else never)",
             type=_seconds),
)
# fmt: on


if __name__ == "__main__":
    sys.exit(main())
