"""Which of the kinds of frames that were seen are for the rule, and what the others lack. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Generic, TypeVar

from mcrd.model import Address, Input, Network, Output, PortRange, Rule
from mcrd.resources import first_address, first_port, is_to

Kind = Mapping[str, Any]
"""As Summary.plain() has them, with what mark() adds."""


End = TypeVar("End", Input, Output)
RANGES = 256  # that are looked through for each kind


@dataclass(frozen=True, slots=True)
class Sorted:
    """`good`: what the rule takes. `near`: by the one thing that is wrong with them.

    `several`: by more than one, or it is for another rule.
    """

    good: Sequence[Kind]
    near: Mapping[str, Sequence[Kind]]


def sort(given: Input, kinds: Sequence[Kind]) -> Sorted:
    """What was seen, by what it lacks."""
    version = first_address(given.address).version
    good: list[Kind] = []
    near: dict[str, list[Kind]] = {}
    for kind in kinds:
        if kind["protocol"] not in ("udp", "esp") or _version(kind) != version:
            continue
        lacks = _lacks(given, kind)
        if not lacks:
            good.append(kind)
        elif "group" not in lacks or "port" not in lacks:
            own = lacks == ["own"]
            alone = own or (len(lacks) == 1 and kind["rule"] is None)
            near.setdefault(lacks[0] if alone else "several", []).append(kind)
    whole = [kind for kind in good if not kind["fragment"]]
    parts = {kind["fragment"] for kind in good} - {""}
    if parts and (version == 6 or parts != {"first", "later"}):
        near["fragment"] = [kind for kind in good if kind["fragment"]]
        good = whole
    return Sorted(good, near)


def mark(look: Mapping[str, Any], rule: Rule, rules: Iterable[Rule]) -> None:
    """Adds to kinds, and to members that were heard, as `rule`, another one that has them.

    It takes or sends these kinds, or sends to that group; None: none does.
    """
    interface = rule.input.interface
    others = [other for other in rules if other.name != rule.name]
    inputs: _Index[Input] = _Index()
    outputs: dict[str, _Index[Output]] = {name: _Index() for name in (interface, *look["heard"])}
    for other in others:
        if other.input.interface == interface:
            inputs.add(other.input.address, other.name, other.input)
        for output in other.outputs:
            if other.enabled and output.interface in outputs:
                outputs[output.interface].add(output.address, other.name, output)
    for kind in look["kinds"]:
        address, port = ip_address(kind["destination"]), kind["port"] or 0
        if kind["outgoing"]:
            sent = outputs[interface].at(address)
            kind["rule"] = next((name for name, end in sent if is_to(end, address, port)), None)
        else:
            come = inputs.at(address)
            kind["rule"] = next((name for name, end in come if port == 0 or _has(end, port)), None)
    for name, heard in look["heard"].items():
        for member in (m for protocol in heard.values() for m in protocol["members"]):
            sent = outputs[name].at(ip_address(member["group"]))
            member["rule"] = next((name for name, _ in sent), None)


class _Index(Generic[End]):
    """Ends of rules by address: there may be thousands."""

    def __init__(self) -> None:
        self._single: dict[Address, list[tuple[str, End]]] = {}
        self._ranges: list[tuple[Network, str, End]] = []

    def add(self, address: Address | Network, name: str, end: End) -> None:
        if isinstance(address, Address):
            self._single.setdefault(address, []).append((name, end))
        elif len(self._ranges) < RANGES:
            self._ranges.append((address, name, end))

    def at(self, address: Address) -> Iterator[tuple[str, End]]:
        yield from self._single.get(address, ())
        yield from ((name, end) for network, name, end in self._ranges if address in network)


def takes(given: Input, kind: Kind) -> bool:
    """Whether frames of this kind are for the rule."""
    return not _lacks(given, kind)


def _lacks(given: Input, kind: Kind) -> list[str]:
    """In the order in which a person would look."""
    lacks = []
    if not _takes(given, kind["destination"]):
        lacks.append("group")
    if kind["vlan"] != given.vlan or kind["inner_vlan"]:
        lacks.append("vlan")
    if not _allows(given, kind["source"]):
        lacks.append("source")
    if kind["protocol"] != given.protocol:
        lacks.append("protocol")
    elif given.protocol == "udp" and kind["port"] is not None and not _has(given, kind["port"]):
        lacks.append("port")
    if kind["port"] is None and "group" in lacks:
        lacks.append("port")  # of another group, and nothing says that it is about the rule
    if kind["wrong_checksum"]:
        lacks.append("checksum")
    if kind["other_host"]:
        lacks.append("hardware")
    if kind["outgoing"]:
        lacks.append("own")
    return lacks


def _version(kind: Kind) -> int:
    return 6 if ":" in kind["destination"] else 4


def _takes(given: Input, address: str) -> bool:
    host = ip_address(address)
    return host in given.address if isinstance(given.address, Network) else host == given.address


def _has(given: Input, port: int) -> bool:
    return (
        port in given.port if isinstance(given.port, PortRange) else port == first_port(given.port)
    )


def _allows(given: Input, source: str) -> bool:
    host = ip_address(source)
    if any(host in network for network in given.exclude):
        return False
    return not given.sources or any(host in network for network in given.sources)


def queries(kinds: Sequence[Kind], version: int) -> tuple[str, str] | None:
    """Who queries, of the frames that were seen, and in which version."""
    wanted = "igmp" if version == 4 else "mld"
    for kind in kinds:
        if kind["protocol"] == wanted and kind["detail"].startswith("query"):
            return kind["source"], kind["detail"].removeprefix("query ")
    return None
