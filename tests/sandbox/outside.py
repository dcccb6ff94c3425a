"""The supervisor of workers with somebody in them: starts one for each attempt.

Runs in the relay's network namespace, as root or as somebody with CAP_NET_RAW alone. Its argument
is a JSON object: `helper`, `off`, `engine`, and `attempts`, a list of lists: each inner list is for
one worker. Prints a JSON object for each attempt: `attempt`, `outcome` ("through", "refused",
"killed"), and `how`.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcrd.dataplane import messages
from mcrd.lanes import spawn
from mcrd.lanes.channel import WorkerError
from mcrd.lanes.segment import Segment
from mcrd.planning.resources import Ingress, Worker
from mcrd.sockets.ingress import open_ingress
from tests.dataplane.bench import Bench, until

REPOSITORY = Path(__file__).parents[2]
AT_ONCE = 2
RING = 1 << 20  # bytes

PROGRAM = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from tests.sandbox import inside; "


async def attempt(spec: dict[str, Any], names: Sequence[str], log: Path) -> None:
    """One worker, and all attempts in it as long as it lives."""
    ingress = Ingress("r0", socket.if_nametoindex("r0"), 1, RING)
    (ring,) = open_ingress(ingress, 1500)
    segment = Segment()
    inner = json.dumps({**spec, "attempts": names})
    spawn.PROGRAM = ("-c", PROGRAM + "inside.run(sys.argv[1])", inner)
    bench = Bench("r0", Worker(ingress, engine=spec["engine"]), ring, segment)
    pid = bench.process.pid
    try:
        await bench.start()
        await bench.relay("239.1.1.1", 5000, ("r1", "10.2.0.2", 6000))
        for name in names:
            try:
                await bench.ask(messages.Ping)
                outcome, how = "through", ""
            except WorkerError as error:
                outcome, how = "refused", str(error)
            if how == "the worker has ended":
                await until(lambda: bench.ended, "the end of the worker")
                outcome, how = ended(bench.ended[0], pid, log)
            print(json.dumps({"attempt": name, "outcome": outcome, "how": how}), flush=True)
            if bench.ended:
                break  # what else it was to try is missed by whoever waits for it
    finally:
        await bench.end()


def ended(how: str, pid: int, log: Path) -> tuple[str, str]:
    """What the end of a worker means for its attempt."""
    if how == "ended with exit status 0":
        return "through", how  # another program has run in its place
    said = [line for line in log.read_text().splitlines() if f"(pid {pid})" in line]
    return "killed", said[-1] if said else how


async def main(spec: dict[str, Any], log: Path) -> None:
    """All attempts, two workers at a time."""
    pending = iter(spec.pop("attempts"))

    async def some() -> None:
        for names in pending:
            await attempt(spec, names, log)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


if __name__ == "__main__":
    with tempfile.NamedTemporaryFile(prefix="mcrd-inside-") as said:
        errors = os.dup(2)
        os.dup2(said.fileno(), 2)  # workers write to it
        try:
            asyncio.run(main(json.loads(sys.argv[1]), Path(said.name)))
        finally:
            os.dup2(errors, 2)
            print(Path(said.name).read_text()[-5000:], file=sys.stderr)
