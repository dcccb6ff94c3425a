"""Which of the kinds of frames that were seen are for the rule, and what the others lack. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from mcrd.model import Input, Network, PortRange
from mcrd.resources import first_port

Kind = Mapping[str, Any]
"""As Summary.plain() has them."""


@dataclass(frozen=True, slots=True)
class Sorted:
    """`good`: what the rule takes. `near`: by the one thing that is wrong with them."""

    good: Sequence[Kind]
    near: Mapping[str, Sequence[Kind]]


def sort(given: Input, kinds: Sequence[Kind]) -> Sorted:
    """What was seen, by what it lacks; more than one thing is `several`."""
    good: list[Kind] = []
    near: dict[str, list[Kind]] = {}
    for kind in kinds:
        if kind["protocol"] not in ("udp", "esp"):
            continue
        lacks = _lacks(given, kind)
        if not lacks:
            good.append(kind)
        elif "group" not in lacks or "port" not in lacks:
            near.setdefault(lacks[0] if len(lacks) == 1 else "several", []).append(kind)
    whole = [kind for kind in good if not kind["fragment"]]
    parts = {kind["fragment"] for kind in good} - {""}
    if parts and (ip_address(good[0]["destination"]).version == 6 or parts != {"first", "later"}):
        near["fragment"] = [kind for kind in good if kind["fragment"]]
        good = whole
    return Sorted(good, near)


def takes(given: Input, kind: Kind) -> bool:
    """Whether frames of this kind are for the rule."""
    return not _lacks(given, kind)


def _lacks(given: Input, kind: Kind) -> list[str]:
    """In the order in which a person would look."""
    lacks = []
    if not _takes(given, kind["destination"]):
        lacks.append("group")
    if kind["vlan"] != given.vlan:
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
    return lacks


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
