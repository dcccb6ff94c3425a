"""The demo: a stream that the kernel would not route, relayed to three private networks.

`sudo make demo` runs it. Exit status 0 means that every receiver got what it should have got.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.lab import Host, Lab, LabError, Mcrd, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

RATE = 2000  # packets per second
SIZE = 1400  # bytes of payload
SECONDS = 10
PATIENCE = 20.0  # seconds that a receiver waits for the rest after the stream should be over
WIDTH = 88

TOPOLOGY = """
+--------+ s0           r0 +-------+ r1  10.2.0.1     10.2.0.2  k1 +-------+
| source |-----------------| relay |-------------------------------| sink1 |
+--------+                 |       |                               +-------+
  192.0.2.10      10.1.0.1 |       | r2  10.3.0.1     10.3.0.2  k2 +-------+
                           | mcrd  |-------------------------------| sink2 |
                           | runs  |                               +-------+
                           | here  | r3  10.4.0.1     10.4.0.2  k3 +-------+
                           |       |-------------------------------| sink3 |
                           +-------+                               +-------+
"""

RULES = """\
[rules.camera]
input = { interface = "r0", address = "239.1.1.1", port = 5000 }
outputs = [
    { interface = "r1", address = "239.2.2.2", port = 6000, ttl = 8 },
    { interface = "r2", address = "239.1.1.1", ttl = 8 },
]
"""

ADDED = '    { interface = "r3", address = "10.4.0.2", port = 7000 },\n'


class Interrupted(BaseException):
    """A signal asks the demo to end; no error, as KeyboardInterrupt is none."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass
class Network:
    """The hosts of the demo, as TOPOLOGY draws them."""

    source: Host
    relay: Host
    sinks: Sequence[Host]


