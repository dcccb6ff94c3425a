"""smcroute.conf(5): routes of the kernel's own multicast routing."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from mcrd.convert.draft import Draft, DraftRule

ALL_PORTS = "1-65535"
TTL = 16  # the kernel lowers that of each packet; mcrd sends with one of its own

_KEEPS = (
    "smcroute forwards packets of any protocol, and lowers the TTL of each by one. mcrd relays UDP"
    f" alone, of all ports here, and sends with a TTL of {TTL}; narrow the ports if you know them."
)
_SAME_SOURCE = (
    'source = "keep" sends from the address of the sender, as the kernel does when it forwards;'
    " without it, mcrd sends from an address of its own, which needs no routes back."
)


@dataclass
class _Statement:
    """The words of a line by the keyword before them."""

    given: dict[str, list[str]] = field(default_factory=dict)

    def one(self, key: str) -> str | None:
        """The word after a keyword."""
        words = self.given.get(key, [])
        return words[0] if words else None


def from_smcroute(text: str, source: str) -> Draft:
    """A draft of what the file says; what cannot be read is a remark."""
    draft = Draft(source)
    joined: list[tuple[str, str]] = []
    for number, line in _lines(text):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            draft.remarks.append(f"line {number}: {line}: not understood: {error}")
            continue
        if not words:
            continue
        match words[0]:
            case "mroute":
                _route(draft, _statement(words[1:]), f"line {number}: {' '.join(words)}")
            case "mgroup" | "ssmgroup":
                draft.understood = True
                statement = _statement(words[1:])
                joined.append((statement.one("from") or "?", statement.one("group") or "?"))
            case "phyint":
                draft.understood = True
                draft.remarks.append(
                    f"line {number}: {' '.join(words)}: an interface needs no leave here; a"
                    " threshold of the TTL has no equivalent"
                )
            case "include":
                draft.understood = True
                draft.remarks.append(
                    f"line {number}: {' '.join(words)}: import that file too, and name the result"
                    " in include = [...] under [daemon]"
                )
            case _:
                draft.remarks.append(f"line {number}: {' '.join(words)}: not understood")
    routed = {(rule.input["interface"], rule.input["address"]) for rule in draft.rules}
    for interface, group in joined:
        if (interface, group) not in routed:
            draft.remarks.append(
                f"{group} was joined on {interface} and routed nowhere: mcrd joins the groups of"
                " its rules alone"
            )
    if draft.rules:
        draft.remarks += [_KEEPS, _SAME_SOURCE]
    return draft


def _lines(text: str) -> list[tuple[int, str]]:
    return list(enumerate(text.splitlines(), 1))


def _statement(words: list[str]) -> _Statement:
    found = _Statement()
    key = ""
    for word in words:
        if word in ("from", "source", "group", "to"):
            key = word
            found.given[key] = []
        elif key:
            found.given[key].append(word)
    return found


def _route(draft: Draft, statement: _Statement, where: str) -> None:
    interface, group = statement.one("from"), statement.one("group")
    outputs = statement.given.get("to", [])
    if not interface or not group or not outputs:
        draft.remarks.append(f"{where}: not understood: a route needs from, group and to")
        return
    given: dict[str, str | int | bool | list[str] | list[int]] = {
        "interface": interface,
        "address": group,
        "port": ALL_PORTS,
    }
    sender = statement.one("source")
    if sender:
        given["sources"] = [sender]
    draft.understood = True
    rule = DraftRule(
        draft.free_name(f"{interface}-{group}"),
        given,
        [{"interface": name, "source": "keep", "ttl": TTL} for name in outputs],
        where=where,
    )
    names = [name for name in (interface, *outputs) if name.endswith("+")]
    if names:
        rule.enabled = False
        rule.remarks.append(
            f"{', '.join(names)}: there are no wildcards; write a rule for each interface"
        )
    draft.rules.append(rule)
