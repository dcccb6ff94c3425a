"""What media programs make of streams that were merged, switched and inspected.

ffmpeg and tshark are used where they are installed: with what they need, they are 130 packages, so
`make setup` does without. It fetches reordertp.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import shutil
import socket
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import wait_for
from tests.lab.avahi import program
from tests.lab.datagrams import sender, udp
from tests.network.test_inspect import faulty, rtp
from tests.network.test_merge import FEED, A, B, Legs

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.lab import Triangle

pytestmark = pytest.mark.long

ENCODE = "-v error -re -f lavfi -i testsrc=size=320x240:rate=25 -f lavfi -i sine -t 5"
CODECS = "-c:v mpeg2video -b:v 1M -c:a mp2"
WAYS = {
    "rtp": ("-f rtp_mpegts rtp://127.0.0.1:7000?pkt_size=1328", 'merge = { by = "rtp" }'),
    "in-order": (
        "-f rtp_mpegts rtp://127.0.0.1:7000?pkt_size=1328",
        'merge = { by = "rtp", delay = "200ms" }',
    ),
    "mpeg-ts": ("-f mpegts udp://127.0.0.1:7000?pkt_size=1316", 'merge = { by = "content" }'),
    "rtp-switch": (
        "-f rtp_mpegts rtp://127.0.0.1:7000?pkt_size=1328",
        'switch = { silence = "10s" }\ninspect = "rtp"',
    ),
    "mpeg-ts-switch": (
        "-f mpegts udp://127.0.0.1:7000?pkt_size=1316",
        'switch = { silence = "10s" }\ninspect = "mpeg-ts"',
    ),
}


def installed(name: str, package: str) -> str:
    """A program; skips the test without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}: apt-get install --no-install-recommends {package}")
    return found


class Both:
    """Sends what comes to it by two ways, one of which may be cut."""

    def __init__(self, triangle: Triangle, legs: Legs) -> None:
        self.legs, self.sent = legs, list[bytes]()
        self.encoder: subprocess.Popen[bytes] | None = None
        self._socket = triangle.source.socket(socket.AF_INET, socket.SOCK_DGRAM)
        triangle.lab.close_at_end(self._socket)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind(("127.0.0.1", 7000))

    def pass_on(self, a: bool, b: bool, count: int) -> bool:
        """Sends so many by the ways that are not cut; False: no more come."""
        self._socket.settimeout(0.2)
        while count:
            has_ended = self.encoder is not None and self.encoder.poll() is not None
            try:
                data = self._socket.recv(2048)
            except TimeoutError:
                if has_ended:
                    return False
                continue
            count -= 1
            self.sent.append(data)
            if a:
                self.legs.a.sendto(data, A)
            if b:
                self.legs.b.sendto(data, B)
        return True

    def settled(self) -> None:
        """All that was sent has been relayed."""
        wanted = Counter(self.sent)
        wait_for(lambda: self.legs.arrived() >= wanted, "what was sent")


@pytest.mark.parametrize("way", list(WAYS))
def test_ffmpeg_while_one_way_is_cut(triangle: Triangle, tmp_path: Path, way: str) -> None:
    """Each way is cut for a while. What is behind the relay is decoded without an error."""
    ffmpeg = installed("ffmpeg", "ffmpeg")
    to, rules = WAYS[way]
    legs = Legs(triangle, f"{FEED}{rules}\n")
    triangle.source.run("ip", "link", "set", "lo", "up")
    both = Both(triangle, legs)
    both.encoder = triangle.source.start(ffmpeg, *ENCODE.split(), *CODECS.split(), *to.split())
    switches = way.endswith("switch")
    assert both.pass_on(True, True, 100)
    both.settled()
    if switches:
        legs.daemon.ctl("use", "feed", "q0")
    assert both.pass_on(False, True, 100)
    both.settled()
    assert both.pass_on(True, True, 20)
    both.settled()
    if switches:
        legs.daemon.ctl("use", "feed", "r0")
    assert both.pass_on(True, False, 100)
    while both.pass_on(True, True, 100):
        pass
    both.settled()
    came = [udp(frame).payload for frame in legs.capture.frames()]
    assert came == both.sent
    stream = tmp_path / "stream.ts"
    stream.write_bytes(b"".join(each if each[0] == 0x47 else each[12:] for each in came))
    # To the last second: ffmpeg does not send the rest, which fills no packet of RTP.
    strict = ("-v", "error", "-xerror", "-err_detect", "explode", "-f", "mpegts")
    decoded = triangle.sink.call(ffmpeg, *strict, "-i", str(stream), "-t", "4", "-f", "null", "-")
    assert (decoded.returncode, decoded.stderr) == (0, "")
    assert len(came) > 350
    legs.a.close()
    legs.b.close()


