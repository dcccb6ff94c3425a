"""The index: what one supervisor leaves to the next, in msgpack that other versions can read."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import msgspec

from mcrd import model
from mcrd.dataplane.messages import MemberKey
from mcrd.lanes.counts import OF_OUTPUTS, InterfaceCount, OutputCount, RuleCount, SwitchCount
from mcrd.planning import resources
from mcrd.planning.resources import Egress, Sending
from mcrd.sockets.ingress import Geometry
from mcrd.sums import InspectCount, Last, MergeCount, Traffic, TsCount
from mcrd.systemd.store import Identity

FORMAT = 1
"""Of the index. A supervisor that finds another one takes nothing over."""

ADDRESSES = (model.Broadcast, model.HostName, IPv4Address, IPv4Network, IPv6Address, IPv6Network)
VALUES: tuple[type[Any], ...] = (
    *(Egress, resources.GroupProtocol, resources.Hold, resources.Ingress, resources.Membership),
    *(resources.Reception, resources.Ring, resources.Worker, Geometry),
    *(InspectCount, InterfaceCount, Last, MergeCount, OutputCount, RuleCount, SwitchCount),
    *(Traffic, TsCount),
    *(model.Config, model.Daemon, model.Input, model.Inspect, model.Interface, model.Merge),
    *(model.Metrics, model.Output, model.Place, model.PortRange, model.Rule, model.Switch),
)
SENDING = [field.name for field in dataclasses.fields(Sending)]
KNOWN = {kind.__name__: kind for kind in (*ADDRESSES, *VALUES)}


class KeptRing(msgspec.Struct):
    """A ring pair, with the descriptors of its two sockets, of its tally and of its segment."""

    ring: Any
    geometry: Any
    large_geometry: Any
    descriptors: list[Identity]
    rules: Any  # slots in the segment
    outputs: Any
    members: list[tuple[MemberKey, str, int]]  # with rule and slot
    place: int = 0  # of the interface in the segment, which several may have together


class KeptGroup(msgspec.Struct):
    """What hosts want of a group that outputs send to. Times are the host's, monotonic."""

    interface: int  # its index
    group: bytes
    since: float
    until: float
    wanted: dict[bytes, float]
    refused: set[bytes]
    old: dict[int, float]


class Index(msgspec.Struct):
    """All of it. What is Any is packed: it is understood, or not, one by one."""

    format: int
    version: str
    network: int  # the inode of the network namespace
    rings: list[KeptRing] = []
    egress: list[tuple[Any, Identity]] = []
    receptions: list[tuple[Any, Identity]] = []
    holds: list[tuple[Any, Identity | None]] = []
    joined: list[tuple[Identity, list[Any]]] = []
    groups: list[KeptGroup] = []
    protocols: list[tuple[Any, int]] = []  # with what was there before
    offloads: dict[int, list[str]] = {}  # switched on by the index of their interface
    ports: Any = None
    counts: Any = None  # what Ledger.kept has
    restarts: Any = None
    chosen: dict[str, str] = {}  # inputs that are used by hand, by rule
    roles: dict[str, str] = {}  # that are wanted by hand, by rule
    resolved: dict[str, list[str]] = {}  # the addresses of hosts, by their names
    config: Any = None  # what ran, but for its rules,
    rules: list[Any] = []  # which are these


# Versions before do not have these, and refuse all of a value that has them: they are left out
# while they say nothing.
_NEWER = frozenset(
    {
        *(("Egress", "beside"), ("Egress", "hears"), ("Input", "also"), ("Input", "dedupe")),
        *(("Output", "replies"), ("Sending", "replies"), ("Rule", "inspect")),
        *(("Output", "sources"), ("Output", "exclude"), ("Output", "sample")),
        *(("Output", "when"), ("Output", "keeps_answerer"), ("Replies", "keeps")),
        *(("OutputCount", "waiting"), ("OutputCount", "late"), ("OutputCount", "lost")),
        *(("OutputCount", "skipped"), ("RuleCount", "inspect"), ("RuleCount", "merge")),
        *(("MergeCount", "shared"), ("MergeCount", "late"), ("Merge", "delay")),
        *(("MergeCount", "held"), ("MergeCount", "reordered"), ("MergeCount", "hurried")),
        *(("Interface", "members"), ("Ingress", "lane")),
        *(("Interface", "gro"), ("Ingress", "gro")),
        *(("Interface", "busy_poll"), ("Interface", "querier"), ("Worker", "busy_poll")),
        *(("Worker", "engine"), ("Daemon", "engine")),
        *(("Rule", "more"), ("Rule", "leg"), ("Rule", "merge"), ("Rule", "switch")),
        *(("RuleCount", "switch"), ("Rule", "active_with"), ("Rule", "role")),
        *(("Rule", "standby"), ("RuleCount", "backlog"), ("RuleCount", "overheard")),
        ("Sending", "floating"),
        *(("Interface", "igmp_version"), ("Interface", "mld_version"), ("Interface", "rejoin")),
    }
)


def pack(value: object) -> Any:
    """The value for msgpack: what that does not know becomes a list of a name and its parts.

    Fields go by name, so that a later version may have more of them. Those of a Sending stand
    among those of its egress, as versions without one have them.
    """
    name = type(value).__name__
    if isinstance(value, ADDRESSES):
        return [name, str(value)]
    if dataclasses.is_dataclass(value):
        return [name, {field: pack(part) for field, part in _parts(value)}]
    if isinstance(value, Mapping):
        return ["dict", [[pack(key), pack(other)] for key, other in value.items()]]
    if isinstance(value, tuple | list):
        return ["tuple", [pack(one) for one in value]]
    return value


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    for field in dataclasses.fields(value):
        part = getattr(value, field.name) if field.init else None
        if isinstance(part, Sending):
            yield from _parts(part)
        elif (type(value).__name__, field.name) in _NEWER and part == _default(field):
            continue
        elif field.init:
            yield field.name, part


def _default(field: dataclasses.Field[Any]) -> object:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def unpack(packed: Any) -> Any:
    """The packed value; raises ValueError, TypeError or KeyError for anything unknown."""
    if not isinstance(packed, list):
        return packed
    name, content = packed
    if name == "tuple":
        return tuple(unpack(one) for one in content)
    if name == "dict":
        return {unpack(key): unpack(other) for key, other in content}
    kind = KNOWN[name]
    if isinstance(content, str):
        return kind(content)
    parts = {field: unpack(other) for field, other in content.items()}
    if kind is Egress:
        of_all = {field: parts.pop(field) for field in SENDING if field in parts}
        parts["sending"] = Sending(**of_all)
    if kind is OutputCount and "dropped" not in parts:  # as 0.1.0 had it
        parts["dropped"] = {reason: parts.pop(reason, 0) for reason in OF_OUTPUTS}
    return kind(**parts)
