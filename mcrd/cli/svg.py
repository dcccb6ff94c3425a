"""The picture of what flows where as SVG: one file, which names nothing outside it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from mcrd.cli.output import drops, printable
from mcrd.picture import Flow, Picture, RulePicture, bits_text, by_interface, rate_text

LEFT, RULE, RIGHT, WIDTH = 24, 372, 860, 1034  # where the columns begin; pixels
BOX, RULE_BOX = 150, 250  # how wide they are
NARROWEST, WIDEST = 1.5, 26.0  # of a flow
ROW, HEAD, GAP = 40, 44, 16
STYLE = """
svg { background: #fbfbfd; color: #1c2430; font: 13px system-ui, sans-serif }
text { fill: currentColor } .small { font-size: 11px; opacity: .75 }
.lost { fill: #b3261e; font-size: 11px } .title { font-size: 16px; font-weight: 600 }
rect { fill: #fff; stroke: #c3cad6 }
path { fill: none; stroke-opacity: .45 }
.active { --c: #0a8f6b } .standby { --c: #3b6fd4 } .idle, .disabled, .none { --c: #8a94a3 }
.waiting, .silent, .other { --c: #b97700 } .failed { --c: #c7362b }
path.flow { stroke: var(--c) } rect.mark { fill: var(--c); stroke: none }
@media (prefers-color-scheme: dark) {
  svg { background: #12161d; color: #e4e9f1 } rect { fill: #1b212b; stroke: #3a4454 }
  .lost { fill: #ff8a80 } .active { --c: #3ddbaf } .standby { --c: #83a9ff }
  .waiting, .silent, .other { --c: #f2b13e } .failed { --c: #ff7a70 }
}
"""
STATES = {"active", "standby", "idle", "disabled", "waiting", "silent", "failed"}


@dataclass
class Node:
    """An interface: what flows there begins or ends within its height."""

    name: str
    top: float = 0.0
    height: float = 0.0
    used: float = 0.0
    wish: float = 0.0
    bits: int = 0

    def place(self, width: float) -> float:
        """The middle of the next flow."""
        self.used += width
        return self.top + 12 + self.used - width / 2


Nodes = dict[str, Node]
Width = Callable[[Flow], float]


def drawing(shown: Picture) -> Iterator[str]:
    """The lines of the file."""
    most = max((each.bits for each in _flows(shown)), default=0)

    def width(flow: Flow) -> float:
        return max(NARROWEST, WIDEST * flow.bits / most) if most else NARROWEST

    inputs, rows, bottom = _left(shown, width)
    outputs = _right(shown, rows, width)
    bottom = max([bottom, *(node.top + node.height + GAP for node in outputs.values())])
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom:.0f}"'
        f' width="{WIDTH}" height="{bottom:.0f}" role="img">'
    )
    yield f"<title>What mcrd relays</title><style>{STYLE}</style>"
    for name, top in rows.items():
        yield from _flows_of(shown.rules[name], top, inputs, outputs, width)
    for node, x in (*((n, LEFT) for n in inputs.values()), *((n, RIGHT) for n in outputs.values())):
        yield from _node(shown, node, x)
    for name, top in rows.items():
        yield from _rule(name, shown.rules[name], top, width)
    yield "</svg>"


def _flows(shown: Picture) -> Iterator[Flow]:
    for rule in shown.rules.values():
        yield rule
        yield from rule.outputs


def _left(shown: Picture, width: Width) -> tuple[dict[str, Node], dict[str, float], float]:
    """The interfaces of inputs, where each rule begins, and where the last one ends."""
    nodes, rows, top = {}, {}, float(GAP)
    for interface, rules in by_interface(shown).items():
        first = top
        for name, rule in rules.items():
            rows[name] = top
            top += _height(rule, width) + GAP
        inner = sum(width(rule) for rule in rules.values())
        node = nodes[interface] = Node(interface, first, max(HEAD, inner + 24))
        node.bits = sum(rule.bits for rule in rules.values())
        node.top = first + max(0.0, (top - GAP - first - node.height) / 2)
        top = max(top, node.top + node.height + GAP)
    return nodes, rows, top


def _height(rule: RulePicture, width: Width) -> float:
    outputs = sum(max(ROW, width(output) + 8) for output in rule.outputs)
    return float(max(HEAD + (14 if rule.lost or rule.before else 0), width(rule) + 16, outputs))


def _right(shown: Picture, rows: dict[str, float], width: Width) -> dict[str, Node]:
    """The interfaces of outputs, each as near to its flows as there is room."""
    nodes: dict[str, Node] = {}
    count: dict[str, int] = {}
    for name, top in rows.items():
        for number, output in enumerate(shown.rules[name].outputs):
            node = nodes.setdefault(output.interface, Node(output.interface))
            node.height += width(output)
            node.bits += output.bits
            node.wish += top + number * ROW
            count[output.interface] = count.get(output.interface, 0) + 1
    free = float(GAP)
    for name in sorted(nodes, key=lambda each: nodes[each].wish / count[each]):
        node = nodes[name]
        node.height = max(HEAD, node.height + 24)
        node.top = max(free, node.wish / count[name])
        free = node.top + node.height + GAP
    return nodes


def _flows_of(
    rule: RulePicture, top: float, inputs: Nodes, outputs: Nodes, width: Width
) -> Iterator[str]:
    begin = inputs[rule.interface].place(width(rule))
    height = _height(rule, width)
    yield _path(LEFT + BOX, begin, RULE, top + height / 2, rule, rule.state, width)
    each = height / max(1, len(rule.outputs))
    for number, output in enumerate(rule.outputs):
        y = top + (number + 0.5) * each
        end = outputs[output.interface].place(width(output))
        yield _path(RULE + RULE_BOX, y, RIGHT, end, output, output.state, width)
        x = RULE + RULE_BOX + 10
        lost = f" <tspan class='lost'>{_text(drops(output.lost))}</tspan>" if output.lost else ""
        yield f'<text class="small" x="{x}" y="{y - 3:.1f}">{_text(output.to)}{lost}</text>'


def _path(x: int, y: float, to_x: int, to_y: float, flow: Flow, state: str, width: Width) -> str:
    middle = (x + to_x) / 2
    return (
        f'<path class="flow {_class(state)}" stroke-width="{width(flow):.1f}"'
        f' d="M{x} {y:.1f}C{middle:.0f} {y:.1f} {middle:.0f} {to_y:.1f} {to_x} {to_y:.1f}">'
        f"<title>{_text(f'{state}, {rate_text(flow)}')}</title></path>"
    )


def _node(shown: Picture, node: Node, x: int) -> Iterator[str]:
    yield f'<rect x="{x}" y="{node.top:.1f}" width="{BOX}" height="{node.height:.1f}" rx="8"/>'
    y = node.top + node.height / 2
    yield f'<text x="{x + 12}" y="{y - 3:.1f}">{_text(_cut(node.name or "(none)", 18))}</text>'
    yield f'<text class="small" x="{x + 12}" y="{y + 12:.1f}">{bits_text(node.bits)}</text>'
    known = shown.interfaces.get(node.name)
    if known and known.lost and x == LEFT:
        y = node.top + node.height + 12
        yield f'<text class="lost" x="{x}" y="{y:.1f}">{_text(drops(known.lost))}</text>'


def _rule(name: str, rule: RulePicture, top: float, width: Width) -> Iterator[str]:
    height = _height(rule, width)
    state = _class(rule.state)
    yield f'<rect x="{RULE}" y="{top:.1f}" width="{RULE_BOX}" height="{height:.1f}" rx="8"/>'
    mark = f'x="{RULE}" y="{top:.1f}" width="5" height="{height:.1f}" rx="2"'
    yield f'<rect class="mark {state}" {mark}/>'
    told = _text(f"{rule.state}: {rule.reason}" if rule.reason else rule.state)
    y = top + height / 2
    yield f"<g><title>{told}</title>"
    yield f'<text x="{RULE + 16}" y="{y - 4:.1f}">{_text(_cut(name, 34))}</text>'
    line = f"{rule.state}, {rate_text(rule)}"
    yield f'<text class="small" x="{RULE + 16}" y="{y + 11:.1f}">{_text(line)}</text></g>'
    lost = [drops(rule.lost)] if rule.lost else []
    lost += [f"{rule.before} lost before"] if rule.before else []
    if lost:
        said = _text(_cut(", ".join(lost), 40))
        yield f'<text class="lost" x="{RULE + 16}" y="{y + 25:.1f}">{said}</text>'


def _class(state: str) -> str:
    return state if state in STATES else "other"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"


def _text(text: str) -> str:
    """As text of the file; nothing in it can become markup."""
    return escape(printable(text))
