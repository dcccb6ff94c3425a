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
import time
from collections.abc import Sequence

import prctl

from mcrd.dataplane import messages
from mcrd.dataplane._dataplane import ffi, lib
from mcrd.dataplane.sandbox import Sandbox
from mcrd.dataplane.structs import (
    RefusedError,
    endpoint_of,
    match_of,
    member_of,
    outputs_of,
    place_of,
    said_by,
)

CHANNEL, STDERR = 0, 2
NAME = "mcrd-worker"  # for people who look at processes; a spare one has none yet
LINE = 900  # bytes
NOT_ALLOWED = frozenset((-errno.EPERM, -errno.EACCES, -errno.ENOSYS))
PASSING = frozenset((errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN))
TRIES, PAUSE = 20, 0.05  # of what may pass, and seconds between two


def _check(result: int, what: str) -> None:
    if result < 0:
        raise RefusedError(
            f"{what}: {errno.errorcode.get(-result, -result)} ({os.strerror(-result)})"
        )


def _wanted(worker: object) -> list[messages.MemberKey]:
    key = ffi.new("struct member_key *")
    members = []
    while lib.worker_next_wanted(worker, key):
        source = said_by(key.source) if key.source.family else None
        members.append(messages.MemberKey(key.slot, said_by(key.destination), source))
    return members


def _unknown(worker: object) -> list[int]:
    return list(iter(lambda: int(lib.worker_next_unknown(worker)), -1))


def _no_uring(number: int) -> tuple[str, str]:
    """Why there is no io_uring, and what to do about it."""
    name = errno.errorcode[number]
    if number == errno.ENOMEM:  # of the user: the kernel counts the rings of all its workers
        remedy = (
            "raise the limit on locked memory (LimitMEMLOCK=), of which each worker takes 90 KiB"
        )
        return f"there is no memory for an io_uring ({name})", remedy
    remedy = "look at the sysctl kernel.io_uring_disabled, and at the seccomp filter of a container"
    return f"io_uring is not allowed here ({name})", remedy


def _open_engine(worker: object, engine: str, sandbox: Sandbox) -> tuple[messages.Engine, str]:
    """Open it and return its name, and why it is not io_uring where that was to be had."""
    result, refused = 0, ""
    if engine != "poll":
        result = lib.worker_open_engine(worker, False)
        if result in NOT_ALLOWED or result == -errno.ENOMEM:
            refused, remedy = _no_uring(-result)
            if engine == "io_uring":
                raise RefusedError(f'{refused}: {remedy}; or let the rule file say engine = "auto"')
    if engine == "poll" or refused:
        _check(lib.worker_open_engine(worker, True), "epoll")
        return "poll", refused
    _check(result, "io_uring")

    def one_thread() -> None:
        if result > 0:
            raise OSError(errno.EINVAL, "this kernel's io_uring has no such thing (Linux 6.1 has)")

    def restrict() -> None:
        failed = lib.worker_restrict_uring(worker)
        if failed < 0:
            raise OSError(-failed, os.strerror(-failed))

    sandbox.layer("io_uring of one thread", one_thread)
    sandbox.layer("io_uring restrictions", restrict)
    _check(lib.worker_enable_uring(worker), "io_uring")
    return "io_uring", ""


