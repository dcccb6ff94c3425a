"""A Firefox, driven by its own protocol: Marionette, of which geckodriver is a front."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
from typing import TYPE_CHECKING, Any

from tests.lab.processes import PATIENCE, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Firefox:
    """Commands of WebDriver, one at a time: [0, number, name, parameters], behind its length."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10 * PATIENCE)
        self._stream = self._socket.makefile("rb")
        self._number = 0
        self._read()  # who it is

    def say(self, command: str, **parameters: Any) -> Any:
        """Its answer; raises AssertionError for a refusal."""
        self._number += 1
        body = json.dumps([0, self._number, f"WebDriver:{command}", parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(body), body))
        _, _, error, result = self._read()
        assert error is None, error
        return result

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self.say("ExecuteScript", script=script, args=list(arguments))["value"]

    def press(self, key: str) -> None:
        """A key, down and up."""
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self.say("PerformActions", actions=[{"type": "key", "id": "keys", "actions": keys}])

    def close(self) -> None:
        """Leave it."""
        self._stream.close()
        self._socket.close()

    def _read(self) -> Any:
        size = b""
        while not size.endswith(b":"):
            more = self._stream.read(1)
            assert more, "Firefox has ended"
            size += more
        return json.loads(self._stream.read(int(size[:-1])))


@contextlib.contextmanager
def started(program: str, profile: Path) -> Iterator[Firefox]:
    """A Firefox without a screen, with a profile of its own."""
    (profile / "user.js").write_text('user_pref("marionette.port", 0);\n')
    command = (program, "--headless", "--no-remote", "--marionette", "--profile", str(profile))
    with (profile / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)

    def port() -> int:
        assert process.poll() is None, (profile / "said").read_text()
        with contextlib.suppress(OSError):
            return int((profile / "MarionetteActivePort").read_text() or 0)
        found = re.search(r"Listening on port (\d+)", (profile / "said").read_text())
        return int(found[1]) if found else 0

    try:
        firefox = Firefox(wait_for(port, "Firefox to listen", 10 * PATIENCE))
        try:
            firefox.say("NewSession")
            yield firefox
        finally:
            firefox.close()
    finally:
        process.terminate()
        process.wait(PATIENCE)
