"""Other rings under a stream: nothing is lost or comes twice, and each flow stays in order."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import wait_for
from tests.lab.rules import rule
from tests.network.test_supervision import WITHOUT_A_SPARE, with_a_fault
from tests.sandbox.harness import hush

if TYPE_CHECKING:
    from tests.lab import Mcrd, Triangle

RULES = (
    "[daemon]\nwatch = false\n"
    + rule("range", "r0 239.1.1.0/28 5000", "r1 239.2.2.0/28 6000")
    + rule("fragments", "r0 239.1.3.1 5000", "r1 239.2.4.1 6000")
)
RATE = 2_000
READ_BY = (
    "workers = 2",
    "workers = 4",
    "workers = 1",
    'ring_size = "64MiB"',
    'ring_size = "16MiB"',
)
"""One after the other; the first rings are those of an interface without a table."""


def test_other_rings_lose_and_repeat_nothing(triangle: Triangle) -> None:
    """Fragments as well: these the kernel puts together once, for the new rings."""
    daemon = triangle.lab.mcrd(triangle.relay, RULES)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, flows=8)
    fragments = triangle.sink.receive("k0", "239.2.4.1", 6000)
    streams = [
        triangle.source.start_send("s0", "239.1.1.1", 5000, flows=8, rate=RATE, size=200),
        triangle.source.start_send("s0", "239.1.3.1", 5000, rate=RATE // 40, size=3000),
    ]

    def counted(name: str) -> int:
        return int(daemon.stats()["rules"][name]["outputs"][0]["sent"]["packets"])

    def flows(before: int) -> bool:
        return counted("range") > before + RATE // 10

    for read_by in READ_BY:
        wait_for(partial(flows, counted("range")), "the stream to flow")
        daemon.edit(f"{RULES}[interfaces.r0]\n{read_by}\n")
        assert "(its rings and workers are replaced, without loss)" in daemon.ctl("reload").stdout
    assert daemon.log().count("relieve ingress") == len(READ_BY)
    sent = [stream.stop()["sent"] for stream in streams]
    missed = triangle.source.missed("s0")  # none, unless the machine is very busy

    def all_relayed() -> bool:
        relayed = zip(sent, (counted("range"), counted("fragments")), strict=True)
        return all(number - missed <= found <= number for number, found in relayed)

    wait_for(all_relayed, f"the last of {sent}, but for {missed} that did not come to the host")
    missed += triangle.relay.missed("r1")
    for receiver, number in zip((received, fragments), sent, strict=True):
        found = receiver.stop()
        assert number - missed <= found["unique"] <= number
        assert found["lost"] <= missed
        assert (found["duplicated"], found["reordered"]) == (0, 0)
    stats = daemon.stats()
    for rule_, number in zip(stats["rules"].values(), sent, strict=True):
        assert number - missed <= rule_["received"]["packets"] <= number
    dropped = stats["interfaces"]["r0"]["dropped"]
    assert not {k for k, n in dropped.items() if n} - {"unmatched"}  # MLD reports of the source
    assert "rings-renewed" not in daemon.log()


SLOWLY = """
import time
from mcrd.sockets.ingress import IngressSocket
share = IngressSocket.share
def slowly(ring, workers):
    share(ring, workers)
    time.sleep(0.3)
IngressSocket.share = slowly
"""


def test_new_rings_take_fragments_from_the_first_on(triangle: Triangle) -> None:
    """As soon as the program of their group is set, which may be long before all are let in."""
    daemon = triangle.lab.mcrd(triangle.relay, RULES, program=with_a_fault(SLOWLY))
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, flows=8)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, flows=8, rate=400, size=3000)

    def relayed(least: int) -> bool:
        return int(daemon.stats()["rules"]["range"]["outputs"][0]["sent"]["packets"]) >= least

    wait_for(partial(relayed, 100), "the stream to flow")
    daemon.edit(f"{RULES}[interfaces.r0]\nworkers = 4\n")
    assert "(its rings and workers are replaced, without loss)" in daemon.ctl("reload").stdout
    sent = stream.stop()["sent"]
    missed = triangle.source.missed("s0") + triangle.relay.missed("r1")
    wait_for(partial(relayed, sent - missed), "the last of them")
    found = received.stop()
    assert found["lost"] <= missed
    assert found["duplicated"] == 0


SET = """
import time
import mcrd.lanes.relief
class Clock:
    def __getattr__(self, name):
        return getattr(time, name)
    def time_ns(self):
        return time.time_ns() + {} * 10**9
