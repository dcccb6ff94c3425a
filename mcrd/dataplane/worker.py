"""The worker process: maps what it is handed, gives everything else up, and runs the loop in C.

Standard input is the SOCK_SEQPACKET channel to the supervisor; nothing comes by argument or
environment.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import sys
from collections.abc import Sequence

from mcrd.dataplane import messages, sandbox
from mcrd.dataplane._dataplane import ffi, lib

CHANNEL = 0


class RefusedError(Exception):
    """A request that cannot be carried out, and why."""


def _check(result: int, what: str) -> None:
    if result < 0:
        raise RefusedError(
            f"{what}: {errno.errorcode.get(-result, -result)} ({os.strerror(-result)})"
        )


def _endpoint(endpoint: messages.Endpoint) -> object:
    if len(endpoint.address) not in (4, 16) or not 0 <= endpoint.port <= 65535:
        raise RefusedError(f"not an endpoint: {endpoint}")
    made = ffi.new("struct endpoint *")
    made.address[0 : len(endpoint.address)] = endpoint.address
    made.port = endpoint.port
    made.family = 6 if len(endpoint.address) == 16 else 4
    return made


def _open_uring(worker: object) -> None:
    result = lib.worker_open_uring(worker)
    if result in (-errno.EPERM, -errno.ENOSYS):
        raise RefusedError(
            f"io_uring is not allowed here ({errno.errorcode[-result]}): look at the sysctl"
            " kernel.io_uring_disabled, and at the seccomp filter of a container"
        )
    _check(result, "io_uring")


def _start(request: messages.Initialize, descriptors: Sequence[int]) -> tuple[object, list[str]]:
    """Everything from Initialize to Ready; none of the descriptors stays open."""
    if len(descriptors) != 3:
        raise RefusedError(f"Initialize takes three descriptors, got {len(descriptors)}")
    packet_socket, readiness, segment = descriptors
    settings = ffi.new("struct worker_settings *")
    settings.channel = CHANNEL
    settings.readiness = readiness
    settings.link = request.link
    settings.sockets = request.sockets
    settings.ring.block_size = request.block_size
    settings.ring.block_count = request.block_count
    settings.ring.frame_size = request.frame_size
    worker = lib.worker_new(settings)
    if worker == ffi.NULL:
        raise RefusedError("out of memory")
    _check(lib.worker_map_segment(worker, segment), "mapping the counters")
    _check(lib.worker_map_ring(worker, packet_socket), "mapping the packet ring")
    # What it does not hold it cannot rebind, reconfigure or inject with; the mapping stays.
    os.close(packet_socket)
    os.close(segment)
    # io_uring wants a descriptor limit as large as its file table.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    layers = sandbox.enter(request.supervisor, request.uid, request.gid)
    _open_uring(worker)
    os.close(readiness)  # the ring's file table holds it
    return worker, layers


def _obey(worker: object, request: messages.AnyRequest, descriptors: list[int]) -> None:
    """Carries out a request; what it keeps of the descriptors is no longer in the list."""
    match request:
        case messages.Begin():
            lib.worker_begin(worker)
        case messages.AddSockets(places=places):
            if len(places) != len(descriptors):
                raise RefusedError(f"{len(places)} places for {len(descriptors)} sockets")
            _check_places(worker, places)
            for place in places:
                _check(lib.worker_set_socket(worker, place, descriptors[0]), f"socket {place}")
                del descriptors[0]  # the worker's own now
        case messages.RemoveSockets(places=places):
            _check_places(worker, places)
            for place in places:
                _check(lib.worker_set_socket(worker, place, -1), f"socket {place}")
        case messages.AddRule() | messages.ReplaceRule():
            outputs = ffi.new(
                "struct rule_output[]",
                [(output.place, output.counters) for output in request.outputs],
            )
            destination = _endpoint(request.destination)
            _check(
                lib.worker_put_rule(worker, request.slot, destination, outputs, len(outputs)),
                "rule",
            )
        case messages.RemoveRule(slot=slot):
            _check(lib.worker_remove_rule(worker, slot), f"rule {slot}")
        case messages.AddOwn(sources=sources) | messages.RemoveOwn(sources=sources):
            add = isinstance(request, messages.AddOwn)
            for endpoint in [_endpoint(source) for source in sources]:
                _check(lib.worker_own(worker, endpoint, add), "own source")
        case messages.Initialize():
            raise RefusedError("already initialized")


def _check_places(worker: object, places: Sequence[int]) -> None:
    """All of them, before any is changed: what is refused changes nothing."""
    for place in places:
        if not 0 <= place < lib.worker_places(worker):
            raise RefusedError(f"place {place} is not in the table")


def _answer(answer: messages.Answer) -> None:
    with contextlib.suppress(BrokenPipeError):  # the supervisor has gone: worker_run() will tell
        os.write(CHANNEL, messages.encode(answer))


def _serve(worker: object) -> None:
    """Relays until the supervisor closes the channel."""
    received = ffi.new("int[]", messages.DESCRIPTORS)
    while (length := lib.worker_run(worker)) > 0:
        count = lib.worker_take_descriptors(worker, received, messages.DESCRIPTORS)
        descriptors = list(received[0:count])
        request = messages.decode_request(bytes(ffi.buffer(lib.worker_message(worker), length)))
        try:
            _obey(worker, request, descriptors)
        except (RefusedError, OverflowError) as refusal:  # a number that C has no room for
            _answer(messages.Refused(request.sequence, str(refusal)))
        else:
            _answer(messages.Done(request.sequence))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    if length < 0 and length != -errno.ECONNRESET:
        raise OSError(-length, os.strerror(-length))


def main() -> int:
    """Runs a worker to its end; returns the exit status."""
    with socket.socket(fileno=os.dup(CHANNEL)) as channel:
        data, descriptors, _, _ = socket.recv_fds(channel, messages.LARGEST, messages.DESCRIPTORS)
    if not data:
        return 0  # the supervisor has gone
    request = messages.decode_request(data)
    if not isinstance(request, messages.Initialize):
        _answer(messages.Refused(request.sequence, "the first message has to be Initialize"))
        return 1
    try:
        worker, layers = _start(request, descriptors)
    except Exception as error:  # noqa: BLE001  whatever it is, the supervisor has to know
        _answer(messages.Refused(request.sequence, str(error) or repr(error)))
        return 1
    _answer(messages.Ready(request.sequence, layers))
    _serve(worker)
    return 0


if __name__ == "__main__":
    sys.exit(main())