@dataclass
class Verdict:
    """What was not as it should be."""

    failures: list[str] = field(default_factory=list)

    def require(self, holds: bool, failure: str) -> None:
        """Notes the failure unless it holds."""
        if not holds:
            self.failures.append(failure)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="demo", description="Shows a relay at work.")
    parser.add_argument(
        "--seconds", type=int, default=SECONDS, help=f"length of the stream (default: {SECONDS})"
    )
    options = parser.parse_args(argv)
    if options.seconds < 2:
        parser.error("argument --seconds: expected 2 or more")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    lab = Lab()
    try:
        with lab:
            failures = _demo(lab, RATE * options.seconds)
            if failures:
                for daemon in lab.daemons:
                    _say("The log of mcrd:")
                    _show(daemon.log())
    except Interrupted as interrupted:
        print("\ndemo: interrupted; everything that it started has ended", file=sys.stderr)
        return 128 + interrupted.number
    except LabError as error:  # without a lab: no root, no namespaces
        failures = [str(error)]
    for failure in failures:
        print(f"demo: failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # Tidying up takes a moment, and a second Ctrl-C must not end it.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def _demo(lab: Lab, count: int) -> list[str]:
    """Shows all of it; returns what was wrong."""
    verdict = Verdict()
    try:
        network = _build(lab)
        daemon = _relay(lab, network)
        _stream(network, daemon, count, verdict)
    except (LabError, OSError, subprocess.SubprocessError) as error:
        verdict.failures.append(str(error))
    if verdict.failures:
        return verdict.failures
    _step("What next")
    _say(
        "Write a rule for your own stream: README.md has a first one to start from,"
        " etc/mcr.toml.example has every key with its meaning, and man/mcr.toml.5 is the"
        " reference (read it with `mandoc -a man/mcr.toml.5`). Then run:"
    )
    _show("sudo .venv/bin/mcrd --config my.toml")
    return []


def _build(lab: Lab) -> Network:
    _say(
        "mcrd demo. Five hosts, made of network namespaces of this machine: nothing outside them"
        " is touched, and all of it is gone at the end."
    )
    source, relay, *sinks = lab.hosts("source", "relay", "sink1", "sink2", "sink3")
    lab.link(source, "s0", ["192.0.2.10/24"], relay, "r0", ["10.1.0.1/24"])
    for number, sink in enumerate(sinks, 1):
        net = f"10.{number + 1}.0"
        lab.link(relay, f"r{number}", [f"{net}.1/24"], sink, f"k{number}", [f"{net}.2/24"])
    # Loose: what many distributions set. It drops what no route at all leads back to.
    relay.sysctl("net.ipv4.conf.r0.rp_filter", "2")
    _show(TOPOLOGY)
    _step("1. The stream that the kernel does not route")
    _say(
        "source sends a stream to the group 239.1.1.1. Its address, 192.0.2.10, is in no network"
        " that relay has a route to:"
    )
    answer = relay.call("ip", "route", "get", "192.0.2.10")
    _show(f"relay# ip route get 192.0.2.10\n{answer.stdout}{answer.stderr}")
    _say(
        "So the kernel's reverse-path check drops every packet of it, before anything on relay"
        " could receive or route it. mcrd reads the packets below the IP stack, where that check"
        " has not been made yet, and sends their payload again from an address of relay's own."
    )
    return Network(source, relay, sinks)


def _relay(lab: Lab, network: Network) -> Mcrd:
    _step("2. A rule")
    _say(
        "The rule takes the stream in on r0. It leaves on r1 for another group and port, and on r2"
        " for the same ones. This is the whole rule file:"
    )
    _show(RULES)
    daemon = lab.mcrd(network.relay, RULES)
    _say("mcrd runs on relay. mcrctl asks it how its rules are:")
    _show_ctl(daemon, "rules")
    return daemon


def _stream(network: Network, daemon: Mcrd, count: int, verdict: Verdict) -> None:
    """Sends the stream, edits the rule file meanwhile, and looks at what arrived where."""
    first, second, third = network.sinks
    seconds = count / RATE
    _step("3. The stream")
    _say(
        f"sink1 and sink2 join their groups. source sends {count:,} numbered packets of"
        f" {SIZE} bytes, {RATE:,} in a second ({RATE * SIZE * 8 / 1e6:.1f} Mbit/s,"
        f" {seconds:.0f} seconds)."
    )
    limit = seconds + PATIENCE
    receivers = [
        first.receive("k1", "239.2.2.2", 6000, expect=count, timeout=limit),
        second.receive("k2", "239.1.1.1", 5000, expect=count, timeout=limit),
    ]
    sender = network.source.start_send(
        "s0", "239.1.1.1", 5000, count=count, rate=RATE, size=SIZE, ttl=8
    )
    wait_for(lambda: _received(daemon) >= count // 4, "a quarter of the stream to arrive", limit)
    _say(f"{_received(daemon):,} packets have come in so far.")

    _step("4. An edit while the stream runs")
    _say(
        "A third network is to get the stream. It carries no multicast, so the new output sends to"
        " a host: 10.4.0.2. This line goes into the rule file, and the file is saved:"
    )
    _show("+" + ADDED[1:])
    late = third.receive("k3", "10.4.0.2", 7000)
    head, tail = RULES.rsplit("]", 1)
    daemon.edit(f"{head}{ADDED}]{tail}")
    wait_for(lambda: _outputs(daemon) == ["active"] * 3, "the third output to be active")
    _say("mcrd has noticed by itself. Its log says what it has changed:")
    mark = "reload (file saved): "
    log = (line.partition(mark) for line in daemon.log().splitlines() if mark in line)
    _show("\n".join(what for _, _, what in log))
    verdict.require(sender.process.poll() is None, "the stream was over before the edit was")
    _say("The stream was not stopped for that; it runs to its end now.")

    sent = int(sender.result(limit)["sent"])
    results = [receiver.result(limit) for receiver in receivers]
    results.append(late.stop())
    stats = daemon.stats()["rules"]["camera"]
    _results(network, count, sent, results, stats, verdict)
    _step("6. The counters of mcrd")
    _say(
        "Every packet is accounted for, from the interface to each output. What is unmatched"
        " belongs to no rule, such as neighbour discovery."
    )
    _show_ctl(daemon, "stats")
    _say(
        "In the same time, the reverse-path check of relay's kernel dropped"
        f" {_dropped_by_kernel(network.relay):,} packets: its counter IPReversePathFilter."
        " mcrd had read them before."
    )


def _results(
    network: Network,
    count: int,
    sent: int,
    results: Sequence[dict[str, Any]],
    stats: dict[str, Any],
    verdict: Verdict,
) -> None:
    added = int(stats["outputs"][2]["sent"]["packets"])
    _step("5. What arrived")
    _say("The receivers know every packet by its number. Their own counts:")
    rows = [f"source  sent {sent}"]
    for host, result, expected in zip(network.sinks, results, (count, count, added), strict=True):
        counts = {key: int(result[key]) for key in ("lost", "duplicated", "reordered", "corrupt")}
        row = f"{host.name}   received {result['unique']}"
        rows.append(", ".join((row, *(f"{key} {value}" for key, value in counts.items()))))
        verdict.require(
            result["unique"] == expected,
            f"{host.name} received {result['unique']} packets instead of {expected}",
        )
        for key, value in counts.items():
            verdict.require(value == 0, f"{host.name} counts {value} packets as {key}")
    verdict.require(sent == count, f"source sent {sent} packets instead of {count}")
    verdict.require(0 < added < count, f"mcrd sent {added} of {count} packets to sink3")
    _show("\n".join(rows))
    if not verdict.failures:
        _say(
            "sink1 and sink2 have all of it: the edit of their rule cost them nothing. sink3 has"
            " every packet from the first one that its new output sent."
        )


def _received(daemon: Mcrd) -> int:
    return int(daemon.stats()["rules"]["camera"]["received"]["packets"])


def _outputs(daemon: Mcrd) -> list[str]:
    return [output["state"] for output in daemon.stats()["rules"]["camera"]["outputs"]]


def _dropped_by_kernel(host: Host) -> int:
    """The count IPReversePathFilter of a host: names in one line, numbers in the next."""
    lines = [line.split() for line in host.run("cat", "/proc/net/netstat").splitlines()]
    for names, numbers in zip(lines[::2], lines[1::2], strict=True):
        if "IPReversePathFilter" in names:
            return int(numbers[names.index("IPReversePathFilter")])
    return 0


def _show_ctl(daemon: Mcrd, command: str) -> None:
    _show(f"relay# mcrctl {command}\n{daemon.ctl(command).stdout}")


def _step(title: str) -> None:
    print(f"\n{title}\n{'-' * len(title)}\n", flush=True)


def _say(text: str) -> None:
    print(textwrap.fill(text, WIDTH, break_on_hyphens=False), flush=True)


def _show(text: str) -> None:
    """Indented, as it is."""
    print("\n" + textwrap.indent(text.strip("\n"), "    ") + "\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
