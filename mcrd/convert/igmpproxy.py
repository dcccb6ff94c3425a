"""igmpproxy.conf(5): groups from one upstream interface to those that ask for them."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mcrd.convert.draft import Draft, DraftRule, Value
from mcrd.convert.smcroute import ALL_PORTS, KEEPS, TTL

ROLES = ("upstream", "downstream", "disabled")
_ANY_GROUP = "239.0.0.0/8"
_ARGUMENTS = {"quickleave": 0, "defaultdown": 0, "chroot": 1, "user": 1, "hashtablesize": 1}


@dataclass
class _Interface:
    name: str
    role: str
    where: str
    settings: dict[str, list[str]] = field(default_factory=dict)


def is_igmpproxy(text: str) -> bool:
    """Whether some interface of the text has a role."""
    words = [word for _, word in _words(text)]
    return any(
        words[at] == "phyint" and words[at + 2] in ROLES for at in range(max(0, len(words) - 2))
    )


def _words(text: str) -> Iterator[tuple[int, str]]:
    """Words with the numbers of their lines: a statement may go over several."""
    for number, line in enumerate(text.splitlines(), 1):
        for word in line.partition("#")[0].split():
            yield number, word


def from_igmpproxy(text: str, source: str) -> Draft:
    """A draft of what the file says; what cannot be read is a remark."""
    draft = Draft(source, understood=True)
    interfaces = _interfaces(draft, list(_words(text)))
    ups = [each for each in interfaces if each.role == "upstream"]
    downs = [each for each in interfaces if each.role == "downstream"]
    if not ups or not downs:
        draft.remarks.append("no rule: it takes an upstream and a downstream interface")
    for up in ups:
        _rules(draft, up, downs)
    if draft.rules:
        draft.interfaces = {down.name: {"querier": True} for down in downs}
        draft.remarks.append(KEEPS.format(program="igmpproxy"))
    return draft


def _interfaces(draft: Draft, words: list[tuple[int, str]]) -> list[_Interface]:
    found: list[_Interface] = []
    at = 0
    while at < len(words):
        number, word = words[at]
        line = f"line {number}: {word}"
        rest = [text for _, text in words[at + 1 : at + 3]]
        if word == "phyint" and rest[1:] and rest[1] in ROLES:
            name, role = rest
            found.append(_Interface(name, role, f"{line} {name} {role}"))
            at += 3
        elif word in ("ratelimit", "threshold", "altnet", "whitelist") and found and rest:
            found[-1].settings.setdefault(word, []).append(rest[0])
            at += 2
        elif word in _ARGUMENTS:
            draft.remarks.append(f"{line}: needs no equivalent")
            at += 1 + _ARGUMENTS[word]
        else:
            draft.remarks.append(f"{line}: not understood")
            at += 1
    return found


def _rules(draft: Draft, up: _Interface, downs: list[_Interface]) -> None:
    """A rule for each of the groups: it goes where somebody joins it, and is allowed to."""
    remarks = [
        f"{each.where}: {name} {' '.join(each.settings[name])}: {why}"
        for each in (up, *(downs if not draft.rules else ()))
        for name, why in (
            ("ratelimit", "`limit` counts packets, not bytes"),
            ("threshold", "the TTL of what comes makes no difference here"),
        )
        if each.settings.get(name) not in (None, ["0"], ["1"])
    ]
    sources = up.settings.get("altnet", [])
    if "0.0.0.0/0" in sources:
        sources = []
    if sources:
        remarks.append(f"{up.where}: add the networks of {up.name} itself, if it sends from there")
    of_up = up.settings.get("whitelist") or [_ANY_GROUP]
    to: dict[str, list[str]] = {}
    for down in downs:
        for group in down.settings.get("whitelist") or of_up:
            to.setdefault(group.removesuffix("/32"), []).append(down.name)
    if _ANY_GROUP in to:
        remarks.append(
            f"{up.where}: no whitelist: the groups of {_ANY_GROUP} are relayed, of 224.0.0.0/4 none"
            " but these"
        )
    for address, names in to.items():
        given: dict[str, Value] = {"interface": up.name, "address": address, "port": ALL_PORTS}
        if sources:
            given["sources"] = sources
        outputs: list[dict[str, Value]] = [
            {"interface": name, "source": "keep", "ttl": TTL, "when": "members"} for name in names
        ]
        rule = DraftRule(draft.free_name(f"{up.name}-{address}"), given, outputs)
        rule.remarks, rule.where = remarks, up.where
        draft.rules.append(rule)
        remarks = []
