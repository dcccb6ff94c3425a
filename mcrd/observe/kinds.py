"""The kinds of frames that are for the rule, and what the others lack. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from mcrd.addresses import allows, covers, destinations, first_address, has_port
from mcrd.looks import Kind, Look
from mcrd.model import Address, Input, Network, PortRange, Rule

RANGES = 256  # that are looked through for each kind


@dataclass(frozen=True, slots=True)
class Sorted:
    """`good`: what the rule takes. `near`: by the one thing that is wrong with them.

    `several`: by more than one, or it is for another rule.
    """

    good: Sequence[Kind]
    near: Mapping[str, Sequence[Kind]]


def sort(given: Input, kinds: Sequence[Kind]) -> Sorted:
    """Sort what was seen by what it lacks."""
    version = first_address(given.address).version
    good: list[Kind] = []
    near: dict[str, list[Kind]] = {}
    for kind in kinds:
        if kind.protocol not in ("udp", "esp") or _version(kind) != version:
            continue
        lacks = _lacks(given, kind)
        if not lacks:
            good.append(kind)
        elif "group" not in lacks or "port" not in lacks:
            own = lacks == ["own"] and not kind.back
            alone = own or (len(lacks) == 1 and kind.rule is None)
            near.setdefault(lacks[0] if alone else "several", []).append(kind)
    whole = [kind for kind in good if not kind.fragment]
    parts = {kind.fragment for kind in good} - {""}
    if parts and (version == 6 or parts != {"first", "later"}):
        near["fragment"] = [kind for kind in good if kind.fragment]
        good = whole
    return Sorted(good, near)


def mark(look: Look, rule: Rule, rules: Iterable[Rule]) -> None:
    """Add to kinds, and to members that were heard, as `rule`, another one that has them.

    It takes or sends these kinds, or sends to that group; None: none does.
    """
    interface = rule.input.interface
    inputs = _Index()
    outputs = {name: _Index() for name in (interface, *look.heard)}
    for other in rules:
        if other.name == rule.name or not other.enabled:
            continue
        if other.input.interface == interface:
            for each in destinations(other.input):
                inputs.add(each, other.input.port, other)
        for output in other.outputs:
            if output.interface in outputs:
                outputs[output.interface].add(output.address, output.port, other)
    for kind in look.kinds:
        address, port = ip_address(kind.destination), kind.port or 0
        if kind.outgoing:
            found = list(outputs[interface].at(address, port))
        else:
            # Two rules may share a group, each with its sources.
            here = _is_to(rule.input, address) and has_port(rule.input.port, port)
            come = inputs.at(address, port)
            found = [other for other in come if not here or takes(other.input, kind)]
        first = found[0] if found else None
        kind.rule = first.name if first else None
        kind.back = bool(kind.outgoing and first and _is_back(rule, first))
    for name, heard in look.heard.items():
        for member in (m for protocol in heard.values() for m in protocol.members):
            sender = next(iter(outputs[name].at(ip_address(member.group), 0)), None)
            member.rule = sender.name if sender else None


def _is_back(rule: Rule, other: Rule) -> bool:
    """Whether the two relay both ways between two networks, as for discovery."""
    return any(
        output.interface == other.input.interface and output.address == other.input.address
        for output in rule.outputs
    )


class _Index:
    """An index by address and port of rules that may be thousands."""

    def __init__(self) -> None:
        self._single: dict[tuple[Address, int], list[Rule]] = {}
        self._any_port: dict[Address, Rule] = {}
        self._ranges: list[tuple[Address | Network, int | PortRange, Rule]] = []

    def add(self, address: Address | Network, port: int | PortRange, rule: Rule) -> None:
        if isinstance(address, Address):
            self._any_port.setdefault(address, rule)
        if isinstance(address, Address) and isinstance(port, int):
            self._single.setdefault((address, port), []).append(rule)
        elif len(self._ranges) < RANGES:
            self._ranges.append((address, port, rule))

    def at(self, address: Address, port: int) -> Iterator[Rule]:
        """Those at an address and port; port 0: at any."""
        if port == 0 and address in self._any_port:
            yield self._any_port[address]
        yield from self._single.get((address, port), ())
        for network, ports, rule in self._ranges:
            if covers(network, address) and (port == 0 or has_port(ports, port)):
                yield rule


def takes(given: Input, kind: Kind) -> bool:
    """Whether frames of this kind are for the rule."""
    return not _lacks(given, kind)


def _is_to(given: Input, address: Address) -> bool:
    return any(covers(each, address) for each in destinations(given))


def _lacks(given: Input, kind: Kind) -> list[str]:
    """What a kind lacks, in the order in which a person would look."""
    lacks = []
    if not _is_to(given, ip_address(kind.destination)):
        lacks.append("group")
    if kind.vlan != given.vlan or kind.inner_vlan:
        lacks.append("vlan")
    if not allows(given, ip_address(kind.source)):
        lacks.append("source")
    if kind.protocol != given.protocol:
        lacks.append("protocol")
    elif given.protocol == "udp" and kind.port is not None and not has_port(given.port, kind.port):
        lacks.append("port")
    if kind.port is None and "group" in lacks:
        lacks.append("port")  # of another group, and norule says that it is about the rule
    if kind.wrong_checksum:
        lacks.append("checksum")
    if kind.other_host:
        lacks.append("hardware")
    if kind.outgoing:
        lacks.append("own")
    return lacks


def _version(kind: Kind) -> int:
    return 6 if ":" in kind.destination else 4


def queries(kinds: Sequence[Kind], version: int) -> tuple[str, str] | None:
    """The queriers among the frames that were seen, and their versions."""
    wanted = "igmp" if version == 4 else "mld"
    for kind in kinds:
        if kind.protocol == wanted and kind.detail.startswith("query"):
            return kind.source, kind.detail.removeprefix("query ")
    return None