def _start(
    request: messages.Initialize, descriptors: Sequence[int], sandbox: Sandbox
) -> tuple[object, messages.Ready]:
    """Do everything from Initialize to Ready; none of the descriptors stays open without need."""
    count, pair = len(request.rings), int(lib.MCRD_RINGS)
    if not 1 <= count <= lib.MCRD_INTERFACES:
        raise RefusedError(f"a worker reads 1 to {lib.MCRD_INTERFACES} interfaces, not {count}")
    if len(descriptors) != 3 + pair * count:
        wanted = 3 + pair * count
        raise RefusedError(f"Initialize takes {wanted} descriptors here, got {len(descriptors)}")
    readiness, segment, guard, *packet_sockets = descriptors
    settings = ffi.new("struct worker_settings *")
    settings.channel = CHANNEL
    settings.readiness = readiness
    settings.sockets = request.sockets
    settings.interface_count = count
    settings.busy_poll = request.busy_poll
    for here, rings in zip(settings.interfaces, request.rings, strict=False):
        here.number, here.link, here.counters = rings.interface, rings.link, rings.place
        for which, sizes in enumerate((rings.small, rings.large)):
            here.rings[which] = (sizes.block_size, sizes.block_count, sizes.frame_size)
    if request.cpu is not None:
        try:
            os.sched_setaffinity(0, {request.cpu})
        except OSError as error:
            raise RefusedError(f"cannot run on CPU {request.cpu}: {error.strerror}") from None
    worker = lib.worker_new(settings)
    if worker == ffi.NULL:
        raise RefusedError(f"cannot begin: {os.strerror(ffi.errno)}")
    _check(lib.worker_map_segment(worker, segment), "mapping the counters")
    _check(lib.worker_map_guard(worker, guard), "mapping what was relayed")
    for at, sock in enumerate(packet_sockets):
        _check(lib.worker_map_ring(worker, *divmod(at, pair), sock), "mapping the packet ring")
    _close_packet_sockets(packet_sockets)
    os.close(segment)
    os.close(guard)
    # io_uring wants a descriptor limit as large as its file table.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    become = (request.supervisor, request.uid, request.gid)
    sandbox.give_up(*become, strict=request.strict, given=request.given)
    engine, why = _open_engine(worker, request.engine, sandbox)
    _check(lib.worker_make_places(worker), "the table of sockets")
    if engine == "io_uring":
        os.close(readiness)  # the ring's file table holds it
        if sandbox.mounts >= 0:
            # The kernel ends a namespace of mounts when all CPUs have been elsewhere. On a busy
            # machine that takes 100 ms, in which a worker that crashes would not have ended.
            lib.worker_keep(worker, sandbox.mounts)
    if sandbox.mounts >= 0:
        os.close(sandbox.mounts)
    sandbox.filter(engine)
    return worker, messages.Ready(request.sequence, sandbox.held, sandbox.missing, engine, why)


def _close_packet_sockets(sockets: Sequence[int]) -> None:
    """Close them, so that a worker cannot rebind, reconfigure or inject; the mapping stays."""
    for sock in sockets:
        os.close(sock)


def _obey(worker: object, request: messages.AnyRequest, descriptors: list[int]) -> None:
    """Carry out a request; what it keeps of the descriptors is no longer in the list."""
    match request:
        case messages.Begin(since=since, until=until, passes_over=passes_over):
            lib.worker_begin(worker, since, until, passes_over)
        case messages.Pause():
            lib.worker_pause(worker)
        case messages.Ping() | messages.SetLevel():
            pass
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
            match, networks = match_of(request.match)
            outputs, runs = outputs_of(request.outputs, len(request.match.first.address))
            kept = request.kept if isinstance(request, messages.ReplaceRule) else []
            before = ffi.new("uint32_t[]", [place_of(which) for which in kept])
            result = lib.worker_put_rule(
                worker,
                request.slot,
                match,
                networks,
                outputs,
                len(outputs),
                runs,
                before,
                len(kept),
            )
            if result == -errno.ENOSPC:
                most = f"a worker holds back {lib.MCRD_ORDERED_STREAMS} streams at most"
                raise RefusedError(f"{most}: no delay, or other interfaces")
            _check(result, "rule")
        case messages.AddMember(member=member, last_used=last_used, places=places):
            sockets = ffi.new("uint32_t[]", [place_of(place) for place in places])
            key = member_of(member)
            _check(lib.worker_put_member(worker, key, last_used, sockets, len(places)), "member")
        case messages.RemoveMember(member=member):
            _check(lib.worker_remove_member(worker, member_of(member)), "member")
        case messages.Listen(place=place, to=to, counters=counters, last_used=last_used):
            _check_places(worker, (place, to))
            within = request.within * 1_000_000
            rest = (counters, last_used, within, request.keeps)
            _check(lib.worker_listen(worker, place, to, *rest), "answers")
        case messages.Answerer(place=place, who=who, to=to):
            nobody = ffi.new("struct endpoint *")
            them = endpoint_of(who) if who is not None else nobody
            _check(lib.worker_tell_answerer(worker, place, them, place_of(to)), "answers")
        case messages.RemoveRule(slot=slot):
            _check(lib.worker_remove_rule(worker, slot), f"rule {slot}")
        case messages.AddOwn(sources=sources) | messages.RemoveOwn(sources=sources):
            add = isinstance(request, messages.AddOwn)
            for endpoint in [endpoint_of(source) for source in sources]:
                _check(lib.worker_own(worker, endpoint, add), "own source")
        case messages.Initialize():
            raise RefusedError("already initialized")