mcrd.lanes.relief.time = Clock()
"""


@pytest.mark.parametrize("seconds", [3600, -3600], ids=["back", "ahead"])
def test_a_clock_that_is_set_while_other_rings_take_over(triangle: Triangle, seconds: int) -> None:
    """After the time was chosen, frames come with others than it: stamps are of the kernel.

    To set the machine's clock would disturb all else, so it is the supervisor's that differs.
    """
    program = with_a_fault(SET.format(seconds))
    daemon = triangle.lab.mcrd(triangle.relay, RULES, program=program)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, flows=8)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, flows=8, rate=RATE, size=200)

    def relayed(least: int) -> bool:
        return int(daemon.stats()["rules"]["range"]["outputs"][0]["sent"]["packets"]) > least

    wait_for(partial(relayed, RATE // 10), "the stream to flow")
    daemon.edit(f"{RULES}[interfaces.r0]\nworkers = 2\n")
    assert "(its rings and workers are replaced, without loss)" in daemon.ctl("reload").stdout
    now = int(daemon.stats()["rules"]["range"]["outputs"][0]["sent"]["packets"])
    wait_for(partial(relayed, now + RATE // 2), "the stream to go on")
    sent = stream.stop()["sent"]
    missed = triangle.source.missed("s0") + triangle.relay.missed("r1")
    wait_for(partial(relayed, sent - missed - RATE // 5), "the rest of it")
    found = received.stop()
    print(f"of {sent}: {found['lost']} lost, {found['duplicated']} twice, {missed} missed")
    # What comes within 20 ms, tenfold.
    assert found["lost"] - missed < RATE // 5
    assert found["duplicated"] < RATE // 5
    assert "Traceback" not in daemon.log()


STARTED = """
import ctypes, fcntl, os, sys
keeper = os.pidfd_open(int(os.environ["KEEPER"]))
kept = [each.rsplit("=", 1) for each in os.environ["KEPT"].split()]
call = ctypes.CDLL(None).syscall  # pidfd_getfd(), asm-generic/unistd.h
mine = [call(438, keeper, int(number), 0) for _, number in kept]
mine = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 500) for number in mine]
for at, number in enumerate(mine, 3):
    os.dup2(number, at)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(mine))}
