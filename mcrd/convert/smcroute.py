"""smcroute.conf(5): routes of the kernel's own multicast routing."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex

from mcrd.convert.draft import Draft, DraftRule, Value

ALL_PORTS = "1-65535"
TTL = 16  # the kernel lowers that of each packet; mcrd sends with one of its own

KEEPS = (
    "{program} forwards packets of any protocol, and lowers the TTL of each by one. mcrd relays UDP"
    f" alone, of all ports here, and sends with a TTL of {TTL}; narrow the ports if you know them."
)
_SAME_SOURCE = (
    'source = "keep" sends from the address of the sender, as the kernel does when it forwards;'
    " without it, mcrd sends from an address of its own, which needs no routes back."
)


_Statement = dict[str, list[str]]
"""The words of a line by the keyword before them."""


def from_smcroute(text: str, source: str) -> Draft:
    """A draft of what the file says; what cannot be read is a remark."""
    draft = Draft(source)
    joined: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            draft.remarks.append(f"line {number}: {line}: not understood: {error}")
            continue
        if not words:
            continue
        where = f"line {number}: {' '.join(words)}"
        draft.understood |= words[0] in ("mgroup", "ssmgroup", "phyint", "include")
        match words[0]:
            case "mroute":
                _route(draft, _statement(words[1:]), where)
            case "mgroup" | "ssmgroup":
                statement = _statement(words[1:])
                joined.append((_one(statement, "from") or "?", _one(statement, "group") or "?"))
            case "phyint":
                draft.remarks.append(
                    f"{where}: an interface needs no leave here; a threshold of the TTL has no"
                    " equivalent"
                )
            case "include":
                draft.remarks.append(
                    f"{where}: import that file too, and name the result in include = [...] under"
                    " [daemon]"
                )
            case _:
                draft.remarks.append(f"{where}: not understood")
    routed = {(rule.input["interface"], rule.input["address"]) for rule in draft.rules}
    for interface, group in joined:
        if (interface, group) not in routed:
            draft.remarks.append(
                f"{group} was joined on {interface} and routed nowhere: mcrd joins the groups of"
                " its rules alone"
            )
    if draft.rules:
        draft.remarks += [KEEPS.format(program="smcroute"), _SAME_SOURCE]
    return draft


def _statement(words: list[str]) -> _Statement:
    found: _Statement = {}
    key = ""
    for word in words:
        if word in ("from", "source", "group", "to"):
            key = word
            found[key] = []
        elif key in ("from", "to") and word.endswith("+"):
            found[key].append(f"{word[:-1]}*")  # all interfaces whose names begin so
        elif key:
            found[key].append(word)
    return found


def _one(statement: _Statement, key: str) -> str | None:
    """The word after a keyword."""
    return next(iter(statement.get(key, ())), None)


def _route(draft: Draft, statement: _Statement, where: str) -> None:
    interface, group = _one(statement, "from"), _one(statement, "group")
    outputs = statement.get("to", [])
    if not interface or not group or not outputs:
        draft.remarks.append(f"{where}: not understood: a route needs from, group and to")
        return
    given: dict[str, Value] = {"interface": interface, "address": group, "port": ALL_PORTS}
    if sender := _one(statement, "source"):
        given["sources"] = [sender]
    draft.understood = True
    rule = DraftRule(
        draft.free_name(f"{interface}-{group}"),
        given,
        [{"interface": name, "source": "keep", "ttl": TTL} for name in outputs],
        where=where,
    )
    draft.rules.append(rule)