def _check_places(worker: object, places: Sequence[int]) -> None:
    """Check all places before any is changed, so that a refusal changes nothing."""
    for place in places:
        if not 0 <= place < lib.worker_places(worker):
            raise RefusedError(f"place {place} is not in the table")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads, or not fast enough
        os.write(STDERR, text.encode("ascii", "replace")[:LINE] + b"\n")


def _refuse(sequence: int, why: Exception | str) -> None:
    _answer(messages.Refused(sequence, messages.printable(str(why) or repr(why))[:1000]))


def _answer(answer: messages.Answer) -> None:
    # The supervisor has gone, or read no more of it: worker_run() will tell.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        os.write(CHANNEL, messages.encode(answer))


def _serve(worker: object) -> None:
    """Relay until the supervisor closes the channel."""
    received = ffi.new("int[]", messages.DESCRIPTORS)
    debug = False
    while (length := lib.worker_run(worker)) > 0:
        if length == lib.MCRD_WANTS:
            if members := _wanted(worker):
                _answer(messages.Wanted(members))
            if places := _unknown(worker):
                _answer(messages.Unknown(places))
            continue
        count = lib.worker_take_descriptors(worker, received, messages.DESCRIPTORS)
        descriptors = list(received[0:count])
        request = messages.decode_request(bytes(ffi.buffer(lib.worker_message(worker), length)))
        if isinstance(request, messages.SetLevel):
            debug = request.level == "debug"
        elif debug and not isinstance(request, messages.Ping):
            _say(f"{messages.DEBUG}{request}")
        try:
            _obey(worker, request, descriptors)
        except (RefusedError, OverflowError) as refusal:  # a number that C has no room for
            _refuse(request.sequence, refusal)
        else:
            _answer(messages.Done(request.sequence))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    if length < 0 and length != -errno.ECONNRESET:
        raise OSError(-length, os.strerror(-length))


def _named(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "no number")
    return f"{error.strerror or error} ({name})"


def _first() -> tuple[bytes, list[int]]:
    """The first message and its descriptors; what may pass is tried again."""
    # All of it is said, or the kernel would be asked what the descriptor is.
    kind = (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0)
    with socket.socket(*kind, fileno=os.dup(CHANNEL)) as channel:
        for left in reversed(range(TRIES)):
            try:
                found = socket.recv_fds(channel, messages.LARGEST, messages.DESCRIPTORS)
            except OSError as error:
                if not left or error.errno not in PASSING:
                    raise
                time.sleep(PAUSE)
            else:
                return found[0], found[1]
    raise AssertionError("not reached")


def main() -> int:
    """Run a worker to its end; return the exit status, for os._exit().

    An interpreter that cleans up asks for more than the sandbox allows.
    """
    sandbox = Sandbox()
    sandbox.prepare()
    try:
        data, descriptors = _first()
    except OSError as error:
        _say(f"it cannot hear the supervisor: {_named(error)}")
        return 1
    if not data:
        return 0  # the supervisor has gone
    request = messages.decode_request(data)
    if not isinstance(request, messages.Initialize):
        _refuse(request.sequence, "the first message has to be Initialize")
        return 1
    prctl.set_name(NAME)
    try:
        worker, ready = _start(request, descriptors, sandbox)
    except Exception as error:  # noqa: BLE001  whatever it is, the supervisor has to know
        _refuse(request.sequence, _named(error) if isinstance(error, OSError) else error)
        return 1
    try:
        _answer(ready)
        _serve(worker)
    except OSError as error:
        _say(f"it has to end: {_named(error)}")
        return 1
    except Exception:  # noqa: BLE001  said here, for nothing outside this function runs any more
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    os._exit(main())
