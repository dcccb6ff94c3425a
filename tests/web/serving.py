"""mcrd-web as a process, and a control socket with answers that a test has made."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import structs

from mcrd.answers import Members, Status, Worker
from mcrd.client import ControlError
from mcrd.counters import InterfaceCounts, OutputCounts, RuleCounts, Stats, WorkerCounts, rates
from mcrd.daemon.control import Request, Server
from mcrd.sums import Peak, PerSecond, Rate, Traffic
from tests.lab.processes import PATIENCE, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTILE = "<img src=x onerror=alert(1)>/../\u202e\u2028&amp;'\"%2e"
MCRD_WEB = (sys.executable, "-m", "mcrd.cli.mcrd_web")


def rate(packets: int) -> Rate:
    """So many packets of 1000 bytes in a second."""
    return Rate(
        Traffic(packets, 1000 * packets), PerSecond(packets, 1000.0 * packets), Peak(packets // 9)
    )


def rule(interface: str = "eth0", packets: int = 100, **other: Any) -> RuleCounts:
    """A rule with one output, to eth1."""
    where = f"eth1 239.2.2.2:{packets}"
    to = OutputCounts(
        where=where, interface="eth1", interface_now="eth1", address="239.2.2.2", port=packets,
        state="active", rate=rate(packets),
    )  # fmt: skip
    given = {"state": "active", "outputs": [to], **other}
    return RuleCounts(interface, interface, rate=rate(packets), **given)


@dataclass
class Answers:
    """What the control socket answers; a test changes it at will."""

    status: Status = field(
        default_factory=lambda: Status(version="1.0", pid=7, uptime_s=1000.0, summary="fine")
    )
    stats: Stats = field(default_factory=Stats)
    members: Members = field(default_factory=Members)
    asked: dict[str, int] = field(default_factory=dict)
    hangs: bool = False
    cursor: int = 7
    told: Stats | None = None

    def set_rules(self, rules: dict[str, RuleCounts], about: str = "") -> None:
        """These rules run."""
        self.stats = Stats(rules=rules, interfaces={"eth0": InterfaceCounts()}, workers=[WORKER])
        for each in rules.values():
            each.address, each.port, each.description = "239.1.1.1", 5000, about

    async def answer(self, request: Request) -> Any:
        """As the daemon's own handler."""
        self.asked[request.command] = self.asked.get(request.command, 0) + 1
        while self.hangs:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        found = {"status": self.status, "members": self.members}
        found["stats"] = self._counted(**request.arguments)
        if request.command not in found:
            raise ControlError("no such command")
        return found[request.command]

    def _counted(self, name: str | None = None, since: int | None = None) -> Stats:
        """As the daemon; all is as it was as long as `stats` is the same object."""
        found = self.stats
        if name is not None:
            return Stats(rules={name: found.rules[name]} if name in found.rules else {})
        if self.told is not found:
            self.told, self.cursor = found, self.cursor + 1
        if since != self.cursor:
            return structs.replace(found, cursor=self.cursor)
        flows = {name: rates(rule) for name, rule in found.rules.items()}
        return structs.replace(found, cursor=since, since=since, rules={}, rates=flows)


WORKER = WorkerCounts(**{f: getattr(Worker("eth0", 0, 100), f) for f in Worker.__struct_fields__})


@contextlib.contextmanager
def answering(path: Path, answers: Answers) -> Iterator[None]:
    """A control socket at the path, of the daemon's own server, in a thread."""
    loop = asyncio.new_event_loop()
    server = Server(path, answers.answer)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(PATIENCE)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Web:
    """A running mcrd-web."""

    def __init__(self, control: Path, *options: str, program: tuple[str, ...] = MCRD_WEB) -> None:
        where = () if program != MCRD_WEB else ("--listen", "127.0.0.1:0")
        self.errors = control.with_name("mcrd-web.errors")
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                (*program, *where, "--control", str(control), *options),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.port = int(self.url.split(":")[2].partition("/")[0])

    def get(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=names)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        """What /state says."""
        found: dict[str, Any] = json.loads(self.get("/state")[2])
        return found

    def until_it_knows(self) -> None:
        """Until it has an answer of the daemon."""

        def knows() -> bool:
            status, _, body = self.get("/state")
            return status == 200 and json.loads(body)["trouble"] == ""  # else too many requests

        wait_for(knows, "mcrd-web to know the daemon")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def serving(control: Path, *options: str) -> Iterator[Web]:
    """mcrd-web for a while, on a port of its own."""
    web = Web(control, *options)
    try:
        yield web
    finally:
        assert web.stop() == 0


def events(web: Web, **headers: str) -> Iterator[dict[str, Any]]:
    """What comes on a stream of events."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", web.port, timeout=PATIENCE)
    ) as connection:
        connection.request("GET", "/events", headers=headers)
        answer = connection.getresponse()
        while line := answer.readline():
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def said(web: Web, sent: bytes) -> bytes:
    """What it answers to these lines."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=60) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(sent + b"\r\nHost: x\r\n\r\n")
            return sock.makefile("rb").read()
        return b""
