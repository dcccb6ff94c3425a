"""Which interfaces have to be read together, as rules have inputs on several of them. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Sequence


def joined(rules: Iterable[Sequence[str]]) -> dict[str, str]:
    """The first interface of those that are read together, by each of them.

    `rules` has the interfaces of the inputs of each rule. An interface that is read alone is not in
    the result.
    """
    first: dict[str, str] = {}
    order: dict[str, int] = {}
    for names in rules:
        for name in names:
            order.setdefault(name, len(order))
        if len(set(names)) > 1:
            heads = {first.get(name, name) for name in names}
            head = min(heads, key=order.__getitem__)
            first.update(dict.fromkeys(names, head))
            first.update({name: head for name, other in first.items() if other in heads})
    return first
