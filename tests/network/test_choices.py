"""`sources`, `exclude` and `sample`: each output sends its part of what a rule takes."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from tests.dataplane.frames import frame, inject
from tests.lab import Mcrd, Triangle, wait_for
from tests.lab.datagrams import udp
from tests.lab.rules import rule
from tests.network.test_observing import METRICS, scrape
from tests.network.test_reload import UNWATCHED
from tests.network.test_streams import perfect

AGENTS = [f"10.1.0.{number}" for number in range(11, 31)]
PARTS = (
    'r1 239.2.2.1 6001 source="keep"',
    'r1 239.2.2.2 6002 sources=["10.1.0.11","10.1.0.16/28"]',
    'r1 239.2.2.3 6003 exclude=["10.1.0.16/28"] source="keep"',
    "r1 239.2.2.4 6004 sample=10",
)


def outputs(daemon: Mcrd, name: str = "a", least: int = 1) -> list[dict[str, Any]]:
    """Of a rule that has taken so many packets, all of which are in a counter of each output."""

    def all_counted() -> list[dict[str, Any]]:
        found = daemon.stats()["rules"][name]
        received = found["received"]["packets"]
        each: list[dict[str, Any]] = found["outputs"]
        return each if received >= least and all(counted(one) == received for one in each) else []

    return wait_for(all_counted, "every packet in a counter of each output")


def counted(output: dict[str, Any]) -> int:
    """All of an output's packets but those that still wait."""
    names = ("not_wanted", "not_sampled", "rate_limited", "new_member", "unreachable")
    numbers: list[int] = [output["sent"]["packets"], *output["errors"].values()]
    return sum(numbers) + sum(int(output[name]) for name in names)


def test_each_output_sends_its_part(triangle: Triangle) -> None:
    """A kept source and an own one in one rule; and the first packet of each agent."""
    daemon = triangle.lab.mcrd(
        triangle.relay,
        rule("a", "r0 239.1.1.1 5000", *PARTS)
        + rule("b", "r0 ff15::1 5000", 'r1 ff15::2 6005 exclude=["fd01::b"] sample=2'),
    )
    seen = triangle.sink.capture("k0", "udp dst portrange 6001-6005")
    said = [(agent, f"{turn} {agent}".encode()) for turn in range(2) for agent in AGENTS]
    inject(triangle.source, "s0", *(frame(text, source=agent) for agent, text in said))
    for number, source in enumerate(("fd01::a", "fd01::b", "fd01::c", "fd01::d")):
        text = b"six %d" % number
        inject(triangle.source, "s0", frame(text, source=source, destination="ff15::1"))
    found = outputs(daemon, least=len(said))
    assert outputs(daemon, "b", least=4)[0]["not_wanted"] == 1
    came: dict[int, list[tuple[str, bytes]]] = {port: [] for port in range(6001, 6006)}
    for each in map(udp, seen.stop()):
        came[each.port].append((each.source, each.payload))
    own = "10.2.0.1"
    last = {agent: int(agent.rpartition(".")[2]) for agent in AGENTS}
    wanted = [(own, text) for agent, text in said if last[agent] == 11 or last[agent] >= 16]
    assert sorted(came[6001]) == sorted(said)
    assert came[6002] == wanted
    assert sorted(came[6003]) == sorted(each for each in said if last[each[0]] < 16)
    assert came[6004] == [(own, text) for _, text in said[::10]]
    assert came[6005] == [("fd02::1", b"six 0"), ("fd02::1", b"six 3")]
    skipped = [(output["not_wanted"], output["not_sampled"]) for output in found]
    assert skipped == [(0, 0), (40 - len(wanted), 0), (30, 0), (0, 36)]


def test_what_one_output_sends_changes_and_the_others_lose_nothing(triangle: Triangle) -> None:
    """In a rule with a kept source, whose members stay."""

    def rules(changing: str) -> str:
        outs = ('r1 239.2.2.1 6000 source="keep"', f"r1 239.2.2.2 6000 {changing}")
        return UNWATCHED + rule("a", "r0 239.1.1.1 5000", *outs, "r1 239.2.2.3 6000")

    forms = ("sample=3", 'exclude=["10.1.0.1"]', 'sources=["10.1.0.0/24"]', "")
    daemon = triangle.lab.mcrd(triangle.relay, rules(""))
    others = [
        triangle.sink.receive("k0", "239.2.2.1", 6000, source="10.1.0.1"),
        triangle.sink.receive("k0", "239.2.2.3", 6000),
    ]
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=5_000, size=500)

    def taken() -> int:
        return int(daemon.stats()["rules"]["a"]["received"]["packets"])

    for number in range(2 * len(forms)):
        before = taken()
        wait_for(lambda: taken() > before + 100, "the stream")  # noqa: B023
        daemon.edit(rules(forms[number % len(forms)]))
        _, told, _ = daemon.ctl_again("reload")
        assert told.startswith("~ rules.a: outputs[1].")
    sent = stream.stop()["sent"]
    found = outputs(daemon, least=sent)
    assert [output["sent"]["packets"] for output in (found[0], found[2])] == [sent] * 2
    assert all(perfect(each.stop(), sent) for each in others)
    assert found[1]["not_wanted"] > 0 < found[1]["not_sampled"]
    assert {worker["restarts"] for worker in daemon.stats()["workers"]} == {0}


def test_explain_and_metrics_tell_of_what_an_output_skips(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay,
        METRICS + rule("a", "r0 239.1.1.1 5000", 'r1 239.2.2.2 6000 exclude=["10.1.0.1"]'),
    )
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=1000)
    wait_for(lambda: daemon.stats()["rules"]["a"]["received"]["packets"] > 0, "the stream")
    told = daemon.ctl("explain", "a", "--seconds", "0.5", check=False).stdout
    stream.process.terminate()
    stream.process.wait()
    assert "packets were not for this output, by their source" in told
    (output,) = outputs(daemon)
    shown = scrape(daemon)
    name = 'mcrd_output_skipped_packets_total{output="r1 239.2.2.2:6000",reason="not_wanted"'
    assert f'{name},rule="a"}} {output["not_wanted"]}.0' in shown
