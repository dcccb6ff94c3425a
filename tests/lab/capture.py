"""What really was on the wire: tcpdump, and its file read back."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import signal
import struct
from typing import TYPE_CHECKING, Literal

from tests.lab.processes import LabError, terminate, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.network import Host

Direction = Literal["in", "out", "inout"]


class Capture:
    """A running capture on an interface of a host. Made by `Host.capture`."""

    def __init__(
        self, host: Host, interface: str, filter_: str, direction: Direction, largest: int
    ) -> None:
        # The name matters: AppArmor profiles of tcpdump let it write to *.pcap only.
        self._file = host.lab.file("capture.pcap")
        self._log = host.lab.file("capture.log")
        with self._log.open("wb") as log:
            self.process = host.start(
                *("tcpdump", "-i", interface, "-Q", direction, "-n", "-s", str(largest)),
                *("--immediate-mode", "-U", "-B", "32768", "-Z", "root", "-w", str(self._file)),
                filter_,
                stderr=log,
            )
        wait_for(self._listening, f"tcpdump on {interface} of {host.name}")

    def frames(self) -> list[bytes]:
        """The frames written so far, in order, from the Ethernet header on."""
        return read_pcap(self._file)

    def stop(self) -> list[bytes]:
        """All frames that the kernel has seen up to now, in order; ends the capture."""
        wait_for(self._caught_up, "tcpdump to write what it has received", interval=0.03)
        terminate([self.process])
        return self.frames()

    def _listening(self) -> bool:
        text = self._log.read_text()
        if self.process.poll() is not None:
            raise LabError(f"tcpdump ended: {text}")
        return "listening on" in text

    def _caught_up(self) -> bool:
        """SIGUSR1 makes tcpdump say how far it is. Ended at once, it forgets what is queued."""
        before = self._log.stat().st_size
        self.process.send_signal(signal.SIGUSR1)
        pattern = re.compile(
            r"(\d+) packets? captured, (\d+) packets? received by filter, (\d+) packets? dropped"
        )
        said = wait_for(
            lambda: pattern.search(self._log.read_text()[before:]), "tcpdump to count its frames"
        )
        captured, received, dropped = (int(number) for number in said.groups())
        if dropped:
            raise LabError(f"tcpdump was too slow: {said.group()}")
        return captured >= received


def read_pcap(path: Path) -> list[bytes]:
    """The frames of a pcap file; a last one that is still being written is left out."""
    data = path.read_bytes()
    if len(data) < 24:
        return []
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    frames = []
    at = 24
    while at + 16 <= len(data):
        _seconds, _fraction, length, original = struct.unpack_from(f"{order}4I", data, at)
        if at + 16 + length > len(data):
            break
        if length < original:
            raise LabError(
                f"a frame of {original} bytes was cut to {length}: capture with largest="
            )
        frames.append(data[at + 16 : at + 16 + length])
        at += 16 + length
    return frames
