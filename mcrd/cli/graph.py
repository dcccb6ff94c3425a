"""`mcrctl graph`: the picture of what flows where, as text, SVG or JSON."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import msgspec

from mcrd.cli.output import drops, printable
from mcrd.cli.svg import drawing
from mcrd.picture import Flow, Picture, RulePicture, by_interface, rate_text

WIDEST = 10  # characters of the widest flow


def run(shown: Picture, wanted: Sequence[str], form: str) -> int:
    """Print the picture; return 1 when no rule is called so."""
    if wanted:
        chosen = {name: r for name, r in shown.rules.items() if _is_wanted(name, r, wanted)}
        if not chosen:
            print(f"no rule is called {' or '.join(map(printable, wanted))}")
            return 1
        used = {rule.interface for rule in chosen.values()}
        used |= {output.interface for rule in chosen.values() for output in rule.outputs}
        interfaces = {name: each for name, each in shown.interfaces.items() if name in used}
        shown = Picture(chosen, interfaces)
    if form == "json":
        print(msgspec.json.encode(shown).decode())
    else:
        for line in drawing(shown) if form == "svg" else text(shown):
            print(line)
    return 0


def _is_wanted(name: str, rule: RulePicture, wanted: Sequence[str]) -> bool:
    return any(rule.stream == each or fnmatchcase(name, each) for each in wanted)


def text(shown: Picture) -> Iterator[str]:
    """A tree: interfaces, below each what comes by it, below that where it leaves."""
    if not shown.rules:
        yield "no rules"
    widest = max((rule.bits for rule in shown.rules.values()), default=0)
    for interface, rules in by_interface(shown).items():
        node = shown.interfaces.get(interface)
        said = "; ".join((rate_text(node), *_lost(node), *node.queriers)) if node else "not there"
        yield printable(f"{interface or '(none)'}  {said}")
        for name, rule in rules.items():
            used = {None: (), True: ("in use",), False: ("not in use",)}[rule.used]
            before = (f"{rule.before} lost before",) if rule.before else ()
            told = "; ".join((*_told(rule, rule.state, rule.reason, widest), *used, *before))
            yield printable(f"  +-- {name}  {rule.source}  {told}")
            for output in rule.outputs:
                told = "; ".join(_told(output, output.state, output.reason, widest))
                yield printable(f"  |     --> {output.interface or '(none)'} {output.to}  {told}")


def _told(flow: Flow, state: str, reason: str, widest: int) -> Iterator[str]:
    width = -(-WIDEST * flow.bits // widest) if widest else 0
    bar = f"{'=' * min(width, WIDEST)} " if width else ""
    yield bar + (f"{state}: {reason}" if reason else state)
    yield rate_text(flow)
    yield from _lost(flow)


def _lost(flow: Flow) -> Iterator[str]:
    if flow.lost:
        yield f"lost: {drops(flow.lost)}"
