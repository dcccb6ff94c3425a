"""mcrgen on hosts of the lab: streams whose every datagram is known, and who counts them."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from tests.lab.daemon import console_script
from tests.lab.processes import PATIENCE, LabError, wait_for

if TYPE_CHECKING:
    from tests.lab.network import Host


class _Mcrgen:
    """A running mcrgen that ends with one JSON object on stdout."""

    def __init__(self, host: Host, command: str, **options: str | float | None) -> None:
        self.host = host
        self._stdout = host.lab.file(f"{command}.json")
        self._stderr = host.lab.file(f"{command}.log")
        arguments = [
            word
            for name, value in options.items()
            if value is not None
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = host.start(
                *(console_script("mcrgen"), command, *arguments, "--json"),
                stdout=stdout,
                stderr=stderr,
            )

    def log(self) -> str:
        """What it wrote to stderr."""
        return self._stderr.read_text(errors="replace")

    def result(self, timeout: float = 4 * PATIENCE) -> dict[str, Any]:
        """Waits for its end, and returns what it found; the exit code is in `.process.returncode`.

        A receiver that did not get what it expected still has a result: look at the numbers.
        """
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"mcrgen on {self.host.name} was still running after {timeout:g} s:\n{self.log()}"
            ) from None
        text = self._stdout.read_text()
        if not text.strip():
            raise LabError(f"mcrgen on {self.host.name}: exit code {code}:\n{self.log()}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def stop(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Ends it early by SIGTERM; returns what it found up to then."""
        self.process.terminate()
        return self.result(timeout)


class Receiver(_Mcrgen):
    """`mcrgen receive`, joined. Made by `Host.receive`."""

    def __init__(
        self,
        host: Host,
        interface: str,
        address: str,
        port: int,
        expect: int | None,
        source: str | None,
        flows: int | None,
        timeout: float | None,
    ) -> None:
        if expect is not None and timeout is None:
            timeout = 2 * PATIENCE  # of mcrgen itself, 10 s
        super().__init__(
            host,
            "receive",
            interface=interface,
            address=address,
            port=port,
            expect=expect,
            source=source,
            flows=flows,
            timeout=timeout,
        )
        wait_for(self._joined, f"mcrgen receive on {interface} of {host.name}")

    def _joined(self) -> bool:
        code = self.process.poll()
        if any(line.startswith("mcrgen: receiving on") for line in self.log().splitlines()):
            return True  # it may have all that it expects by now, and have ended
        if code is not None:
            raise LabError(f"mcrgen receive ended with {code}:\n{self.log()}")
        return False


class Sender(_Mcrgen):
    """`mcrgen send`. Made by `Host.start_send`."""

    def __init__(
        self,
        host: Host,
        interface: str,
        address: str,
        port: int,
        count: int | None,
        rate: int | None,
        size: int | None,
        flows: int | None,
        ttl: int | None,
        source_port: int | None,
    ) -> None:
        super().__init__(
            host,
            "send",
            interface=interface,
            address=address,
            port=port,
            count=count,
            rate=rate,
            size=size,
            flows=flows,
            ttl=ttl,
            source_port=source_port,
        )