os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in kept)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Manager:
    """A service manager that keeps what it is told to, and gives it to the next daemon."""

    def __init__(self, triangle: Triangle) -> None:
        self.triangle = triangle
        self.path = str(triangle.lab.file("notify"))
        self.kept: dict[str, list[int]] = {}
        self._heard = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        done = False
        while not done:
            data, numbers, _, _ = socket.recv_fds(self._socket, 4096, 250)
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())
            done = "END" in fields
            if "FORGET" in fields:
                self._forget()
            if "HEARD" in fields:
                self._heard.set()
            if "FDSTORE" in fields:
                self.kept[fields["FDNAME"]] = numbers
                continue
            if "FDSTOREREMOVE" in fields:
                numbers = self.kept.pop(fields["FDNAME"])
            for number in numbers:
                os.close(number)

    def start(self, rules: str) -> Mcrd:
        """With all that it keeps."""
        self._say("HEARD=1")  # after all that a daemon before has said
        assert self._heard.wait(60)
        self._heard.clear()
        kept = [f"{name}={number}" for name, numbers in self.kept.items() for number in numbers]
        env = {"NOTIFY_SOCKET": self.path, "FDSTORE": "1000"}
        env |= {"KEEPER": str(os.getpid()), "KEPT": " ".join(kept)}
        mcrd = with_a_fault(WITHOUT_A_SPARE)
        program = (sys.executable, "-c", STARTED, *mcrd)
        return self.triangle.lab.mcrd(self.triangle.relay, rules, env=env, program=program)

    def forget(self) -> None:
        """All that it keeps: the next daemon begins with nothing."""
        self._say("FORGET=1")

    def _forget(self) -> None:
        while self.kept:
            _, numbers = self.kept.popitem()
            for number in numbers:
                os.close(number)

    def _say(self, what: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(what.encode(), self.path)

    def close(self) -> None:
        """End, and forget all."""
        self._say("END=1")
        self._thread.join()
        self._socket.close()
        self._forget()


@pytest.fixture
def manager(triangle: Triangle) -> Iterator[Manager]:
    made = Manager(triangle)
    yield made
    made.close()


def workers(pid: int) -> set[int]:
    found = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            if b"mcrd.dataplane.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(int(child))
    return found


def test_a_restart_in_the_middle_loses_and_repeats_nothing(
    triangle: Triangle, manager: Manager
) -> None:
    """While the new rings take over; and while their workers start: then the old ones stay."""
    rules = RULES.replace("[daemon]", '[daemon]\nlog_level = "debug"')
    daemon = manager.start(rules)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, flows=8)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, flows=8, rate=RATE, size=200)

    def relayed(least: int) -> bool:
        return int(daemon.stats()["rules"]["range"]["outputs"][0]["sent"]["packets"]) > least

    def flows() -> int:
        before = int(daemon.stats()["rules"]["range"]["outputs"][0]["sent"]["packets"])
        wait_for(partial(relayed, before + RATE // 10), "the stream to flow")
        return before

    flows()
    rules += "[interfaces.r0]\n"
    daemon.edit(f"{rules}workers = 2\n")
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: "until=1" in daemon.log(), "the time of it", interval=0.001)
    assert daemon.stop() == 0
    daemon = manager.start(f"{rules}workers = 2\n")
    assert "2 rings" in daemon.log()
    flows()
    before = workers(daemon.pid)
    daemon.edit(f"{rules}workers = 3\n")
    daemon.signal(signal.SIGHUP)
    starting = wait_for(lambda: workers(daemon.pid) - before, "a worker", interval=0.0005)
    for pid in starting:
        os.kill(pid, signal.SIGSTOP)
    assert daemon.stop() == 0
    daemon = manager.start(f"{rules}workers = 2\n")
    assert "2 rings" in daemon.log()
    flows()
    sent = stream.stop()["sent"]
    missed = triangle.source.missed("s0")
    wait_for(partial(relayed, sent - missed - 1), "the last of it")
    missed += triangle.relay.missed("r1")
    found = received.stop()
    assert sent - missed <= found["unique"] <= sent
    assert (found["duplicated"], found["reordered"]) == (0, 0)


def test_while_new_workers_do_not_start_the_old_ones_go_on(triangle: Triangle) -> None:
    """And while frames cannot be let into the new rings."""
    fault = """
from mcrd.lanes import holdings
from mcrd.lanes.channel import WorkerError
from mcrd.lanes.lane import Lane
start, let_in, failed = Lane.start, holdings.let_in, []
async def failing(lane, worker, *rest):
    if worker.ingress.workers == 2 and not failed:
        failed.append(worker)
        raise WorkerError("it is a test")
    return await start(lane, worker, *rest)
def closed(*rest, beside=False):
    if beside and len(failed) < 2:
        failed.append(rest)
        raise OSError(12, "")
    let_in(*rest, beside=beside)
Lane.start, holdings.let_in = failing, closed
from mcrd.cli.mcrd import main
import sys
sys.exit(main())
"""
    program = (sys.executable, "-c", fault)
    daemon = triangle.lab.mcrd(triangle.relay, RULES, program=program)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, flows=8)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, flows=8, rate=RATE, size=200)

    def relayed() -> int:
        return int(daemon.stats()["rules"]["range"]["outputs"][0]["sent"]["packets"])

    wait_for(lambda: relayed() > RATE // 10, "the stream to flow")
    daemon.edit(f"{RULES}[interfaces.r0]\nworkers = 2\n")
    daemon.ctl("reload")
    wait_for(lambda: daemon.log().count("relieve ingress") == 3, "the third try")
    wait_for(lambda: len(daemon.stats()["workers"]) == 2, "two workers")
    sent = stream.stop()["sent"]
    missed = triangle.source.missed("s0")
    wait_for(lambda: sent - missed <= relayed() <= sent, "the last of it")
    missed += triangle.relay.missed("r1")
    found = received.stop()
    assert sent - missed <= found["unique"] <= sent
    assert (found["duplicated"], found["reordered"]) == (0, 0)
    assert "thrown away" not in daemon.log()


@pytest.mark.parametrize("crashes", ["old", "new"])
def test_what_other_rings_relay_is_not_lost_with_a_worker_that_crashes(
    triangle: Triangle, crashes: str
) -> None:
    """To the packet: both rings have all that comes, and each worker relays what is its own.

    It stands still from 0.3 s before the time that both go by, and crashes 0.2 s after that.
    """
    fault = f"""
import asyncio, os, signal
from mcrd.lanes import relief
relief.LEAD = 0.3
agree, relieve, lanes = relief._agree, relief.relieve, {{}}
def crash(pid):
    os.kill(pid, signal.SIGSEGV)
    os.kill(pid, signal.SIGCONT)
async def agreed(old):
    found = await agree(old)
    pid = lanes["{crashes}"].process.pid
    os.kill(pid, signal.SIGSTOP)
    asyncio.get_running_loop().call_later(0.5, crash, pid)
    return found
async def relieving(old, new, let_in):
    lanes.update(old=old[0], new=new[0])
    return await relieve(old, new, let_in)
relief._agree = agreed
from mcrd.daemon import reliefs
reliefs.relieve = relieving
"""
    hush(triangle)
    program = with_a_fault(WITHOUT_A_SPARE + fault)
    daemon = triangle.lab.mcrd(triangle.relay, RULES, program=program)
    received = triangle.sink.receive("k0", "239.2.2.1", 6000)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=RATE, size=200)

    def counts() -> tuple[int, int]:
        stats = daemon.stats()
        dropped = stats["interfaces"]["r0"]["dropped"]
        lost = dropped["discarded"] + dropped["ring_full"]
        return stats["rules"]["range"]["received"]["packets"], lost

    wait_for(lambda: counts()[0] > RATE // 10, "the stream to flow")
    daemon.edit(f'{RULES}[interfaces.r0]\nring_size = "16MiB"\n')
    daemon.ctl("reload")
    wait_for(lambda: "another starts" in daemon.log(), "the crash")
    wait_for(lambda: counts()[1] > 0, "something to be lost")
    before = counts()[0]
    wait_for(lambda: counts()[0] > before + RATE // 10, "the stream to go on")
    came = stream.stop()["sent"] - triangle.source.missed("s0")
    wait_for(lambda: sum(counts()) == came, f"all of {came} to be told, {counts()} are")

    def output() -> dict[str, Any]:
        (found,) = daemon.stats()["rules"]["range"]["outputs"]
        return dict(found)

    told = "what was received to be told by the output"
    wait_for(lambda: output()["sent"]["packets"] + output()["crashed"] == counts()[0], told)
    found = received.stop()
    assert found["unique"] == output()["sent"]["packets"] - triangle.relay.missed("r1")
    assert found["duplicated"] == 0


def test_a_worker_that_crashes_before_its_turn_loses_and_repeats_nothing(
    triangle: Triangle,
) -> None:
    """Of what comes to the new rings, it saw nothing yet: so that waits for the next worker.

    If it were thrown away, that would take until after the time that both go by. When the next
    worker has passed over what is the others', it passes over nothing more, whatever the clock.
    """
    fault = """
import asyncio, os, signal, time
from mcrd.lanes import relief
from mcrd.sockets.ingress import IngressSocket
relief.LEAD = 0.3
agree, relieve, throw_away = relief._agree, relief.relieve, IngressSocket.throw_away
lanes = []
async def agreed(old):
    os.kill(lanes[-1].process.pid, signal.SIGSEGV)
    while lanes[-1].process is not None:
        await asyncio.sleep(0.001)
    return await agree(old)
async def relieving(old, new, let_in):
    lanes.extend(new)
    return await relieve(old, new, let_in)
relief._agree = agreed
def throwing_slowly(*rest):
    throw = throw_away(*rest)
    def slowly():
        time.sleep(0.5)
        return throw()
    return slowly
IngressSocket.throw_away = throwing_slowly
from mcrd.daemon import reliefs
reliefs.relieve = relieving
"""
    hush(triangle)
    rules = RULES.replace("[daemon]", '[daemon]\nlog_level = "debug"')
    daemon = triangle.lab.mcrd(triangle.relay, rules, program=with_a_fault(fault))
    received = triangle.sink.receive("k0", "239.2.2.1", 6000)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=RATE, size=200)

    def relayed() -> int:
        return int(daemon.stats()["rules"]["range"]["received"]["packets"])

    def beginnings() -> list[str]:
        return re.findall(r"Begin\(.*since=(\d+)", daemon.log())

    wait_for(lambda: relayed() > RATE // 10, "the stream to flow")
    daemon.edit(f'{rules}[interfaces.r0]\nring_size = "16MiB"\n')
    daemon.ctl("reload")
    wait_for(lambda: "another starts" in daemon.log(), "the crash")
    wait_for(lambda: beginnings()[-2:][0] > "0" == beginnings()[-1], "it to pass over nothing")
    before = relayed()
    wait_for(lambda: relayed() > before + RATE // 10, "the stream to go on")
    came = stream.stop()["sent"] - triangle.source.missed("s0")
    wait_for(lambda: relayed() == came, f"all of {came} to be relayed, {relayed()} are")
    found = received.stop()
    assert found["unique"] == came - triangle.relay.missed("r1")
    assert (found["duplicated"], found["reordered"]) == (0, 0)
    assert "thrown away" not in daemon.log()