FAULTS = """
[rules.cam]
input = { interface = "r0", address = "239.1.1.1", port = 5000 }
inspect = "rtp"
outputs = [{ interface = "r1", address = "239.2.2.2", port = 6000 }]
"""


def pcap(path: Path, frames: list[bytes]) -> None:
    """Writes a capture of Ethernet, a frame every two milliseconds."""
    with path.open("wb") as file:
        file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for number, frame in enumerate(frames):
            micros = number * 2000
            head = (1 + micros // 10**6, micros % 10**6, len(frame), len(frame))
            file.write(struct.pack("=IIII", *head) + frame)


class Known:
    """A stream with known faults, through a rule that inspects it."""

    def __init__(self, triangle: Triangle) -> None:
        daemon = triangle.lab.mcrd(triangle.relay, FAULTS)
        self.capture = triangle.sink.capture("k0", "udp port 6000")
        self.numbers, self.done = faulty(29, 1500, 64_000)
        began = time.monotonic()
        with sender(triangle.source, "s0") as sock:
            for number in self.numbers:  # in the time that its timestamps say
                time.sleep(max(0.0, (number - self.numbers[0]) / 1000 - (time.monotonic() - began)))
                sock.sendto(rtp(number), A)

        def counted() -> dict[str, Any] | None:
            found: dict[str, Any] = daemon.stats()["rules"]["cam"]["inspect"]
            return found if found["inspected"] == len(self.numbers) else None

        ours = wait_for(counted, "all to be inspected")
        assert ours["lost"] + ours["missing"] == self.done["lost"]
        assert ours["repeated"] == self.done["repeated"]
        assert ours["reordered"] == self.done["reordered"]
        wait_for(lambda: len(self.capture.frames()) == len(self.numbers), "all to be relayed")


def test_tshark_counts_what_inspect_counts(triangle: Triangle, tmp_path: Path) -> None:
    """Its analysis of RTP streams, on known faults."""
    tshark = installed("tshark", "tshark")
    known = Known(triangle)
    pcap(tmp_path / "pcap", known.capture.stop())
    asked = ("-n", "-q", "-d", "udp.port==6000,rtp", "-z", "rtp,streams")
    told = triangle.sink.run(tshark, "-r", str(tmp_path / "pcap"), *asked)
    packets, lost = map(int, re.findall(r"\s(\d+)\s+(-?\d+) \(-?[\d.]+%\)", told)[0])
    # It takes a second copy for one that is not lost.
    assert packets == len(known.numbers)
    assert lost == known.done["lost"] - known.done["repeated"]


def test_reordertp_counts_what_inspect_counts(triangle: Triangle) -> None:
    """What multicat's program for several ways misses, and has twice, when it has waited for it.

    It looks at each datagram once, two seconds after it came by the clock of the timestamps. So
    what it says comes later than what we count.
    """
    reordertp = program("reordertp", "multicat")
    triangle.sink.run("ip", "link", "set", "lo", "up")
    said = triangle.lab.file("reordertp.log")
    index = next(link["ifindex"] for link in triangle.sink.links() if link["ifname"] == "k0")
    once = ("-b", "4000", "-x", "2000", "-n", "0")
    with said.open("wb") as stderr:
        triangle.sink.start(
            *(reordertp, *once, f"@239.2.2.2:6000/ifindex={index}", "127.0.0.1:9"), stderr=stderr
        )
    joined = triangle.sink.run
    wait_for(lambda: "239.2.2.2" in joined("ip", "maddress", "show", "dev", "k0"), "it to join")
    known = Known(triangle)

    def told() -> tuple[int, int]:
        text = said.read_text()
        gaps = re.findall(r"missing RTP packets (\d+) to (\d+), no retx", text)
        missing = sum((int(last) - int(first)) % 2**16 + 1 for first, last in gaps)
        return missing, text.count("duplicate RTP packet")

    wanted = (known.done["lost"], known.done["repeated"])
    wait_for(lambda: sum(told()) >= sum(wanted), "it to have looked at all")
    assert told() == wanted
