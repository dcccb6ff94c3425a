"""The picture of what flows where, now: what `mcrctl graph` draws, and the page of mcrd-web.

Inputs are on the left, rules in the middle, outputs on the right. Pure.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from mcrd.addresses import written
from mcrd.answers import Members
from mcrd.counters import InterfaceCounts, OutputCounts, RuleCounts, Stats

NO_LOSS = frozenset(
    ("unmatched", "own_output", "second_copy", "standby_input", "standby", "duplicate")
)
"""Drops by which a receiver misses nothing."""
SILENT = "silent"
"""Shown as the state of an active rule that receives nothing any more."""


class Flow(Struct, omit_defaults=True):
    """Packets and bits of the last whole second; `lost` are datagrams since the start, by name."""

    packets: int = 0
    bits: int = 0
    lost: dict[str, int] = {}


class OutputPicture(Flow, omit_defaults=True):
    """Where an output sends, and by which interface now: "" for none."""

    to: str = ""
    interface: str = ""
    state: str = ""
    reason: str = ""


class RulePicture(Flow, omit_defaults=True):
    """A rule, or a leg of one: then `stream` is the rule that it is a leg of.

    `peak` is the most packets in 10 ms of the last second. `before` are packets that were lost
    before this host. `used`: whether it is the input in use, where one of several is.
    """

    interface: str = ""
    source: str = ""
    state: str = ""
    reason: str = ""
    about: str = ""
    peak: int = 0
    before: int = 0
    stream: str = ""
    used: bool | None = None
    outputs: list[OutputPicture] = []


class InterfacePicture(Flow, omit_defaults=True):
    """What was taken from an interface, and who asks hosts there for their groups, in words."""

    queriers: list[str] = []


class Picture(Struct):
    """Rules and interfaces by their names."""

    rules: dict[str, RulePicture]
    interfaces: dict[str, InterfacePicture]


def picture(stats: Stats, members: Members) -> Picture:
    """The picture of what these say."""
    rules = {name: of_rule(name, count) for name, count in stats.rules.items()}
    return Picture(rules, of_interfaces(stats.interfaces, rules, members))


def of_interfaces(
    counted: Mapping[str, InterfaceCounts], rules: Mapping[str, RulePicture], members: Members
) -> dict[str, InterfacePicture]:
    """The interfaces; what one of all these rules has lost is shown there."""
    found = {
        name: InterfacePicture(
            entry.rate.second.packets, 8 * entry.rate.second.bytes, losses(entry.dropped)
        )
        for name, entry in counted.items()
    }
    for rule in rules.values():
        if rule.lost and (node := found.get(rule.interface)):
            left = {name: number - rule.lost.get(name, 0) for name, number in node.lost.items()}
            node.lost = {name: number for name, number in left.items() if number > 0}
    for asked in members.asked:
        who = asked.querier or "nobody"
        also = " (this host)" if asked.elected else ""
        said = f"{asked.protocol.upper()}: {who}{also} asks; {len(asked.groups)} groups wanted"
        found.setdefault(asked.interface, InterfacePicture()).queriers.append(said)
    return found


def of_rule(name: str, count: RuleCounts) -> RulePicture:
    """A rule, or a leg of one."""
    found = count.inspect
    return RulePicture(
        packets=count.rate.second.packets,
        bits=8 * count.rate.second.bytes,
        lost=losses(count.dropped),
        interface=count.interface_now or count.interface,
        source=written(count.address, count.port) if count.address else "",
        state=next(iter(count.leg_faults), SILENT if count.silent else count.state),
        reason=count.reason or "",
        about=count.description,
        peak=count.rate.peak.second,
        before=0 if found is None else found.lost or found.mpeg_ts.continuity_errors,
        stream=name.partition("@")[0] if count.leg else "",  # others with @ are of a pattern
        used=None if count.switch is None else count.switch.used,
        outputs=[_output(output) for output in count.outputs],
    )


def _output(count: OutputCounts) -> OutputPicture:
    return OutputPicture(
        packets=count.rate.second.packets,
        bits=8 * count.rate.second.bytes,
        lost=losses(count.unsent),
        to=written(count.address, count.port),
        interface=count.interface_now or count.interface or "",
        state=count.state,
        reason=count.reason or "",
    )


def losses(counts: dict[str, int]) -> dict[str, int]:
    """Losses, as far as there are any."""
    if not any(counts.values()):
        return {}
    return {name: number for name, number in counts.items() if number and name not in NO_LOSS}


def rate_text(flow: Flow) -> str:
    """A rate as people read it: 2000 packets/s, 22.4 Mbit/s."""
    return f"{flow.packets} packets/s, {bits_text(flow.bits)}"


def bits_text(bits: int) -> str:
    """Bits in a second: 22.4 Mbit/s."""
    for unit, size in (("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3)):
        if bits >= size:
            return f"{bits / size:.3g} {unit}/s"
    return f"{bits} bit/s"


def by_interface(shown: Picture) -> dict[str, dict[str, RulePicture]]:
    """The rules by the interface that they come by, both in the order of their names."""
    found: dict[str, dict[str, RulePicture]] = {}
    for name, rule in sorted(shown.rules.items(), key=lambda item: (item[1].interface, item[0])):
        found.setdefault(rule.interface, {})[name] = rule
    return found
