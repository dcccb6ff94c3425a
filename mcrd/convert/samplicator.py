"""samplicator: telemetry to several receivers; its configuration, and what its options say."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from mcrd.addresses import plain
from mcrd.convert.draft import Draft, DraftRule, Value
from mcrd.model import Network

PORT = 2000
"""That it listens on, and sends to, where nothing else is said."""

UNKNOWN = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Addresses of documentation (RFC 5737, RFC 3849): no packet is for them."""

_LINE = re.compile(r"\s*(?P<source>\[[^\]]*\](?:/\d+)?|[^:\s]+)\s*:(?P<receivers>.*)")
_RECEIVER = re.compile(
    r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^/]+))"
    r"(?:/(?P<port>\d+)(?:/(?P<sample>\d+)?(?:,(?P<ttl>\d+))?)?)?"
)


@dataclass(frozen=True)
class Listening:
    """What the options say: the address and port to listen on; `keeps`: sources are kept."""

    address: str | None = None
    port: int = PORT
    keeps: bool = False


class Line(NamedTuple):
    """A line of the configuration: whose packets (None: all) go to which receivers."""

    where: str
    source: Network | None
    receivers: list[str]


def is_samplicator(text: str) -> bool:
    """Whether a line of the text is one of its configuration."""
    return any(_source(found["source"]) is not None for _, found in _matches(text) if found)


def from_samplicator(text: str, source: str) -> Draft:
    """A draft of what the file says; what cannot be read is a remark."""
    draft = Draft(source)
    add(draft, lines(draft, text), Listening())
    return draft


def _matches(text: str) -> Iterator[tuple[str, re.Match[str] | None]]:
    for number, whole in enumerate(text.splitlines(), 1):
        line = whole.partition("#")[0].strip()
        if line:
            yield f"line {number}: {line}", _LINE.fullmatch(line)


def lines(draft: Draft, text: str, of: str = "") -> list[Line]:
    """The lines of a configuration, which is that of the file `of`."""
    made = []
    for where, found in _matches(text):
        source = _source(found["source"]) if found else None
        if found is None or source is None:
            draft.remarks.append(
                f"{of}{where}: not understood: expected ADDRESS/MASK: RECEIVERS, with a mask that"
                " is a prefix"
            )
            continue
        draft.understood = True
        made.append(
            Line(of + where, source if source.prefixlen else None, found["receivers"].split())
        )
        if source.version == 6 and not source.prefixlen:
            draft.remarks.append(f"{of}{where}: taken as any source, of IPv4 as well")
    return made


def _source(text: str) -> Network | None:
    try:
        return ip_network(re.sub(r"[\[\]]", "", text), strict=False)
    except ValueError:
        return None


def add(draft: Draft, given: Iterable[Line], listening: Listening) -> None:
    """Add a rule for each family of sources: with an output for each receiver."""
    rules: dict[int, DraftRule] = {}
    chosen: dict[tuple[Value, ...], set[Network] | None] = {}
    for line in given:
        version = line.source.version if line.source else _family(listening)
        rule = rules.get(version) or _rule(draft, version, listening, line.where)
        rules[version] = rule
        for word in line.receivers:
            output = _output(word, listening.keeps)
            if isinstance(output, str):
                rule.remarks.append(f"{line.where}: {word}: left out: {output}")
                continue
            key = (version, *_place(output))
            known = next((o for o in rule.outputs if _place(o) == key[1:]), None)
            if known is None:
                rule.outputs.append(output)
                chosen[key] = {line.source} if line.source else None
            elif known != output:
                text = "this receiver is there already, with another interval or TTL"
                rule.remarks.append(f"{line.where}: {word}: left out: {text}")
            elif (sources := chosen[key]) is not None:
                chosen[key] = sources | {line.source} if line.source else None
    for version, rule in rules.items():
        for output in rule.outputs:
            sources = chosen[(version, *_place(output))]
            if sources is not None:
                output["sources"] = sorted(str(plain(source)) for source in sources)
        if rule.outputs:
            draft.rules.append(rule)
        else:
            draft.remarks += rule.remarks


def _family(listening: Listening) -> int:
    return 6 if ":" in (listening.address or "") else 4


def _rule(draft: Draft, version: int, listening: Listening, where: str) -> DraftRule:
    name = f"samplicator-{listening.port}" + ("-ipv6" if version == 6 else "")
    address = listening.address
    if address is not None and _family(listening) != version:
        address = None
    given: dict[str, Value] = {
        "interface": "*",
        "address": address or UNKNOWN[version],
        "port": listening.port,
    }
    rule = DraftRule(draft.free_name(name), given, [], where=where, enabled=address is not None)
    rule.remarks.append(
        'interface = "*" is every interface, each with a ring: name the one that packets come by'
    )
    if address is None:
        rule.remarks.append(
            f"{given['address']} stands for the address of this host that packets are sent to:"
            " put that there, and take `enabled` out"
        )
    return rule


def _output(word: str, keeps: bool) -> dict[str, Value] | str:
    """An output for ADDRESS[/PORT[/INTERVAL[,TTL]]]; else why there is none."""
    found = _RECEIVER.fullmatch(word)
    if found is None:
        return "expected ADDRESS/PORT/INTERVAL,TTL"
    try:
        address = ip_address(found["v6"] or found["host"])
    except ValueError:
        return "not an address: mcrd asks no name server"
    made: dict[str, Value] = {"address": str(address), "port": int(found["port"] or PORT)}
    if found["ttl"]:
        made["ttl"] = int(found["ttl"])
    if keeps:
        made["source"] = "keep"
    if int(found["sample"] or 1) > 1:
        made["sample"] = int(found["sample"])
    return made


def _place(output: dict[str, Value]) -> tuple[Value, Value]:
    return output["address"], output["port"]
