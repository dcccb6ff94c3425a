"""A worker with somebody in it. Runs instead of mcrd.dataplane.worker; never installed.

Each Ping makes the next attempt: it is Done when the attempt got through, and Refused with the
name of the errno when not. Arguments: a JSON object with `off`, the names of the layers to leave
out, `attempts`, and `helper`, the path of inside.c as a shared library.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence

from mcrd.dataplane._dataplane import ffi

from mcrd.dataplane import messages, sandbox, worker
from mcrd.dataplane.structs import RefusedError
from tests.sandbox.attempts import ALL, OF_THE_SUPERVISOR, Inside

KNOWN = {**ALL, **OF_THE_SUPERVISOR}
NO_PACKET_SOCKET = "no packet socket"


def run(argument: str) -> None:
    """Runs the worker to its end, and does not return."""
    spec = json.loads(argument)
    off = frozenset(spec["off"])
    attempts = iter(spec["attempts"])
    parent = os.getppid()
    helper = ctypes.CDLL(spec["helper"])
    parts = vars(worker)
    obey = parts["_obey"]

    class Without(sandbox.Sandbox):
        def layer(self, name: str, make: Callable[[], None]) -> bool:
            return False if name in off else super().layer(name, make)

    def obey_or_attempt(
        within: object, request: messages.AnyRequest, descriptors: list[int]
    ) -> None:
        if not isinstance(request, messages.Ping):
            obey(within, request, descriptors)
            return
        attempt = KNOWN[next(attempts)]
        try:
            attempt(Inside(int(ffi.cast("uintptr_t", within)), parent, helper))
        except OSError as error:
            number = error.errno or 0
            raise RefusedError(errno.errorcode.get(number, str(number))) from None

    def keep(_: Sequence[int]) -> None:
        pass

    parts.update(Sandbox=Without, _obey=obey_or_attempt)
    if NO_PACKET_SOCKET in off:
        parts["_close_packet_sockets"] = keep
    os._exit(worker.main())


if __name__ == "__main__":
    run(sys.argv[1])
