"""igmpproxy.conf(5): groups from one upstream interface to those that ask for them."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from mcrd.addresses import plain
from mcrd.convert.draft import Draft, DraftRule, Value
from mcrd.convert.smcroute import ALL_PORTS, KEEPS, TTL
from mcrd.words import few

ROLES = ("upstream", "downstream", "disabled")
_ANY_GROUP = "239.0.0.0/8"
_PIECES = 128  # rules that one network may become
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
    of_up = up.settings.get("whitelist", [])
    to: dict[str, set[str]] = {}
    for down in downs:
        for group in down.settings.get("whitelist") or of_up or [_ANY_GROUP]:
            to.setdefault(group, set()).add(down.name)
    if not of_up and not all(down.settings.get("whitelist") for down in downs):
        remarks.append(
            f"{up.where}: no whitelist: the groups of {_ANY_GROUP} are relayed, of 224.0.0.0/4 none"
            " but these"
        )
    for address, names in _apart(to, draft.remarks, up.where):
        given: dict[str, Value] = {"interface": up.name, "address": address, "port": ALL_PORTS}
        if sources:
            given["sources"] = sources
        outputs: list[dict[str, Value]] = [
            {"interface": name, "source": "keep", "ttl": TTL, "when": "members"}
            for name in dict.fromkeys(down.name for down in downs)
            if name in names
        ]
        rule = DraftRule(draft.free_name(f"{up.name}-{address}"), given, outputs)
        rule.remarks, rule.where = remarks, up.where
        draft.rules.append(rule)
        remarks = []


def _apart(
    to: Mapping[str, set[str]], remarks: list[str], where: str
) -> Iterator[tuple[str, set[str]]]:
    """Networks that do not overlap, and where each goes: one within others goes where they go too.

    What is no network stays as it is: others say so.
    """
    allowed: dict[IPv4Network, set[str]] = {}
    for text, names in to.items():
        try:
            allowed[IPv4Network(text)] = names
        except ValueError:
            yield text, names
    goes = {
        each: names.union(*(allowed[wider] for wider in _around(each, allowed)))
        for each, names in allowed.items()
    }
    # One that goes where a wider one goes is a part of that.
    within: dict[IPv4Network, list[IPv4Network]] = {
        each: []
        for each, names in goes.items()
        if all(goes[wider] != names for wider in _around(each, goes))
    }
    for each in within:
        if (wider := next(_around(each, within), None)) is not None:
            within[wider].append(each)
    for each, narrower in within.items():
        pieces, names = _without(each, narrower), goes[each]
        about = f"{where}: the groups of {each}"
        others = few([str(plain(network)) for network in narrower], 3, ", and {} more")
        if len(pieces) > _PIECES:
            only = " and ".join(sorted(names))
            remarks.append(f"{about}: too many rules without {others}: {only}: only these of it")
            continue
        if narrower:
            text = (
                f"{about}: {len(pieces)} rules, without {others}: what is in two rules is an error"
            )
            remarks.append(text)
        for piece in pieces:
            yield str(plain(piece)), names


def _around(network: IPv4Network, known: Container[IPv4Network]) -> Iterator[IPv4Network]:
    """Those that the network lies in, the narrowest first."""
    for bits in range(network.prefixlen - 1, -1, -1):
        if (wider := network.supernet(new_prefix=bits)) in known:
            yield wider


def _without(network: IPv4Network, narrower: Iterable[IPv4Network]) -> list[IPv4Network]:
    """The rest of it, or the first of more than `_PIECES` pieces."""
    pieces = [network]
    for each in narrower:
        at = next(at for at, piece in enumerate(pieces) if each.subnet_of(piece))
        pieces[at : at + 1] = sorted(pieces[at].address_exclude(each))
        if len(pieces) > _PIECES:
            break
    return pieces
