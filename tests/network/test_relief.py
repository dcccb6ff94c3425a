"""Other rings under a stream: nothing is lost or comes twice, and each flow stays in order."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.lab import wait_for
from tests.lab.rules import rule

if TYPE_CHECKING:
    from tests.lab import Triangle

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
    wait_for(lambda: [counted("range"), counted("fragments")] == sent, "the last of it")
    for receiver, number in zip((received, fragments), sent, strict=True):
        found = receiver.stop()
        assert found["unique"] == number
        assert (found["lost"], found["duplicated"], found["reordered"]) == (0, 0, 0)
    stats = daemon.stats()
    assert [rule["received"]["packets"] for rule in stats["rules"].values()] == sent
    assert not {k: n for k, n in stats["interfaces"]["r0"]["dropped"].items() if n}
    assert "rings-renewed" not in daemon.log()
